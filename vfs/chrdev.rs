// SPDX-License-Identifier: GPL-2.0

//! Character devices with a fixed major number.
//!
//! C headers: [`include/linux/fs.h`](srctree/include/linux/fs.h),
//! [`include/linux/device.h`](srctree/include/linux/device.h).

use super::{bindings as helpers, module, to_int, to_isize};
use core::{
    any::TypeId,
    marker::{PhantomData, PhantomPinned},
    ptr::NonNull,
};
use kernel::{
    bindings,
    error::{from_err_ptr, to_result},
    ffi::{c_char, c_int, c_long, c_uint, c_ulong},
    fs::File,
    prelude::*,
    sync::{poll::PollTable, Arc, ArcBorrow},
    types::{ForeignOwnable, Opaque},
    uaccess::{UserPtr, UserSlice, UserSliceReader, UserSliceWriter},
};

/// How many bits of a device number are the minor number.
const MINORBITS: u32 = 20;

/// What a device answers to `poll(2)`: can be read, can be written.
pub(crate) struct Ready {
    /// A read would not block.
    pub(crate) read: bool,
    /// A write would not block.
    pub(crate) write: bool,
}

/// A family of character devices of one major number. All functions may sleep.
pub(crate) trait CharDevice: Send + Sync + Sized + 'static {
    /// The major number, which is not 0.
    const MAJOR: u32;
    /// How many minor numbers there are, from 0 on; at least one.
    const MINORS: u32;
    /// Name of the driver and the device class.
    const NAME: &'static CStr;
    /// Device nodes are named this and the minor number.
    const NODE: &'static CStr;
    /// Data of an open device.
    type Open: Send + Sync + 'static;

    /// Opens device `minor`, which is below [`CharDevice::MINORS`].
    fn open(&self, minor: u32) -> Result<Arc<Self::Open>>;
    /// The last descriptor of the open device is gone.
    fn release(&self, open: Arc<Self::Open>);
    /// `read(2)`.
    fn read(open: ArcBorrow<'_, Self::Open>, file: &File, to: UserSliceWriter) -> Result<usize>;
    /// `write(2)`.
    fn write(open: ArcBorrow<'_, Self::Open>, from: UserSliceReader) -> Result<usize>;
    /// `poll(2)`.
    fn poll(open: ArcBorrow<'_, Self::Open>, file: &File, table: PollTable<'_>) -> Ready;
    /// `ioctl(2)`.
    fn ioctl(open: ArcBorrow<'_, Self::Open>, cmd: u32, arg: usize) -> Result<isize>;
}

/// The open device of family `T` that `file` is, if it is one.
pub(crate) fn open_device<T: CharDevice>(file: &File) -> Option<Arc<T::Open>> {
    Registration::<T>::of_file(file)
}

/// What a family has before any device of it can be used: the numbers, and the class.
///
/// # Invariants
///
/// The numbers are reserved, and `class` is a class, for this family.
pub(super) struct Family<T: CharDevice> {
    class: NonNull<bindings::class>,
    // Dropped after the class.
    _numbers: Numbers<T>,
}

// SAFETY: Numbers and classes may be used from any thread.
unsafe impl<T: CharDevice> Send for Family<T> {}
// SAFETY: As above.
unsafe impl<T: CharDevice> Sync for Family<T> {}

/// # Invariants
///
/// The numbers of the family are reserved.
struct Numbers<T: CharDevice>(PhantomData<T>);

impl<T: CharDevice> Numbers<T> {
    fn new() -> Result<Self> {
        // 0 would ask for a number to be found, which is none of ours to give back; beyond the last one
        // (`CHRDEV_MAJOR_MAX`) it would be another one's number.
        const {
            assert!(
                T::MAJOR != 0 && T::MAJOR < 512 && T::MINORS != 0 && T::MINORS <= 1 << MINORBITS
            )
        };
        // SAFETY: The name is static.
        to_result(unsafe {
            helpers::vfsh_chrdev_reserve(T::MAJOR, T::MINORS, T::NAME.as_char_ptr())
        })?;
        // INVARIANT: As reserved.
        Ok(Self(PhantomData))
    }
}

impl<T: CharDevice> Drop for Numbers<T> {
    fn drop(&mut self) {
        // SAFETY: They are reserved by the type invariants.
        unsafe { helpers::vfsh_chrdev_unreserve(T::MAJOR, T::MINORS) };
    }
}

impl<T: CharDevice> Family<T> {
    /// Reserves the numbers, and makes the class; `EBUSY` if somebody else has the numbers.
    pub(super) fn new() -> Result<Self> {
        let numbers = Numbers::new()?;
        // SAFETY: The name is static.
        let class = from_err_ptr(unsafe { helpers::vfsh_class_create(T::NAME.as_char_ptr()) })?;
        // INVARIANT: Both were made just now.
        Ok(Self {
            class: NonNull::new(class).ok_or(ENOMEM)?,
            _numbers: numbers,
        })
    }
}

impl<T: CharDevice> Drop for Family<T> {
    fn drop(&mut self) {
        // SAFETY: The class is ours, and this is its last use.
        unsafe { bindings::class_destroy(self.class.as_ptr()) };
    }
}

/// The device nodes of a family. They are there only while something answers: the kernel would ask
/// for a module that does.
///
/// # Invariants
///
/// `class` is that of the family, and outlives this.
pub(super) struct Nodes<T: CharDevice> {
    class: NonNull<bindings::class>,
    _t: PhantomData<T>,
}

// SAFETY: Devices may be destroyed by any thread.
unsafe impl<T: CharDevice> Send for Nodes<T> {}
// SAFETY: There is nothing to be done with a `&Nodes`.
unsafe impl<T: CharDevice> Sync for Nodes<T> {}

impl<T: CharDevice> Nodes<T> {
    /// Makes the nodes. It does without one that cannot be made: devices may be in use by now, so
    /// there is no going back.
    ///
    /// # Safety
    ///
    /// `family` is dropped after this.
    pub(super) unsafe fn new(family: &Family<T>) -> Self {
        for minor in 0..T::MINORS {
            // SAFETY: The class is ours; the name of the node is a plain prefix.
            let made = to_result(unsafe {
                helpers::vfsh_device_create(
                    family.class.as_ptr(),
                    T::MAJOR,
                    minor,
                    T::NODE.as_char_ptr(),
                )
            });
            if let Err(err) = made {
                pr_warn!("no device node for minor number {minor}: {err:?}\n");
            }
        }
        // INVARIANT: The caller's promise.
        Self {
            class: family.class,
            _t: PhantomData,
        }
    }
}

impl<T: CharDevice> Drop for Nodes<T> {
    fn drop(&mut self) {
        for minor in 0..T::MINORS {
            // SAFETY: The class is there by the type invariants, and its devices are ours; nothing
            // happens for one that was not made.
            unsafe { helpers::vfsh_device_destroy(self.class.as_ptr(), T::MAJOR, minor) };
        }
    }
}

/// The table of a family, which tells whose it is. The address of a function would not: functions of
/// two families that come down to the same code may become one.
#[repr(C)]
struct Table {
    fops: bindings::file_operations,
    family: TypeId,
}

/// A registered family of character devices.
///
/// Dropping it while the module is in use is a panic, since somebody may have a device open.
///
/// # Invariants
///
/// `cdev` is registered with the numbers of the family. `table` is its table, embedded here and with
/// the type `T`: an open device's `f_op` leads back to the registration.
#[pin_data(PinnedDrop)]
pub(super) struct Registration<T: CharDevice> {
    #[pin]
    table: Opaque<Table>,
    cdev: NonNull<bindings::cdev>,
    #[pin]
    device: T,
    #[pin]
    _pin: PhantomPinned,
}

// SAFETY: Nothing in it is tied to a thread.
unsafe impl<T: CharDevice> Send for Registration<T> {}
// SAFETY: `&Registration` gives access to `device` alone, which is `Sync`.
unsafe impl<T: CharDevice> Sync for Registration<T> {}

impl<T: CharDevice> Registration<T> {
    /// The devices.
    pub(super) fn devices(&self) -> &T {
        &self.device
    }

    /// Registers the devices: from then on, who has a node can open it.
    ///
    /// # Safety
    ///
    /// It is dropped before the module goes, and `family` after it.
    pub(super) unsafe fn new(
        _family: &Family<T>,
        device: impl PinInit<T, Error>,
    ) -> impl PinInit<Self, Error> {
        try_pin_init!(&this in Self {
            device <- device,
            table <- Opaque::ffi_init(|slot: *mut Table| {
                let fops = bindings::file_operations {
                    owner: module::this_module(),
                    open: Some(Self::fops_open),
                    release: Some(Self::fops_release),
                    read: Some(Self::fops_read),
                    write: Some(Self::fops_write),
                    poll: Some(Self::fops_poll),
                    unlocked_ioctl: Some(Self::fops_ioctl),
                    llseek: Some(bindings::noop_llseek),
                    ..pin_init::zeroed()
                };
                let table = Table {
                    fops,
                    family: TypeId::of::<T>(),
                };
                // SAFETY: The slot is valid for writes.
                unsafe { slot.write(table) };
            }),
            cdev: {
                // SAFETY: The table and `device` are initialised above and pinned. The numbers are
                // reserved for this family.
                // INVARIANT: The table is embedded in the registration.
                let cdev = from_err_ptr(unsafe {
                    helpers::vfsh_chrdev_add(
                        T::MAJOR,
                        T::MINORS,
                        core::ptr::addr_of!((*this.as_ptr()).table).cast(),
                    )
                })?;
                NonNull::new(cdev).ok_or(ENOMEM)?
            },
            _pin: PhantomPinned,
        })
    }

    /// See [`open_device`].
    fn of_file(file: &File) -> Option<Arc<T::Open>> {
        let ours: unsafe extern "C" fn(*mut bindings::inode, *mut bindings::file) -> c_int =
            Self::fops_open;
        // SAFETY: The file is alive and open, so it has a table.
        let (f_op, open) = unsafe {
            let f_op = (*file.as_ptr()).f_op;
            (f_op, (*f_op).open?)
        };
        if !core::ptr::fn_addr_eq(open, ours) {
            return None;
        }
        // SAFETY: Only a registration makes a table with such an `open`, as the first member of a
        // `Table`. (A backing file has a copy of its host's; but a device is none, and a host of
        // regular files and directories does not open them with this.) It may be that of another
        // family, whose `open` comes down to the same code and became this one.
        let family = unsafe { (*f_op.cast::<Table>()).family };
        if family != TypeId::of::<T>() {
            return None;
        }
        // SAFETY: The table is that of a registration of `T`, so `fops_open` succeeded for the
        // file, and `fops_release` cannot run beside as the caller has a reference.
        Some(unsafe { Self::open_of(file.as_ptr()) }.into())
    }

    /// # Safety
    ///
    /// `file` is an open file with the table of a registration of `T`, referenced during `'a`.
    unsafe fn open_of<'a>(file: *mut bindings::file) -> ArcBorrow<'a, T::Open> {
        // SAFETY: The caller's promise: `fops_open` put an `Arc` there.
        unsafe { <Arc<T::Open> as ForeignOwnable>::borrow((*file).private_data) }
    }

    /// # Safety
    ///
    /// `file` has the table of a registration of `T`, and holds a reference to the module.
    unsafe fn device_of<'a>(file: *mut bindings::file) -> &'a T {
        // SAFETY: The caller's promise: the table is embedded in a registration, which outlives
        // the module's references.
        unsafe {
            let table: *mut Opaque<Table> = (*file).f_op.cast_mut().cast();
            let this: *mut Self = kernel::container_of!(table, Self, table);
            &*core::ptr::addr_of!((*this).device)
        }
    }

    /// # Safety
    ///
    /// Called by the VFS alone, as the operation of this name, with a file that has the table of a
    /// registration of `T`.
    unsafe extern "C" fn fops_open(
        inode: *mut bindings::inode,
        file: *mut bindings::file,
    ) -> c_int {
        // SAFETY: The VFS calls with a device of our major number, with a reference to the module.
        let (minor, device) = unsafe { (helpers::vfsh_inode_minor(inode), Self::device_of(file)) };
        if minor >= T::MINORS {
            return ENODEV.to_errno();
        }
        to_int(device.open(minor).map(|open| {
            // SAFETY: `open` may set `private_data`; `release` takes it back.
            unsafe { (*file).private_data = open.into_foreign() };
        }))
    }

    /// # Safety
    ///
    /// Called by the VFS alone, as the operation of this name, with a file that has the table of a
    /// registration of `T`.
    unsafe extern "C" fn fops_release(_: *mut bindings::inode, file: *mut bindings::file) -> c_int {
        // SAFETY: The last use of an open device.
        unsafe {
            let open = Arc::from_foreign((*file).private_data);
            (*file).private_data = core::ptr::null_mut();
            Self::device_of(file).release(open);
        }
        0
    }

    /// # Safety
    ///
    /// Called by the VFS alone, as the operation of this name, with a file that has the table of a
    /// registration of `T`.
    unsafe extern "C" fn fops_read(
        file: *mut bindings::file,
        buffer: *mut c_char,
        len: usize,
        _position: *mut bindings::loff_t,
    ) -> isize {
        let to = UserSlice::new(UserPtr::from_ptr(buffer.cast()), len).writer();
        // SAFETY: An open device. An `fdget_pos` of a character device never takes the lock, as
        // `FMODE_ATOMIC_POS` is not set; but nobody here looks at `f_pos`, which `read(2)` stores back
        // unchanged, and `File` has no way to it.
        to_isize(unsafe { T::read(Self::open_of(file), File::from_raw_file(file), to) })
    }

    /// # Safety
    ///
    /// Called by the VFS alone, as the operation of this name, with a file that has the table of a
    /// registration of `T`.
    unsafe extern "C" fn fops_write(
        file: *mut bindings::file,
        buffer: *const c_char,
        len: usize,
        _position: *mut bindings::loff_t,
    ) -> isize {
        let from = UserSlice::new(UserPtr::from_ptr(buffer.cast_mut().cast()), len).reader();
        // SAFETY: An open device.
        to_isize(unsafe { T::write(Self::open_of(file), from) })
    }

    /// # Safety
    ///
    /// Called by the VFS alone, as the operation of this name, with a file that has the table of a
    /// registration of `T`.
    unsafe extern "C" fn fops_poll(
        file: *mut bindings::file,
        table: *mut bindings::poll_table_struct,
    ) -> bindings::__poll_t {
        // SAFETY: An open device; the table is NULL or the caller's. `fdget_pos` as in `fops_read`.
        let ready = unsafe {
            T::poll(
                Self::open_of(file),
                File::from_raw_file(file),
                PollTable::from_raw(table),
            )
        };
        let mut mask = 0;
        if ready.read {
            mask |= bindings::POLLIN | bindings::POLLRDNORM;
        }
        if ready.write {
            mask |= bindings::POLLOUT | bindings::POLLWRNORM;
        }
        mask
    }

    /// # Safety
    ///
    /// Called by the VFS alone, as the operation of this name, with a file that has the table of a
    /// registration of `T`.
    unsafe extern "C" fn fops_ioctl(
        file: *mut bindings::file,
        cmd: c_uint,
        arg: c_ulong,
    ) -> c_long {
        // SAFETY: An open device.
        match T::ioctl(unsafe { Self::open_of(file) }, cmd, arg) {
            Ok(ret) => ret as c_long,
            Err(err) => err.to_errno() as c_long,
        }
    }
}

#[pinned_drop]
impl<T: CharDevice> PinnedDrop for Registration<T> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: It is registered by the type invariants.
        unsafe { bindings::cdev_del(self.cdev.as_ptr()) };
        // An open device has the table that goes now, and holds a reference to the module.
        module::wait_for_users();
    }
}
