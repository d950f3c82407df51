// SPDX-License-Identifier: GPL-2.0

//! The operations tables of a [`FileSystem`], and the functions in them.
//!
//! The VFS calls the functions of a table only with objects that were given that table, and those
//! are the ones of `T`: `NewInode::init` sets the tables of inodes (and by them of files),
//! `fill_super` those of dentries. Each `SAFETY` comment below that says "an object of this table"
//! means this.

use super::{
    bindings as helpers,
    dentry::{Dentry, Name},
    errno::ENAMETOOLONG,
    file::{DirEmitter, File, Opening, ReadIo, SpliceRead, VmArea, WriteIo},
    fs::FileSystem,
    inode::{Attr, INode, InodeRef, RcuInode},
    sb::SuperBlock,
    to_int,
};
use core::{cell::Cell, marker::PhantomData, ptr::NonNull};
use kernel::{
    bindings::{self, dentry, inode, loff_t, mnt_idmap},
    ffi::{c_char, c_int, c_long, c_uint, c_ulong},
    prelude::*,
    str::CStr,
};

/// Operations that all kinds of inodes share.
struct AnyOps<T: FileSystem>(PhantomData<T>);

impl<T: FileSystem> AnyOps<T> {
    /// # Safety
    ///
    /// Called by the VFS alone, as the operation of this name, with an object of this table.
    unsafe extern "C" fn permission(_: *mut mnt_idmap, inode: *mut inode, mask: c_int) -> c_int {
        let mask = mask as u32;
        if mask & bindings::MAY_NOT_BLOCK != 0 {
            // SAFETY: An object of this table, in RCU path walk.
            let inode = unsafe { RcuInode::<T>::from_raw(inode) };
            return to_int(T::permission_rcu(inode, mask));
        }
        // SAFETY: An object of this table.
        to_int(T::permission(unsafe { INode::from_raw(inode) }, mask))
    }

    /// # Safety
    ///
    /// Called by the VFS alone, as the operation of this name, with an object of this table.
    unsafe extern "C" fn getattr(
        _: *mut mnt_idmap,
        path: *const bindings::path,
        stat: *mut bindings::kstat,
        request: u32,
        _flags: c_uint,
    ) -> c_int {
        // SAFETY: `path` leads to a positive dentry of an object of this table.
        let inode = unsafe { INode::<T>::from_raw(helpers::vfsh_dentry_inode((*path).dentry)) };
        to_int(T::getattr(inode).map(|()| {
            // SAFETY: `stat` is the caller's to fill.
            unsafe { helpers::vfsh_fillattr(request, inode.as_ptr(), stat) };
        }))
    }

    /// # Safety
    ///
    /// Called by the VFS alone, as the operation of this name, with an object of this table.
    unsafe extern "C" fn setattr(
        _: *mut mnt_idmap,
        dentry: *mut dentry,
        iattr: *mut bindings::iattr,
    ) -> c_int {
        // SAFETY: A positive dentry of an object of this table; `iattr` is the caller's.
        let (inode, attr) = unsafe {
            (
                INode::<T>::from_raw(helpers::vfsh_dentry_inode(dentry)),
                Attr::from_iattr(iattr),
            )
        };
        to_int(T::setattr(inode, &attr))
    }

    /// # Safety
    ///
    /// Called by the VFS alone, as the operation of this name, with an object of this table.
    unsafe extern "C" fn open(inode: *mut inode, file: *mut bindings::file) -> c_int {
        // SAFETY: Objects of this table; the file is being opened, by this call.
        let (inode, this) = unsafe { (INode::<T>::from_raw(inode), Opening::from_raw(file)) };
        to_int(T::open(inode, &this).and_then(|handle| {
            // If the allocation fails, the handle is dropped: the open is undone.
            let handle = KBox::new(handle, GFP_KERNEL)?;
            // SAFETY: `open` may set `private_data`; `release` takes it back.
            unsafe { (*file).private_data = KBox::into_raw(handle).cast() };
            Ok(())
        }))
    }

