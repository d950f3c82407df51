// SPDX-License-Identifier: GPL-2.0

//! Files that serve the content of another file, and the detection of stores through them.
//!
//! C headers and sources: [`include/linux/backing-file.h`](srctree/include/linux/backing-file.h),
//! `fs/backing-file.c`, `mm/memory.c`.
//!
//! # How a backing file is tied to its owner's data
//!
//! `backing_file_open()` makes a `struct file` that belongs to us alone: it is in no descriptor
//! table, and only we and the memory areas that map it hold references. So its `f_op` is ours to
//! choose, and it points to a copy of the host file system's table that is embedded in a [`State`],
//! next to the owner's data. Everything that happens to the file leads from `file->f_op` to the
//! `State` by `container_of`:
//!
//! - `release` runs when the last reference is gone, be it the owner's or that of the last memory
//!   area. Then the owner's data is dropped, and the file has no table any more but an empty one.
//! - `fallocate` is what `madvise(MADV_REMOVE)` calls on the file of a memory area.
//! - `mmap` and `mmap_prepare` are where the host chooses its `vm_ops`: by the owner's `mmap`, and
//!   by `remap_file_pages(2)`, which maps the file of an existing area anew. Both get the same
//!   wrapped `vm_ops`.
//!
//! An area holds a reference to the file for as long as it exists, splits, copies and moves included,
//! and that is all the accounting there has to be for its lifetime. (The exception is a host that is
//! itself stacked on another file system, and puts that one's file into the area: see
//! [`StackedVmOps`].) The way from a fault to the `State` is `vma->vm_file->f_op`, not `vma->vm_ops`;
//! so it survives that somebody above us puts a table of his own over ours. That he calls ours at
//! every store cannot be known, though: `open` and `close` of areas are wrapped to find out that it
//! happened. If an area closes with another table than ours, or without our being told, the file
//! counts as modified.
//!
//! # How stores are detected
//!
//! A shared, writable area whose `vm_ops` have a `page_mkwrite` starts with read-only pages, and the
//! first store to each calls it. The wrapped table is a copy of the host's with `page_mkwrite`,
//! `pfn_mkwrite` and, where the host has them, `fault` and `huge_fault` replaced. The table is
//! complete before the first area sees it, never changes, is never taken away from an area, and
//! lives as long as the file: no fault can see it half made or gone.
//!
//! Where the owner needs no detection any more, a new area gets the host's own table.

use super::{
    bindings as helpers,
    errno::{ELOOP, EOPNOTSUPP},
    file::{
        access, DirEmitter, File, IoEnd, Opening, ReadIo, SpliceRead, VmArea, WriteIo, WriteKind,
    },
    from_isize,
    fs::FileSystem,
    inode::{mode, INode, InodeLock},
    to_int,
};
use core::{any::TypeId, marker::PhantomData, ptr::NonNull};
use kernel::{
    bindings,
    error::{from_err_ptr, to_result},
    ffi::{c_int, c_long, c_uint},
    fs::File as AnyFile,
    new_mutex,
    prelude::*,
    sync::{
        aref::ARef,
        atomic::{Atomic, Relaxed},
        Mutex, SetOnce,
    },
};

/// The owner's data of a backing file.
///
/// It is dropped when the last reference to the file is gone, memory areas included, in a context
/// that may sleep.
pub(crate) trait BackingHooks: Send + Sync + Sized + 'static {
    /// The file system whose open files are served from backing files like this.
    type FileSystem: FileSystem;

    /// Whether [`BackingHooks::modified`] has nothing more to tell the owner, for as long as this
    /// backing file exists.
    fn is_settled(&self) -> bool;

    /// The content changed, or may have, by something that did not go through the owner's
    /// operations. Must not sleep.
    fn modified(&self);

    /// The operations of a memory area were wrapped: a store through it will be told. Must not sleep.
    fn wrapped(&self) {}

    /// The file is about to be released, but somebody holds pages of it: I/O or a device that was
    /// given a mapping of it; or, on a stacked host, they are another file's, and may even be mapped.
    /// The content may change at any time from now on, and nobody will tell.
    fn pinned(&self);

    /// A fault for writing on a shared mapping: has to chain to the host, and may learn from what
    /// the host says. Must not sleep but in the host's handler.
    fn page_mkwrite<'a>(fault: HostFault<'a, Self>) -> FaultCode<'a>;
}

/// What ties a [`HostFault`] to the [`FaultCode`] that comes of it: the lifetime of one call, which
/// no other call's can be taken for.
type ThisFault<'a> = PhantomData<fn(&'a ()) -> &'a ()>;

/// What a fault handler returns: a set of `VM_FAULT_*`, which says what was done about this fault, and
/// is no answer to another.
pub(crate) struct FaultCode<'a>(bindings::vm_fault_t, ThisFault<'a>);

/// A fault for writing, on its way to the host's handler.
///
/// # Invariants
///
/// `vmf` is the fault the core called us with, on an area whose file is backed by `State<H>`;
/// `host` is the host's handler for it, or a stand-in that does what the core would have done.
pub(crate) struct HostFault<'a, H: BackingHooks> {
    vmf: *mut bindings::vm_fault,
    host: HostHandler,
    state: NonNull<State<H>>,
    _life: PhantomData<&'a H>,
    _this: ThisFault<'a>,
}

#[derive(Clone, Copy)]
enum HostHandler {
    /// The host's `page_mkwrite` or `pfn_mkwrite`.
    Mkwrite(unsafe extern "C" fn(*mut bindings::vm_fault) -> bindings::vm_fault_t),
    /// The host has none: the page may be written.
    Absent,
    /// The host's `fault`, of a fault for writing.
    Fault(unsafe extern "C" fn(*mut bindings::vm_fault) -> bindings::vm_fault_t),
    /// The host's `huge_fault`, of a fault for writing.
    HugeFault(
        unsafe extern "C" fn(*mut bindings::vm_fault, c_uint) -> bindings::vm_fault_t,
        c_uint,
    ),
}

/// What the host made of a fault for writing.
pub(crate) enum Chained<'a, H> {
    /// The page is writable now, or about to be made so: there may be a store at any moment. The
    /// area is still locked, so the file and the owner's data are there.
    Writable(&'a H, FaultCode<'a>),
    /// It is not. The area may be gone, and the file with it.
    NotWritable(FaultCode<'a>),
}

