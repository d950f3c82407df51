// SPDX-License-Identifier: GPL-2.0

//! The processes that execute operations, and say what came of each.

use super::model::uid_of;
use super::op::{Answer, Command, Op, value};
use super::{MAPS, PAGE, SLOTS};
use anyhow::{Context, Result};
use libc::c_int;
use nix::errno::Errno;
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, fork, pipe2};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::ptr::{null, null_mut};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Page faults that were signals, in the range below.
pub(super) static FAULTS: AtomicUsize = AtomicUsize::new(0);
pub(super) static FAULTS_FROM: AtomicUsize = AtomicUsize::new(0);
pub(super) static FAULTS_TO: AtomicUsize = AtomicUsize::new(0);

/// Puts a page of zeroes where memory could not be accessed, so that the access
/// goes on, and counts it.
extern "C" fn on_fault(signal: c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid siginfo of a fault.
    let page = unsafe { (*info).si_addr() } as usize & !(PAGE - 1);
    let expected = FAULTS_FROM.load(Ordering::Relaxed)..FAULTS_TO.load(Ordering::Relaxed);
    let prot = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
    // SAFETY: only a page of a mapping that an actor made for itself is
    // replaced; the default action ends the process on return.
    unsafe {
        if !expected.contains(&page)
            || libc::mmap(page as *mut _, PAGE, prot, flags, -1, 0) == libc::MAP_FAILED
        {
            libc::signal(signal, libc::SIG_DFL);
        }
    }
    FAULTS.fetch_add(1, Ordering::Relaxed);
}

pub(super) fn catch_faults() -> Result<(), Errno> {
    for signal in [libc::SIGBUS, libc::SIGSEGV] {
        // SAFETY: zeroes are an empty mask and no flags.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = on_fault as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO;
        // SAFETY: the handler is of the kind that SA_SIGINFO asks for.
        check(unsafe { libc::sigaction(signal, &action, null_mut()) })?;
    }
    Ok(())
}

/// Turns -1 into the errno.
pub(super) fn check(ret: impl Into<i64>) -> Result<i64, Errno> {
    match ret.into() {
        -1 => Err(Errno::last()),
        ret => Ok(ret),
    }
}

pub(super) fn name_of(errno: Errno) -> String {
    match errno {
        Errno::UnknownErrno => "unknown".to_string(),
        errno => format!("{errno:?}"),
    }
}

/// FNV-1a in hexadecimal.
pub(super) fn hash(bytes: &[u8]) -> Value {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in bytes {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    json!(format!("{hash:016x}"))
}

/// What operation `n` writes.
pub(super) fn pattern(n: usize, len: usize) -> Vec<u8> {
    // No two bytes of it are the beginning of a script.
    (0..len)
        .map(|i| (n * 167 + i + (i >> 8) * 13) as u8)
        .collect()
}

/// Bytes as a string of as many characters.
pub(super) fn latin(bytes: &[u8]) -> String {
    bytes.iter().copied().map(char::from).collect()
}

/// A time that the kernel took from its clock has no fixed value.
pub(super) fn stamp(seconds: i64, nanoseconds: i64) -> String {
    if seconds >= 1_000_000_000 {
        "now".to_string()
    } else {
        format!("{seconds}.{nanoseconds:09}")
    }
}

pub(super) fn type_name(mode: u32) -> &'static str {
    match mode & libc::S_IFMT {
        libc::S_IFREG => "file",
        libc::S_IFDIR => "dir",
        libc::S_IFLNK => "link",
        libc::S_IFIFO => "fifo",
        libc::S_IFCHR => "chr",
        _ => "other",
    }
}

