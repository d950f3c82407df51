// SPDX-License-Identifier: GPL-2.0

//! Numbers in `/proc/sys`.
//!
//! C header: [`include/linux/sysctl.h`](srctree/include/linux/sysctl.h).

use core::{marker::PhantomPinned, ptr::NonNull};
use kernel::{
    bindings,
    prelude::*,
    sync::atomic::{Atomic, Relaxed},
    types::Opaque,
};

/// A number that the administrator can read and set.
pub(crate) struct Number(Atomic<i32>);

impl Number {
    /// A number that begins as `value`.
    pub(crate) const fn new(value: i32) -> Self {
        Self(Atomic::new(value))
    }

    /// What it is now.
    pub(crate) fn get(&self) -> i32 {
        self.0.load(Relaxed)
    }
}

/// A number with its name and the permissions of its file.
pub(crate) struct Entry {
    /// The name.
    pub(crate) name: &'static CStr,
    /// The number.
    pub(crate) number: &'static Number,
    /// Permission bits.
    pub(crate) mode: u16,
}

/// A directory of numbers in `/proc/sys`, while this lives.
///
/// # Invariants
///
/// `header` is the registration of `table`.
#[pin_data(PinnedDrop)]
pub(super) struct Directory<const N: usize> {
    #[pin]
    table: Opaque<[bindings::ctl_table; N]>,
    header: NonNull<bindings::ctl_table_header>,
    #[pin]
    _pin: PhantomPinned,
}

// SAFETY: A table may be unregistered by any thread.
unsafe impl<const N: usize> Send for Directory<N> {}
// SAFETY: There is nothing to be done with a `&Directory`.
unsafe impl<const N: usize> Sync for Directory<N> {}

impl<const N: usize> Directory<N> {
    /// Registers the directory `name`.
    ///
    /// # Safety
    ///
    /// It is dropped before the module goes.
    pub(super) unsafe fn new(
        name: &'static CStr,
        entries: &'static [Entry; N],
    ) -> impl PinInit<Self, Error> {
        try_pin_init!(&this in Self {
            table <- Opaque::ffi_init(|slot: *mut [bindings::ctl_table; N]| {
                let first: *mut bindings::ctl_table = slot.cast();
                for (i, entry) in entries.iter().enumerate() {
                    // SAFETY: The slot has room for `N` entries, of which this is one. The number is
                    // static, is an `int` and is used by `proc_dointvec` in single accesses, as an
                    // atomic number is.
                    unsafe {
                        let ctl = first.add(i);
                        ctl.write_bytes(0, 1);
                        (*ctl).procname = entry.name.as_char_ptr();
                        (*ctl).data = core::ptr::from_ref(&entry.number.0).cast_mut().cast();
                        (*ctl).maxlen = core::mem::size_of::<i32>() as i32;
                        (*ctl).mode = entry.mode;
                        (*ctl).proc_handler = Some(bindings::proc_dointvec);
                    }
                }
            }),
            header: {
                // SAFETY: The table is initialised and pinned, and unregistered before it goes.
                let header = unsafe {
                    bindings::register_sysctl_sz(
                        name.as_char_ptr(),
                        core::ptr::addr_of!((*this.as_ptr()).table).cast(),
                        N,
                    )
                };
                NonNull::new(header).ok_or(ENOMEM)?
            },
            _pin: PhantomPinned,
        })
    }
}

#[pinned_drop]
impl<const N: usize> PinnedDrop for Directory<N> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: It is registered by the type invariants; this waits for those who use it.
        unsafe { bindings::unregister_sysctl_table(self.header.as_ptr()) };
    }
}
