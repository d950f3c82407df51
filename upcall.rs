#![deny(unsafe_code)]
// SPDX-License-Identifier: GPL-2.0

//! The conversation with a cache manager: upcalls, their replies, and waiting for them.
//!
//! There is one [`Comm`] for every time the device is opened. It ends when the device is closed: a
//! mount that used it is dead from then on, with `ENXIO` for whoever asks it something new.
//!
//! # Who owns a request
//!
//! A [`Request`] is reference counted. The thread that waits has a reference, and so has the queue
//! or table that the request is in. What the waiter finds in it in the end is put there under the
//! lock of the `Comm`, and the one who takes the request out of its queue or table, under that lock,
//! is the one who decides how it ended: the cache manager by a reply, the waiter by giving up, or
//! the device by being closed. Nothing else frees a request or touches it after that. The `Comm`'s
//! lock is never held across a copy from or to user space.
//!
//! # A close is special
//!
//! A close must reach the cache manager once and only once, even if the one who closes is killed.
//! So all its memory is there before the file is opened ([`Close::prepare`]), and a waiter that gives
//! up leaves the request where it is.
//!
//! # What is held back
//!
//! A truncation, and a close that says "modified", is not read before the closes of the same file
//! that said "not modified" have been answered (see `report`); of a file in doubt, not before any
//! closes that said so earlier, as nobody knows which files are the same. It stays in the queue, and what comes
//! after it is read before it.

use crate::{
    containers::Containers,
    inode::Coda,
    report::{WriteState, Writer},
    sysctl::{hard, timeout},
    tally::{self, Begun, Ended, Said},
    vfs::{
        self, backing,
        fs::Refusal,
        sb::MountLink,
        task,
        wait::{signal_pending, Event, SignalsBlocked, Wake},
        warn_limited,
    },
    wire::{self, op, Bytes, Decoder, Fid, Intent, Message, OutHeader},
};
use kernel::{
    fmt,
    fs::File,
    new_mutex, new_spinlock,
    prelude::*,
    rbtree::{RBTree, RBTreeNodeReservation},
    sync::{
        aref::ARef,
        atomic::{Atomic, Relaxed},
        poll::PollCondVar,
        Arc, Mutex, SpinLock,
    },
};

/// How much a wait that comes down to the cache manager puts up with.
///
/// For the first seconds (`timeout`) no signal but SIGKILL, SIGSTOP and SIGINT is taken; after that
/// any is, and a wait that does not heed signals has an end if one is pending, or if the task cannot
/// get any. If the administrator wants it so (`hard`), there is no end.
pub(crate) struct Patience {
    signals: Option<SignalsBlocked>,
    milliseconds: u32,
}

impl Patience {
    /// At the beginning of a wait.
    pub(crate) fn new() -> Self {
        Self {
            // Not when the first one comes: a fatal one that is not blocked is a SIGKILL at once.
            signals: Some(SignalsBlocked::new()),
            milliseconds: 0,
        }
    }

    /// Waits a slice of at most `ms`, heeding signals if that is wanted and allowed.
    pub(crate) fn wait(&mut self, event: &Event, interruptible: bool, ms: u32) -> Wake {
        let wake = event.wait(interruptible && !hard(), ms);
        if wake == Wake::TimedOut {
            self.milliseconds = self.milliseconds.saturating_add(ms);
            if self.is_over() {
                self.signals.take();
            }
        }
        wake
    }

    fn is_over(&self) -> bool {
        !hard() && self.milliseconds / 1000 >= timeout()
    }

    /// Whether nobody cares any more.
    pub(crate) fn is_lost(&self) -> bool {
        self.is_over() && (signal_pending() || vfs::task::cannot_be_signalled())
    }
}

/// Why an upcall failed.
pub(crate) struct Failure {
    err: Error,
    /// The cache manager may have done what it was asked for, or may still do it: it took the
    /// message, and did not answer with an error of its own.
    in_doubt: bool,
}

impl Failure {
    fn sure(err: Error) -> Self {
        Self {
            err,
            in_doubt: false,
        }
    }

    fn in_doubt(err: Error) -> Self {
        Self {
            err,
            in_doubt: true,
        }
    }
}

/// Whether what was asked for was done; `None` if that is in doubt.
pub(crate) fn done<R>(answer: &Result<R, Failure>) -> Option<bool> {
    match answer {
        Ok(_) => Some(true),
        Err(failure) if failure.in_doubt => None,
        Err(_) => Some(false),
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        failure.err
    }
}

/// What giving a request up came to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum GivenUp {
    /// The cache manager never saw it.
    Unread,
    /// The cache manager has read it.
    Read,
    /// Too late, it is over.
    Over,
}

/// What the cache manager answered.
pub(crate) struct Reply {
    buf: Bytes,
    /// The container file, in the reply to an open.
    file: Option<ARef<File>>,
}

impl Reply {
    /// What follows the header.
    pub(crate) fn body(&self) -> Decoder<'_> {
        Decoder::body(&self.buf)
    }

    /// The result in the header.
    fn result(&self) -> Result<(), Failure> {
        let mut decoder = Decoder::new(&self.buf);
        decoder.header().map_err(Failure::in_doubt)?;
        decoder.result().map_err(|(err, sensible)| Failure {
            err,
            in_doubt: !sensible,
        })
    }
}

/// Where a request stands.
enum Status {
    /// Nobody sent it yet, or it waits to be read.
    Queued(Message),
    /// The cache manager has read it, or is about to, and is to answer.
    Read,
    /// It is over: the reply, or an error if there will be none.
    Over(Result<Reply>),
    /// The reply was taken, or nobody wants one.
    Taken,
}

struct RequestState {
    status: Status,
    /// The fid in its message, once that is taken out: a downcall may change that.
    fid: Option<Fid>,
    /// Since when it is on its way.
    begun: Option<Begun>,
    /// It is not to be read while this has closes on their way that said "not modified".
    after: Option<Arc<WriteState>>,
    /// In a close: the open for writing that counts until the close is over.
    writer: Option<Writer>,
    /// In a close: the waiter gave up. This is the file's fid, which a downcall may change.
    orphan: Option<Fid>,
}

