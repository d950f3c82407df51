// SPDX-License-Identifier: GPL-2.0

//! Inodes with data of the file system embedded.
//!
//! C headers: [`include/linux/fs.h`](srctree/include/linux/fs.h).

use super::{
    bindings as helpers,
    dentry::DentryRef,
    fs::FileSystem,
    ops::{ControlOps, DirOps, FileOps, SymlinkOps},
    sb::SuperBlock,
    warn_limited,
};
use core::{
    ffi::c_void,
    marker::PhantomData,
    mem::{ManuallyDrop, MaybeUninit},
    ptr::NonNull,
};
use kernel::{
    bindings,
    prelude::*,
    types::{NotThreadSafe, Opaque},
};

/// The file type bits of a mode, and their values.
pub(crate) mod mode {
    use kernel::bindings;

    /// Mask of the file type.
    pub(crate) const S_IFMT: u32 = bindings::S_IFMT;
    /// Runs as its owner.
    pub(crate) const S_ISUID: u32 = bindings::S_ISUID;
    /// Runs as its group.
    pub(crate) const S_ISGID: u32 = bindings::S_ISGID;
    /// Regular file.
    pub(crate) const S_IFREG: u32 = bindings::S_IFREG;
    /// Directory.
    pub(crate) const S_IFDIR: u32 = bindings::S_IFDIR;
    /// Symbolic link.
    pub(crate) const S_IFLNK: u32 = bindings::S_IFLNK;
}

/// A point in time.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct TimeSpec {
    /// Seconds since the epoch.
    pub(crate) sec: i64,
    /// Nanoseconds within the second.
    pub(crate) nsec: i64,
}

/// Attributes of an inode; `None` where there is nothing to say or to change.
#[derive(Clone, Copy, Default)]
pub(crate) struct Attr {
    /// File type and permission bits.
    pub(crate) mode: Option<u32>,
    /// Owner, in the initial user namespace.
    pub(crate) uid: Option<u32>,
    /// Group, in the initial user namespace.
    pub(crate) gid: Option<u32>,
    /// Number of names.
    pub(crate) nlink: Option<u32>,
    /// Length in bytes; never negative when given to [`INode::set_attr`].
    pub(crate) size: Option<i64>,
    /// Time of last access.
    pub(crate) atime: Option<TimeSpec>,
    /// Time of last modification of the content.
    pub(crate) mtime: Option<TimeSpec>,
    /// Time of last change.
    pub(crate) ctime: Option<TimeSpec>,
    /// Device number of a special file.
    pub(crate) rdev: u64,
}

impl Attr {
    fn to_raw(self) -> helpers::vfs_attr {
        let mut valid = 0;
        let mut take = |present: bool, bit: u32| {
            if present {
                valid |= bit;
            }
        };
        take(self.mode.is_some(), helpers::VFS_ATTR_MODE);
        take(self.uid.is_some(), helpers::VFS_ATTR_UID);
        take(self.gid.is_some(), helpers::VFS_ATTR_GID);
        take(self.nlink.is_some(), helpers::VFS_ATTR_NLINK);
        take(self.size.is_some(), helpers::VFS_ATTR_SIZE);
        take(self.atime.is_some(), helpers::VFS_ATTR_ATIME);
        take(self.mtime.is_some(), helpers::VFS_ATTR_MTIME);
        take(self.ctime.is_some(), helpers::VFS_ATTR_CTIME);
        const ZERO: TimeSpec = TimeSpec { sec: 0, nsec: 0 };
        let atime = self.atime.unwrap_or(ZERO);
        let mtime = self.mtime.unwrap_or(ZERO);
        let ctime = self.ctime.unwrap_or(ZERO);
        helpers::vfs_attr {
            valid,
            mode: self.mode.unwrap_or(0),
            uid: self.uid.unwrap_or(0),
            gid: self.gid.unwrap_or(0),
            nlink: self.nlink.unwrap_or(0),
            rdev: self.rdev,
            // The size of a file is never negative, and `i_size_write` is not told so here.
            size: self.size.unwrap_or(0).max(0),
            atime_sec: atime.sec,
            mtime_sec: mtime.sec,
            ctime_sec: ctime.sec,
            atime_nsec: atime.nsec.clamp(0, 999_999_999),
            mtime_nsec: mtime.nsec.clamp(0, 999_999_999),
            ctime_nsec: ctime.nsec.clamp(0, 999_999_999),
        }
    }

