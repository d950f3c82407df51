// SPDX-License-Identifier: GPL-2.0

//! The cache manager's side: its reads, replies and downcalls, on a device of
//! its own.

use crate::faults::{Injector, Tally};
use coda_proto::{
    CreateOut, Fid, FidIn, FidOut, GetattrOut, InHdr, IoctlOut, LookupIn, LookupOut, MAXMSGSIZE,
    MOUNT_VERSION, MountData, Opcode, OpenByFdOut, OutHdr, PurgeuserOut, ReadlinkOut, ReplaceOut,
    RootOut, StatfsOut, Timespec, Vattr, name_at, vtype,
};
use coda_selftests::pioctl::pioctl;
use coda_selftests::sys::{self, Child, child};
use ktest::{Case, Context, Result, bail, ensure, ensure_eq, path_c};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::mount::{MntFlags, umount2};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::{Mode, stat};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::pipe;
use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

const DEVICE: &str = "/dev/cfs1";
const TIMEOUT: &str = "/proc/sys/coda/timeout";
const TARGET: &[u8] = b"target";

/// What an object is and which: its name is the letter and the number. There are
/// files (f), directories (d) and links (l), which are there, and new ones (n, m).
fn fid(kind: u8, number: u32) -> Fid {
    Fid([1, 2, kind.into(), number])
}

fn root() -> Fid {
    fid(b'd', 0)
}

fn attr(fid: Fid) -> Vattr {
    let (kind, mode) = match fid.0[2] as u8 {
        b'd' | b'm' => (vtype::DIR, 0o755),
        b'l' => (vtype::LNK, 0o777),
        _ => (vtype::REG, 0o644),
    };
    let now = Timespec { sec: 1, nsec: 0 };
    Vattr {
        kind,
        mode,
        nlink: 2,
        fileid: fid.inode_number().into(),
        size: TARGET.len() as u64,
        blocksize: 4096,
        atime: now,
        mtime: now,
        ctime: now,
        ..Vattr::default()
    }
}

fn parse<T: FromBytes + KnownLayout + Immutable>(request: &[u8]) -> Result<T> {
    let parsed = T::read_from_prefix(request);
    Ok(parsed
        .map_err(|_| ktest::anyhow!("a request of {} bytes", request.len()))?
        .0)
}

/// A reply, and the container that it names.
struct Reply {
    bytes: Vec<u8>,
    _container: Option<OwnedFd>,
}

/// A cache manager of a volume in which any name can be found.
struct Manager {
    fd: OwnedFd,
    mnt: PathBuf,
    container: PathBuf,
    /// The requests that were answered, with the fid in them.
    answered: Vec<(Opcode, Fid)>,
}

/// What is to fail.
#[derive(Clone, Copy, PartialEq)]
enum Fails {
    Nothing,
    /// The read of such a request.
    Read(Opcode),
    /// The write of the reply to it.
    Reply(Opcode),
}

/// Whether the allocation was reached, and the call failed.
type Came = Option<(bool, bool)>;

impl Manager {
    /// Opens the device; nothing is mounted yet.
    fn new() -> Result<Self> {
        let base = std::env::temp_dir().join(format!("nomem-{}", std::process::id()));
        let mnt = base.join("mnt");
        fs::create_dir_all(&mnt)?;
        let container = base.join("container");
        fs::write(&container, TARGET)?;
        Ok(Manager {
            fd: sys::open(Path::new(DEVICE), OFlag::O_RDWR)?,
            mnt,
            container,
            answered: Vec::new(),
        })
    }

    /// The same, with the mount.
    fn mounted() -> Result<Self> {
        let mut this = Manager::new()?;
        let mounter = this.mounter()?;
        this.serve(mounter, None)?;
        Ok(this)
    }

    fn mounter(&self) -> Result<Child> {
        let (device, target) = (self.fd.as_raw_fd(), path_c(&self.mnt));
        child(move |_| Ok(mount_coda(device, &target)?))
    }