/// A stat(2) or its like by a function that fills in the structure.
pub(super) fn stat(call: impl FnOnce(*mut libc::stat) -> c_int) -> Answer {
    let mut stat = MaybeUninit::<libc::stat>::zeroed();
    let result = check(call(stat.as_mut_ptr()));
    // SAFETY: zeroes are a valid value of it as well.
    let stat = unsafe { stat.assume_init() };
    let answer = Answer::of(result);
    if result.is_err() {
        return answer;
    }
    answer.with(
        "stat",
        json!({
            "type": type_name(stat.st_mode),
            "mode": format!("{:o}", stat.st_mode & 0o7777),
            "nlink": stat.st_nlink,
            "uid": stat.st_uid,
            "gid": stat.st_gid,
            "size": stat.st_size,
            "blocks": stat.st_blocks,
            "blksize": stat.st_blksize,
            "ino": stat.st_ino,
            "mtime": stamp(stat.st_mtime, stat.st_mtime_nsec),
            "atime": stamp(stat.st_atime, stat.st_atime_nsec),
            "ctime": stamp(stat.st_ctime, stat.st_ctime_nsec),
        }),
    )
}

pub(super) fn statx(path: &CString, flags: c_int, mask: u32) -> Answer {
    let mut statx = MaybeUninit::<libc::statx>::zeroed();
    // SAFETY: the path ends with a zero, and there is room for the result.
    let result = check(unsafe {
        libc::statx(
            libc::AT_FDCWD,
            path.as_ptr(),
            flags,
            mask,
            statx.as_mut_ptr(),
        )
    });
    // SAFETY: zeroes are a valid value of it as well.
    let statx = unsafe { statx.assume_init() };
    let answer = Answer::of(result);
    if result.is_err() {
        return answer;
    }
    let time = |time: libc::statx_timestamp| stamp(time.tv_sec, time.tv_nsec.into());
    answer.with(
        "stat",
        json!({
            "mask": format!("{:#x}", statx.stx_mask),
            "attributes": format!("{:#x}", statx.stx_attributes),
            "type": type_name(statx.stx_mode.into()),
            "mode": format!("{:o}", statx.stx_mode & 0o7777),
            "nlink": statx.stx_nlink,
            "uid": statx.stx_uid,
            "gid": statx.stx_gid,
            "size": statx.stx_size,
            "blocks": statx.stx_blocks,
            "blksize": statx.stx_blksize,
            "ino": statx.stx_ino,
            "mtime": time(statx.stx_mtime),
            "atime": time(statx.stx_atime),
            "ctime": time(statx.stx_ctime),
        }),
    )
}

pub(super) fn times(atime: &str, mtime: &str) -> [libc::timespec; 2] {
    [atime, mtime].map(|time| {
        let (tv_sec, tv_nsec) = match (time, time.split_once('.')) {
            ("now", _) => (0, libc::UTIME_NOW),
            (_, Some((seconds, nanoseconds))) => (
                seconds.parse().unwrap_or(0),
                nanoseconds.parse().unwrap_or(0),
            ),
            _ => (0, libc::UTIME_OMIT),
        };
        libc::timespec { tv_sec, tv_nsec }
    })
}

/// The whole of a directory.
pub(super) fn list(path: &CString) -> Result<Vec<Value>, Errno> {
    let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_NONBLOCK | libc::O_CLOEXEC;
    // SAFETY: the path ends with a zero.
    let fd = check(unsafe { libc::open(path.as_ptr(), flags) })?;
    // SAFETY: the descriptor is new and nobody else's.
    let fd = unsafe { OwnedFd::from_raw_fd(fd as c_int) };
    let mut buffer = vec![MaybeUninit::uninit(); 8192];
    let mut entries = rustix::fs::RawDir::new(&fd, &mut buffer);
    let mut found = BTreeMap::new();
    let mut doubles = 0;
    while let Some(entry) = entries.next() {
        let entry = entry.map_err(|e| Errno::from_raw(e.raw_os_error()))?;
        let name = latin(entry.file_name().to_bytes());
        let kind = format!("{:?}", entry.file_type());
        let value = json!([name, kind, entry.ino()]);
        if found.insert(name, value).is_some() {
            doubles += 1;
        }
    }
    let mut found: Vec<Value> = found.into_values().collect();
    if doubles > 0 {
        found.push(json!({ "doubles": doubles }));
    }
    Ok(found)
}