    fn from_raw(raw: &helpers::vfs_attr) -> Self {
        let has = |bit: u32| raw.valid & bit != 0;
        Self {
            mode: has(helpers::VFS_ATTR_MODE).then_some(raw.mode),
            uid: has(helpers::VFS_ATTR_UID).then_some(raw.uid),
            gid: has(helpers::VFS_ATTR_GID).then_some(raw.gid),
            nlink: has(helpers::VFS_ATTR_NLINK).then_some(raw.nlink),
            size: has(helpers::VFS_ATTR_SIZE).then_some(raw.size),
            atime: has(helpers::VFS_ATTR_ATIME).then_some(TimeSpec {
                sec: raw.atime_sec,
                nsec: raw.atime_nsec,
            }),
            mtime: has(helpers::VFS_ATTR_MTIME).then_some(TimeSpec {
                sec: raw.mtime_sec,
                nsec: raw.mtime_nsec,
            }),
            ctime: has(helpers::VFS_ATTR_CTIME).then_some(TimeSpec {
                sec: raw.ctime_sec,
                nsec: raw.ctime_nsec,
            }),
            rdev: raw.rdev,
        }
    }

    /// What a `setattr` asks for.
    ///
    /// # Safety
    ///
    /// `iattr` is valid for reads.
    pub(super) unsafe fn from_iattr(iattr: *const bindings::iattr) -> Self {
        let mut raw = MaybeUninit::uninit();
        // SAFETY: The helper writes all of `raw` and only reads `iattr`.
        let raw = unsafe {
            helpers::vfsh_iattr_to_attr(iattr, raw.as_mut_ptr());
            raw.assume_init()
        };
        Self::from_raw(&raw)
    }
}

/// A `struct inode` and the file system's own data, in one slab object.
#[repr(C)]
struct InodeBox<T: FileSystem> {
    vfs_inode: Opaque<bindings::inode>,
    data: MaybeUninit<T::Inode>,
}

/// An inode of a file system of type `T`.
///
/// # Invariants
///
/// This is the `vfs_inode` of an [`InodeBox<T>`] whose `data` is initialised: every inode of a
/// super block of `T` comes from [`InodeCache::alloc`]. No `&INode` without a reference, and without
/// a super block that is whole, leaves `vfs/`: the callbacks of `iget` and `ilookup`, [`RcuInode`] and
/// `d_delete` hand out its data only.
#[repr(transparent)]
pub(crate) struct INode<T: FileSystem>(Opaque<bindings::inode>, PhantomData<T>);

// SAFETY: `INode<T>` may be used from any thread: every method does its own locking or calls a
// function that does, and `T::Inode` is `Send + Sync`.
unsafe impl<T: FileSystem> Sync for INode<T> {}

/// An owned reference to an inode of `T`, which does not outlive what keeps the super block whole.
///
/// # Invariants
///
/// `inode` is an inode of a super block of `T`, and this value owns a reference to it.
pub(crate) struct InodeRef<'sb, T: FileSystem> {
    inode: NonNull<bindings::inode>,
    _sb: PhantomData<&'sb SuperBlock<T>>,
}

