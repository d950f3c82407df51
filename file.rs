#![deny(unsafe_code)]
// SPDX-License-Identifier: GPL-2.0

//! Open files: the container, I/O on it, and the close.

use crate::{
    cnode,
    containers::Entered,
    inode::{comm, Coda},
    report::{failed_write_modifies, WriteState, Writer},
    tally,
    trace::How,
    upcall::{done, Close, Comm, Doubt},
    vfs::{
        errno::EOPNOTSUPP,
        file::{access, IoEnd, Opening, PinnedInode, ReadIo, SpliceRead, WriteIo, WriteKind},
        inode::mode,
        BackingFile, BackingHooks, File, INode,
    },
    wire::{cflags, Intent, Message},
};
use kernel::{
    fs::file::flags,
    prelude::*,
    sync::{
        atomic::{Atomic, Relaxed},
        Arc,
    },
};

/// The data of an open file.
pub(crate) struct CodaFile {
    /// The file that the cache manager keeps the content in.
    pub(crate) container: BackingFile<OpenState>,
    /// Whether the cache manager wants to hear of accesses: assumed until it says otherwise.
    intents: Atomic<i32>,
}

/// An open that the cache manager knows of.
///
/// It hangs on the container: it is dropped when the file is closed and the last mapping is gone,
/// and that is when the cache manager hears of the close.
pub(crate) struct OpenState {
    inode: PinnedInode<Coda>,
    comm: Arc<Comm>,
    /// Taken when it is sent.
    close: Option<Close>,
    writer: Option<Writer>,
    /// The state that modifications are noted in, if the file is open for writing.
    write: Option<Arc<WriteState>>,
    /// If it is: its entry among all containers, dropped after the close is sent.
    entered: Option<Entered>,
}

impl OpenState {
    /// Where to note that the file was modified.
    pub(crate) fn write_state(&self) -> Option<&WriteState> {
        self.write.as_deref()
    }

    /// Something modified the file, or may have. Does not sleep.
    pub(crate) fn modify(&self, how: How) {
        if self.write_state().is_some_and(WriteState::modify) {
            self.tell_modified(how);
        }
    }

    #[cold]
    fn tell_modified(&self, how: How) {
        tally::modified(&self.inode.data().fid(), how);
    }

    /// The content may change at any time from now on, closed or not.
    pub(crate) fn doubt(&self) {
        cnode::doubt(&self.inode, How::Other);
        if let Some(entered) = &self.entered {
            entered.held();
        }
    }
}

impl Drop for OpenState {
    fn drop(&mut self) {
        if let Some(state) = self.write_state() {
            cnode::remember_modified(&self.inode, state);
        }
        if let Some(close) = self.close.take() {
            close.send(&self.comm, || self.inode.data().fid(), self.writer.take());
        }
    }
}

/// The protocol's flags of an open: as `coda_flags_to_cflags()`, with the exclusive bit gone.
fn open_flags(file_flags: u32) -> u32 {
    let mut flags = access_flags(file_flags);
    if file_flags & flags::O_TRUNC != 0 {
        flags |= cflags::TRUNC;
    }
    if file_flags & flags::O_CREAT != 0 {
        flags |= cflags::CREAT;
    }
    flags
}

/// The protocol's flags of a close: the VFS has forgotten all but the access mode by then.
fn access_flags(file_flags: u32) -> u32 {
    match file_flags & access::O_ACCMODE {
        access::O_WRONLY => cflags::WRITE,
        access::O_RDWR => cflags::READ | cflags::WRITE,
        flags::O_RDONLY => cflags::READ,
        // 3, for ioctls alone: the C module sends neither bit.
        _ => 0,
    }
}

