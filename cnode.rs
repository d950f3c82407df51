#![deny(unsafe_code)]
// SPDX-License-Identifier: GPL-2.0

//! What the module remembers of a Coda object, in its inode.

use crate::{
    inode::Coda,
    report::{self, WriteState},
    tally,
    trace::How,
    upcall::{Comm, Doubt, Epoch},
    vfs::{
        inode::{mode, Iget, InodeRef},
        Attr, INode, SuperBlock,
    },
    wire::{Fid, Message},
};
use kernel::{
    new_spinlock,
    prelude::*,
    sync::{
        atomic::{Atomic, Relaxed},
        Arc, SetOnce, SpinLock,
    },
};

/// The attributes have to be asked for.
pub(crate) const VATTR: u8 = 0x1;
/// The attributes, and those of everything below, have to be asked for.
pub(crate) const FLUSH: u8 = 0x2;
/// The cache manager has truncated the file for an open, and the length is not known here: the VFS
/// sends a `setattr` next, which takes this away; but it may fail before it does.
pub(crate) const TRUNCATED: u8 = 0x4;
/// The dentries have to go as soon as nobody uses them.
pub(crate) const PURGE: u8 = 0x8;

/// The data of an inode.
#[pin_data]
pub(crate) struct Cnode {
    #[pin]
    state: SpinLock<State>,
    /// `VATTR`, `FLUSH`, `TRUNCATED`, `PURGE`. Changed with `state` locked; a path walk looks at it
    /// without, and finds what was there a moment ago or is there now, as it would with the lock.
    flags: Atomic<i32>,
    /// A [`Permissions`], likewise.
    permissions: Atomic<i64>,
    /// Of a regular file that somebody has wanted to modify; set with `state` locked. Most files are
    /// only ever looked at.
    write: SetOnce<Arc<WriteState>>,
}

/// There may be hundreds of thousands of these in memory: there is nothing in it that can be done
/// without.
#[derive(Default)]
struct State {
    fid: Fid,
    /// How often the permissions were forgotten.
    forgotten: u32,
    /// How often `VATTR` or `FLUSH` was marked; the highest number means that nobody knows.
    marked: u16,
    /// The account of modifications begins, or began, with a doubt: see [`WriteState::doubt`].
    doubtful: bool,
}

/// What a user may do, as the cache manager said: from the top down, the user in 32 bits, the epoch in 29, and
/// what he may in 3. It is one number so that a path walk needs no lock to look at it.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Permissions(u64);

impl Permissions {
    /// Nobody may do anything.
    const NONE: Self = Self(0);
    const MASK: u64 = 0x7;

    /// `uid` may do all of `mask`; or nobody anything, where the epochs have come to their end.
    fn new(uid: u32, mask: u32, epoch: Epoch) -> Self {
        match epoch.number() {
            Some(number) => {
                Self(u64::from(uid) << 32 | u64::from(number) << 3 | u64::from(mask) & Self::MASK)
            }
            None => Self::NONE,
        }
    }

    /// Whether both are of the same user and epoch.
    fn are_like(self, other: Self) -> bool {
        (self.0 ^ other.0) & !Self::MASK == 0
    }

    /// Whether these allow whatever `other` does; which is something, or the answer is no.
    fn allow(self, other: Self) -> bool {
        other.0 & Self::MASK != 0 && self.are_like(other) && other.0 & !self.0 == 0
    }

    fn load(from: &Atomic<i64>) -> Self {
        Self(from.load(Relaxed) as u64)
    }

    fn store(self, to: &Atomic<i64>) {
        to.store(self.0 as i64, Relaxed);
    }
}

impl Cnode {
    /// Data of an inode that has no fid yet.
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            state <- new_spinlock!(State::default(), "Cnode::state"),
            flags: Atomic::new(0),
            permissions: Atomic::new(0),
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

    /// The account of modifications, if one is kept by now: see [`account`].
    fn write_state(&self) -> Option<&Arc<WriteState>> {
        self.write.as_ref()
    }

    /// What has to be asked for anew.
    pub(crate) fn flags(&self) -> u8 {
        self.flags.load(Relaxed) as u8
    }

