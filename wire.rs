#![deny(unsafe_code)]
// SPDX-License-Identifier: GPL-2.0

//! The wire format of upcalls and downcalls.
//!
//! Kernel header: [`include/uapi/linux/coda.h`](srctree/include/uapi/linux/coda.h), protocol
//! version 5. Numbers are in the machine's byte order, structs are laid out as the C compiler
//! does; the KUnit suite at the end compares offsets and sizes with the header itself.
//!
//! A message is written front to back by [`Encoder`], which begins from zeroed memory: no byte
//! that was not meant reaches the cache manager. A reply is read by [`Decoder`], which checks every
//! length.

use crate::vfs::{
    errno::ENAMETOOLONG,
    inode::{mode, Attr, TimeSpec},
    task, warn_limited,
};
use core::ops::{Deref, DerefMut};
use kernel::{alloc::flags::GFP_KERNEL, alloc::KVVec, prelude::*};

/// The protocol version that `CIOC_KERNEL_VERSION` answers.
pub(crate) const KERNEL_VERSION: u32 = 5;

/// The longest name in a directory.
pub(crate) const MAXNAMLEN: usize = 255;
/// The longest target of a symbolic link.
pub(crate) const MAXPATHLEN: usize = 1024;

/// Opcodes.
pub(crate) mod op {
    pub(crate) const ROOT: u32 = 2;
    pub(crate) const OPEN_BY_FD: u32 = 3;
    pub(crate) const CLOSE: u32 = 5;
    pub(crate) const IOCTL: u32 = 6;
    pub(crate) const GETATTR: u32 = 7;
    pub(crate) const SETATTR: u32 = 8;
    pub(crate) const ACCESS: u32 = 9;
    pub(crate) const LOOKUP: u32 = 10;
    pub(crate) const CREATE: u32 = 11;
    pub(crate) const REMOVE: u32 = 12;
    pub(crate) const LINK: u32 = 13;
    pub(crate) const RENAME: u32 = 14;
    pub(crate) const MKDIR: u32 = 15;
    pub(crate) const RMDIR: u32 = 16;
    pub(crate) const SYMLINK: u32 = 18;
    pub(crate) const READLINK: u32 = 19;
    pub(crate) const FSYNC: u32 = 20;
    pub(crate) const SIGNAL: u32 = 23;
    pub(crate) const REPLACE: u32 = 24;
    pub(crate) const FLUSH: u32 = 25;
    pub(crate) const PURGEUSER: u32 = 26;
    pub(crate) const ZAPFILE: u32 = 27;
    pub(crate) const ZAPDIR: u32 = 28;
    pub(crate) const PURGEFID: u32 = 30;
    pub(crate) const STATFS: u32 = 34;
    pub(crate) const ACCESS_INTENT: u32 = 37;
    /// All are less than this.
    pub(crate) const END: usize = 38;

    /// What it is called.
    pub(crate) fn name(opcode: u32) -> &'static str {
        match opcode {
            ROOT => "ROOT",
            OPEN_BY_FD => "OPEN_BY_FD",
            CLOSE => "CLOSE",
            IOCTL => "IOCTL",
            GETATTR => "GETATTR",
            SETATTR => "SETATTR",
            ACCESS => "ACCESS",
            LOOKUP => "LOOKUP",
            CREATE => "CREATE",
            REMOVE => "REMOVE",
            LINK => "LINK",
            RENAME => "RENAME",
            MKDIR => "MKDIR",
            RMDIR => "RMDIR",
            SYMLINK => "SYMLINK",
            READLINK => "READLINK",
            FSYNC => "FSYNC",
            SIGNAL => "SIGNAL",
            REPLACE => "REPLACE",
            FLUSH => "FLUSH",
            PURGEUSER => "PURGEUSER",
            ZAPFILE => "ZAPFILE",
            ZAPDIR => "ZAPDIR",
            PURGEFID => "PURGEFID",
            STATFS => "STATFS",
            ACCESS_INTENT => "ACCESS_INTENT",
            _ => "?",
        }
    }
}

/// What a result word means, which has to be 0 or a positive errno that a program may see; `EIO`
/// stands for anything else. With an error comes whether it is the cache manager's own.
pub(crate) fn result(word: i32) -> Result<(), (Error, bool)> {
    /// `EHWPOISON`, the last of `asm-generic/errno.h`.
    const LAST_ERRNO: i32 = 133;
    match word {
        0 => Ok(()),
        errno @ 1..=LAST_ERRNO => Err((Error::from_errno(-errno), true)),
        _ => Err((EIO, false)),
    }
}

/// Whether a message with this opcode is a downcall and no reply.
pub(crate) fn is_downcall(opcode: u32) -> bool {
    (op::REPLACE..=op::PURGEFID).contains(&opcode)
}

/// Flags of an open and a close.
pub(crate) mod cflags {
    /// Open for reading.
    pub(crate) const READ: u32 = 0x001;
    /// Open for writing.
    pub(crate) const WRITE: u32 = 0x002;
    /// The open truncates the file.
    pub(crate) const TRUNC: u32 = 0x010;
    /// The open makes the file.
    pub(crate) const CREAT: u32 = 0x200;
    /// In the close of a file that was open for writing: nothing modified it. The place for it has
    /// been in the cache manager since 2001 (`not_written` in `vproc::close`), without a value. A
    /// cache manager that does not know the bit ignores it; where it is not set, "modified" is
    /// assumed.
    pub(crate) const NO_WRITES: u32 = 0x400;
}

/// The flag that a looked-up object must not stay in the dcache.
pub(crate) const NOCACHE: u32 = 0x8000_0000;

/// A lookup distinguishes case.
const CLU_CASE_SENSITIVE: i32 = 1;

/// Kinds of an access intent.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Intent {
    /// Before a read.
    Read = 1,
    /// Before a write.
    Write = 2,
    /// Before a mapping is made.
    Mmap = 3,
    /// After a read.
    ReadFinish = 4,
    /// After a write.
    WriteFinish = 5,
}

/// The identifier of a file system object.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Fid(pub(crate) [u32; 4]);

impl Fid {
    const SIZE: usize = 16;

