// SPDX-License-Identifier: GPL-2.0
//~ error: lifetime may not live long enough
// The owner's data is there for as long as the area is locked, and no longer.

use crate::{
    file::OpenState,
    vfs::backing::{Chained, HostFault},
};

fn misuse<'a>(fault: HostFault<'a, OpenState>) -> Option<&'static OpenState> {
    match fault.chain() {
        Chained::Writable(open, _) => Some(open),
        Chained::NotWritable(_) => None,
    }
}
