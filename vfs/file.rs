// SPDX-License-Identifier: GPL-2.0

//! Open files of a file system, and the arguments of operations on them.
//!
//! C headers: [`include/linux/fs.h`](srctree/include/linux/fs.h).

use super::{bindings as helpers, fs::FileSystem, inode::INode};
use core::{cell::Cell, marker::PhantomData, ptr::NonNull};
use kernel::{bindings, ffi::c_int, fs::File as AnyFile, prelude::*, types::Opaque};

/// An open file of a file system of type `T`.
///
/// # Invariants
///
/// Its operations table is one of `T`'s (`ops.rs`), so its inode is an [`INode<T>`]; once `open`
/// succeeded, and until `release`, `private_data` is a leaked `KBox<T::Handle>`. It is alive while a
/// `&File` exists.
#[repr(transparent)]
pub(crate) struct File<T: FileSystem>(Opaque<bindings::file>, PhantomData<T>);

impl<T: FileSystem> File<T> {
    /// # Safety
    ///
    /// `ptr` must satisfy the type invariants during `'a`.
    pub(super) unsafe fn from_raw<'a>(ptr: *const bindings::file) -> &'a Self {
        // SAFETY: `repr(transparent)`, and the caller's promise.
        unsafe { &*ptr.cast() }
    }

    pub(super) fn as_ptr(&self) -> *mut bindings::file {
        self.0.get()
    }

    /// The file's inode.
    pub(crate) fn inode(&self) -> &INode<T> {
        // SAFETY: An open file's `f_inode` never changes and lives as long as the file; its file
        // system is `T` by the type invariants.
        unsafe { INode::from_raw((*self.as_ptr()).f_inode) }
    }

    /// The file system's data of this open file; `None` while it is still being opened.
    pub(crate) fn handle(&self) -> Option<&T::Handle> {
        // SAFETY: By the type invariants it is NULL or a `KBox<T::Handle>` that only `release`,
        // which nothing else runs beside, frees.
        unsafe { (*self.as_ptr()).private_data.cast::<T::Handle>().as_ref() }
    }

    /// The flags of `open(2)` as they are now; `fcntl(2)` changes some.
    pub(crate) fn flags(&self) -> u32 {
        // SAFETY: The file is alive; an aligned word is read in one piece.
        unsafe { core::ptr::addr_of!((*self.as_ptr()).f_flags).read_volatile() }
    }

    /// Whether this very open made the file.
    pub(crate) fn created(&self) -> bool {
        // SAFETY: The file is alive. `FMODE_CREATED` is set before `open` and stays.
        unsafe { (*self.as_ptr()).f_mode & helpers::vfs_consts_VFS_FMODE_CREATED != 0 }
    }

    /// The file's inode, to keep for longer than the file: its mount cannot go as long.
    pub(crate) fn pin_inode(&self) -> PinnedInode<T> {
        // SAFETY: The file is alive, and so is its path; the reference is given to the result.
        // INVARIANT: The path is that of an open file of `T`.
        unsafe {
            let path = (*self.as_ptr()).__bindgen_anon_1.f_path;
            bindings::path_get(&path);
            PinnedInode {
                path,
                inode: NonNull::from(self.inode()),
            }
        }
    }

    /// The file system uid of the opener, in the initial user namespace.
    pub(crate) fn fsuid(&self) -> u32 {
        // SAFETY: `f_cred` never changes and lives as long as the file.
        unsafe { helpers::vfsh_file_fsuid(self.as_ptr()) }
    }
}

/// A file that is being opened: nobody else uses it yet.
///
/// # Invariants
///
/// The VFS has called `open` with the file, and that has not returned during `'a`.
pub(crate) struct Opening<'a, T: FileSystem>(&'a File<T>);

impl<T: FileSystem> Opening<'_, T> {
    /// # Safety
    ///
    /// `ptr` is what the VFS passed to `open` of `T`, which does not return during `'a`.
    pub(super) unsafe fn from_raw(ptr: *mut bindings::file) -> Self {
        // SAFETY: The inode's tables are of `T`, and `private_data` is NULL.
        // INVARIANT: The caller's promise.
        Self(unsafe { File::from_raw(ptr) })
    }
}