impl CodaFile {
    /// Opens the container. As `coda_open()`, but that errors are those of the cache manager.
    pub(crate) fn open(inode: &INode<Coda>, file: &Opening<'_, Coda>) -> Result<Self> {
        let comm = comm(inode);
        let fid = inode.data().fid();
        let file_flags = file.flags();
        let wants_write = access_flags(file_flags) & cflags::WRITE != 0;
        // What the close takes is there before the cache manager hears of the open.
        let close = Close::prepare(&fid, access_flags(file_flags), file.fsuid())?;
        let write = match wants_write {
            true => cnode::account(inode)?.cloned(),
            false => None,
        };
        let mut writer = write.clone().map(Writer::new);
        // The cache manager truncates when it opens, and the VFS sends a `setattr` as well. A file
        // that this open has made has nothing to lose; but the name may have been there after all,
        // or somebody may have written since: that is known in the end.
        let truncates = file_flags & flags::O_TRUNC != 0;
        let known = || inode.data().times_marked().zip(comm.epoch().number());
        let is_empty = |known: Option<(u16, u32)>| known.is_some() && inode.size() == 0;
        let before = known();
        let was_new = file.created() && is_empty(before);
        let truncation = match truncates {
            true => cnode::truncate(inode)?,
            false => None,
        };
        let after = truncation.as_ref().map(cnode::Truncation::after);
        let on_its_way = match write {
            Some(_) => Some(comm.containers().before_open()?),
            None => None,
        };
        let host = comm.open(&fid, open_flags(file_flags), after);
        let opened = done(&host);
        let now = known();
        let stayed_new = opened == Some(true) && was_new && is_empty(now) && now == before;
        let truncated = match opened {
            // Of a writer's alone it is known that nobody else's is cleared meanwhile.
            Some(true) if wants_write && stayed_new => Some(false),
            other => other,
        };
        if truncates && !stayed_new && opened != Some(false) {
            inode.data().flag(cnode::TRUNCATED);
        }
        if let Some(truncation) = truncation {
            truncation.over(truncated);
        }
        if opened.is_none() {
            if let Some(writer) = writer.take() {
                cnode::remember(inode, Doubt::Haunted);
                writer.abandon();
                if let Some(state) = &write {
                    cnode::remember_modified(inode, state);
                }
            }
        }
        let host = host?;
        let entered = match (&write, on_its_way) {
            (Some(write), Some(on_its_way)) => {
                let (entered, doubtful) = on_its_way.enter(comm, &host, write);
                if doubtful {
                    cnode::doubt(inode, How::Other);
                }
                Some(entered)
            }
            _ => None,
        };
        // From here on, whatever fails, the cache manager gets a close.
        let state = OpenState {
            inode: file.pin_inode(),
            comm: comm.clone(),
            close: Some(close),
            writer,
            write,
            entered,
        };
        Ok(Self {
            container: BackingFile::open(file, &host, state)?,
            intents: Atomic::new(1),
        })
    }

    /// Whether accesses are announced, as far as is known.
    fn announces(&self) -> bool {
        self.intents.load(Relaxed) != 0
    }

    /// Announces an access, unless the cache manager does not want to hear of any.
    pub(crate) fn intend(
        &self,
        file: &File<Coda>,
        count: usize,
        position: i64,
        kind: Intent,
    ) -> Result {
        if !self.announces() {
            return Ok(());
        }
        let inode = file.inode();
        match comm(inode).intent(&inode.data().fid(), count, position, kind) {
            Err(err) if err == EOPNOTSUPP => {
                self.intents.store(0, Relaxed);
                Ok(())
            }
            other => other,
        }
    }

    /// Announces an access, makes it, and says when it is over. `access` learns if it must not be
    /// made, and why.
    fn with_intent<R>(
        &self,
        file: &File<Coda>,
        (count, position): (usize, i64),
        (before, after): (Intent, Intent),
        access: impl FnOnce(Result) -> R,
    ) -> R {
        if !self.announces() {
            return access(Ok(()));
        }
        if let Err(err) = self.intend(file, count, position, before) {
            return access(Err(err));
        }
        let result = access(Ok(()));
        // Nobody waits for an answer to this one.
        let _ = self.intend(file, count, position, after);
        result
    }
}

/// The data of a file in use.
pub(crate) fn handle(file: &File<Coda>) -> Result<&CodaFile> {
    file.handle().ok_or(EBADF)
}

const READ: (Intent, Intent) = (Intent::Read, Intent::ReadFinish);
const WRITE: (Intent, Intent) = (Intent::Write, Intent::WriteFinish);

/// As `coda_file_read_iter()`. Who does not want to wait has to, where the cache manager wants to be
/// asked: he gets `EAGAIN`, and asks again where he can wait.
pub(crate) fn read<'a>(file: &File<Coda>, io: ReadIo<'a>) -> IoEnd<'a> {
    let this = match handle(file) {
        Ok(this) => this,
        Err(err) => return io.refuse(err),
    };
    if io.is_nowait() && this.announces() {
        return io.refuse(EAGAIN);
    }
    let range = (io.count(), io.position());
    this.with_intent(file, range, READ, |may| match may {
        Ok(()) => this.container.read(io),
        Err(err) => io.refuse(err),
    })
}