impl<T: FileSystem> InodeRef<'_, T> {
    /// # Safety
    ///
    /// `inode` is an inode of a super block of `T` that stays whole during the lifetime of the
    /// result, and the caller gives away a reference to it.
    pub(super) unsafe fn from_raw(inode: NonNull<bindings::inode>) -> Self {
        // INVARIANT: The caller's promise.
        Self {
            inode,
            _sb: PhantomData,
        }
    }

    /// Gives the reference away, to a dentry of `sb`. A lifetime does not tell one mount from another,
    /// and the dcache counts on it that all that hangs on a dentry is of its own super block.
    pub(super) fn into_raw_of(
        self,
        sb: *const bindings::super_block,
    ) -> Result<*mut bindings::inode> {
        if !core::ptr::eq(self.super_block().as_ptr(), sb) {
            warn_limited!(
                "inode {} of another mount was given for one of this\n",
                self.ino()
            );
            return Err(EIO);
        }
        Ok(ManuallyDrop::new(self).inode.as_ptr())
    }
}

impl<T: FileSystem> core::ops::Deref for InodeRef<'_, T> {
    type Target = INode<T>;

    fn deref(&self) -> &INode<T> {
        // SAFETY: By the type invariants.
        unsafe { INode::from_raw(self.inode.as_ptr()) }
    }
}

impl<T: FileSystem> Drop for InodeRef<'_, T> {
    fn drop(&mut self) {
        // SAFETY: This value owns the reference, and the super block is whole.
        unsafe { bindings::iput(self.inode.as_ptr()) };
    }
}

/// An inode in RCU path walk: nobody holds a reference, and it may be about to go. Only what is
/// freed after a grace period may be looked at.
///
/// # Invariants
///
/// The RCU read lock is held during `'a`, and the inode was reachable under it.
pub(crate) struct RcuInode<'a, T: FileSystem>(&'a INode<T>);

impl<'a, T: FileSystem> RcuInode<'a, T> {
    /// # Safety
    ///
    /// The type invariants hold for `inode` during `'a`.
    pub(super) unsafe fn from_raw(inode: *const bindings::inode) -> Self {
        // SAFETY: `free_inode` runs after a grace period.
        Self(unsafe { INode::from_raw(inode) })
    }

    /// The file system's own data.
    pub(crate) fn data(&self) -> &'a T::Inode {
        self.0.data()
    }

    /// The file system's data of the mount.
    pub(crate) fn mount(&self) -> &'a T::Mount {
        // It is freed after a grace period: see `Registration::kill_sb`.
        self.0.super_block().mount()
    }

    /// Whether somebody may execute it at all.
    pub(crate) fn execute_ok(&self) -> bool {
        self.0.execute_ok()
    }
}

impl<T: FileSystem> INode<T> {
    /// # Safety
    ///
    /// `ptr` must satisfy the type invariants during `'a`.
    pub(super) unsafe fn from_raw<'a>(ptr: *const bindings::inode) -> &'a Self {
        // SAFETY: `repr(transparent)`, and the caller's promise.
        unsafe { &*ptr.cast() }
    }

    pub(super) fn as_ptr(&self) -> *mut bindings::inode {
        self.0.get()
    }

    /// The file system's own data.
    pub(crate) fn data(&self) -> &T::Inode {
        let inode_box: *const InodeBox<T> = self.as_ptr().cast_const().cast();
        // SAFETY: The inode is the first member of an `InodeBox<T>` with initialised data by the
        // type invariants.
        unsafe { (*inode_box).data.assume_init_ref() }
    }

    /// The super block.
    pub(crate) fn super_block(&self) -> &SuperBlock<T> {
        // SAFETY: `i_sb` never changes, outlives the inode and is a super block of `T`.
        unsafe { SuperBlock::from_raw((*self.as_ptr()).i_sb) }
    }

    /// The inode number.
    pub(crate) fn ino(&self) -> u64 {
        // SAFETY: The inode is alive; an aligned word is read in one piece.
        unsafe { core::ptr::addr_of!((*self.as_ptr()).i_ino).read_volatile() }
    }