impl<T: FileSystem> core::ops::Deref for Opening<'_, T> {
    type Target = File<T>;

    fn deref(&self) -> &File<T> {
        self.0
    }
}

/// An inode that keeps its mount from going, by a reference to the path it was opened by.
///
/// # Invariants
///
/// This value owns a reference to `path`, which leads to `inode`.
pub(crate) struct PinnedInode<T: FileSystem> {
    path: bindings::path,
    inode: NonNull<INode<T>>,
}

// SAFETY: References to paths may be dropped on any thread; `INode<T>` is `Sync`.
unsafe impl<T: FileSystem> Send for PinnedInode<T> {}
// SAFETY: As above.
unsafe impl<T: FileSystem> Sync for PinnedInode<T> {}

impl<T: FileSystem> core::ops::Deref for PinnedInode<T> {
    type Target = INode<T>;

    fn deref(&self) -> &INode<T> {
        // SAFETY: By the type invariants: the mount keeps the super block whole, and the dentry, in
        // use, its inode.
        unsafe { self.inode.as_ref() }
    }
}

impl<T: FileSystem> Drop for PinnedInode<T> {
    fn drop(&mut self) {
        // SAFETY: This value owns the reference.
        unsafe { bindings::path_put(&self.path) };
    }
}

/// Reads the flags of any file.
pub(crate) fn is_nonblocking(file: &AnyFile) -> bool {
    file.flags() & bindings::O_NONBLOCK != 0
}

/// The access mode bits of file flags.
pub(crate) mod access {
    use kernel::bindings;

    /// Mask of the access mode.
    pub(crate) const O_ACCMODE: u32 = bindings::O_ACCMODE;
    /// For writing only.
    pub(crate) const O_WRONLY: u32 = bindings::O_WRONLY;
    /// For reading and writing.
    pub(crate) const O_RDWR: u32 = bindings::O_RDWR;
}

/// What ties a [`ReadIo`], [`WriteIo`] or [`SpliceRead`] to the [`IoEnd`] that comes of it: the
/// lifetime of one call, which no other call's can be taken for.
pub(super) type ThisIo<'a> = PhantomData<fn(&'a ()) -> &'a ()>;

/// What came of a read, write or splice: bytes, an error, or that it goes on after the call.
///
/// The caller believes it. Bytes that were not transferred make him read or free what is not there;
/// and what goes on is completed once, by the backing file, so he must not take it to be over. That
/// is why there is one for each call, and it is had by giving up what describes the call: to
/// `BackingFile`, which tells the truth, or to `refuse` or `nothing`.
///
/// # Invariants
///
/// It is what the backing file's operation returned for this call. Where none was called, it is 0 or
/// an error other than `EIOCBQUEUED`.
#[must_use]
pub(crate) struct IoEnd<'a>(isize, ThisIo<'a>);

impl IoEnd<'_> {
    /// # Safety
    ///
    /// The type invariants hold for `ret`.
    pub(super) unsafe fn from_raw(ret: isize) -> Self {
        // INVARIANT: The caller's promise.
        Self(ret, PhantomData)
    }

    pub(super) fn into_raw(self) -> isize {
        self.0
    }

    /// How many bytes were transferred; `None` if it failed, or goes on.
    pub(crate) fn count(&self) -> Option<usize> {
        usize::try_from(self.0).ok()
    }
}

/// A read in progress: where it stands in the file, and the memory to fill.
///
/// # Invariants
///
/// Both pointers are those the VFS passed to `read_iter`, and valid during `'a`. There is one for each
/// call, and nothing was done about it yet.
pub(crate) struct ReadIo<'a> {
    kiocb: *mut bindings::kiocb,
    iter: *mut bindings::iov_iter,
    _this: ThisIo<'a>,
}

/// A write in progress: where it stands in the file, and the memory to take from.
///
/// # Invariants
///
/// Both pointers are those the VFS passed to `write_iter` of an open [`File<T>`], and valid during
/// `'a`. There is one for each call, and nothing was done about it yet.
pub(crate) struct WriteIo<'a, T: FileSystem> {
    kiocb: *mut bindings::kiocb,
    iter: *mut bindings::iov_iter,
    _file: PhantomData<&'a File<T>>,
    _this: ThisIo<'a>,
}