impl RequestState {
    /// The message, until it is taken out to be copied to the cache manager.
    fn msg(&mut self) -> Option<&mut Message> {
        match &mut self.status {
            Status::Queued(msg) => Some(msg),
            _ => None,
        }
    }

    /// The fid of the object that it is about, if it is about one.
    fn fid(&self) -> Option<Fid> {
        match &self.status {
            Status::Queued(msg) => msg.fid(),
            _ => self.fid,
        }
    }

    /// It is not on its way any more: takes note of that.
    fn ended(&mut self, how: Ended) {
        if let Some(begun) = self.begun.take() {
            begun.ended(self.fid(), how);
        }
    }

    /// Whether it is a close that says "not modified".
    fn is_clean_close(&self) -> bool {
        self.writer.as_ref().is_some_and(Writer::is_closed_clean)
    }
}

/// An upcall. Its state is changed under the lock of its `Comm`; the waiter looks at it, and takes the
/// outcome, under the spin lock alone.
#[pin_data]
struct Request {
    opcode: u32,
    /// How long a reply may be.
    room: usize,
    /// Nobody waits for a reply, and there is none.
    is_async: bool,
    #[pin]
    over: Event,
    #[pin]
    state: SpinLock<RequestState>,
}

/// A request with all the memory it takes to send it.
struct Prepared {
    request: Arc<Request>,
    place: RBTreeNodeReservation<u32, Arc<Request>>,
}

impl Request {
    /// A request that can be sent without any more memory.
    fn prepare(msg: Message, is_async: bool) -> Result<Prepared> {
        let request = Arc::pin_init(
            pin_init!(Request {
                opcode: msg.opcode(),
                room: msg.room(),
                is_async,
                over <- Event::new(),
                state <- new_spinlock!(RequestState {
                    status: Status::Queued(msg),
                    fid: None,
                    begun: None,
                    after: None,
                    writer: None,
                    orphan: None,
                }, "Request::state"),
            }),
            GFP_KERNEL,
        )?;
        Ok(Prepared {
            request,
            place: RBTreeNodeReservation::new(GFP_KERNEL)?,
        })
    }

    /// It is over. To be called by the one who took it out of its queue or table, who also says so
    /// ([`Request::tell`]) when he holds no lock that the waiter takes next.
    fn end(&self, how: Result<Reply, Error>, told: Ended, comm: &Comm) {
        let (writer, unwanted) = {
            let mut state = self.state.lock();
            state.ended(told);
            let unwanted = core::mem::replace(&mut state.status, Status::Over(how));
            if state.orphan.is_some() {
                comm.orphans.sub_one();
            }
            (state.writer.take(), unwanted)
        };
        drop(unwanted);
        // The open counts until now: before the waiter goes on.
        drop(writer);
    }

    /// Wakes whoever waits for it.
    fn tell(&self) {
        self.over.happened();
    }

    /// Takes what `end` left.
    fn outcome(&self) -> Result<Reply> {
        let mut state = self.state.lock();
        match core::mem::replace(&mut state.status, Status::Taken) {
            Status::Over(how) => how,
            _ => Err(EIO),
        }
    }
}

/// A count that others look at.
struct Count(Atomic<i32>);

impl Count {
    fn add_one(&self) {
        self.0.fetch_add(1, Relaxed);
    }

    fn sub_one(&self) {
        self.0.fetch_sub(1, Relaxed);
    }

    fn get(&self) -> i32 {
        self.0.load(Relaxed)
    }
}

struct CommState {
    /// The device is closed: nobody will read or answer anything.
    dead: bool,
    /// There were pages that somebody held, of a container on a stacked file system.
    held_on_stack: bool,
    /// There is a mount.
    mounted: bool,
    /// The number of the last upcall.
    unique: u32,
    /// Signal messages, which go before all else.
    signals: KVec<Message>,
    /// Upcalls to be read, the oldest first.
    pending: RBTree<u32, Arc<Request>>,
    /// Upcalls to be answered.
    processing: RBTree<u32, Arc<Request>>,
    /// Somebody found nothing to read but what is held back.
    held: bool,
}

/// What is not known of a file, beyond the life of its inode.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Doubt {
    /// The cache manager may know of a writer that nobody here knows of: see [`WriteState::haunt`].
    Haunted,
    /// It may be modified at any time: see [`WriteState::doubt`].
    Doubtful,
}

/// The files of which something is not known, as the cache manager was asked for it and nobody knows
/// what became of that.
struct Doubts {
    fids: KVec<(Fid, Doubt)>,
    /// There were too many: it may be any file.
    all: bool,
}

impl Doubts {
    /// A user can add to them, by truncations that he interrupts.
    const MOST: usize = 1024;

    fn about(&self, fid: &Fid) -> Option<Doubt> {
        if self.all {
            return Some(Doubt::Doubtful);
        }
        let (_, doubt) = self.fids.iter().find(|(other, _)| other == fid)?;
        Some(*doubt)
    }

    fn add(&mut self, fid: &Fid, doubt: Doubt) {
        if self.about(fid) >= Some(doubt) {
            return;
        }
        if let Some((_, known)) = self.fids.iter_mut().find(|(other, _)| other == fid) {
            *known = doubt;
            return;
        }
        if self.fids.len() >= Self::MOST || self.fids.push((*fid, doubt), GFP_KERNEL).is_err() {
            warn_limited!("too many files are in doubt: all will count as modified\n");
            self.all = true;
        }
    }
}

/// Whether the number `one` was given before `other`.
fn is_before(one: u32, other: u32) -> bool {
    (one.wrapping_sub(other) as i32) < 0
}

impl CommState {
    /// A number that no request has.
    fn next_unique(&mut self) -> u32 {
        loop {
            self.unique = self.unique.wrapping_add(1);
            let unique = self.unique;
            let taken =
                self.pending.get(&unique).is_some() || self.processing.get(&unique).is_some();
            if !taken && unique != 0 {
                return unique;
            }
        }
    }

