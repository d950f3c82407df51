// SPDX-License-Identifier: GPL-2.0

//! Files in debugfs that show something.
//!
//! The `kernel` crate makes such files, too, but without an owner: one that somebody has open while the
//! module is unloaded is closed through a table that is gone by then.
//!
//! C header: [`include/linux/debugfs.h`](srctree/include/linux/debugfs.h).

use super::bindings as helpers;
use core::{
    ffi::c_void,
    marker::{PhantomData, PhantomPinned},
};
use kernel::{bindings, ffi::c_int, fmt, prelude::*, seq_file::SeqFile, seq_print, types::Opaque};

/// A file, and what it shows of a `T`.
pub(crate) struct Entry<T> {
    /// The name.
    pub(crate) name: &'static CStr,
    /// Writes it. May sleep. Is called again from the beginning if there was not enough room.
    pub(crate) show: fn(&T, &mut fmt::Formatter<'_>) -> fmt::Result,
}

/// A directory with `N` files, while this lives. Only root can read them. If debugfs is not there, or
/// cannot make one, nobody is told: it is for those who look.
///
/// # Invariants
///
/// `dir` is what `debugfs_create_dir()` gave. Its files refer to `shown`, of which each has a `T` and an
/// `Entry<T>`.
#[pin_data(PinnedDrop)]
pub(super) struct Directory<T: Sync + 'static, const N: usize> {
    #[pin]
    shown: Opaque<[helpers::vfs_shown; N]>,
    dir: *mut bindings::dentry,
    _t: PhantomData<&'static T>,
    #[pin]
    _pin: PhantomPinned,
}

// SAFETY: Files may be removed by any thread.
unsafe impl<T: Sync + 'static, const N: usize> Send for Directory<T, N> {}
// SAFETY: There is nothing to be done with a `&Directory`.
unsafe impl<T: Sync + 'static, const N: usize> Sync for Directory<T, N> {}

impl<T: Sync + 'static, const N: usize> Directory<T, N> {
    /// Makes the directory `name`, with files that show something of `data`.
    ///
    /// # Safety
    ///
    /// It is dropped before `data`, and before the module goes; and nothing that can fail comes
    /// between this and a module that is loaded, as who opens a file counts on the module from then on.
    pub(super) unsafe fn new<'a>(
        name: &'static CStr,
        entries: &'static [Entry<T>; N],
        data: &'a T,
    ) -> impl PinInit<Self> + 'a {
        pin_init!(&this in Self {
            shown <- Opaque::ffi_init(|slot: *mut [helpers::vfs_shown; N]| {
                let first: *mut helpers::vfs_shown = slot.cast();
                for (i, entry) in entries.iter().enumerate() {
                    let shown = helpers::vfs_shown {
                        show: Some(Self::show),
                        data: core::ptr::from_ref(data).cast(),
                        how: core::ptr::from_ref(entry).cast(),
                    };
                    // SAFETY: The slot has room for `N`, of which this is one.
                    unsafe { first.add(i).write(shown) };
                }
            }),
            // INVARIANT: All of `shown` was just written.
            // SAFETY: `shown` is initialised and pinned, and the files go before it does. The names
            // are static.
            dir: unsafe {
                let dir = helpers::vfsh_debugfs_dir(name.as_char_ptr());
                let first: *const helpers::vfs_shown = (&raw const (*this.as_ptr()).shown).cast();
                for (i, entry) in entries.iter().enumerate() {
                    helpers::vfsh_debugfs_file(dir, entry.name.as_char_ptr(), first.add(i));
                }
                dir
            },
            _t: PhantomData,
            _pin: PhantomPinned,
        })
    }

    /// # Safety
    ///
    /// Called by a file alone, with what `new` gave it.
    unsafe extern "C" fn show(
        to: *mut bindings::seq_file,
        data: *const c_void,
        how: *const c_void,
    ) -> c_int {
        // SAFETY: Of a file of this type, by the type invariants. It is there, so the directory is not
        // dropped, and `data` is not either: removing a file waits for those who read it.
        let (to, shown) = unsafe {
            let data: &T = &*data.cast();
            let entry: &Entry<T> = &*how.cast();
            (SeqFile::from_raw(to), Shown(data, entry))
        };
        seq_print!(to, "{shown}");
        0
    }
}

/// What an entry shows.
struct Shown<'a, T>(&'a T, &'a Entry<T>);

impl<T> fmt::Display for Shown<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (self.1.show)(self.0, f)
    }
}

#[pinned_drop]
impl<T: Sync + 'static, const N: usize> PinnedDrop for Directory<T, N> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: By the type invariants. Errors are what it takes for nothing; it waits for readers.
        unsafe { helpers::vfsh_debugfs_remove(self.dir) };
    }
}