    /// # Safety
    ///
    /// Called by the VFS alone, as the operation of this name, with an object of this table.
    unsafe extern "C" fn release(_: *mut inode, file: *mut bindings::file) -> c_int {
        // SAFETY: The last use of the file; `open` set `private_data`, as `release` is not called
        // for a file that was not opened.
        unsafe {
            let handle: *mut T::Handle = (*file).private_data.cast();
            (*file).private_data = core::ptr::null_mut();
            drop(KBox::from_raw(handle));
        }
        0
    }

    /// # Safety
    ///
    /// Called by the VFS alone, as the operation of this name, with an object of this table.
    unsafe extern "C" fn fsync(
        file: *mut bindings::file,
        _start: loff_t,
        _end: loff_t,
        datasync: c_int,
    ) -> c_int {
        // SAFETY: An open object of this table.
        to_int(T::fsync(unsafe { File::from_raw(file) }, datasync != 0))
    }
}

/// Tables of regular files.
pub(super) struct FileOps<T: FileSystem>(PhantomData<T>);

impl<T: FileSystem> FileOps<T> {
    const INODE: bindings::inode_operations = bindings::inode_operations {
        permission: Some(AnyOps::<T>::permission),
        getattr: Some(AnyOps::<T>::getattr),
        setattr: Some(AnyOps::<T>::setattr),
        ..pin_init::zeroed()
    };

    const FILE: bindings::file_operations = bindings::file_operations {
        llseek: Some(bindings::generic_file_llseek),
        read_iter: Some(Self::read_iter),
        write_iter: Some(Self::write_iter),
        mmap: Some(Self::mmap),
        open: Some(AnyOps::<T>::open),
        release: Some(AnyOps::<T>::release),
        fsync: Some(AnyOps::<T>::fsync),
        splice_read: Some(Self::splice_read),
        splice_write: Some(bindings::iter_file_splice_write),
        fallocate: Some(Self::fallocate),
        ..pin_init::zeroed()
    };

    pub(super) fn inode_operations() -> &'static bindings::inode_operations {
        &Self::INODE
    }

    pub(super) fn file_operations() -> &'static bindings::file_operations {
        &Self::FILE
    }

    /// # Safety
    ///
    /// Called by the VFS alone, as the operation of this name, with an object of this table.
    unsafe extern "C" fn read_iter(
        kiocb: *mut bindings::kiocb,
        iter: *mut bindings::iov_iter,
    ) -> isize {
        // SAFETY: An open object of this table, alive while the kiocb is.
        let file = unsafe { File::<T>::from_raw((*kiocb).ki_filp) };
        // SAFETY: As passed by the VFS. `T::read` takes any lifetime, so it knows of no other with the
        // same.
        T::read(file, unsafe { ReadIo::from_raw(kiocb, iter) }).into_raw()
    }

    /// # Safety
    ///
    /// Called by the VFS alone, as the operation of this name, with an object of this table.
    unsafe extern "C" fn write_iter(
        kiocb: *mut bindings::kiocb,
        iter: *mut bindings::iov_iter,
    ) -> isize {
        // SAFETY: An open object of this table, alive while the kiocb is.
        let file = unsafe { File::<T>::from_raw((*kiocb).ki_filp) };
        // SAFETY: As passed by the VFS. `T::write` takes any lifetime, so it knows of no other with the
        // same.
        T::write(file, unsafe { WriteIo::from_raw(kiocb, iter) }).into_raw()
    }

    /// # Safety
    ///
    /// Called by the VFS alone, as the operation of this name, with an object of this table.
    unsafe extern "C" fn splice_read(
        file: *mut bindings::file,
        position: *mut loff_t,
        pipe: *mut bindings::pipe_inode_info,
        len: usize,
        flags: c_uint,
    ) -> isize {
        // INVARIANT: As passed by the VFS; the lifetime as that of a read.
        let io = SpliceRead {
            file,
            position,
            pipe,
            len,
            flags,
            _this: PhantomData,
        };
        // SAFETY: An open object of this table.
        T::splice_read(unsafe { File::from_raw(file) }, io).into_raw()
    }

    /// # Safety
    ///
    /// Called by the VFS alone, as the operation of this name, with an object of this table.
    unsafe extern "C" fn mmap(
        file: *mut bindings::file,
        vma: *mut bindings::vm_area_struct,
    ) -> c_int {
        let outcome = Cell::new(None);
        // INVARIANT: `->mmap` is called on an area under construction.
        let area = VmArea {
            vma,
            outcome: &outcome,
            _life: PhantomData,
        };
        // SAFETY: An open object of this table.
        let ret = to_int(T::mmap(unsafe { File::from_raw(file) }, area));
        // An area that the host has made must not be given up without its `close`, and one that it
        // gave up must not be used.
        outcome.get().unwrap_or(ret)
    }

    /// # Safety
    ///
    /// Called by the VFS alone, as the operation of this name, with an object of this table.
    unsafe extern "C" fn fallocate(
        file: *mut bindings::file,
        mode: c_int,
        offset: loff_t,
        len: loff_t,
    ) -> c_long {
        // SAFETY: An open object of this table.
        let file = unsafe { File::<T>::from_raw(file) };
        to_int(T::fallocate(file, mode, offset, len)) as c_long
    }
}

