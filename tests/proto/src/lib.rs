// SPDX-License-Identifier: GPL-2.0

//! The messages that a Coda kernel module and its cache manager exchange over
//! `/dev/cfsN`, as they lie in memory on a 64-bit machine.
//!
//! The device is a message queue: one `read(2)` takes one request (an
//! "upcall") off it, one `write(2)` puts one reply, or one "downcall" that
//! nobody asked for, onto it. Every request begins with [`InHdr`], every reply
//! and downcall with [`OutHdr`]; a reply repeats the request's opcode and
//! unique number. Names follow the fixed part of a request, and the request
//! holds their offset from its own start.
//!
//! C compilers pad some of these structures. The padding is spelled out here
//! as `_pad` fields, so that nothing uninitialised can be sent, and the sizes
//! and offsets are checked when this file is compiled.

mod dirent;
mod flags;
pub mod request;
mod vattr;

pub use dirent::*;
pub use flags::*;
pub use vattr::*;

use std::fmt;
use std::str::FromStr;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

/// The protocol's number, as `CIOC_KERNEL_VERSION` answers it.
pub const KERNEL_VERSION: u32 = 5;
/// `_IOWR('c', 10, size_t)`: asks the module which protocol it speaks.
pub const CIOC_KERNEL_VERSION: u64 = 0xc008_630a;
/// The major number of `/dev/cfs0` and its siblings.
pub const PSDEV_MAJOR: u32 = 67;
/// How many such devices there are.
pub const MAX_DEVICES: u32 = 5;
/// The longest name of a directory entry.
pub const MAXNAMLEN: usize = 255;
/// The longest symbolic link.
pub const MAXPATHLEN: usize = 1024;
/// The most data that an `ioctl` carries either way.
pub const MAXDATASIZE: usize = 8192;
/// A buffer of this size holds any message.
pub const MAXMSGSIZE: usize = 16 * 1024;
/// The value of `MountData::version`.
pub const MOUNT_VERSION: i32 = 1;
/// What `statfs(2)` shows as the file system's type.
pub const SUPER_MAGIC: i64 = 0x7375_7245;

/// Names the message. The numbers with gaps between them were never used, or
/// are no longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Opcode(pub u32);

macro_rules! opcodes {
    ($($(#[$doc:meta])* $name:ident = $value:literal;)*) => {
        #[allow(missing_docs)]
        impl Opcode {
            $($(#[$doc])* pub const $name: Opcode = Opcode($value);)*

            const NAMES: &'static [(&'static str, Opcode)] =
                &[$((stringify!($name), Opcode::$name)),*];
        }
    };
}

opcodes! {
    ROOT = 2;
    OPEN_BY_FD = 3;
    OPEN = 4;
    CLOSE = 5;
    IOCTL = 6;
    GETATTR = 7;
    SETATTR = 8;
    ACCESS = 9;
    LOOKUP = 10;
    CREATE = 11;
    REMOVE = 12;
    LINK = 13;
    RENAME = 14;
    MKDIR = 15;
    RMDIR = 16;
    SYMLINK = 18;
    READLINK = 19;
    FSYNC = 20;
    VGET = 22;
    SIGNAL = 23;
    /// The first of the downcalls.
    REPLACE = 24;
    FLUSH = 25;
    PURGEUSER = 26;
    ZAPFILE = 27;
    ZAPDIR = 28;
    /// The last of the downcalls.
    PURGEFID = 30;
    OPEN_BY_PATH = 31;
    RESOLVE = 32;
    REINTEGRATE = 33;
    STATFS = 34;
    STORE = 35;
    RELEASE = 36;
    ACCESS_INTENT = 37;
}

impl fmt::Display for Opcode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Self::NAMES.iter().find(|(_, op)| op == self) {
            Some((name, _)) => f.write_str(name),
            None => write!(f, "{}", self.0),
        }
    }
}

/// Nobody sends a message of that name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no Coda message is called {0:?}")]
pub struct UnknownOpcode(pub String);

impl FromStr for Opcode {
    type Err = UnknownOpcode;

    fn from_str(s: &str) -> Result<Self, UnknownOpcode> {
        if let Ok(number) = s.parse() {
            return Ok(Opcode(number));
        }
        let s = s.strip_prefix("CODA_").unwrap_or(s);
        Self::NAMES
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(s))
            .map(|&(_, op)| op)
            .ok_or_else(|| UnknownOpcode(s.to_owned()))
    }
}

/// Names an object in the whole of Coda: realm, volume, vnode, uniquifier.
/// The kernel takes it as sixteen opaque bytes.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    Default,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
)]
#[repr(C)]
pub struct Fid(pub [u32; 4]);

