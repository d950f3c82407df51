// SPDX-License-Identifier: GPL-2.0

//! The device by itself, without anything mounted.

use coda_proto::{
    CIOC_KERNEL_VERSION, FidOut, KERNEL_VERSION, MAX_DEVICES, MOUNT_VERSION, MountData, Opcode,
    OutHdr, PSDEV_MAJOR, PurgeuserOut, ReplaceOut,
};
use coda_selftests::map::{Map, PAGE};
use coda_selftests::sys::{self, child, mount_coda};
use coda_selftests::uffd::Faults;
use ktest::{Case, Context, Result, bail, ensure, ensure_eq, skip};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::Signal;
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::{dup, pipe};
use rand::{Rng, SeedableRng};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use zerocopy::IntoBytes;

/// Opens a device as a cache manager does.
pub fn open(number: u32) -> Result<OwnedFd, Errno> {
    sys::open(Path::new(&format!("/dev/cfs{number}")), OFlag::O_RDWR)
}

fn mount_fd(fd: i32) -> Result<(), Errno> {
    let data = MountData {
        version: MOUNT_VERSION,
        fd,
    };
    mount_coda(Path::new("/mnt"), Some(&data))
}

fn ioctl(fd: &OwnedFd, request: u64, argument: *mut u32) -> Result<i64, Errno> {
    // SAFETY: the kernel checks the address, and writes at most a size_t.
    sys::check(unsafe { libc::ioctl(fd.as_raw_fd(), request as libc::Ioctl, argument) }.into())
}

fn ready(fd: &OwnedFd) -> Result<PollFlags> {
    let mut fds = [PollFd::new(fd.as_fd(), PollFlags::all())];
    poll(&mut fds, PollTimeout::ZERO)?;
    Ok(fds[0].revents().unwrap_or(PollFlags::empty()))
}

fn downcall(op: Opcode) -> OutHdr {
    OutHdr {
        opcode: op.0,
        unique: 0,
        result: 0,
    }
}

/// Opens the device in a process that has changed its namespaces.
fn open_unshared(flags: CloneFlags) -> Result<Option<Errno>> {
    let (read, write) = pipe()?;
    child(|_| {
        if unshare(flags).is_err() {
            return sys::write(&write, &0i32.to_ne_bytes());
        }
        // A new PID namespace is for children only.
        child(|_| {
            let error = open(0).err().map_or(-1, |e| e as i32);
            sys::write(&write, &error.to_ne_bytes())
        })?
        .succeed()
    })?
    .succeed()?;
    let mut number = [0; 4];
    nix::unistd::read(&read, &mut number)?;
    match i32::from_ne_bytes(number) {
        0 => skip!("namespaces cannot be had"),
        -1 => Ok(None),
        error => Ok(Some(Errno::from_raw(error))),
    }
}

