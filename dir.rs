#![deny(unsafe_code)]
// SPDX-License-Identifier: GPL-2.0

//! Directories: names, and listings out of both kinds of container.

use crate::{
    cnode,
    file::handle,
    inode::{comm, Coda},
    pioctl,
    vfs::{
        errno::ENAMETOOLONG, file::DirEmitter, inode::InodeRef, task, warn_limited, File, INode,
        Name,
    },
    wire::{self, Fid, Message},
};
use kernel::prelude::*;

/// As `coda_lookup()`. A name that is not there makes a negative dentry.
pub(crate) fn lookup<'a>(
    dir: &'a INode<Coda>,
    name: Name<'_>,
) -> Result<Option<InodeRef<'a, Coda>>> {
    if pioctl::is_control(dir, name) {
        let inode = pioctl::control_inode(dir.super_block())?;
        // Made anew each time.
        inode.data().flag(cnode::PURGE);
        return Ok(Some(inode));
    }
    let look = || -> Result<InodeRef<'a, Coda>> {
        let msg = Message::lookup(&dir.data().fid(), name.as_bytes())?;
        let reply = comm(dir).upcall(msg)?;
        let mut body = reply.body();
        let (fid, kind) = (body.fid()?, body.u32()?);
        let inode = cnode::make(dir.super_block(), &fid)?;
        if kind & wire::NOCACHE != 0 {
            inode.data().flag(cnode::VATTR | cnode::PURGE);
        }
        Ok(inode)
    };
    match look() {
        Ok(inode) => Ok(Some(inode)),
        Err(err) if err == ENOENT => Ok(None),
        Err(err) => Err(err),
    }
}

/// `EPERM` if `name` is that of the control file.
fn refuse_control(dir: &INode<Coda>, name: Name<'_>) -> Result {
    if pioctl::is_control(dir, name) {
        return Err(EPERM);
    }
    Ok(())
}

/// Makes an object by an upcall that answers with its fid and attributes.
fn make<'a>(dir: &'a INode<Coda>, msg: Message) -> Result<InodeRef<'a, Coda>> {
    let reply = comm(dir).upcall(msg)?;
    let find = || -> Result<InodeRef<'a, Coda>> {
        let mut body = reply.body();
        let (fid, attr) = (body.fid()?, body.attr()?);
        let inode = cnode::get(dir.super_block(), &fid, &attr)?;
        // It may be in memory: the name was there after all, and the kernel did not know.
        inode.set_attr(&attr);
        Ok(inode)
    };
    // What was made is there, if it can be had or not: the directory's attributes are others now.
    let inode = find().inspect_err(|_| dir.data().flag(cnode::VATTR))?;
    dir.touch();
    Ok(inode)
}

/// As `coda_create()`.
pub(crate) fn create<'a>(
    dir: &'a INode<Coda>,
    name: Name<'_>,
    mode: u32,
) -> Result<InodeRef<'a, Coda>> {
    refuse_control(dir, name)?;
    let inode = make(
        dir,
        Message::create(&dir.data().fid(), name.as_bytes(), mode)?,
    )?;
    // The VFS would open it as a file.
    if inode.is_dir() {
        return Err(EIO);
    }
    Ok(inode)
}

/// As `coda_mkdir()`.
pub(crate) fn mkdir<'a>(
    dir: &'a INode<Coda>,
    name: Name<'_>,
    mode: u32,
) -> Result<InodeRef<'a, Coda>> {
    refuse_control(dir, name)?;
    let inode = make(
        dir,
        Message::mkdir(&dir.data().fid(), name.as_bytes(), mode)?,
    )?;
    if !inode.is_dir() {
        return Err(EIO);
    }
    inc_dir_nlink(dir);
    Ok(inode)
}

/// A directory below a volume's mount point has a link count that nobody can know; 1 tells programs
/// so, and stays 1.
fn inc_dir_nlink(dir: &INode<Coda>) {
    if dir.nlink() >= 2 {
        dir.inc_nlink();
    }
}

fn drop_dir_nlink(dir: &INode<Coda>) {
    if dir.nlink() > 2 {
        dir.drop_nlink();
    }
}

