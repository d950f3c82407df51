// SPDX-License-Identifier: GPL-2.0
//~ error: lifetime may not live long enough
// What describes a write is on the writer's stack.

use crate::{inode::Coda, vfs::file::WriteIo};

fn misuse<'a>(io: WriteIo<'a, Coda>) -> WriteIo<'static, Coda> {
    io
}