impl<'a> ReadIo<'a> {
    /// # Safety
    ///
    /// The type invariants hold; `'a` is this call, and no other's.
    pub(super) unsafe fn from_raw(
        kiocb: *mut bindings::kiocb,
        iter: *mut bindings::iov_iter,
    ) -> Self {
        // INVARIANT: The caller's promise.
        Self {
            kiocb,
            iter,
            _this: PhantomData,
        }
    }
}

impl<'a, T: FileSystem> WriteIo<'a, T> {
    /// # Safety
    ///
    /// The type invariants hold; `'a` is this call, and no other's.
    pub(super) unsafe fn from_raw(
        kiocb: *mut bindings::kiocb,
        iter: *mut bindings::iov_iter,
    ) -> Self {
        // INVARIANT: The caller's promise.
        Self {
            kiocb,
            iter,
            _file: PhantomData,
            _this: PhantomData,
        }
    }

    /// It is done, without any byte.
    pub(crate) fn nothing(self) -> IoEnd<'a> {
        // INVARIANT: No operation was called.
        IoEnd(0, PhantomData)
    }
}

/// What is answered where no other file's operation is called.
macro_rules! impl_refuse {
    () => {
        /// It is not done.
        pub(crate) fn refuse(self, err: Error) -> IoEnd<'a> {
            // To say that it goes on takes somebody who completes it.
            let goes_on = err.to_errno() == -(bindings::EIOCBQUEUED as kernel::ffi::c_int);
            let err = if goes_on { EIO } else { err };
            // INVARIANT: No operation was called.
            IoEnd(err.to_errno() as isize, PhantomData)
        }
    };
}

macro_rules! impl_io {
    ($io:ty $(, $t:ident)?) => {
        impl<'a $(, $t: FileSystem)?> $io {
            impl_refuse!();

            /// What the VFS has passed, to be given to the operation of another file, once.
            pub(super) fn into_raw(self) -> (*mut bindings::kiocb, *mut bindings::iov_iter) {
                (self.kiocb, self.iter)
            }

            /// Where in the file it begins.
            pub(crate) fn position(&self) -> i64 {
                // SAFETY: Valid by the type invariants.
                unsafe { (*self.kiocb).ki_pos }
            }

            /// How many bytes are wanted.
            pub(crate) fn count(&self) -> usize {
                // SAFETY: Valid by the type invariants.
                unsafe { helpers::vfsh_iov_iter_count(self.iter) }
            }

            fn has(&self, flag: u32) -> bool {
                // SAFETY: Valid by the type invariants.
                unsafe { (*self.kiocb).ki_flags & flag as kernel::ffi::c_int != 0 }
            }

            /// Whether the caller wants `EAGAIN` rather than to wait for anything.
            pub(crate) fn is_nowait(&self) -> bool {
                self.has(helpers::vfs_consts_VFS_IOCB_NOWAIT)
            }

            /// Whether it is to go past the page cache.
            pub(super) fn is_direct(&self) -> bool {
                self.has(helpers::vfs_consts_VFS_IOCB_DIRECT)
            }
        }
    };
}
impl_io!(ReadIo<'a>);
impl_io!(WriteIo<'a, T>, T);

impl<T: FileSystem> WriteIo<'_, T> {
    /// Whether the first of the bytes that are to be written can be read. May sleep.
    pub(crate) fn source_is_readable(&self) -> bool {
        // SAFETY: Valid by the type invariants.
        unsafe { helpers::vfsh_iov_iter_is_readable(self.iter) }
    }
}

/// What was asked of a write, beside the bytes: it tells what a failure leaves behind.
#[derive(Clone, Copy, Default)]
pub(crate) struct WriteKind {
    /// To reach the disk before it returns.
    pub(crate) sync: bool,
    /// To go past the page cache.
    pub(crate) direct: bool,
    /// To a file system of which it is known what its errors mean.
    pub(crate) familiar: bool,
}

/// A splice to a pipe in progress.
///
/// # Invariants
///
/// The pointers are those the VFS passed to `splice_read`, and valid during `'a`, which is this call
/// and no other's. There is one for each call, and nothing was done about it yet.
pub(crate) struct SpliceRead<'a> {
    pub(super) file: *mut bindings::file,
    pub(super) position: *mut bindings::loff_t,
    pub(super) pipe: *mut bindings::pipe_inode_info,
    pub(super) len: usize,
    pub(super) flags: u32,
    pub(super) _this: ThisIo<'a>,
}

