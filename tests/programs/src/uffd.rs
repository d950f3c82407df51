// SPDX-License-Identifier: GPL-2.0

//! Page faults that wait for us: userfaultfd(2).

use crate::map::Map;
use crate::sys;
use ktest::{Context, Result, bail};
use nix::errno::Errno;
use std::os::fd::{AsRawFd, OwnedFd};

/// The faults on the missing pages of a mapping. They wait for as long as this
/// exists.
pub struct Faults(OwnedFd);

impl Faults {
    /// Takes them over; `None` where that is not to be had.
    pub fn of(map: &Map) -> Result<Option<Self>> {
        const API: u64 = 0xc018_aa3f;
        const REGISTER: u64 = 0xc020_aa00;
        const MISSING_SHMEM: u64 = 1 << 5;
        // SAFETY: no memory is involved.
        let fd = sys::fd_from(unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC) });
        let faults = match fd {
            Ok(fd) => Faults(fd),
            Err(Errno::ENOSYS | Errno::EPERM) => return Ok(None),
            Err(e) => bail!("userfaultfd: {e}"),
        };
        if faults.ask(API, &mut [0xaa, MISSING_SHMEM, 0]).is_err() {
            return Ok(None);
        }
        let start = map.address() as u64;
        match faults.ask(REGISTER, &mut [start, map.len() as u64, 1, 0]) {
            Ok(_) => Ok(Some(faults)),
            // Not for such a mapping.
            Err(Errno::EINVAL) => Ok(None),
            Err(e) => bail!("UFFDIO_REGISTER: {e}"),
        }
    }

    fn ask(&self, request: u64, argument: &mut [u64]) -> Result<i64, Errno> {
        let fd = self.0.as_raw_fd();
        // SAFETY: the slices are as long as the requests' numbers say.
        let ret = unsafe { libc::ioctl(fd, request as libc::Ioctl, argument.as_mut_ptr()) };
        sys::check(ret.into())
    }

    /// Fills the first page.
    pub fn copy(&self, map: &Map, page: &[u8]) -> Result<()> {
        const COPY: u64 = 0xc028_aa03;
        let (from, to) = (page.as_ptr() as u64, map.address() as u64);
        self.ask(COPY, &mut [to, from, page.len() as u64, 0, 0])
            .context("UFFDIO_COPY")?;
        Ok(())
    }
}