const VM_FAULT_SIGBUS: bindings::vm_fault_t = bindings::vm_fault_reason_VM_FAULT_SIGBUS;
const VM_FAULT_RETRY: bindings::vm_fault_t = bindings::vm_fault_reason_VM_FAULT_RETRY;
const VM_FAULT_COMPLETED: bindings::vm_fault_t = bindings::vm_fault_reason_VM_FAULT_COMPLETED;
const VM_FAULT_FALLBACK: bindings::vm_fault_t = bindings::vm_fault_reason_VM_FAULT_FALLBACK;
const VM_FAULT_NOPAGE: bindings::vm_fault_t = bindings::vm_fault_reason_VM_FAULT_NOPAGE;
/// As `VM_FAULT_ERROR` of `include/linux/mm_types.h`, which bindgen does not see.
const VM_FAULT_ERROR: bindings::vm_fault_t = bindings::vm_fault_reason_VM_FAULT_OOM
    | bindings::vm_fault_reason_VM_FAULT_SIGBUS
    | bindings::vm_fault_reason_VM_FAULT_SIGSEGV
    | bindings::vm_fault_reason_VM_FAULT_HWPOISON
    | bindings::vm_fault_reason_VM_FAULT_HWPOISON_LARGE
    | bindings::vm_fault_reason_VM_FAULT_FALLBACK;

impl<'a, H: BackingHooks> HostFault<'a, H> {
    /// Whether a page may be mapped writable after the host returned `code` with the area locked;
    /// `otherwise` if the host left that to the core. `VM_FAULT_NOPAGE` tells the core to try again,
    /// but of a host that maps pages itself (DAX) it says that it did.
    ///
    /// # Safety
    ///
    /// The area is still locked.
    unsafe fn may_be_mapped(&self, code: bindings::vm_fault_t, otherwise: bool) -> bool {
        if code & VM_FAULT_NOPAGE == 0 {
            return otherwise;
        }
        // SAFETY: The caller's promise.
        unsafe { helpers::vfsh_vma_maps_itself((*self.vmf).__bindgen_anon_1.vma) }
    }

    /// Calls the host's handler.
    pub(crate) fn chain(self) -> Chained<'a, H> {
        // After any of these nothing of the area may be touched: a `fault` or `huge_fault` that says
        // so may have dropped the lock of the area. No page was made writable.
        const NOT_WRITABLE: bindings::vm_fault_t =
            VM_FAULT_ERROR | VM_FAULT_RETRY | VM_FAULT_COMPLETED;

        // SAFETY: The handler is called with the fault that the core made for the area whose table
        // it comes from.
        let (code, writable) = unsafe {
            match self.host {
                HostHandler::Mkwrite(mkwrite) => {
                    let code = mkwrite(self.vmf);
                    // The core looks for errors and `VM_FAULT_NOPAGE`, and goes on with anything
                    // else: some hosts say `VM_FAULT_RETRY`, and get their page made writable. So
                    // the area is still locked, whatever they say.
                    (
                        code,
                        code & VM_FAULT_ERROR == 0 && self.may_be_mapped(code, true),
                    )
                }
                HostHandler::Absent => {
                    // Without a `page_mkwrite` the core sets mtime and ctime; with one it leaves
                    // that to the handler, which is us. Like the core, go on if it fails.
                    let area = (*self.vmf).__bindgen_anon_1.vma;
                    bindings::file_update_time((*area).vm_file);
                    (0, true)
                }
                HostHandler::Fault(fault) => {
                    let code = fault(self.vmf);
                    // With a page in hand, the core asks `page_mkwrite` next.
                    (
                        code,
                        code & NOT_WRITABLE == 0 && self.may_be_mapped(code, false),
                    )
                }
                HostHandler::HugeFault(huge_fault, order) => {
                    let code = huge_fault(self.vmf, order);
                    (code, code & (NOT_WRITABLE | VM_FAULT_FALLBACK) == 0)
                }
            }
        };
        if !writable {
            return Chained::NotWritable(FaultCode(code, PhantomData));
        }
        // SAFETY: The handler kept the lock of the area: a `fault` or `huge_fault` since no bit of
        // `NOT_WRITABLE` is set, the others as the core counts on it. So the area still holds its
        // reference to the file, and the file its `State`. The core keeps
        // the lock until the handler that was given this `HostFault` returns, and `'a` does not
        // outlive that: see `State::detect`.
        let hooks = unsafe { &(*self.state.as_ptr()).hooks };
        Chained::Writable(hooks, FaultCode(code, PhantomData))
    }
}

/// The wrapped table of memory area operations, and the host's table it was made of.
struct WrappedVmOps {
    host: *const bindings::vm_operations_struct,
    table: bindings::vm_operations_struct,
}

// SAFETY: Both are tables of functions that do not change.
unsafe impl Send for WrappedVmOps {}
// SAFETY: As above.
unsafe impl Sync for WrappedVmOps {}

/// The table of areas whose host put a file of its own in the place of the backing file, as stacked
/// file systems do. Such an area holds no reference to the backing file by `vm_file`, so its `open`
/// and `close` do; and its faults go their own way, so the file counts as modified where they can
/// store.
struct StackedVmOps {
    host: *const bindings::vm_operations_struct,
    table: bindings::vm_operations_struct,
    /// The backing file, of which each area owns a reference.
    file: *mut bindings::file,
}

// SAFETY: The tables do not change; references to a file may be taken and dropped on any thread.
unsafe impl Send for StackedVmOps {}
// SAFETY: As above.
unsafe impl Sync for StackedVmOps {}

impl StackedVmOps {
    fn new(host: *const bindings::vm_operations_struct, file: *mut bindings::file) -> Self {
        // SAFETY: The host's table is static.
        let mut table = unsafe { host.as_ref() }.map_or_else(pin_init::zeroed, |host| *host);
        table.open = Some(Self::open);
        table.close = Some(Self::close);
        Self { host, table, file }
    }

    /// # Safety
    ///
    /// `area` has the table of a `StackedVmOps`, or one that was put over it and chains to it with
    /// it in place.
    unsafe fn of_area<'a>(area: *const bindings::vm_area_struct) -> &'a Self {
        // SAFETY: The caller's promise; the area owns a reference to the file that keeps it.
        unsafe {
            let table = (*area).vm_ops.cast_mut();
            &*kernel::container_of!(table, Self, table)
        }
    }

    /// # Safety
    ///
    /// Called by the kernel alone, as the operation of this name: by the table of a file or an area
    /// that was given it here.
    unsafe extern "C" fn open(area: *mut bindings::vm_area_struct) {
        // SAFETY: Called for an area that is a copy of one with this table, which owns a reference.
        unsafe {
            let this = Self::of_area(area);
            super::get_raw_file(this.file);
            if let Some(open) = this.host.as_ref().and_then(|host| host.open) {
                open(area);
            }
        }
    }

