// SPDX-License-Identifier: GPL-2.0
//~ error[E0382]: use of moved value: `fault`
// After the host's handler the area may be gone.

use crate::{
    file::OpenState,
    vfs::backing::{Chained, FaultCode, HostFault},
};

fn misuse<'a>(fault: HostFault<'a, OpenState>) -> FaultCode<'a> {
    let _ = fault.chain();
    match fault.chain() {
        Chained::Writable(_, code) | Chained::NotWritable(code) => code,
    }
}
