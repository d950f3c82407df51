#![deny(unsafe_code)]
// SPDX-License-Identifier: GPL-2.0

//! Which container files are open for writing, and where it is noted that they are modified.
//!
//! A file has one [`WriteState`], and its container is no other file's. But the next cache manager may
//! serve from the containers of the one before: then there are two states for one container, as long
//! as opens for writing of the dead mount are left. Nobody can keep those from storing to it through a
//! mapping, or from I/O that was on its way; and only the old state hears of that. (Other ways lead
//! there, too: `CODA_REPLACE` can make one file of two.) So whoever opens a container for writing looks
//! here, and if there are two states, both files are in doubt.

use crate::{
    report::WriteState,
    upcall::Comm,
    vfs::backing::{self, FileId},
};
use kernel::{
    fs::File,
    new_mutex, new_spinlock,
    prelude::*,
    rbtree::{RBTree, RBTreeNodeReservation},
    sync::{
        atomic::{Atomic, Relaxed},
        Arc, Mutex, SpinLock,
    },
};

/// All that are open for writing in any conversation.
#[pin_data]
pub(crate) struct Containers {
    #[pin]
    table: SpinLock<Table>,
    /// Of containers that were released in conversations that are over.
    #[pin]
    held: Mutex<Held>,
    /// Not 0 if there is anything in `held`.
    any_held: Atomic<i32>,
}

struct Table {
    open: RBTree<usize, Container>,
    /// How many opens are on their way.
    on_their_way: usize,
    /// The containers of strays that have ended since there was any on its way.
    gone: [usize; GONE],
    /// How many there are of these; more than there is room for means that it may be any.
    gone_count: usize,
}

/// How many strays that end are told from each other, as long as an open is on its way.
const GONE: usize = 32;

struct Container {
    opens: usize,
    /// That of the first open.
    state: Arc<WriteState>,
    /// There is, or was, an open with another one.
    shared: bool,
}

/// Containers of which somebody held pages when they were released: these may change yet.
pub(crate) struct Held {
    files: KVec<FileId>,
    /// There were too many: it may be any.
    all: bool,
    /// There was one on a stacked file system, where files are not known again.
    stacked: bool,
}

impl Held {
    const MOST: usize = 1024;

    /// None so far.
    pub(crate) fn new() -> Self {
        Self {
            files: KVec::new(),
            all: false,
            stacked: false,
        }
    }

    /// Adds one.
    pub(crate) fn add(&mut self, file: FileId, stacked: bool) {
        self.stacked |= stacked;
        if stacked || self.files.contains(&file) {
            return;
        }
        self.all |= self.files.len() >= Self::MOST || self.files.push(file, GFP_KERNEL).is_err();
    }

    fn has(&self, file: &FileId, stacked: bool) -> bool {
        self.all || self.stacked && stacked || self.files.contains(file)
    }
}

/// An open for writing that is on its way: see [`Containers::before_open`].
pub(crate) struct OnItsWay<'a> {
    containers: &'a Containers,
    place: Option<Place>,
}

type Place = RBTreeNodeReservation<usize, Container>;

/// Who has a container open for writing is in the table until this is dropped.
pub(crate) struct Entered {
    comm: Arc<Comm>,
    id: usize,
    /// The same for as long as the file exists.
    file: FileId,
}

impl Entered {
    /// Which file the container is.
    pub(crate) fn file(&self) -> FileId {
        self.file
    }
}

impl Containers {
    /// None so far.
    pub(crate) fn alloc() -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                table <- new_spinlock!(Table {
                    open: RBTree::new(),
                    on_their_way: 0,
                    gone: [0; GONE],
                    gone_count: 0,
                }, "Containers::table"),
                held <- new_mutex!(Held::new(), "Containers::held"),
                any_held: Atomic::new(0),
            }),
            GFP_KERNEL,
        )
    }

    /// An open for writing is about to be sent: from then on, what a stray does to its container
    /// counts.
    pub(crate) fn before_open(&self) -> Result<OnItsWay<'_>> {
        let place = Some(Place::new(GFP_KERNEL)?);
        // With the lock: who ends after this sees that his conversation has ended, if it had.
        self.table.lock().on_their_way += 1;
        Ok(OnItsWay {
            containers: self,
            place,
        })
    }

    /// A conversation is over: `held` is what it leaves behind.
    pub(crate) fn leave_held(&self, held: &Held) {
        if held.files.is_empty() && !held.all && !held.stacked {
            return;
        }
        let mut known = self.held.lock();
        for file in &held.files {
            known.add(*file, false);
        }
        known.all |= held.all;
        known.stacked |= held.stacked;
        self.any_held.store(1, Relaxed);
    }

    fn may_be_held(&self, file: &FileId, stacked: bool) -> bool {
        self.any_held.load(Relaxed) != 0 && self.held.lock().has(file, stacked)
    }
}

impl OnItsWay<'_> {
    /// The open was answered with the container `host`, which is open for as long as what is returned;
    /// its modifications are noted in `state`. Returns whether they may be noted elsewhere, as well, or
    /// come without anybody's telling.
    pub(crate) fn enter(
        self,
        comm: &Arc<Comm>,
        host: &File,
        state: &Arc<WriteState>,
    ) -> (Entered, bool) {
        let file = FileId::of(host);
        let held = self
            .containers
            .may_be_held(&file, backing::is_stacked(host));
        let (entered, shared) = self.add(comm, (backing::identity(host), file), state);
        (entered, shared || held)
    }

    fn add(
        mut self,
        comm: &Arc<Comm>,
        (id, file): (usize, FileId),
        state: &Arc<WriteState>,
    ) -> (Entered, bool) {
        let entered = Entered {
            comm: comm.clone(),
            id,
            file,
        };
        let mut table = self.containers.table.lock();
        let gone = table.has_gone(id);
        if let Some(known) = table.open.get_mut(&id) {
            known.opens += 1;
            if !known.shared && !Arc::ptr_eq(&known.state, state) {
                known.shared = true;
                known.state.doubt();
            }
            let shared = known.shared;
            return (entered, gone || shared);
        }
        if let Some(place) = self.place.take() {
            let first = Container {
                opens: 1,
                state: state.clone(),
                shared: false,
            };
            table.open.insert(place.into_node(id, first));
        }
        (entered, gone)
    }
}