    /// # Safety
    ///
    /// Called by the kernel alone, as the operation of this name: by the table of a file or an area
    /// that was given it here.
    unsafe extern "C" fn close(area: *mut bindings::vm_area_struct) {
        // SAFETY: The last call for an area with this table; the reference is the area's own.
        unsafe {
            let this = Self::of_area(area);
            if let Some(close) = this.host.as_ref().and_then(|host| host.close) {
                close(area);
            }
            // The table goes with the file; the core looks at none after `close`.
            bindings::fput(this.file);
        }
    }
}

/// What every [`State`] begins with: the table, and the type of the owner's data.
#[repr(C)]
struct Head {
    f_op: bindings::file_operations,
    owner: TypeId,
}

/// What hangs on a backing file.
///
/// # Invariants
///
/// It is on the heap and does not move. `head.owner` is `H`. `head.f_op` is the operations table of
/// exactly one file, which was opened with the table `host_f_op`, and which frees the `State` in its
/// `release`.
#[pin_data]
#[repr(C)]
struct State<H: BackingHooks> {
    head: Head,
    host_f_op: *const bindings::file_operations,
    vm_ops: SetOnce<WrappedVmOps>,
    stacked: SetOnce<StackedVmOps>,
    /// Whether the host's file is held against being sealed: from the first area that may be shared
    /// and written to, for as long as the file is open.
    writable: SetOnce<()>,
    /// Held to set `stacked` or `writable`: who maps the file at the same time waits for it.
    #[pin]
    first: Mutex<()>,
    /// How many areas have the wrapped table, as far as their `open` and `close` tell.
    areas: Atomic<i32>,
    /// Whether I/O has ever been meant to go past the page cache.
    direct: Atomic<i32>,
    /// Whether there ever was a shared area that may be written to.
    shared: Atomic<i32>,
    hooks: H,
}

impl<H: BackingHooks> State<H> {
    /// The state of `file`, if that is a backing file of this kind.
    ///
    /// # Safety
    ///
    /// `file` is NULL or alive during `'a`.
    unsafe fn of_file<'a>(file: *const bindings::file) -> Option<&'a Self> {
        // SAFETY: The caller's promise; an open file always has a table.
        let (f_op, release) = unsafe {
            let f_op = file.as_ref()?.f_op;
            (f_op, (*f_op).release?)
        };
        let ours: unsafe extern "C" fn(*mut bindings::inode, *mut bindings::file) -> c_int =
            Self::release;
        if !core::ptr::fn_addr_eq(release, ours) {
            return None;
        }
        // SAFETY: Only `attach` makes a table with such a `release`, as the first member of a `State`.
        // That may be of another owner, whose `release` comes down to the same code and became this
        // one.
        if unsafe { (*f_op.cast::<Head>()).owner } != TypeId::of::<H>() {
            return None;
        }
        // SAFETY: So it is a `State<H>`; by the type invariants it lives until the file is released.
        Some(unsafe { &*f_op.cast() })
    }

    /// Gives `file` a state.
    ///
    /// # Safety
    ///
    /// `file` was opened by `backing_file_open` just now: nobody else uses it.
    unsafe fn attach(file: *mut bindings::file, hooks: H) -> Result {
        // SAFETY: The caller's promise; an open file always has a table.
        let (host_f_op, host) = unsafe { ((*file).f_op, &*(*file).f_op) };
        let mut f_op = *host;
        f_op.release = Some(Self::release);
        // Only who maps this very file gets here (`remap_file_pages(2)`, an `mremap(2)` that moves),
        // and shmem's wants a file with shmem's own table.
        f_op.get_unmapped_area = None;
        if host.fallocate.is_some() {
            f_op.fallocate = Some(Self::fallocate);
        }
        if host.mmap.is_some() {
            f_op.mmap = Some(Self::mmap);
        }
        if host.mmap_prepare.is_some() {
            f_op.mmap_prepare = Some(Self::mmap_prepare);
        }
        let state = KBox::pin_init(
            pin_init!(State {
                head: Head {
                    f_op,
                    owner: TypeId::of::<H>(),
                },
                host_f_op,
                vm_ops: SetOnce::new(),
                stacked: SetOnce::new(),
                writable: SetOnce::new(),
                first <- new_mutex!((), "State::first"),
                areas: Atomic::new(0),
                // SAFETY: The caller's promise.
                direct: Atomic::new(i32::from(unsafe {
                    (*file).f_flags & bindings::O_DIRECT != 0
                })),
                shared: Atomic::new(0),
                hooks,
            }),
            GFP_KERNEL,
        )?;
        // SAFETY: The state does not move until `release` drops it. Nobody else looks at the file yet.
        // INVARIANT: The table belongs to this file from now on, and `release` frees the state.
        // A file that is open holds a reference to the module of its host's table, which `release` puts;
        // what it gets for that is one to this module, whose code it calls from now on.
        unsafe {
            let state = KBox::into_raw(Pin::into_inner_unchecked(state));
            helpers::vfsh_module_hold();
            (*file).f_op = core::ptr::addr_of!((*state).head.f_op);
        }
        Ok(())
    }

    /// # Safety
    ///
    /// `file` is a live file with a state.
    unsafe fn expect<'a>(file: *const bindings::file) -> &'a Self {
        // SAFETY: The caller's promise: the table is the first member of a state.
        unsafe { &*(*file).f_op.cast() }
    }

    /// # Safety
    ///
    /// Called by the kernel alone, as the operation of this name: by the table of a file or an area
    /// that was given it here.
    unsafe extern "C" fn release(inode: *mut bindings::inode, file: *mut bindings::file) -> c_int {
        // SAFETY: Reached through the file's table, so it has a state. This is the last use of the
        // file as such; the VFS goes on to put the module of `f_op`, which is ours by then: the
        // reference that `attach` took.
        unsafe {
            let state: *mut Self = (*file).f_op.cast_mut().cast();
            let host = (*state).host_f_op;
            if (*state).writable.as_ref().is_some() {
                helpers::vfsh_file_unmap_writable(file);
            }
            let ret = match (*host).release {
                Some(release) => release(inode, file),
                None => 0,
            };
            helpers::vfsh_file_released(file, host);
            if (*state).areas.load(Relaxed) != 0 {
                // Every area is gone, but not all of them said so: somebody took our table away.
                (*state).hooks.modified();
            }
            // Who pins a page to write to it has to make it writable first, and that is a
            // modification. On a stacked host the pages are another file's, and there may be areas
            // left that `remap_file_pages(2)` made of it without us.
            if (*state).shared.load(Relaxed) != 0
                && (*state).hooks.is_settled()
                && ((*state).stacked.as_ref().is_some()
                    || helpers::vfsh_mapping_may_be_pinned((*inode).i_mapping))
            {
                (*state).hooks.pinned();
            }
            drop(KBox::from_raw(state));
            ret
        }
    }