    /// The inode number, and the place in the inode hash: as `coda_f2i()`.
    pub(crate) fn ino(&self) -> u64 {
        let [a, b, c, d] = self.0;
        (d ^ (c << 10) ^ (b << 20) ^ a).into()
    }
}

impl kernel::fmt::Display for Fid {
    fn fmt(&self, f: &mut kernel::fmt::Formatter<'_>) -> kernel::fmt::Result {
        let [a, b, c, d] = self.0;
        write!(f, "({a:08x}.{b:08x}.{c:08x}.{d:08x})")
    }
}

/// Sizes of the structs, where an upcall has to leave room for its reply: a message is as long as
/// the longer of the two.
mod size {
    pub(super) const IN_HDR: usize = 20;
    pub(super) const OUT_HDR: usize = 12;
    pub(super) const VATTR: usize = 136;
    pub(super) const ROOT_OUT: usize = 28;
    pub(super) const LOOKUP_OUT: usize = 32;
    /// `coda_create_out`, `coda_mkdir_out`: header, fid, attributes.
    pub(super) const MADE_OUT: usize = 168;
    pub(super) const GETATTR_OUT: usize = 152;
    /// As the kernel sees it, with a pointer at the end.
    pub(super) const OPEN_BY_FD_OUT: usize = 24;
    pub(super) const READLINK_OUT: usize = 24;
    pub(super) const STATFS_OUT: usize = 32;
    pub(super) const IOCTL_IN: usize = 56;
}

/// The bytes of a message or a reply. Those that are [`SHORT`](Self::SHORT), as most are, take no
/// memory beside the value itself.
pub(crate) enum Bytes {
    /// The first `len` of these.
    Short {
        bytes: [u8; Self::SHORT],
        len: usize,
    },
    /// Any number.
    Long(KVVec<u8>),
}

impl Bytes {
    /// How many bytes fit in without more memory.
    pub(crate) const SHORT: usize = 48;

    /// None.
    pub(crate) const fn new() -> Self {
        Self::Short {
            bytes: [0; Self::SHORT],
            len: 0,
        }
    }

    /// Zeroes, if no more memory is needed for so many.
    pub(crate) fn short(len: usize) -> Option<Self> {
        (len <= Self::SHORT).then_some(Self::Short {
            bytes: [0; Self::SHORT],
            len,
        })
    }

    /// Appends some.
    pub(crate) fn extend(&mut self, more: &[u8]) -> Result {
        // What names something, or describes it, has room in this.
        const LONG: usize = 256;
        match self {
            Self::Short { bytes, len } => {
                let end = *len + more.len();
                if let Some(room) = bytes.get_mut(*len..end) {
                    room.copy_from_slice(more);
                    *len = end;
                    return Ok(());
                }
                let mut long = KVVec::with_capacity(LONG, GFP_KERNEL)?;
                long.extend_from_slice(self, GFP_KERNEL)?;
                long.extend_from_slice(more, GFP_KERNEL)?;
                *self = Self::Long(long);
                Ok(())
            }
            Self::Long(bytes) => Ok(bytes.extend_from_slice(more, GFP_KERNEL)?),
        }
    }

    /// Leaves the first `len`.
    pub(crate) fn truncate(&mut self, to: usize) {
        match self {
            Self::Short { len, .. } => *len = to.min(*len),
            Self::Long(bytes) => bytes.truncate(to),
        }
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Short { bytes, len } => bytes.get(..*len).unwrap_or(bytes),
            Self::Long(bytes) => bytes,
        }
    }
}

impl DerefMut for Bytes {
    fn deref_mut(&mut self) -> &mut [u8] {
        match self {
            Self::Short { bytes, len } => bytes.get_mut(..*len).unwrap_or_default(),
            Self::Long(bytes) => bytes,
        }
    }
}

/// Where zeroes come from.
pub(crate) static ZEROES: [u8; 128] = [0; 128];

/// Writes a message.
pub(crate) struct Encoder {
    buf: Bytes,
}

impl Encoder {
    /// Who the current task is: process, process group and user.
    fn sender() -> [u32; 3] {
        [task::pid() as u32, task::pgid() as u32, task::fsuid()]
    }

    /// Begins a message from `sender`. The number that makes it unique is set when it is sent.
    fn new(opcode: u32, [pid, pgid, uid]: [u32; 3]) -> Result<Self> {
        let mut this = Self { buf: Bytes::new() };
        this.words([opcode, 0, pid, pgid, uid])?;
        Ok(this)
    }

    /// The same of one that is about the object `fid`.
    fn about(opcode: u32, [pid, pgid, uid]: [u32; 3], fid: &Fid) -> Result<Self> {
        let mut this = Self { buf: Bytes::new() };
        let [a, b, c, d] = fid.0;
        this.words([opcode, 0, pid, pgid, uid, a, b, c, d])?;
        Ok(this)
    }

    fn words<const N: usize>(&mut self, words: [u32; N]) -> Result {
        self.bytes(words.map(u32::to_ne_bytes).as_flattened())
    }

    fn bytes(&mut self, bytes: &[u8]) -> Result {
        self.buf.extend(bytes)
    }

    fn u16(&mut self, value: u16) -> Result {
        self.bytes(&value.to_ne_bytes())
    }

    fn u32(&mut self, value: u32) -> Result {
        self.bytes(&value.to_ne_bytes())
    }

    fn i32(&mut self, value: i32) -> Result {
        self.bytes(&value.to_ne_bytes())
    }

    fn u64(&mut self, value: u64) -> Result {
        self.bytes(&value.to_ne_bytes())
    }

    fn i64(&mut self, value: i64) -> Result {
        self.bytes(&value.to_ne_bytes())
    }

    /// Zeroes up to a multiple of `to`.
    fn align(&mut self, to: usize) -> Result {
        self.fill(self.buf.len().next_multiple_of(to))
    }

    /// Zeroes up to the length `len`.
    fn fill(&mut self, len: usize) -> Result {
        while let Some(missing) = len.checked_sub(self.buf.len()).filter(|n| *n > 0) {
            let zeroes = ZEROES.get(..missing).unwrap_or(&ZEROES);
            self.bytes(zeroes)?;
        }
        Ok(())
    }

    fn fid(&mut self, fid: &Fid) -> Result {
        self.words(fid.0)
    }

