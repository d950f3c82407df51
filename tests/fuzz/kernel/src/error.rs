// SPDX-License-Identifier: GPL-2.0

//! Errors.

use crate::alloc::AllocError;

/// An errno, negative as in C.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Error(i32);

/// The result of nearly everything.
pub type Result<T = (), E = Error> = core::result::Result<T, E>;

impl Error {
    /// Makes an error of a negative errno.
    ///
    /// # Panics
    ///
    /// If it is none; the kernel would warn, and make it `EINVAL`.
    pub const fn from_errno(errno: i32) -> Self {
        assert!(-4095 <= errno && errno < 0, "no errno");
        Self(errno)
    }

    /// The negative errno.
    pub const fn to_errno(self) -> i32 {
        self.0
    }
}

impl From<AllocError> for Error {
    fn from(_: AllocError) -> Self {
        code::ENOMEM
    }
}

/// The errors by name.
#[allow(missing_docs)]
pub mod code {
    use super::Error;

    pub const ENOENT: Error = Error(-2);
    pub const EIO: Error = Error(-5);
    pub const ENOMEM: Error = Error(-12);
    pub const EINVAL: Error = Error(-22);
}
