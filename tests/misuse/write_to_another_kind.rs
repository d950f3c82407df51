// SPDX-License-Identifier: GPL-2.0
//~ error[E0308]: mismatched types
// When the write ends, its file is taken for one of the backing file's own file system.

use crate::{
    file::OpenState,
    vfs::{
        file::{IoEnd, WriteIo},
        BackingFile, FileSystem,
    },
};

fn misuse<'a, T: FileSystem>(file: &BackingFile<OpenState>, io: WriteIo<'a, T>) -> IoEnd<'a> {
    file.write(io)
}