    /// Type and permission bits; others may be changing them.
    pub(crate) fn mode(&self) -> u32 {
        // SAFETY: The inode is alive; an aligned half word is read in one piece.
        u32::from(unsafe { core::ptr::addr_of!((*self.as_ptr()).i_mode).read_volatile() })
    }

    /// Whether this is a directory.
    pub(crate) fn is_dir(&self) -> bool {
        self.mode() & mode::S_IFMT == mode::S_IFDIR
    }

    /// Whether this is a regular file.
    pub(crate) fn is_regular(&self) -> bool {
        self.mode() & mode::S_IFMT == mode::S_IFREG
    }

    /// The number of names; others may be changing it.
    pub(crate) fn nlink(&self) -> u32 {
        // SAFETY: The inode is alive; an aligned word is read in one piece.
        unsafe { core::ptr::addr_of!((*self.as_ptr()).__bindgen_anon_1.i_nlink).read_volatile() }
    }

    /// The length in bytes.
    pub(crate) fn size(&self) -> i64 {
        // SAFETY: The inode is alive.
        unsafe { helpers::vfsh_inode_size(self.as_ptr()) }
    }

    /// Takes over the attributes that are given, but for the type, which an inode keeps: the VFS
    /// takes parts of it for what its type says they are.
    pub(crate) fn set_attr(&self, attr: &Attr) {
        let mut raw = attr.to_raw();
        raw.mode = (raw.mode & !mode::S_IFMT) | (self.mode() & mode::S_IFMT);
        // SAFETY: The inode is alive. As everywhere in the VFS of a remote file system, attributes
        // are words written one by one; their readers take what they find.
        unsafe { helpers::vfsh_inode_set_attr(self.as_ptr(), &raw) };
    }

    /// The content changed now: sets mtime and ctime.
    pub(crate) fn touch(&self) {
        // SAFETY: The inode is alive.
        unsafe { helpers::vfsh_inode_touch(self.as_ptr()) };
    }

    /// The inode changed now: sets ctime.
    pub(crate) fn touch_ctime(&self) {
        // SAFETY: The inode is alive.
        unsafe { bindings::inode_set_ctime_current(self.as_ptr()) };
    }

    /// One name more, unless there is none left.
    pub(crate) fn inc_nlink(&self) {
        // SAFETY: The inode is alive; the helper takes `i_lock`.
        unsafe { helpers::vfsh_inode_inc_nlink(self.as_ptr()) };
    }

    /// One name less, if there is one.
    pub(crate) fn drop_nlink(&self) {
        // SAFETY: The inode is alive; the helper takes `i_lock`.
        unsafe { helpers::vfsh_inode_drop_nlink(self.as_ptr()) };
    }

    /// No name any more.
    pub(crate) fn clear_nlink(&self) {
        // SAFETY: The inode is alive; the helper takes `i_lock`.
        unsafe { helpers::vfsh_inode_clear_nlink(self.as_ptr()) };
    }

