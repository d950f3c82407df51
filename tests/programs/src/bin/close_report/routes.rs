// SPDX-License-Identifier: GPL-2.0

//! Less travelled roads: by which a file may change, or seem to.

use crate::case::{CloseCase as C, RO, RW_CLEAN, RW_DIRTY, T, Verdict, WO_CLEAN, WO_DIRTY};
use crate::maps::on_fd as open;
use coda_selftests::aio::Pinned;
use coda_selftests::map::{Map, PAGE};
use coda_selftests::nfs::LateFile;
use coda_selftests::sys::{self, check, child};
use ktest::{Context, Result, bail, ensure, ensure_eq, path_c, run_to_end, skip};
use libc::{MAP_PRIVATE, MAP_SHARED, PROT_NONE, PROT_READ, PROT_WRITE};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};
use nix::sys::signal::Signal;
use nix::sys::uio::{self, RemoteIoVec, process_vm_readv};
use nix::sys::wait::WaitStatus;
use std::fs;
use std::io::{IoSliceMut, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Something is done with a shared mapping of all four pages.
fn mapped(
    name: &'static str,
    verdict: Verdict,
    what: &'static str,
    act: impl Fn(&T<'_>, &Map) -> Result<()> + 'static,
) -> C {
    let case = open(name, verdict, what, move |t, fd| {
        let map = Map::shared(fd, 4 * PAGE).context("mmap")?;
        act(t, &map)
    });
    match verdict {
        Verdict::Modified => case.mmap_store(),
        _ => case,
    }
}

/// Whether the file is changed depends on the container's file system: the close
/// has to agree with what came of it.
fn as_it_turns_out(
    name: &'static str,
    what: &'static str,
    act: impl Fn(&T<'_>, &OwnedFd) -> Result<()> + 'static,
) -> C {
    C::new(name, Verdict::Either, what, move |t| {
        t.make_default()?;
        // With a close that says so, C has to fail whatever comes.
        sys::close(t.rw()?)?;
        let before = t.contents()?;
        let fd = t.rw()?;
        act(t, &fd)?;
        sys::close(fd)?;
        let changed = before != t.contents()?;
        t.expect(&[RW_CLEAN, if changed { RW_DIRTY } else { RW_CLEAN }])
    })
}

/// ioctl(2) with a structure for argument.
fn ioctl<A>(fd: &OwnedFd, request: u64, argument: &mut A) -> Result<i64, Errno> {
    // SAFETY: the caller pairs requests with what they read and write.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), request as libc::Ioctl, argument) }.into())
}

/// The refusals by which a file system says that it has no such thing.
fn is_no_such_thing(e: Errno) -> bool {
    matches!(
        e,
        Errno::ENOTTY | Errno::EOPNOTSUPP | Errno::EXDEV | Errno::EINVAL | Errno::EPERM
    )
}

/// A program, found as a shell would.
fn program(name: &str) -> Result<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    let found = path.split(':').map(|d| Path::new(d).join(name));
    match found.into_iter().find(|p| p.exists()) {
        Some(path) => Ok(path),
        None => skip!("the guest has no {name}"),
    }
}

/// A file of the process's own, elsewhere.
fn elsewhere(t: &T<'_>) -> PathBuf {
    std::env::temp_dir().join(format!("elsewhere-{}", t.file))
}

/// A block device over a file, gone with its value.
struct Loop(PathBuf);

impl Loop {
    fn over(path: &Path, options: &[&str]) -> Result<Self> {
        let _ = Command::new("modprobe").args(["-q", "loop"]).status();
        let output = Command::new(program("losetup")?)
            .args(["--show", "--find"])
            .args(options)
            .arg(path)
            .output()?;
        if !output.status.success() {
            let why = String::from_utf8_lossy(&output.stderr);
            bail!("losetup: {}", why.trim());
        }
        Ok(Loop(String::from_utf8(output.stdout)?.trim().into()))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup")
            .arg("--detach")
            .arg(&self.0)
            .status();
    }
}

/// Sets a file of /proc for as long as the value lives.
struct Setting(&'static str, String);

impl Setting {
    fn set(path: &'static str, value: &str) -> Result<Self> {
        let old = fs::read_to_string(path).with_context(|| path.to_owned())?;
        fs::write(path, value).with_context(|| path.to_owned())?;
        Ok(Setting(path, old))
    }
}

impl Drop for Setting {
    fn drop(&mut self) {
        let _ = fs::write(self.0, self.1.trim());
    }
}

/// futex(2), by other processes' memory as well.
fn futex(address: *mut u8, operation: i32, value: u32) -> Result<i64, Errno> {
    // SAFETY: the kernel checks the address; these operations do not write.
    check(unsafe {
        libc::syscall(
            libc::SYS_futex,
            address,
            operation,
            value,
            std::ptr::null::<libc::timespec>(),
        )
    })
}

fn modifying() -> Vec<C> {
    use Verdict::{Both, Modified};
    vec![
        // ext4 and tmpfs find out that there is nothing to write when the file
        // is longer already.
        as_it_turns_out(
            "write_efault_beyond",
            "write(2) from a bad address beyond the end",
            |_, fd| {
                sys::seek(fd, 9000, libc::SEEK_SET)?;
                let refused = sys::write_raw(fd, std::ptr::without_provenance(8), 10);
                ensure_eq!(refused, Err(Errno::EFAULT));
                Ok(())
            },
        )
        .core(),
        as_it_turns_out(
            "pwritev2_efault_beyond",
            "the same with RWF_DSYNC, and across a page",
            |t, fd| {
                let map = Map::anonymous(2 * PAGE)?;
                map.punch(1, 1)?;
                // SAFETY: the second half is not there, and the kernel says so.
                let bytes = unsafe { std::slice::from_raw_parts(map.address().add(PAGE), 100) };
                let refused = sys::pwritev2(fd, bytes, 3 * PAGE as i64 - 50, libc::RWF_DSYNC);
                ensure_eq!(refused, Err(Errno::EFAULT));
                // A synchronous write that fails is in doubt; so that there is none:
                if t.contents()?.len() == 100 {
                    sys::write(fd, b"written")?;
                }
                Ok(())
            },
        ),
        // btrfs writes all or nothing.
        as_it_turns_out(
            "partial_efault",
            "write(2) that runs into a bad page",
            |_, fd| {
                let map = Map::anonymous(2 * PAGE)?;
                map.store(0, 1);
                map.punch(1, 1)?;
                // SAFETY: only an address; the kernel finds out what is there.
                let start = unsafe { map.address().add(PAGE - 100) };
                match sys::write_raw(fd, start, 200) {
                    Ok(100) => (),
                    // It leaves in doubt what was copied; so that there is none:
                    Err(Errno::EFAULT) => sys::write(fd, b"written")?,
                    other => bail!("write: {other:?}"),
                }
                Ok(())
            },
        ),
        C::new(
            "insert_range_refused",
            Both,
            "fallocate(2), FALLOC_FL_INSERT_RANGE that finds no room at the far end",
            |t| {
                t.make_pages(4)?;
                sys::close(t.rw()?)?;
                let fd = t.rw()?;
                // The last block that an extent of ext4 can have.
                let last = 0xffff_fffd * PAGE as i64;
                let far = sys::fallocate(&fd, libc::FALLOC_FL_KEEP_SIZE, last, PAGE as i64);
                sys::close(fd)?;
                if far.is_err() {
                    skip!("no block so far away: {far:?}");
                }
                let before = t.contents()?.len();
                let fd = t.rw()?;
                let done = sys::fallocate(&fd, libc::FALLOC_FL_INSERT_RANGE, 0, 4 * PAGE as i64);
                sys::close(fd)?;
                let changed = done.is_ok() || t.contents()?.len() != before;
                println!("# {done:?}, from {before} to {} bytes", t.contents()?.len());
                t.expect(&[
                    RW_CLEAN,
                    RW_DIRTY,
                    if changed { RW_DIRTY } else { RW_CLEAN },
                ])
            },
        ),
        open(
            "ioctl_resvsp",
            Modified,
            "ioctl(2), FS_IOC_ZERO_RANGE",
            |t, fd| {
                // _IOW('X', 57, struct space_resv): type, whence, start, length.
                const ZERO_RANGE: u64 = 0x4030_5839;
                let mut range = [0u64, 0, 2 * PAGE as u64, 0, 0, 0];
                range[1] = PAGE as u64;
                match ioctl(fd, ZERO_RANGE, &mut range) {
                    Ok(_) => (),
                    Err(e) if is_no_such_thing(e) => skip!("the container has none: {e}"),
                    Err(e) => bail!("FS_IOC_ZERO_RANGE: {e}"),
                }
                let got = t.contents()?;
                ensure_eq!((got[PAGE], got[0]), (0, b'o'));
                Ok(())
            },
        )
        .tag("ioctl_resvsp"),
        mapped(
            "map_vmsplice_into",
            Modified,
            "vmsplice(2) from a pipe into the mapping",
            |t, map| {
                let pipe = sys::pipe_with(b"spliced")?;
                let piece = libc::iovec {
                    iov_base: map.address().cast(),
                    iov_len: 7,
                };
                // SAFETY: the kernel writes seven bytes of the mapping.
                let n = unsafe { libc::vmsplice(pipe.as_raw_fd(), &piece, 1, 0) };
                ensure_eq!(check(n as i64)?, 7);
                ensure_eq!(&t.contents()?[..7], b"spliced");
                Ok(())
            },
        ),
        mapped(
            "map_doubled_store",
            Modified,
            "mremap(2) of no length makes a second mapping; store to it",
            |t, map| {
                let copy = map.double()?;
                copy.store(PAGE, b'd');
                ensure_eq!(t.contents()?[PAGE], b'd');
                Ok(())
            },
        ),
        mapped(
            "map_guard_fork_store",
            Modified,
            "guard pages, so that fork(2) copies page tables; the child stores",
            |t, map| {
                const MADV_GUARD_INSTALL: i32 = 102;
                map.load(0);
                match map.advise_pages(3, 1, MADV_GUARD_INSTALL) {
                    Err(Errno::EINVAL) => skip!("no guard pages of files"),
                    other => other?,
                }
                child(|_| {
                    map.store(PAGE, b'g');
                    Ok(())
                })?
                .succeed()?;
                ensure_eq!(t.contents()?[PAGE], b'g');
                Ok(())
            },
        ),
        // The kernel wants to write to the page, and does not.
        mapped(
            "map_futex_shared",
            Modified,
            "futex(2), FUTEX_WAKE of a word that processes share",
            |_, map| {
                ensure_eq!(futex(map.address(), libc::FUTEX_WAKE, 1)?, 0);
                Ok(())
            },
        ),
        C::new(
            "map_map_files",
            Modified,
            "/proc/PID/map_files of the mapping, opened and written to",
            |t| {
                t.make_pages(4)?;
                let fd = t.rw()?;
                let map = Map::shared(&fd, 4 * PAGE)?;
                sys::close(fd)?;
                let start = map.address() as usize;
                let link = format!("/proc/self/map_files/{start:x}-{:x}", start + map.len());
                if !Path::new("/proc/self/map_files").exists() {
                    skip!("the kernel has no /proc/PID/map_files");
                }
                let file = fs::File::options().write(true).open(link)?;
                file.write_all_at(b"by the back door", 0)?;
                drop(file);
                drop(map);
                t.expect(&[WO_DIRTY, RW_DIRTY])
            },
        )
        .tag("maps_path"),
        C::new(
            "map_pinned",
            Both,
            "pages that stay pinned: written when the file is closed, and open again",
            |t| {
                t.make_pages(4)?;
                sys::close(t.rw()?)?;
                let fd = t.rw()?;
                let map = Map::shared(&fd, 4 * PAGE)?;
                map.store(0, b'm');
                // SAFETY: nobody touches that memory but by the ring, and a test
                // that the kernel may write to it.
                let pinned = unsafe { Pinned::new(map.address(), PAGE) }?;
                let Some(mut pinned) = pinned else {
                    // Where the kernel does not let files of the container be
                    // pinned for writing, nothing can happen.
                    drop(map);
                    sys::close(fd)?;
                    sys::close(t.rw()?)?;
                    return t.expect(&[RW_CLEAN, RW_DIRTY, RW_CLEAN]);
                };
                drop(map);
                sys::close(fd)?;
                let fd = t.rw()?;
                pinned.read(&sys::pipe_with(b"late")?, 4)?;
                sys::close(fd)?;
                ensure_eq!(&t.contents()?[..4], b"late");
                drop(pinned);
                t.expect(&[RW_CLEAN, RW_DIRTY, RW_DIRTY])
            },
        )
        .mmap_store()
        .core(),
        C::new(
            "map_nfs_read",
            Both,
            "a direct read from NFS into a mapping, answered when the file is closed and open again",
            |t| {
                t.make_pages(4)?;
                sys::close(t.rw()?)?;
                let Some(late) = LateFile::mount(&[b'l'; PAGE])? else {
                    skip!("the kernel has no NFS");
                };
                let source = sys::open(&late.path(), OFlag::O_RDONLY | OFlag::O_DIRECT)?;
                let fd = t.rw()?;
                let map = Map::shared(&fd, 4 * PAGE)?;
                let to = map.address() as usize;
                std::thread::scope(|scope| {
                    // SAFETY: nobody uses that memory, and a test that the kernel
                    // may write to it, or find nothing there.
                    let reader = scope.spawn(|| unsafe {
                        libc::pread(source.as_raw_fd(), to as *mut _, PAGE, 0)
                    });
                    late.wait_until_asked()?;
                    drop(map);
                    sys::close(fd)?;
                    let fd = t.rw()?;
                    ensure_eq!(t.contents()?[0], b'o', "answered before the answer");
                    late.answer();
                    let read = reader.join().ok().context("the reader")?;
                    ensure_eq!(read, PAGE as isize, "{}", Errno::last());
                    sys::close(fd)?;
                    ensure_eq!(t.contents()?[..PAGE], [b'l'; PAGE]);
                    t.expect(&[RW_CLEAN, RW_DIRTY, RW_DIRTY])
                })
            },
        )
        .mmap_store()
        .seconds(40),
        C::new(
            "map_vmsplice",
            Modified,
            "pages that a pipe holds: nobody can tell that it does not write to them",
            |t| {
                t.make_pages(4)?;
                let fd = t.rw()?;
                let map = Map::shared(&fd, 4 * PAGE)?;
                map.store(0, b'm');
                let (reader, writer) = nix::unistd::pipe()?;
                let page = libc::iovec {
                    iov_base: map.address().cast(),
                    iov_len: PAGE,
                };
                // SAFETY: the mapping is there, and nobody uses what is in it.
                let given = unsafe { libc::vmsplice(writer.as_raw_fd(), &page, 1, 0) };
                ensure_eq!(given, PAGE as isize, "{}", Errno::last());
                drop(map);
                sys::close(fd)?;
                drop((reader, writer));
                sys::close(t.rw()?)?;
                t.expect(&[RW_DIRTY, RW_DIRTY])
            },
        )
        .mmap_store(),
        C::new(
            "loop_written",
            Modified,
            "a loop device over it, written to",
            |t| {
                t.make_pages(16)?;
                let device = Loop::over(&t.path, &[])?;
                t.learn()?;
                let mut block = fs::File::options().write(true).open(&device.0)?;
                block.write_all(&[b'l'; PAGE])?;
                block.sync_all()?;
                drop(block);
                drop(device);
                ensure_eq!(t.contents()?[PAGE - 1], b'l');
                t.expect(&[RW_DIRTY])
            },
        ),
        C::new(
            "accounting",
            Both,
            "acct(2): the kernel writes to it by itself",
            |t| {
                t.make(b"")?;
                let path = path_c(&t.path);
                // SAFETY: a string that ends.
                match check(unsafe { libc::acct(path.as_ptr()) }.into()) {
                    Err(Errno::ENOSYS) => skip!("the kernel has no accounting"),
                    other => other?,
                };
                t.learn()?;
                let done = child(|_| Ok(()))?.succeed();
                // SAFETY: null turns it off.
                check(unsafe { libc::acct(std::ptr::null()) }.into())?;
                done?;
                ensure!(!t.contents()?.is_empty(), "nothing was accounted");
                // Looked at with one open, written with another.
                t.expect_one_of(&[&[WO_CLEAN, WO_DIRTY], &[WO_DIRTY]])
            },
        ),
        C::new("core_dump_into", Modified, "a core dump into it", |t| {
            let _pattern = Setting::set(
                "/proc/sys/kernel/core_pattern",
                &t.path.display().to_string(),
            )?;
            let _plain = Setting::set("/proc/sys/kernel/core_uses_pid", "0")?;
            let kid = child(|_| {
                setrlimit(Resource::RLIMIT_CORE, RLIM_INFINITY, RLIM_INFINITY)?;
                Ok(nix::sys::signal::raise(Signal::SIGABRT)?)
            })?;
            match kid.end()? {
                WaitStatus::Signaled(_, Signal::SIGABRT, true) => (),
                other => bail!("no core: {other:?}"),
            }
            t.learn()?;
            ensure_eq!(&t.contents()?[..4], b"\x7fELF");
            t.expect_one_of(&[&[WO_DIRTY], &[RW_DIRTY]])
        })
        .seconds(40),
    ]
}

fn innocent() -> Vec<C> {
    use Verdict::{Both, Clean, NoWriter};
    vec![
        // What the kernel must refuse, or whatever changes the file goes past us.
        C::new("swapon", Clean, "swapon(2) is refused", |t| {
            let mut header = vec![0; 10 * PAGE];
            header[PAGE - 10..PAGE].copy_from_slice(b"SWAPSPACE2");
            header[1024] = 1;
            header[1028] = 9;
            t.make(&header)?;
            let path = path_c(&t.path);
            // SAFETY: a string that ends.
            match check(unsafe { libc::swapon(path.as_ptr(), 0) }.into()) {
                Err(Errno::ENOSYS) => skip!("the kernel does not swap"),
                Err(Errno::EINVAL) => t.expect(&[RW_CLEAN]),
                other => bail!("swapon: {other:?}"),
            }
        }),
        open(
            "clone_refused",
            Clean,
            "FICLONE and FICLONERANGE into it, FIDEDUPERANGE",
            |t, fd| {
                let path = t.path.with_extension("source");
                fs::write(&path, vec![b's'; 4 * PAGE])?;
                let from = sys::open(&path, OFlag::O_RDWR)?;
                const FICLONE: libc::c_ulong = 0x4004_9409;
                // SAFETY: a number is all that it takes.
                let clone = unsafe {
                    libc::ioctl(fd.as_raw_fd(), FICLONE as libc::Ioctl, from.as_raw_fd())
                };
                match check(clone.into()) {
                    Err(e) if is_no_such_thing(e) => (),
                    other => bail!("FICLONE: {other:?}"),
                }
                const FICLONERANGE: u64 = 0x4020_940d;
                let mut range = [from.as_raw_fd() as u64, 0, PAGE as u64, 0];
                match ioctl(fd, FICLONERANGE, &mut range) {
                    Err(e) if is_no_such_thing(e) => (),
                    other => bail!("FICLONERANGE: {other:?}"),
                }
                const FIDEDUPERANGE: u64 = 0xc018_9436;
                // Offset, length, count; descriptor, offset, bytes, status.
                let mut same = [0u64, PAGE as u64, 1, fd.as_raw_fd() as u64, 0, 0, 0];
                let asked = ioctl(&from, FIDEDUPERANGE, &mut same);
                ensure!(
                    asked.is_err() || (same[6] as i32) < 0,
                    "FIDEDUPERANGE went through"
                );
                ensure_eq!(t.contents()?[0], b'o');
                fs::remove_file(path)?;
                Ok(())
            },
        ),
        open(
            "ioctls_refused",
            Clean,
            "ioctls of the container's file systems",
            |_, fd| {
                // FS_IOC_SETFLAGS, FS_IOC_FSSETXATTR, EXT4_IOC_MOVE_EXT,
                // BTRFS_IOC_CLONE, XFS_IOC_FREESP64, FS_IOC_ENABLE_VERITY.
                for request in [
                    0x4008_6602,
                    0x401c_5820,
                    0xc028_660f,
                    0x4004_9409,
                    0x4030_580b,
                    0x4080_6685,
                ] {
                    match ioctl(fd, request, &mut [0u64; 32]) {
                        Err(e) if is_no_such_thing(e) || e == Errno::EBADF => (),
                        other => bail!("{request:#x}: {other:?}"),
                    }
                }
                Ok(())
            },
        ),
        open(
            "handle_refused",
            Clean,
            "name_to_handle_at(2): no way to open it by a handle",
            |t, _| {
                let path = path_c(&t.path);
                let mut handle = [0u32; 34];
                handle[0] = 128;
                let mut mount = 0i32;
                // SAFETY: there is as much room as the handle says.
                let named = check(unsafe {
                    libc::syscall(
                        libc::SYS_name_to_handle_at,
                        libc::AT_FDCWD,
                        path.as_ptr(),
                        &raw mut handle,
                        &raw mut mount,
                        0,
                    )
                });
                match named {
                    Err(Errno::EOPNOTSUPP) => Ok(()),
                    other => bail!("name_to_handle_at: {other:?}"),
                }
            },
        ),
        open(
            "attributes_of_others",
            Clean,
            "extended attributes, holes and extents looked at",
            |_, fd| {
                let name = c"user.coda";
                // SAFETY: strings that end, and a length.
                let set = unsafe {
                    libc::fsetxattr(fd.as_raw_fd(), name.as_ptr(), name.as_ptr().cast(), 4, 0)
                };
                ensure_eq!(check(set.into()), Err(Errno::EOPNOTSUPP));
                sys::seek(fd, 0, libc::SEEK_DATA)?;
                sys::seek(fd, 0, libc::SEEK_HOLE)?;
                const FIEMAP: u64 = 0xc020_660b;
                let _ = ioctl(fd, FIEMAP, &mut [0u64, u64::MAX, 0, 0]);
                Ok(())
            },
        ),
        // Mappings of all kinds, looked at in all ways.
        open(
            "map_flags",
            Clean,
            "MAP_NORESERVE, MAP_LOCKED, MAP_NONBLOCK, MAP_POPULATE, loads",
            |_, fd| {
                for flags in [
                    libc::MAP_NORESERVE,
                    libc::MAP_LOCKED,
                    libc::MAP_POPULATE | libc::MAP_NONBLOCK,
                    libc::MAP_POPULATE,
                ] {
                    let map = Map::new(fd, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | flags)?;
                    (0..4).for_each(|page| ensure_load(&map, page));
                }
                Map::new(fd, 4 * PAGE, PROT_NONE, MAP_SHARED)?;
                Ok(())
            },
        )
        .core(),
        mapped(
            "map_mlock_onfault",
            Clean,
            "mlock2(2), mlockall(2), munlock(2)",
            |_, map| {
                // SAFETY: the range is a mapping of ours.
                check(unsafe {
                    libc::syscall(
                        libc::SYS_mlock2,
                        map.address(),
                        map.len(),
                        1, /* ONFAULT */
                    )
                })?;
                (0..4).for_each(|page| ensure_load(map, page));
                // SAFETY: numbers only.
                check(unsafe { libc::mlockall(libc::MCL_CURRENT) }.into())?;
                // SAFETY: as above.
                check(unsafe { libc::munlockall() }.into())?;
                Ok(())
            },
        ),
        mapped(
            "map_advice",
            Clean,
            "madvise(2): all advice that neither frees nor writes",
            |_, map| {
                const POPULATE_READ: i32 = 22;
                const COLLAPSE: i32 = 25;
                const GUARD_INSTALL: i32 = 102;
                const GUARD_REMOVE: i32 = 103;
                for advice in [
                    libc::MADV_NORMAL,
                    libc::MADV_RANDOM,
                    libc::MADV_SEQUENTIAL,
                    libc::MADV_WILLNEED,
                    libc::MADV_DONTFORK,
                    libc::MADV_DOFORK,
                    libc::MADV_DONTDUMP,
                    libc::MADV_DODUMP,
                    libc::MADV_MERGEABLE,
                    libc::MADV_UNMERGEABLE,
                    libc::MADV_HUGEPAGE,
                    libc::MADV_NOHUGEPAGE,
                    libc::MADV_FREE,
                    POPULATE_READ,
                    COLLAPSE,
                    libc::MADV_COLD,
                    libc::MADV_PAGEOUT,
                    libc::MADV_DONTNEED,
                    GUARD_INSTALL,
                    GUARD_REMOVE,
                ] {
                    // Not every kernel has all, nor for such a mapping.
                    let _ = map.advise(advice);
                    if advice != GUARD_INSTALL {
                        (0..4).for_each(|page| ensure_load(map, page));
                    }
                }
                Ok(())
            },
        )
        .core(),
        mapped(
            "map_populate_write_refused",
            Clean,
            "MADV_POPULATE_WRITE of a mapping that is not writable",
            |_, map| {
                map.protect(PROT_READ)?;
                const POPULATE_WRITE: i32 = 23;
                ensure!(map.advise(POPULATE_WRITE).is_err(), "it went through");
                map.protect(PROT_READ | PROT_WRITE)?;
                Ok(())
            },
        ),
        mapped(
            "map_protections",
            Clean,
            "mprotect(2) there and back, loads between",
            |_, map| {
                for prot in [
                    PROT_READ,
                    PROT_READ | PROT_WRITE,
                    PROT_NONE,
                    PROT_READ | PROT_WRITE,
                    PROT_READ | libc::PROT_EXEC,
                    PROT_READ | PROT_WRITE,
                ] {
                    map.protect(prot)?;
                    if prot & PROT_READ != 0 {
                        (0..4).for_each(|page| ensure_load(map, page));
                    }
                }
                Ok(())
            },
        )
        .core(),
        mapped(
            "map_moved",
            Clean,
            "mremap(2): moved, doubled, made shorter and longer; loads",
            |_, map| {
                let mut copy = map.double()?;
                copy.remap(2 * PAGE)?;
                copy.remap(64 * PAGE)?;
                ensure_load(&copy, 3);
                Ok(())
            },
        ),
        mapped(
            "map_remap_file_pages_read",
            Clean,
            "remap_file_pages(2) of what is there already",
            |_, map| {
                // SAFETY: the range is a mapping of ours.
                let done = check(unsafe {
                    libc::syscall(libc::SYS_remap_file_pages, map.address(), PAGE, 0, 2, 0)
                });
                if done == Err(Errno::ENOSYS) {
                    skip!("the kernel has no remap_file_pages");
                }
                done?;
                ensure_load(map, 0);
                Ok(())
            },
        ),
        mapped(
            "map_write_from",
            Clean,
            "write(2), O_DIRECT write, vmsplice(2), process_vm_readv(2) from it",
            |t, map| {
                let path = elsewhere(t);
                let out = sys::open(&path, OFlag::O_RDWR | OFlag::O_CREAT)?;
                // SAFETY: the mapping is there, and only read.
                let bytes = unsafe { std::slice::from_raw_parts(map.address(), map.len()) };
                sys::write(&out, bytes)?;
                let beside = t.container.with_extension("direct");
                let direct = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_DIRECT;
                if let Ok(out) = sys::open(&beside, direct) {
                    sys::write(&out, bytes)?;
                }
                let _ = fs::remove_file(beside);
                let (_read, write) = nix::unistd::pipe()?;
                let piece = libc::iovec {
                    iov_base: map.address().cast(),
                    iov_len: PAGE,
                };
                const GIFT: u32 = 8;
                // SAFETY: the mapping outlives the pipe.
                let n = unsafe { libc::vmsplice(write.as_raw_fd(), &piece, 1, GIFT) };
                ensure_eq!(check(n as i64)?, PAGE as i64);
                let mut copy = [0; 8];
                let remote = RemoteIoVec {
                    base: map.address() as usize,
                    len: 8,
                };
                let pid = nix::unistd::getpid();
                ensure_eq!(
                    process_vm_readv(pid, &mut [IoSliceMut::new(&mut copy)], &[remote])?,
                    8
                );
                fs::remove_file(path)?;
                Ok(())
            },
        )
        .core(),
        mapped(
            "map_read_nothing_into",
            Clean,
            "read(2) into it, of nothing: at the end, from an empty pipe, a bad file",
            |t, map| {
                let path = elsewhere(t);
                fs::write(&path, b"")?;
                let empty = sys::open(&path, OFlag::O_RDONLY)?;
                let (pipe, writer) = nix::unistd::pipe()?;
                drop(writer);
                for fd in [empty.as_raw_fd(), pipe.as_raw_fd()] {
                    // SAFETY: the kernel may write to the mapping.
                    let n = unsafe { libc::read(fd, map.address().cast(), PAGE) };
                    ensure_eq!(check(n as i64)?, 0);
                }
                // SAFETY: as above.
                let n = unsafe { libc::read(-1, map.address().cast(), PAGE) };
                ensure_eq!(check(n as i64), Err(Errno::EBADF));
                fs::remove_file(path)?;
                Ok(())
            },
        ),
        mapped(
            "map_futex_private",
            Clean,
            "futex(2) of a word that one process alone waits for",
            |_, map| {
                let operation = libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG;
                ensure_eq!(futex(map.address(), operation, 1)?, 0);
                // Its value is another one.
                let operation = libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG;
                ensure_eq!(futex(map.address(), operation, 1), Err(Errno::EAGAIN));
                Ok(())
            },
        ),
        mapped(
            "map_looked_at",
            Clean,
            "mincore(2), pagemap, smaps, clear_refs, /proc/PID/mem read",
            |_, map| {
                ensure_load(map, 0);
                let mut there = [0u8; 4];
                // SAFETY: one byte a page.
                check(
                    unsafe { libc::mincore(map.address().cast(), map.len(), there.as_mut_ptr()) }
                        .into(),
                )?;
                fs::read_to_string("/proc/self/smaps")?;
                let _ = fs::read_to_string("/proc/self/numa_maps");
                if let Ok(pagemap) = fs::File::open("/proc/self/pagemap") {
                    let at = (map.address() as usize / PAGE * 8) as u64;
                    pagemap.read_exact_at(&mut [0; 8], at)?;
                }
                for what in ["1", "3", "4"] {
                    let _ = fs::write("/proc/self/clear_refs", what);
                    ensure_load(map, 0);
                }
                let mem = fs::File::open("/proc/self/mem")?;
                mem.read_exact_at(&mut [0; 8], map.address() as u64)?;
                Ok(())
            },
        ),
        mapped(
            "map_memory_pressure",
            Clean,
            "caches dropped, memory compacted, loads between",
            |_, map| {
                for _ in 0..3 {
                    (0..4).for_each(|page| ensure_load(map, page));
                    nix::unistd::sync();
                    fs::write("/proc/sys/vm/drop_caches", "3")?;
                    let _ = fs::write("/proc/sys/vm/compact_memory", "1");
                    (0..4).for_each(|page| ensure_load(map, page));
                    map.advise(libc::MADV_PAGEOUT)?;
                }
                Ok(())
            },
        )
        .seconds(40),
        mapped(
            "map_migrated",
            Clean,
            "move_pages(2), mbind(2) with MPOL_MF_MOVE",
            |_, map| {
                ensure_load(map, 0);
                let (mut pages, nodes, mut status) = ([map.address()], [0i32], [0i32]);
                // SAFETY: one page, one node, one status.
                let moved = check(unsafe {
                    libc::syscall(
                        libc::SYS_move_pages,
                        0,
                        1,
                        pages.as_mut_ptr(),
                        nodes.as_ptr(),
                        status.as_mut_ptr(),
                        2, /* MPOL_MF_MOVE */
                    )
                });
                if moved == Err(Errno::ENOSYS) {
                    skip!("the kernel does not move pages");
                }
                moved?;
                ensure_load(map, 0);
                Ok(())
            },
        ),
        mapped(
            "map_core_dump_of",
            Clean,
            "a core dump of a process that has it mapped",
            |t, map| {
                let path = elsewhere(t);
                let _pattern =
                    Setting::set("/proc/sys/kernel/core_pattern", &path.display().to_string())?;
                let _plain = Setting::set("/proc/sys/kernel/core_uses_pid", "0")?;
                let kid = child(|_| {
                    setrlimit(Resource::RLIMIT_CORE, RLIM_INFINITY, RLIM_INFINITY)?;
                    // Shared memory of files as well.
                    fs::write("/proc/self/coredump_filter", "0x7f")?;
                    ensure_load(map, 0);
                    Ok(nix::sys::signal::raise(Signal::SIGABRT)?)
                })?;
                match kid.end()? {
                    WaitStatus::Signaled(_, Signal::SIGABRT, true) => (),
                    other => bail!("no core: {other:?}"),
                }
                fs::remove_file(path)?;
                Ok(())
            },
        )
        .seconds(40),
        mapped(
            "map_fork_exec",
            Clean,
            "fork(2) and exec(2) with it mapped",
            |_, map| {
                for _ in 0..3 {
                    let kid = child(|_| {
                        ensure_load(map, 1);
                        let true_ = program("true")?;
                        nix::unistd::execv(&path_c(&true_), &[c"true"])?;
                        Ok(())
                    })?;
                    kid.succeed()?;
                }
                Ok(())
            },
        ),
        open(
            "map_private_written_by_kernel",
            Clean,
            "read(2) and /proc/PID/mem into a private mapping",
            |t, fd| {
                let map = Map::new(fd, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE)?;
                let pipe = sys::pipe_with(b"private")?;
                // SAFETY: the kernel writes seven bytes of the mapping.
                let n = unsafe { libc::read(pipe.as_raw_fd(), map.address().cast(), 7) };
                ensure_eq!(check(n as i64)?, 7);
                let mem = fs::File::options().write(true).open("/proc/self/mem")?;
                mem.write_all_at(b"again", map.address() as u64)?;
                ensure_eq!(map.load(0), b'a');
                ensure_eq!(t.contents()?[0], b'o');
                Ok(())
            },
        ),
        // From one open to the next.
        C::new(
            "map_written_back",
            Both,
            "stores; written back and protected again; mapped and read by the next",
            |t| {
                t.make_pages(4)?;
                let fd = t.rw()?;
                let map = Map::shared(&fd, 4 * PAGE)?;
                map.store(0, b'w');
                map.store(3 * PAGE, b'w');
                drop(map);
                sys::close(fd)?;
                nix::unistd::sync();
                let fd = t.rw()?;
                let map = Map::shared(&fd, 4 * PAGE)?;
                let got: Vec<u8> = (0..4).map(|page| map.load(page * PAGE)).collect();
                ensure_eq!(got, b"woow");
                map.sync()?;
                nix::unistd::sync();
                drop(map);
                sys::close(fd)?;
                t.expect(&[RW_DIRTY, RW_CLEAN])
            },
        )
        .mmap_store()
        .core(),
        C::new(
            "loop_read",
            Clean,
            "a loop device over it, read from",
            |t| {
                t.make_pages(16)?;
                let device = Loop::over(&t.path, &[])?;
                t.learn()?;
                let got = fs::read(&device.0)?;
                ensure_eq!(got.len(), 16 * PAGE);
                drop(device);
                t.expect(&[RW_CLEAN])
            },
        ),
        C::new(
            "backup",
            Clean,
            "tar, cp --reflink=auto and rsync read it, while a writer idles",
            |t| {
                t.make_pages(8)?;
                let fd = t.rw()?;
                let copy = elsewhere(t);
                for (name, options) in [
                    ("tar", &["--create", "--absolute-names", "--file"][..]),
                    ("cp", &["--reflink=auto"]),
                    ("rsync", &["--archive"]),
                ] {
                    let mut command = Command::new(program(name)?);
                    command.args(options);
                    match name {
                        "tar" => command.arg(&copy).arg(&t.path),
                        _ => command.arg(&t.path).arg(&copy),
                    };
                    run_to_end(&mut command)?;
                    ensure!(fs::metadata(&copy)?.len() >= 8 * PAGE as u64, "{name}");
                    fs::remove_file(&copy)?;
                }
                sys::close(fd)?;
                t.expect(&[RO, RO, RO, RW_CLEAN])
            },
        )
        .seconds(40)
        .core(),
        C::new(
            "passed_on",
            Clean,
            "the descriptor goes to another process, which closes it last",
            |t| {
                t.make_default()?;
                let fd = t.rw()?;
                let (read, write) = nix::unistd::pipe()?;
                let kid = child(|_| {
                    nix::unistd::read(&read, &mut [0; 1])?;
                    uio::pread(&fd, &mut [0; 10], 0)?;
                    Ok(())
                })?;
                sys::close(fd)?;
                t.not_closed_yet()?;
                sys::write(&write, b"!")?;
                kid.succeed()?;
                t.expect(&[RW_CLEAN])
            },
        ),
        C::new(
            "executed",
            NoWriter,
            "a program is executed from it, after a writer has left",
            |t| {
                t.make(&fs::read(program("true")?)?)?;
                fs::set_permissions(&t.path, fs::Permissions::from_mode(0o755))?;
                run_to_end(&mut Command::new(&t.path))?;
                t.expect(&[RO])
            },
        ),
        C::new(
            "many_idle_opens",
            Clean,
            "three hundred opens at once, nobody writes",
            |t| {
                t.make_default()?;
                let all: Result<Vec<_>> = (0..300).map(|_| t.rw()).collect();
                let all = all?;
                let count = all.len();
                drop(all);
                t.expect(&vec![RW_CLEAN; count])
            },
        )
        .seconds(40),
    ]
}

/// A page of these files begins with one and the same byte.
fn ensure_load(map: &Map, page: usize) {
    assert_eq!(map.load(page * PAGE), b'o', "page {page}");
}

/// The cases.
pub fn cases() -> Vec<C> {
    let mut all = modifying();
    all.extend(innocent());
    all
}