/// Runs something in a child process, which exits with all its files open.
pub(super) fn in_child(body: impl FnOnce() -> Answer) -> Answer {
    let (read, write) = pipe2(nix::fcntl::OFlag::O_CLOEXEC).expect("a pipe is to be had");
    // SAFETY: this process has a single thread.
    match unsafe { fork() }.expect("a process is to be had") {
        ForkResult::Child => {
            let answer = serde_json::to_vec(&body()).expect("an answer is valid JSON");
            let sent = File::from(write).write_all(&answer);
            // SAFETY: it ends the process, nothing else.
            unsafe { libc::_exit(sent.is_err().into()) }
        }
        ForkResult::Parent { child } => {
            drop(write);
            let mut answer = Vec::new();
            let read = File::from(read).read_to_end(&mut answer);
            read.expect("a pipe can be read");
            waitpid(child, None).expect("it is a child");
            match answer.is_empty() {
                // Either an execve that worked or an accident.
                true => Answer::default().with("silent", json!(true)),
                false => serde_json::from_slice(&answer).expect("the child sends JSON"),
            }
        }
    }
}

/// A file of no file system that is tested.
pub(super) fn memfd() -> OwnedFd {
    // SAFETY: the name ends with a zero.
    let fd = check(unsafe { libc::memfd_create(c"out".as_ptr(), libc::MFD_CLOEXEC) });
    let fd = fd.expect("a memfd is to be had");
    // SAFETY: the descriptor is new and nobody else's.
    unsafe { OwnedFd::from_raw_fd(fd as c_int) }
}

/// Buffers for a vectored call.
pub(super) fn vectors(buffers: &mut [Vec<u8>]) -> Vec<libc::iovec> {
    let vector = |buffer: &mut Vec<u8>| libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    buffers.iter_mut().map(vector).collect()
}

/// A read by a function that is passed buffers.
pub(super) fn read(lens: &[usize], call: impl FnOnce(&[libc::iovec]) -> isize) -> Answer {
    let mut buffers: Vec<Vec<u8>> = lens.iter().map(|len| vec![0; *len]).collect();
    let result = check(call(&vectors(&mut buffers)) as i64);
    let answer = Answer::of(result);
    match result {
        Ok(count) => answer.with("hash", hash(&buffers.concat()[..count as usize])),
        Err(_) => answer,
    }
}

/// A mapping of an actor.
pub(super) struct Region {
    at: *mut u8,
    len: usize,
}

impl Region {
    fn new(fd: c_int, off: i64, len: usize, prot: c_int, flags: c_int) -> Result<Self, Errno> {
        // SAFETY: the kernel chooses an address where there is nothing.
        let at = unsafe { libc::mmap(null_mut(), len, prot, flags, fd, off) };
        match at == libc::MAP_FAILED {
            true => Err(Errno::last()),
            false => Ok(Self { at: at.cast(), len }),
        }
    }

    /// Does something to each byte of a part, counting the faults.
    fn each(&self, off: usize, len: usize, mut act: impl FnMut(usize, *mut u8)) -> usize {
        let end = (self.at as usize + self.len).next_multiple_of(PAGE);
        FAULTS.store(0, Ordering::SeqCst);
        FAULTS_FROM.store(self.at as usize, Ordering::SeqCst);
        FAULTS_TO.store(end, Ordering::SeqCst);
        for (i, at) in (off.min(self.len)..off.saturating_add(len).min(self.len)).enumerate() {
            act(i, self.at.wrapping_add(at));
        }
        FAULTS_TO.store(0, Ordering::SeqCst);
        FAULTS.load(Ordering::SeqCst)
    }

    fn load(&self, off: usize, len: usize) -> (Vec<u8>, usize) {
        let mut bytes = Vec::new();
        // SAFETY: it is within the mapping, and on_fault() repairs that.
        let faults = self.each(off, len, |_, at| bytes.push(unsafe { at.read_volatile() }));
        (bytes, faults)
    }

    fn store(&self, off: usize, bytes: &[u8]) -> usize {
        // SAFETY: it is within the mapping, and on_fault() repairs that.
        self.each(off, bytes.len(), |i, at| unsafe {
            at.write_volatile(bytes[i])
        })
    }