    /// A reference of one's own.
    pub(crate) fn hold(&self) -> InodeRef<'_, T> {
        // SAFETY: Whoever has a `&INode`, and is not in `vfs/`, has a reference.
        // INVARIANT: The reference was taken just now.
        unsafe {
            bindings::ihold(self.as_ptr());
            InodeRef::from_raw(NonNull::new_unchecked(self.as_ptr()))
        }
    }

    /// Whether this is the root of its mount.
    pub(crate) fn is_root(&self) -> bool {
        // SAFETY: The inode is alive, so its super block is whole; `s_root` is set before any
        // operation, and pins its inode.
        unsafe {
            let root = (*(*self.as_ptr()).i_sb).s_root;
            !root.is_null() && (*root).d_inode == self.as_ptr()
        }
    }

    /// Whether somebody may execute it at all: see `execute_ok()`.
    pub(crate) fn execute_ok(&self) -> bool {
        self.mode() & 0o111 != 0 || self.is_dir()
    }

    /// Takes `i_rwsem` for writing. May sleep.
    pub(crate) fn lock(&self) -> InodeLock<'_, T> {
        // SAFETY: The inode is alive; the guard releases the lock.
        unsafe { helpers::vfsh_inode_lock(self.as_ptr()) };
        InodeLock(self, NotThreadSafe)
    }

    /// The same, but `None` at once if somebody else has the lock.
    pub(crate) fn try_lock(&self) -> Option<InodeLock<'_, T>> {
        // SAFETY: The inode is alive; a guard, which releases the lock, is made only if it was taken.
        unsafe { helpers::vfsh_inode_trylock(self.as_ptr()) }
            .then(|| InodeLock(self, NotThreadSafe))
    }

    /// Some dentry of the inode, if the dcache has one.
    pub(crate) fn find_alias(&self) -> Option<DentryRef<'_, T>> {
        // SAFETY: The inode is alive.
        let dentry = NonNull::new(unsafe { bindings::d_find_alias(self.as_ptr()) })?;
        // SAFETY: `d_find_alias` returned a reference to a dentry of this inode's super block.
        Some(unsafe { DentryRef::from_raw(dentry) })
    }

    /// Forgets its unused dentries. May sleep.
    pub(crate) fn prune_aliases(&self) {
        // SAFETY: The inode is alive and referenced.
        unsafe { bindings::d_prune_aliases(self.as_ptr()) };
    }

    /// Moves the inode to another place of the inode hash and gives it that number.
    pub(crate) fn rehash(&self, hash: u64) {
        // SAFETY: The inode is alive and referenced, so nobody evicts it; the helper has a lock, so
        // that it is not put into the hash twice. `iget_failed` and `evict` unhash without that lock,
        // but have an inode that nobody else has. A walker of the hash under RCU may be carried into
        // the other chain, and miss what it looks for; those who walk so look again under the lock.
        unsafe { helpers::vfsh_inode_rehash(self.as_ptr(), hash) };
    }

    /// Takes the inode out of the inode hash: it will not be found again.
    pub(crate) fn unhash(&self) {
        // SAFETY: The inode is alive; the hash has a lock of its own.
        unsafe { helpers::vfsh_inode_unhash(self.as_ptr()) };
    }
}

/// Holds `i_rwsem` of an inode for writing; whoever took it has to release it.
#[must_use]
pub(crate) struct InodeLock<'a, T: FileSystem>(&'a INode<T>, NotThreadSafe);

impl<T: FileSystem> InodeLock<'_, T> {
    /// Whether it is that of `inode`.
    pub(super) fn is_of(&self, inode: &INode<T>) -> bool {
        core::ptr::eq(self.0, inode)
    }
}

impl<T: FileSystem> Drop for InodeLock<'_, T> {
    fn drop(&mut self) {
        // SAFETY: The lock was taken by whoever made this value.
        unsafe { helpers::vfsh_inode_unlock(self.0.as_ptr()) };
    }
}

/// What [`SuperBlock::iget`] found.
pub(crate) enum Iget<'sb, T: FileSystem> {
    /// The inode was there.
    Existing(InodeRef<'sb, T>),
    /// It was made now and waits to be filled in.
    New(NewInode<'sb, T>),
}

/// An inode that nobody else can use before [`NewInode::init`]; dropped without that, it is bad and
/// forgotten.
///
/// # Invariants
///
/// `I_NEW` is set by `iget5_locked`, and this value owns a reference.
pub(crate) struct NewInode<'sb, T: FileSystem>(ManuallyDrop<InodeRef<'sb, T>>);

impl<'sb, T: FileSystem> NewInode<'sb, T> {
    /// The file system's own data.
    pub(crate) fn data(&self) -> &T::Inode {
        self.0.data()
    }

