// SPDX-License-Identifier: GPL-2.0

//! Safe abstractions over the parts of the VFS that the `kernel` crate has not got.
//!
//! This folder is the only place of the module where `unsafe` stands, and it knows nothing of the
//! file system above it: a file system implements [`FileSystem`], a character device
//! [`CharDevice`](chrdev::CharDevice), and the owner of a file that is served from a file of another file system
//! [`BackingHooks`].  Everything that differs between kernel versions is settled here.
//!
//! What ties a pointer of the C side to a Rust type is always one of three things, and each module
//! says which: the operations table the kernel called us through, the super block's type, or the
//! table embedded in the object that owns it (`container_of`).

#![deny(unsafe_op_in_unsafe_fn)]
#![deny(clippy::undocumented_unsafe_blocks)]

pub(crate) mod backing;
mod bindings;
pub(crate) mod chrdev;
pub(crate) mod debugfs;
pub(crate) mod dentry;
pub(crate) mod errno;
pub(crate) mod file;
pub(crate) mod fs;
pub(crate) mod inode;
pub(crate) mod module;
mod ops;
pub(crate) mod sb;
pub(crate) mod sysctl;
pub(crate) mod task;
pub(crate) mod trace;
pub(crate) mod wait;

pub(crate) use backing::{BackingFile, BackingHooks};
pub(crate) use dentry::{Dentry, Name};
pub(crate) use file::File;
pub(crate) use fs::FileSystem;
pub(crate) use inode::{Attr, INode};
pub(crate) use sb::SuperBlock;

use kernel::prelude::*;

/// Like `pr_warn!`, but says no more than a few lines in a row: whoever makes it say something could
/// do so for ever.
macro_rules! warn_limited {
    ($($arg:tt)*) => {
        if $crate::vfs::may_warn() {
            ::kernel::prelude::pr_warn!($($arg)*);
        }
    };
}
pub(crate) use warn_limited;

/// Whether another warning is due: see `warn_limited!`.
pub(crate) fn may_warn() -> bool {
    // SAFETY: The rate limit has a lock of its own.
    unsafe { bindings::vfsh_may_warn() }
}

/// Turns a result into what a C operation returns: 0 or a negative errno.
fn to_int(result: Result) -> kernel::ffi::c_int {
    match result {
        Ok(()) => 0,
        Err(err) => err.to_errno(),
    }
}

/// Turns a byte count into what a C operation returns: the count or a negative errno. Nobody checks
/// the count, so it is for operations whose caller hands it on to user space and does no more.
fn to_isize(result: Result<usize>) -> isize {
    match result {
        Ok(count) => isize::try_from(count).unwrap_or(isize::MAX),
        Err(err) => err.to_errno() as isize,
    }
}

/// Takes another reference to a file.
///
/// # Safety
///
/// The caller has one.
unsafe fn get_raw_file(file: *mut kernel::bindings::file) {
    // SAFETY: The caller's promise.
    unsafe { bindings::vfsh_get_file(file) };
}

/// Reads a count or negative errno of the C side.
fn from_isize(ret: isize) -> Result<usize> {
    usize::try_from(ret).map_err(|_| Error::from_errno(ret as i32))
}