    /// # Safety
    ///
    /// Called by the kernel alone, as the operation of this name: by the table of a file or an area
    /// that was given it here.
    unsafe extern "C" fn fallocate(
        file: *mut bindings::file,
        mode: c_int,
        offset: bindings::loff_t,
        len: bindings::loff_t,
    ) -> c_long {
        // SAFETY: Reached through the file's table, so it has a state, and the host has the
        // operation.
        unsafe {
            let state = Self::expect(file);
            if (*state.host_f_op).fallocate.is_none() {
                return Error::from(EOPNOTSUPP).to_errno() as c_long;
            }
            let inode = (*file).f_inode;
            let size = helpers::vfsh_inode_size(inode);
            // `madvise(2)` comes with the credentials of its caller.
            let ret =
                helpers::vfsh_file_fallocate_as_opener(file, state.host_f_op, mode, offset, len);
            let is = |err: Error| err.to_errno() as c_long == ret;
            // The device may find out half way that it cannot zero, and say so in its own words.
            let asks_device = mode as u32 & helpers::vfs_consts_VFS_FALLOC_FL_WRITE_ZEROES != 0;
            let refused = [EPERM, EBADF, EFBIG, ETXTBSY].into_iter().any(is)
                || !asks_device && [EINVAL, ENODEV, EOPNOTSUPP.into()].into_iter().any(is);
            // Inserting a range may be refused when the length has been changed already.
            let refused = refused && size == helpers::vfsh_inode_size(inode);
            // Anything but a refusal may have changed a part.
            if !refused {
                state.hooks.modified();
            }
            ret
        }
    }

    /// # Safety
    ///
    /// Called by the kernel alone, as the operation of this name: by the table of a file or an area
    /// that was given it here.
    unsafe extern "C" fn mmap(
        file: *mut bindings::file,
        vma: *mut bindings::vm_area_struct,
    ) -> c_int {
        // SAFETY: Reached through the file's table, so it has a state, and the host has the
        // operation; the area is under construction.
        unsafe {
            let state = Self::expect(file);
            let Some(mmap) = (*state.host_f_op).mmap else {
                return ENODEV.to_errno();
            };
            let ret = mmap(file, vma);
            if ret != 0 {
                return ret;
            }
            let can_store = helpers::vfsh_vma_shared_maywrite(vma);
            if can_store {
                state.shared.store(1, Relaxed);
            }
            if can_store && helpers::vfsh_vma_is_special(vma) {
                // There are pages already, or faults that ask nobody.
                state.hooks.modified();
            }
            if (*vma).vm_file != file {
                return to_int(state.stack(file, vma, can_store));
            }
            if can_store {
                (*vma).vm_ops = state.wrap((*vma).vm_ops);
            }
            0
        }
    }

    /// # Safety
    ///
    /// Called by the kernel alone, as the operation of this name: by the table of a file or an area
    /// that was given it here.
    unsafe extern "C" fn mmap_prepare(desc: *mut bindings::vm_area_desc) -> c_int {
        // SAFETY: Reached through the table of `desc->file`, so that has a state, and the host has
        // the operation.
        unsafe {
            let state = Self::expect((*desc).file);
            let before = (*desc).vm_file;
            let Some(mmap_prepare) = (*state.host_f_op).mmap_prepare else {
                return ENODEV.to_errno();
            };
            let ret = mmap_prepare(desc);
            if ret != 0 {
                return ret;
            }
            if (*desc).vm_file != before {
                // No host does that by this hook; the area could not keep our file.
                bindings::fput((*desc).vm_file);
                (*desc).vm_file = before;
                return ENODEV.to_errno();
            }
            if helpers::vfsh_vma_desc_shared_maywrite(desc) {
                state.shared.store(1, Relaxed);
                if helpers::vfsh_vma_desc_is_special(desc) {
                    // There will be pages before the first fault, or faults that ask nobody.
                    state.hooks.modified();
                }
                (*desc).vm_ops = state.wrap((*desc).vm_ops);
            }
            0
        }
    }

    /// Makes sure that the host's file does not become sealed against shared areas that are written
    /// to: the core counts those of the user's file while it makes one, not this one's. `EPERM` if it
    /// is sealed.
    ///
    /// # Safety
    ///
    /// `file` has this state.
    unsafe fn hold_writable(&self, file: *mut bindings::file) -> Result {
        if self.writable.as_ref().is_none() {
            let _guard = self.first.lock();
            if self.writable.as_ref().is_none() {
                // SAFETY: The caller's promise; `release` undoes it.
                to_result(unsafe { helpers::vfsh_file_map_writable(file) })?;
                self.writable.populate(());
            }
        }
        Ok(())
    }

    /// Ties an area to `file`, though the host has put another file in its place.
    ///
    /// # Safety
    ///
    /// `file` has this state, and `vma` is under construction and mapped by the host.
    unsafe fn stack(
        &self,
        file: *mut bindings::file,
        vma: *mut bindings::vm_area_struct,
        can_store: bool,
    ) -> Result {
        if can_store {
            self.hooks.modified();
        }
        // SAFETY: The caller's promise.
        let host = unsafe { (*vma).vm_ops };
        if self.stacked.as_ref().is_none() {
            let _guard = self.first.lock();
            self.stacked.populate(StackedVmOps::new(host, file));
        }
        let Some(stacked) = self.stacked.as_ref().filter(|it| it.host == host) else {
            // The core drops the host's file, but calls no `close` of an area whose `mmap` failed;
            // and the host knows nothing of that. Its table is that of the file system below it,
            // which may count its areas.
            // SAFETY: The host has made the area, and is done with it after this: the core gives an
            // area that failed a table of its own.
            unsafe {
                if let Some(close) = host.as_ref().and_then(|host| host.close) {
                    close(vma);
                }
            }
            return Err(ENODEV);
        };
        // SAFETY: The area gets a reference to the file, and with it to the table, of its own.
        unsafe {
            super::get_raw_file(file);
            (*vma).vm_ops = &stacked.table;
        }
        Ok(())
    }

