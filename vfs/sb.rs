// SPDX-License-Identifier: GPL-2.0

//! Super blocks.
//!
//! C headers: [`include/linux/fs/super_types.h`](srctree/include/linux/fs/super_types.h).

use super::{
    bindings as helpers,
    fs::FileSystem,
    inode::{INode, InodeCache, InodeRef},
};
use core::{marker::PhantomData, ptr::NonNull};
use kernel::{
    bindings,
    error::to_result,
    prelude::*,
    sync::{Arc, Mutex},
    types::{Opaque, ScopeGuard},
    uaccess::UserPtr,
};

/// A super block of a file system of type `T`.
///
/// # Invariants
///
/// `s_type` is the registration of `T`, and `s_fs_info` is a leaked `KBox<SuperInfo<T>>` that is
/// freed after the last inode is gone.
#[repr(transparent)]
pub(crate) struct SuperBlock<T: FileSystem>(Opaque<bindings::super_block>, PhantomData<T>);

// SAFETY: All methods may be called from any thread; `T::Mount` is `Send + Sync`.
unsafe impl<T: FileSystem> Sync for SuperBlock<T> {}

impl<T: FileSystem> SuperBlock<T> {
    /// # Safety
    ///
    /// `ptr` must satisfy the type invariants and be alive during `'a`.
    pub(super) unsafe fn from_raw<'a>(ptr: *const bindings::super_block) -> &'a Self {
        // SAFETY: `repr(transparent)`, and the caller's promise.
        unsafe { &*ptr.cast() }
    }

    pub(super) fn as_ptr(&self) -> *mut bindings::super_block {
        self.0.get()
    }

    /// The file system's data of this mount.
    pub(crate) fn mount(&self) -> &T::Mount {
        &self.info().mount
    }

    pub(super) fn info(&self) -> &SuperInfo<T> {
        // SAFETY: By the type invariants: `s_fs_info` is set before the first inode or operation
        // exists and freed a grace period after the last is gone (`fs.rs`), and a `&SuperBlock` is
        // only made in between, RCU path walk included.
        unsafe { &*(*self.as_ptr()).s_fs_info.cast() }
    }

    /// The root inode, if the mount got that far.
    pub(crate) fn root(&self) -> Option<InodeRef<'_, T>> {
        // SAFETY: `s_root` is set in `fill_super`, before the mount is visible to anybody but the
        // thread that makes it, and cleared by `generic_shutdown_super`, when no operation and no
        // `MountLink` can get at the super block any more. The root dentry pins its inode.
        unsafe {
            let root = (*self.as_ptr()).s_root;
            if root.is_null() {
                return None;
            }
            let inode = NonNull::new((*root).d_inode)?;
            bindings::ihold(inode.as_ptr());
            Some(InodeRef::from_raw(inode))
        }
    }

    /// Walks to what a program calls `name`, and calls `with` for it; `EINVAL` if that is not in this
    /// mount. May sleep.
    pub(crate) fn with_user_path<R>(
        &self,
        name: UserPtr,
        follow: bool,
        with: impl FnOnce(&INode<T>) -> Result<R>,
    ) -> Result<R> {
        let mut path = bindings::path::default();
        // SAFETY: `path` is valid for writes; the name is checked like that of any system call.
        to_result(unsafe {
            helpers::vfsh_user_path(name.as_const_ptr().cast(), follow, &mut path)
        })?;
        let put = ScopeGuard::new_with_data(path, |path| {
            // SAFETY: The walk returned a reference.
            unsafe { bindings::path_put(&path) };
        });
        // SAFETY: The path is referenced, and positive, as a walk returns nothing else.
        let inode = unsafe { helpers::vfsh_dentry_inode(put.dentry) };
        // SAFETY: The inode is alive as long as the path is.
        if inode.is_null() || unsafe { (*inode).i_sb } != self.as_ptr() {
            return Err(EINVAL);
        }
        // SAFETY: It is of this super block, and referenced by the path until `put` is dropped.
        with(unsafe { INode::from_raw(inode) })
    }

    /// Forgets all unused dentries of the mount. May sleep.
    pub(crate) fn shrink_dcache(&self) {
        // SAFETY: The super block is alive.
        unsafe { bindings::shrink_dcache_sb(self.as_ptr()) };
    }
}

/// What `s_fs_info` points to.
pub(super) struct SuperInfo<T: FileSystem> {
    pub(super) mount: T::Mount,
    pub(super) link: Arc<MountLink<T>>,
}

/// A way to a mount for somebody who holds no reference to it: a message from a device, say.
///
/// The VFS side of this folder sets it when a mount is complete and clears it before the mount is
/// torn down, so that it never leads to a super block that is not whole.
///
/// # Invariants
///
/// While `sb` is `Some`, that super block is whole and its `kill_sb` has not begun to shut it down:
/// it must take the lock first.
#[pin_data]
pub(crate) struct MountLink<T: FileSystem> {
    #[pin]
    sb: Mutex<Option<Mounted<T>>>,
}