    /// A `struct coda_vattr` that asks for the changes in `attr`, with everything else marked as
    /// not meant: see `coda_iattr_to_vattr()`.
    fn changes(&mut self, attr: &Attr) -> Result {
        let time = |time: Option<TimeSpec>| time.unwrap_or(TimeSpec { sec: -1, nsec: -1 });
        self.align(8)?;
        self.i64(0)?; // va_type: C_VNON
        self.u16(attr.mode.map_or(u16::MAX, |mode| mode as u16))?;
        self.u16(u16::MAX)?; // va_nlink
        self.u32(attr.uid.unwrap_or(u32::MAX))?;
        self.u32(attr.gid.unwrap_or(u32::MAX))?;
        self.align(8)?;
        self.i64(-1)?; // va_fileid
        self.i64(attr.size.unwrap_or(-1))?;
        self.i64(-1)?; // va_blocksize
        for time in [time(attr.atime), time(attr.mtime), time(attr.ctime)] {
            self.i64(time.sec)?;
            self.i64(time.nsec)?;
        }
        self.i64(-1)?; // va_gen
        self.i64(0)?; // va_flags
        self.i64(-1)?; // va_rdev
        self.i64(-1)?; // va_bytes
        self.u64(0) // va_filerev
    }

    /// A `struct coda_vattr` of a new object: nothing but its mode, and its size if that means
    /// anything.
    fn new_object(&mut self, mode: u32, length: i64) -> Result {
        self.align(8)?;
        let end = self.buf.len() + size::VATTR;
        self.u64(0)?; // va_type
        self.u16(mode as u16)?;
        self.u16(0)?; // va_nlink
        self.u32(0)?; // va_uid
        self.u32(0)?; // va_gid
        self.align(8)?;
        self.u64(0)?; // va_fileid
        self.i64(length)?;
        self.fill(end)
    }

    /// A name with its terminator. `ENAMETOOLONG` if the protocol has none as long.
    fn name(&mut self, name: &[u8]) -> Result {
        self.string(name, MAXNAMLEN)
    }

    fn string(&mut self, string: &[u8], longest: usize) -> Result {
        if string.len() > longest {
            return Err(ENAMETOOLONG.into());
        }
        self.bytes(string)?;
        self.bytes(&[0])
    }

    /// Ends the message, which leaves room for a reply of `reply` bytes.
    fn finish(self, reply: usize) -> Message {
        let len = self.buf.len().max(reply);
        Message {
            buf: self.buf,
            len,
            room: len,
        }
    }
}

/// A message to the cache manager.
pub(crate) struct Message {
    /// What it begins with; the rest is zeroes.
    buf: Bytes,
    /// How long it is.
    len: usize,
    /// How long a reply may be.
    room: usize,
}

impl Message {
    /// The bytes that it begins with, and how many zeroes follow.
    pub(crate) fn parts(&self) -> (&[u8], usize) {
        (&self.buf, self.len.saturating_sub(self.buf.len()))
    }

    /// How long it is.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// How long a reply may be.
    pub(crate) fn room(&self) -> usize {
        self.room
    }

    /// The opcode.
    pub(crate) fn opcode(&self) -> u32 {
        self.word(0)
    }

    fn word(&self, at: usize) -> u32 {
        let mut word = [0; 4];
        if let Some(bytes) = self.buf.get(at..at + 4) {
            word.copy_from_slice(bytes);
        }
        u32::from_ne_bytes(word)
    }

    fn set_word(&mut self, at: usize, value: u32) {
        if let Some(bytes) = self.buf.get_mut(at..at + 4) {
            bytes.copy_from_slice(&value.to_ne_bytes());
        }
    }

    /// Sets the number that makes the message unique.
    pub(crate) fn set_unique(&mut self, unique: u32) {
        self.set_word(4, unique);
    }

    /// It is sent by the current task.
    pub(crate) fn set_sender(&mut self) {
        self.set_word(8, task::pid() as u32);
        self.set_word(12, task::pgid() as u32);
    }

    /// Sets the fid of the object that a message is about. To be used for messages that are about
    /// one.
    pub(crate) fn set_fid(&mut self, fid: &Fid) {
        for (i, word) in fid.0.into_iter().enumerate() {
            self.set_word(size::IN_HDR + 4 * i, word);
        }
    }

    /// The fid of the object that it is about, if it is about one.
    pub(crate) fn fid(&self) -> Option<Fid> {
        // It comes first.
        let about_one = !matches!(self.opcode(), op::ROOT | op::STATFS | op::SIGNAL);
        about_one.then(|| Fid([0, 1, 2, 3].map(|i| self.word(size::IN_HDR + 4 * i))))
    }

    /// The object that had the fid `old` has the fid `new` from now on.
    pub(crate) fn replace_fid(&mut self, old: &Fid, new: &Fid) {
        if self.fid() == Some(*old) {
            self.set_fid(new);
        }
    }

    // The flags of `coda_close_in` follow header and fid.
    const FLAGS: usize = size::IN_HDR + Fid::SIZE;

    /// Marks a close: nothing modified the file.
    pub(crate) fn set_no_writes(&mut self) {
        self.set_word(Self::FLAGS, self.close_flags() | cflags::NO_WRITES);
    }

    /// The flags of a close.
    pub(crate) fn close_flags(&self) -> u32 {
        self.word(Self::FLAGS)
    }

    /// The process that it is sent for.
    pub(crate) fn pid(&self) -> u32 {
        self.word(8)
    }

    /// `CODA_ROOT`.
    pub(crate) fn root() -> Result<Self> {
        Ok(Encoder::new(op::ROOT, Encoder::sender())?.finish(size::ROOT_OUT))
    }

    fn about(opcode: u32, fid: &Fid) -> Result<Encoder> {
        Encoder::about(opcode, Encoder::sender(), fid)
    }

    /// `CODA_GETATTR`.
    pub(crate) fn getattr(fid: &Fid) -> Result<Self> {
        Ok(Self::about(op::GETATTR, fid)?.finish(size::GETATTR_OUT))
    }

    /// `CODA_SETATTR`.
    pub(crate) fn setattr(fid: &Fid, attr: &Attr) -> Result<Self> {
        let mut msg = Self::about(op::SETATTR, fid)?;
        msg.changes(attr)?;
        Ok(msg.finish(0))
    }