    /// The table for an area that the host wants to give `host`.
    fn wrap(
        &self,
        host: *const bindings::vm_operations_struct,
    ) -> *const bindings::vm_operations_struct {
        if self.hooks.is_settled() {
            return host;
        }
        if self.vm_ops.as_ref().is_none() {
            // SAFETY: The host's table is static.
            if let Some(host_ops) = unsafe { host.as_ref() } {
                let mut table = *host_ops;
                table.open = Some(Self::area_open);
                table.close = Some(Self::area_close);
                table.page_mkwrite = Some(Self::page_mkwrite);
                table.pfn_mkwrite = Some(Self::pfn_mkwrite);
                if host_ops.fault.is_some() {
                    table.fault = Some(Self::fault);
                }
                if host_ops.huge_fault.is_some() {
                    table.huge_fault = Some(Self::huge_fault);
                }
                // `UFFDIO_COPY` would put pages into the file past all of these.
                #[cfg(CONFIG_USERFAULTFD)]
                {
                    table.uffd_ops = core::ptr::null();
                }
                self.vm_ops.populate(WrappedVmOps { host, table });
            }
        }
        match self.vm_ops.as_ref() {
            Some(wrapped) if wrapped.host == host => {
                self.areas.fetch_add(1, Relaxed);
                self.hooks.wrapped();
                &wrapped.table
            }
            // The host has no operations, changed its mind about which, or another thread maps the
            // same open file for the first time at this moment. Stores could go unseen: report
            // one.
            _ => {
                self.hooks.modified();
                host
            }
        }
    }

    /// The state of an area, with the tables that were made for it; `None` if somebody gave our table
    /// to an area of a file that is not ours.
    ///
    /// # Safety
    ///
    /// `area` holds its reference to its file during `'a`.
    unsafe fn of_area<'a>(
        area: *const bindings::vm_area_struct,
    ) -> Option<(&'a Self, &'a WrappedVmOps)> {
        // SAFETY: The caller's promise.
        let state = unsafe { Self::of_file((*area).vm_file) }?;
        Some((state, state.vm_ops.as_ref()?))
    }

    /// # Safety
    ///
    /// Called by the kernel alone, as the operation of this name: by the table of a file or an area
    /// that was given it here.
    unsafe extern "C" fn area_open(area: *mut bindings::vm_area_struct) {
        // SAFETY: The area is alive and has its file; the host's table is static.
        unsafe {
            if let Some((state, wrapped)) = Self::of_area(area) {
                state.areas.fetch_add(1, Relaxed);
                if let Some(open) = (*wrapped.host).open {
                    open(area);
                }
            }
        }
    }

    /// # Safety
    ///
    /// Called by the kernel alone, as the operation of this name: by the table of a file or an area
    /// that was given it here.
    unsafe extern "C" fn area_close(area: *mut bindings::vm_area_struct) {
        // SAFETY: The area still has its file; the host's table is static.
        unsafe {
            if let Some((state, wrapped)) = Self::of_area(area) {
                if !core::ptr::eq((*area).vm_ops, &wrapped.table) {
                    // Somebody put a table over ours. He called us now, but did he at each store?
                    state.hooks.modified();
                }
                state.areas.fetch_sub(1, Relaxed);
                if let Some(close) = (*wrapped.host).close {
                    close(area);
                }
            }
        }
    }

    /// Finds the state of a faulting area and lets the owner handle the fault. `host` picks the
    /// host's handler out of its table.
    ///
    /// # Safety
    ///
    /// `vmf` is a fault of the core, on a locked area.
    unsafe fn detect(
        vmf: *mut bindings::vm_fault,
        host: impl FnOnce(&bindings::vm_operations_struct) -> HostHandler,
    ) -> bindings::vm_fault_t {
        // SAFETY: The caller's promise: the area is locked, so it holds a reference to its file.
        let Some((state, wrapped)) = (unsafe { Self::of_area((*vmf).__bindgen_anon_1.vma) }) else {
            // There is no host to ask and no owner to tell: the store must not happen.
            return VM_FAULT_SIGBUS;
        };
        // SAFETY: The host's table is static.
        let host = host(unsafe { &*wrapped.host });
        // INVARIANT: As found; the lifetime is this call.
        H::page_mkwrite(HostFault {
            vmf,
            host,
            state: NonNull::from(state),
            _life: PhantomData,
            _this: PhantomData,
        })
        .0
    }

    /// # Safety
    ///
    /// `vmf` is a fault of the core, on a locked area.
    unsafe fn is_shared_write(vmf: *const bindings::vm_fault) -> bool {
        // SAFETY: The caller's promise.
        unsafe {
            (*vmf).flags & bindings::fault_flag_FAULT_FLAG_WRITE != 0
                && helpers::vfsh_vma_shared_maywrite((*vmf).__bindgen_anon_1.vma)
        }
    }

    /// # Safety
    ///
    /// Called by the kernel alone, as the operation of this name: by the table of a file or an area
    /// that was given it here.
    unsafe extern "C" fn page_mkwrite(vmf: *mut bindings::vm_fault) -> bindings::vm_fault_t {
        // SAFETY: Called by the core for a fault.
        unsafe {
            Self::detect(vmf, |host| {
                host.page_mkwrite
                    .map_or(HostHandler::Absent, HostHandler::Mkwrite)
            })
        }
    }

    /// # Safety
    ///
    /// Called by the kernel alone, as the operation of this name: by the table of a file or an area
    /// that was given it here.
    unsafe extern "C" fn pfn_mkwrite(vmf: *mut bindings::vm_fault) -> bindings::vm_fault_t {
        // SAFETY: Called by the core for a fault.
        unsafe {
            Self::detect(vmf, |host| {
                host.pfn_mkwrite
                    .map_or(HostHandler::Absent, HostHandler::Mkwrite)
            })
        }
    }

    /// # Safety
    ///
    /// Called by the kernel alone, as the operation of this name: by the table of a file or an area
    /// that was given it here.
    unsafe extern "C" fn fault(vmf: *mut bindings::vm_fault) -> bindings::vm_fault_t {
        // SAFETY: Called by the core for a fault; a table with our `fault` has a host's.
        unsafe {
            if Self::is_shared_write(vmf) {
                return Self::detect(vmf, |host| {
                    host.fault.map_or(HostHandler::Absent, HostHandler::Fault)
                });
            }
            let area = Self::of_area((*vmf).__bindgen_anon_1.vma);
            match area.and_then(|(_, wrapped)| (*wrapped.host).fault) {
                Some(fault) => fault(vmf),
                None => VM_FAULT_SIGBUS,
            }
        }
    }

    /// # Safety
    ///
    /// Called by the kernel alone, as the operation of this name: by the table of a file or an area
    /// that was given it here.
    unsafe extern "C" fn huge_fault(
        vmf: *mut bindings::vm_fault,
        order: c_uint,
    ) -> bindings::vm_fault_t {
        // SAFETY: Called by the core for a fault; a table with our `huge_fault` has a host's.
        unsafe {
            if Self::is_shared_write(vmf) {
                return Self::detect(vmf, |host| {
                    host.huge_fault.map_or(HostHandler::Absent, |huge_fault| {
                        HostHandler::HugeFault(huge_fault, order)
                    })
                });
            }
            let area = Self::of_area((*vmf).__bindgen_anon_1.vma);
            match area.and_then(|(_, wrapped)| (*wrapped.host).huge_fault) {
                Some(huge_fault) => huge_fault(vmf, order),
                None => VM_FAULT_FALLBACK,
            }
        }
    }
}