/// As `coda_link()`.
pub(crate) fn link(inode: &INode<Coda>, dir: &INode<Coda>, name: Name<'_>) -> Result {
    refuse_control(dir, name)?;
    let (fid, dir_fid) = (inode.data().fid(), dir.data().fid());
    comm(dir).upcall(Message::link(&fid, &dir_fid, name.as_bytes())?)?;
    dir.touch();
    inode.inc_nlink();
    Ok(())
}

/// As `coda_symlink()`.
pub(crate) fn symlink(dir: &INode<Coda>, name: Name<'_>, target: &[u8]) -> Result {
    refuse_control(dir, name)?;
    if target.len() > wire::MAXPATHLEN {
        return Err(ENAMETOOLONG.into());
    }
    comm(dir).upcall(Message::symlink(
        &dir.data().fid(),
        name.as_bytes(),
        target,
    )?)?;
    dir.touch();
    Ok(())
}

/// As `coda_unlink()`.
pub(crate) fn unlink(dir: &INode<Coda>, name: Name<'_>, inode: &INode<Coda>) -> Result {
    comm(dir).upcall(Message::remove(&dir.data().fid(), name.as_bytes())?)?;
    dir.touch();
    inode.drop_nlink();
    Ok(())
}

/// As `coda_rmdir()`.
pub(crate) fn rmdir(dir: &INode<Coda>, name: Name<'_>, inode: &INode<Coda>) -> Result {
    comm(dir).upcall(Message::rmdir(&dir.data().fid(), name.as_bytes())?)?;
    inode.clear_nlink();
    drop_dir_nlink(dir);
    dir.touch();
    Ok(())
}

/// As `coda_rename()`, but that a directory which moves takes its link with it, whether or not it
/// replaces another.
pub(crate) fn rename(
    old_dir: &INode<Coda>,
    old_name: Name<'_>,
    new_dir: &INode<Coda>,
    new_name: Name<'_>,
    inode: &INode<Coda>,
    replaced: Option<&INode<Coda>>,
) -> Result {
    comm(old_dir).upcall(Message::rename(
        &old_dir.data().fid(),
        old_name.as_bytes(),
        &new_dir.data().fid(),
        new_name.as_bytes(),
    )?)?;
    if inode.is_dir() {
        drop_dir_nlink(old_dir);
        // What was replaced had a link too.
        if replaced.is_none() {
            inc_dir_nlink(new_dir);
        }
    }
    if let Some(replaced) = replaced {
        replaced.data().flag(cnode::VATTR);
    }
    old_dir.touch();
    new_dir.touch();
    Ok(())
}

/// Reads the target of a symbolic link. As `coda_symlink_filler()`.
pub(crate) fn readlink(inode: &INode<Coda>, buffer: &mut [u8]) -> Result<usize> {
    let room = buffer.len();
    let reply = comm(inode).upcall(Message::readlink(&inode.data().fid(), room)?)?;
    let target = reply.body().data()?;
    // One byte is for the terminator.
    let target = target.get(..target.len().min(room - 1)).ok_or(EIO)?;
    buffer
        .get_mut(..target.len())
        .ok_or(EIO)?
        .copy_from_slice(target);
    Ok(target.len())
}

/// Lists a directory. As `coda_readdir()`.
pub(crate) fn readdir(file: &File<Coda>, emitter: &mut DirEmitter<'_>) -> Result {
    let container = &handle(file)?.container;
    if container.is_dir() {
        return container.iterate(emitter);
    }
    list_venus_dirents(file, emitter)
}

/// The first bytes of a `struct venus_dirent`, before the name: `d_fileno`, `d_reclen`, `d_type`,
/// `d_namlen`.
const DIRENT_HEADER: usize = 8;