    /// Takes the flags `mask` away, and returns those of them that there were.
    fn take(&self, mask: u8) -> u8 {
        let _state = self.state.lock();
        let flags = self.flags();
        self.flags.store((flags & !mask).into(), Relaxed);
        flags & mask
    }

    /// Marks what has to be asked for anew.
    pub(crate) fn flag(&self, flags: u8) {
        let mut state = self.state.lock();
        self.flags.store((self.flags() | flags).into(), Relaxed);
        if flags & (VATTR | FLUSH) != 0 {
            state.marked = state.marked.saturating_add(1);
        }
    }

    /// How often the attributes had to be asked for anew, if that can be told: what is known of them
    /// is the same as long as this is. `None` if they have to be now.
    pub(crate) fn times_marked(&self) -> Option<u16> {
        let state = self.state.lock();
        let is_current = self.flags() & (VATTR | FLUSH) == 0 && state.marked != u16::MAX;
        is_current.then_some(state.marked)
    }

    /// Everything is about to be asked for. Returns what was marked.
    pub(crate) fn take_flags(&self) -> u8 {
        self.take(u8::MAX)
    }

    /// The length is about to be set. Returns what was marked for the lack of it.
    pub(crate) fn take_truncated(&self) -> u8 {
        self.take(TRUNCATED)
    }

    /// Whether the cache manager has said, since the last `epoch`, that `uid` may do all of `mask`,
    /// which is not 0.
    pub(crate) fn is_permitted(&self, uid: u32, mask: u32, epoch: Epoch) -> bool {
        Permissions::load(&self.permissions).allow(Permissions::new(uid, mask, epoch))
    }

    /// To be had before the cache manager is asked: see [`Cnode::permit`]. Attributes that were changed
    /// count, too.
    pub(crate) fn times_forgotten(&self) -> u32 {
        self.state.lock().forgotten
    }

    /// Remembers that `uid` may do all of `mask`; but not if what is known was forgotten since the
    /// cache manager was asked, as its answer may be older than the reason for that.
    pub(crate) fn permit(&self, uid: u32, mask: u32, epoch: Epoch, forgotten: u32) {
        let state = self.state.lock();
        if state.forgotten != forgotten {
            return;
        }
        let known = Permissions::load(&self.permissions);
        let new = Permissions::new(uid, mask, epoch);
        let both = if known.are_like(new) {
            Permissions(known.0 | new.0)
        } else {
            new
        };
        both.store(&self.permissions);
    }