/// An open backing file, held by its owner.
///
/// # Invariants
///
/// `file` has a [`State<H>`], and this value owns a reference to it.
pub(crate) struct BackingFile<H: BackingHooks> {
    file: NonNull<bindings::file>,
    _h: PhantomData<H>,
}

// SAFETY: A reference to a file may be used and dropped on any thread; this file is in no
// descriptor table, so there are no `fdget_pos` calls on it.
unsafe impl<H: BackingHooks> Send for BackingFile<H> {}
// SAFETY: As above; `H` is `Sync`, and the operations below are those the VFS calls in parallel.
unsafe impl<H: BackingHooks> Sync for BackingFile<H> {}

impl<H: BackingHooks> BackingFile<H> {
    /// Opens the file that `host` is, anew, to serve `user`, with the access mode of `user` and the
    /// credentials that `host` was opened with.
    ///
    /// With an error, `hooks` is dropped. `EBADF`: `host` is not open for what `user` wants to do.
    /// `ELOOP`: it is of the same file system as `user`, or on too high a stack of file systems.
    /// `EINVAL`: it is neither a regular file nor a directory; or a file of huge pages, whose faults ask
    /// nobody; or one without a page cache, as those of debugfs are: no two of them do alike, and those
    /// of functionfs take the iocb of asynchronous I/O for one of `io_submit(2)`'s own.
    pub(crate) fn open(
        user: &Opening<'_, H::FileSystem>,
        host: &AnyFile,
        hooks: H,
    ) -> Result<Self> {
        let wanted = match user.flags() & access::O_ACCMODE {
            mode @ (access::O_WRONLY | access::O_RDWR) => mode,
            // With 3, the file is good for neither; `user` will not ask.
            _ => 0,
        };
        let offered = host.flags() & access::O_ACCMODE;
        if offered != access::O_RDWR && offered != wanted {
            return Err(EBADF);
        }
        let raw = host.as_ptr();
        // SAFETY: `host` is alive, so its inode is; a mounted file's super block has a type.
        let (kind, too_deep, odd) = unsafe {
            let inode = (*raw).f_inode;
            let (sb, user_sb) = ((*inode).i_sb, (*(*user.as_ptr()).f_inode).i_sb);
            (
                u32::from((*inode).i_mode) & mode::S_IFMT,
                (*sb).s_type == (*user_sb).s_type
                    || (*sb).s_stack_depth >= bindings::FILESYSTEM_MAX_STACK_DEPTH as c_int,
                helpers::vfsh_file_is_hugetlb(raw) || helpers::vfsh_file_has_no_pages(raw),
            )
        };
        if too_deep {
            return Err(ELOOP.into());
        }
        let mut flags = wanted | bindings::O_LARGEFILE;
        // A directory's container may be a file, which is read in pieces of any size.
        let shares = user.inode().mode() & mode::S_IFMT == mode::S_IFREG;
        if shares {
            flags |= user.flags() & bindings::O_DIRECT;
        }
        match kind {
            mode::S_IFREG if !odd => {}
            mode::S_IFDIR => flags |= bindings::O_DIRECTORY,
            _ => return Err(EINVAL),
        }
        // SAFETY: Both files are alive; `host`'s path and credentials live as long as it.
        let file = from_err_ptr(unsafe {
            helpers::vfsh_backing_file_open(
                user.as_ptr(),
                flags as c_int,
                core::ptr::from_ref(&(*raw).__bindgen_anon_1.f_path),
                (*raw).f_cred,
            )
        })?;
        // SAFETY: The file was made just now.
        if let Err(err) = unsafe { State::attach(file, hooks) } {
            // SAFETY: It is ours, with the host's own table.
            unsafe { bindings::fput(file) };
            return Err(err);
        }
        // What the host's file can do, the user's can.
        const SHARED: bindings::fmode_t =
            helpers::vfs_consts_VFS_FMODE_NOWAIT | helpers::vfs_consts_VFS_FMODE_CAN_ODIRECT;
        if shares {
            // SAFETY: Both files are alive; nobody else uses the user's yet, as it is being opened.
            unsafe { (*user.as_ptr()).f_mode |= (*file).f_mode & SHARED };
        }
        // INVARIANT: The state is attached, and the reference is ours.
        Ok(Self {
            file: NonNull::new(file).ok_or(EINVAL)?,
            _h: PhantomData,
        })
    }

    fn as_ptr(&self) -> *mut bindings::file {
        self.file.as_ptr()
    }

    /// The owner's data.
    pub(crate) fn hooks(&self) -> &H {
        &self.state().hooks
    }

    /// Gives the user's inode the length of the host's file. Whoever is last to do so has seen the
    /// last length.
    pub(crate) fn copy_size(&self, user: &INode<H::FileSystem>) {
        // SAFETY: Both inodes are alive; the helper takes the user's `i_lock`.
        unsafe { helpers::vfsh_inode_copy_size(user.as_ptr(), (*self.as_ptr()).f_inode) };
    }