    /// `CODA_ACCESS`.
    pub(crate) fn access(fid: &Fid, mask: u32) -> Result<Self> {
        let mut msg = Self::about(op::ACCESS, fid)?;
        msg.u32(mask)?;
        Ok(msg.finish(0))
    }

    /// `CODA_FSYNC`.
    pub(crate) fn fsync(fid: &Fid) -> Result<Self> {
        Ok(Self::about(op::FSYNC, fid)?.finish(0))
    }

    /// `CODA_STATFS`.
    pub(crate) fn statfs() -> Result<Self> {
        Ok(Encoder::new(op::STATFS, Encoder::sender())?.finish(size::STATFS_OUT))
    }

    /// `CODA_OPEN_BY_FD`.
    pub(crate) fn open_by_fd(fid: &Fid, flags: u32) -> Result<Self> {
        let mut msg = Self::about(op::OPEN_BY_FD, fid)?;
        msg.u32(flags)?;
        Ok(msg.finish(size::OPEN_BY_FD_OUT))
    }

    /// `CODA_CLOSE`, on behalf of the user who opened.
    pub(crate) fn close(fid: &Fid, flags: u32, uid: u32) -> Result<Self> {
        // Who sends it is told when it is sent.
        let mut msg = Encoder::about(op::CLOSE, [0, 0, uid], fid)?;
        msg.u32(flags)?;
        Ok(msg.finish(0))
    }

    /// `CODA_LOOKUP`.
    pub(crate) fn lookup(dir: &Fid, name: &[u8]) -> Result<Self> {
        const NAME: usize = size::IN_HDR + Fid::SIZE + 8;
        let mut msg = Self::about(op::LOOKUP, dir)?;
        msg.i32(NAME as i32)?;
        msg.i32(CLU_CASE_SENSITIVE)?;
        msg.name(name)?;
        Ok(msg.finish(size::LOOKUP_OUT))
    }

    /// `CODA_CREATE`, not exclusive. A length of 0 would tell the cache manager to truncate what has
    /// the name already; that is for the open that follows to ask for, or not to.
    pub(crate) fn create(dir: &Fid, name: &[u8], mode: u32) -> Result<Self> {
        const NAME: usize = 40 + size::VATTR + 16;
        let mut msg = Self::about(op::CREATE, dir)?;
        msg.new_object(mode, -1)?;
        msg.i32(0)?;
        msg.u32(mode)?;
        msg.i32(NAME as i32)?;
        msg.align(8)?;
        msg.name(name)?;
        Ok(msg.finish(size::MADE_OUT))
    }

    /// `CODA_MKDIR`.
    pub(crate) fn mkdir(dir: &Fid, name: &[u8], mode: u32) -> Result<Self> {
        const NAME: usize = 40 + size::VATTR + 8;
        let mut msg = Self::about(op::MKDIR, dir)?;
        msg.new_object(mode, 0)?;
        msg.i32(NAME as i32)?;
        msg.align(8)?;
        msg.name(name)?;
        Ok(msg.finish(size::MADE_OUT))
    }

    fn about_name(opcode: u32, dir: &Fid, name: &[u8]) -> Result<Self> {
        const NAME: usize = size::IN_HDR + Fid::SIZE + 4;
        let mut msg = Self::about(opcode, dir)?;
        msg.i32(NAME as i32)?;
        msg.name(name)?;
        Ok(msg.finish(0))
    }

    /// `CODA_REMOVE`.
    pub(crate) fn remove(dir: &Fid, name: &[u8]) -> Result<Self> {
        Self::about_name(op::REMOVE, dir, name)
    }

    /// `CODA_RMDIR`.
    pub(crate) fn rmdir(dir: &Fid, name: &[u8]) -> Result<Self> {
        Self::about_name(op::RMDIR, dir, name)
    }

    /// `CODA_LINK`.
    pub(crate) fn link(fid: &Fid, dir: &Fid, name: &[u8]) -> Result<Self> {
        const NAME: usize = size::IN_HDR + 2 * Fid::SIZE + 4;
        let mut msg = Self::about(op::LINK, fid)?;
        msg.fid(dir)?;
        msg.i32(NAME as i32)?;
        msg.name(name)?;
        Ok(msg.finish(0))
    }

    /// `CODA_RENAME`.
    pub(crate) fn rename(
        old_dir: &Fid,
        old_name: &[u8],
        new_dir: &Fid,
        new_name: &[u8],
    ) -> Result<Self> {
        const NAMES: usize = size::IN_HDR + 2 * (Fid::SIZE + 4);
        let mut msg = Self::about(op::RENAME, old_dir)?;
        msg.i32(NAMES as i32)?;
        msg.fid(new_dir)?;
        msg.i32((NAMES + (old_name.len() + 1).next_multiple_of(4)) as i32)?;
        msg.name(old_name)?;
        msg.align(4)?;
        msg.name(new_name)?;
        Ok(msg.finish(NAMES + old_name.len() + new_name.len() + 8))
    }

    /// `CODA_SYMLINK`.
    pub(crate) fn symlink(dir: &Fid, name: &[u8], target: &[u8]) -> Result<Self> {
        const NAMES: usize = 40 + size::VATTR + 8;
        let mut msg = Self::about(op::SYMLINK, dir)?;
        msg.i32(NAMES as i32)?;
        msg.align(8)?;
        msg.fill(40 + size::VATTR)?;
        msg.i32((NAMES + (target.len() + 1).next_multiple_of(4)) as i32)?;
        msg.align(8)?;
        msg.string(target, MAXPATHLEN)?;
        msg.align(4)?;
        msg.name(name)?;
        Ok(msg.finish(NAMES + target.len() + name.len() + 8))
    }

    /// `CODA_READLINK`, with room for a target of `room` bytes.
    pub(crate) fn readlink(fid: &Fid, room: usize) -> Result<Self> {
        Ok(Self::about(op::READLINK, fid)?.finish(size::READLINK_OUT + room))
    }