/// Lists the `struct venus_dirent`s in a container that is a file. Its positions, moved by two for
/// `.` and `..`, are those of the listing.
fn list_venus_dirents(file: &File<Coda>, emitter: &mut DirEmitter<'_>) -> Result {
    let container = &handle(file)?.container;
    if !emitter.dots() {
        return Ok(());
    }
    let mut record = [0u8; DIRENT_HEADER + wire::MAXNAMLEN + 1];
    loop {
        let position = emitter.position();
        let len = container.read_at(&mut record, position - 2)?;
        if len == 0 {
            return Ok(());
        }
        let Some(entry) = DirEntry::parse(record.get(..len).unwrap_or_default()) else {
            let fid: Fid = file.inode().data().fid();
            warn_limited!("directory {fid} is malformed at {}\n", position - 2);
            return Err(EBADF);
        };
        if entry.is_shown() && !emitter.entry(entry.name, entry.ino.into(), entry.kind) {
            return Ok(());
        }
        let next = position.checked_add(entry.record_len.into()).ok_or(EBADF)?;
        emitter.set_position(next);
        // The container may be long, and have nothing to show.
        if task::is_killed() {
            return Err(EINTR);
        }
    }
}

struct DirEntry<'a> {
    ino: u32,
    record_len: u16,
    kind: u8,
    name: &'a [u8],
}

impl<'a> DirEntry<'a> {
    /// Reads a record; `None` if it is cut off or makes no sense.
    fn parse(record: &'a [u8]) -> Option<Self> {
        let (header, rest) = record.split_first_chunk::<DIRENT_HEADER>()?;
        let [i0, i1, i2, i3, r0, r1, kind, name_len] = *header;
        let record_len = u16::from_ne_bytes([r0, r1]);
        if usize::from(record_len) < DIRENT_HEADER + usize::from(name_len) {
            return None;
        }
        Some(Self {
            ino: u32::from_ne_bytes([i0, i1, i2, i3]),
            record_len,
            // The values of `CDT_*` are those of `DT_*`; what is none of them is unknown.
            kind: if matches!(kind, 1 | 2 | 4 | 6 | 8 | 10 | 12 | 14) {
                kind
            } else {
                0
            },
            name: rest.get(..usize::from(name_len))?,
        })
    }

    /// Whether it is an entry, and neither `.` nor `..`, which were emitted already.
    fn is_shown(&self) -> bool {
        self.ino != 0 && !matches!(self.name, [] | b"." | b"..")
    }
}

#[kunit_tests(coda_rs_dir)]
mod tests {
    use super::*;

    fn record(ino: u32, len: u16, kind: u8, name: &[u8]) -> Result<KVec<u8>> {
        let mut bytes = KVec::new();
        bytes.extend_from_slice(&ino.to_ne_bytes(), GFP_KERNEL)?;
        bytes.extend_from_slice(&len.to_ne_bytes(), GFP_KERNEL)?;
        bytes.extend_from_slice(&[kind, name.len() as u8], GFP_KERNEL)?;
        bytes.extend_from_slice(name, GFP_KERNEL)?;
        Ok(bytes)
    }

    #[test]
    fn entry_is_parsed() -> Result {
        let bytes = record(7, 16, 8, b"name")?;
        let entry = DirEntry::parse(&bytes).ok_or(EIO)?;
        assert!(entry.is_shown());
        assert_eq!(entry.name, b"name");
        assert_eq!(entry.ino, 7);
        assert_eq!(entry.kind, 8);
        Ok(())
    }

    #[test]
    fn nonsense_is_refused() -> Result {
        // The record is shorter than its name.
        assert!(DirEntry::parse(&record(7, 9, 8, b"name")?).is_none());
        assert!(DirEntry::parse(&record(7, 0, 8, b"")?).is_none());
        // It is cut off.
        let bytes = record(7, 16, 8, b"name")?;
        assert!(DirEntry::parse(bytes.get(..10).ok_or(EIO)?).is_none());
        assert!(DirEntry::parse(bytes.get(..7).ok_or(EIO)?).is_none());
        Ok(())
    }

    #[test]
    fn dots_and_holes_are_not_shown() -> Result {
        for (ino, name) in [(0, &b"gone"[..]), (1, b"."), (1, b".."), (1, b"")] {
            let bytes = record(ino, 16, 4, name)?;
            assert!(!DirEntry::parse(&bytes).ok_or(EIO)?.is_shown());
        }
        let bytes = record(1, 16, 3, b"...")?;
        let entry = DirEntry::parse(&bytes).ok_or(EIO)?;
        assert!(entry.is_shown());
        assert_eq!(entry.kind, 0);
        Ok(())
    }
}
