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
    tally,
    trace::How,
    upcall::Comm,
    vfs::{
        backing::{self, FileId},
        warn_limited,
    },
    wire::Fid,
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
    #[pin]
    held: Mutex<Held>,
    /// Not 0 if there is anything in `held`.
    any_held: Atomic<i32>,
}

struct Table {
    open: RBTree<usize, Container>,
    /// How many opens have begun.
    begun: u64,
    /// How many of these are on their way.
    on_their_way: usize,
    /// The containers of strays that have ended while opens were on their way, each with how many had
    /// begun by then.
    gone: [(usize, u64); GONE],
    /// Where the next of these goes, in the place of the one that went first.
    next_gone: usize,
    /// How many opens had begun when the last one that was overwritten went: to those the container may
    /// be any.
    forgotten: u64,
}

/// How many strays that have ended are told from each other.
const GONE: usize = 32;

struct Container {
    opens: usize,
    /// That of the first open.
    state: Arc<WriteState>,
    /// There is, or was, an open with another one.
    shared: bool,
}

/// Containers of which somebody held pages when they were released: these may change yet.
struct Held {
    plain: Files,
    /// Those on stacked file systems, where files may not be known again: all of them count, once a
    /// conversation is over in which there was one.
    stacked: Files,
}

/// A number of files.
struct Files {
    some: KVec<FileId>,
    /// It may be any.
    all: bool,
}

impl Files {
    const MOST: usize = 1024;

    const fn new() -> Self {
        Self {
            some: KVec::new(),
            all: false,
        }
    }

    fn has(&self, file: &FileId) -> bool {
        self.all || self.some.contains(file)
    }

    fn add(&mut self, file: FileId) {
        if self.has(&file) {
            return;
        }
        if self.some.len() >= Self::MOST || self.some.push(file, GFP_KERNEL).is_err() {
            warn_limited!("too many containers have pages that are held: all count as modified\n");
            self.all = true;
        }
    }
}

impl Held {
    fn of(&mut self, stacked: bool) -> &mut Files {
        if stacked {
            &mut self.stacked
        } else {
            &mut self.plain
        }
    }
}

/// An open for writing that is on its way: see [`Containers::before_open`].
pub(crate) struct OnItsWay<'a> {
    containers: &'a Containers,
    place: Option<Place>,
    /// How many had begun by then, with it.
    number: u64,
}

type Place = RBTreeNodeReservation<usize, Container>;

/// Who has a container open for writing is in the table until this is dropped.
pub(crate) struct Entered {
    comm: Arc<Comm>,
    id: usize,
    /// The same for as long as the file exists.
    file: FileId,
    /// On a stacked file system it may be another one then.
    stacked: bool,
}

impl Entered {
    /// Somebody holds pages of the container, which is about to be released. May sleep.
    pub(crate) fn held(&self) {
        let containers = self.comm.containers();
        containers.held.lock().of(self.stacked).add(self.file);
        containers.any_held.store(1, Relaxed);
        if self.stacked {
            self.comm.held_on_stack();
        }
    }
}

impl Containers {
    /// None so far.
    pub(crate) fn alloc() -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                table <- new_spinlock!(Table {
                    open: RBTree::new(),
                    begun: 0,
                    on_their_way: 0,
                    gone: [(0, 0); GONE],
                    next_gone: 0,
                    forgotten: 0,
                }, "Containers::table"),
                held <- new_mutex!(Held {
                    plain: Files::new(),
                    stacked: Files::new(),
                }, "Containers::held"),
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
        let mut table = self.table.lock();
        table.begun += 1;
        table.on_their_way += 1;
        Ok(OnItsWay {
            containers: self,
            place,
            number: table.begun,
        })
    }

    /// A conversation is over, in which somebody held pages of a container on a stacked file system
    /// when it was released.
    pub(crate) fn leave_held_on_stack(&self) {
        self.held.lock().stacked.all = true;
        self.any_held.store(1, Relaxed);
    }

    fn may_be_held(&self, file: &FileId, stacked: bool) -> bool {
        self.any_held.load(Relaxed) != 0 && self.held.lock().of(stacked).has(file)
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
        let (file, stacked) = (FileId::of(host), backing::is_stacked(host));
        let held = self.containers.may_be_held(&file, stacked);
        let entered = Entered {
            comm: comm.clone(),
            id: backing::identity(host),
            file,
            stacked,
        };
        let shared = self.add(&entered, state);
        (entered, shared || held)
    }

    /// Returns whether there is, or may have been, another state.
    fn add(mut self, entered: &Entered, state: &Arc<WriteState>) -> bool {
        let id = entered.id;
        let mut table = self.containers.table.lock();
        let gone = table.has_gone(id, self.number);
        if let Some(known) = table.open.get_mut(&id) {
            known.opens += 1;
            if !known.shared && !Arc::ptr_eq(&known.state, state) {
                known.shared = true;
                if known.state.doubt() {
                    // Whose it is, the table does not know.
                    tally::modified(&Fid::default(), How::Other);
                }
            }
            return known.shared || gone;
        }
        if let Some(place) = self.place.take() {
            let first = Container {
                opens: 1,
                state: state.clone(),
                shared: false,
            };
            table.open.insert(place.into_node(id, first));
        }
        gone
    }
}