impl<'a> SpliceRead<'a> {
    impl_refuse!();

    /// Where in the file it begins.
    pub(crate) fn position(&self) -> i64 {
        // SAFETY: Valid by the type invariants.
        unsafe { *self.position }
    }

    /// How many bytes are wanted.
    pub(crate) fn count(&self) -> usize {
        self.len
    }

    /// Whether it is to go past the page cache.
    pub(super) fn is_direct(&self) -> bool {
        // SAFETY: Valid by the type invariants; an aligned word is read in one piece.
        let flags = unsafe { core::ptr::addr_of!((*self.file).f_flags).read_volatile() };
        flags & bindings::O_DIRECT != 0
    }
}

/// A memory area that is being made by `mmap(2)`.
///
/// # Invariants
///
/// The area is under construction during `'a`: nobody else sees it, `mmap_lock` is held for writing.
pub(crate) struct VmArea<'a> {
    pub(super) vma: *mut bindings::vm_area_struct,
    /// What became of it, once the host was asked: the core has to hear that and nothing else.
    pub(super) outcome: &'a Cell<Option<c_int>>,
    pub(super) _life: PhantomData<&'a ()>,
}

impl VmArea<'_> {
    /// Where in the file it begins, in bytes.
    pub(crate) fn position(&self) -> i64 {
        // SAFETY: Valid by the type invariants.
        let pages = unsafe { (*self.vma).vm_pgoff };
        (pages as i64) << kernel::page::PAGE_SHIFT
    }

    /// Its length in bytes.
    pub(crate) fn len(&self) -> usize {
        // SAFETY: Valid by the type invariants.
        let area = unsafe { &(*self.vma).__bindgen_anon_1.__bindgen_anon_1 };
        area.vm_end - area.vm_start
    }

    /// Whether it is shared, and may be written to, now or after `mprotect(2)`.
    pub(crate) fn is_shared_maywrite(&self) -> bool {
        // SAFETY: Valid by the type invariants.
        unsafe { helpers::vfsh_vma_shared_maywrite(self.vma) }
    }
}

/// Takes the entries of a directory listing.
///
/// # Invariants
///
/// `context` is that of the `iterate_shared` call of `file`, and valid during `'a`.
pub(crate) struct DirEmitter<'a> {
    pub(super) file: *mut bindings::file,
    pub(super) context: *mut bindings::dir_context,
    pub(super) _life: PhantomData<&'a ()>,
}

impl DirEmitter<'_> {
    /// The position of the next entry.
    pub(crate) fn position(&self) -> i64 {
        // SAFETY: Valid by the type invariants.
        unsafe { (*self.context).pos }
    }

    /// Moves on.
    pub(crate) fn set_position(&mut self, position: i64) {
        // SAFETY: Valid by the type invariants, and used by this call alone.
        unsafe { (*self.context).pos = position };
    }

    /// Emits `.` and `..` if they are due; false if the reader has no room.
    pub(crate) fn dots(&mut self) -> bool {
        // SAFETY: Valid by the type invariants.
        unsafe { helpers::vfsh_dir_emit_dots(self.file, self.context) }
    }

    /// Emits an entry; false if the reader has no room for it, as none has for a name whose length
    /// is no `int`.
    pub(crate) fn entry(&mut self, name: &[u8], ino: u64, kind: u8) -> bool {
        let Ok(len) = c_int::try_from(name.len()) else {
            return false;
        };
        // SAFETY: Valid by the type invariants; the name is read during the call only.
        unsafe { helpers::vfsh_dir_emit(self.context, name.as_ptr().cast(), len, ino, kind.into()) }
    }
}