impl Drop for OnItsWay<'_> {
    fn drop(&mut self) {
        let mut table = self.containers.table.lock();
        table.on_their_way -= 1;
        if table.on_their_way == 0 {
            table.gone_count = 0;
        }
    }
}

impl Table {
    fn has_gone(&self, id: usize) -> bool {
        match self.gone.get(..self.gone_count) {
            Some(gone) => gone.contains(&id),
            None => true,
        }
    }

    fn goes(&mut self, id: usize) {
        if self.on_their_way == 0 || self.has_gone(id) {
            return;
        }
        if let Some(slot) = self.gone.get_mut(self.gone_count) {
            *slot = id;
        }
        self.gone_count += 1;
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        let mut table = self.comm.containers().table.lock();
        if self.comm.is_over() {
            table.goes(self.id);
        }
        let left = match table.open.get_mut(&self.id) {
            Some(known) => {
                known.opens -= 1;
                known.opens
            }
            None => return,
        };
        if left == 0 {
            let last = table.open.remove(&self.id);
            drop(table);
            drop(last);
        }
    }
}

#[kunit_tests(coda_rs_containers)]
mod tests {
    use super::*;

    const SOME: FileId = FileId::numbered(1);

    fn enter(comm: &Arc<Comm>, id: usize, state: &Arc<WriteState>) -> Result<(Entered, bool)> {
        let open = comm.containers().before_open()?;
        Ok(open.add(comm, (id, SOME), state))
    }

    #[test]
    fn one_state_is_no_doubt() -> Result {
        let comm = Comm::new(Containers::alloc()?)?;
        let (one, other) = (WriteState::alloc()?, WriteState::alloc()?);
        let first = enter(&comm, 1, &one)?;
        let second = enter(&comm, 1, &one)?;
        let third = enter(&comm, 2, &other)?;
        assert!(!first.1 && !second.1 && !third.1);
        drop((first, second, third));
        // Nothing is left of the first state.
        assert!(!enter(&comm, 1, &other)?.1);
        assert!(!one.is_doubtful() && !other.is_doubtful());
        comm.hang_up();
        Ok(())
    }

    #[test]
    fn two_states_are() -> Result {
        let containers = Containers::alloc()?;
        let (old, new) = (Comm::new(containers.clone())?, Comm::new(containers)?);
        let (one, other) = (WriteState::alloc()?, WriteState::alloc()?);
        let stray = enter(&old, 1, &one)?;
        old.hang_up();
        let open = enter(&new, 1, &other)?;
        assert!(open.1 && one.is_doubtful());
        drop(stray);
        // Whoever is still there may have been told wrongly.
        assert!(enter(&new, 1, &other)?.1);
        drop(open);
        assert!(!enter(&new, 1, &other)?.1);
        new.hang_up();
        Ok(())
    }

    #[test]
    fn strays_that_go_meanwhile_are() -> Result {
        let containers = Containers::alloc()?;
        let (old, new) = (Comm::new(containers.clone())?, Comm::new(containers)?);
        let state = WriteState::alloc()?;
        let (one, other) = (enter(&old, 1, &state)?, enter(&old, 2, &state)?);
        let opens = [(); 3].map(|()| new.containers().before_open());
        // Its cache manager knows.
        drop(one);
        old.hang_up();
        drop(other);
        for ((id, doubtful), open) in [(1, false), (2, true), (3, false)].into_iter().zip(opens) {
            assert_eq!(open?.add(&new, (id, SOME), &state).1, doubtful);
        }
        // None is on its way any more.
        assert!(!enter(&new, 2, &state)?.1);
        new.hang_up();
        Ok(())
    }

    #[test]
    fn too_many_strays_may_be_any() -> Result {
        let containers = Containers::alloc()?;
        let (old, new) = (Comm::new(containers.clone())?, Comm::new(containers)?);
        let state = WriteState::alloc()?;
        let mut strays = KVec::new();
        for id in 0..=GONE {
            strays.push(enter(&old, id, &state)?, GFP_KERNEL)?;
        }
        old.hang_up();
        let open = new.containers().before_open()?;
        drop(strays);
        assert!(open.add(&new, (GONE + 1, SOME), &state).1);
        assert!(!enter(&new, 1, &state)?.1);
        new.hang_up();
        Ok(())
    }

    #[test]
    fn held_pages_are_left_behind() -> Result {
        let containers = Containers::alloc()?;
        let comm = Comm::new(containers.clone())?;
        comm.held(SOME, false);
        assert!(!containers.may_be_held(&SOME, false));
        comm.hang_up();
        assert!(containers.may_be_held(&SOME, false));
        // Released when the conversation was over.
        assert!(!containers.may_be_held(&FileId::numbered(2), true));
        comm.held(SOME, true);
        assert!(containers.may_be_held(&FileId::numbered(2), true));
        assert!(!containers.may_be_held(&FileId::numbered(2), false));
        Ok(())
    }
}