struct Mounted<T: FileSystem>(NonNull<SuperBlock<T>>);

// SAFETY: It is a `&SuperBlock<T>` with a lifetime the compiler cannot see; `SuperBlock<T>` is
// `Sync`.
unsafe impl<T: FileSystem> Send for Mounted<T> {}

impl<T: FileSystem> MountLink<T> {
    /// A link that leads nowhere yet.
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            sb <- kernel::new_mutex!(None, "MountLink::sb"),
        })
    }

    /// Calls `with` for the mount, if there is one. An unmount waits until it returns, so `with`
    /// must not wait for anything that an unmount in progress could hold up. References to inodes
    /// cannot leave it: they are tied to the borrow. May sleep.
    pub(crate) fn with(&self, with: impl FnOnce(&SuperBlock<T>)) {
        let guard = self.sb.lock();
        if let Some(mounted) = guard.as_ref() {
            // SAFETY: By the type invariants the super block is whole while the lock is held.
            with(unsafe { mounted.0.as_ref() });
        }
    }

    /// # Safety
    ///
    /// `sb` is whole, and whoever shuts it down calls `clear` first, on this very link.
    pub(super) unsafe fn set(&self, sb: &SuperBlock<T>) {
        // INVARIANT: The caller's promise.
        *self.sb.lock() = Some(Mounted(NonNull::from(sb)));
    }

    pub(super) fn clear(&self) {
        *self.sb.lock() = None;
    }
}

/// The `super_operations` of `T`; the VFS calls them with super blocks of `T` only.
pub(super) struct SuperOps<T: FileSystem>(PhantomData<T>);

impl<T: FileSystem> SuperOps<T> {
    const OPS: bindings::super_operations = bindings::super_operations {
        alloc_inode: Some(Self::alloc_inode),
        free_inode: Some(Self::free_inode),
        evict_inode: Some(Self::evict_inode),
        statfs: Some(Self::statfs),
        ..pin_init::zeroed()
    };

    pub(super) fn get() -> &'static bindings::super_operations {
        &Self::OPS
    }

    /// # Safety
    ///
    /// Called by the VFS alone, as the operation of this name, with an object of a super block of `T`.
    unsafe extern "C" fn alloc_inode(sb: *mut bindings::super_block) -> *mut bindings::inode {
        // SAFETY: `sb` is a super block of `T`: its type is the registration, which holds the cache
        // and cannot go away while a super block exists.
        unsafe {
            let cache: &InodeCache<T> = super::fs::Registration::<T>::of_super((*sb).s_type);
            cache.alloc(sb)
        }
    }

    /// # Safety
    ///
    /// Called by the VFS alone, as the operation of this name, with an object of a super block of `T`.
    unsafe extern "C" fn free_inode(inode: *mut bindings::inode) {
        // SAFETY: Called once for an inode from `alloc_inode`: after a grace period, or before anybody
        // has seen it.
        unsafe { InodeCache::<T>::free(inode) };
    }

    /// # Safety
    ///
    /// Called by the VFS alone, as the operation of this name, with an object of a super block of `T`.
    unsafe extern "C" fn evict_inode(inode: *mut bindings::inode) {
        // SAFETY: The inode is being evicted, and these two calls are what every `evict_inode`
        // owes.
        unsafe {
            bindings::truncate_inode_pages_final(core::ptr::addr_of_mut!((*inode).i_data));
            bindings::clear_inode(inode);
        }
    }

    /// # Safety
    ///
    /// Called by the VFS alone, as the operation of this name, with an object of a super block of `T`.
    unsafe extern "C" fn statfs(
        dentry: *mut bindings::dentry,
        buf: *mut bindings::kstatfs,
    ) -> kernel::ffi::c_int {
        // SAFETY: The dentry is of a mounted super block of `T`.
        let sb = unsafe { SuperBlock::<T>::from_raw((*dentry).d_sb) };
        let stat = match T::statfs(sb) {
            Ok(stat) => stat,
            Err(err) => return err.to_errno(),
        };
        // `struct kstatfs` is opaque in `kernel::bindings`.
        let buf: *mut helpers::kstatfs = buf.cast();
        // SAFETY: The VFS passes a zeroed `kstatfs` to fill.
        unsafe {
            (*buf).f_type = T::MAGIC as kernel::ffi::c_long;
            (*buf).f_bsize = 4096;
            (*buf).f_namelen = T::NAME_MAX as kernel::ffi::c_long;
            (*buf).f_blocks = stat.blocks;
            (*buf).f_bfree = stat.blocks_free;
            (*buf).f_bavail = stat.blocks_available;
            (*buf).f_files = stat.files;
            (*buf).f_ffree = stat.files_free;
        }
        0
    }
}