impl Fid {
    /// The inode number that both sides derive from a fid, so that `d_ino` of
    /// a directory entry agrees with `st_ino`.
    pub fn inode_number(&self) -> u32 {
        let [realm, volume, vnode, unique] = self.0;
        unique ^ (vnode << 10) ^ (volume << 20) ^ realm
    }
}

impl fmt::Display for Fid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d] = self.0;
        write!(f, "{a:x}.{b:x}.{c:x}.{d:x}")
    }
}

/// The text is not four hexadecimal numbers with dots between them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no fid")]
pub struct BadFid(pub String);

impl FromStr for Fid {
    type Err = BadFid;

    fn from_str(s: &str) -> Result<Self, BadFid> {
        let words: Result<Vec<u32>, _> = s.split('.').map(|w| u32::from_str_radix(w, 16)).collect();
        words
            .ok()
            .and_then(|w| <[u32; 4]>::try_from(w).ok())
            .map(Fid)
            .ok_or_else(|| BadFid(s.to_owned()))
    }
}

/// What `mount(2)` takes as its data.
#[derive(Debug, Clone, Copy, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MountData {
    /// [`MOUNT_VERSION`].
    pub version: i32,
    /// The cache manager's descriptor of `/dev/cfsN`.
    pub fd: i32,
}

