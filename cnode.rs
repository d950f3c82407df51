#![deny(unsafe_code)]
// SPDX-License-Identifier: GPL-2.0

//! What the module remembers of a Coda object, in its inode.

use crate::{
    inode::Coda,
    report::{Truncation, WriteState},
    upcall::Comm,
    vfs::{
        inode::{mode, Iget, InodeRef},
        Attr, INode, SuperBlock,
    },
    wire::{Fid, Message},
};
use kernel::{
    new_spinlock,
    prelude::*,
    sync::{Arc, SetOnce, SpinLock},
};

/// The attributes have to be asked for.
pub(crate) const VATTR: u32 = 0x1;
/// The attributes, and those of everything below, have to be asked for.
pub(crate) const FLUSH: u32 = 0x2;
/// The dentries have to go as soon as nobody uses them.
pub(crate) const PURGE: u32 = 0x8;

/// The data of an inode.
#[pin_data]
pub(crate) struct Cnode {
    #[pin]
    state: SpinLock<State>,
    /// Of a regular file, from before others see the inode.
    write: SetOnce<Arc<WriteState>>,
}

#[derive(Default)]
struct State {
    fid: Fid,
    /// `VATTR`, `FLUSH`, `PURGE`.
    flags: u32,
    /// What a user may do, as the cache manager said.
    permissions: Option<Permissions>,
}

#[derive(Clone, Copy)]
struct Permissions {
    uid: u32,
    mask: u32,
    epoch: i32,
}

impl Cnode {
    /// Data of an inode that has no fid yet.
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            state <- new_spinlock!(State::default(), "Cnode::state"),
            write: SetOnce::new(),
        })
    }

    /// The identifier the cache manager knows it by.
    pub(crate) fn fid(&self) -> Fid {
        self.state.lock().fid
    }

    fn set_fid(&self, fid: &Fid) {
        self.state.lock().fid = *fid;
    }

    /// Whether modifications are kept account of: the state of a regular file.
    pub(crate) fn write_state(&self) -> Option<&Arc<WriteState>> {
        self.write.as_ref()
    }

    /// What has to be asked for anew.
    pub(crate) fn flags(&self) -> u32 {
        self.state.lock().flags
    }

    /// Marks what has to be asked for anew.
    pub(crate) fn flag(&self, flags: u32) {
        self.state.lock().flags |= flags;
    }

    /// Everything is about to be asked for. Returns what was marked.
    pub(crate) fn take_flags(&self) -> u32 {
        core::mem::take(&mut self.state.lock().flags)
    }

    /// Whether the cache manager has said, since the last `epoch`, that `uid` may do all of `mask`.
    pub(crate) fn is_permitted(&self, uid: u32, mask: u32, epoch: i32) -> bool {
        self.state.lock().permissions.is_some_and(|known| {
            known.uid == uid && known.epoch == epoch && known.mask & mask == mask
        })
    }

    /// Remembers that `uid` may do all of `mask`.
    pub(crate) fn permit(&self, uid: u32, mask: u32, epoch: i32) {
        let mut state = self.state.lock();
        let before = state
            .permissions
            .filter(|known| known.uid == uid && known.epoch == epoch)
            .map_or(0, |known| known.mask);
        state.permissions = Some(Permissions {
            uid,
            mask: mask | before,
            epoch,
        });
    }

    /// Forgets who may do what.
    pub(crate) fn forget_permissions(&self) {
        self.state.lock().permissions = None;
    }
}

/// The inode of `fid`, if it is in memory.
pub(crate) fn find<'sb>(sb: &'sb SuperBlock<Coda>, fid: &Fid) -> Option<InodeRef<'sb, Coda>> {
    sb.ilookup(fid.ino(), |cnode| cnode.fid() == *fid)
}

/// The inode of `fid`, with these attributes if it is new. As `coda_iget()`.
pub(crate) fn get<'sb>(
    sb: &'sb SuperBlock<Coda>,
    fid: &Fid,
    attr: &Attr,
) -> Result<InodeRef<'sb, Coda>> {
    let kind = attr.mode.ok_or(EIO)? & mode::S_IFMT;
    let mut doubt = false;
    loop {
        match sb.iget(
            fid.ino(),
            |cnode| cnode.fid() == *fid,
            |cnode| cnode.set_fid(fid),
        )? {
            Iget::New(inode) => {
                if kind == mode::S_IFREG {
                    let state = WriteState::alloc()?;
                    if doubt || sb.mount().comm.has_orphans() {
                        // There may be a writer that this state does not know of: see `report`.
                        state.doubt();
                    }
                    inode.data().write.populate(state);
                }
                return Ok(inode.init(fid.ino(), attr));
            }
            Iget::Existing(inode) if inode.mode() & mode::S_IFMT == kind => return Ok(inode),
            Iget::Existing(inode) => {
                // The object has changed its type: let whoever uses this inode keep it, and make a
                // new one.
                inode.unhash();
                inode.data().flag(PURGE);
                doubt = true;
            }
        }
    }
}

/// The inode of `fid`, with its attributes asked for. As `coda_cnode_make()`.
pub(crate) fn make<'sb>(sb: &'sb SuperBlock<Coda>, fid: &Fid) -> Result<InodeRef<'sb, Coda>> {
    let attr = ask_attr(&sb.mount().comm, fid)?;
    get(sb, fid, &attr)
}

/// Asks for the attributes of `fid`.
pub(crate) fn ask_attr(comm: &Comm, fid: &Fid) -> Result<Attr> {
    comm.upcall(Message::getattr(fid)?)?.body().attr()
}

/// A truncation of `inode` is about to be sent: waits for what it must not overtake (see `report`).
/// `None` where no account is kept.
pub(crate) fn truncate(inode: &INode<Coda>) -> Result<Option<Truncation<'_>>> {
    let Some(state) = inode.data().write_state() else {
        return Ok(None);
    };
    inode.super_block().mount().comm.wait_for_orphans()?;
    Ok(Some(state.truncate()?))
}

/// Marks all that is known to be in a directory. As `coda_flag_inode_children()`.
pub(crate) fn flag_children(dir: &INode<Coda>, flags: u32) {
    if !dir.is_dir() {
        return;
    }
    if let Some(dentry) = dir.find_alias() {
        dentry.for_each_child(|cnode| cnode.flag(flags));
        dentry.shrink_children();
    }
}

/// The object has another fid from now on, in its close upcalls too. As `coda_replace_fid()`.
pub(crate) fn replace_fid(inode: &INode<Coda>, new: &Fid) {
    if let Some(other) = find(inode.super_block(), new) {
        // Two inodes for one object: neither knows what the other's writers do.
        for inode in [inode, &*other] {
            if let Some(state) = inode.data().write_state() {
                state.doubt();
            }
        }
    }
    inode.data().set_fid(new);
    inode.rehash(new.ino());
}