/// The cases.
pub fn cases() -> Vec<Case> {
    vec![
        Case::new("open_twice", "a device has one owner", |_| {
            let first = open(0)?;
            ensure_eq!(open(0).err(), Some(Errno::EBUSY));
            let copy = dup(&first)?;
            sys::close(first)?;
            ensure_eq!(open(0).err(), Some(Errno::EBUSY), "a copy is still open");
            sys::close(copy)?;
            sys::close(open(0)?)?;
            Ok(())
        }),
        Case::new(
            "all_devices",
            "there are five, each with its own owner",
            |_| {
                let all: Result<Vec<_>, _> = (0..MAX_DEVICES).map(open).collect();
                ensure_eq!(all?.len(), 5);
                ensure_eq!(open(5).err(), Some(Errno::ENOENT));
                Ok(())
            },
        ),
        Case::new("no_sixth", "minor numbers beyond are no devices", |_| {
            let path = std::env::temp_dir().join("cfs-beyond");
            for minor in [5, 200, 255] {
                mknod(
                    &path,
                    SFlag::S_IFCHR,
                    Mode::S_IRUSR | Mode::S_IWUSR,
                    makedev(PSDEV_MAJOR.into(), minor),
                )?;
                let refused = sys::open(&path, OFlag::O_RDWR).err();
                nix::unistd::unlink(&path)?;
                ensure!(
                    matches!(refused, Some(Errno::ENODEV | Errno::ENXIO)),
                    "minor {minor}: {refused:?}"
                );
            }
            Ok(())
        }),
        Case::new("version", "CIOC_KERNEL_VERSION answers 5", |_| {
            let fd = open(0)?;
            let mut version = [0u32; 2];
            ensure_eq!(ioctl(&fd, CIOC_KERNEL_VERSION, version.as_mut_ptr())?, 0);
            ensure_eq!(version[0], KERNEL_VERSION);
            Ok(())
        }),
        Case::new("ioctl_errors", "other ioctls, and a bad address", |_| {
            let fd = open(0)?;
            let mut version = [0u32; 2];
            ensure_eq!(ioctl(&fd, 0x1234, version.as_mut_ptr()), Err(Errno::ENOTTY));
            let bad = std::ptr::without_provenance_mut(8);
            ensure_eq!(ioctl(&fd, CIOC_KERNEL_VERSION, bad), Err(Errno::EFAULT));
            Ok(())
        }),
        Case::new("read_nothing", "O_NONBLOCK, and a read of no bytes", |_| {
            let fd = sys::open(Path::new("/dev/cfs0"), OFlag::O_RDWR | OFlag::O_NONBLOCK)?;
            ensure_eq!(nix::unistd::read(&fd, &mut [0; 100]), Err(Errno::EAGAIN));
            ensure_eq!(nix::unistd::read(&fd, &mut [])?, 0);
            Ok(())
        }),
        Case::new(
            "read_is_killed",
            "a reader that waits can be killed",
            |_| {
                let mut kid = child(|teller| {
                    let fd = open(0)?;
                    teller.ready()?;
                    nix::unistd::read(&fd, &mut [0; 100])?;
                    bail!("there was something to read")
                })?;
                kid.wait_ready()?;
                std::thread::sleep(std::time::Duration::from_millis(50));
                kid.kill(Signal::SIGKILL)?;
                kid.die_of(Signal::SIGKILL)?;
                sys::close(open(0)?)?;
                Ok(())
            },
        ),
        Case::new(
            "slow_buffer",
            "fault 9: a reader whose buffer is slow is in nobody's way",
            |_| {
                let fd = open(0)?;
                let mounter = child(|_| {
                    let _ = mount_fd(fd.as_raw_fd());
                    Ok(())
                })?;
                ktest::wait_for("a message", ktest::patience(6), || {
                    Ok(ready(&fd)?.contains(PollFlags::POLLIN).then_some(()))
                })?;
                let mut reader = child(|teller| {
                    let buffer = Map::anonymous(PAGE)?;
                    let faults = Faults::of(&buffer)?;
                    ensure!(faults.is_some(), "no userfaultfd");
                    teller.ready()?;
                    // SAFETY: the kernel writes to memory of ours, were it there.
                    unsafe { libc::read(fd.as_raw_fd(), buffer.address().cast(), PAGE) };
                    bail!("the fault did not wait")
                })?;
                reader.wait_ready()?;
                std::thread::sleep(std::time::Duration::from_millis(200));
                let other = child(|_| ready(&fd).map(|_| ()))?.succeed_within(5);
                reader.kill(Signal::SIGKILL)?;
                reader.die_of(Signal::SIGKILL)?;
                mounter.kill(Signal::SIGKILL)?;
                mounter.end()?;
                other.context("poll(2) beside it")
            },
        )
        .tag("slow_buffer"),
        Case::new("poll_idle", "poll(2): writable, nothing to read", |_| {
            let got = ready(&open(0)?)?;
            ensure!(got.contains(PollFlags::POLLOUT), "{got:?}");
            ensure!(!got.contains(PollFlags::POLLIN), "{got:?}");
            Ok(())
        }),
        Case::new("write_garbage", "what is no message is refused", |_| {
            let fd = open(0)?;
            for len in 0..8 {
                ensure_eq!(
                    nix::unistd::write(&fd, &vec![0xff; len]),
                    Err(Errno::EINVAL),
                    "{len} bytes"
                );
            }
            ensure_eq!(
                sys::write_raw(&fd, std::ptr::without_provenance(8), 100),
                Err(Errno::EFAULT)
            );
            let reply = OutHdr {
                opcode: Opcode::GETATTR.0,
                unique: 4711,
                result: 0,
            };
            ensure_eq!(nix::unistd::write(&fd, reply.as_bytes()), Err(Errno::ESRCH));
            Ok(())
        }),
        Case::new(
            "write_random",
            "random bytes of random lengths do no harm",
            |_| {
                let fd = open(0)?;
                let mut random = rand::rngs::SmallRng::seed_from_u64(20010);
                for _ in 0..500 {
                    let len = random.random_range(0..400);
                    let mut bytes: Vec<u8> = (0..len).map(|_| random.random()).collect();
                    // Half of them are recognised as something.
                    if len > 4 && random.random() {
                        bytes[..4].copy_from_slice(&random.random_range(0u32..40).to_ne_bytes());
                    }
                    let _ = nix::unistd::write(&fd, &bytes);
                }
                let _ = nix::unistd::write(&fd, &vec![0x1b; 1 << 20]);
                ensure_eq!(nix::unistd::write(&fd, b"1234567"), Err(Errno::EINVAL));
                Ok(())
            },
        ),
        Case::new(
            "downcalls_unmounted",
            "downcalls are taken when nothing is mounted",
            |_| {
                let fd = open(0)?;
                let fid = coda_proto::Fid([1, 2, 3, 4]);
                sys::write(&fd, downcall(Opcode::FLUSH).as_bytes())?;
                sys::write(
                    &fd,
                    PurgeuserOut {
                        oh: downcall(Opcode::PURGEUSER),
                        uid: 0,
                    }
                    .as_bytes(),
                )?;
                for op in [Opcode::ZAPFILE, Opcode::ZAPDIR, Opcode::PURGEFID] {
                    let oh = downcall(op);
                    sys::write(&fd, FidOut { oh, fid }.as_bytes())?;
                }
                let oh = downcall(Opcode::REPLACE);
                let replace = ReplaceOut {
                    oh,
                    new: fid,
                    old: fid,
                };
                sys::write(&fd, replace.as_bytes())
            },
        ),
        Case::new(
            "downcalls_short",
            "downcalls that are cut off are refused",
            |_| {
                let fd = open(0)?;
                for op in [
                    Opcode::PURGEUSER,
                    Opcode::ZAPFILE,
                    Opcode::ZAPDIR,
                    Opcode::PURGEFID,
                    Opcode::REPLACE,
                ] {
                    let refused = nix::unistd::write(&fd, downcall(op).as_bytes());
                    ensure_eq!(refused, Err(Errno::EINVAL), "{op}");
                }
                Ok(())
            },
        ),
        Case::new("user_namespace", "not from another user namespace", |_| {
            ensure_eq!(
                open_unshared(CloneFlags::CLONE_NEWUSER)?,
                Some(Errno::EINVAL)
            );
            Ok(())
        }),
        Case::new("pid_namespace", "not from another PID namespace", |_| {
            ensure_eq!(
                open_unshared(CloneFlags::CLONE_NEWPID)?,
                Some(Errno::EINVAL)
            );
            Ok(())
        }),
        Case::new(
            "mount_nothing",
            "mount(2) without data, device, or the right version",
            |_| {
                ensure_eq!(
                    mount_coda(Path::new("/mnt"), None),
                    Err(Errno::EINVAL),
                    "no data"
                );
                let wrong = MountData {
                    version: MOUNT_VERSION + 1,
                    fd: 0,
                };
                ensure_eq!(
                    mount_coda(Path::new("/mnt"), Some(&wrong)),
                    Err(Errno::EINVAL),
                    "version"
                );
                // C takes the first device when there is none, and then finds
                // that nobody has it open.
                let refused = mount_fd(-1);
                ensure!(
                    matches!(refused, Err(Errno::EINVAL | Errno::EBADF)),
                    "no descriptor: {refused:?}"
                );
                Ok(())
            },
        ),
        Case::new(
            "mount_new_api_errors",
            "fsconfig(2) with what is no device",
            |_| {
                // SAFETY: strings that end.
                let context =
                    sys::fd_from(unsafe { libc::syscall(libc::SYS_fsopen, c"coda".as_ptr(), 0) })?;
                let config = |command: i32, key: &std::ffi::CStr, fd: i32| {
                    // SAFETY: a string that ends, and null where allowed.
                    sys::check(unsafe {
                        libc::syscall(
                            libc::SYS_fsconfig,
                            context.as_raw_fd(),
                            command,
                            key.as_ptr(),
                            std::ptr::null::<u8>(),
                            fd,
                        )
                    })
                };
                const SET_FD: i32 = 5;
                let null = sys::open(Path::new("/dev/null"), OFlag::O_RDWR)?;
                ensure_eq!(
                    config(SET_FD, c"fd", null.as_raw_fd()),
                    Err(Errno::EINVAL),
                    "/dev/null"
                );
                let file = sys::open(&std::env::current_exe()?, OFlag::O_RDONLY)?;
                ensure_eq!(
                    config(SET_FD, c"fd", file.as_raw_fd()),
                    Err(Errno::EINVAL),
                    "a file"
                );
                ensure_eq!(config(SET_FD, c"fd", 9999), Err(Errno::EBADF), "nothing");
                ensure_eq!(
                    config(SET_FD, c"wrong", null.as_raw_fd()),
                    Err(Errno::EINVAL),
                    "no such option"
                );
                Ok(())
            },
        ),
        Case::new(
            "closed_while_mounting",
            "mount(2) whose cache manager goes away fails",
            |_| {
                let fd = open(0)?;
                let kid = child(|_| {
                    let refused = mount_fd(fd.as_raw_fd());
                    ensure!(refused.is_err(), "it was mounted");
                    Ok(())
                })?;
                // Its first question comes, and we leave without an answer.
                let mut request = [0; 1000];
                let n = nix::unistd::read(&fd, &mut request)?;
                ensure!(n >= 20 && request[0] == 2, "not CODA_ROOT");
                // The child has the device open as well, until it ends.
                kid.kill(Signal::SIGKILL)?;
                kid.die_of(Signal::SIGKILL)?;
                sys::close(fd)?;
                sys::close(open(0)?)?;
                Ok(())
            },
        ),
        Case::new("poll_ready", "poll(2) when there is a request", |_| {
            let fd = open(0)?;
            let kid = child(|_| {
                let _ = mount_fd(fd.as_raw_fd());
                Ok(())
            })?;
            let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
            ensure_eq!(poll(&mut fds, PollTimeout::from(5000u16))?, 1);
            let mut request = [0; 1000];
            let n = nix::unistd::read(&fd, &mut request)?;
            ensure!(n >= 20, "{n} bytes");
            ensure!(!ready(&fd)?.contains(PollFlags::POLLIN), "it was taken");
            let answer = OutHdr {
                opcode: Opcode::ROOT.0,
                unique: u32::from_ne_bytes(request[4..8].try_into()?),
                result: Errno::EIO as u32,
            };
            sys::write(&fd, answer.as_bytes())?;
            kid.succeed()
        }),
    ]
}
