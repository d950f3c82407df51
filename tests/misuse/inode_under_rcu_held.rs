// SPDX-License-Identifier: GPL-2.0
//~ error[E0599]: no method named `hold` found for struct
// An inode that is found under RCU may be on its way out: there is nothing to hold.

use crate::{inode::Coda, vfs::inode::RcuInode};

fn misuse(inode: RcuInode<'_, Coda>) {
    drop(inode.hold());
}
