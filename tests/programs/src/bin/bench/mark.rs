// SPDX-License-Identifier: GPL-2.0

//! Marks for the plugin in `tests/profile`: instructions that do nothing.

use std::arch::asm;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

static TIMES: AtomicU64 = AtomicU64::new(0);

/// What is done from here on, `times` times, is to be counted.
pub fn begin(times: u32) {
    TIMES.fetch_add(times.into(), Relaxed);
    // SAFETY: it does nothing.
    unsafe { asm!(".byte 0x0f, 0x1f, 0x80, 1, 0, 0xda, 0x40") };
}

/// Not any more.
pub fn end() {
    // SAFETY: it does nothing.
    unsafe { asm!(".byte 0x0f, 0x1f, 0x80, 2, 0, 0xda, 0x40") };
}

/// Puts down what was counted; gives how many times something was done.
pub fn write() -> u64 {
    // SAFETY: it does nothing.
    unsafe { asm!(".byte 0x0f, 0x1f, 0x80, 3, 0, 0xda, 0x40") };
    TIMES.swap(0, Relaxed)
}