    fn umount(&self) -> Result<()> {
        Ok(umount2(&self.mnt, MntFlags::empty())?)
    }

    /// The next request; `None` if there is none in a while.
    fn next(&self) -> Result<Option<()>> {
        let mut fds = [PollFd::new(self.fd.as_fd(), PollFlags::POLLIN)];
        Ok((poll(&mut fds, PollTimeout::from(5u8))? > 0).then_some(()))
    }

    fn reply_to(&self, request: &[u8]) -> Result<Reply> {
        let head: InHdr = parse(request)?;
        let oh = OutHdr {
            opcode: head.opcode,
            unique: head.unique,
            result: 0,
        };
        let number = |name: &[u8]| -> Result<Fid> {
            let digits = std::str::from_utf8(&name[1..])?;
            Ok(fid(name[0], digits.parse()?))
        };
        let name = |offset: i32| name_at(request, offset).context("no name");
        let mut container = None;
        let bytes = match Opcode(head.opcode) {
            Opcode::ROOT => RootOut { oh, fid: root() }.as_bytes().to_vec(),
            Opcode::GETATTR => {
                let attr = attr(parse::<FidIn>(request)?.fid);
                GetattrOut { oh, _pad: 0, attr }.as_bytes().to_vec()
            }
            Opcode::LOOKUP => match name(parse::<LookupIn>(request)?.name)? {
                // A new one is not there yet.
                [b'n' | b'm', ..] => {
                    let result = Errno::ENOENT as u32;
                    OutHdr { result, ..oh }.as_bytes().to_vec()
                }
                name => {
                    let fid = number(name)?;
                    let vtype = attr(fid).kind as u32;
                    LookupOut { oh, fid, vtype }.as_bytes().to_vec()
                }
            },
            op @ (Opcode::CREATE | Opcode::MKDIR) => {
                let fid = match op {
                    Opcode::CREATE => number(name(parse::<coda_proto::CreateIn>(request)?.name)?)?,
                    _ => number(name(parse::<coda_proto::MkdirIn>(request)?.name)?)?,
                };
                let out = CreateOut {
                    oh,
                    fid,
                    attr: attr(fid),
                    ..CreateOut::default()
                };
                out.as_bytes().to_vec()
            }
            Opcode::OPEN_BY_FD => {
                let file = sys::open(&self.container, OFlag::O_RDWR)?;
                let fd = container.insert(file).as_raw_fd();
                OpenByFdOut { oh, fd }.as_bytes().to_vec()
            }
            Opcode::READLINK => {
                let out = ReadlinkOut {
                    oh,
                    count: TARGET.len() as i32,
                    data: size_of::<ReadlinkOut>() as u64,
                };
                [out.as_bytes(), TARGET].concat()
            }
            Opcode::STATFS => {
                let out = StatfsOut {
                    oh,
                    blocks: 77,
                    ..StatfsOut::default()
                };
                out.as_bytes().to_vec()
            }
            Opcode::IOCTL => {
                let out = IoctlOut {
                    oh,
                    len: 4,
                    data: size_of::<IoctlOut>() as u64,
                };
                [out.as_bytes(), b"pong"].concat()
            }
            _ => oh.as_bytes().to_vec(),
        };
        Ok(Reply {
            bytes,
            _container: container,
        })
    }