    /// The next upcall to be read.
    fn first(&mut self) -> Option<(u32, Arc<Request>)> {
        // Looked for when it is needed, which is hardly ever.
        let mut oldest_clean = None;
        let mut requests = self.pending.iter();
        let first = requests.find(|(unique, request)| {
            let Some(after) = request.state.lock().after.clone() else {
                return true;
            };
            if after.has_clean_closes() {
                return false;
            }
            // A file in doubt may be known by another state as well, in which a close was counted that
            // said "not modified": any that came before this may be that.
            !after.is_doubtful()
                || !oldest_clean
                    .get_or_insert_with(|| self.oldest_clean_close())
                    .is_some_and(|oldest| is_before(oldest, **unique))
        });
        let first = first.map(|(unique, request)| (*unique, request.clone()));
        self.held |= first.is_none() && !self.pending.is_empty();
        first
    }

    /// The number of the oldest close on its way that said "not modified".
    fn oldest_clean_close(&self) -> Option<u32> {
        Iterator::chain(self.pending.iter(), self.processing.iter())
            .filter(|(_, request)| request.state.lock().is_clean_close())
            .map(|(unique, _)| *unique)
            .reduce(|one, other| if is_before(one, other) { one } else { other })
    }

    /// All upcalls that are on their way.
    fn upcalls(&self) -> impl Iterator<Item = &Arc<Request>> {
        Iterator::chain(self.pending.values(), self.processing.values())
    }
}

/// A generation of cached permissions.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Epoch(i32);

impl Epoch {
    /// From this on nothing is cached any more: so no generation has the number of an earlier one. (A
    /// little more than this is possible, where several come to it at a time.)
    const END: i32 = 1 << 29;

    /// Its number, less than 2^29.
    pub(crate) fn number(self) -> Option<u32> {
        (self.0 < Self::END).then_some(self.0 as u32)
    }
}

/// See the module's documentation.
#[pin_data]
pub(crate) struct Comm {
    /// The thread that opened the device.
    pid: u32,
    /// Where the mount is that downcalls are about.
    pub(crate) link: Arc<MountLink<Coda>>,
    /// Changes when all cached permissions become void.
    epoch: Atomic<i32>,
    /// Closes on their way that nobody waits for.
    orphans: Count,
    /// Not 0 when the device is closed, as `dead`, to be looked at without the lock.
    over: Atomic<i32>,
    containers: Arc<Containers>,
    #[pin]
    doubts: Mutex<Doubts>,
    #[pin]
    state: Mutex<CommState>,
    /// The cache manager waits here for something to read.
    #[pin]
    pub(crate) readable: PollCondVar,
}

/// What a wait is for.
enum Wait<'a> {
    /// Can be given up by a signal.
    Plain,
    /// Has to be sent; only waiting for the reply can be given up. Of the file that has the fid that
    /// this returns.
    Close(&'a dyn Fn() -> Fid),
}

impl Comm {
    /// A conversation that begins; `containers` is about all that there are.
    pub(crate) fn new(containers: Arc<Containers>) -> Result<Arc<Self>> {
        let link = Arc::pin_init(MountLink::new(), GFP_KERNEL)?;
        Arc::pin_init(
            pin_init!(Comm {
                pid: task::pid() as u32,
                link,
                epoch: Atomic::new(0),
                orphans: Count(Atomic::new(0)),
                over: Atomic::new(0),
                containers,
                doubts <- new_mutex!(Doubts {
                    fids: KVec::new(),
                    all: false,
                }, "Comm::doubts"),
                state <- new_mutex!(CommState {
                    dead: false,
                    held_on_stack: false,
                    mounted: false,
                    unique: 0,
                    signals: KVec::new(),
                    pending: RBTree::new(),
                    processing: RBTree::new(),
                    held: false,
                }, "Comm::state"),
                readable <- kernel::new_poll_condvar!("Comm::readable"),
            }),
            GFP_KERNEL,
        )
    }

    /// Begins a mount. `EINVAL` if the cache manager is gone, `EBUSY` if there is a mount already.
    pub(crate) fn begin_mount(&self) -> Result<(), Refusal> {
        let mut state = self.state.lock();
        if state.dead {
            return Err((EINVAL, c"the device is not open"));
        }
        if state.mounted {
            return Err((EBUSY, c"the device is mounted already"));
        }
        state.mounted = true;
        Ok(())
    }

    /// Ends a mount.
    pub(crate) fn end_mount(&self) {
        self.state.lock().mounted = false;
    }

    /// The generation of cached permissions.
    pub(crate) fn epoch(&self) -> Epoch {
        Epoch(self.epoch.load(Relaxed))
    }

    /// Makes all cached permissions void.
    pub(crate) fn next_epoch(&self) {
        if self.epoch().number().is_some() {
            self.epoch.fetch_add(1, Relaxed);
        }
    }

    /// The state of the file `fid`, if a close of it is on its way that nobody waits for: its inode
    /// may have left memory.
    pub(crate) fn orphaned_state(&self, fid: &Fid) -> Option<Arc<WriteState>> {
        if self.orphans.get() == 0 {
            return None;
        }
        let state = self.state.lock();
        let found = state.upcalls().find_map(|request| {
            let inner = request.state.lock();
            if inner.orphan != Some(*fid) {
                return None;
            }
            inner.writer.as_ref().map(|writer| writer.state().clone())
        });
        found
    }

    /// From now on there is this doubt about the file `fid`.
    pub(crate) fn doubt(&self, fid: &Fid, doubt: Doubt) {
        self.doubts.lock().add(fid, doubt);
    }

    /// What is not known of the file `fid`.
    pub(crate) fn doubt_about(&self, fid: &Fid) -> Option<Doubt> {
        self.doubts.lock().about(fid)
    }

    /// Whether the cache manager is gone.
    pub(crate) fn is_over(&self) -> bool {
        self.over.load(Relaxed) != 0
    }

    /// The containers that are open for writing, in this conversation and others.
    pub(crate) fn containers(&self) -> &Containers {
        &self.containers
    }

    /// Somebody held pages of a container on a stacked file system when it was released.
    pub(crate) fn held_on_stack(&self) {
        let mut state = self.state.lock();
        state.held_on_stack = true;
        if state.dead {
            self.containers.leave_held_on_stack();
        }
    }

