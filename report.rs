#![deny(unsafe_code)]
// SPDX-License-Identifier: GPL-2.0

//! Was it written? The state behind the flag in a close upcall.
//!
//! There is one [`WriteState`] an inode, from when the first one wants to modify the file
//! (`cnode::account`). It knows how many opens for writing there are, from before the cache manager
//! hears of them until it has dealt with their close, and whether anything modified the file in that
//! time. It is cleared when there is none left, and at no other time: the cache manager stores a
//! file when its last writer closes, whoever wrote.
//!
//! The one thing that may not happen is that a modification goes unreported. Hence:
//!
//! - An open counts from before its upcall is sent until the reply to its close has come. A close
//!   that nobody waits for any more still counts while it is on its way.
//! - A close that says "not modified" is not overtaken by anything that modifies: a truncation, and a
//!   close that says "modified", are held back in the device's queue until it is answered
//!   ([`WriteState::has_clean_closes`]). A cache manager with many threads could otherwise take the
//!   "not modified" for the last word.
//! - A truncation counts as a modification from before it is sent until it is known that it failed.
//!   If that cannot be known it may come at any time, and the file counts as modified for good
//!   ([`WriteState::doubt`]).
//! - An open that was given up while the cache manager was at work on it may count there for a while.
//!   From then on, what was modified stays so ([`Writer::abandon`]).
//! - The state outlives the inode while a close is on its way: the inode's successor gets the same
//!   one (`Comm::orphaned_state`).

use crate::vfs::{
    errno::{EDQUOT, EOPNOTSUPP},
    file::WriteKind,
};
use kernel::{
    new_spinlock,
    prelude::*,
    sync::{
        atomic::{Acquire, Atomic, Relaxed, Release},
        Arc, SpinLock,
    },
};

/// See the module's documentation.
#[pin_data]
pub(crate) struct WriteState {
    /// Whether something modified the file. Set by whoever holds an open for writing, without the
    /// lock; cleared with it, when there is no such open and no doubt. A number, as the kernel has no
    /// atomic `bool`.
    modified: Atomic<i32>,
    #[pin]
    counts: SpinLock<Counts>,
}

#[derive(Default)]
struct Counts {
    /// Opens for writing whose close is not answered.
    writers: usize,
    /// Truncations on their way, by `setattr` or an open.
    truncations: usize,
    /// Closes on their way that said "not modified".
    clean_closes: usize,
    /// The file may be modified at any time, by something that nobody waits for.
    doubtful: bool,
    /// To the cache manager there may be a writer that nobody here knows of.
    haunted: bool,
}

impl WriteState {
    /// The state of a file that nobody has open.
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            modified: Atomic::new(0),
            counts <- new_spinlock!(Counts::default(), "WriteState::counts"),
        })
    }

    /// A state of its own, on the heap.
    pub(crate) fn alloc() -> Result<Arc<Self>> {
        Arc::pin_init(Self::new(), GFP_KERNEL)
    }

    /// Whether the file was modified, as far as this thread can know.
    pub(crate) fn is_modified(&self) -> bool {
        self.modified.load(Acquire) != 0
    }

    /// Something modified the file, or may have. To be called with an open for writing. Must not
    /// sleep: faults call it. Costs a load where it is known already; returns whether it was not.
    pub(crate) fn modify(&self) -> bool {
        // Release: who reads it in a close sees it after the store that it stands for, as a close
        // comes after the last use of the file.
        self.modified.load(Relaxed) == 0 && self.modified.xchg(1, Release) == 0
    }

    /// The file may be modified at any time, without anybody's telling: it counts as modified from
    /// now on, whoever opens it. Returns whether it did not before.
    pub(crate) fn doubt(&self) -> bool {
        let mut counts = self.counts.lock();
        counts.doubtful = true;
        self.modify()
    }

    /// To the cache manager there may be a writer that nobody here knows of: from now on, a
    /// modification is never over.
    pub(crate) fn haunt(&self) {
        self.counts.lock().haunted = true;
    }

    /// A truncation is about to be sent. From here on closes say "modified", so that those which it
    /// has to wait for become no more.
    pub(crate) fn truncate(self: &Arc<Self>) -> Truncation {
        self.counts.lock().truncations += 1;
        Truncation {
            state: self.clone(),
        }
    }

    /// Whether it was modified, and there is no close after which it is not.
    pub(crate) fn is_modified_for_good(&self) -> bool {
        let counts = self.counts.lock();
        counts.doubtful || counts.haunted && self.is_modified()
    }

    /// Whether the file may be modified at any time.
    pub(crate) fn is_doubtful(&self) -> bool {
        self.counts.lock().doubtful
    }

    /// Whether a close that said "not modified" is on its way: what modifies the file, or tells of
    /// a modification, must not get to the cache manager before that is answered.
    pub(crate) fn has_clean_closes(&self) -> bool {
        self.counts.lock().clean_closes > 0
    }
}