    /// `CODA_ACCESS_INTENT`.
    pub(crate) fn access_intent(fid: &Fid, count: usize, pos: i64, kind: Intent) -> Result<Self> {
        let mut msg = Self::about(op::ACCESS_INTENT, fid)?;
        // The protocol has 32 bits for either; like the C module, send the low ones.
        msg.words([count as u32, pos as u32, kind as u32])?;
        Ok(msg.finish(0))
    }

    /// `CODA_IOCTL`: a pioctl with this number and these data, on the object `fid`.
    pub(crate) fn ioctl(fid: &Fid, cmd: u32, data: &[u8]) -> Result<Self> {
        let mut msg = Self::about(op::IOCTL, fid)?;
        msg.u32(cmd)?;
        msg.u32(data.len() as u32)?;
        msg.u32(0)?; // rwflag
        msg.align(8)?;
        msg.u64(size::IOCTL_IN as u64)?;
        msg.bytes(data)?;
        let mut msg = msg.finish(0);
        msg.room = IOCTL_ROOM;
        Ok(msg)
    }

    /// `CODA_SIGNAL`: nobody waits for the reply to `unique` any more.
    pub(crate) fn signal(unique: u32) -> Result<Self> {
        let mut msg = Encoder::new(op::SIGNAL, [0; 3])?.finish(0);
        msg.set_unique(unique);
        msg.room = 0;
        Ok(msg)
    }
}

/// The header of what the cache manager writes.
#[derive(Clone, Copy)]
pub(crate) struct OutHeader {
    /// Opcode.
    pub(crate) opcode: u32,
    /// The number of the upcall that is answered.
    pub(crate) unique: u32,
}

/// The shortest thing that the cache manager may write: opcode and unique number.
pub(crate) const OUT_SHORTEST: usize = 8;

/// The header of a reply or downcall: opcode, unique number, result.
pub(crate) const OUT_HDR: usize = size::OUT_HDR;

/// The most data that a pioctl carries in or out: `VC_MAXDATASIZE`.
pub(crate) const MAXDATASIZE: usize = 8192;

/// How long the reply to a pioctl may be: the data, and room for any of the structs.
const IOCTL_ROOM: usize = MAXDATASIZE + 512;

/// The longest message that the cache manager may write.
pub(crate) const OUT_LONGEST: usize = 16384;

/// Reads a reply or a downcall.
pub(crate) struct Decoder<'a> {
    buf: &'a [u8],
    at: usize,
}

impl<'a> Decoder<'a> {
    /// Begins at the front.
    pub(crate) fn new(buf: &'a [u8]) -> Self {
        Self { buf, at: 0 }
    }

    /// Begins behind the header of a reply.
    pub(crate) fn body(buf: &'a [u8]) -> Self {
        Self {
            buf,
            at: size::OUT_HDR,
        }
    }

    /// `EIO` if there is nothing more to take: the cache manager sent too little.
    fn take<const N: usize>(&mut self) -> Result<[u8; N]> {
        let bytes = self.buf.get(self.at..self.at + N).ok_or(EIO)?;
        self.at += N;
        bytes.try_into().map_err(|_| EIO)
    }

    fn align(&mut self, to: usize) {
        self.at = self.at.next_multiple_of(to);
    }

    /// Takes a number.
    pub(crate) fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_ne_bytes(self.take()?))
    }

    fn i32(&mut self) -> Result<i32> {
        Ok(i32::from_ne_bytes(self.take()?))
    }

    fn u16(&mut self) -> Result<u16> {
        Ok(u16::from_ne_bytes(self.take()?))
    }

    fn i64(&mut self) -> Result<i64> {
        Ok(i64::from_ne_bytes(self.take()?))
    }

    /// Takes the header, without the result.
    pub(crate) fn header(&mut self) -> Result<OutHeader> {
        Ok(OutHeader {
            opcode: self.u32()?,
            unique: self.u32()?,
        })
    }

    /// Takes the result word: see [`result`].
    pub(crate) fn result(&mut self) -> Result<(), (Error, bool)> {
        let word = self.i32().map_err(|err| (err, false))?;
        let told = result(word);
        if let Err((_, false)) = told {
            warn_limited!("cache manager answered with the result {word}\n");
        }
        told
    }

    /// Takes a fid.
    pub(crate) fn fid(&mut self) -> Result<Fid> {
        Ok(Fid([self.u32()?, self.u32()?, self.u32()?, self.u32()?]))
    }

    fn time(&mut self) -> Result<Option<TimeSpec>> {
        let time = TimeSpec {
            sec: self.i64()?,
            nsec: self.i64()?,
        };
        Ok((time.sec != -1).then_some(time))
    }

    /// Takes a `struct coda_vattr`: see `coda_vattr_to_iattr()`. `EIO` if the type is none of a
    /// file, directory or symbolic link, or the size is negative.
    pub(crate) fn attr(&mut self) -> Result<Attr> {
        self.align(8);
        let kind = match self.i64()? {
            1 => mode::S_IFREG,
            2 => mode::S_IFDIR,
            5 => mode::S_IFLNK,
            _ => return Err(EIO),
        };
        let permissions = self.u16()?;
        let nlink = self.u16()? as i16;
        let uid = self.u32()?;
        let gid = self.u32()?;
        self.align(8);
        self.i64()?; // va_fileid
        let size = self.i64()?;
        self.i64()?; // va_blocksize
        let (atime, mtime, ctime) = (self.time()?, self.time()?, self.time()?);
        for _ in 0..5 {
            self.i64()?; // va_gen, va_flags, va_rdev, va_bytes, va_filerev
        }
        if size < -1 {
            return Err(EIO);
        }
        Ok(Attr {
            mode: Some(if permissions == u16::MAX {
                kind
            } else {
                // The protocol has type bits in both places; `va_type` decides.
                kind | (u32::from(permissions) & !mode::S_IFMT)
            }),
            uid: (uid != u32::MAX).then_some(uid),
            gid: (gid != u32::MAX).then_some(gid),
            nlink: u32::try_from(nlink).ok(),
            size: (size != -1).then_some(size),
            atime,
            mtime,
            ctime,
            rdev: 0,
        })
    }

    /// Takes a count and an offset, and returns that part of the message. `EIO` if it is not all
    /// there.
    pub(crate) fn data(&mut self) -> Result<&'a [u8]> {
        let count = usize::try_from(self.i32()?).map_err(|_| EIO)?;
        self.align(8);
        let offset = usize::try_from(self.i64()?).map_err(|_| EIO)?;
        let end = offset.checked_add(count).ok_or(EIO)?;
        self.buf.get(offset..end).ok_or(EIO)
    }
}