/// Tables of directories.
pub(super) struct DirOps<T: FileSystem>(PhantomData<T>);

impl<T: FileSystem> DirOps<T> {
    const INODE: bindings::inode_operations = bindings::inode_operations {
        lookup: Some(Self::lookup),
        create: Some(Self::create),
        link: Some(Self::link),
        unlink: Some(Self::unlink),
        symlink: Some(Self::symlink),
        mkdir: Some(Self::mkdir),
        rmdir: Some(Self::rmdir),
        mknod: Some(Self::mknod),
        rename: Some(Self::rename),
        permission: Some(AnyOps::<T>::permission),
        getattr: Some(AnyOps::<T>::getattr),
        setattr: Some(AnyOps::<T>::setattr),
        ..pin_init::zeroed()
    };

    const FILE: bindings::file_operations = bindings::file_operations {
        llseek: Some(bindings::generic_file_llseek),
        read: Some(bindings::generic_read_dir),
        iterate_shared: Some(Self::iterate_shared),
        open: Some(AnyOps::<T>::open),
        release: Some(AnyOps::<T>::release),
        fsync: Some(AnyOps::<T>::fsync),
        ..pin_init::zeroed()
    };

    pub(super) fn inode_operations() -> &'static bindings::inode_operations {
        &Self::INODE
    }

    pub(super) fn file_operations() -> &'static bindings::file_operations {
        &Self::FILE
    }

    /// Hands the made inode to its dentry, or drops the dentry from the dcache: after a failure
    /// nobody knows whether the name is there.
    ///
    /// # Safety
    ///
    /// `dentry` is negative, and its directory locked.
    unsafe fn instantiate(dentry: *mut dentry, made: Result<InodeRef<'_, T>>) -> Result {
        // SAFETY: The dentry is alive.
        match made.and_then(|inode| inode.into_raw_of(unsafe { (*dentry).d_sb })) {
            Ok(inode) => {
                // SAFETY: `d_instantiate` takes the reference over.
                unsafe { bindings::d_instantiate(dentry, inode) };
                Ok(())
            }
            Err(err) => {
                // SAFETY: The caller's promise.
                unsafe { bindings::d_drop(dentry) };
                Err(err)
            }
        }
    }

    /// # Safety
    ///
    /// Called by the VFS alone, as the operation of this name, with an object of this table.
    unsafe extern "C" fn lookup(
        dir: *mut inode,
        dentry: *mut dentry,
        _flags: c_uint,
    ) -> *mut dentry {
        // SAFETY: Objects of this table; a dentry in lookup keeps its name.
        let (this, name) = unsafe { (INode::<T>::from_raw(dir), Name::of(dentry)) };
        if name.as_bytes().len() > T::NAME_MAX {
            return Error::from(ENAMETOOLONG).to_ptr();
        }
        let found = T::lookup(this, name).and_then(|found| match found {
            Some(inode) => inode.into_raw_of(this.super_block().as_ptr()),
            None => Ok(core::ptr::null_mut()),
        });
        let inode = match found {
            Ok(inode) => inode,
            Err(err) => return err.to_ptr(),
        };
        // SAFETY: `d_splice_alias` takes the reference to the inode over, on failure too.
        unsafe { bindings::d_splice_alias(inode, dentry) }
    }

    /// # Safety
    ///
    /// Called by the VFS alone, as the operation of this name, with an object of this table.
    #[cfg(vfs_before_7_3)]
    unsafe extern "C" fn create(
        idmap: *mut mnt_idmap,
        dir: *mut inode,
        dentry: *mut dentry,
        mode: bindings::umode_t,
        _excl: bool,
    ) -> c_int {
        // SAFETY: The caller's promise is the same.
        unsafe { Self::create_any(idmap, dir, dentry, mode) }
    }

    /// # Safety
    ///
    /// Called by the VFS alone, as the operation of this name, with an object of this table.
    #[cfg(not(vfs_before_7_3))]
    unsafe extern "C" fn create(
        idmap: *mut mnt_idmap,
        dir: *mut inode,
        dentry: *mut dentry,
        mode: bindings::umode_t,
    ) -> c_int {
        // SAFETY: The caller's promise is the same.
        unsafe { Self::create_any(idmap, dir, dentry, mode) }
    }

    /// # Safety
    ///
    /// Called by the VFS alone, as the operation of this name, with an object of this table.
    unsafe fn create_any(
        _: *mut mnt_idmap,
        dir: *mut inode,
        dentry: *mut dentry,
        mode: bindings::umode_t,
    ) -> c_int {
        // SAFETY: Objects of this table; the directory is locked.
        to_int(unsafe {
            let made = T::create(INode::from_raw(dir), Name::of(dentry), mode.into());
            Self::instantiate(dentry, made)
        })
    }

    /// # Safety
    ///
    /// Called by the VFS alone, as the operation of this name, with an object of this table.
    unsafe extern "C" fn mkdir(
        _: *mut mnt_idmap,
        dir: *mut inode,
        dentry: *mut dentry,
        mode: bindings::umode_t,
    ) -> *mut dentry {
        let mode = u32::from(mode) & !super::inode::mode::S_IFMT;
        // SAFETY: Objects of this table; the directory is locked. `d_splice_alias` takes the
        // reference to the inode over, and copes with a directory that has a name already.
        unsafe {
            let made = T::mkdir(INode::from_raw(dir), Name::of(dentry), mode);
            bindings::d_drop(dentry);
            match made.and_then(|inode| inode.into_raw_of((*dentry).d_sb)) {
                Ok(inode) => bindings::d_splice_alias(inode, dentry),
                Err(err) => err.to_ptr(),
            }
        }
    }

    /// # Safety
    ///
    /// Called by the VFS alone, as the operation of this name, with an object of this table.
    unsafe extern "C" fn link(old: *mut dentry, dir: *mut inode, dentry: *mut dentry) -> c_int {
        // SAFETY: Objects of this table; the directory and the inode are locked.
        to_int(unsafe {
            let inode = INode::<T>::from_raw(helpers::vfsh_dentry_inode(old));
            let made =
                T::link(inode, INode::from_raw(dir), Name::of(dentry)).map(|()| inode.hold());
            Self::instantiate(dentry, made)
        })
    }

    /// # Safety
    ///
    /// Called by the VFS alone, as the operation of this name, with an object of this table.
    unsafe extern "C" fn symlink(
        _: *mut mnt_idmap,
        dir: *mut inode,
        dentry: *mut dentry,
        target: *const c_char,
    ) -> c_int {
        // SAFETY: Objects of this table; the directory is locked; the target is a string of the
        // VFS's. No inode is made, so the negative dentry has to go.
        to_int(unsafe {
            bindings::d_drop(dentry);
            T::symlink(
                INode::from_raw(dir),
                Name::of(dentry),
                CStr::from_char_ptr(target),
            )
        })
    }

    /// # Safety
    ///
    /// Called by the VFS alone, as the operation of this name, with an object of this table.
    unsafe extern "C" fn unlink(dir: *mut inode, dentry: *mut dentry) -> c_int {
        // SAFETY: Objects of this table; the directory and the inode are locked.
        to_int(unsafe {
            T::unlink(
                INode::from_raw(dir),
                Name::of(dentry),
                INode::from_raw(helpers::vfsh_dentry_inode(dentry)),
            )
        })
    }

    /// # Safety
    ///
    /// Called by the VFS alone, as the operation of this name, with an object of this table.
    unsafe extern "C" fn rmdir(dir: *mut inode, dentry: *mut dentry) -> c_int {
        // SAFETY: Objects of this table; both directories are locked.
        to_int(unsafe {
            T::rmdir(
                INode::from_raw(dir),
                Name::of(dentry),
                INode::from_raw(helpers::vfsh_dentry_inode(dentry)),
            )
        })
    }

    /// # Safety
    ///
    /// Called by the VFS alone, as the operation of this name, with an object of this table.
    unsafe extern "C" fn mknod(
        _: *mut mnt_idmap,
        _: *mut inode,
        _: *mut dentry,
        _: bindings::umode_t,
        _: bindings::dev_t,
    ) -> c_int {
        EIO.to_errno()
    }

    /// # Safety
    ///
    /// Called by the VFS alone, as the operation of this name, with an object of this table.
    unsafe extern "C" fn rename(
        _: *mut mnt_idmap,
        old_dir: *mut inode,
        old_dentry: *mut dentry,
        new_dir: *mut inode,
        new_dentry: *mut dentry,
        flags: c_uint,
    ) -> c_int {
        if flags != 0 {
            return EINVAL.to_errno();
        }
        // SAFETY: Objects of this table; both directories are locked, so names are stable.
        to_int(unsafe {
            let replaced = NonNull::new(helpers::vfsh_dentry_inode(new_dentry));
            T::rename(
                INode::from_raw(old_dir),
                Name::of(old_dentry),
                INode::from_raw(new_dir),
                Name::of(new_dentry),
                INode::from_raw(helpers::vfsh_dentry_inode(old_dentry)),
                replaced.map(|inode| INode::from_raw(inode.as_ptr())),
            )
        })
    }

    /// # Safety
    ///
    /// Called by the VFS alone, as the operation of this name, with an object of this table.
    unsafe extern "C" fn iterate_shared(
        file: *mut bindings::file,
        context: *mut bindings::dir_context,
    ) -> c_int {
        // INVARIANT: As passed by the VFS.
        let mut emitter = DirEmitter {
            file,
            context,
            _life: PhantomData,
        };
        // SAFETY: An open object of this table.
        to_int(T::readdir(unsafe { File::from_raw(file) }, &mut emitter))
    }
}