    /// Fills it in and lets others see it. The file type in `attr.mode` decides what it can do: `EIO`
    /// if there is none.
    pub(crate) fn init(self, ino: u64, attr: &Attr) -> Result<InodeRef<'sb, T>> {
        match attr.mode.map(|mode| mode & mode::S_IFMT) {
            Some(mode::S_IFREG | mode::S_IFDIR | mode::S_IFLNK) => {}
            Some(
                bindings::S_IFCHR | bindings::S_IFBLK | bindings::S_IFIFO | bindings::S_IFSOCK,
            ) => {}
            _ => return Err(EIO),
        }
        let mut this = ManuallyDrop::new(self);
        let inode = this.0.as_ptr();
        let raw = attr.to_raw();
        // SAFETY: `I_NEW` is set: nobody else looks at the inode. The tables are of `T` and static.
        // The reference moves out of `this`, which is not dropped.
        unsafe {
            helpers::vfsh_inode_set_attr(inode, &raw);
            (*inode).i_ino = ino;
            match u32::from((*inode).i_mode) & mode::S_IFMT {
                mode::S_IFREG => {
                    (*inode).i_op = FileOps::<T>::inode_operations();
                    (*inode).__bindgen_anon_3.i_fop = FileOps::<T>::file_operations();
                }
                mode::S_IFDIR => {
                    (*inode).i_op = DirOps::<T>::inode_operations();
                    (*inode).__bindgen_anon_3.i_fop = DirOps::<T>::file_operations();
                }
                mode::S_IFLNK => {
                    (*inode).i_op = SymlinkOps::<T>::inode_operations();
                    helpers::vfsh_inode_make_symlink(inode, SymlinkOps::<T>::aops());
                }
                _ => helpers::vfsh_inode_special(inode, attr.rdev),
            }
            bindings::unlock_new_inode(inode);
            Ok(ManuallyDrop::take(&mut this.0))
        }
    }
}

impl<T: FileSystem> Drop for NewInode<'_, T> {
    fn drop(&mut self) {
        // SAFETY: `I_NEW` is set; the call takes the reference, which is not dropped otherwise.
        unsafe { bindings::iget_failed(self.0.as_ptr()) };
    }
}

