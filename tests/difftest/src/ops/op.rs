// SPDX-License-Identifier: GPL-2.0

//! Operations and their results, as they are logged.

use super::executor::name_of;
use libc::c_int;
use nix::errno::Errno;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

macro_rules! names {
    ($($name:ident)*) => { &[$((stringify!($name), libc::$name as i64)),*] };
}

/// The constants that operations name.
pub(super) const CONSTANTS: &[(&str, i64)] = names!(
    O_RDONLY O_WRONLY O_RDWR O_ACCMODE O_CREAT O_EXCL O_TRUNC O_NOFOLLOW O_DIRECTORY O_PATH
    O_TMPFILE O_NONBLOCK SEEK_SET SEEK_CUR SEEK_END SEEK_DATA SEEK_HOLE AT_EACCESS
    AT_SYMLINK_FOLLOW AT_SYMLINK_NOFOLLOW AT_STATX_DONT_SYNC AT_STATX_FORCE_SYNC STATX_TYPE
    STATX_MODE STATX_INO STATX_SIZE STATX_MTIME STATX_BASIC_STATS STATX_BTIME F_OK R_OK W_OK X_OK
    RENAME_NOREPLACE RENAME_EXCHANGE S_IFIFO S_IFREG S_IFCHR F_RDLCK F_WRLCK F_UNLCK LOCK_SH
    LOCK_EX LOCK_UN LOCK_NB POSIX_FADV_NORMAL POSIX_FADV_SEQUENTIAL POSIX_FADV_WILLNEED
    POSIX_FADV_DONTNEED PROT_NONE PROT_READ PROT_WRITE MAP_SHARED MAP_PRIVATE MS_SYNC MS_ASYNC
    MS_INVALIDATE MADV_DONTNEED MADV_WILLNEED MADV_NORMAL
);

/// The value of some names with `|` between them; no names are 0.
pub(super) fn value(names: &str) -> c_int {
    let one = |name: &str| {
        let found = CONSTANTS.iter().find(|constant| constant.0 == name);
        found.expect("only known constants are named").1 as c_int
    };
    let names = names.split('|').filter(|name| !name.is_empty());
    names.map(one).fold(0, |all, bits| all | bits)
}

/// One operation. `slot` and `to` are numbers of descriptors, `map` is that of
/// a mapping.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", content = "args", rename_all = "snake_case")]
#[rustfmt::skip]
pub(super) enum Op {
    Open { slot: usize, path: String, flags: String, mode: u32 },
    Close { slot: usize },
    Dup { slot: usize, to: usize },
    Read { slot: usize, len: usize },
    Pread { slot: usize, off: i64, len: usize },
    Readv { slot: usize, lens: Vec<usize> },
    Preadv2 { slot: usize, off: i64, lens: Vec<usize> },
    Write { slot: usize, len: usize },
    Pwrite { slot: usize, off: i64, len: usize },
    Writev { slot: usize, lens: Vec<usize> },
    Lseek { slot: usize, off: i64, whence: String },
    Ftruncate { slot: usize, size: i64 },
    Truncate { path: String, size: i64 },
    Fsync { slot: usize },
    Fdatasync { slot: usize },
    Stat { path: String },
    Lstat { path: String },
    Fstat { slot: usize },
    Statx { path: String, flags: String, mask: String },
    Access { path: String, mode: String },
    Faccessat2 { path: String, mode: String, flags: String },
    Chmod { path: String, mode: u32 },
    Fchmod { slot: usize, mode: u32 },
    /// -1 leaves an id alone.
    Chown { path: String, uid: i32, gid: i32 },
    Lchown { path: String, uid: i32, gid: i32 },
    /// A time is `now`, `omit` or `seconds.nanoseconds`.
    Utimensat { path: String, atime: String, mtime: String, flags: String },
    Futimens { slot: usize, atime: String, mtime: String },
    Mkdir { path: String, mode: u32 },
    Rmdir { path: String },
    Unlink { path: String },
    Rename { from: String, to: String },
    Renameat2 { from: String, to: String, flags: String },
    Link { from: String, to: String },
    Linkat { from: String, to: String, flags: String },
    Symlink { target: String, path: String },
    Readlink { path: String },
    Mknod { path: String, kind: String, mode: u32 },
    List { path: String },
    Statfs { path: String },
    Getfl { slot: usize },
    Setfl { slot: usize, flags: String },
    Setlk { slot: usize, kind: String, off: i64, len: i64 },
    Getlk { slot: usize, kind: String, off: i64, len: i64 },
    Flock { slot: usize, how: String },
    Ioctl { slot: usize, number: u32 },
    Getxattr { path: String, name: String },
    Setxattr { path: String, name: String, len: usize },
    Listxattr { path: String },
    Fadvise { slot: usize, off: i64, len: i64, advice: String },
    Readahead { slot: usize, off: i64, len: usize },
    Sendfile { slot: usize, len: usize, to_pipe: bool },
    Splice { slot: usize, len: usize },
    CopyFileRange { slot: usize, len: usize },
    Mmap { map: usize, slot: usize, off: i64, len: usize, prot: String, flags: String },
    MapLoad { map: usize, off: usize, len: usize },
    MapStore { map: usize, off: usize, len: usize },
    Mprotect { map: usize, prot: String },
    Msync { map: usize, flags: String },
    Munmap { map: usize },
    Madvise { map: usize, advice: String },
    /// Execution in a child of a file that is no program.
    Exec { path: String },
    /// A child reads or writes through an inherited descriptor.
    ChildIo { slot: usize, len: usize, write: bool },
    /// A child opens a file, writes or reads, and exits without closing it.
    Kill { path: String, flags: String, len: usize },
    /// A file of its own, written through a shared mapping.
    FreshMap { path: String, len: usize, msync: bool, unlink: bool },
}

/// What became of an operation.
#[derive(Default, Serialize, Deserialize)]
pub(super) struct Answer {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) ret: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) errno: Option<String>,
    #[serde(flatten)]
    pub(super) details: Map<String, Value>,
}

impl Answer {
    pub(super) fn of(result: Result<i64, Errno>) -> Self {
        let (ret, errno) = match result {
            Ok(ret) => (Some(ret), None),
            Err(errno) => (None, Some(name_of(errno))),
        };
        Self {
            ret,
            errno,
            ..Self::default()
        }
    }

    /// Adds a detail.
    pub(super) fn with(mut self, key: &str, detail: Value) -> Self {
        self.details.insert(key.to_string(), detail);
        self
    }
}

/// An operation on its way to an actor, and the beginning of its line in the
/// log.
#[derive(Serialize, Deserialize)]
pub(super) struct Command {
    pub(super) n: usize,
    pub(super) who: usize,
    #[serde(flatten)]
    pub(super) op: Op,
}

/// A line of the log.
#[derive(Serialize)]
pub(super) struct Line<'a> {
    #[serde(flatten)]
    pub(super) command: &'a Command,
    #[serde(flatten)]
    pub(super) answer: Answer,
}
