// SPDX-License-Identifier: GPL-2.0
//~ error: lifetime may not live long enough
// An inode that is still in use at umount is a bug.

use crate::{
    inode::Coda,
    vfs::{inode::InodeRef, SuperBlock},
};

fn misuse<'a>(sb: &'a SuperBlock<Coda>) -> Option<InodeRef<'static, Coda>> {
    sb.root()
}
