// SPDX-License-Identifier: GPL-2.0

//! One asynchronous operation, by both of the kernel's interfaces.

use crate::sys::check;
use io_uring::{IoUring, opcode, squeue, types};
use ktest::{Context, Result, ensure};
use nix::errno::Errno;
use std::os::fd::{AsRawFd, OwnedFd};

/// One pwrite by io_submit(2); gives what io_getevents(2) said.
pub fn write(fd: &OwnedFd, bytes: &[u8], offset: i64) -> Result<i64> {
    const IOCB_CMD_PWRITE: u16 = 1;
    let mut context: libc::c_ulong = 0;
    // SAFETY: the kernel stores a handle there.
    check(unsafe { libc::syscall(libc::SYS_io_setup, 1, &mut context) }).context("io_setup")?;
    // SAFETY: all zeroes is how such a structure begins.
    let mut iocb: libc::iocb = unsafe { std::mem::zeroed() };
    iocb.aio_lio_opcode = IOCB_CMD_PWRITE;
    iocb.aio_fildes = fd.as_raw_fd() as u32;
    iocb.aio_buf = bytes.as_ptr() as u64;
    iocb.aio_nbytes = bytes.len() as u64;
    iocb.aio_offset = offset;
    let list = [&raw mut iocb];
    // SAFETY: iocb and the bytes live until the event has come.
    let n = check(unsafe { libc::syscall(libc::SYS_io_submit, context, 1, list.as_ptr()) })
        .context("io_submit")?;
    ensure!(n == 1, "io_submit took {n}");
    // struct io_event: data, obj, res, res2.
    let mut event = [0i64; 4];
    // SAFETY: there is room for the one event that is asked for.
    let n = check(unsafe {
        libc::syscall(
            libc::SYS_io_getevents,
            context,
            1,
            1,
            event.as_mut_ptr(),
            std::ptr::null::<libc::timespec>(),
        )
    })
    .context("io_getevents")?;
    ensure!(n == 1, "io_getevents gave {n}");
    // SAFETY: the handle is what io_setup gave.
    check(unsafe { libc::syscall(libc::SYS_io_destroy, context) }).context("io_destroy")?;
    Ok(event[2])
}

/// An io_uring; `None` where the kernel has none to offer.
pub fn ring() -> Result<Option<IoUring>> {
    match IoUring::new(2) {
        Ok(ring) => Ok(Some(ring)),
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENOSYS | libc::EPERM)) => Ok(None),
        Err(e) => Err(e).context("io_uring_setup"),
    }
}

/// Runs one entry through an io_uring of its own.
fn uring(entry: &squeue::Entry) -> Result<Option<i32>> {
    let Some(mut ring) = ring()? else {
        return Ok(None);
    };
    // SAFETY: what the entry points to outlives the wait below.
    unsafe { ring.submission().push(entry) }.context("the queue is full")?;
    ring.submit_and_wait(1).context("io_uring_enter")?;
    let done = ring.completion().next().context("no completion")?;
    Ok(Some(done.result()))
}

fn result(n: Option<i32>) -> Result<Option<Result<usize, Errno>>> {
    Ok(n.map(|n| match n {
        n if n < 0 => Err(Errno::from_raw(-n)),
        n => Ok(n as usize),
    }))
}

/// One pwrite by io_uring.
pub fn uring_write(
    fd: &OwnedFd,
    bytes: &[u8],
    offset: u64,
) -> Result<Option<Result<usize, Errno>>> {
    let write = opcode::Write::new(
        types::Fd(fd.as_raw_fd()),
        bytes.as_ptr(),
        bytes.len() as u32,
    );
    result(uring(&write.offset(offset).build())?)
}

/// One pread by io_uring.
pub fn uring_read(
    fd: &OwnedFd,
    bytes: &mut [u8],
    offset: u64,
) -> Result<Option<Result<usize, Errno>>> {
    let read = opcode::Read::new(
        types::Fd(fd.as_raw_fd()),
        bytes.as_mut_ptr(),
        bytes.len() as u32,
    );
    result(uring(&read.offset(offset).build())?)
}

/// Whether io_uring needs a thread to read the beginning of a file; `None`
/// where the kernel has no io_uring to offer.
///
/// What it would hand to a thread it refuses when told not to wait. The threads
/// themselves are no good as a sign: they come late, stay, and may go at any time.
pub fn uring_needs_thread(fd: &OwnedFd) -> Result<Option<bool>> {
    let mut bytes = [0_u8; 7];
    let read = opcode::Read::new(
        types::Fd(fd.as_raw_fd()),
        bytes.as_mut_ptr(),
        bytes.len() as u32,
    )
    .rw_flags(libc::RWF_NOWAIT);
    match result(uring(&read.build())?)? {
        None => Ok(None),
        Some(Ok(n)) => {
            ensure!(n == bytes.len(), "a short read");
            Ok(Some(false))
        }
        Some(Err(Errno::EAGAIN | Errno::EOPNOTSUPP)) => Ok(Some(true)),
        Some(Err(e)) => Err(e).context("a read by io_uring"),
    }
}

/// One fallocate by io_uring.
pub fn uring_fallocate(fd: &OwnedFd, len: u64) -> Result<Option<Result<usize, Errno>>> {
    result(uring(
        &opcode::Fallocate::new(types::Fd(fd.as_raw_fd()), len).build(),
    )?)
}

/// Memory that an io_uring keeps pinned, mapped or not.
pub struct Pinned {
    ring: IoUring,
    address: *mut u8,
    len: usize,
}

impl Pinned {
    /// Pins it; `None` where the kernel does not allow that.
    ///
    /// # Safety
    ///
    /// The kernel writes to these pages as long as this lives, whoever has them
    /// by then.
    pub unsafe fn new(address: *mut u8, len: usize) -> Result<Option<Self>> {
        let Some(ring) = ring()? else {
            return Ok(None);
        };
        let piece = libc::iovec {
            iov_base: address.cast(),
            iov_len: len,
        };
        // SAFETY: the caller's promise.
        match unsafe { ring.submitter().register_buffers(&[piece]) } {
            Ok(()) => Ok(Some(Pinned { ring, address, len })),
            // Files of most file systems cannot be pinned for writing.
            Err(e) if matches!(e.raw_os_error(), Some(libc::EFAULT | libc::EOPNOTSUPP)) => Ok(None),
            Err(e) => Err(e).context("IORING_REGISTER_BUFFERS"),
        }
    }

    /// Reads from a file into the beginning of it.
    pub fn read(&mut self, fd: &OwnedFd, len: usize) -> Result<()> {
        ensure!(len <= self.len, "there is not so much memory");
        let read = opcode::ReadFixed::new(types::Fd(fd.as_raw_fd()), self.address, len as u32, 0);
        let ring = &mut self.ring;
        // SAFETY: the memory is pinned, and the caller of `new` knows of it.
        unsafe { ring.submission().push(&read.build()) }.context("the queue is full")?;
        ring.submit_and_wait(1).context("io_uring_enter")?;
        let done = ring.completion().next().context("no completion")?;
        ensure!(done.result() == len as i32, "it read {}", done.result());
        Ok(())
    }
}
