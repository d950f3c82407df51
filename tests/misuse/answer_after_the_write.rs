// SPDX-License-Identifier: GPL-2.0
//~ error[E0382]: use of moved value: `io`
// The write may go on after the call: nobody but the backing file knows how it ends.

use crate::{
    file::OpenState,
    inode::Coda,
    vfs::{
        file::{IoEnd, WriteIo},
        BackingFile,
    },
};

fn misuse<'a>(file: &BackingFile<OpenState>, io: WriteIo<'a, Coda>) -> IoEnd<'a> {
    let _ = file.write(io);
    io.nothing()
}