    /// Whether the host's file is on one of the file systems whose errors are known: tmpfs, ext4, xfs
    /// and btrfs. With DAX it is none: ext4 and xfs find out that there is no space for what they have
    /// to note when the data has been written.
    pub(crate) fn is_familiar(&self) -> bool {
        const FAMILIAR: [u32; 4] = [
            helpers::vfs_consts_VFS_TMPFS_MAGIC,
            helpers::vfs_consts_VFS_EXT4_SUPER_MAGIC,
            helpers::vfs_consts_VFS_XFS_SUPER_MAGIC,
            helpers::vfs_consts_VFS_BTRFS_SUPER_MAGIC,
        ];
        // SAFETY: The file is alive, and so are its inode and super block; the number never changes.
        let (magic, dax) = unsafe {
            let inode = (*self.as_ptr()).f_inode;
            ((*(*inode).i_sb).s_magic, helpers::vfsh_inode_is_dax(inode))
        };
        !dax && FAMILIAR
            .iter()
            .any(|known| u64::from(*known) == magic as u64)
    }

    /// The length of the host's file, in bytes.
    pub(crate) fn size(&self) -> i64 {
        // SAFETY: The file is alive, and so is its inode.
        unsafe { helpers::vfsh_inode_size((*self.as_ptr()).f_inode) }
    }

    /// Whether a write may have gone past the page cache, though its own flags say otherwise: which
    /// it does is decided by the host's file, and another thread may change that by `fcntl(2)`
    /// while it is on its way. To be asked after the write.
    pub(crate) fn was_direct(&self) -> bool {
        self.state().direct.load(Relaxed) != 0
    }

    /// Whether every write goes to the disk before it returns, whatever the writer asked for.
    pub(crate) fn is_sync(&self) -> bool {
        // SAFETY: The file is alive, and so is its inode.
        unsafe { helpers::vfsh_inode_is_sync((*self.as_ptr()).f_inode) }
    }

    /// The credentials for I/O: those the host's file was opened with.
    fn context(
        &self,
        end_write: Option<unsafe extern "C" fn(*mut bindings::kiocb, isize)>,
    ) -> helpers::backing_file_ctx {
        helpers::backing_file_ctx {
            // SAFETY: The file is alive; its credentials live as long.
            cred: unsafe { (*self.as_ptr()).f_cred },
            accessed: None,
            end_write,
        }
    }

    fn state(&self) -> &State<H> {
        // SAFETY: By the type invariants.
        unsafe { State::<H>::expect(self.as_ptr()) }
    }

    /// Makes I/O of the host's file go past the page cache or not. A synchronous read or write asks
    /// the file it is on, and `fcntl(2)` changes the user's.
    fn follow_direct(&self, direct: bool) {
        // SAFETY: The file is alive; its mode does not change once it is open.
        let can = unsafe { (*self.as_ptr()).f_mode } & helpers::vfs_consts_VFS_FMODE_CAN_ODIRECT;
        // What the host's file cannot do, the user's was not allowed to ask for.
        let direct = direct && can != 0;
        // SAFETY: The file is alive; an aligned word is read in one piece.
        let flags = unsafe { core::ptr::addr_of!((*self.as_ptr()).f_flags).read_volatile() };
        if (flags & bindings::O_DIRECT != 0) != direct {
            if direct {
                // Before anybody can see the flag: see `was_direct`.
                self.state().direct.store(1, Relaxed);
            }
            // SAFETY: The file is alive; the helper takes its `f_lock`.
            unsafe { helpers::vfsh_file_set_direct(self.as_ptr(), direct) };
        }
    }

