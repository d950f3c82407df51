// SPDX-License-Identifier: GPL-2.0
//~ error[E0423]: cannot initialize a tuple struct which contains private fields
// Who splices into a file believes how much it took, and frees as much.

use crate::{
    inode::Coda,
    vfs::file::{IoEnd, WriteIo},
};
use core::marker::PhantomData;

fn misuse<'a>(io: WriteIo<'a, Coda>) -> IoEnd<'a> {
    IoEnd(io.count() as isize + 4096, PhantomData)
}
