// SPDX-License-Identifier: GPL-2.0
//~ error[E0603]: struct `Registration` is private
// One that is leaked would be called when the module is gone.

use crate::{inode::Coda, vfs::fs::Registration};

fn misuse(registration: kernel::alloc::KBox<Registration<Coda>>) {
    core::mem::forget(registration);
}