impl<T: FileSystem> SuperBlock<T> {
    /// The inode at `hash` for which `matches` holds, or a new one to which `set` was applied.
    ///
    /// Both closures run under the lock of the inode hash: they must not sleep. May sleep itself.
    pub(crate) fn iget(
        &self,
        hash: u64,
        matches: impl Fn(&T::Inode) -> bool,
        set: impl Fn(&T::Inode),
    ) -> Result<Iget<'_, T>> {
        struct Arg<M, S>(M, S);
        /// # Safety
        ///
        /// Called by `iget5_locked` alone, with the `Arg<M, S>` that it was given, for inodes of a super
        /// block of `T`.
        unsafe extern "C" fn test<T: FileSystem, M: Fn(&T::Inode) -> bool, S: Fn(&T::Inode)>(
            inode: *mut bindings::inode,
            arg: *mut c_void,
        ) -> kernel::ffi::c_int {
            // SAFETY: `arg` is the `Arg` below; `inode` is of the super block being searched.
            unsafe { (*arg.cast::<Arg<M, S>>()).0(INode::<T>::from_raw(inode).data()).into() }
        }
        /// # Safety
        ///
        /// As of `test`.
        unsafe extern "C" fn init<T: FileSystem, M: Fn(&T::Inode) -> bool, S: Fn(&T::Inode)>(
            inode: *mut bindings::inode,
            arg: *mut c_void,
        ) -> kernel::ffi::c_int {
            // SAFETY: As above.
            unsafe { (*arg.cast::<Arg<M, S>>()).1(INode::<T>::from_raw(inode).data()) };
            0
        }
        fn pair<T: FileSystem, M: Fn(&T::Inode) -> bool, S: Fn(&T::Inode)>(
            sb: &SuperBlock<T>,
            hash: u64,
            arg: &Arg<M, S>,
        ) -> *mut bindings::inode {
            // SAFETY: The super block is alive; the callbacks match the type of the argument.
            unsafe {
                bindings::iget5_locked(
                    sb.as_ptr(),
                    hash,
                    Some(test::<T, M, S>),
                    Some(init::<T, M, S>),
                    core::ptr::from_ref(arg).cast_mut().cast(),
                )
            }
        }
        let inode = NonNull::new(pair::<T, _, _>(self, hash, &Arg(matches, set))).ok_or(ENOMEM)?;
        // SAFETY: `iget5_locked` returned a reference to an inode of this super block.
        let inode_ref = unsafe { InodeRef::from_raw(inode) };
        // SAFETY: The inode is alive.
        Ok(if unsafe { helpers::vfsh_inode_is_new(inode.as_ptr()) } {
            // INVARIANT: `I_NEW` is set, and only the one who made the inode sees it so:
            // `iget5_locked` waits for others to clear it.
            Iget::New(NewInode(ManuallyDrop::new(inode_ref)))
        } else {
            Iget::Existing(inode_ref)
        })
    }

    /// A new inode of a control file, which nothing but `ioctl(2)` is for: [`FileSystem::control`]. It
    /// is in no hash and cannot be found again. May sleep.
    pub(crate) fn new_control(&self, ino: u64) -> Result<InodeRef<'_, T>> {
        // SAFETY: The super block is alive.
        let inode = NonNull::new(unsafe { bindings::new_inode(self.as_ptr()) }).ok_or(ENOMEM)?;
        // SAFETY: The inode is in no hash and has no dentry; who walks the inodes of the super block
        // looks at its state and pages, not at what is set here. The tables are of `T` and static.
        // `new_inode` returned a reference.
        unsafe {
            let raw = inode.as_ptr();
            (*raw).i_ino = ino;
            (*raw).i_mode = (mode::S_IFREG | 0o444) as bindings::umode_t;
            (*raw).i_op = ControlOps::<T>::inode_operations();
            (*raw).__bindgen_anon_3.i_fop = ControlOps::<T>::file_operations();
            Ok(InodeRef::from_raw(inode))
        }
    }

    /// The inode at `hash` for which `matches` holds, if it is in memory. May sleep; `matches` runs
    /// under the lock of the inode hash.
    pub(crate) fn ilookup<M: Fn(&T::Inode) -> bool>(
        &self,
        hash: u64,
        matches: M,
    ) -> Option<InodeRef<'_, T>> {
        /// # Safety
        ///
        /// Called by `ilookup5` alone, with the `M` that it was given, for inodes of a super block of
        /// `T`.
        unsafe extern "C" fn test<T: FileSystem, M: Fn(&T::Inode) -> bool>(
            inode: *mut bindings::inode,
            arg: *mut c_void,
        ) -> kernel::ffi::c_int {
            // SAFETY: `arg` is the `M` below; `inode` is of the super block being searched.
            unsafe { (*arg.cast::<M>())(INode::<T>::from_raw(inode).data()).into() }
        }
        // SAFETY: The super block is alive; the callback matches the type of the argument.
        let inode = unsafe {
            bindings::ilookup5(
                self.as_ptr(),
                hash,
                Some(test::<T, M>),
                core::ptr::from_ref(&matches).cast_mut().cast(),
            )
        };
        // SAFETY: `ilookup5` returned a reference to an inode of this super block, or NULL.
        NonNull::new(inode).map(|inode| unsafe { InodeRef::from_raw(inode) })
    }
}

/// Initialises what `slot` points to.
///
/// # Safety
///
/// `slot` is valid for writes, and what is there will not move.
unsafe fn init_in_place<T>(slot: *mut T, init: impl PinInit<T>) {
    // SAFETY: The caller's promise is what either wants.
    #[cfg(vfs_before_7_3)]
    let result = unsafe { init.__pinned_init(slot) };
    // SAFETY: As above.
    #[cfg(not(vfs_before_7_3))]
    let result = unsafe { init.__init(slot) };
    let Ok(()) = result;
}

