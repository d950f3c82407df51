// SPDX-License-Identifier: GPL-2.0
//~ error[E0423]: cannot initialize a tuple struct which contains private fields
// A fault is answered by the host alone.

use crate::{
    file::OpenState,
    vfs::backing::{FaultCode, HostFault},
};

fn misuse<'a>(_: HostFault<'a, OpenState>) -> FaultCode<'a> {
    FaultCode(0, core::marker::PhantomData)
}
