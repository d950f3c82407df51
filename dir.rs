#![deny(unsafe_code)]
// SPDX-License-Identifier: GPL-2.0

//! Directories: names, and listings out of both kinds of container.

use crate::{
    cnode,
    dirent::{Found, Records},
    file::handle,
    inode::{comm, Coda},
    pioctl,
    vfs::{file::DirEmitter, inode::InodeRef, task, warn_limited, File, INode, Name},
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

/// As `coda_link()`; but another name for the control file is not asked for, by a fid of zeroes.
pub(crate) fn link(inode: &INode<Coda>, dir: &INode<Coda>, name: Name<'_>) -> Result {
    refuse_control(dir, name)?;
    if pioctl::is_control_inode(inode) {
        return Err(EPERM);
    }
    let (fid, dir_fid) = (inode.data().fid(), dir.data().fid());
    comm(dir).upcall(Message::link(&fid, &dir_fid, name.as_bytes())?)?;
    dir.touch();
    inode.inc_nlink();
    Ok(())
}

/// As `coda_symlink()`.
pub(crate) fn symlink(dir: &INode<Coda>, name: Name<'_>, target: &[u8]) -> Result {
    refuse_control(dir, name)?;
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

/// Lists the `struct venus_dirent`s in a container that is a file.
fn list_venus_dirents(file: &File<Coda>, emitter: &mut DirEmitter<'_>) -> Result {
    let container = &handle(file)?.container;
    if !emitter.dots() {
        return Ok(());
    }
    let mut records = Records::new();
    loop {
        let read_at = |buf: &mut [u8], offset| container.read_at(buf, offset);
        let entry = match records.at(emitter.position(), read_at)? {
            Found::End => return Ok(()),
            Found::Record(entry) => entry,
            Found::Nonsense(offset) => {
                let fid: Fid = file.inode().data().fid();
                warn_limited!("directory {fid} is malformed at {offset}\n");
                return Err(EBADF);
            }
        };
        if entry.is_shown() && !emitter.entry(entry.name, entry.ino.into(), entry.kind) {
            return Ok(());
        }
        emitter.set_position(entry.next);
        // The container may be long, and have nothing to show.
        if task::is_killed() {
            return Err(EINTR);
        }
    }
}