    /// Serves a program until it ends, which has to be well: it must not notice
    /// anything. Tells what came of the call that is to fail.
    fn serve(&mut self, program: Child, fails: Option<(&Injector, u32, Fails)>) -> Result<Came> {
        let (injector, n, fails) = match fails {
            Some((injector, n, fails)) => (Some(injector), n, fails),
            None => (None, 0, Fails::Nothing),
        };
        let mut came = None;
        loop {
            if self.next()?.is_none() {
                match waitpid(program.pid, Some(WaitPidFlag::WNOHANG))? {
                    WaitStatus::StillAlive => continue,
                    WaitStatus::Exited(_, 0) => return Ok(came),
                    other => bail!("the program did not end well: {other:?}"),
                }
            }
            let mut buffer = [0; MAXMSGSIZE];
            let len = match (injector, fails, came) {
                // Which request it is shows when it has been read.
                (Some(injector), Fails::Read(op), None) => {
                    let (got, delivered) =
                        injector.with(n, || nix::unistd::read(&self.fd, &mut buffer))?;
                    let failed = got.is_err();
                    let len = match got {
                        Ok(len) => len,
                        Err(Errno::ENOMEM) => {
                            nix::unistd::read(&self.fd, &mut buffer).context("again")?
                        }
                        Err(error) => bail!("read gave {error}"),
                    };
                    if Opcode(parse::<InHdr>(&buffer)?.opcode) == op {
                        came = Some((delivered, failed));
                    }
                    len
                }
                _ => nix::unistd::read(&self.fd, &mut buffer)?,
            };
            let request = &buffer[..len];
            let op = Opcode(parse::<InHdr>(request)?.opcode);
            if matches!(op, Opcode::SIGNAL) {
                bail!("a request was given up");
            }
            let kind = parse::<coda_proto::AccessIntentIn>(request).map_or(0, |intent| intent.kind);
            if op == Opcode::ACCESS_INTENT && kind > coda_proto::intent::MMAP {
                continue;
            }
            let reply = self.reply_to(request)?;
            let full = Ok(reply.bytes.len());
            let write = || nix::unistd::write(&self.fd, &reply.bytes);
            let sent = match injector.filter(|_| fails == Fails::Reply(op) && came.is_none()) {
                Some(injector) => {
                    let (sent, delivered) = injector.with(n, write)?;
                    came = Some((delivered, sent.is_err()));
                    match sent {
                        // The request is still there: the reply can be sent again.
                        Err(Errno::ENOMEM) if delivered => write(),
                        other => other,
                    }
                }
                None => write(),
            };
            ensure_eq!(sent, full, "the reply to {op}");
            self.answered
                .push((op, parse::<FidIn>(request).map_or(root(), |m| m.fid)));
        }
    }

    fn downcall(&self, op: Opcode, n: u32) -> Vec<u8> {
        let oh = OutHdr {
            opcode: op.0,
            unique: 0,
            result: 0,
        };
        match op {
            Opcode::FLUSH => oh.as_bytes().to_vec(),
            Opcode::PURGEUSER => PurgeuserOut { oh, uid: 0 }.as_bytes().to_vec(),
            Opcode::ZAPDIR => FidOut { oh, fid: root() }.as_bytes().to_vec(),
            Opcode::REPLACE => {
                let (old, new) = (fid(b'f', n), fid(b'f', n + (1 << 20)));
                ReplaceOut { oh, new, old }.as_bytes().to_vec()
            }
            _ => {
                let fid = fid(b'f', n);
                FidOut { oh, fid }.as_bytes().to_vec()
            }
        }
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        let _ = umount2(&self.mnt, MntFlags::MNT_DETACH);
    }
}

fn mount_coda(device: i32, target: &std::ffi::CStr) -> Result<(), Errno> {
    let data = MountData {
        version: MOUNT_VERSION,
        fd: device,
    };
    // SAFETY: strings that end, and data of the size that the file system reads.
    let ret = unsafe {
        libc::mount(
            c"coda".as_ptr(),
            target.as_ptr(),
            c"coda".as_ptr(),
            0,
            data.as_bytes().as_ptr().cast(),
        )
    };
    sys::check(ret.into()).map(|_| ())
}

