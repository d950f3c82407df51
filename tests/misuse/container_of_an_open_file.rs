// SPDX-License-Identifier: GPL-2.0
//~ error[E0308]: mismatched types
// Others look at the mode of a file once it is open: it has to be set before.

use crate::{
    inode::Coda,
    file::OpenState,
    vfs::{BackingFile, File},
};
use kernel::{error::Result, fs::File as AnyFile};

fn misuse(
    file: &File<Coda>,
    host: &AnyFile,
    open: OpenState,
) -> Result<BackingFile<OpenState>> {
    BackingFile::open(file, host, open)
}
