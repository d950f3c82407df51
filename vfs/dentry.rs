// SPDX-License-Identifier: GPL-2.0

//! Directory entries.
//!
//! C headers: [`include/linux/dcache.h`](srctree/include/linux/dcache.h).

use super::{
    bindings as helpers,
    fs::FileSystem,
    inode::{INode, RcuInode},
};
use core::{ffi::c_void, marker::PhantomData, ptr::NonNull};
use kernel::{bindings, types::Opaque};

/// A name in a directory: at most `NAME_MAX` bytes, none of them `/` or NUL.
#[derive(Clone, Copy)]
pub(crate) struct Name<'a>(&'a [u8]);

impl<'a> Name<'a> {
    /// The bytes of the name, without a terminator.
    pub(crate) fn as_bytes(&self) -> &'a [u8] {
        self.0
    }

    /// # Safety
    ///
    /// The name of `dentry` must not change during `'a`: it is in lookup, or the parent directory
    /// is locked.
    pub(super) unsafe fn of(dentry: *const bindings::dentry) -> Self {
        // SAFETY: The caller's promise makes `d_name` stable; the dcache keeps `len` valid bytes
        // at `name`. `qstr` is a union of the hash and length with their common word.
        unsafe {
            let qstr = &(*dentry).__bindgen_anon_1.d_name;
            let len = qstr.__bindgen_anon_1.__bindgen_anon_1.len as usize;
            Name(core::slice::from_raw_parts(qstr.name, len))
        }
    }
}

/// A dentry of a file system of type `T`.
///
/// # Invariants
///
/// The dentry belongs to a super block of `T`, and a reference to it, or its `d_lock`, is held for as
/// long as a `&Dentry` exists.
#[repr(transparent)]
pub(crate) struct Dentry<T: FileSystem>(Opaque<bindings::dentry>, PhantomData<T>);

impl<T: FileSystem> Dentry<T> {
    /// # Safety
    ///
    /// `ptr` must satisfy the type invariants during `'a`.
    pub(super) unsafe fn from_raw<'a>(ptr: *const bindings::dentry) -> &'a Self {
        // SAFETY: `repr(transparent)`, and the caller's promise.
        unsafe { &*ptr.cast() }
    }

    fn as_ptr(&self) -> *mut bindings::dentry {
        self.0.get()
    }

    /// The inode, if the dentry is positive.
    pub(crate) fn inode(&self) -> Option<&INode<T>> {
        // SAFETY: The dentry is alive by the type invariants.
        let inode = unsafe { helpers::vfsh_dentry_inode(self.as_ptr()) };
        // SAFETY: The inode of a dentry of a super block of `T` is one of `T`'s, and stays while the
        // dentry is referenced, or locked: either keeps it positive.
        (!inode.is_null()).then(|| unsafe { INode::from_raw(inode) })
    }

    /// Whether this is the root of its super block.
    pub(crate) fn is_root(&self) -> bool {
        // SAFETY: The dentry is alive; `d_sb` never changes and outlives it.
        unsafe { (*(*self.as_ptr()).d_sb).s_root == self.as_ptr() }
    }

    /// How many references there are, the caller's included. A snapshot.
    pub(crate) fn count(&self) -> u32 {
        // SAFETY: The dentry is alive by the type invariants.
        unsafe { helpers::vfsh_dentry_count(self.as_ptr()) }
    }

    /// Forgets all unused dentries below this one. May sleep.
    pub(crate) fn shrink_children(&self) {
        // SAFETY: The dentry is alive by the type invariants.
        unsafe { bindings::shrink_dcache_parent(self.as_ptr()) };
    }

    /// Calls `each` for the data of the inode of every positive child, with `d_lock` of this dentry
    /// held: it must not sleep.
    pub(crate) fn for_each_child<F: FnMut(&T::Inode)>(&self, mut each: F) {
        /// # Safety
        ///
        /// Called by the helper below alone, with the `F` that it was given, for a child of a dentry of
        /// `T`.
        unsafe extern "C" fn call<T: FileSystem, F: FnMut(&T::Inode)>(
            inode: *mut bindings::inode,
            arg: *mut c_void,
        ) {
            // SAFETY: `arg` is the `&mut F` below, used by this call alone.
            let each = unsafe { &mut *arg.cast::<F>() };
            // SAFETY: The child is of the parent's super block; `d_lock` of the parent and the RCU
            // read lock keep the inode alive during the call.
            each(unsafe { RcuInode::<T>::from_raw(inode) }.data());
        }
        // SAFETY: The dentry is alive; `call::<T, F>` matches the type of the argument.
        unsafe {
            helpers::vfsh_dentry_visit_children(
                self.as_ptr(),
                Some(call::<T, F>),
                core::ptr::from_mut(&mut each).cast(),
            )
        };
    }
}

/// An owned reference to a dentry of `T`, which does not outlive what keeps the super block whole.
pub(crate) struct DentryRef<'sb, T: FileSystem>(NonNull<Dentry<T>>, PhantomData<&'sb T>);

impl<T: FileSystem> DentryRef<'_, T> {
    /// # Safety
    ///
    /// `ptr` is a dentry of `T`, the caller gives away a reference to it, and its super block stays
    /// whole during the lifetime of the result.
    pub(super) unsafe fn from_raw(ptr: NonNull<bindings::dentry>) -> Self {
        Self(ptr.cast(), PhantomData)
    }
}

impl<T: FileSystem> core::ops::Deref for DentryRef<'_, T> {
    type Target = Dentry<T>;

    fn deref(&self) -> &Dentry<T> {
        // SAFETY: This value owns a reference.
        unsafe { self.0.as_ref() }
    }
}

impl<T: FileSystem> Drop for DentryRef<'_, T> {
    fn drop(&mut self) {
        // SAFETY: This value owns the reference that is dropped here.
        unsafe { bindings::dput(self.0.as_ptr().cast()) };
    }
}