/// Does what makes the kernel send that request, on things that nobody has asked
/// for before.
fn provoke(mnt: &Path, op: Opcode, n: u32) -> Result<()> {
    let at = |letter: char| mnt.join(format!("{letter}{n}"));
    match op {
        Opcode::LOOKUP | Opcode::GETATTR => drop(stat(&at('f'))?),
        Opcode::ACCESS => nix::unistd::access(&at('f'), nix::unistd::AccessFlags::R_OK)?,
        Opcode::SETATTR => nix::unistd::truncate(&at('f'), 3)?,
        Opcode::CREATE => drop(sys::open(&at('n'), OFlag::O_CREAT | OFlag::O_WRONLY)?),
        Opcode::MKDIR => nix::unistd::mkdir(&at('m'), Mode::S_IRWXU)?,
        Opcode::REMOVE => nix::unistd::unlink(&at('f'))?,
        Opcode::RMDIR => fs::remove_dir(at('d'))?,
        Opcode::RENAME => fs::rename(at('f'), at('n'))?,
        Opcode::LINK => fs::hard_link(at('f'), at('n'))?,
        Opcode::SYMLINK => symlink("x", at('n'))?,
        Opcode::READLINK => ensure_eq!(fs::read_link(at('l'))?, Path::new("target")),
        Opcode::OPEN_BY_FD | Opcode::CLOSE => {
            ensure_eq!(fs::read(at('f'))?, TARGET);
        }
        Opcode::ACCESS_INTENT => {
            let fd = sys::open(&at('f'), OFlag::O_RDWR)?;
            ensure_eq!(nix::unistd::read(&fd, &mut [0; 6])?, 6);
        }
        Opcode::FSYNC => nix::unistd::fsync(&sys::open(&at('f'), OFlag::O_RDWR)?)?,
        Opcode::STATFS => ensure_eq!(nix::sys::statfs::statfs(mnt)?.blocks(), 77),
        Opcode::IOCTL => {
            let control = sys::open(&mnt.join(".CONTROL"), OFlag::O_RDONLY)?;
            let mut answer = [0; 4];
            pioctl(&control, &at('f'), b'V', 22, b"ping", &mut answer)?;
            ensure_eq!(&answer, b"pong");
        }
        other => bail!("{other}?"),
    }
    Ok(())
}

const REQUESTS: [(&str, Opcode); 18] = [
    ("lookup", Opcode::LOOKUP),
    ("getattr", Opcode::GETATTR),
    ("access", Opcode::ACCESS),
    ("setattr", Opcode::SETATTR),
    ("create", Opcode::CREATE),
    ("mkdir", Opcode::MKDIR),
    ("remove", Opcode::REMOVE),
    ("rmdir", Opcode::RMDIR),
    ("rename", Opcode::RENAME),
    ("link", Opcode::LINK),
    ("symlink", Opcode::SYMLINK),
    ("readlink", Opcode::READLINK),
    ("open_by_fd", Opcode::OPEN_BY_FD),
    ("close", Opcode::CLOSE),
    ("access_intent", Opcode::ACCESS_INTENT),
    ("fsync", Opcode::FSYNC),
    ("statfs", Opcode::STATFS),
    ("ioctl", Opcode::IOCTL),
];

fn case(
    name: String,
    what: &'static str,
    copes: Option<&'static str>,
    attempt: impl Fn(&Injector, u32) -> Result<(bool, bool)> + 'static,
) -> Case {
    let title = name.clone();
    Case::new(name, what, move |_| {
        let injector = Injector::new()?;
        Tally::of(copes, |_, n| attempt(&injector, n))?.conclude(&title, copes)
    })
    .seconds(60)
}

/// A case with a mount and a program in it.
fn served(
    name: String,
    what: &'static str,
    copes: Option<&'static str>,
    op: Opcode,
    fails: Fails,
) -> Case {
    let title = name.clone();
    Case::new(name, what, move |_| {
        let injector = Injector::new()?;
        let mut manager = Manager::mounted()?;
        let tally = Tally::of(copes, |_, n| {
            let mnt = manager.mnt.clone();
            let program = child(move |_| provoke(&mnt, op, n))?;
            let came = manager.serve(program, Some((&injector, n, fails)))?;
            came.with_context(|| format!("{op} was not asked"))
        })?;
        manager.umount()?;
        tally.conclude(&title, copes)
    })
    .seconds(60)
}