/// Tables of symbolic links.
pub(super) struct SymlinkOps<T: FileSystem>(PhantomData<T>);

impl<T: FileSystem> SymlinkOps<T> {
    const INODE: bindings::inode_operations = bindings::inode_operations {
        get_link: Some(bindings::page_get_link),
        getattr: Some(AnyOps::<T>::getattr),
        setattr: Some(AnyOps::<T>::setattr),
        ..pin_init::zeroed()
    };

    const AOPS: bindings::address_space_operations = bindings::address_space_operations {
        read_folio: Some(Self::read_folio),
        ..pin_init::zeroed()
    };

    pub(super) fn inode_operations() -> &'static bindings::inode_operations {
        &Self::INODE
    }

    pub(super) fn aops() -> &'static bindings::address_space_operations {
        &Self::AOPS
    }

    /// # Safety
    ///
    /// Called by the VFS alone, as the operation of this name, with an object of this table.
    unsafe extern "C" fn read_folio(_: *mut bindings::file, folio: *mut bindings::folio) -> c_int {
        // SAFETY: The folio is locked, not yet uptodate and of the page cache of an object of this
        // table, which is of single pages in low memory (`vfs_inode_make_symlink`); so the page is
        // ours to write until `folio_end_read`, which unlocks it.
        unsafe {
            let inode = INode::<T>::from_raw(helpers::vfsh_folio_host(folio));
            let page: *mut u8 = helpers::vfsh_folio_address(folio).cast();
            page.write_bytes(0, kernel::page::PAGE_SIZE);
            let buffer = core::slice::from_raw_parts_mut(page, kernel::page::PAGE_SIZE);
            let result = T::readlink(inode, buffer).and_then(|len| {
                // The VFS reads the target up to a NUL.
                *buffer.get_mut(len).ok_or(ENAMETOOLONG)? = 0;
                Ok(())
            });
            bindings::folio_end_read(folio, result.is_ok());
            to_int(result)
        }
    }
}

