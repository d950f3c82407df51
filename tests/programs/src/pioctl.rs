// SPDX-License-Identifier: GPL-2.0

//! The ioctl of `.CONTROL`, by which `cfs` used to speak to its cache manager.

use crate::sys::check;
use nix::errno::Errno;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

#[repr(C)]
struct ViceIoctl {
    input: *const u8,
    output: *mut u8,
    in_size: u16,
    out_size: u16,
}

#[repr(C)]
struct PioctlData {
    path: *const libc::c_char,
    follow: i32,
    vi: ViceIoctl,
}

const _: () = assert!(size_of::<PioctlData>() == 40);

/// Asks about a path of the same mount. The cache manager is shown `kind` and
/// `number`.
pub fn pioctl(
    control: &OwnedFd,
    path: &Path,
    kind: u8,
    number: u8,
    input: &[u8],
    output: &mut [u8],
) -> Result<(), Errno> {
    let path = ktest::path_c(path);
    let mut data = PioctlData {
        path: path.as_ptr(),
        follow: 1,
        vi: ViceIoctl {
            input: input.as_ptr(),
            output: output.as_mut_ptr(),
            in_size: input.len() as u16,
            out_size: output.len() as u16,
        },
    };
    let (size, kind) = (size_of::<PioctlData>() as u64, u64::from(kind));
    // _IOWR
    let request = 0xc000_0000 | (size << 16) | (kind << 8) | u64::from(number);
    // SAFETY: all pointers are to live objects of the sizes told.
    let ret = unsafe { libc::ioctl(control.as_raw_fd(), request as libc::Ioctl, &raw mut data) };
    check(ret.into()).map(|_| ())
}
