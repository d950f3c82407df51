// SPDX-License-Identifier: GPL-2.0
//~ error[E0382]: use of moved value: `area`
// The second would drop the reference that the first has put into the area.

use crate::{
    file::OpenState,
    vfs::{file::VmArea, BackingFile},
};
use kernel::error::Result;

fn misuse(file: &BackingFile<OpenState>, area: VmArea<'_>) -> Result {
    file.mmap(area)?;
    file.mmap(area)
}
