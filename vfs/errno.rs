// SPDX-License-Identifier: GPL-2.0

//! Errors that `kernel::error::code` has from 7.3 on only.

use kernel::{bindings, error::Error};

/// An error as the number it is.
#[derive(Clone, Copy)]
pub(crate) struct Errno(u32);

/// Not supported.
pub(crate) const EOPNOTSUPP: Errno = Errno(bindings::EOPNOTSUPP);
/// Too many levels, of links or of file systems.
pub(crate) const ELOOP: Errno = Errno(bindings::ELOOP);
/// A name is too long.
pub(crate) const ENAMETOOLONG: Errno = Errno(bindings::ENAMETOOLONG);
/// Out of quota.
pub(crate) const EDQUOT: Errno = Errno(bindings::EDQUOT);

impl From<Errno> for Error {
    fn from(errno: Errno) -> Self {
        Self::from_errno(-(errno.0 as i32))
    }
}

impl PartialEq<Errno> for Error {
    fn eq(&self, errno: &Errno) -> bool {
        *self == Self::from(*errno)
    }
}
