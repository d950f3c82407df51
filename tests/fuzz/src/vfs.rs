// SPDX-License-Identifier: GPL-2.0

//! As much of the module's `vfs` as `wire.rs` uses.

/// Errors that the kernel has a name of from 7.3 on only.
pub(crate) mod errno {
    use kernel::error::Error;

    /// An error as the number it is.
    #[derive(Clone, Copy)]
    pub(crate) struct Errno(i32);

    /// A name is too long.
    pub(crate) const ENAMETOOLONG: Errno = Errno(36);

    impl From<Errno> for Error {
        fn from(errno: Errno) -> Self {
            Self::from_errno(-errno.0)
        }
    }
}

/// Attributes.
pub(crate) mod inode {
    use arbitrary::Arbitrary;

    /// The file type bits of a mode, and their values.
    pub(crate) mod mode {
        pub(crate) const S_IFMT: u32 = 0o170_000;
        pub(crate) const S_IFREG: u32 = 0o100_000;
        pub(crate) const S_IFDIR: u32 = 0o040_000;
        pub(crate) const S_IFLNK: u32 = 0o120_000;
    }

    /// A point in time.
    #[derive(Arbitrary, Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) struct TimeSpec {
        pub(crate) sec: i64,
        pub(crate) nsec: i64,
    }

    /// Attributes of an inode; `None` where there is nothing to say or to change.
    #[derive(Arbitrary, Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub(crate) struct Attr {
        pub(crate) mode: Option<u32>,
        pub(crate) uid: Option<u32>,
        pub(crate) gid: Option<u32>,
        pub(crate) nlink: Option<u32>,
        pub(crate) size: Option<i64>,
        pub(crate) atime: Option<TimeSpec>,
        pub(crate) mtime: Option<TimeSpec>,
        pub(crate) ctime: Option<TimeSpec>,
        pub(crate) rdev: u64,
    }
}

/// The current task, which is whom [`set`](task::set) says.
pub(crate) mod task {
    use arbitrary::Arbitrary;
    use std::cell::Cell;

    #[derive(Arbitrary, Clone, Copy, Debug)]
    pub(crate) struct Task {
        pub(crate) pid: i32,
        pub(crate) pgid: i32,
        pub(crate) fsuid: u32,
    }

    thread_local! {
        static CURRENT: Cell<Task> = const { Cell::new(Task { pid: 0, pgid: 0, fsuid: 0 }) };
    }

    pub(crate) fn set(task: Task) {
        CURRENT.set(task);
    }

    pub(crate) fn pid() -> i32 {
        CURRENT.get().pid
    }

    pub(crate) fn pgid() -> i32 {
        CURRENT.get().pgid
    }

    pub(crate) fn fsuid() -> u32 {
        CURRENT.get().fsuid
    }
}

/// Nobody reads the log.
macro_rules! warn_limited {
    ($($arg:tt)*) => {{
        let _ = format_args!($($arg)*);
    }};
}
pub(crate) use warn_limited;