/// What shows that a downcall has been heeded: what is asked for next, and about
/// what.
fn effect(op: Opcode, n: u32) -> (Opcode, Fid) {
    match op {
        Opcode::FLUSH | Opcode::ZAPDIR | Opcode::PURGEFID => (Opcode::LOOKUP, root()),
        Opcode::PURGEUSER => (Opcode::ACCESS, root()),
        Opcode::ZAPFILE => (Opcode::GETATTR, fid(b'f', n)),
        _ => (Opcode::SETATTR, fid(b'f', n + (1 << 20))),
    }
}

/// Why what is written to the device is taken though an allocation fails.
const VMALLOC: &str = "where there are no pages in a row, pages from anywhere will do";

fn downcall(name: &'static str, op: Opcode) -> Case {
    let title = format!("downcall_{name}");
    Case::new(title.clone(), "a downcall", move |_| {
        let injector = Injector::new()?;
        let mut manager = Manager::mounted()?;
        let tally = Tally::of(Some(VMALLOC), |_, n| {
            let path = manager.mnt.join(format!("f{n}"));
            let look = move |path: &Path| {
                stat(path)?;
                // REPLACE shows in what is sent next.
                Ok(nix::unistd::truncate(path, 3)?)
            };
            let known = path.clone();
            manager.serve(child(move |_| look(&known))?, None)?;
            let message = manager.downcall(op, n);
            let write = || nix::unistd::write(&manager.fd, &message);
            let (sent, delivered) = injector.with(n, write)?;
            let again = match sent {
                Err(Errno::ENOMEM) if delivered => write(),
                other => other,
            };
            ensure_eq!(again, Ok(message.len()));
            manager.answered.clear();
            manager.serve(child(move |_| look(&path))?, None)?;
            let expected = effect(op, n);
            ensure!(
                manager.answered.contains(&expected),
                "it had no effect: {:?}",
                manager.answered
            );
            Ok((delivered, sent.is_err()))
        })?;
        manager.umount()?;
        tally.conclude(&title, Some(VMALLOC))
    })
    .seconds(60)
}

/// mount(2) in a process of its own, whose allocations fail; and again, if it does.
fn mounts(n: u32, call: impl Fn(&Manager) -> Result<(), Errno>) -> Result<(bool, bool)> {
    let mut manager = Manager::new()?;
    let (read, write) = pipe()?;
    let program = child(|_| {
        let injector = Injector::new()?;
        let (got, delivered) = injector.with(n, || call(&manager))?;
        let felt = match got {
            Ok(()) => 0,
            Err(Errno::ENOMEM) if delivered => {
                call(&manager).context("again")?;
                1
            }
            Err(error) => bail!("mount gave {error}"),
        };
        sys::write(&write, &[u8::from(delivered), felt])
    })?;
    manager.serve(program, None)?;
    let mut came = [0; 2];
    nix::unistd::read(&read, &mut came)?;
    ensure!(
        fs::read_to_string("/proc/mounts")?.contains(&*manager.mnt.to_string_lossy()),
        "it is not mounted"
    );
    manager.umount()?;
    Ok((came[0] != 0, came[1] != 0))
}