/// The slab cache that all inodes of `T` come from.
///
/// # Invariants
///
/// `cache` is a live cache of objects of the size of [`InodeBox<T>`] whose constructor ran
/// `inode_init_once`.
pub(super) struct InodeCache<T: FileSystem> {
    cache: NonNull<bindings::kmem_cache>,
    _t: PhantomData<T>,
}

// SAFETY: A slab cache may be used from any thread.
unsafe impl<T: FileSystem> Send for InodeCache<T> {}
// SAFETY: As above.
unsafe impl<T: FileSystem> Sync for InodeCache<T> {}

impl<T: FileSystem> InodeCache<T> {
    pub(super) fn new() -> Result<Self> {
        /// # Safety
        ///
        /// Called by the slab alone, with an object of the cache.
        unsafe extern "C" fn init_once<T: FileSystem>(obj: *mut c_void) {
            // SAFETY: The slab gives a whole object, of which the inode is the first member.
            unsafe { bindings::inode_init_once(obj.cast()) };
        }
        // SAFETY: The name is static, and the constructor matches the object.
        let cache = unsafe {
            helpers::vfsh_inode_cache_create(
                T::INODE_CACHE.as_char_ptr(),
                core::mem::size_of::<InodeBox<T>>() as u32,
                core::mem::align_of::<InodeBox<T>>() as u32,
                Some(init_once::<T>),
            )
        };
        // INVARIANT: As created.
        Ok(Self {
            cache: NonNull::new(cache).ok_or(ENOMEM)?,
            _t: PhantomData,
        })
    }

    /// A fresh inode with its data initialised, or NULL.
    ///
    /// # Safety
    ///
    /// `sb` is a super block of `T`. Called as its `alloc_inode` only.
    pub(super) unsafe fn alloc(&self, sb: *mut bindings::super_block) -> *mut bindings::inode {
        // SAFETY: The cache is alive; `sb` is valid by the caller's promise.
        let obj = unsafe { helpers::vfsh_alloc_inode(sb, self.cache.as_ptr()) };
        let obj: *mut InodeBox<T> = obj.cast();
        if obj.is_null() {
            return core::ptr::null_mut();
        }
        // SAFETY: `obj` is one object of the cache, valid for writes; it stays where it is until
        // `free`, so it is pinned. The initialiser cannot fail.
        unsafe {
            let slot = core::ptr::addr_of_mut!((*obj).data).cast::<T::Inode>();
            init_in_place(slot, T::new_inode_data());
            core::ptr::addr_of_mut!((*obj).vfs_inode).cast()
        }
    }

    /// # Safety
    ///
    /// `inode` came from `alloc`, and nobody uses it any more, RCU readers included, or nobody has
    /// seen it.
    pub(super) unsafe fn free(inode: *mut bindings::inode) {
        let obj: *mut InodeBox<T> = inode.cast();
        // SAFETY: The data was initialised by `alloc`, is dropped once, here, and the object goes
        // back to the cache it came from, which outlives it: `drop` waits for RCU. `kfree` finds the
        // cache, which the super block, being gone perhaps, could not tell; the object begins with
        // the inode, so this is the address it was allocated at.
        unsafe {
            (*obj).data.assume_init_drop();
            bindings::kfree(obj.cast());
        }
    }
}

impl<T: FileSystem> Drop for InodeCache<T> {
    fn drop(&mut self) {
        // SAFETY: The file system is unregistered and has no super block left, so no inode is in
        // use; `rcu_barrier` waits for those that RCU still has to free.
        unsafe {
            bindings::rcu_barrier();
            bindings::kmem_cache_destroy(self.cache.as_ptr());
        }
    }
}