/// Tables of control files.
pub(super) struct ControlOps<T: FileSystem>(PhantomData<T>);

impl<T: FileSystem> ControlOps<T> {
    const INODE: bindings::inode_operations = bindings::inode_operations {
        permission: Some(Self::permission),
        ..pin_init::zeroed()
    };

    const FILE: bindings::file_operations = bindings::file_operations {
        llseek: Some(bindings::noop_llseek),
        unlocked_ioctl: Some(Self::unlocked_ioctl),
        ..pin_init::zeroed()
    };

    pub(super) fn inode_operations() -> &'static bindings::inode_operations {
        &Self::INODE
    }

    pub(super) fn file_operations() -> &'static bindings::file_operations {
        &Self::FILE
    }

    /// # Safety
    ///
    /// Called by the VFS alone, as the operation of this name, with an object of this table.
    unsafe extern "C" fn permission(_: *mut mnt_idmap, _: *mut inode, mask: c_int) -> c_int {
        if mask as u32 & bindings::MAY_EXEC != 0 {
            return EACCES.to_errno();
        }
        0
    }

    /// # Safety
    ///
    /// Called by the VFS alone, as the operation of this name, with an object of this table.
    unsafe extern "C" fn unlocked_ioctl(
        file: *mut bindings::file,
        cmd: c_uint,
        arg: c_ulong,
    ) -> c_long {
        // SAFETY: An open object of this table; the file keeps its super block whole.
        let sb = unsafe { SuperBlock::<T>::from_raw((*(*file).f_inode).i_sb) };
        to_int(T::control(sb, cmd, arg)) as c_long
    }
}