/// The structs as the kernel's own header has them.
#[cfg(CONFIG_KUNIT = "y")]
#[allow(
    dead_code,
    missing_docs,
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    unknown_lints,
    unnecessary_transmutes,
    unreachable_pub,
    clippy::all,
    clippy::pedantic
)]
mod header {
    use kernel::ffi;
    include!(env!("CODA_RS_WIRE"));
}

#[kunit_tests(coda_rs_wire)]
mod tests {
    use super::{header as h, *};
    use core::mem::{offset_of, size_of};

    const FID: Fid = Fid([0x1111, 0x2222, 0x3333, 0x4444]);
    const OTHER: Fid = Fid([5, 6, 7, 8]);

    fn word(msg: &Message, at: usize) -> u32 {
        msg.word(at)
    }

    fn fid_at(msg: &Message, at: usize) -> Fid {
        Fid([0, 4, 8, 12].map(|i| word(msg, at + i)))
    }

    /// The string at the offset that the word at `at` holds.
    fn name_at(msg: &Message, at: usize) -> &[u8] {
        let from = word(msg, at) as usize;
        let rest = msg.buf.get(from..).unwrap_or_default();
        let len = rest.iter().position(|byte| *byte == 0).unwrap_or(0);
        rest.get(..len).unwrap_or_default()
    }

    #[test]
    fn headers() -> Result {
        assert_eq!(size::IN_HDR, size_of::<h::coda_in_hdr>());
        assert_eq!(size::OUT_HDR, size_of::<h::coda_out_hdr>());
        assert_eq!(Fid::SIZE, size_of::<h::CodaFid>());
        assert_eq!(size::VATTR, size_of::<h::coda_vattr>());
        assert_eq!(offset_of!(h::coda_in_hdr, opcode), 0);
        assert_eq!(offset_of!(h::coda_in_hdr, unique), 4);
        assert_eq!(offset_of!(h::coda_in_hdr, pid), 8);
        assert_eq!(offset_of!(h::coda_in_hdr, pgid), 12);
        assert_eq!(offset_of!(h::coda_in_hdr, uid), 16);
        assert_eq!(offset_of!(h::coda_out_hdr, result), 8);
        let mut msg = Message::root()?;
        msg.set_unique(77);
        assert_eq!(msg.opcode(), h::CODA_ROOT);
        assert_eq!(word(&msg, 4), 77);
        assert_eq!(word(&msg, 16), crate::vfs::task::fsuid());
        Ok(())
    }

    #[test]
    fn room_for_replies() -> Result {
        let longest = |a: usize, b: usize| if a > b { a } else { b };
        macro_rules! room {
            ($msg:expr, $in:ident, $out:ident) => {
                assert_eq!(
                    $msg.room(),
                    longest(size_of::<h::$in>(), size_of::<h::$out>())
                );
            };
        }
        room!(Message::root()?, coda_root_in, coda_root_out);
        room!(Message::getattr(&FID)?, coda_getattr_in, coda_getattr_out);
        room!(
            Message::setattr(&FID, &Attr::default())?,
            coda_setattr_in,
            coda_setattr_out
        );
        room!(Message::access(&FID, 4)?, coda_access_in, coda_access_out);
        room!(Message::fsync(&FID)?, coda_fsync_in, coda_fsync_out);
        room!(Message::statfs()?, coda_statfs_in, coda_statfs_out);
        assert_eq!(size::IOCTL_IN, size_of::<h::coda_ioctl_in>());
        let pioctl = Message::ioctl(&FID, 1, b"data")?;
        assert_eq!(pioctl.len(), size_of::<h::coda_ioctl_in>() + 4);
        assert!(pioctl.room() >= size_of::<h::coda_ioctl_out>() + MAXDATASIZE);
        assert!(pioctl.room() <= OUT_LONGEST);
        room!(
            Message::open_by_fd(&FID, 1)?,
            coda_open_by_fd_in,
            coda_open_by_fd_out
        );
        room!(Message::close(&FID, 1, 0)?, coda_close_in, coda_close_out);
        room!(
            Message::access_intent(&FID, 1, 2, Intent::Read)?,
            coda_access_intent_in,
            coda_access_intent_out
        );
        assert_eq!(
            Message::readlink(&FID, 100)?.room(),
            size_of::<h::coda_readlink_out>() + 100
        );
        // With a name of one byte and its terminator.
        assert_eq!(
            Message::lookup(&FID, b"n")?.room(),
            longest(
                size_of::<h::coda_lookup_in>() + 2,
                size_of::<h::coda_lookup_out>()
            )
        );
        assert_eq!(
            Message::create(&FID, b"n", 0)?.room(),
            longest(
                size_of::<h::coda_create_in>() + 2,
                size_of::<h::coda_create_out>()
            )
        );
        assert_eq!(
            Message::mkdir(&FID, b"n", 0)?.room(),
            longest(
                size_of::<h::coda_mkdir_in>() + 2,
                size_of::<h::coda_mkdir_out>()
            )
        );
        assert_eq!(
            Message::remove(&FID, b"n")?.room(),
            size_of::<h::coda_remove_in>() + 2
        );
        assert_eq!(
            Message::link(&FID, &OTHER, b"n")?.room(),
            size_of::<h::coda_link_in>() + 2
        );
        assert_eq!(
            Message::rename(&FID, b"one", &OTHER, b"other")?.room(),
            size_of::<h::coda_rename_in>() + 3 + 5 + 8
        );
        assert_eq!(
            Message::symlink(&FID, b"name", b"target")?.room(),
            size_of::<h::coda_symlink_in>() + 4 + 6 + 8
        );
        Ok(())
    }