    /// A file has another fid from now on, in messages that were not read yet as well; its inode, if
    /// there is one, has it already.
    pub(crate) fn replace_fid(&self, old: &Fid, new: &Fid) {
        {
            let mut doubts = self.doubts.lock();
            if let Some(doubt) = doubts.about(old) {
                doubts.add(new, doubt);
            }
        }
        for request in self.state.lock().upcalls() {
            let mut inner = request.state.lock();
            if let Some(msg) = inner.msg() {
                msg.replace_fid(old, new);
            } else if inner.fid == Some(*old) {
                inner.fid = Some(*new);
            }
            if inner.orphan == Some(*old) {
                inner.orphan = Some(*new);
            }
        }
    }

    /// Queues a request. With an error nothing was sent, and nothing will be; `writer` is dropped.
    /// `complete` gets the message with locks held: it takes no more than an inode's own.
    ///
    /// With a `writer` it is the close of that, which says here whether the file was modified: what it
    /// says, and its place in the queue, come to be in one step.
    fn submit(
        &self,
        prepared: Prepared,
        after: Option<Arc<WriteState>>,
        writer: Option<Writer>,
        complete: impl FnOnce(&mut Message),
    ) -> Result<(u32, Arc<Request>)> {
        let Prepared { request, place } = prepared;
        let mut state = self.state.lock();
        if state.dead {
            drop(state);
            return Err(ENXIO);
        }
        let unique = state.next_unique();
        {
            let mut inner = request.state.lock();
            let mut writer = writer;
            let clean = writer.as_mut().is_some_and(Writer::close);
            if let Some(msg) = inner.msg() {
                msg.set_unique(unique);
                complete(msg);
                if clean {
                    msg.set_no_writes();
                }
                let (fid, pid, flags) = (msg.fid(), msg.pid(), msg.close_flags());
                inner.begun = Some(Begun::now(unique, request.opcode, pid, fid));
                if let (op::CLOSE, Some(fid)) = (request.opcode, fid) {
                    let said = match &writer {
                        Some(_) if clean => Said::Clean,
                        Some(_) => Said::Modified,
                        None => Said::Nothing,
                    };
                    tally::closed(&fid, flags, said);
                }
            }
            inner.after = match &writer {
                Some(writer) if !clean => Some(writer.state().clone()),
                Some(_) => None,
                None => after,
            };
            inner.writer = writer;
        }
        state
            .pending
            .insert(place.into_node(unique, request.clone()));
        drop(state);
        self.readable.notify_one();
        Ok((unique, request))
    }

    /// Waits for the end of a request. `EINTR` if it was given up.
    fn wait(&self, unique: u32, request: &Request, wait: Wait<'_>) -> Result<Reply, Failure> {
        let mut patience = Patience::new();
        loop {
            let interruptible =
                matches!(wait, Wait::Plain) || matches!(request.state.lock().status, Status::Read);
            match patience.wait(&request.over, interruptible, 1000) {
                Wake::Done => break,
                Wake::Signal => {}
                // A close is sent uninterruptibly, and an exiting task gets no more signals: this is
                // where they find out.
                Wake::TimedOut if patience.is_lost() => {}
                Wake::TimedOut => continue,
            }
            match self.give_up(unique, request, &wait) {
                GivenUp::Unread => return Err(Failure::sure(EINTR)),
                GivenUp::Read => return Err(Failure::in_doubt(EINTR)),
                GivenUp::Over => {
                    // Whoever took it out of its queue is about to end it.
                    while request.over.wait(false, 1000) != Wake::Done {}
                    break;
                }
            }
        }
        // Where there is no reply to speak of, the cache manager has gone or makes no sense.
        request.outcome().map_err(Failure::in_doubt)
    }

    /// Gives a request up.
    fn give_up(&self, unique: u32, request: &Request, wait: &Wait<'_>) -> GivenUp {
        let mut state = self.state.lock();
        if let Wait::Close(fid) = wait {
            let mut inner = request.state.lock();
            if matches!(inner.status, Status::Over(_)) {
                return GivenUp::Over;
            }
            // The one of this moment: a downcall that changes it looks here next.
            inner.orphan = Some(fid());
            self.orphans.add_one();
            return GivenUp::Read;
        }
        if state.pending.remove_node(&unique).is_some() {
            request.state.lock().ended(Ended::GivenUp(EINTR));
            return GivenUp::Unread;
        }
        if state.processing.remove_node(&unique).is_none() {
            return GivenUp::Over;
        }
        request.state.lock().ended(Ended::GivenUp(EINTR));
        // The cache manager is at work on it: tell it. A reply that comes all the same is refused
        // with `ESRCH`, by which it knows that it has to undo what it did; an open, say.
        let told = Message::signal(unique).and_then(|msg| {
            state.signals.push(msg, GFP_KERNEL)?;
            Ok(())
        });
        drop(state);
        if told.is_ok() {
            self.readable.notify_one();
        }
        GivenUp::Read
    }

    /// Sends a message and waits for the reply; an error the cache manager answers is one.
    ///
    /// `ENXIO`: there is no cache manager. `EINTR`: a signal ended the wait. `EIO`: the reply makes
    /// no sense.
    pub(crate) fn upcall(&self, msg: Message) -> Result<Reply, Failure> {
        self.upcall_after(msg, None)
    }

    /// The same of a message that is held back while `after` has closes on their way that said "not
    /// modified".
    pub(crate) fn upcall_after(
        &self,
        msg: Message,
        after: Option<Arc<WriteState>>,
    ) -> Result<Reply, Failure> {
        let prepared = Request::prepare(msg, false).map_err(Failure::sure)?;
        let (unique, request) = self
            .submit(prepared, after, None, |_| {})
            .map_err(Failure::sure)?;
        let reply = self.wait(unique, &request, Wait::Plain)?;
        reply.result()?;
        Ok(reply)
    }

    /// Opens a file: returns its container. `after` as in `upcall_after`.
    pub(crate) fn open(
        &self,
        fid: &Fid,
        flags: u32,
        after: Option<Arc<WriteState>>,
    ) -> Result<ARef<File>, Failure> {
        let msg = Message::open_by_fd(fid, flags).map_err(Failure::sure)?;
        // A success without a file does not get past `examine`.
        let opened = self
            .upcall_after(msg, after)
            .and_then(|reply| reply.file.ok_or(Failure::in_doubt(EBADF)));
        let result = opened.as_ref().map(drop).map_err(|failure| failure.err);
        tally::opened(fid, flags, result);
        opened
    }

