// SPDX-License-Identifier: GPL-2.0

//! System calls.
//!
//! The tests are about what a certain system call does, so they call that one
//! and no other; the standard library is free to choose.

use coda_proto::MountData;
use ktest::{Context, Result, bail, ensure, path_c, patience, wait_for};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork, pipe};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;
use zerocopy::IntoBytes;

/// Turns -1 into the errno.
pub fn check(ret: i64) -> Result<i64, Errno> {
    if ret == -1 {
        Err(Errno::last())
    } else {
        Ok(ret)
    }
}

/// open(2) with mode 0644.
pub fn open(path: &Path, flags: OFlag) -> Result<OwnedFd, Errno> {
    nix::fcntl::open(
        path,
        flags | OFlag::O_CLOEXEC,
        Mode::from_bits_truncate(0o644),
    )
}

/// close(2), whose result counts here.
pub fn close(fd: OwnedFd) -> Result<(), Errno> {
    nix::unistd::close(fd)
}

/// write(2) of all the bytes at once.
pub fn write(fd: &OwnedFd, bytes: &[u8]) -> Result<()> {
    let n = nix::unistd::write(fd, bytes).context("write")?;
    ensure!(n == bytes.len(), "write wrote {n} of {}", bytes.len());
    Ok(())
}

/// write(2) from an address that may be bad.
pub fn write_raw(fd: &OwnedFd, address: *const u8, len: usize) -> Result<usize, Errno> {
    // SAFETY: the kernel checks the address; it only reads there.
    let n = unsafe { libc::write(fd.as_raw_fd(), address.cast(), len) };
    check(n as i64).map(|n| n as usize)
}

/// preadv2(2) into one buffer.
pub fn preadv2(fd: &OwnedFd, buffer: &mut [u8], offset: i64, flags: i32) -> Result<usize, Errno> {
    let piece = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    // SAFETY: the kernel writes to the buffer that is described.
    let n = unsafe { libc::preadv2(fd.as_raw_fd(), &piece, 1, offset, flags) };
    check(n as i64).map(|n| n as usize)
}

/// pwritev2(2) from one buffer.
pub fn pwritev2(fd: &OwnedFd, bytes: &[u8], offset: i64, flags: i32) -> Result<usize, Errno> {
    let piece = libc::iovec {
        iov_base: bytes.as_ptr().cast_mut().cast(),
        iov_len: bytes.len(),
    };
    // SAFETY: the kernel only reads the buffer that is described.
    let n = unsafe { libc::pwritev2(fd.as_raw_fd(), &piece, 1, offset, flags) };
    check(n as i64).map(|n| n as usize)
}

/// mount(2) with binary data, as Venus does it.
pub fn mount_coda(target: &Path, data: Option<&MountData>) -> Result<(), Errno> {
    let pointer = data.map_or(std::ptr::null(), |d| d.as_bytes().as_ptr());
    let target = path_c(target);
    // SAFETY: strings that end, and data of the size that the file system reads.
    let ret = unsafe {
        libc::mount(
            c"coda".as_ptr(),
            target.as_ptr(),
            c"coda".as_ptr(),
            0,
            pointer.cast(),
        )
    };
    check(ret.into()).map(|_| ())
}

/// lseek(2).
pub fn seek(fd: &OwnedFd, offset: i64, whence: i32) -> Result<i64, Errno> {
    // SAFETY: no memory is involved.
    check(unsafe { libc::lseek(fd.as_raw_fd(), offset, whence) })
}

/// fallocate(2).
pub fn fallocate(fd: &OwnedFd, mode: i32, offset: i64, len: i64) -> Result<(), Errno> {
    // SAFETY: no memory is involved.
    check(unsafe { libc::fallocate(fd.as_raw_fd(), mode, offset, len) }.into()).map(|_| ())
}

/// copy_file_range(2) between the files' own positions.
pub fn copy_file_range(from: &OwnedFd, to: &OwnedFd, len: usize) -> Result<usize, Errno> {
    // SAFETY: the offsets' pointers are allowed to be null.
    let n = unsafe {
        libc::copy_file_range(
            from.as_raw_fd(),
            std::ptr::null_mut(),
            to.as_raw_fd(),
            std::ptr::null_mut(),
            len,
            0,
        )
    };
    check(n as i64).map(|n| n as usize)
}

/// splice(2) between the files' own positions.
pub fn splice(from: &OwnedFd, to: &OwnedFd, len: usize) -> Result<usize, Errno> {
    // SAFETY: the offsets' pointers are allowed to be null.
    let n = unsafe {
        libc::splice(
            from.as_raw_fd(),
            std::ptr::null_mut(),
            to.as_raw_fd(),
            std::ptr::null_mut(),
            len,
            0,
        )
    };
    check(n as i64).map(|n| n as usize)
}

