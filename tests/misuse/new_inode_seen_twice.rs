// SPDX-License-Identifier: GPL-2.0
//~ error[E0382]: use of moved value: `inode`
// Once others see it, its type and tables stay.

use crate::{
    inode::Coda,
    vfs::{inode::NewInode, Attr},
};

fn misuse(inode: NewInode<'_, Coda>, attr: &Attr) {
    drop(inode.init(1, attr));
    drop(inode.init(2, attr));
}
