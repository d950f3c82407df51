#![deny(unsafe_code)]
// SPDX-License-Identifier: GPL-2.0

//! Downcalls: what the cache manager tells without being asked, to void what the kernel remembers.

use crate::{
    cnode,
    inode::Coda,
    trace,
    upcall::Comm,
    vfs::INode,
    wire::{self, op, Decoder, Fid},
};
use kernel::prelude::*;

/// Handles a downcall. `EINVAL` if it is too short. What is not in memory needs no handling.
pub(crate) fn handle(comm: &Comm, opcode: u32, message: &[u8]) -> Result {
    let short = |_| EINVAL;
    let mut body = Decoder::body(message);
    // The result in the header means nothing, but it has to be there.
    if message.len() < wire::OUT_HDR {
        return Err(EINVAL);
    }
    match opcode {
        op::FLUSH => {
            trace::downcall(opcode, &Fid::default().0);
            comm.next_epoch();
            comm.link.with(|sb| {
                sb.shrink_dcache();
                if let Some(root) = sb.root() {
                    root.data().flag(cnode::FLUSH);
                }
            });
        }
        op::PURGEUSER => {
            body.u32().map_err(short)?;
            trace::downcall(opcode, &Fid::default().0);
            comm.next_epoch();
        }
        op::ZAPDIR => {
            let fid = body.fid().map_err(short)?;
            trace::downcall(opcode, &fid.0);
            with_inode(comm, &fid, |inode| {
                cnode::flag_children(inode, cnode::PURGE);
                inode.data().flag(cnode::VATTR);
            });
        }
        op::ZAPFILE => {
            let fid = body.fid().map_err(short)?;
            trace::downcall(opcode, &fid.0);
            with_inode(comm, &fid, |inode| inode.data().flag(cnode::VATTR));
        }
        op::PURGEFID => {
            let fid = body.fid().map_err(short)?;
            trace::downcall(opcode, &fid.0);
            with_inode(comm, &fid, |inode| {
                cnode::flag_children(inode, cnode::PURGE);
                // Dentries in use are caught later, by the flag.
                inode.data().flag(cnode::PURGE);
                inode.prune_aliases();
            });
        }
        op::REPLACE => {
            let new = body.fid().map_err(short)?;
            let old = body.fid().map_err(short)?;
            trace::downcall(opcode, &old.0);
            with_inode(comm, &old, |inode| cnode::replace_fid(inode, &new));
            comm.replace_fid(&old, &new);
            with_inode(comm, &new, cnode::check_state);
        }
        // 29 has never had a meaning.
        _ => {}
    }
    Ok(())
}

/// Calls `with` for the inode of `fid`, if it is in memory.
fn with_inode(comm: &Comm, fid: &Fid, with: impl FnOnce(&INode<Coda>)) {
    comm.link.with(|sb| {
        if let Some(inode) = cnode::find(sb, fid) {
            with(&inode);
        }
    });
}
