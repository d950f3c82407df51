// SPDX-License-Identifier: GPL-2.0
//~ error: lifetime may not live long enough
// The core believes what it is told about a page: that of another fault is no answer.

use crate::{
    file::OpenState,
    vfs::backing::{Chained, FaultCode, HostFault},
};

fn misuse<'a, 'b: 'a>(
    fault: HostFault<'a, OpenState>,
    other: HostFault<'b, OpenState>,
) -> FaultCode<'a> {
    drop(fault);
    match other.chain() {
        Chained::Writable(_, code) | Chained::NotWritable(code) => code,
    }
}
