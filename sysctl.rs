#![deny(unsafe_code)]
// SPDX-License-Identifier: GPL-2.0

//! What the administrator can set, in `/proc/sys/coda`.

use crate::vfs::sysctl::{Entry, Number};

static TIMEOUT: Number = Number::new(30);
static HARD: Number = Number::new(0);
static FAKE_STATFS: Number = Number::new(0);

/// Seconds after which signals other than SIGKILL, SIGSTOP and SIGINT end a wait for the cache
/// manager.
pub(crate) fn timeout() -> u32 {
    TIMEOUT.get().max(0) as u32
}

/// Whether no signal ends a wait for the cache manager.
pub(crate) fn hard() -> bool {
    HARD.get() != 0
}

/// All of them.
pub(crate) fn entries() -> &'static [Entry; 3] {
    static ENTRIES: [Entry; 3] = [
        Entry {
            name: c"timeout",
            number: &TIMEOUT,
            mode: 0o644,
        },
        Entry {
            name: c"hard",
            number: &HARD,
            mode: 0o644,
        },
        // The C module has it, and nothing looks at it there either.
        Entry {
            name: c"fake_statfs",
            number: &FAKE_STATFS,
            mode: 0o600,
        },
    ];
    &ENTRIES
}