impl Drop for OnItsWay<'_> {
    fn drop(&mut self) {
        self.containers.table.lock().on_their_way -= 1;
    }
}

impl Table {
    /// Whether a stray that had this container open may have gone since the open of that number began.
    fn has_gone(&self, id: usize, number: u64) -> bool {
        self.forgotten >= number
            || self
                .gone
                .iter()
                .any(|gone| gone.0 == id && gone.1 >= number)
    }

    fn goes(&mut self, id: usize) {
        if self.on_their_way == 0 {
            return;
        }
        let begun = self.begun;
        // One that is closed many times takes one place.
        let last = (self.next_gone + GONE - 1) % GONE;
        if let Some(slot) = self.gone.get_mut(last).filter(|slot| slot.0 == id) {
            slot.1 = begun;
            return;
        }
        if let Some(slot) = self.gone.get_mut(self.next_gone) {
            self.forgotten = slot.1;
            *slot = (id, begun);
        }
        self.next_gone = (self.next_gone + 1) % GONE;
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

    fn enter(comm: &Arc<Comm>, id: usize, state: &Arc<WriteState>) -> Result<(Entered, bool)> {
        Ok(add(comm.containers().before_open()?, comm, id, state))
    }

    fn add(
        open: OnItsWay<'_>,
        comm: &Arc<Comm>,
        id: usize,
        state: &Arc<WriteState>,
    ) -> (Entered, bool) {
        let entered = Entered {
            comm: comm.clone(),
            id,
            file: FileId::numbered(id as u64),
            stacked: false,
        };
        let shared = open.add(&entered, state);
        (entered, shared)
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
        // It began later.
        let late = new.containers().before_open()?;
        for ((id, doubtful), open) in [(1, false), (2, true), (3, false)].into_iter().zip(opens) {
            assert_eq!(add(open?, &new, id, &state).1, doubtful);
        }
        assert!(!add(late, &new, 2, &state).1);
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
        let late = new.containers().before_open()?;
        assert!(add(open, &new, GONE + 1, &state).1);
        assert!(!add(late, &new, GONE + 1, &state).1);
        new.hang_up();
        Ok(())
    }

    #[test]
    fn a_stray_takes_one_place() -> Result {
        let containers = Containers::alloc()?;
        let (old, new) = (Comm::new(containers.clone())?, Comm::new(containers)?);
        let state = WriteState::alloc()?;
        let mut strays = KVec::new();
        for _ in 0..=GONE {
            strays.push(enter(&old, 1, &state)?, GFP_KERNEL)?;
        }
        old.hang_up();
        let opens = [(); 2].map(|()| new.containers().before_open());
        drop(strays);
        for (id, open) in [1, 2].into_iter().zip(opens) {
            assert_eq!(add(open?, &new, id, &state).1, id == 1);
        }
        new.hang_up();
        Ok(())
    }

    #[test]
    fn held_pages_are_remembered() -> Result {
        let comm = Comm::new(Containers::alloc()?)?;
        let containers = comm.containers();
        let state = WriteState::alloc()?;
        let (mut one, _) = enter(&comm, 1, &state)?;
        let [first, second] = [1, 2].map(FileId::numbered);
        assert!(!containers.may_be_held(&first, false));
        one.held();
        assert!(containers.may_be_held(&first, false));
        assert!(!containers.may_be_held(&second, false) && !containers.may_be_held(&second, true));
        // On a stacked file system it is known as long as the mount lives.
        one.stacked = true;
        one.held();
        assert!(!containers.may_be_held(&second, false) && !containers.may_be_held(&second, true));
        drop(one);
        comm.hang_up();
        assert!(!containers.may_be_held(&second, false) && containers.may_be_held(&second, true));
        assert!(containers.may_be_held(&first, false));
        Ok(())
    }
}