/// A truncation on its way.
#[must_use]
pub(crate) struct Truncation {
    state: Arc<WriteState>,
}

impl Truncation {
    /// What its request has to wait for, see [`WriteState::has_clean_closes`].
    pub(crate) fn after(&self) -> Arc<WriteState> {
        self.state.clone()
    }

    /// It is over. `truncated` says whether the file was truncated, as far as can be known.
    /// Returns the state that it was noted in, and whether it is news that the file is modified.
    pub(crate) fn over(self, truncated: Option<bool>) -> (Arc<WriteState>, bool) {
        let is_news = match truncated {
            Some(false) => false,
            // Without a writer, the cache manager has taken care of it: without one that it knows of.
            Some(true) => {
                let counts = self.state.counts.lock();
                (counts.writers > 0 || counts.haunted) && self.state.modify()
            }
            // It may happen yet, under any writer's hands.
            None => self.state.doubt(),
        };
        (self.state.clone(), is_news)
    }
}

impl Drop for Truncation {
    fn drop(&mut self) {
        self.state.counts.lock().truncations -= 1;
    }
}

/// An open for writing.
///
/// It goes into the close upcall, and is dropped when that is answered or can never be.
pub(crate) struct Writer {
    state: Arc<WriteState>,
    /// Whether its close has been queued, and said "not modified".
    closed_clean: bool,
}

impl Writer {
    /// An open for writing is about to be sent.
    pub(crate) fn new(state: Arc<WriteState>) -> Self {
        state.counts.lock().writers += 1;
        Self {
            state,
            closed_clean: false,
        }
    }

    /// The close of this open is about to be sent: returns whether it may say "not modified".
    pub(crate) fn close(&mut self) -> bool {
        let mut counts = self.state.counts.lock();
        if !self.closed_clean && counts.truncations == 0 && !self.state.is_modified() {
            counts.clean_closes += 1;
            self.closed_clean = true;
        }
        self.closed_clean
    }

    /// Whether its close is on its way, and said "not modified".
    pub(crate) fn is_closed_clean(&self) -> bool {
        self.closed_clean
    }

    /// This open was given up while the cache manager was at work on it, and nobody knows until when
    /// it counts there. So no close of others is known to be the last one: once the file has been
    /// modified, that is never over.
    pub(crate) fn abandon(self) {
        self.state.haunt();
    }

    /// The state that it counts in.
    pub(crate) fn state(&self) -> &Arc<WriteState> {
        &self.state
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let mut counts = self.state.counts.lock();
        counts.writers -= 1;
        if counts.writers == 0 && !counts.doubtful && !counts.haunted {
            self.state.modified.store(0, Relaxed);
        }
        if self.closed_clean {
            counts.clean_closes -= 1;
        }
    }
}

/// Whether a write that failed with `err` may have changed the file all the same, though not its
/// length.
///
/// A write through the page cache reports what it wrote before it failed as a short write, so most
/// errors mean that nothing was written. But not all do:
///
/// - `ENOMEM` and `EROFS`: a host may find that it has no memory to note what it has copied already, or
///   that its journal has come to an end.
/// - `EFAULT` and `EAGAIN`: a copy that ends in the middle, as the source does, is tried again where
///   the page is not all there, and an error of that is all that is said; but where a part of the page
///   is there, it has got new content. (Of a source that begins with a bad address nothing was copied:
///   that is looked for before the host is asked.)
/// - Any error of a device, if the write is to reach the disk before it returns: the data is in the file
///   by then. Then only what no device says is known to come before the first byte.
/// - Any error of a write past the page cache: that goes to the disk piece by piece, and says nothing
///   of the pieces that went well before one failed.
///
/// All this is true of tmpfs, ext4, xfs and btrfs, without DAX. Of another host less is known: one
/// that keeps its files on a server may say in the end that there was no space, or no permission.
pub(crate) fn failed_write_modifies(err: Error, kind: WriteKind) -> bool {
    let refused = match (kind.familiar, kind.sync) {
        (true, true) => [EBADF, EPERM, EACCES, ETXTBSY, EFBIG].contains(&err),
        (true, false) => {
            [EBADF, EPERM, EACCES, ETXTBSY, EFBIG, EINVAL, ENOSPC].contains(&err)
                || err == EOPNOTSUPP
                || err == EDQUOT
        }
        (false, true) => false,
        (false, false) => [EBADF, ETXTBSY].contains(&err),
    };
    kind.direct || !refused
}

#[kunit_tests(coda_rs_report)]
mod tests {
    use super::*;

    fn open(state: &Arc<WriteState>) -> Writer {
        Writer::new(state.clone())
    }