    #[test]
    fn fields_of_upcalls() -> Result {
        let msg = Message::open_by_fd(&FID, cflags::READ | cflags::WRITE)?;
        assert!(fid_at(&msg, offset_of!(h::coda_open_by_fd_in, VFid)) == FID);
        assert_eq!(word(&msg, offset_of!(h::coda_open_by_fd_in, flags)), 3);

        let mut msg = Message::close(&FID, cflags::WRITE, 1234)?;
        let flags = offset_of!(h::coda_close_in, flags);
        assert_eq!(word(&msg, 16), 1234);
        assert_eq!(word(&msg, flags), 2);
        msg.set_no_writes();
        assert_eq!(word(&msg, flags), 0x402);
        msg.set_sender();
        msg.replace_fid(&OTHER, &Fid([0; 4]));
        assert!(fid_at(&msg, offset_of!(h::coda_close_in, VFid)) == FID);
        msg.replace_fid(&FID, &OTHER);
        assert!(fid_at(&msg, offset_of!(h::coda_close_in, VFid)) == OTHER);
        msg.set_fid(&FID);
        assert!(fid_at(&msg, offset_of!(h::coda_close_in, VFid)) == FID);
        assert_eq!(word(&msg, flags), 0x402);

        let msg = Message::lookup(&FID, b"name")?;
        assert!(fid_at(&msg, offset_of!(h::coda_lookup_in, VFid)) == FID);
        assert_eq!(name_at(&msg, offset_of!(h::coda_lookup_in, name)), b"name");
        assert_eq!(word(&msg, offset_of!(h::coda_lookup_in, flags)), 1);

        let msg = Message::create(&FID, b"name", 0o644)?;
        assert!(fid_at(&msg, offset_of!(h::coda_create_in, VFid)) == FID);
        assert_eq!(word(&msg, offset_of!(h::coda_create_in, excl)), 0);
        assert_eq!(word(&msg, offset_of!(h::coda_create_in, mode)), 0o644);
        assert_eq!(name_at(&msg, offset_of!(h::coda_create_in, name)), b"name");
        let va_mode = offset_of!(h::coda_create_in, attr) + offset_of!(h::coda_vattr, va_mode);
        assert_eq!(word(&msg, va_mode), 0o644);

        let msg = Message::mkdir(&FID, b"name", 0o755)?;
        assert_eq!(name_at(&msg, offset_of!(h::coda_mkdir_in, name)), b"name");
        let va_mode = offset_of!(h::coda_mkdir_in, attr) + offset_of!(h::coda_vattr, va_mode);
        assert_eq!(word(&msg, va_mode), 0o755);

        let msg = Message::remove(&FID, b"name")?;
        assert_eq!(name_at(&msg, offset_of!(h::coda_remove_in, name)), b"name");
        let msg = Message::rmdir(&FID, b"name")?;
        assert_eq!(name_at(&msg, offset_of!(h::coda_rmdir_in, name)), b"name");

        let msg = Message::link(&FID, &OTHER, b"name")?;
        assert!(fid_at(&msg, offset_of!(h::coda_link_in, sourceFid)) == FID);
        assert!(fid_at(&msg, offset_of!(h::coda_link_in, destFid)) == OTHER);
        assert_eq!(name_at(&msg, offset_of!(h::coda_link_in, tname)), b"name");

        let msg = Message::rename(&FID, b"one", &OTHER, b"other")?;
        assert!(fid_at(&msg, offset_of!(h::coda_rename_in, sourceFid)) == FID);
        assert!(fid_at(&msg, offset_of!(h::coda_rename_in, destFid)) == OTHER);
        assert_eq!(
            name_at(&msg, offset_of!(h::coda_rename_in, srcname)),
            b"one"
        );
        assert_eq!(
            name_at(&msg, offset_of!(h::coda_rename_in, destname)),
            b"other"
        );

        let msg = Message::symlink(&FID, b"name", b"target")?;
        assert_eq!(
            name_at(&msg, offset_of!(h::coda_symlink_in, srcname)),
            b"target"
        );
        assert_eq!(
            name_at(&msg, offset_of!(h::coda_symlink_in, tname)),
            b"name"
        );

        let msg = Message::ioctl(&FID, 77, b"data")?;
        assert_eq!(word(&msg, offset_of!(h::coda_ioctl_in, cmd)), 77);
        assert_eq!(word(&msg, offset_of!(h::coda_ioctl_in, len)), 4);
        let data = word(&msg, offset_of!(h::coda_ioctl_in, data)) as usize;
        assert_eq!(msg.buf.get(data..), Some(&b"data"[..]));

        let msg = Message::access_intent(&FID, 10, 20, Intent::Mmap)?;
        assert_eq!(word(&msg, offset_of!(h::coda_access_intent_in, count)), 10);
        assert_eq!(word(&msg, offset_of!(h::coda_access_intent_in, pos)), 20);
        assert_eq!(word(&msg, offset_of!(h::coda_access_intent_in, type_)), 3);
        Ok(())
    }

    #[test]
    fn names_have_a_longest() -> Result {
        let long = [b'n'; MAXPATHLEN + 1];
        let (name, target) = (&long[..MAXNAMLEN], &long[..MAXPATHLEN]);
        assert!(Message::lookup(&FID, name).is_ok());
        assert!(Message::symlink(&FID, name, target).is_ok());
        let refused = |msg: Result<Message>| msg.err() == Some(ENAMETOOLONG.into());
        assert!(refused(Message::lookup(&FID, &long[..=MAXNAMLEN])));
        assert!(refused(Message::rename(&FID, name, &FID, target)));
        assert!(refused(Message::symlink(&FID, target, target)));
        assert!(refused(Message::symlink(&FID, name, &long)));
        Ok(())
    }

    #[test]
    fn fields_of_changes() -> Result {
        let attr = Attr {
            mode: Some(0o100_600),
            size: Some(42),
            mtime: Some(TimeSpec { sec: 9, nsec: 8 }),
            ..Attr::default()
        };
        let msg = Message::setattr(&FID, &attr)?;
        let at = offset_of!(h::coda_setattr_in, attr);
        let field = |offset: usize| word(&msg, at + offset);
        assert_eq!(field(offset_of!(h::coda_vattr, va_type)), 0);
        assert_eq!(
            field(offset_of!(h::coda_vattr, va_mode)) & 0xffff,
            0o100_600
        );
        assert_eq!(field(offset_of!(h::coda_vattr, va_uid)), u32::MAX);
        assert_eq!(field(offset_of!(h::coda_vattr, va_size)), 42);
        assert_eq!(field(offset_of!(h::coda_vattr, va_atime)), u32::MAX);
        assert_eq!(field(offset_of!(h::coda_vattr, va_mtime)), 9);
        assert_eq!(field(offset_of!(h::coda_vattr, va_mtime) + 8), 8);
        assert_eq!(field(offset_of!(h::coda_vattr, va_bytes)), u32::MAX);
        assert_eq!(field(offset_of!(h::coda_vattr, va_filerev)), 0);
        Ok(())
    }