/// Writes to the container, with the inode locked. What comes of it is noted in `write_ended`, but
/// for this: ext4 and tmpfs make a file longer by a write beyond its end of which they then find that
/// there is nothing to write, as its memory is bad. Such a write fails.
fn write_locked<'a>(this: &CodaFile, file: &File<Coda>, io: WriteIo<'a, Coda>) -> IoEnd<'a> {
    let size = this.container.size();
    let end = this.container.write(io);
    if end.count().is_none() && this.container.size() != size {
        modified(this, file);
    }
    end
}

/// As `coda_file_write_iter()`; what the container takes decides. `ENXIO` if the cache manager is gone:
/// nobody would store it.
pub(crate) fn write<'a>(file: &File<Coda>, io: WriteIo<'a, Coda>) -> IoEnd<'a> {
    let this = match handle(file) {
        Ok(this) => this,
        Err(err) => return io.refuse(err),
    };
    if comm(file.inode()).is_over() {
        return io.refuse(ENXIO);
    }
    // The host's word for it would leave open whether it wrote anything, where that is not known
    // anyway: see `failed_write_modifies`.
    let is_known = this.container.hooks().is_settled();
    if !is_known && io.count() > 0 && !io.source_is_readable() {
        return io.refuse(EFAULT);
    }
    let range = (io.count(), io.position());
    if io.is_nowait() {
        if this.announces() {
            return io.refuse(EAGAIN);
        }
        let Some(_lock) = file.inode().try_lock() else {
            return io.refuse(EAGAIN);
        };
        // Set-id bits are taken away by the cache manager.
        if file.inode().mode() & (mode::S_ISUID | mode::S_ISGID) != 0 {
            return io.refuse(EAGAIN);
        }
        return write_locked(this, file, io);
    }
    this.with_intent(file, range, WRITE, |may| {
        if let Err(err) = may {
            return io.refuse(err);
        }
        // Announced, as C does, but nothing else comes of it.
        if io.count() == 0 {
            return io.nothing();
        }
        let _lock = file.inode().lock();
        write_locked(this, file, io)
    })
}

/// Content or length were changed through this open.
fn modified(this: &CodaFile, file: &File<Coda>) {
    this.container.hooks().modify(How::Write);
    let inode = file.inode();
    this.container.copy_size(inode);
    inode.touch();
}

/// A write ended: takes note of it.
pub(crate) fn write_ended(file: &File<Coda>, result: Result<usize>, mut kind: WriteKind) {
    let Some(this) = file.handle() else { return };
    let modifies = match result {
        Ok(count) => count > 0,
        Err(err) => {
            kind.familiar = this.container.is_familiar();
            kind.sync |= this.container.is_sync();
            kind.direct |= this.container.was_direct();
            failed_write_modifies(err, kind)
        }
    };
    if modifies {
        modified(this, file);
    }
}

/// As `coda_file_splice_read()`.
pub(crate) fn splice_read<'a>(file: &File<Coda>, io: SpliceRead<'a>) -> IoEnd<'a> {
    let this = match handle(file) {
        Ok(this) => this,
        Err(err) => return io.refuse(err),
    };
    let range = (io.count(), io.position());
    this.with_intent(file, range, READ, |may| match may {
        Ok(()) => this.container.splice_read(io),
        Err(err) => io.refuse(err),
    })
}

/// As `coda_fsync()`. The cache manager's handler needs no lock of the inode.
pub(crate) fn fsync(file: &File<Coda>, datasync: bool) -> Result {
    handle(file)?.container.fsync(datasync)?;
    if datasync {
        return Ok(());
    }
    let inode = file.inode();
    comm(inode).upcall(Message::fsync(&inode.data().fid())?)?;
    Ok(())
}

/// Allocates or frees space in the container; the C module has no such thing. The cache manager sees
/// it at the close, as it sees a write.
pub(crate) fn fallocate(file: &File<Coda>, mode: i32, offset: i64, len: i64) -> Result {
    let this = handle(file)?;
    let count = usize::try_from(len).unwrap_or(usize::MAX);
    this.with_intent(file, (count, offset), WRITE, |may| {
        may?;
        let inode = file.inode();
        if comm(inode).is_over() {
            return Err(ENXIO);
        }
        let lock = inode.lock();
        // Tells `OpenState` of a modification, by its hooks.
        let result = this.container.fallocate(file, &lock, (mode, offset, len));
        // A host that runs out of space keeps what it has got.
        this.container.copy_size(inode);
        if result.is_ok() {
            inode.touch();
        }
        result
    })
}
