#![deny(unsafe_code)]
// SPDX-License-Identifier: GPL-2.0

//! Was it written? The state behind the flag in a close upcall.
//!
//! There is one [`WriteState`] an inode. It knows how many opens for writing there are, from before
//! the cache manager hears of them until it has dealt with their close, and whether anything
//! modified the file in that time. It is cleared when there is none left, and at no other time: the
//! cache manager stores a file when its last writer closes, whoever wrote.
//!
//! The one thing that may not happen is that a modification goes unreported. Hence:
//!
//! - An open counts from before its upcall is sent until the reply to its close has come. A close
//!   that nobody waits for any more still counts while it is on its way.
//! - A close that says "not modified" is not overtaken by anything that modifies: a truncation, and a
//!   close that says "modified", are not sent before it is answered. A cache manager with many
//!   threads could otherwise take the "not modified" for the last word.
//! - A truncation counts as a modification from before it is sent until it is known that it failed.
//!   If that cannot be known, it counts.
//! - Where the state was lost from memory while a close was on its way, the next one starts out as
//!   modified (see [`WriteState::doubt`]).

use crate::{
    upcall::Patience,
    vfs::{
        errno::{EDQUOT, EOPNOTSUPP},
        file::WriteKind,
        wait::{Event, Wake},
    },
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
    /// lock; cleared with it, when there is no such open. A number, as the kernel has no atomic
    /// `bool`.
    modified: Atomic<i32>,
    #[pin]
    counts: SpinLock<Counts>,
}

#[derive(Default)]
struct Counts {
    /// Opens for writing whose close is not answered.
    writers: usize,
    /// Truncations by `setattr` on their way.
    truncations: usize,
    /// Closes on their way that said "not modified".
    clean_closes: usize,
    /// Whoever waits for `clean_closes` to become zero.
    drained: Option<Arc<Event>>,
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
    /// sleep: faults call it. Costs a load where it is known already.
    pub(crate) fn modify(&self) {
        if self.modified.load(Relaxed) == 0 {
            // Release: who reads it in a close sees it after the store that it stands for, as a
            // close comes after the last use of the file.
            self.modified.store(1, Release);
        }
    }

    /// There is reason to assume that an earlier state of this file is not done with. Its writers
    /// start out as modified.
    pub(crate) fn doubt(&self) {
        self.modified.store(1, Release);
    }

    /// A truncation is about to be sent. Waits until no close that said "not modified" is on its way;
    /// `EINTR` if a signal ends that, as it ends an upcall.
    pub(crate) fn truncate(&self) -> Result<Truncation<'_>> {
        // From here on closes say "modified", so that this has an end.
        self.counts.lock().truncations += 1;
        let truncation = Truncation { state: self };
        let mut patience = Patience::new();
        while let Some(drained) = self.drained()? {
            if patience.wait(&drained, true, 1000) == Wake::Signal {
                return Err(EINTR);
            }
        }
        Ok(truncation)
    }

    /// What happens when no close that said "not modified" is on its way any more; `None` if there
    /// is none.
    fn drained(&self) -> Result<Option<Arc<Event>>> {
        if self.counts.lock().clean_closes == 0 {
            return Ok(None);
        }
        let event = Arc::pin_init(Event::new(), GFP_KERNEL)?;
        let mut counts = self.counts.lock();
        if counts.clean_closes == 0 {
            return Ok(None);
        }
        Ok(Some(counts.drained.get_or_insert(event).clone()))
    }
}

/// A truncation on its way.
#[must_use]
pub(crate) struct Truncation<'a> {
    state: &'a WriteState,
}

impl Truncation<'_> {
    /// It is over. `truncated` says whether the file was truncated, as far as can be known.
    pub(crate) fn over(self, truncated: Option<bool>) {
        match truncated {
            Some(false) => {}
            // Without a writer, the cache manager has taken care of it.
            Some(true) => {
                let counts = self.state.counts.lock();
                if counts.writers > 0 {
                    self.state.modify();
                }
            }
            // It may happen yet, under the next writer's hands.
            None => self.state.doubt(),
        }
    }
}