macro_rules! messages {
    ($(
        $(#[$doc:meta])*
        $name:ident, $size:literal {
            $($(#[$fdoc:meta])* $offset:literal $field:ident: $ty:ty,)*
        }
    )*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
        #[repr(C)]
        #[allow(missing_docs)]
        pub struct $name {
            $($(#[$fdoc])* pub $field: $ty,)*
        }

        impl Default for $name {
            fn default() -> Self {
                Self::new_zeroed()
            }
        }

        const _: () = assert!(size_of::<$name>() == $size);
        $(const _: () = assert!(std::mem::offset_of!($name, $field) == $offset);)*
    )*};
}

messages! {
    /// Begins every request.
    InHdr, 20 {
        0 opcode: u32,
        /// Tells requests under way from each other; the reply repeats it.
        4 unique: u32,
        8 pid: i32,
        12 pgid: i32,
        16 uid: u32,
    }
    /// Begins every reply and every downcall.
    OutHdr, 12 {
        0 opcode: u32,
        4 unique: u32,
        /// 0, or an errno as a positive number.
        8 result: u32,
    }
    /// Answers ROOT.
    RootOut, 28 {
        0 oh: OutHdr,
        12 fid: Fid,
    }
    /// A request about one object with nothing more to say: GETATTR,
    /// READLINK, FSYNC, VGET.
    FidIn, 36 {
        0 ih: InHdr,
        20 fid: Fid,
    }
    /// OPEN_BY_FD, CLOSE, and ACCESS with a mask for flags.
    FlagsIn, 40 {
        0 ih: InHdr,
        20 fid: Fid,
        36 flags: u32,
    }
    /// Answers OPEN_BY_FD. `fd` is a descriptor of the process that writes
    /// the reply; the kernel takes its own reference to the file in `write(2)`.
    OpenByFdOut, 16 {
        0 oh: OutHdr,
        12 fd: i32,
    }
    /// IOCTL: the data begins at offset `data`.
    IoctlIn, 56 {
        0 ih: InHdr,
        20 fid: Fid,
        36 cmd: u32,
        40 len: i32,
        44 rwflag: i32,
        48 data: u64,
    }
    /// Answers IOCTL.
    IoctlOut, 24 {
        0 oh: OutHdr,
        12 len: i32,
        16 data: u64,
    }
    /// Answers GETATTR.
    GetattrOut, 152 {
        0 oh: OutHdr,
        12 _pad: u32,
        16 attr: Vattr,
    }
    /// SETATTR: attributes that shall stay are -1.
    SetattrIn, 176 {
        0 ih: InHdr,
        20 fid: Fid,
        36 _pad: u32,
        40 attr: Vattr,
    }
    /// LOOKUP of a name in a directory.
    LookupIn, 44 {
        0 ih: InHdr,
        20 fid: Fid,
        36 name: i32,
        40 flags: u32,
    }
    /// Answers LOOKUP and VGET.
    LookupOut, 32 {
        0 oh: OutHdr,
        12 fid: Fid,
        28 vtype: u32,
    }
    /// CREATE of a regular file.
    CreateIn, 192 {
        0 ih: InHdr,
        20 fid: Fid,
        36 _pad: u32,
        40 attr: Vattr,
        176 excl: i32,
        180 mode: i32,
        184 name: i32,
        188 _pad2: u32,
    }
    /// Answers CREATE and MKDIR.
    CreateOut, 168 {
        0 oh: OutHdr,
        12 fid: Fid,
        28 _pad: u32,
        32 attr: Vattr,
    }
    /// MKDIR.
    MkdirIn, 184 {
        0 ih: InHdr,
        20 fid: Fid,
        36 _pad: u32,
        40 attr: Vattr,
        176 name: i32,
        180 _pad2: u32,
    }
    /// REMOVE and RMDIR of a name in a directory.
    NameIn, 40 {
        0 ih: InHdr,
        20 fid: Fid,
        36 name: i32,
    }
    /// LINK: `source` is the object, `dest` the directory of the new name.
    LinkIn, 56 {
        0 ih: InHdr,
        20 source: Fid,
        36 dest: Fid,
        52 tname: i32,
    }
    /// RENAME between two directories.
    RenameIn, 60 {
        0 ih: InHdr,
        20 source: Fid,
        36 srcname: i32,
        40 dest: Fid,
        56 destname: i32,
    }
    /// SYMLINK: `srcname` is what the link says, `tname` what it is called.
    SymlinkIn, 184 {
        0 ih: InHdr,
        20 fid: Fid,
        36 srcname: i32,
        40 attr: Vattr,
        176 tname: i32,
        180 _pad: u32,
    }
    /// Answers READLINK: `count` bytes from offset `data`.
    ReadlinkOut, 24 {
        0 oh: OutHdr,
        12 count: i32,
        16 data: u64,
    }
    /// Answers STATFS, in blocks of 4096 bytes.
    StatfsOut, 32 {
        0 oh: OutHdr,
        12 blocks: i32,
        16 bfree: i32,
        20 bavail: i32,
        24 files: i32,
        28 ffree: i32,
    }
    /// ACCESS_INTENT: a range is about to be, or has been, read or written.
    AccessIntentIn, 48 {
        0 ih: InHdr,
        20 fid: Fid,
        36 count: i32,
        40 pos: i32,
        44 kind: i32,
    }
    /// The downcall PURGEUSER.
    PurgeuserOut, 16 {
        0 oh: OutHdr,
        12 uid: u32,
    }
    /// The downcalls ZAPFILE, ZAPDIR and PURGEFID.
    FidOut, 28 {
        0 oh: OutHdr,
        12 fid: Fid,
    }
    /// The downcall REPLACE.
    ReplaceOut, 44 {
        0 oh: OutHdr,
        12 new: Fid,
        28 old: Fid,
    }
}

impl OutHdr {
    /// That of the answer to a request.
    pub fn answer(to: &InHdr, result: u32) -> Self {
        OutHdr {
            opcode: to.opcode,
            unique: to.unique,
            result,
        }
    }
}

/// Values of [`AccessIntentIn::kind`].
pub mod intent {
    /// A range will be read.
    pub const READ: i32 = 1;
    /// A range will be written.
    pub const WRITE: i32 = 2;
    /// A range will be mapped.
    pub const MMAP: i32 = 3;
    /// The read is over. Nobody waits for a reply to this.
    pub const READ_FINISH: i32 = 4;
    /// The write is over. Nobody waits for a reply to this.
    pub const WRITE_FINISH: i32 = 5;
}

/// The name at `offset` of `msg`: the bytes up to the first NUL, `None` if the
/// message does not hold one there.
pub fn name_at(msg: &[u8], offset: i32) -> Option<&[u8]> {
    let rest = msg.get(usize::try_from(offset).ok()?..)?;
    let end = rest.iter().position(|&b| b == 0)?;
    Some(&rest[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fid_survives_text() {
        let fid = Fid([1, 0x7f00_0001, 0xffff_ffff, 0]);
        assert_eq!(fid.to_string().parse(), Ok(fid));
        assert!("1.2.3".parse::<Fid>().is_err());
        assert!("1.2.3.x".parse::<Fid>().is_err());
    }

    #[test]
    fn opcodes_have_names() {
        assert_eq!(Opcode::OPEN_BY_FD.to_string(), "OPEN_BY_FD");
        assert_eq!("coda_close".to_uppercase().parse(), Ok(Opcode::CLOSE));
        assert_eq!("37".parse(), Ok(Opcode::ACCESS_INTENT));
        assert!("NOPE".parse::<Opcode>().is_err());
    }

    #[test]
    fn names_end_with_nul_inside_the_message() {
        assert_eq!(name_at(b"xxab\0c", 2), Some(&b"ab"[..]));
        assert_eq!(name_at(b"xxab", 2), None);
        assert_eq!(name_at(b"xx", 5), None);
        assert_eq!(name_at(b"xx", -1), None);
    }
}