    /// Announces an access; `EOPNOTSUPP` if the cache manager does not want to know.
    pub(crate) fn intent(&self, fid: &Fid, count: usize, pos: i64, kind: Intent) -> Result {
        let msg = Message::access_intent(fid, count, pos, kind)?;
        if matches!(kind, Intent::ReadFinish | Intent::WriteFinish) {
            self.submit(Request::prepare(msg, true)?, None, None, |_| {})?;
            return Ok(());
        }
        self.upcall(msg)?;
        Ok(())
    }

    /// Takes the next message to read. `len` is how much room there is; `EINVAL` if that is too
    /// little, and the message stays.
    fn next(state: &mut CommState, len: usize) -> Option<Result<Taken>> {
        if let Some(first) = state.signals.first() {
            if first.len() > len {
                return Some(Err(EINVAL));
            }
            let msg = state.signals.remove(0).ok()?;
            return Some(Ok(Taken { msg, upcall: None }));
        }
        let (unique, request) = state.first()?;
        let msg = {
            let mut inner = request.state.lock();
            if inner.msg()?.len() > len {
                return Some(Err(EINVAL));
            }
            let Status::Queued(msg) = core::mem::replace(&mut inner.status, Status::Read) else {
                return None;
            };
            inner.fid = msg.fid();
            msg
        };
        let node = state.pending.remove_node(&unique)?;
        if !request.is_async {
            state.processing.insert(node);
        }
        Some(Ok(Taken {
            msg,
            upcall: Some((unique, request)),
        }))
    }

    /// Waits for a message, unless `nonblock`, and takes it.
    pub(crate) fn take(&self, len: usize, nonblock: bool) -> Result<Taken> {
        let mut state = self.state.lock();
        loop {
            if let Some(taken) = Self::next(&mut state, len) {
                if taken.is_err() {
                    // Another reader may have more room.
                    self.readable.notify_one();
                }
                return taken;
            }
            if nonblock {
                return Err(EAGAIN);
            }
            if self.readable.wait_interruptible(&mut state) {
                // The wake-up that was for us is another reader's now.
                self.readable.notify_one();
                return Err(ERESTARTSYS);
            }
        }
    }

    /// A message was delivered.
    pub(crate) fn delivered(taken: Taken) {
        // There will be no reply by which to know.
        if let Some((_, request)) = taken.upcall.filter(|(_, request)| request.is_async) {
            request.state.lock().ended(Ended::Answered(Ok(())));
        }
    }

    /// Puts back a message that could not be delivered. It is the next to be read; but one that
    /// nobody waits for is lost.
    pub(crate) fn put_back(&self, taken: Taken) {
        let mut state = self.state.lock();
        match taken.upcall {
            None => {
                // Without memory it is lost, and the cache manager finds out by its reply.
                if state.signals.reserve(1, GFP_KERNEL).is_ok() {
                    let _ = state.signals.insert_within_capacity(0, taken.msg);
                }
            }
            Some((unique, request)) => {
                if request.is_async {
                    request.state.lock().ended(Ended::GivenUp(EFAULT));
                    return;
                }
                // It may have been given up or answered in the meantime.
                if let Some(node) = state.processing.remove_node(&unique) {
                    let mut inner = request.state.lock();
                    let mut msg = taken.msg;
                    if let Some(fid) = inner.fid.take() {
                        msg.set_fid(&fid);
                    }
                    inner.status = Status::Queued(msg);
                    drop(inner);
                    state.pending.insert(node);
                }
            }
        }
        drop(state);
        self.readable.notify_one();
    }

    /// Whether there is something to read.
    pub(crate) fn has_pending(&self) -> bool {
        let mut state = self.state.lock();
        !state.signals.is_empty() || state.first().is_some()
    }

    /// Takes a reply. `sent` is how long it was when it came, `buf` what there is of it; returns how
    /// much of it was taken.
    ///
    /// `ESRCH`: nobody waits for it. `EBADF`: the container is not an open file; the one who wants
    /// to open gets the same error. `EINVAL`: it is neither a file nor a directory, and likewise; or
    /// the reply is too short, and the one who waits gets `EIO`.
    pub(crate) fn reply(&self, header: OutHeader, mut buf: Bytes, sent: usize) -> Result<usize> {
        let mut state = self.state.lock();
        let Some(request) = state.processing.remove(&header.unique) else {
            drop(state);
            warn_limited!(
                "reply to an upcall that nobody waits for: opcode {}, number {}\n",
                header.opcode,
                header.unique
            );
            return Err(ESRCH);
        };
        if sent > request.room {
            warn_limited!(
                "reply is too long: {} bytes, room for {}, opcode {}, number {}\n",
                sent,
                request.room,
                header.opcode,
                header.unique
            );
        }
        let taken = sent.min(request.room);
        buf.truncate(taken);
        let (outcome, answer, told) = Self::examine(request.opcode, &buf);
        let reply = outcome.map(|file| Reply { buf, file });
        request.end(reply, Ended::Answered(told), self);
        // It may have been what others wait for.
        let held = core::mem::take(&mut state.held);
        drop(state);
        request.tell();
        if held {
            self.readable.notify_all();
        }
        answer.map(|()| taken)
    }

    /// What the one who waits gets beside the bytes of the reply, what the cache manager gets, and what
    /// came of the request, for those who look.
    fn examine(opcode: u32, reply: &[u8]) -> (Result<Option<ARef<File>>>, Result, Result) {
        let mut decoder = Decoder::new(reply);
        let answer = decoder.header().and_then(|_| {
            let result = decoder.u32()?;
            // Only a success names a descriptor.
            if opcode != op::OPEN_BY_FD || result != 0 {
                return Ok((result, None));
            }
            Ok((result, Some(decoder.u32()?)))
        });
        match answer {
            Err(_) => {
                let len = reply.len();
                warn_limited!("reply is too short: {len} bytes, opcode {opcode}\n");
                (Err(EIO), Err(EINVAL), Err(EIO))
            }
            Ok((result, None)) => {
                let told = wire::result(result as i32).map_err(|(err, _)| err);
                (Ok(None), Ok(()), told)
            }
            Ok((_, Some(fd))) => match backing::get_file(fd) {
                Ok(file) if backing::can_serve(&file) => (Ok(Some(file)), Ok(()), Ok(())),
                Ok(_) => {
                    warn_limited!("container {} is no file and no directory\n", fd as i32);
                    (Err(EINVAL), Err(EINVAL), Err(EINVAL))
                }
                Err(err) => {
                    warn_limited!("container {} is not an open descriptor\n", fd as i32);
                    (Err(err), Err(err), Err(err))
                }
            },
        }
    }

