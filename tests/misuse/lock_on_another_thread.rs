// SPDX-License-Identifier: GPL-2.0
//~ error[E0277]: `*mut ()` cannot be sent between threads safely
// Who took an inode's lock has to release it.

use crate::{inode::Coda, vfs::INode};

fn on_another_thread(_: impl Send) {}

fn misuse(inode: &INode<Coda>) {
    on_another_thread(inode.lock());
}