impl Drop for Truncation<'_> {
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

    /// The close of this open is about to be sent: returns whether it may say "not modified". If it
    /// may not, waits until no close that did is on its way.
    pub(crate) fn close(&mut self) -> bool {
        {
            let mut counts = self.state.counts.lock();
            let clean = counts.truncations == 0 && !self.state.is_modified();
            if clean || self.closed_clean {
                if !self.closed_clean {
                    counts.clean_closes += 1;
                    self.closed_clean = true;
                }
                return true;
            }
        }
        // It stays modified for as long as this open counts, so no such close is added.
        let mut patience = Patience::new();
        // Without memory for waiting it goes as it is: a close must be sent.
        while let Ok(Some(drained)) = self.state.drained() {
            // As for the close itself: a signal cannot end this before its time.
            patience.wait(&drained, false, 1000);
            if patience.is_lost() {
                break;
            }
        }
        false
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let drained = {
            let mut counts = self.state.counts.lock();
            counts.writers -= 1;
            if counts.writers == 0 {
                self.state.modified.store(0, Relaxed);
            }
            if self.closed_clean {
                counts.clean_closes -= 1;
            }
            if counts.clean_closes == 0 {
                counts.drained.take()
            } else {
                None
            }
        };
        if let Some(drained) = drained {
            drained.happened();
        }
    }
}

/// Whether a write that failed with `err` may have changed the file all the same.
///
/// A write through the page cache reports what it wrote before it failed as a short write, so most
/// errors mean that nothing was written. If it is to reach the disk before it returns, data is in the
/// file before the disk, or a file system that has become read only, has its say: then only what is
/// checked before the first byte tells. Any other error leaves it in doubt, and so does every error
/// of a write past the page cache: that goes to the disk piece by piece, and says nothing of the
/// pieces that went well before one failed.
pub(crate) fn failed_write_modifies(err: Error, kind: WriteKind) -> bool {
    let before_first_byte = [EFAULT, EINVAL, EBADF, EPERM, EACCES, EFBIG, ETXTBSY, EAGAIN];
    let nothing_written = [ENOSPC, ENOMEM, EROFS];
    let refused = before_first_byte.contains(&err)
        || err == EOPNOTSUPP
        || (!kind.sync && (nothing_written.contains(&err) || err == EDQUOT));
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
        state.truncate()?.over(Some(true));
        assert!(!state.is_modified());
        let mut writer = open(&state);
        assert!(writer.close());
        drop(writer);
        let mut writer = open(&state);
        state.truncate()?.over(Some(true));
        assert!(!writer.close());
        Ok(())
    }

    #[test]
    fn failed_truncation_does_not_modify() -> Result {
        let state = WriteState::alloc()?;
        let mut writer = open(&state);
        state.truncate()?.over(Some(false));
        assert!(writer.close());
        Ok(())
    }

    #[test]
    fn truncation_that_may_come_is_in_doubt() -> Result {
        let state = WriteState::alloc()?;
        state.truncate()?.over(None);
        let mut writer = open(&state);
        assert!(!writer.close());
        drop(writer);
        assert!(open(&state).close());
        Ok(())
    }

    #[test]
    fn truncation_in_flight_is_in_doubt() -> Result {
        let state = WriteState::alloc()?;
        let mut writer = open(&state);
        let truncation = state.truncate()?;
        assert!(!writer.close());
        drop(truncation);
        Ok(())
    }

    #[test]
    fn doubt_is_modified() -> Result {
        let state = WriteState::alloc()?;
        state.doubt();
        let mut writer = open(&state);
        assert!(!writer.close());
        drop(writer);
        assert!(open(&state).close());
        Ok(())
    }

    #[test]
    fn failed_writes() {
        let plain = WriteKind::default();
        let sync = WriteKind {
            sync: true,
            ..plain
        };
        let direct = WriteKind {
            direct: true,
            ..plain
        };
        assert!(!failed_write_modifies(ENOSPC, plain));
        assert!(!failed_write_modifies(EFAULT, plain));
        assert!(failed_write_modifies(EIO, plain));
        assert!(failed_write_modifies(EIO, sync));
        assert!(failed_write_modifies(ENOSPC, sync));
        assert!(!failed_write_modifies(EFAULT, sync));
        assert!(!failed_write_modifies(EFBIG, sync));
        assert!(failed_write_modifies(EFAULT, direct));
        assert!(failed_write_modifies(ENOSPC, direct));
        assert!(failed_write_modifies(EFBIG, direct));
        assert!(!failed_write_modifies(EROFS, plain));
        assert!(failed_write_modifies(EROFS, sync));
    }
}
