// SPDX-License-Identifier: GPL-2.0
//~ compiles
// What the others do wrong, done right: that they fail is not the harness's doing.

use crate::{inode::Coda, file::OpenState, vfs::*};

fn lock(inode: &INode<Coda>) {
    drop(inode.lock());
}

fn answer<'a>(fault: backing::HostFault<'a, OpenState>) -> backing::FaultCode<'a> {
    match fault.chain() {
        backing::Chained::Writable(open, code) => {
            open.modified();
            code
        }
        backing::Chained::NotWritable(code) => code,
    }
}

fn write<'a>(file: &BackingFile<OpenState>, io: file::WriteIo<'a, Coda>) -> file::IoEnd<'a> {
    if io.count() == 0 {
        return io.nothing();
    }
    file.write(io)
}