    fn unmap(self) -> Result<i64, Errno> {
        // SAFETY: no reference into the mapping was ever made.
        check(unsafe { libc::munmap(self.at.cast(), self.len) })
    }
}

/// A process that executes operations.
pub(super) struct Actor {
    /// What `@` stands for.
    dir: Vec<u8>,
    slots: [Option<OwnedFd>; SLOTS],
    maps: [Option<Region>; MAPS],
}

impl Actor {
    fn path(&self, path: &str) -> CString {
        let mut bytes: Vec<u8> = path.chars().map(|c| c as u8).collect();
        if bytes.first() == Some(&b'@') {
            bytes.splice(..1, self.dir.iter().copied());
        }
        CString::new(bytes).expect("no path has a zero in it")
    }

    fn fd(&self, slot: usize) -> c_int {
        self.slots[slot].as_ref().map_or(-1, |fd| fd.as_raw_fd())
    }

    /// open(2) of a path with an owner for the result.
    fn open(&self, path: &str, flags: c_int, mode: u32) -> Result<OwnedFd, Errno> {
        let path = self.path(path);
        // SAFETY: the path ends with a zero.
        let fd = check(unsafe { libc::open(path.as_ptr(), flags | libc::O_CLOEXEC, mode) })?;
        // SAFETY: the descriptor is new and nobody else's.
        Ok(unsafe { OwnedFd::from_raw_fd(fd as c_int) })
    }

    /// Copies from a descriptor to a new pipe or file, and hashes what arrived.
    fn copy_out(&self, pipe: bool, call: impl FnOnce(c_int) -> isize) -> Answer {
        let flags = nix::fcntl::OFlag::O_CLOEXEC | nix::fcntl::OFlag::O_NONBLOCK;
        let (from, to) = match pipe {
            true => pipe2(flags).expect("a pipe is to be had"),
            false => {
                let file = memfd();
                (file.try_clone().expect("a descriptor is to be had"), file)
            }
        };
        let answer = Answer::of(check(call(to.as_raw_fd()) as i64));
        drop(to);
        let mut from = File::from(from);
        let mut bytes = Vec::new();
        if !pipe {
            std::io::Seek::rewind(&mut from).expect("a memfd can be rewound");
        }
        from.read_to_end(&mut bytes)
            .expect("what was copied can be read");
        answer
            .with("copied", json!(bytes.len()))
            .with("hash", hash(&bytes))
    }

    fn fresh_map(&self, n: usize, path: &str, len: usize, msync: bool, unlink: bool) -> Answer {
        let mut steps = Vec::new();
        let result = self.fresh_map_steps(n, path, len, msync, unlink, &mut steps);
        Answer::of(result).with("steps", Value::Array(steps))
    }