/// sendfile(2) from the file's own position.
pub fn sendfile(from: &OwnedFd, to: &OwnedFd, len: usize) -> Result<usize, Errno> {
    // SAFETY: the offset's pointer is allowed to be null.
    let n = unsafe { libc::sendfile(to.as_raw_fd(), from.as_raw_fd(), std::ptr::null_mut(), len) };
    check(n as i64).map(|n| n as usize)
}

/// A pipe with these bytes in it.
pub fn pipe_with(bytes: &[u8]) -> Result<OwnedFd> {
    let (read, write) = pipe()?;
    self::write(&write, bytes)?;
    Ok(read)
}

/// A limit on the size of files for this process, with SIGXFSZ ignored.
pub fn limit_file_size(bytes: u64) -> Result<()> {
    use nix::sys::resource::{Resource, setrlimit};
    // SAFETY: ignoring a signal installs no handler.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    Ok(setrlimit(Resource::RLIMIT_FSIZE, bytes, bytes)?)
}

/// A child process of a case.
pub struct Child {
    /// Its number.
    pub pid: Pid,
    words: File,
}

impl Child {
    /// Waits for its exit with success.
    pub fn succeed(self) -> Result<()> {
        self.succeed_within(15)
    }

    /// The same with more patience, in seconds.
    pub fn succeed_within(self, seconds: u64) -> Result<()> {
        match self.end_within(seconds)? {
            WaitStatus::Exited(_, 0) => Ok(()),
            other => {
                let mut why = String::new();
                let mut words = self.words;
                words.read_to_string(&mut why)?;
                bail!("child: {other:?} {why}")
            }
        }
    }

    /// Waits for its end, whatever that is.
    pub fn end(&self) -> Result<WaitStatus> {
        self.end_within(15)
    }

    /// The same with more patience, in seconds.
    pub fn end_within(&self, seconds: u64) -> Result<WaitStatus> {
        wait_for("a child's end", patience(seconds), || {
            Ok(match waitpid(self.pid, Some(WaitPidFlag::WNOHANG))? {
                WaitStatus::StillAlive => None,
                status => Some(status),
            })
        })
    }

    /// Waits for its death by a signal.
    pub fn die_of(&self, signal: Signal) -> Result<()> {
        match self.end()? {
            WaitStatus::Signaled(_, got, _) if got == signal => Ok(()),
            other => bail!("the child did not die of {signal}: {other:?}"),
        }
    }

    /// Waits until it has said something by [`Teller::ready`].
    pub fn wait_ready(&mut self) -> Result<()> {
        let mut byte = [0];
        self.words
            .read_exact(&mut byte)
            .context("the child was never ready")?;
        ensure!(byte[0] == b'!', "the child failed");
        Ok(())
    }

    /// Sends it a signal.
    pub fn kill(&self, signal: Signal) -> Result<()> {
        Ok(nix::sys::signal::kill(self.pid, signal)?)
    }
}

/// A child's way to speak to its parent.
pub struct Teller(File);

impl Teller {
    /// Says that it has got so far.
    pub fn ready(&mut self) -> Result<()> {
        Ok(self.0.write_all(b"!")?)
    }
}

/// Runs something in a child process, which then exits.
pub fn child(body: impl FnOnce(&mut Teller) -> Result<()>) -> Result<Child> {
    let (read, write) = pipe()?;
    // SAFETY: cases have one thread when they fork.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => Ok(Child {
            pid: child,
            words: read.into(),
        }),
        ForkResult::Child => {
            drop(read);
            let mut teller = Teller(write.into());
            let code = match body(&mut teller) {
                Ok(()) => 0,
                Err(e) => {
                    let _ = write!(teller.0, "{e:#}");
                    1
                }
            };
            // SAFETY: does not return and touches no memory.
            unsafe { libc::_exit(code) }
        }
    }
}

/// Waits in a child until a signal ends it.
pub fn sleep_for_ever() -> ! {
    loop {
        // SAFETY: no memory is involved.
        unsafe { libc::pause() };
    }
}

/// A descriptor from a system call that nobody has wrapped.
pub fn fd_from(ret: i64) -> Result<OwnedFd, Errno> {
    // SAFETY: the kernel has just made this descriptor for us.
    check(ret).map(|fd| unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// getdents64(2): how many bytes of records were read, 0 at the end.
pub fn getdents(dir: &impl AsRawFd, buffer: &mut [u8]) -> Result<usize, Errno> {
    // SAFETY: the kernel writes to a buffer of that size.
    let n = unsafe {
        libc::syscall(
            libc::SYS_getdents64,
            dir.as_raw_fd(),
            buffer.as_mut_ptr(),
            buffer.len(),
        )
    };
    check(n).map(|n| n as usize)
}