    /// A reply that consists of a header and then whatever `fill` makes of zeroes.
    fn reply(len: usize, fill: impl FnOnce(&mut [u8])) -> Result<KVVec<u8>> {
        let mut buf = KVVec::new();
        buf.resize(len, 0, GFP_KERNEL)?;
        fill(&mut buf);
        Ok(buf)
    }

    fn put(buf: &mut [u8], at: usize, bytes: &[u8]) {
        if let Some(slot) = buf.get_mut(at..at + bytes.len()) {
            slot.copy_from_slice(bytes);
        }
    }

    #[test]
    fn attributes_of_replies() -> Result {
        let at = offset_of!(h::coda_getattr_out, attr);
        let buf = reply(size_of::<h::coda_getattr_out>(), |buf| {
            let mut set = |offset: usize, bytes: &[u8]| put(buf, at + offset, bytes);
            set(offset_of!(h::coda_vattr, va_type), &2u64.to_ne_bytes());
            set(
                offset_of!(h::coda_vattr, va_mode),
                &0o40_755u16.to_ne_bytes(),
            );
            set(offset_of!(h::coda_vattr, va_nlink), &3u16.to_ne_bytes());
            set(offset_of!(h::coda_vattr, va_uid), &10u32.to_ne_bytes());
            set(offset_of!(h::coda_vattr, va_gid), &u32::MAX.to_ne_bytes());
            set(offset_of!(h::coda_vattr, va_size), &4096u64.to_ne_bytes());
            set(offset_of!(h::coda_vattr, va_mtime), &99u64.to_ne_bytes());
        })?;
        let attr = Decoder::body(&buf).attr()?;
        assert_eq!(attr.mode, Some(mode::S_IFDIR | 0o755));
        assert_eq!(attr.nlink, Some(3));
        assert_eq!(attr.uid, Some(10));
        assert_eq!(attr.gid, None);
        assert_eq!(attr.size, Some(4096));
        assert!(attr.mtime == Some(TimeSpec { sec: 99, nsec: 0 }));
        // One byte less, and nothing of it counts.
        let short = buf.get(..buf.len() - 1).ok_or(EIO)?;
        assert!(Decoder::body(short).attr().is_err());
        Ok(())
    }

    #[test]
    fn nonsense_in_replies() -> Result {
        for result in [5000i32, -5, i32::MIN, 134, 512] {
            let buf = reply(size::OUT_HDR, |buf| put(buf, 8, &result.to_ne_bytes()))?;
            let mut decoder = Decoder::new(&buf);
            decoder.header()?;
            assert!(decoder.result() == Err((EIO, false)));
        }
        let buf = reply(size::OUT_HDR, |buf| put(buf, 8, &2i32.to_ne_bytes()))?;
        let mut decoder = Decoder::new(&buf);
        decoder.header()?;
        assert!(decoder.result() == Err((ENOENT, true)));
        // No type, and a size below zero.
        let at = offset_of!(h::coda_getattr_out, attr);
        let buf = reply(size_of::<h::coda_getattr_out>(), |_| {})?;
        assert!(Decoder::body(&buf).attr().is_err());
        let buf = reply(size_of::<h::coda_getattr_out>(), |buf| {
            put(buf, at, &1u64.to_ne_bytes());
            put(
                buf,
                at + offset_of!(h::coda_vattr, va_size),
                &(-2i64).to_ne_bytes(),
            );
        })?;
        assert!(Decoder::body(&buf).attr().is_err());
        Ok(())
    }

    #[test]
    fn data_of_replies() -> Result {
        let count = offset_of!(h::coda_readlink_out, count);
        let data = offset_of!(h::coda_readlink_out, data);
        let make = |n: i32, offset: i64| {
            reply(size::READLINK_OUT + 4, |buf| {
                put(buf, count, &n.to_ne_bytes());
                put(buf, data, &offset.to_ne_bytes());
                put(buf, size::READLINK_OUT, b"path");
            })
        };
        let start = size::READLINK_OUT as i64;
        assert_eq!(Decoder::body(&make(4, start)?).data()?, b"path");
        for (n, offset) in [
            (5, start),
            (-1, start),
            (4, -1),
            (4, i64::MAX),
            (i32::MAX, start),
            (1, start + 4),
        ] {
            assert!(Decoder::body(&make(n, offset)?).data() == Err(EIO));
        }
        Ok(())
    }

    #[test]
    fn constants() {
        assert_eq!(h::C_O_READ, cflags::READ);
        assert_eq!(h::C_O_WRITE, cflags::WRITE);
        assert_eq!(h::C_O_TRUNC, cflags::TRUNC);
        assert_eq!(h::C_O_CREAT, cflags::CREAT);
        // The bit is free.
        let used = h::C_O_READ | h::C_O_WRITE | h::C_O_TRUNC | h::C_O_EXCL | h::C_O_CREAT;
        assert_eq!(used & cflags::NO_WRITES, 0);
        assert_eq!(h::CODA_KERNEL_VERSION, KERNEL_VERSION);
        assert_eq!(h::CODA_NOCACHE, NOCACHE);
        assert_eq!(h::CODA_CLOSE, op::CLOSE);
        assert_eq!(h::CODA_OPEN_BY_FD, op::OPEN_BY_FD);
        assert_eq!(h::CODA_ACCESS_INTENT, op::ACCESS_INTENT);
        assert_eq!(h::CODA_REPLACE, op::REPLACE);
        assert_eq!(h::CODA_PURGEFID, op::PURGEFID);
        assert_eq!(h::CODA_STATFS, op::STATFS);
        assert!(is_downcall(h::CODA_FLUSH) && !is_downcall(h::CODA_SIGNAL));
    }
}