    /// The device was closed: nobody waits any longer, and nothing more is sent.
    pub(crate) fn hang_up(&self) {
        let (pending, processing) = {
            let mut state = self.state.lock();
            state.dead = true;
            self.over.store(1, Relaxed);
            if state.held_on_stack {
                self.containers.leave_held_on_stack();
            }
            state.signals.clear();
            (
                core::mem::replace(&mut state.pending, RBTree::new()),
                core::mem::replace(&mut state.processing, RBTree::new()),
            )
        };
        for requests in [pending, processing] {
            for request in requests.values() {
                request.end(Err(ENXIO), Ended::GivenUp(ENXIO), self);
                request.tell();
            }
        }
    }
}

// What debugfs shows.
impl Comm {
    /// The device's line.
    pub(crate) fn show(&self, device: usize, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state.lock();
        let mounted = u8::from(state.mounted);
        let [pending, outstanding] =
            [&state.pending, &state.processing].map(|requests| requests.values().count());
        let pid = self.pid;
        writeln!(f, "cfs{device} {pid} {mounted} {pending} {outstanding}")
    }

    /// A line for each request on its way.
    pub(crate) fn show_requests(&self, device: usize, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state.lock();
        for (requests, stands) in [
            (&state.processing, "outstanding"),
            (&state.pending, "pending"),
        ] {
            for (unique, request) in requests.iter() {
                let (begun, fid) = {
                    let inner = request.state.lock();
                    (inner.begun, inner.fid().unwrap_or_default())
                };
                let Some(begun) = begun else { continue };
                let opcode = op::name(request.opcode);
                let (age, pid, [a, b, c, d]) = (begun.age(), begun.pid, fid.0);
                writeln!(
                    f,
                    "cfs{device} {unique} {opcode} {stands} {age} {pid} {a:08x}.{b:08x}.{c:08x}.{d:08x}",
                )?;
            }
        }
        Ok(())
    }
}

/// A message on its way to the cache manager.
pub(crate) struct Taken {
    msg: Message,
    /// The upcall that it is, with its number; a signal message is none.
    upcall: Option<(u32, Arc<Request>)>,
}

impl Taken {
    /// The bytes to deliver, and how many zeroes after them.
    pub(crate) fn parts(&self) -> (&[u8], usize) {
        self.msg.parts()
    }
}

/// The close of an open that is yet to be made, with all the memory it takes to send it.
pub(crate) struct Close {
    prepared: Prepared,
}

impl Close {
    /// Sets memory aside.
    pub(crate) fn prepare(fid: &Fid, flags: u32, uid: u32) -> Result<Self> {
        let prepared = Request::prepare(Message::close(fid, flags, uid)?, false)?;
        Ok(Self { prepared })
    }

    /// Sends it, from the current task, and waits for the reply if that makes sense. `fid` returns
    /// the file's at the moment, and is called with locks held: it takes no more than the inode's
    /// own. `writer` counts until the cache manager has dealt with it; then it says whether the file was modified.
    pub(crate) fn send(self, comm: &Comm, fid: impl Fn() -> Fid, writer: Option<Writer>) {
        let complete = |msg: &mut Message| {
            msg.set_sender();
            // The one of this moment: a downcall that changes it looks at the message next.
            msg.set_fid(&fid());
        };
        if let Ok((unique, request)) = comm.submit(self.prepared, None, writer, complete) {
            // Nobody looks at the result of a close: not the VFS, and not the C module.
            let _ = comm.wait(unique, &request, Wait::Close(&fid));
        }
    }
}

#[kunit_tests(coda_rs_upcall)]
mod tests {
    use super::*;
    use crate::report::WriteState;

    const FID: Fid = Fid([1, 2, 3, 4]);
    const OTHER: Fid = Fid([5, 6, 7, 8]);
    const ROOM: usize = 16384;

    /// Sends without waiting.
    fn send(comm: &Comm, msg: Message) -> Result<(u32, Arc<Request>)> {
        comm.submit(Request::prepare(msg, false)?, None, None, |_| {})
    }

    /// What the cache manager reads next: opcode, number, flags of an open or close.
    fn read(comm: &Comm) -> Result<(u32, u32, u32)> {
        let taken = comm.take(ROOM, true)?;
        let mut decoder = Decoder::new(taken.parts().0);
        let header = decoder.header()?;
        for _ in 0..7 {
            // pid, pgid, uid, fid
            let _ = decoder.u32();
        }
        Ok((header.opcode, header.unique, decoder.u32().unwrap_or(0)))
    }

    fn answer(comm: &Comm, unique: u32, result: u32, body: &[u8]) -> Result<usize> {
        let mut buf = Bytes::new();
        for word in [op::ROOT, unique, result] {
            buf.extend(&word.to_ne_bytes())?;
        }
        buf.extend(body)?;
        let len = buf.len();
        let header = Decoder::new(&buf).header()?;
        comm.reply(header, buf, len)
    }

    /// The result that a request got.
    fn answered(request: &Request) -> Result<Result> {
        Ok(request.outcome()?.result().map_err(Error::from))
    }

    #[test]
    fn first_in_first_out() -> Result {
        let comm = Comm::new(Containers::alloc()?)?;
        assert!(!comm.has_pending());
        let (first, _) = send(&comm, Message::root()?)?;
        let (second, _) = send(&comm, Message::statfs()?)?;
        assert!(comm.has_pending());
        assert_eq!(read(&comm)?.1, first);
        assert_eq!(read(&comm)?.1, second);
        assert!(comm.take(ROOM, true).err() == Some(EAGAIN));
        comm.hang_up();
        Ok(())
    }

