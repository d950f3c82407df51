// SPDX-License-Identifier: GPL-2.0

//! Attributes of an object, and its type.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Seconds and nanoseconds.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Timespec {
    /// Seconds since 1970.
    pub sec: i64,
    /// And nanoseconds.
    pub nsec: i64,
}

/// Values of [`Vattr::kind`], and of the type in the reply to LOOKUP.
pub mod vtype {
    /// No type: SETATTR cannot change it.
    pub const NON: i64 = 0;
    /// A regular file.
    pub const REG: i64 = 1;
    /// A directory.
    pub const DIR: i64 = 2;
    /// A symbolic link.
    pub const LNK: i64 = 5;
    /// Set in the reply to LOOKUP: do not keep this object in the cache.
    pub const NOCACHE: u32 = 0x8000_0000;
}

/// `struct coda_vattr`: `struct stat` as BSD had it. -1 in a field of SETATTR
/// leaves that attribute alone.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
#[allow(missing_docs)]
pub struct Vattr {
    pub kind: i64,
    pub mode: u16,
    pub nlink: i16,
    pub uid: u32,
    pub gid: u32,
    pub _pad: u32,
    pub fileid: i64,
    pub size: u64,
    pub blocksize: i64,
    pub atime: Timespec,
    pub mtime: Timespec,
    pub ctime: Timespec,
    pub generation: u64,
    pub flags: u64,
    pub rdev: u64,
    pub bytes: u64,
    pub filerev: u64,
}

const _: () = {
    use std::mem::offset_of;
    assert!(size_of::<Vattr>() == 136);
    assert!(offset_of!(Vattr, mode) == 8);
    assert!(offset_of!(Vattr, gid) == 16);
    assert!(offset_of!(Vattr, fileid) == 24);
    assert!(offset_of!(Vattr, size) == 32);
    assert!(offset_of!(Vattr, atime) == 48);
    assert!(offset_of!(Vattr, ctime) == 80);
    assert!(offset_of!(Vattr, generation) == 96);
    assert!(offset_of!(Vattr, rdev) == 112);
    assert!(offset_of!(Vattr, filerev) == 128);
};
