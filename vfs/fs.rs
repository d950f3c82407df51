// SPDX-License-Identifier: GPL-2.0

//! File system types: what one has to supply, its registration, and mounting.
//!
//! C headers: [`include/linux/fs.h`](srctree/include/linux/fs.h),
//! [`include/linux/fs_context.h`](srctree/include/linux/fs_context.h).

use super::{
    bindings as helpers,
    dentry::{Dentry, Name},
    file::{DirEmitter, File, IoEnd, Opening, ReadIo, SpliceRead, VmArea, WriteIo, WriteKind},
    inode::{Attr, INode, InodeCache, InodeRef, RcuInode},
    module,
    ops::DentryOps,
    sb::{MountLink, SuperBlock, SuperInfo, SuperOps},
    to_int,
};
use core::{ffi::c_void, marker::PhantomPinned, ptr::NonNull};
use kernel::{bindings, fs::File as AnyFile, prelude::*, sync::Arc, types::Opaque};

/// What `statfs(2)` reports; blocks are of 4096 bytes.
pub(crate) struct StatFs {
    pub(crate) blocks: u64,
    pub(crate) blocks_free: u64,
    pub(crate) blocks_available: u64,
    pub(crate) files: u64,
    pub(crate) files_free: u64,
}

/// Why a mount is refused: the error, and a sentence for the one who mounts.
pub(crate) type Refusal = (Error, &'static CStr);

/// A file system that is mounted on an open device, and whose files are served from elsewhere.
///
/// Every function may sleep unless it says otherwise. Locks are those the VFS documents in
/// Documentation/filesystems/locking.rst for the operation of the same name.
pub(crate) trait FileSystem: Sized + Send + Sync + 'static {
    /// The name for `mount -t`.
    const NAME: &'static CStr;
    /// The name of the slab cache of inodes.
    const INODE_CACHE: &'static CStr;
    /// The magic number in `statfs(2)`.
    const MAGIC: u64;
    /// The longest name in a directory, in bytes.
    const NAME_MAX: usize;
    /// The mount option that names the open device by its descriptor.
    const FD_OPTION: &'static CStr;
    /// How many bytes of binary mount data [`FileSystem::parse_binary`] wants.
    const BINARY_DATA: usize;

    /// What a descriptor given at mount stands for.
    type Device: Send + Sync;
    /// Data of a mount.
    type Mount: Send + Sync;
    /// Data of an inode. It is dropped from an RCU callback: its `Drop` must not sleep.
    type Inode: Send + Sync;
    /// Data of an open file.
    type Handle: Send + Sync;

    /// Reads the binary form of the mount data: the number of the descriptor of the device.
    fn parse_binary(data: &[u8]) -> Result<u32, Refusal>;
    /// The device that `file` is.
    fn device(file: &AnyFile) -> Result<Self::Device, Refusal>;
    /// Begins a mount: returns its data and the link that is to lead to it.
    fn mount(device: Option<Self::Device>) -> Result<(Self::Mount, Arc<MountLink<Self>>), Refusal>;
    /// Makes the root inode; with an error, the mount is undone.
    fn root(sb: &SuperBlock<Self>) -> Result<InodeRef<'_, Self>>;
    /// Reports on the file system.
    fn statfs(sb: &SuperBlock<Self>) -> Result<StatFs>;

    /// Data of a new inode.
    fn new_inode_data() -> impl PinInit<Self::Inode>;

    /// Looks a name up; `None` makes a negative dentry.
    fn lookup<'a>(dir: &'a INode<Self>, name: Name<'_>) -> Result<Option<InodeRef<'a, Self>>>;
    /// Makes a regular file.
    fn create<'a>(dir: &'a INode<Self>, name: Name<'_>, mode: u32) -> Result<InodeRef<'a, Self>>;
    /// Makes a directory. `mode` has permission bits alone.
    fn mkdir<'a>(dir: &'a INode<Self>, name: Name<'_>, mode: u32) -> Result<InodeRef<'a, Self>>;
    /// Gives `inode` another name.
    fn link(inode: &INode<Self>, dir: &INode<Self>, name: Name<'_>) -> Result;
    /// Makes a symbolic link; its dentry is dropped and looked up when it is wanted.
    fn symlink(dir: &INode<Self>, name: Name<'_>, target: &CStr) -> Result;
    /// Removes a name of a file.
    fn unlink(dir: &INode<Self>, name: Name<'_>, inode: &INode<Self>) -> Result;
    /// Removes an empty directory.
    fn rmdir(dir: &INode<Self>, name: Name<'_>, inode: &INode<Self>) -> Result;
    /// Renames; `replaced` is what had the new name. Flags are refused before.
    fn rename(
        old_dir: &INode<Self>,
        old_name: Name<'_>,
        new_dir: &INode<Self>,
        new_name: Name<'_>,
        inode: &INode<Self>,
        replaced: Option<&INode<Self>>,
    ) -> Result;
    /// Reads the target of a symbolic link into `buffer`; returns its length, less than `buffer`'s.
    fn readlink(inode: &INode<Self>, buffer: &mut [u8]) -> Result<usize>;
    /// Checks access.
    fn permission(inode: &INode<Self>, mask: u32) -> Result;
    /// Checks access in RCU path walk: must not sleep; `ECHILD` if it cannot tell without.
    fn permission_rcu(inode: RcuInode<'_, Self>, mask: u32) -> Result;
    /// Makes the attributes in the inode those that `stat(2)` should see.
    fn getattr(inode: &INode<Self>) -> Result;
    /// Changes attributes.
    fn setattr(inode: &INode<Self>, attr: &Attr) -> Result;
    /// Whether a cached dentry is still good.
    fn revalidate(dentry: &Dentry<Self>) -> bool;
    /// The same of a dentry with this inode, in RCU path walk: must not sleep; `None` if it cannot
    /// tell without.
    fn revalidate_rcu(inode: RcuInode<'_, Self>) -> Option<bool>;
    /// Whether a dentry that nobody uses any more should be forgotten. Must not sleep.
    fn forget(inode: &Self::Inode) -> bool;

    /// Opens a regular file or a directory.
    fn open(inode: &INode<Self>, file: &Opening<'_, Self>) -> Result<Self::Handle>;
    /// Reads.
    fn read<'a>(file: &File<Self>, io: ReadIo<'a>) -> IoEnd<'a>;
    /// Writes.
    fn write<'a>(file: &File<Self>, io: WriteIo<'a, Self>) -> IoEnd<'a>;
    /// A write that was handed to a backing file ended: `result` is how. May run in a worker, after
    /// [`FileSystem::write`] returned.
    fn write_ended(file: &File<Self>, result: Result<usize>, kind: WriteKind);
    /// Splices to a pipe.
    fn splice_read<'a>(file: &File<Self>, io: SpliceRead<'a>) -> IoEnd<'a>;
    /// Maps.
    fn mmap(file: &File<Self>, area: VmArea<'_>) -> Result;
    /// Makes what was written durable.
    fn fsync(file: &File<Self>, datasync: bool) -> Result;
    /// Allocates or frees space in the file.
    fn fallocate(file: &File<Self>, mode: i32, offset: i64, len: i64) -> Result;
    /// `ioctl(2)` on a control file: see [`SuperBlock::new_control`].
    fn control(sb: &SuperBlock<Self>, cmd: u32, arg: usize) -> Result;
    /// Lists a directory from the emitter's position on.
    fn readdir(file: &File<Self>, emitter: &mut DirEmitter<'_>) -> Result;
}

/// `struct fs_context`, which is opaque in `kernel::bindings`.
type FsContext = helpers::fs_context;

/// A registered file system type.
///
/// It has to live in the module's own memory: lockdep wants the lock classes in `fs_type` to be
/// static. Dropping it while the module is in use is a panic, since something may be mounted.
///
/// # Invariants
///
/// `fs_type` is registered. `cache` outlives it, and whoever uses it.
#[pin_data(PinnedDrop)]
pub(super) struct Registration<T: FileSystem> {
    #[pin]
    fs_type: Opaque<bindings::file_system_type>,
    /// The table that `fs_type.parameters` points to: the one option and a terminator.
    #[pin]
    specs: Opaque<[helpers::fs_parameter_spec; 2]>,
    cache: NonNull<InodeCache<T>>,
    #[pin]
    _pin: PhantomPinned,
}

// SAFETY: Nothing in it is tied to a thread.
unsafe impl<T: FileSystem> Send for Registration<T> {}
// SAFETY: `&Registration` gives access to the cache alone, which is `Sync`.
unsafe impl<T: FileSystem> Sync for Registration<T> {}

impl<T: FileSystem> Registration<T> {
    /// Registers the file system.
    ///
    /// # Safety
    ///
    /// It is made in the module's own memory and dropped before the module goes; `cache` is dropped
    /// after it.
    pub(super) unsafe fn new(cache: &InodeCache<T>) -> impl PinInit<Self, Error> {
        let cache = NonNull::from(cache);
        // INVARIANT: `cache` is the caller's promise.
        try_pin_init!(&this in Self {
            cache,
            specs <- Opaque::ffi_init(|slot: *mut [helpers::fs_parameter_spec; 2]| {
                let first: *mut helpers::fs_parameter_spec = slot.cast();
                // SAFETY: The slot has room for two entries; an all-zero entry ends the table.
                unsafe {
                    slot.write_bytes(0, 1);
                    helpers::vfsh_fd_spec(first, T::FD_OPTION.as_char_ptr());
                }
            }),
            fs_type <- Opaque::try_ffi_init(|slot: *mut bindings::file_system_type| {
                // SAFETY: The slot is valid for writes and pinned; zeroes are a valid
                // `file_system_type`. `specs` and `cache` are initialised above and live as long.
                unsafe {
                    slot.write_bytes(0, 1);
                    // A dot comes before the name of a subtype, and is a `BUG()` here.
                    const { assert!(!has_dot(T::NAME.to_bytes())) };
                    (*slot).name = T::NAME.as_char_ptr();
                    (*slot).fs_flags = bindings::FS_BINARY_MOUNTDATA as kernel::ffi::c_int;
                    (*slot).init_fs_context = Some(Self::init_fs_context);
                    (*slot).parameters = core::ptr::addr_of_mut!((*this.as_ptr()).specs).cast();
                    (*slot).kill_sb = Some(Self::kill_sb);
                    (*slot).owner = module::this_module();
                    kernel::error::to_result(bindings::register_filesystem(slot))
                }
            }),
            _pin: PhantomPinned,
        })
    }

    /// # Safety
    ///
    /// `fs_type` is that of a registration of `T`, which stays for `'a`.
    pub(super) unsafe fn of_super<'a>(
        fs_type: *mut bindings::file_system_type,
    ) -> &'a InodeCache<T> {
        let fs_type: *mut Opaque<bindings::file_system_type> = fs_type.cast();
        // SAFETY: The caller's promise: it is embedded in a registration, whose cache is there.
        unsafe {
            let this: *mut Self = kernel::container_of!(fs_type, Self, fs_type);
            (*this).cache.as_ref()
        }
    }

    fn context_ops() -> &'static helpers::fs_context_operations {
        &Self::CONTEXT_OPS
    }

    const CONTEXT_OPS: helpers::fs_context_operations = helpers::fs_context_operations {
        free: Some(Self::free),
        dup: None,
        parse_param: Some(Self::parse_param),
        parse_monolithic: Some(Self::parse_monolithic),
        get_tree: Some(Self::get_tree),
        reconfigure: Some(Self::reconfigure),
    };

    /// # Safety
    ///
    /// Called by the VFS alone, as the operation of this name, with a context or super block of `T`.
    unsafe extern "C" fn init_fs_context(fc: *mut bindings::fs_context) -> kernel::ffi::c_int {
        let fc: *mut FsContext = fc.cast();
        let context: Context<T> = Context { device: None };
        match KBox::new(context, GFP_KERNEL) {
            Ok(context) => {
                // SAFETY: `fc` is a fresh context for `T`; `free` takes the box back.
                unsafe {
                    (*fc).fs_private = KBox::into_raw(context).cast();
                    (*fc).ops = Self::context_ops();
                }
                0
            }
            Err(_) => ENOMEM.to_errno(),
        }
    }

    /// # Safety
    ///
    /// `fc` went through `init_fs_context` and is not used by anybody else.
    unsafe fn context<'a>(fc: *mut FsContext) -> &'a mut Context<T> {
        // SAFETY: The caller's promise. A reconfiguration of an existing mount has a context of its
        // own.
        unsafe { &mut *(*fc).fs_private.cast() }
    }

    /// # Safety
    ///
    /// Called by the VFS alone, as the operation of this name, with a context or super block of `T`.
    unsafe extern "C" fn free(fc: *mut FsContext) {
        // SAFETY: Called last; `fs_private` is NULL or came from `init_fs_context`.
        unsafe {
            let context: *mut Context<T> = (*fc).fs_private.cast();
            if !context.is_null() {
                drop(KBox::from_raw(context));
            }
        }
    }

    /// Tells the one who mounts what is wrong.
    ///
    /// # Safety
    ///
    /// `fc` is the context being worked on.
    unsafe fn refuse(fc: *mut FsContext, (err, message): Refusal) -> kernel::ffi::c_int {
        // SAFETY: The caller's promise; both strings are static.
        unsafe { helpers::vfsh_fc_error(fc, T::NAME.as_char_ptr(), message.as_char_ptr()) };
        err.to_errno()
    }

    /// Takes the device over from `file`, to which a reference is given away.
    ///
    /// # Safety
    ///
    /// `fc` is the context being worked on, and `file` a valid file with no `fdget_pos` on it that does
    /// without the lock.
    unsafe fn set_device(fc: *mut FsContext, file: *mut bindings::file) -> kernel::ffi::c_int {
        // SAFETY: The caller's promise.
        let device = T::device(unsafe { AnyFile::from_raw_file(file) });
        // SAFETY: The caller gave the reference away.
        unsafe { bindings::fput(file) };
        match device {
            Ok(device) => {
                // SAFETY: `fc` is the context being worked on.
                unsafe { Self::context(fc) }.device = Some(device);
                0
            }
            // SAFETY: As above.
            Err(refusal) => unsafe { Self::refuse(fc, refusal) },
        }
    }

    /// # Safety
    ///
    /// Called by the VFS alone, as the operation of this name, with a context or super block of `T`.
    unsafe extern "C" fn parse_param(
        fc: *mut FsContext,
        param: *mut bindings::fs_parameter,
    ) -> kernel::ffi::c_int {
        let mut file = core::ptr::null_mut();
        // SAFETY: `fc` and `param` are the VFS's for this call; `parameters` of this type's
        // registration is the table of options.
        let ret = unsafe {
            helpers::vfsh_fc_fd_param(fc, (*(*fc).fs_type).parameters.cast(), param, &mut file)
        };
        if ret == EBADF.to_errno() {
            // SAFETY: As above.
            return unsafe {
                Self::refuse(fc, (EBADF, c"the descriptor of the device is not open"))
            };
        }
        if ret != 0 {
            return ret;
        }
        // SAFETY: The helper returned a reference, which made the file shared: an `fdget_pos` that
        // begins now takes the lock. Nobody here looks at the position.
        unsafe { Self::set_device(fc, file) }
    }

    /// # Safety
    ///
    /// Called by the VFS alone, as the operation of this name, with a context or super block of `T`.
    unsafe extern "C" fn parse_monolithic(
        fc: *mut FsContext,
        data: *mut c_void,
    ) -> kernel::ffi::c_int {
        if data.is_null() {
            // SAFETY: `fc` is the VFS's for this call.
            return unsafe { Self::refuse(fc, (EINVAL, c"mount data is missing")) };
        }
        // SAFETY: All data but NULL comes from `copy_mount_options()`: a whole, zero-padded page, and
        // `BINARY_DATA` is less; nobody in the kernel mounts this type with data of his own.
        let bytes = unsafe {
            const { assert!(T::BINARY_DATA <= 4096) };
            core::slice::from_raw_parts(data.cast::<u8>(), T::BINARY_DATA)
        };
        let fd = match T::parse_binary(bytes) {
            Ok(fd) => fd,
            // SAFETY: As above.
            Err(refusal) => return unsafe { Self::refuse(fc, refusal) },
        };
        // SAFETY: `fget` takes any number.
        let file = unsafe { bindings::fget(fd) };
        if file.is_null() {
            // SAFETY: As above.
            return unsafe {
                Self::refuse(fc, (EBADF, c"the descriptor of the device is not open"))
            };
        }
        // SAFETY: `fget` returned a reference, and made the file shared: an `fdget_pos` that begins
        // now takes the lock. Nobody here looks at the position.
        unsafe { Self::set_device(fc, file) }
    }

    /// # Safety
    ///
    /// Called by the VFS alone, as the operation of this name, with a context or super block of `T`.
    unsafe extern "C" fn get_tree(fc: *mut FsContext) -> kernel::ffi::c_int {
        if !super::task::in_init_pid_namespace() {
            // SAFETY: `fc` is the VFS's for this call.
            return unsafe {
                Self::refuse(
                    fc,
                    (EINVAL, c"can be mounted in the initial pid namespace only"),
                )
            };
        }
        // SAFETY: `fc` is the context being worked on, and `fill_super` is for `T`.
        unsafe { helpers::get_tree_nodev(fc, Some(Self::fill_super)) }
    }

    /// # Safety
    ///
    /// Called by the VFS alone, as the operation of this name, with a context or super block of `T`.
    unsafe extern "C" fn fill_super(
        sb: *mut bindings::super_block,
        fc: *mut FsContext,
    ) -> kernel::ffi::c_int {
        // SAFETY: `fc` is the context of this very mount.
        let device = unsafe { Self::context(fc) }.device.take();
        let (mount, link) = match T::mount(device) {
            Ok(pair) => pair,
            // SAFETY: As above.
            Err(refusal) => return unsafe { Self::refuse(fc, refusal) },
        };
        let Ok(info) = KBox::new(SuperInfo::<T> { mount, link }, GFP_KERNEL) else {
            return ENOMEM.to_errno();
        };
        // SAFETY: The super block is new and nobody else's. `kill_sb` takes the box back, after a
        // failure here as well.
        unsafe {
            (*sb).s_fs_info = KBox::into_raw(info).cast();
            helpers::vfsh_sb_init(
                sb,
                T::MAGIC as kernel::ffi::c_ulong,
                SuperOps::<T>::get(),
                DentryOps::<T>::get(),
            );
            let ret = bindings::super_setup_bdi(sb);
            if ret != 0 {
                return ret;
            }
        }
        // SAFETY: `s_fs_info` and the type are set: this is a super block of `T`.
        let this = unsafe { SuperBlock::<T>::from_raw(sb) };
        to_int(T::root(this).and_then(|root| {
            let root = root.into_raw_of(sb)?;
            // SAFETY: `d_make_root` consumes the reference to the inode, on failure too.
            let dentry = unsafe { bindings::d_make_root(root) };
            if dentry.is_null() {
                return Err(ENOMEM);
            }
            // SAFETY: The super block is whole with its root set, which is a dentry of its own as the
            // inode is; and `kill_sb` clears the link before it shuts the super block down.
            unsafe {
                (*sb).s_root = dentry;
                this.info().link.set(this);
            }
            Ok(())
        }))
    }

    /// # Safety
    ///
    /// Called by the VFS alone, as the operation of this name, with a context or super block of `T`.
    unsafe extern "C" fn reconfigure(fc: *mut FsContext) -> kernel::ffi::c_int {
        // SAFETY: A reconfiguration has a root; its super block is mounted and locked.
        unsafe {
            bindings::sync_filesystem((*(*fc).root).d_sb);
            (*fc).sb_flags |= helpers::vfs_consts_VFS_SB_NOATIME as kernel::ffi::c_uint;
        }
        0
    }

    /// # Safety
    ///
    /// Called by the VFS alone, as the operation of this name, with a context or super block of `T`.
    unsafe extern "C" fn kill_sb(sb: *mut bindings::super_block) {
        // SAFETY: Called once for every super block of `T`, whole or not. `s_fs_info` is NULL or
        // came from `fill_super`. After `kill_anon_super` nobody but RCU readers uses the super block,
        // which has no inode any more: if it got a root, they are evicted there; if not, each was as
        // its last reference went, as the super block never became active.
        unsafe {
            let info: *mut SuperInfo<T> = (*sb).s_fs_info.cast();
            if !info.is_null() {
                (*info).link.clear();
            }
            bindings::kill_anon_super(sb);
            // Unless somebody leaked a reference. The super block is freed after this, and such an
            // inode would be found in the inode hash as one of whatever takes its place.
            assert!(
                !helpers::vfsh_sb_has_inodes(sb),
                "a mount is gone, and an inode of it in use"
            );
            if !info.is_null() {
                // A path walk under RCU holds no reference to the mount, and may be looking.
                bindings::synchronize_rcu();
                drop(KBox::from_raw(info));
            }
        }
    }
}

/// Whether there is a dot in a name.
const fn has_dot(name: &[u8]) -> bool {
    let mut i = 0;
    while i < name.len() {
        if name[i] == b'.' {
            return true;
        }
        i += 1;
    }
    false
}

#[pinned_drop]
impl<T: FileSystem> PinnedDrop for Registration<T> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: It is registered by the type invariants. It cannot fail for a registered type.
        unsafe { bindings::unregister_filesystem(self.fs_type.get()) };
        // A super block, and a mount that is being prepared, use what goes now, and hold a reference
        // to the module. So does whoever reads its name.
        module::wait_for_users();
    }
}

/// What a mount in preparation has.
struct Context<T: FileSystem> {
    device: Option<T::Device>,
}