    #[test]
    fn replies_find_their_request() -> Result {
        let comm = Comm::new(Containers::alloc()?)?;
        let (first, one) = send(&comm, Message::root()?)?;
        let (second, two) = send(&comm, Message::root()?)?;
        // Not read yet: nobody can answer it.
        assert!(answer(&comm, first, 0, &[]) == Err(ESRCH));
        read(&comm)?;
        read(&comm)?;
        assert!(answer(&comm, second, 2, &[])? == 12);
        assert!(answer(&comm, first, 0, &[7; 16])? == 28);
        // Nor twice.
        assert!(answer(&comm, first, 0, &[]) == Err(ESRCH));
        assert!(answer(&comm, 4711, 0, &[]) == Err(ESRCH));
        assert!(answered(&two)? == Err(ENOENT));
        let reply = one.outcome()?;
        reply.result()?;
        assert!(reply.body().fid()? == Fid([0x0707_0707; 4]));
        comm.hang_up();
        Ok(())
    }

    #[test]
    fn long_and_short_replies() -> Result {
        let comm = Comm::new(Containers::alloc()?)?;
        let (unique, request) = send(&comm, Message::root()?)?;
        read(&comm)?;
        // There is room for 28 bytes; the rest is not taken.
        assert_eq!(answer(&comm, unique, 0, &[9; 100])?, 28);
        assert_eq!(request.outcome()?.buf.len(), 28);

        let (unique, request) = send(&comm, Message::root()?)?;
        read(&comm)?;
        let mut buf = Bytes::new();
        buf.extend(&[0; 8])?;
        let header = OutHeader {
            opcode: op::ROOT,
            unique,
        };
        assert!(comm.reply(header, buf, 8) == Err(EINVAL));
        assert!(request.outcome().err() == Some(EIO));
        comm.hang_up();
        Ok(())
    }

    #[test]
    fn bad_container_ends_the_open() -> Result {
        let comm = Comm::new(Containers::alloc()?)?;
        let (unique, request) = send(&comm, Message::open_by_fd(&FID, 1)?)?;
        read(&comm)?;
        assert!(answer(&comm, unique, 0, &(-1i32).to_ne_bytes()) == Err(EBADF));
        assert!(request.outcome().err() == Some(EBADF));
        // An error names no descriptor.
        let (unique, request) = send(&comm, Message::open_by_fd(&FID, 1)?)?;
        read(&comm)?;
        answer(&comm, unique, 13, &[])?;
        assert!(answered(&request)? == Err(EACCES));
        comm.hang_up();
        Ok(())
    }

    #[test]
    fn given_up_before_it_was_read() -> Result {
        let comm = Comm::new(Containers::alloc()?)?;
        let (unique, request) = send(&comm, Message::root()?)?;
        assert!(comm.give_up(unique, &request, &Wait::Plain) == GivenUp::Unread);
        assert!(!comm.has_pending());
        Ok(())
    }

    #[test]
    fn given_up_after_it_was_read() -> Result {
        let comm = Comm::new(Containers::alloc()?)?;
        let (_, _) = send(&comm, Message::statfs()?)?;
        let (unique, request) = send(&comm, Message::root()?)?;
        read(&comm)?;
        read(&comm)?;
        let (_, _) = send(&comm, Message::statfs()?)?;
        assert!(comm.give_up(unique, &request, &Wait::Plain) == GivenUp::Read);
        // The signal goes before what waits.
        let (opcode, number, _) = read(&comm)?;
        assert_eq!(opcode, op::SIGNAL);
        assert_eq!(number, unique);
        assert!(answer(&comm, unique, 0, &[]) == Err(ESRCH));
        comm.hang_up();
        Ok(())
    }

    #[test]
    fn given_up_too_late() -> Result {
        let comm = Comm::new(Containers::alloc()?)?;
        let (unique, request) = send(&comm, Message::root()?)?;
        read(&comm)?;
        answer(&comm, unique, 0, &[0; 16])?;
        assert!(comm.give_up(unique, &request, &Wait::Plain) == GivenUp::Over);
        request.outcome()?.result()?;
        assert!(!comm.has_pending());
        Ok(())
    }

    #[test]
    fn put_back_is_read_again() -> Result {
        let comm = Comm::new(Containers::alloc()?)?;
        let (first, _) = send(&comm, Message::root()?)?;
        send(&comm, Message::statfs()?)?;
        // Too little room: it stays.
        assert!(comm.take(27, true).err() == Some(EINVAL));
        let taken = comm.take(28, true)?;
        comm.put_back(taken);
        assert_eq!(read(&comm)?.1, first);
        comm.hang_up();
        Ok(())
    }

    #[test]
    fn put_back_with_the_new_fid() -> Result {
        let comm = Comm::new(Containers::alloc()?)?;
        send(&comm, Message::getattr(&FID)?)?;
        let taken = comm.take(ROOM, true)?;
        comm.replace_fid(&FID, &OTHER);
        comm.put_back(taken);
        let taken = comm.take(ROOM, true)?;
        assert!(taken.msg.fid() == Some(OTHER));
        comm.hang_up();
        Ok(())
    }

    #[test]
    fn hang_up_ends_everything() -> Result {
        let comm = Comm::new(Containers::alloc()?)?;
        let (_, read_one) = send(&comm, Message::root()?)?;
        read(&comm)?;
        let (_, pending) = send(&comm, Message::root()?)?;
        comm.hang_up();
        assert!(read_one.outcome().err() == Some(ENXIO));
        assert!(pending.outcome().err() == Some(ENXIO));
        assert!(send(&comm, Message::root()?).err() == Some(ENXIO));
        Ok(())
    }

    #[test]
    fn close_says_whether_it_was_written() -> Result {
        let comm = Comm::new(Containers::alloc()?)?;
        let state = WriteState::alloc()?;
        for modified in [false, true] {
            let writer = Writer::new(state.clone());
            if modified {
                state.modify();
            }
            let close = Close::prepare(&FID, 2, 0)?;
            let (unique, request) = comm.submit(close.prepared, None, Some(writer), |_| {})?;
            let (opcode, number, flags) = read(&comm)?;
            assert_eq!((opcode, number), (op::CLOSE, unique));
            assert_eq!(flags, if modified { 0x002 } else { 0x402 });
            // It counts until it is answered.
            assert_eq!(state.is_modified(), modified);
            answer(&comm, unique, 0, &[])?;
            assert!(!state.is_modified());
            request.outcome()?.result()?;
        }
        Ok(())
    }