    #[test]
    fn unwritten_is_clean() -> Result {
        let state = WriteState::alloc()?;
        let mut writer = open(&state);
        assert!(writer.close());
        Ok(())
    }

    #[test]
    fn written_is_modified_until_last_writer() -> Result {
        let state = WriteState::alloc()?;
        let mut first = open(&state);
        let mut second = open(&state);
        state.modify();
        assert!(!first.close());
        drop(first);
        assert!(!second.close());
        drop(second);
        assert!(!state.is_modified());
        assert!(open(&state).close());
        Ok(())
    }

    #[test]
    fn close_on_its_way_counts() -> Result {
        let state = WriteState::alloc()?;
        let mut first = open(&state);
        state.modify();
        assert!(!first.close());
        // `first` is queued and not answered when the file is opened again.
        let mut second = open(&state);
        drop(first);
        assert!(!second.close());
        Ok(())
    }

    #[test]
    fn truncation_modifies_only_with_writer() -> Result {
        let state = WriteState::alloc()?;
        state.truncate().over(Some(true));
        assert!(!state.is_modified());
        let mut writer = open(&state);
        assert!(writer.close());
        drop(writer);
        let mut writer = open(&state);
        state.truncate().over(Some(true));
        assert!(!writer.close());
        Ok(())
    }

    #[test]
    fn failed_truncation_does_not_modify() -> Result {
        let state = WriteState::alloc()?;
        let mut writer = open(&state);
        state.truncate().over(Some(false));
        assert!(writer.close());
        Ok(())
    }

    #[test]
    fn truncation_that_may_come_is_in_doubt() -> Result {
        let state = WriteState::alloc()?;
        state.truncate().over(None);
        for _ in 0..2 {
            let mut writer = open(&state);
            assert!(!writer.close());
            drop(writer);
        }
        Ok(())
    }

    #[test]
    fn truncation_in_flight_is_in_doubt() -> Result {
        let state = WriteState::alloc()?;
        let mut writer = open(&state);
        let truncation = state.truncate();
        assert!(!writer.close());
        drop(truncation);
        Ok(())
    }

    #[test]
    fn doubt_is_for_good() -> Result {
        let state = WriteState::alloc()?;
        let mut first = open(&state);
        state.doubt();
        let mut second = open(&state);
        assert!(!first.close());
        drop(first);
        assert!(!second.close());
        drop(second);
        assert!(!open(&state).close());
        Ok(())
    }

    #[test]
    fn abandoned_open_keeps_a_modification() -> Result {
        let state = WriteState::alloc()?;
        open(&state).abandon();
        // Nothing has happened so far.
        assert!(open(&state).close());
        let mut writer = open(&state);
        state.modify();
        assert!(!writer.close());
        drop(writer);
        assert!(!open(&state).close());
        Ok(())
    }

    #[test]
    fn abandoned_open_keeps_a_truncation() -> Result {
        let state = WriteState::alloc()?;
        open(&state).abandon();
        // The cache manager may leave the new length to the writer that it still knows of.
        state.truncate().over(Some(true));
        for _ in 0..2 {
            assert!(!open(&state).close());
        }
        Ok(())
    }

    #[test]
    fn clean_closes_are_counted() -> Result {
        let state = WriteState::alloc()?;
        let (mut first, mut second) = (open(&state), open(&state));
        assert!(!state.has_clean_closes());
        assert!(first.close());
        assert!(state.has_clean_closes());
        state.modify();
        // What was said is said.
        assert!(first.close());
        assert!(!second.close());
        drop(first);
        assert!(!state.has_clean_closes());
        Ok(())
    }

    #[test]
    fn failed_writes() {
        let plain = WriteKind {
            familiar: true,
            ..WriteKind::default()
        };
        let sync = WriteKind {
            sync: true,
            ..plain
        };
        let direct = WriteKind {
            direct: true,
            ..plain
        };
        let foreign = WriteKind::default();
        let foreign_sync = WriteKind {
            sync: true,
            ..foreign
        };
        for (err, modifies) in [
            (EFAULT, [true; 5]),
            (EAGAIN, [true; 5]),
            (EBADF, [false, false, true, false, true]),
            (EFBIG, [false, false, true, true, true]),
            (ENOSPC, [false, true, true, true, true]),
            (EDQUOT.into(), [false, true, true, true, true]),
            (ENOMEM, [true; 5]),
            (EROFS, [true; 5]),
            (EIO, [true; 5]),
            (EINVAL, [false, true, true, true, true]),
            (EOPNOTSUPP.into(), [false, true, true, true, true]),
        ] {
            for (kind, modifies) in [plain, sync, direct, foreign, foreign_sync]
                .into_iter()
                .zip(modifies)
            {
                assert_eq!(failed_write_modifies(err, kind), modifies);
            }
        }
    }
}