/// Mounts by the newer system calls.
fn mount_fd(manager: &Manager) -> Result<(), Errno> {
    const SET_FD: i32 = 5;
    const CREATE: i32 = 6;
    // SAFETY: strings that end, null where allowed, and numbers.
    unsafe {
        let context = sys::fd_from(libc::syscall(libc::SYS_fsopen, c"coda".as_ptr(), 0))?;
        let config = |command: i32, key: *const libc::c_char, fd: i32| {
            let null = std::ptr::null::<u8>();
            let context = context.as_raw_fd();
            sys::check(libc::syscall(
                libc::SYS_fsconfig,
                context,
                command,
                key,
                null,
                fd,
            ))
        };
        config(SET_FD, c"fd".as_ptr(), manager.fd.as_raw_fd())?;
        config(CREATE, std::ptr::null(), 0)?;
        let tree = sys::fd_from(libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), 0, 0))?;
        let target = path_c(&manager.mnt);
        const EMPTY_PATH: u32 = 4;
        sys::check(libc::syscall(
            libc::SYS_move_mount,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_FDCWD,
            target.as_ptr(),
            EMPTY_PATH,
        ))
        .map(|_| ())
    }
}

/// The cases.
pub fn cases() -> Vec<Case> {
    let mut cases = vec![
        case(
            "open".into(),
            "open(2) of the device",
            None,
            |injector, n| {
                let path = Path::new(DEVICE);
                let (fd, delivered) = injector.with(n, || sys::open(path, OFlag::O_RDWR))?;
                let felt = fd.is_err();
                let fd = match fd {
                    Err(Errno::ENOMEM) if delivered => {
                        sys::open(path, OFlag::O_RDWR).context("again")
                    }
                    other => Ok(other?),
                };
                sys::close(fd?)?;
                Ok((delivered, felt))
            },
        ),
        case("mount".into(), "mount(2)", None, |_, n| {
            mounts(n, |manager| {
                mount_coda(manager.fd.as_raw_fd(), &path_c(&manager.mnt))
            })
        }),
        case(
            "mount_fd".into(),
            "fsopen(2) and what follows it",
            None,
            |_, n| mounts(n, mount_fd),
        ),
        case("umount".into(), "umount(2)", None, |injector, n| {
            let manager = Manager::mounted()?;
            let (got, delivered) = injector.with(n, || umount2(&manager.mnt, MntFlags::empty()))?;
            match got {
                Err(Errno::ENOMEM) if delivered => manager.umount().context("again")?,
                other => other?,
            }
            Ok((delivered, got.is_err()))
        }),
        case(
            "sysctl".into(),
            "a write to a sysctl",
            None,
            |injector, n| {
                let before = fs::read_to_string(TIMEOUT)?;
                let file = sys::open(Path::new(TIMEOUT), OFlag::O_WRONLY)?;
                let (got, delivered) = injector.with(n, || nix::unistd::write(&file, b"31\n"))?;
                let set = fs::read_to_string(TIMEOUT)?;
                ensure_eq!(set != before, got.is_ok(), "it is {set}");
                fs::write(TIMEOUT, b"32").context("again")?;
                ensure_eq!(fs::read_to_string(TIMEOUT)?, "32\n");
                fs::write(TIMEOUT, before)?;
                ensure!(
                    got.is_ok() || got == Err(Errno::ENOMEM) && delivered,
                    "it gave {got:?}"
                );
                Ok((delivered, got.is_err()))
            },
        ),
    ];
    for (name, op) in REQUESTS {
        cases.push(served(
            format!("read_{name}"),
            "the read of a request",
            Some("it takes no memory"),
            op,
            Fails::Read(op),
        ));
        cases.push(served(
            format!("reply_{name}"),
            "the write of a reply",
            Some(VMALLOC),
            op,
            Fails::Reply(op),
        ));
    }
    for (name, op) in [
        ("flush", Opcode::FLUSH),
        ("purgeuser", Opcode::PURGEUSER),
        ("zapfile", Opcode::ZAPFILE),
        ("zapdir", Opcode::ZAPDIR),
        ("purgefid", Opcode::PURGEFID),
        ("replace", Opcode::REPLACE),
    ] {
        cases.push(downcall(name, op));
    }
    cases
}
