// SPDX-License-Identifier: GPL-2.0
//~ error: lifetime may not live long enough
// What was read into one caller's memory is not in another's.

use crate::{
    file::OpenState,
    vfs::{
        file::{IoEnd, ReadIo},
        BackingFile,
    },
};

fn misuse<'a, 'b: 'a>(
    file: &BackingFile<OpenState>,
    io: ReadIo<'a>,
    other: ReadIo<'b>,
) -> IoEnd<'a> {
    drop(io);
    file.read(other)
}
