// SPDX-License-Identifier: GPL-2.0

//! Waiting for something that happens once, with signals under control.
//!
//! C headers: [`include/linux/completion.h`](srctree/include/linux/completion.h),
//! [`include/linux/signal.h`](srctree/include/linux/signal.h).

use super::bindings as helpers;
use core::marker::PhantomData;
use kernel::{
    bindings,
    prelude::*,
    time::{msecs_to_jiffies, Msecs},
    types::{NotThreadSafe, Opaque},
};

/// How a wait ended.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wake {
    /// It happened.
    Done,
    /// A signal is pending.
    Signal,
    /// Neither, in the time given.
    TimedOut,
}

/// Something that happens once.
///
/// The `kernel` crate's `Completion` waits without a timeout and without regard to signals; this
/// one waits in slices.
///
/// # Invariants
///
/// `inner` is an initialised `struct completion`.
#[pin_data]
pub(crate) struct Event {
    #[pin]
    inner: Opaque<bindings::completion>,
}

// SAFETY: A `struct completion` may be used from any thread.
unsafe impl Send for Event {}
// SAFETY: A `struct completion` has a lock of its own; all functions used here take it.
unsafe impl Sync for Event {}

impl Event {
    /// An event that has not happened.
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            inner <- Opaque::ffi_init(|slot: *mut bindings::completion| {
                // SAFETY: `slot` is valid for writes and pinned.
                unsafe { bindings::init_completion(slot) };
            }),
        })
    }

    /// It has happened: wakes all who wait and all who will.
    pub(crate) fn happened(&self) {
        // SAFETY: `inner` is initialised by the type invariant.
        unsafe { bindings::complete_all(self.inner.get()) };
    }

    /// Waits for at most `ms` milliseconds. Signals that are not blocked end the wait only if it is
    /// `interruptible`. May sleep.
    pub(crate) fn wait(&self, interruptible: bool, ms: Msecs) -> Wake {
        // What wakes a task that has no signal is work that waits for its return to user space (an
        // io_uring that comes to its end, say), and wakes it again at once. There is no system call
        // to restart here, so that has to wait; and we look for signals every now and then.
        const SLICE: Msecs = 20;
        let mut left = ms;
        loop {
            match self.wait_once(interruptible, left) {
                Wake::Signal if !signal_pending() => {}
                wake => return wake,
            }
            let slice = left.min(SLICE);
            if self.wait_once(false, slice) == Wake::Done {
                return Wake::Done;
            }
            left -= slice;
            if left == 0 {
                return Wake::TimedOut;
            }
        }
    }

    fn wait_once(&self, interruptible: bool, ms: Msecs) -> Wake {
        let jiffies = msecs_to_jiffies(ms);
        let left: isize = if interruptible {
            // SAFETY: `inner` is initialised by the type invariant, and `&self` keeps it alive.
            unsafe {
                bindings::wait_for_completion_interruptible_timeout(self.inner.get(), jiffies)
                    as isize
            }
        } else {
            // SAFETY: As above.
            unsafe { bindings::wait_for_completion_timeout(self.inner.get(), jiffies) as isize }
        };
        match left {
            0 => Wake::TimedOut,
            1.. => Wake::Done,
            _ => Wake::Signal,
        }
    }
}

/// While it lives, the current task takes no signals but SIGKILL, SIGSTOP and SIGINT. Nested ones have
/// to be dropped in reverse order, or signals stay blocked.
///
/// # Invariants
///
/// `saved` is the signal mask that the task had when it made this value, which is the task that drops
/// it.
pub(crate) struct SignalsBlocked {
    saved: Opaque<bindings::sigset_t>,
    _task: PhantomData<NotThreadSafe>,
}

impl SignalsBlocked {
    /// Blocks them.
    pub(crate) fn new() -> Self {
        let saved = Opaque::uninit();
        // SAFETY: Writes the current task's old mask to `saved`, which is valid for writes, and
        // changes no other task's mask.
        unsafe { helpers::vfsh_block_signals(saved.get()) };
        // INVARIANT: The mask was just written; `NotThreadSafe` keeps the value on this task.
        Self {
            saved,
            _task: PhantomData,
        }
    }
}

impl Drop for SignalsBlocked {
    fn drop(&mut self) {
        // SAFETY: `saved` is initialised and belongs to the current task by the type invariants.
        unsafe { helpers::vfsh_unblock_signals(self.saved.get()) };
    }
}

/// Whether a signal that is not blocked is pending for the current task.
pub(crate) fn signal_pending() -> bool {
    // SAFETY: Only reads the current task's flags.
    unsafe { helpers::vfsh_current_has_signal() }
}