    #[test]
    fn close_given_up_is_sent_all_the_same() -> Result {
        let comm = Comm::new(Containers::alloc()?)?;
        let state = WriteState::alloc()?;
        let writer = Writer::new(state.clone());
        state.modify();
        let close = Close::prepare(&FID, 2, 0)?;
        let (unique, request) = comm.submit(close.prepared, None, Some(writer), |_| {})?;
        assert!(comm.give_up(unique, &request, &Wait::Close(&|| FID)) == GivenUp::Read);
        // An inode of this file that comes into memory gets the same state.
        let again = comm.orphaned_state(&FID).ok_or(EINVAL)?;
        assert!(Arc::ptr_eq(&again, &state));
        assert!(comm.orphaned_state(&OTHER).is_none());
        comm.replace_fid(&FID, &OTHER);
        assert!(comm.orphaned_state(&FID).is_none());
        assert!(comm.orphaned_state(&OTHER).is_some());
        // The next writer cannot be sure.
        let mut next = Writer::new(state.clone());
        assert_eq!(read(&comm)?.0, op::CLOSE);
        answer(&comm, unique, 0, &[])?;
        assert!(comm.orphaned_state(&OTHER).is_none());
        assert!(!next.close());
        drop(next);
        assert!(!state.is_modified());
        Ok(())
    }

    /// Queues the close of a writer, as `Close::send` does.
    fn close(comm: &Comm, writer: Writer) -> Result<u32> {
        let close = Close::prepare(&FID, 2, 0)?;
        Ok(comm.submit(close.prepared, None, Some(writer), |_| {})?.0)
    }

    #[test]
    fn what_modifies_is_held_back() -> Result {
        let comm = Comm::new(Containers::alloc()?)?;
        let state = WriteState::alloc()?;
        let (clean, dirty) = (Writer::new(state.clone()), Writer::new(state.clone()));
        let clean = close(&comm, clean)?;
        state.modify();
        let dirty = close(&comm, dirty)?;
        let msg = Message::open_by_fd(&FID, 0x12)?;
        let truncation = state.truncate();
        let (truncating, _) = comm.submit(
            Request::prepare(msg, false)?,
            Some(truncation.after()),
            None,
            |_| {},
        )?;
        // Of another file.
        let (other, _) = send(&comm, Message::statfs()?)?;
        assert_eq!(read(&comm)?.1, clean);
        assert_eq!(read(&comm)?.1, other);
        assert!(!comm.has_pending());
        assert!(comm.take(ROOM, true).err() == Some(EAGAIN));
        answer(&comm, clean, 0, &[])?;
        assert!(comm.has_pending());
        assert_eq!(read(&comm)?.1, dirty);
        assert_eq!(read(&comm)?.1, truncating);
        comm.hang_up();
        truncation.over(None);
        Ok(())
    }

    #[test]
    fn doubt_waits_for_other_states() -> Result {
        let comm = Comm::new(Containers::alloc()?)?;
        let (one, other) = (WriteState::alloc()?, WriteState::alloc()?);
        let clean = close(&comm, Writer::new(one.clone()))?;
        let dirty = Writer::new(other.clone());
        other.doubt();
        let dirty = close(&comm, dirty)?;
        // It came later, and holds up nothing.
        let later = close(&comm, Writer::new(one))?;
        assert_eq!(read(&comm)?.1, clean);
        assert_eq!(read(&comm)?.1, later);
        assert!(!comm.has_pending());
        answer(&comm, clean, 0, &[])?;
        assert_eq!(read(&comm)?.1, dirty);
        comm.hang_up();
        Ok(())
    }

    #[test]
    fn unread_messages_get_the_new_fid() -> Result {
        let comm = Comm::new(Containers::alloc()?)?;
        send(&comm, Message::root()?)?;
        send(&comm, Message::getattr(&FID)?)?;
        send(&comm, Message::getattr(&FID)?)?;
        comm.replace_fid(&OTHER, &Fid([0; 4]));
        read(&comm)?;
        let fid_read = || -> Result<Fid> {
            let taken = comm.take(ROOM, true)?;
            let mut decoder = Decoder::new(taken.parts().0);
            decoder.header()?;
            for _ in 0..3 {
                decoder.u32()?;
            }
            decoder.fid()
        };
        assert!(fid_read()? == FID);
        comm.replace_fid(&FID, &OTHER);
        assert!(fid_read()? == OTHER);
        comm.hang_up();
        Ok(())
    }

    #[test]
    fn doubts_have_a_limit() -> Result {
        let comm = Comm::new(Containers::alloc()?)?;
        let fid = |n: usize| Fid([n as u32, 0, 0, 0]);
        comm.doubt(&FID, Doubt::Haunted);
        assert!(comm.doubt_about(&FID) == Some(Doubt::Haunted));
        assert!(comm.doubt_about(&OTHER).is_none());
        comm.replace_fid(&FID, &OTHER);
        assert!(comm.doubt_about(&OTHER) == Some(Doubt::Haunted));
        comm.doubt(&FID, Doubt::Doubtful);
        comm.doubt(&FID, Doubt::Haunted);
        assert!(comm.doubt_about(&FID) == Some(Doubt::Doubtful));
        assert!(comm.doubt_about(&OTHER) == Some(Doubt::Haunted));
        // Those two, and as many as there is room for.
        for n in 2..Doubts::MOST {
            comm.doubt(&fid(n), Doubt::Haunted);
            comm.doubt(&fid(n), Doubt::Haunted);
        }
        assert!(comm.doubt_about(&fid(Doubts::MOST)).is_none());
        comm.doubt(&fid(0), Doubt::Haunted);
        assert!(comm.doubt_about(&fid(Doubts::MOST)) == Some(Doubt::Doubtful));
        Ok(())
    }
}