/// The `dentry_operations` of `T`.
pub(super) struct DentryOps<T: FileSystem>(PhantomData<T>);

impl<T: FileSystem> DentryOps<T> {
    const OPS: bindings::dentry_operations = bindings::dentry_operations {
        d_revalidate: Some(Self::d_revalidate),
        d_delete: Some(Self::d_delete),
        ..pin_init::zeroed()
    };

    pub(super) fn get() -> &'static bindings::dentry_operations {
        &Self::OPS
    }

    /// # Safety
    ///
    /// Called by the VFS alone, as the operation of this name, with an object of this table.
    unsafe extern "C" fn d_revalidate(
        _dir: *mut inode,
        _name: *const bindings::qstr,
        dentry: *mut dentry,
        flags: c_uint,
    ) -> c_int {
        if flags & helpers::vfs_consts_VFS_LOOKUP_RCU == 0 {
            // SAFETY: An object of this table.
            return T::revalidate(unsafe { Dentry::from_raw(dentry) }).into();
        }
        // SAFETY: An object of this table, in RCU path walk: its inode may be gone, or going.
        // Read once, as `d_inode_rcu()` does.
        let inode = unsafe { NonNull::new((&raw const (*dentry).d_inode).read_volatile()) };
        let Some(inode) = inode else {
            return ECHILD.to_errno();
        };
        // SAFETY: As above.
        match T::revalidate_rcu(unsafe { RcuInode::from_raw(inode.as_ptr()) }) {
            Some(valid) => valid.into(),
            None => ECHILD.to_errno(),
        }
    }

    /// # Safety
    ///
    /// Called by the VFS alone, as the operation of this name, with an object of this table.
    unsafe extern "C" fn d_delete(dentry: *const dentry) -> c_int {
        // SAFETY: An object of this table whose `d_lock` is held.
        let this = unsafe { Dentry::<T>::from_raw(dentry) };
        this.inode()
            .is_some_and(|inode| T::forget(inode.data()))
            .into()
    }
}