    fn fresh_map_steps(
        &self,
        n: usize,
        path: &str,
        len: usize,
        msync: bool,
        unlink: bool,
        steps: &mut Vec<Value>,
    ) -> Result<i64, Errno> {
        let fd = self.open(path, libc::O_RDWR | libc::O_CREAT | libc::O_EXCL, 0o644)?;
        let bytes = pattern(n, len);
        let written = nix::unistd::write(&fd, &bytes)?;
        steps.push(json!(["write", written]));
        let (prot, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
        let region = Region::new(fd.as_raw_fd(), 0, len, prot, flags)?;
        let (seen, faults) = region.load(0, len);
        steps.push(json!(["load", hash(&seen), faults]));
        let faults = region.store(len / 3, &pattern(n + 1, len / 2));
        steps.push(json!(["store", faults]));
        let mut buffer = vec![0; len + 1];
        let count = nix::sys::uio::pread(&fd, &mut buffer, 0)?;
        steps.push(json!(["pread", count, hash(&buffer[..count])]));
        if msync {
            // SAFETY: it changes no memory.
            check(unsafe { libc::msync(region.at.cast(), len, libc::MS_SYNC) })?;
        }
        region.unmap()?;
        nix::unistd::close(fd)?;
        let fd = self.open(path, libc::O_RDONLY, 0)?;
        let count = nix::unistd::read(&fd, &mut buffer)?;
        steps.push(json!(["read", count, hash(&buffer[..count])]));
        nix::unistd::close(fd)?;
        if unlink {
            nix::unistd::unlink(self.path(path).as_c_str())?;
            steps.push(json!(["unlink"]));
        }
        Ok(0)
    }

    /// Executes operation `n`.
    #[rustfmt::skip]
    fn perform(&mut self, n: usize, op: &Op) -> Answer {
        // SAFETY, here and below: all paths end with a zero, all buffers are as
        // long as is said, and descriptors and offsets may be anything.
        macro_rules! call {
            ($function:ident($($argument:expr),*)) => {
                // SAFETY: as above.
                Answer::of(check(unsafe { libc::$function($($argument),*) } as i64))
            };
        }
        match op {
            Op::Open { slot, path, flags, mode } => {
                // It is free already, if all went as expected.
                self.slots[*slot] = None;
                let fd = self.open(path, value(flags), *mode);
                let answer = Answer::of(fd.as_ref().map(|_| 0).map_err(|e| *e));
                self.slots[*slot] = fd.ok();
                answer
            }
            Op::Close { slot } => match self.slots[*slot].take() {
                Some(fd) => Answer::of(nix::unistd::close(fd).map(|()| 0)),
                None => Answer::of(Err(Errno::EBADF)),
            },
            Op::Dup { slot, to } => {
                let fd = self.slots[*slot].as_ref().ok_or(Errno::EBADF);
                let fd = fd.and_then(nix::unistd::dup);
                let answer = Answer::of(fd.as_ref().map(|_| 0).map_err(|e| *e));
                self.slots[*to] = fd.ok();
                answer
            }
            Op::Read { slot, len } => read(&[*len], |to| {
                // SAFETY: as above.
                unsafe { libc::read(self.fd(*slot), to[0].iov_base, to[0].iov_len) }
            }),
            Op::Pread { slot, off, len } => read(&[*len], |to| {
                // SAFETY: as above.
                unsafe { libc::pread(self.fd(*slot), to[0].iov_base, to[0].iov_len, *off) }
            }),
            Op::Readv { slot, lens } => read(lens, |to| {
                // SAFETY: as above.
                unsafe { libc::readv(self.fd(*slot), to.as_ptr(), to.len() as c_int) }
            }),
            Op::Preadv2 { slot, off, lens } => read(lens, |to| {
                // SAFETY: as above.
                unsafe { libc::preadv2(self.fd(*slot), to.as_ptr(), to.len() as c_int, *off, 0) }
            }),
            Op::Write { slot, len } => {
                call!(write(self.fd(*slot), pattern(n, *len).as_ptr().cast(), *len))
            }
            Op::Pwrite { slot, off, len } => {
                call!(pwrite(self.fd(*slot), pattern(n, *len).as_ptr().cast(), *len, *off))
            }
            Op::Writev { slot, lens } => {
                let mut buffers: Vec<Vec<u8>> = lens.iter().map(|len| pattern(n, *len)).collect();
                let from = vectors(&mut buffers);
                call!(writev(self.fd(*slot), from.as_ptr(), from.len() as c_int))
            }
            Op::Lseek { slot, off, whence } => call!(lseek(self.fd(*slot), *off, value(whence))),
            Op::Ftruncate { slot, size } => call!(ftruncate(self.fd(*slot), *size)),
            Op::Truncate { path, size } => call!(truncate(self.path(path).as_ptr(), *size)),
            Op::Fsync { slot } => call!(fsync(self.fd(*slot))),
            Op::Fdatasync { slot } => call!(fdatasync(self.fd(*slot))),
            // SAFETY: as above.
            Op::Stat { path } => stat(|to| unsafe { libc::stat(self.path(path).as_ptr(), to) }),
            // SAFETY: as above.
            Op::Lstat { path } => stat(|to| unsafe { libc::lstat(self.path(path).as_ptr(), to) }),
            // SAFETY: as above.
            Op::Fstat { slot } => stat(|to| unsafe { libc::fstat(self.fd(*slot), to) }),
            Op::Statx { path, flags, mask } => {
                statx(&self.path(path), value(flags), value(mask) as u32)
            }
            Op::Access { path, mode } => call!(access(self.path(path).as_ptr(), value(mode))),
            Op::Faccessat2 { path, mode, flags } => call!(syscall(
                libc::SYS_faccessat2, libc::AT_FDCWD, self.path(path).as_ptr(), value(mode),
                value(flags)
            )),
            Op::Chmod { path, mode } => call!(chmod(self.path(path).as_ptr(), *mode)),
            Op::Fchmod { slot, mode } => call!(fchmod(self.fd(*slot), *mode)),
            Op::Chown { path, uid, gid } => {
                call!(chown(self.path(path).as_ptr(), *uid as u32, *gid as u32))
            }
            Op::Lchown { path, uid, gid } => {
                call!(lchown(self.path(path).as_ptr(), *uid as u32, *gid as u32))
            }
            Op::Utimensat { path, atime, mtime, flags } => call!(utimensat(
                libc::AT_FDCWD, self.path(path).as_ptr(), times(atime, mtime).as_ptr(),
                value(flags)
            )),
            Op::Futimens { slot, atime, mtime } => {
                call!(futimens(self.fd(*slot), times(atime, mtime).as_ptr()))
            }
            Op::Mkdir { path, mode } => call!(mkdir(self.path(path).as_ptr(), *mode)),
            Op::Rmdir { path } => call!(rmdir(self.path(path).as_ptr())),
            Op::Unlink { path } => call!(unlink(self.path(path).as_ptr())),
            Op::Rename { from, to } => {
                call!(rename(self.path(from).as_ptr(), self.path(to).as_ptr()))
            }
            Op::Renameat2 { from, to, flags } => call!(renameat2(
                libc::AT_FDCWD, self.path(from).as_ptr(), libc::AT_FDCWD,
                self.path(to).as_ptr(), value(flags) as u32
            )),
            Op::Link { from, to } => {
                call!(link(self.path(from).as_ptr(), self.path(to).as_ptr()))
            }
            Op::Linkat { from, to, flags } => call!(linkat(
                libc::AT_FDCWD, self.path(from).as_ptr(), libc::AT_FDCWD,
                self.path(to).as_ptr(), value(flags)
            )),
            Op::Symlink { target, path } => {
                call!(symlink(self.path(target).as_ptr(), self.path(path).as_ptr()))
            }
            Op::Readlink { path } => {
                let mut to = vec![0_u8; 4096];
                let answer =
                    call!(readlink(self.path(path).as_ptr(), to.as_mut_ptr().cast(), to.len()));
                match answer.ret {
                    Some(len) => {
                        let target = &to[..len as usize];
                        let target = match target.strip_prefix(self.dir.as_slice()) {
                            Some(rest) => format!("@{}", latin(rest)),
                            None => latin(target),
                        };
                        answer.with("target", json!(target))
                    }
                    None => answer,
                }
            }
            Op::Mknod { path, kind, mode } => call!(mknod(
                self.path(path).as_ptr(), value(kind) as u32 | mode, libc::makedev(1, 3)
            )),
            Op::List { path } => match list(&self.path(path)) {
                Ok(found) => {
                    Answer::of(Ok(found.len() as i64)).with("entries", Value::Array(found))
                }
                Err(errno) => Answer::of(Err(errno)),
            },
            Op::Statfs { path } => {
                let mut to = MaybeUninit::<libc::statfs>::zeroed();
                let answer = call!(statfs(self.path(path).as_ptr(), to.as_mut_ptr()));
                // SAFETY: zeroes are a valid value of it as well.
                let to = unsafe { to.assume_init() };
                match answer.errno {
                    None => answer.with("statfs", json!({
                        "type": format!("{:#x}", to.f_type),
                        "bsize": to.f_bsize,
                        "namelen": to.f_namelen,
                    })),
                    Some(_) => answer,
                }
            }
            Op::Getfl { slot } => call!(fcntl(self.fd(*slot), libc::F_GETFL)),
            Op::Setfl { slot, flags } => {
                call!(fcntl(self.fd(*slot), libc::F_SETFL, value(flags)))
            }
            Op::Setlk { slot, kind, off, len } | Op::Getlk { slot, kind, off, len } => {
                let mut lock = libc::flock {
                    l_type: value(kind) as i16,
                    l_whence: libc::SEEK_SET as i16,
                    l_start: *off,
                    l_len: *len,
                    l_pid: 0,
                };
                if matches!(op, Op::Setlk { .. }) {
                    return call!(fcntl(self.fd(*slot), libc::F_SETLK, &lock));
                }
                let answer = call!(fcntl(self.fd(*slot), libc::F_GETLK, &mut lock));
                answer.with("lock", json!([lock.l_type, lock.l_start, lock.l_len]))
            }
            Op::Flock { slot, how } => call!(flock(self.fd(*slot), value(how))),
            Op::Ioctl { slot, number } => call!(ioctl(self.fd(*slot), (*number).into(), 0)),
            Op::Getxattr { path, name } => {
                let mut to = vec![0_u8; 256];
                let answer = call!(getxattr(
                    self.path(path).as_ptr(), self.path(name).as_ptr(), to.as_mut_ptr().cast(),
                    to.len()
                ));
                answer.with("hash", hash(&to))
            }
            Op::Setxattr { path, name, len } => call!(setxattr(
                self.path(path).as_ptr(), self.path(name).as_ptr(),
                pattern(n, *len).as_ptr().cast(), *len, 0
            )),
            Op::Listxattr { path } => {
                let mut to = vec![0_u8; 4096];
                let answer = call!(listxattr(
                    self.path(path).as_ptr(), to.as_mut_ptr().cast(), to.len()
                ));
                answer.with("hash", hash(&to))
            }
            Op::Fadvise { slot, off, len, advice } => {
                // SAFETY: as above.
                match unsafe { libc::posix_fadvise(self.fd(*slot), *off, *len, value(advice)) } {
                    0 => Answer::of(Ok(0)),
                    errno => Answer::of(Err(Errno::from_raw(errno))),
                }
            }
            Op::Readahead { slot, off, len } => call!(readahead(self.fd(*slot), *off, *len)),
            Op::Sendfile { slot, len, to_pipe } => self.copy_out(*to_pipe, |to| {
                // SAFETY: as above.
                unsafe { libc::sendfile(to, self.fd(*slot), null_mut(), *len) }
            }),
            Op::Splice { slot, len } => self.copy_out(true, |to| {
                let flags = libc::SPLICE_F_NONBLOCK;
                // SAFETY: as above.
                unsafe { libc::splice(self.fd(*slot), null_mut(), to, null_mut(), *len, flags) }
            }),
            Op::CopyFileRange { slot, len } => self.copy_out(false, |to| {
                // SAFETY: as above.
                unsafe {
                    libc::copy_file_range(self.fd(*slot), null_mut(), to, null_mut(), *len, 0)
                }
            }),
            Op::Mmap { map, slot, off, len, prot, flags } => {
                if let Some(old) = self.maps[*map].take() {
                    old.unmap().expect("a mapping can be removed");
                }
                let region = Region::new(self.fd(*slot), *off, *len, value(prot), value(flags));
                let answer = Answer::of(region.as_ref().map(|_| 0).map_err(|e| *e));
                self.maps[*map] = region.ok();
                answer
            }
            Op::MapLoad { map, .. } | Op::MapStore { map, .. } | Op::Mprotect { map, .. }
            | Op::Msync { map, .. } | Op::Madvise { map, .. } => match &self.maps[*map] {
                Some(region) => mapped(n, op, region),
                None => Answer::default().with("unmapped", json!(true)),
            },
            Op::Munmap { map } => match self.maps[*map].take() {
                Some(region) => Answer::of(region.unmap()),
                None => Answer::default().with("unmapped", json!(true)),
            },
            Op::Exec { path } => in_child(|| {
                let path = self.path(path);
                let arguments = [path.as_ptr(), null()];
                let environment = [null()];
                call!(execve(path.as_ptr(), arguments.as_ptr(), environment.as_ptr()))
            }),
            Op::ChildIo { slot, len, write } => {
                let (slot, len) = (*slot, *len);
                let op = if *write { Op::Write { slot, len } } else { Op::Read { slot, len } };
                in_child(|| self.perform(n, &op))
            }
            Op::Kill { path, flags, len } => in_child(|| {
                match self.open(path, value(flags), 0o644) {
                    Ok(fd) => {
                        let answer = match flags.starts_with("O_RDONLY") {
                            true => read(&[*len], |to| {
                                // SAFETY: as above.
                                unsafe {
                                    libc::read(fd.as_raw_fd(), to[0].iov_base, to[0].iov_len)
                                }
                            }),
                            false => call!(write(
                                fd.as_raw_fd(), pattern(n, *len).as_ptr().cast(), *len
                            )),
                        };
                        // It is the exit that has to close it.
                        std::mem::forget(fd);
                        answer
                    }
                    Err(errno) => Answer::of(Err(errno)),
                }
            }),
            Op::FreshMap { path, len, msync, unlink } => {
                self.fresh_map(n, path, *len, *msync, *unlink)
            }
        }
    }

    /// Closes everything, in a fixed order.
    fn close(&mut self) {
        for map in &mut self.maps {
            if let Some(region) = map.take() {
                region.unmap().expect("a mapping can be removed");
            }
        }
        self.slots = Default::default();
    }
}

/// Executes an operation on a mapping.
pub(super) fn mapped(n: usize, op: &Op, region: &Region) -> Answer {
    let (at, all) = (region.at.cast(), region.len);
    let result = match op {
        Op::MapLoad { off, len, .. } => {
            let (bytes, faults) = region.load(*off, *len);
            let answer = Answer::of(Ok(bytes.len() as i64));
            return answer
                .with("faults", json!(faults))
                .with("hash", hash(&bytes));
        }
        Op::MapStore { off, len, .. } => {
            let faults = region.store(*off, &pattern(n, *len));
            return Answer::of(Ok(0)).with("faults", json!(faults));
        }
        // SAFETY: it changes a mapping that no reference points into.
        Op::Mprotect { prot, .. } => unsafe { libc::mprotect(at, all, value(prot)) },
        // SAFETY: the same.
        Op::Msync { flags, .. } => unsafe { libc::msync(at, all, value(flags)) },
        // SAFETY: the same.
        Op::Madvise { advice, .. } => unsafe { libc::madvise(at, all, value(advice)) },
        _ => unreachable!("it is about no mapping"),
    };
    Answer::of(check(result))
}

/// Becomes the user that an actor is, in the directory worked in.
pub(super) fn become_actor(who: usize, dir: &Path) -> Result<()> {
    std::env::set_current_dir(dir)?;
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    if nix::unistd::geteuid().is_root() {
        let (uid, gid) = (uid_of(who).into(), uid_of(who).into());
        nix::unistd::setgroups(&[])?;
        nix::unistd::setresgid(gid, gid, gid)?;
        nix::unistd::setresuid(uid, uid, uid)?;
    }
    Ok(catch_faults()?)
}

/// What an actor does until the driver hangs up.
pub(super) fn act(who: usize, dir: &Path, mut socket: UnixStream) -> Result<()> {
    become_actor(who, dir).context("becoming an actor")?;
    let mut actor = Actor {
        dir: dir.as_os_str().as_bytes().to_vec(),
        slots: Default::default(),
        maps: Default::default(),
    };
    let commands = BufReader::new(socket.try_clone()?);
    socket.write_all(b"{}\n")?;
    for line in commands.lines() {
        let command: Command = serde_json::from_str(&line?)?;
        let mut answer = serde_json::to_vec(&actor.perform(command.n, &command.op))?;
        answer.push(b'\n');
        socket.write_all(&answer)?;
    }
    actor.close();
    Ok(())
}