    /// Reads from the host's file.
    pub(crate) fn read<'a>(&self, io: ReadIo<'a>) -> IoEnd<'a> {
        self.follow_direct(io.is_direct());
        let mut context = self.context(None);
        let (kiocb, iter) = io.into_raw();
        // SAFETY: By the invariants of `io`; the context is read during the call only. The result is
        // that of this call.
        unsafe {
            IoEnd::from_raw(helpers::backing_file_read_iter(
                self.as_ptr(),
                iter,
                kiocb,
                (*kiocb).ki_flags,
                &mut context,
            ))
        }
    }

    /// # Safety
    ///
    /// Called by the kernel alone, as the operation of this name: by the table of a file or an area
    /// that was given it here.
    unsafe extern "C" fn end_write(kiocb: *mut bindings::kiocb, ret: isize) {
        if ret == -(bindings::EIOCBQUEUED as isize) {
            return;
        }
        // SAFETY: `kiocb` is the one of `write` below: of an open file of `H::FileSystem`, alive
        // until the kiocb is completed, which happens after this.
        let (file, flags) = unsafe {
            (
                File::<H::FileSystem>::from_raw((*kiocb).ki_filp),
                (*kiocb).ki_flags as u32,
            )
        };
        let kind = WriteKind {
            sync: flags & helpers::vfs_consts_VFS_IOCB_DSYNC != 0,
            direct: flags & helpers::vfs_consts_VFS_IOCB_DIRECT != 0,
            familiar: false,
        };
        H::FileSystem::write_ended(file, from_isize(ret), kind);
    }

    /// Writes to the host's file. [`FileSystem::write_ended`] is called when it is done, which may be
    /// later, and is not called if the write was refused before it began.
    pub(crate) fn write<'a>(&self, io: WriteIo<'a, H::FileSystem>) -> IoEnd<'a> {
        self.follow_direct(io.is_direct());
        let mut context = self.context(Some(Self::end_write));
        let (kiocb, iter) = io.into_raw();
        // SAFETY: By the invariants of `io`; the context is copied where it is needed for longer. The
        // result is that of this call.
        unsafe {
            IoEnd::from_raw(helpers::backing_file_write_iter(
                self.as_ptr(),
                iter,
                kiocb,
                // Not every caller in the kernel says that it writes, and 7.2 counts on it.
                (*kiocb).ki_flags | helpers::vfs_consts_VFS_IOCB_WRITE as c_int,
                &mut context,
            ))
        }
    }

    /// Splices from the host's file to a pipe.
    pub(crate) fn splice_read<'a>(&self, io: SpliceRead<'a>) -> IoEnd<'a> {
        self.follow_direct(io.is_direct());
        let mut context = self.context(None);
        // SAFETY: By the invariants of `io`; the kiocb is used during the call only. The result is
        // that of this call.
        unsafe {
            let mut kiocb = pin_init::zeroed();
            helpers::vfsh_init_sync_kiocb(&mut kiocb, io.file);
            kiocb.ki_pos = *io.position;
            let ret = helpers::backing_file_splice_read(
                self.as_ptr(),
                &mut kiocb,
                io.pipe,
                io.len,
                io.flags,
                &mut context,
            );
            *io.position = kiocb.ki_pos;
            IoEnd::from_raw(ret)
        }
    }

    /// Maps the host's file in place of the user's: the area shows the user's path, and stores of
    /// a shared, writable area are detected. Whatever the caller makes of the result, `mmap(2)`
    /// returns it.
    ///
    /// `EACCES`: the area is shared and may become writable, and this file is not open for writing.
    /// `EPERM`, `ETXTBSY`: it is to be written to, and the host's file is sealed against that, or is
    /// swapped to.
    pub(crate) fn mmap(&self, area: VmArea<'_>) -> Result {
        let file = self.as_ptr();
        // The core has looked at the mode, seals and use of the user's file, not at this one's.
        // SAFETY: By the invariants of `area`, which is under construction; the file is alive, and its
        // mode does not change.
        unsafe {
            to_result(helpers::vfsh_vma_ask_file(area.vma, file))?;
            if area.is_shared_maywrite() {
                if (*file).f_mode & helpers::vfs_consts_VFS_FMODE_WRITE == 0 {
                    return Err(EACCES);
                }
                self.state().hold_writable(file)?;
            }
        }
        let mut context = self.context(None);
        // SAFETY: By the invariants of `area`. If it fails, the core drops the area's reference: to
        // this file by then, to a file that the host put there, or still to the user's.
        let ret = unsafe { helpers::backing_file_mmap(file, area.vma, &mut context) };
        area.outcome.set(Some(ret));
        to_result(ret)
    }

    /// Makes what was written to the host's file durable.
    pub(crate) fn fsync(&self, datasync: bool) -> Result {
        // SAFETY: The file is alive.
        to_result(unsafe { bindings::vfs_fsync(self.as_ptr(), datasync.into()) })
    }

    /// Allocates or frees space of the host's file, with the credentials that it was opened with;
    /// [`BackingHooks::modified`] is called if that may have changed it. As a write does, it takes
    /// set-id bits away from the user's file, whose lock the caller holds: else `EINVAL`.
    pub(crate) fn fallocate(
        &self,
        user: &File<H::FileSystem>,
        lock: &InodeLock<'_, H::FileSystem>,
        (mode, offset, len): (i32, i64, i64),
    ) -> Result {
        if !lock.is_of(user.inode()) {
            return Err(EINVAL);
        }
        // SAFETY: Both files are alive, and the inode of the user's is locked.
        to_result(unsafe {
            helpers::vfsh_backing_fallocate(user.as_ptr(), self.as_ptr(), mode, offset, len)
        })
    }

    /// Whether the host's file is a directory.
    pub(crate) fn is_dir(&self) -> bool {
        // SAFETY: The file is alive, and so is its inode; the type never changes.
        unsafe { u32::from((*(*self.as_ptr()).f_inode).i_mode) & mode::S_IFMT == mode::S_IFDIR }
    }

    /// Lists the host's directory from the emitter's position on. May sleep; takes `f_pos_lock` of
    /// the host's file, inside the user's.
    pub(crate) fn iterate(&self, emitter: &mut DirEmitter<'_>) -> Result {
        // SAFETY: The file is alive and a directory, or the call fails; it is ours alone, and the
        // helper holds its lock, so two listings are one after the other, as hosts count on.
        to_result(unsafe { helpers::vfsh_iterate_dir_at(self.as_ptr(), emitter.context) })
    }

    /// Reads from the host's file into kernel memory.
    pub(crate) fn read_at(&self, buffer: &mut [u8], position: i64) -> Result<usize> {
        let mut position = position;
        // SAFETY: The file is alive; the buffer is valid for writes of its length.
        from_isize(unsafe {
            bindings::kernel_read(
                self.as_ptr(),
                buffer.as_mut_ptr().cast(),
                buffer.len(),
                &mut position,
            )
        })
    }
}

impl<H: BackingHooks> Drop for BackingFile<H> {
    fn drop(&mut self) {
        // SAFETY: This value owns the reference.
        unsafe { bindings::fput(self.as_ptr()) };
    }
}

/// What tells the file that `host` is from all others that are open.
pub(crate) fn identity(host: &AnyFile) -> usize {
    // SAFETY: The file is alive; its inode never changes.
    unsafe { (*host.as_ptr()).f_inode }.addr()
}

/// What a file is known by for as long as it exists, open or not: of those that exist at the same time
/// only files in different subvolumes of a btrfs may have the same. One that comes later has another
/// one, too, where the file system gives its inodes generations. It may change on a stacked file system,
/// on one that makes up such numbers (FAT, exFAT), and where somebody sets the generation (`EXT4_IOC_SETVERSION`).
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileId {
    device: u32,
    number: u64,
    generation: u32,
}

impl FileId {
    /// That of the file that `host` is.
    pub(crate) fn of(host: &AnyFile) -> Self {
        // SAFETY: The file is alive, and so are its inode and super block; these numbers do not change.
        unsafe {
            let inode = (*host.as_ptr()).f_inode;
            Self {
                device: (*(*inode).i_sb).s_dev,
                number: (*inode).i_ino,
                generation: (*inode).i_generation,
            }
        }
    }

    /// One of no file, for tests.
    #[cfg(CONFIG_KUNIT)]
    pub(crate) const fn numbered(number: u64) -> Self {
        Self {
            device: 0,
            number,
            generation: 0,
        }
    }
}

/// Whether the file that `host` is may be served from that of another file system.
pub(crate) fn is_stacked(host: &AnyFile) -> bool {
    // SAFETY: The file is alive, and so are its inode and super block.
    unsafe { (*(*(*host.as_ptr()).f_inode).i_sb).s_stack_depth > 0 }
}

/// Takes a reference to the file behind a descriptor of the current process.
///
/// `write` is the operation the current thread is in: it is on a file that has no position, so
/// there is no `fdget_pos` call on this thread that another file could be involved in.
pub(crate) fn get_file(fd: u32) -> Result<ARef<AnyFile>> {
    // SAFETY: `fget` takes any number.
    let file = NonNull::new(unsafe { bindings::fget(fd) }).ok_or(EBADF)?;
    // SAFETY: `fget` returned a reference. Only the inode, path, flags and credentials of such a
    // file are ever used (see `BackingFile::open`), never its position.
    Ok(unsafe { ARef::from_raw(file.cast()) })
}

/// Whether `file` is of a kind that [`BackingFile::open`] takes: a regular file or a directory. What
/// is refused here cannot be held by whoever waits to open it.
pub(crate) fn can_serve(file: &AnyFile) -> bool {
    // SAFETY: The file is alive, and so is its inode; the type never changes.
    let kind = unsafe { u32::from((*(*file.as_ptr()).f_inode).i_mode) & mode::S_IFMT };
    matches!(kind, mode::S_IFREG | mode::S_IFDIR)
}
