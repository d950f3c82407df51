#![deny(unsafe_code)]
// SPDX-License-Identifier: GPL-2.0

//! Mappings, and stores through them.
//!
//! The host file system maps its own file: the area belongs to the container, and faults are the
//! host's. For a shared mapping of a file that is open for writing, the host's operations are
//! wrapped (see `vfs::backing` for how, and why nothing is ever unwrapped). This is what the wrapper
//! does.

use crate::{
    file::{handle, OpenState},
    inode::{comm, Coda},
    tally,
    trace::How,
    vfs::{
        backing::{Chained, FaultCode, HostFault},
        file::VmArea,
        BackingHooks, File,
    },
    wire::Intent,
};
use kernel::prelude::*;

impl BackingHooks for OpenState {
    type FileSystem = Coda;

    /// Once the file is known to be modified, that stays so until the last writer has closed, and
    /// this open is one.
    fn is_settled(&self) -> bool {
        self.write_state().is_none_or(|state| state.is_modified())
    }

    fn modified(&self) {
        self.modify(How::Other);
    }

    fn wrapped(&self) {
        tally::mapped();
    }

    fn pinned(&self) {
        self.doubt();
    }

    fn page_mkwrite<'a>(fault: HostFault<'a, Self>) -> FaultCode<'a> {
        coda_page_mkwrite(fault)
    }
}

/// A page of a shared mapping is about to be written for the first time since it was last clean.
///
/// The host decides whether it may. If so, the file is modified; where that is known already, it
/// costs a load.
fn coda_page_mkwrite<'a>(fault: HostFault<'a, OpenState>) -> FaultCode<'a> {
    match fault.chain() {
        Chained::Writable(open, code) => {
            // The tests' negative control: a module that sees the store and keeps it to itself.
            if cfg!(not(coda_rs_disarmed)) {
                open.modify(How::Store);
            }
            code
        }
        Chained::NotWritable(code) => code,
    }
}

/// As `coda_file_mmap()`. The file's own mapping, `f_mapping`, stays what it is: the core looks at it
/// before and after.
pub(crate) fn coda_file_mmap(file: &File<Coda>, area: VmArea<'_>) -> Result {
    let this = handle(file)?;
    this.intend(file, area.len(), area.position(), Intent::Mmap)?;
    // Nobody would store what is stored there.
    if area.is_shared_maywrite() && comm(file.inode()).is_over() {
        return Err(ENXIO);
    }
    this.container.mmap(area)
}