    /// Forgets who may do what.
    pub(crate) fn forget_permissions(&self) {
        let mut state = self.state.lock();
        Permissions::NONE.store(&self.permissions);
        state.forgotten = state.forgotten.wrapping_add(1);
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
                inode.data().state.lock().doubtful = doubt;
                return inode.init(fid.ino(), attr);
            }
            Iget::Existing(inode) if inode.mode() & mode::S_IFMT == kind => return Ok(inode),
            Iget::Existing(inode) => {
                // The object has changed its type: let whoever uses this inode keep it, and make a
                // new one. There may have been others before, whose writers nobody knows here.
                inode.unhash();
                inode.data().flag(PURGE);
                if inode.is_regular() {
                    sb.mount().comm.doubt(fid, Doubt::Doubtful);
                }
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

/// The account of modifications of `inode`, which is kept from now on; `None` if it is no regular
/// file. For whoever is about to modify it, or to make that possible, and before the cache manager
/// hears of that.
pub(crate) fn account(inode: &INode<Coda>) -> Result<Option<&Arc<WriteState>>> {
    if !inode.is_regular() {
        return Ok(None);
    }
    let cnode = inode.data();
    if cnode.write_state().is_none() {
        let comm = &inode.super_block().mount().comm;
        let fid = cnode.fid();
        // That of an earlier inode, if a close is on its way in which it lives on.
        let new = match comm.orphaned_state(&fid) {
            Some(state) => state,
            None => WriteState::alloc()?,
        };
        let mut is_news = match comm.doubt_about(&fid) {
            Some(Doubt::Doubtful) => new.doubt(),
            Some(Doubt::Haunted) => {
                new.haunt();
                false
            }
            None => false,
        };
        {
            let state = cnode.state.lock();
            is_news |= state.doubtful && new.doubt();
            // Somebody else may have been faster.
            is_news &= cnode.write.populate(new);
        }
        if is_news {
            tally::modified(&fid, How::Other);
        }
        // It may have got another fid meanwhile.
        check_state(inode);
    }
    Ok(cnode.write_state())
}

/// The content of `inode` may change at any time, without anybody's telling: see
/// [`WriteState::doubt`]. By what, is for those who look.
pub(crate) fn doubt(inode: &INode<Coda>, how: How) {
    if !inode.is_regular() {
        return;
    }
    let cnode = inode.data();
    // If no account is kept so far: whoever begins one looks here, with the lock held.
    cnode.state.lock().doubtful = true;
    if let Some(state) = cnode.write_state() {
        if state.doubt() {
            tally::modified(&cnode.fid(), how);
        }
    }
    remember(inode, Doubt::Doubtful);
}

/// Should `inode` leave memory, and come back, there is this doubt about it.
pub(crate) fn remember(inode: &INode<Coda>, doubt: Doubt) {
    // It may come back with another fid.
    let comm = &inode.super_block().mount().comm;
    loop {
        let fid = inode.data().fid();
        comm.doubt(&fid, doubt);
        if inode.data().fid() == fid {
            return;
        }
    }
}

/// If `inode`, whose account is `state`, was modified for good, that is remembered: the inode may leave
/// memory.
pub(crate) fn remember_modified(inode: &INode<Coda>, state: &WriteState) {
    if state.is_modified_for_good() {
        remember(inode, Doubt::Doubtful);
    }
}

/// A truncation on its way, of a file that account is kept of.
#[must_use]
pub(crate) struct Truncation<'a> {
    inode: &'a INode<Coda>,
    noted: report::Truncation,
}

impl Truncation<'_> {
    /// What its request has to wait for.
    pub(crate) fn after(&self) -> Arc<WriteState> {
        self.noted.after()
    }

    /// It is over. `truncated` says whether the file was truncated, as far as can be known.
    pub(crate) fn over(self, truncated: Option<bool>) {
        if truncated.is_none() {
            doubt(self.inode, How::Truncate);
        }
        let (state, is_news) = self.noted.over(truncated);
        if is_news {
            tally::modified(&self.inode.data().fid(), How::Truncate);
        }
        remember_modified(self.inode, &state);
    }
}

/// A truncation of `inode` is about to be sent (see `report`). `None` where no account is kept.
pub(crate) fn truncate(inode: &INode<Coda>) -> Result<Option<Truncation<'_>>> {
    Ok(account(inode)?.map(|state| Truncation {
        inode,
        noted: state.truncate(),
    }))
}

/// Marks all that is known to be in a directory. As `coda_flag_inode_children()`.
pub(crate) fn flag_children(dir: &INode<Coda>, flags: u8) {
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
    let doubt_others = || {
        let is_other = |cnode: &Cnode| !core::ptr::eq(cnode, inode.data()) && cnode.fid() == *new;
        if let Some(other) = inode.super_block().ilookup(new.ino(), is_other) {
            // Two inodes for one object: neither knows what the other's writers do.
            doubt(inode, How::Other);
            doubt(&other, How::Other);
        }
    };
    doubt_others();
    inode.data().set_fid(new);
    inode.rehash(new.ino());
    // A lookup may have been answered with it before this one could be found by it.
    doubt_others();
}

/// `inode` has got a fid by which other things are known: a close that is counted elsewhere, or a
/// doubt.
pub(crate) fn check_state(inode: &INode<Coda>) {
    let comm = &inode.super_block().mount().comm;
    let fid = inode.data().fid();
    let Some(state) = inode.data().write_state() else {
        return;
    };
    let other = comm.orphaned_state(&fid);
    let known = comm.doubt_about(&fid);
    if known == Some(Doubt::Haunted) {
        state.haunt();
        remember_modified(inode, state);
    }
    if known == Some(Doubt::Doubtful) || other.is_some_and(|other| !Arc::ptr_eq(&other, state)) {
        doubt(inode, How::Other);
    }
}
