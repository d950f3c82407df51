// SPDX-License-Identifier: GPL-2.0

//! System calls on a mounted volume.

use crate::faults::{Injector, Tally};
use coda_proto::{C_O_NO_WRITES, C_O_READ, C_O_WRITE};
use coda_selftests::map::{Map, PAGE};
use coda_selftests::pioctl::pioctl;
use coda_selftests::sys;
use ktest::{Case, Context, Ctx, Event, Result, Watch, bail, ensure, ensure_eq, path_c};
use libc::{MADV_REMOVE, MAP_SHARED, PROT_READ, PROT_WRITE};
use nix::errno::Errno;
use nix::fcntl::{OFlag, PosixFadviseAdvice, posix_fadvise};
use nix::sys::stat::Mode;
use nix::sys::uio;
use nix::unistd::{ForkResult, Whence, fork, lseek, pipe};
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::ffi::CStr;
use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

/// Something to do whose allocations fail.
struct Op {
    name: &'static str,
    what: &'static str,
    /// Errors that are as good as ENOMEM, and why.
    also: &'static [(Errno, &'static str)],
    /// Why no attempt need fail.
    copes: Option<&'static str>,
    /// Why a close may say "modified" though nothing was.
    overstates: Option<&'static str>,
    body: fn(&Attempt<'_>) -> Result<()>,
}

impl Op {
    const fn new(
        name: &'static str,
        what: &'static str,
        body: fn(&Attempt<'_>) -> Result<()>,
    ) -> Self {
        Op {
            name,
            what,
            also: &[],
            copes: None,
            overstates: None,
            body,
        }
    }

    const fn also(mut self, also: &'static [(Errno, &'static str)]) -> Self {
        self.also = also;
        self
    }

    const fn copes(mut self, why: &'static str) -> Self {
        self.copes = Some(why);
        self
    }

    const fn overstates(mut self, why: &'static str) -> Self {
        self.overstates = Some(why);
        self
    }

    fn case(&'static self) -> Case {
        Case::new(self.name, self.what, move |ctx| {
            let injector = Injector::new()?;
            let tally = Tally::of(self.copes, |round, n| {
                let attempt = Attempt::new(self, ctx, &injector, round, n)?;
                (self.body)(&attempt)?;
                let (delivered, felt) = (attempt.delivered.get(), attempt.felt.get());
                Ok((delivered.context("the case does nothing")?, felt))
            })?;
            tally.conclude(self.name, self.copes)
        })
        .seconds(100)
    }
}

/// One attempt, with a directory of its own.
struct Attempt<'a> {
    op: &'static Op,
    ctx: &'a Ctx<'a>,
    injector: &'a Injector,
    n: u32,
    /// The directory's name.
    dir: String,
    /// The directory, through Coda.
    here: PathBuf,
    /// The same behind the mount.
    behind: PathBuf,
    watch: RefCell<Watch>,
    delivered: Cell<Option<bool>>,
    felt: Cell<bool>,
}

const OLD: &[u8] = b"twelve bytes";
const PAGES: usize = 3;

/// Pages of one letter.
fn pages(letter: u8) -> Vec<u8> {
    vec![letter; PAGES * PAGE]
}

impl<'a> Attempt<'a> {
    fn new(
        op: &'static Op,
        ctx: &'a Ctx<'a>,
        injector: &'a Injector,
        round: u32,
        n: u32,
    ) -> Result<Self> {
        let fixture = ctx.fixture();
        let dir = format!("{}-{round}-{n}", ctx.name);
        let attempt = Attempt {
            op,
            ctx,
            injector,
            n,
            here: fixture.mnt.join(&dir),
            behind: fixture.root.join(&dir),
            dir,
            watch: RefCell::new(fixture.watch()?),
            delivered: Cell::new(None),
            felt: Cell::new(false),
        };
        fs::create_dir(&attempt.behind)?;
        fs::metadata(&attempt.here)?;
        Ok(attempt)
    }

    /// Makes the call with one allocation failing. What it gives is a success,
    /// or an error that is allowed.
    fn armed<R>(&self, call: impl FnOnce() -> Result<R, Errno>) -> Result<Result<R, Errno>> {
        self.armed_or(&[], call)
    }

    /// The same, with errors that the call gives when there is memory, too.
    fn armed_or<R>(
        &self,
        usual: &[Errno],
        call: impl FnOnce() -> Result<R, Errno>,
    ) -> Result<Result<R, Errno>> {
        let (done, delivered) = self.injector.with(self.n, call)?;
        self.delivered.set(Some(delivered));
        if let Err(error) = &done {
            let other = self.op.also.iter().any(|(e, _)| e == error);
            let felt = *error == Errno::ENOMEM || other;
            ensure!(
                usual.contains(error) || felt && delivered,
                "the call gave {error}"
            );
            self.felt.set(felt && !usual.contains(error));
        }
        Ok(done)
    }

    /// A file that the kernel knows.
    fn file(&self, content: &[u8]) -> Result<PathBuf> {
        let path = self.here.join("f");
        fs::write(self.behind.join("f"), content)?;
        ensure_eq!(fs::metadata(&path)?.len(), content.len() as u64);
        Ok(path)
    }

    /// An open one.
    fn open(&self, content: &[u8], flags: OFlag) -> Result<OwnedFd> {
        Ok(sys::open(&self.file(content)?, flags)?)
    }

    /// What is visible of a name is the same on both sides.
    fn same(&self, name: &str) -> Result<()> {
        let there = fs::symlink_metadata(self.behind.join(name)).ok();
        let seen = fs::symlink_metadata(self.here.join(name)).ok();
        ensure_eq!(seen.is_some(), there.is_some(), "{name}: it is there");
        let (Some(seen), Some(there)) = (seen, there) else {
            return Ok(());
        };
        ensure_eq!(seen.file_type(), there.file_type(), "{name}: type");
        ensure_eq!(seen.mode(), there.mode(), "{name}: mode");
        ensure_eq!(seen.nlink(), there.nlink(), "{name}: links");
        ensure_eq!(seen.mtime() == 1, there.mtime() == 1, "{name}: time");
        let paths = [&self.here, &self.behind].map(|dir| dir.join(name));
        if there.is_symlink() {
            let [seen, there] = paths.map(fs::read_link);
            ensure_eq!(seen?, there?, "{name}: target");
        } else if there.is_file() {
            ensure_eq!(seen.len(), there.len(), "{name}: length");
            // Where nothing failed it has been read often enough elsewhere.
            if !self.felt.get() {
                return Ok(());
            }
            let [seen, there] = paths.map(fs::read);
            ensure!(seen? == there?, "{name}: content");
        }
        Ok(())
    }

    /// The directory is the same on both sides, with all the names that there
    /// could be in it.
    fn agrees(&self) -> Result<()> {
        for name in ["f", "g", "l", "d"] {
            self.same(name)?;
        }
        let dirs = [&self.here, &self.behind];
        let [seen, there] = dirs.map(|dir| names(dir));
        ensure_eq!(seen?, there?, "names");
        let [seen, there] = dirs.map(fs::metadata);
        ensure_eq!(seen?.nlink(), there?.nlink(), "links of the directory");
        Ok(())
    }

    /// The file, which held `before`, is closed again: every open for writing has
    /// had its close, and that says "modified" if the file is not what it was.
    /// `failed` says whether it must not otherwise.
    fn closed(&self, before: &[u8], failed: bool) -> Result<()> {
        let mut watch = self.watch.borrow_mut();
        let events = watch.update()?;
        let word = |e: &Event| e.number("flags").map_or(0, |word| word as u32);
        let writes = |op| {
            let requests = events.iter().filter(move |e| e.is_request(op));
            requests.filter(|e| word(e) & C_O_WRITE != 0)
        };
        let was_opened = |request: &&Event| {
            let good = |e: &Event| e.is_reply("OPEN_BY_FD") && e.number("result") == Some(0);
            let mut replies = events.iter().filter(|e| e.unique() == request.unique());
            replies.any(good)
        };
        let opens = writes("OPEN_BY_FD").filter(was_opened).count();
        let words: Vec<_> = writes("CLOSE").map(word).collect();
        ensure_eq!(words.len(), opens, "closes");
        let modified = words.iter().any(|word| word & C_O_NO_WRITES == 0);
        let changed = fs::read(self.behind.join("f"))? != before;
        ensure!(
            modified || !changed,
            "a modification is lost: CODA_CLOSE said {words:x?}"
        );
        ensure!(
            changed || !modified || !failed || self.op.overstates.is_some(),
            "nothing was modified, but CODA_CLOSE said {words:x?}"
        );
        *watch = self.ctx.fixture().watch()?;
        drop(watch);
        self.same("f")
    }

    fn fid(&self, name: &str) -> Result<String> {
        self.ctx.fixture().fid(&format!("{}/{name}", self.dir))
    }
}

fn names(dir: &Path) -> Result<BTreeSet<std::ffi::OsString>> {
    Ok(fs::read_dir(dir)?
        .map(|entry| entry.map(|entry| entry.file_name()))
        .collect::<Result<_, _>>()?)
}

/// 0, or -1 and `errno`.
fn done(ret: i32) -> Result<(), Errno> {
    sys::check(ret.into()).map(|_| ())
}

/// Something is done to a file that is open: what it is done by, and what it
/// gives when it succeeds.
struct Change {
    flags: OFlag,
    before: Vec<u8>,
    call: fn(&OwnedFd) -> Result<usize, Errno>,
    full: usize,
}

impl Change {
    fn of(before: Vec<u8>, full: usize, call: fn(&OwnedFd) -> Result<usize, Errno>) -> Self {
        Change {
            flags: OFlag::O_RDWR,
            before,
            call,
            full,
        }
    }

    /// Does it. The file has to hold `after` when it is done.
    fn check(self, t: &Attempt<'_>, after: &[u8]) -> Result<()> {
        let path = t.file(&self.before)?;
        for again in [false, true] {
            if again {
                fs::write(t.behind.join("f"), &self.before)?;
                t.ctx.fixture().downcall("ZAPFILE", Some(&t.fid("f")?))?;
            }
            let fd = sys::open(&path, self.flags)?;
            let got = match again {
                false => t.armed(|| (self.call)(&fd))?,
                true => Ok((self.call)(&fd).context("again")?),
            };
            sys::close(fd)?;
            t.closed(&self.before, got.is_err())?;
            let most = if again {
                Ok(self.full)
            } else {
                got.map(|n| n.min(self.full))
            };
            ensure_eq!(got, most, "what it gave");
            if got == Ok(self.full) {
                ensure!(
                    fs::read(t.behind.join("f"))? == after,
                    "it is not what was written"
                );
            }
            if got.is_ok() {
                break;
            }
        }
        Ok(())
    }
}

/// Something is done to names: `call`, and whether it has been done, seen from
/// behind. What it gives when it has been done already is `twice`. `whole`: if it
/// fails, nothing has been done.
fn renames(
    t: &Attempt<'_>,
    call: impl Fn() -> Result<(), Errno>,
    is_done: impl Fn() -> bool,
    twice: Errno,
    whole: bool,
) -> Result<()> {
    let got = t.armed(&call)?;
    match got {
        Ok(()) => ensure!(is_done(), "it was not done"),
        Err(error) => ensure!(!whole || !is_done(), "{error}, and it was done"),
    }
    t.agrees()?;
    let expected = if is_done() { Err(twice) } else { Ok(()) };
    ensure_eq!(call(), expected, "again");
    ensure!(is_done(), "again it was not done");
    t.agrees().context("again")
}

/// Something is asked for: it is told, or it is not.
fn asks<R: PartialEq + std::fmt::Debug>(
    t: &Attempt<'_>,
    call: impl Fn() -> Result<R, Errno>,
    answer: R,
) -> Result<()> {
    if let Ok(told) = t.armed(&call)? {
        ensure_eq!(told, answer);
    }
    ensure_eq!(call(), Ok(answer), "again");
    t.same("f")
}

fn stat(path: &Path) -> Result<i64, Errno> {
    nix::sys::stat::lstat(path).map(|stat| stat.st_size)
}

fn read_at<const N: usize>(fd: &OwnedFd, at: usize) -> Result<[u8; N], Errno> {
    let mut buffer = [0; N];
    uio::pread(fd, &mut buffer, at as i64)?;
    Ok(buffer)
}

/// Takes a file's pages out of memory, where the file system can.
fn forget_pages(path: &Path) -> Result<()> {
    let file = sys::open(path, OFlag::O_RDWR)?;
    nix::unistd::fsync(&file)?;
    Ok(posix_fadvise(
        &file,
        0,
        0,
        PosixFadviseAdvice::POSIX_FADV_DONTNEED,
    )?)
}

/// Opens the file, and closes it.
fn opens(t: &Attempt<'_>, flags: OFlag) -> Result<()> {
    let path = t.file(OLD)?;
    for again in [false, true] {
        let got = match again {
            false => t.armed(|| sys::open(&path, flags))?,
            true => Ok(sys::open(&path, flags).context("again")?),
        };
        let failed = got.is_err();
        if let Ok(fd) = got {
            sys::close(fd)?;
        }
        t.closed(OLD, failed)?;
        if !failed {
            break;
        }
    }
    let there = fs::read(t.behind.join("f"))?;
    ensure_eq!(there.is_empty(), flags.contains(OFlag::O_TRUNC));
    Ok(())
}

/// Makes a file by opening it.
fn creates(t: &Attempt<'_>, flags: OFlag) -> Result<()> {
    let path = t.here.join("f");
    let flags = flags | OFlag::O_CREAT | OFlag::O_WRONLY;
    if let Ok(fd) = t.armed(|| sys::open(&path, flags))? {
        sys::close(fd)?;
    }
    let made = t.behind.join("f").exists();
    if made {
        t.closed(b"", true)?;
    }
    t.agrees()?;
    match sys::open(&path, flags) {
        Err(Errno::EEXIST) if made && flags.contains(OFlag::O_EXCL) => {}
        other => drop(other.context("again")?),
    }
    ensure!(t.behind.join("f").exists(), "again it was not made");
    t.same("f")
}

/// Maps the file and does something with the mapping. Then a store goes through
/// it, if it is there and may be stored to.
fn maps(t: &Attempt<'_>, prot: i32, call: impl Fn(&mut Map) -> Result<(), Errno>) -> Result<()> {
    let before = pages(b'a');
    let path = t.file(&before)?;
    for again in [false, true] {
        let fd = sys::open(&path, OFlag::O_RDWR)?;
        let mut map = Map::new(&fd, PAGES * PAGE, prot, MAP_SHARED)?;
        sys::close(fd)?;
        let got = match again {
            false => t.armed(|| call(&mut map))?,
            true => Ok(call(&mut map).context("again")?),
        };
        if again {
            map.protect(PROT_READ | PROT_WRITE)?;
            map.store(2 * PAGE + 1, b'z');
        }
        drop(map);
        t.closed(&before, got.is_err())?;
        if got.is_ok() && !again {
            return Ok(());
        }
    }
    ensure_eq!(fs::read(t.behind.join("f"))?[2 * PAGE + 1], b'z');
    Ok(())
}

/// Lists an open directory to its end; each name once.
fn list(t: &Attempt<'_>) -> Result<()> {
    const NAMES: usize = 40;
    for n in 0..NAMES {
        fs::write(t.behind.join(format!("a-rather-long-name-{n}")), b"")?;
    }
    let open = || sys::open(&t.here, OFlag::O_RDONLY | OFlag::O_DIRECTORY);
    let mut dir = open()?;
    let mut buffer = [0u8; 1024];
    let mut seen = Vec::new();
    let mut armed = true;
    loop {
        let got = match armed {
            true => t.armed(|| sys::getdents(&dir, &mut buffer))?,
            false => sys::getdents(&dir, &mut buffer),
        };
        let len = match got {
            Ok(len) => len,
            Err(_) if armed => {
                armed = false;
                // Not by the same descriptor: ext4 keeps those names that it had found by then, and
                // takes them for all (ext4_dx_readdir()).
                dir = open()?;
                continue;
            }
            Err(error) => bail!("again it gave {error}"),
        };
        if len == 0 {
            ensure!(!armed, "it was empty");
            break;
        }
        armed = false;
        let mut rest = &buffer[..len];
        while !rest.is_empty() {
            // d_ino, d_off, d_reclen, d_type, d_name
            let record = usize::from(u16::from_ne_bytes([rest[16], rest[17]]));
            let name = CStr::from_bytes_until_nul(&rest[19..record])?;
            seen.push(name.to_str()?.to_owned());
            rest = &rest[record..];
        }
    }
    seen.retain(|name| name != "." && name != "..");
    let count = seen.len();
    let seen: BTreeSet<_> = seen.into_iter().map(Into::into).collect();
    ensure_eq!(count, seen.len(), "names, and different ones");
    ensure!(seen == names(&t.behind)?, "names are missing");
    Ok(())
}

/// Why a store, or the fault of one, need not fail.
const RETRIED: &str = "the fault is taken again";

/// What is done with files.
static FILES: &[Op] = &[
    Op::new("stat", "stat(2) of a name that is not known yet", |t| {
        fs::write(t.behind.join("f"), OLD)?;
        asks(t, || stat(&t.here.join("f")), OLD.len() as i64)
    }),
    Op::new("stat_missing", "stat(2) of a name that is not there", |t| {
        let path = t.here.join("f");
        let usual = [Errno::ENOENT];
        let got = t.armed_or(&usual, || stat(&path))?;
        ensure!(got.is_err(), "it is there");
        if got != Err(Errno::ENOENT) {
            // A failure is not remembered as an answer.
            fs::write(t.behind.join("f"), OLD)?;
            ensure_eq!(stat(&path), Ok(OLD.len() as i64), "again");
        }
        t.same("f")
    }),
    Op::new(
        "stat_again",
        "stat(2) when a downcall has made the attributes void",
        |t| {
            let path = t.file(OLD)?;
            fs::write(t.behind.join("f"), b"longer than twelve bytes")?;
            t.ctx.fixture().downcall("ZAPFILE", Some(&t.fid("f")?))?;
            asks(t, || stat(&path), 24)
        },
    )
    .also(&[(Errno::EIO, "as every error of such a stat, in C too")]),
    Op::new("access", "access(2)", |t| {
        let path = t.file(OLD)?;
        asks(
            t,
            || nix::unistd::access(&path, nix::unistd::AccessFlags::R_OK),
            (),
        )
    }),
    Op::new("open_read", "open(2), O_RDONLY", |t| {
        opens(t, OFlag::O_RDONLY)
    }),
    Op::new("open_write", "open(2), O_RDWR", |t| {
        opens(t, OFlag::O_RDWR)?;
        // No writer is left over: what one writes is not told of the next.
        let path = t.here.join("f");
        fs::write(&path, OLD)?;
        let mut watch = t.ctx.fixture().watch()?;
        sys::close(sys::open(&path, OFlag::O_RDWR)?)?;
        let closes = watch.requests("CLOSE", "")?;
        let words: Vec<_> = closes.iter().map(|close| close.number("flags")).collect();
        ensure_eq!(words, [Some((C_O_READ | C_O_WRITE | C_O_NO_WRITES).into())]);
        Ok(())
    }),
    Op::new("open_truncate", "open(2), O_TRUNC", |t| {
        opens(t, OFlag::O_WRONLY | OFlag::O_TRUNC)
    }),
    Op::new(
        "open_truncate_read",
        "open(2), O_RDWR|O_CREAT|O_TRUNC",
        |t| opens(t, OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_TRUNC),
    ),
    Op::new("create", "open(2), O_CREAT|O_TRUNC", |t| {
        creates(t, OFlag::O_TRUNC)
    }),
    Op::new("create_excl", "open(2), O_CREAT|O_EXCL", |t| {
        creates(t, OFlag::O_EXCL)
    }),
    Op::new("read", "read(2) of pages that are not in memory", |t| {
        let content = pages(b'r');
        let path = t.file(&content)?;
        forget_pages(&t.behind.join("f"))?;
        let fd = sys::open(&path, OFlag::O_RDONLY)?;
        if let Ok(got) = t.armed(|| read_at::<PAGE>(&fd, PAGE))? {
            ensure!(got == content[..PAGE], "content");
        }
        ensure!(
            read_at::<PAGE>(&fd, PAGE)? == content[..PAGE],
            "again: content"
        );
        sys::close(fd)?;
        t.closed(&content, true)
    })
    .copes("the pages of a tmpfs stay where they are"),
    Op::new("write", "write(2)", |t| {
        let call = |fd: &OwnedFd| nix::unistd::write(fd, &[b'w'; PAGES * PAGE]);
        Change::of(OLD.into(), PAGES * PAGE, call).check(t, &pages(b'w'))
    })
    .overstates("whether a host had copied before it had no memory, nobody knows"),
    Op::new("pwrite_beyond", "pwrite(2) beyond the end", |t| {
        let call = |fd: &OwnedFd| uio::pwrite(fd, b"far", 5 * PAGE as i64);
        let mut after = vec![0; 5 * PAGE];
        after[..OLD.len()].copy_from_slice(OLD);
        after.extend(b"far");
        Change::of(OLD.into(), 3, call).check(t, &after)
    })
    .overstates("whether a host had copied before it had no memory, nobody knows"),
    Op::new("append", "write(2) with O_APPEND", |t| {
        let call = |fd: &OwnedFd| nix::unistd::write(fd, b" and more");
        let mut change = Change::of(OLD.into(), 9, call);
        change.flags |= OFlag::O_APPEND;
        change.check(t, b"twelve bytes and more")
    })
    .overstates("whether a host had copied before it had no memory, nobody knows"),
    Op::new("writev", "pwritev2(2) with RWF_DSYNC", |t| {
        let call = |fd: &OwnedFd| sys::pwritev2(fd, b"synced", 0, libc::RWF_DSYNC);
        Change::of(OLD.into(), 6, call).check(t, b"synced bytes")
    })
    .overstates("whether a write is in the file when it cannot be made durable, nobody knows"),
    Op::new("ftruncate", "ftruncate(2)", |t| {
        let call = |fd: &OwnedFd| nix::unistd::ftruncate(fd, 6).map(|()| 0);
        Change::of(OLD.into(), 0, call).check(t, b"twelve")
    }),
    Op::new(
        "ftruncate_longer",
        "ftruncate(2) to make a file longer",
        |t| {
            let call = |fd: &OwnedFd| nix::unistd::ftruncate(fd, 14).map(|()| 0);
            Change::of(OLD.into(), 0, call).check(t, b"twelve bytes\0\0")
        },
    ),
    Op::new("truncate", "truncate(2)", |t| {
        let path = t.file(OLD)?;
        let there = t.behind.join("f");
        for again in [false, true] {
            let call = || nix::unistd::truncate(&path, 6);
            let got = if again { call() } else { t.armed(call)? };
            let len = fs::metadata(&there)?.len();
            ensure_eq!(
                len,
                if got.is_ok() { 6 } else { 12 },
                "length after {got:?}"
            );
            ensure!(!again || got.is_ok(), "again it gave {got:?}");
            t.same("f")?;
            if got.is_ok() {
                break;
            }
        }
        Ok(())
    }),
    Op::new("fallocate", "fallocate(2)", |t| {
        let call = |fd: &OwnedFd| sys::fallocate(fd, 0, 0, 2 * PAGE as i64).map(|()| 0);
        let mut after = OLD.to_vec();
        after.resize(2 * PAGE, 0);
        Change::of(OLD.into(), 0, call).check(t, &after)
    })
    .overstates("a part may be allocated, whatever the error says"),
    Op::new("punch", "fallocate(2), FALLOC_FL_PUNCH_HOLE", |t| {
        const MODE: i32 = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        let call = |fd: &OwnedFd| sys::fallocate(fd, MODE, 0, PAGE as i64).map(|()| 0);
        let mut after = pages(b'p');
        after[..PAGE].fill(0);
        Change::of(pages(b'p'), 0, call).check(t, &after)
    })
    .copes("where the pages are there, a tmpfs takes no memory")
    .overstates("a part may be gone, whatever the error says"),
    Op::new("fsync", "fsync(2)", |t| {
        let fd = t.open(OLD, OFlag::O_RDWR)?;
        sys::write(&fd, b"TWELVE")?;
        t.armed(|| nix::unistd::fsync(&fd))?.ok();
        nix::unistd::fsync(&fd).context("again")?;
        sys::close(fd)?;
        t.closed(OLD, true)
    }),
    Op::new("close", "close(2)", |t| {
        let fd = t.open(OLD, OFlag::O_RDWR)?;
        sys::write(&fd, b"TWELVE")?;
        let closed = t.armed(|| sys::close(fd))?;
        ensure_eq!(closed, Ok(()));
        t.closed(OLD, true)
    })
    .copes("all that it takes was set aside by the open"),
    Op::new(
        "close_clean",
        "close(2) of a file that was not modified",
        |t| {
            let fd = t.open(OLD, OFlag::O_RDWR)?;
            let closed = t.armed(|| sys::close(fd))?;
            ensure_eq!(closed, Ok(()));
            t.closed(OLD, true)
        },
    )
    .copes("all that it takes was set aside by the open"),
    Op::new("lseek", "lseek(2)", |t| {
        let fd = t.open(OLD, OFlag::O_RDWR)?;
        let got = t.armed(|| lseek(&fd, 0, Whence::SeekEnd))?;
        ensure_eq!(got, Ok(12));
        sys::close(fd)?;
        t.closed(OLD, true)
    })
    .copes("it takes no memory"),
    Op::new("splice_in", "splice(2) from a pipe", |t| {
        let before = pages(b's');
        let fd = t.open(&before, OFlag::O_RDWR)?;
        let pipe = sys::pipe_with(b"out of a pipe")?;
        let got = t.armed(|| sys::splice(&pipe, &fd, 13))?;
        sys::close(fd)?;
        t.closed(&before, got.is_err())?;
        let fd = sys::open(&t.here.join("f"), OFlag::O_RDWR)?;
        let pipe = sys::pipe_with(b"out of a pipe")?;
        ensure_eq!(sys::splice(&pipe, &fd, 13), Ok(13), "again");
        sys::close(fd)?;
        ensure!(fs::read(t.behind.join("f"))?.starts_with(b"out of a pipe"));
        t.closed(&before, false)
    })
    .overstates("whether a host had copied before it had no memory, nobody knows"),
    Op::new("splice_out", "splice(2) to a pipe", |t| {
        let content = pages(b's');
        let fd = t.open(&content, OFlag::O_RDONLY)?;
        let (read, write) = pipe()?;
        // What an attempt takes out of the file is in the pipe, and nowhere else.
        let first = t.armed(|| sys::splice(&fd, &write, PAGE))?.unwrap_or(0);
        let at = lseek(&fd, 0, Whence::SeekCur)?;
        ensure_eq!(at, first as i64, "the position");
        let then = sys::splice(&fd, &write, PAGE).context("again")?;
        let mut buffer = vec![0; first + then];
        ensure_eq!(nix::unistd::read(&read, &mut buffer)?, first + then);
        ensure!(buffer == content[..first + then], "content");
        sys::close(fd)?;
        t.closed(&content, true)
    }),
    Op::new("sendfile_in", "sendfile(2) from another file", |t| {
        let source = t.behind.join("source");
        fs::write(&source, b"another file's")?;
        let source = sys::open(&source, OFlag::O_RDONLY)?;
        let before = pages(b's');
        let fd = t.open(&before, OFlag::O_RDWR)?;
        let got = t.armed(|| sys::sendfile(&source, &fd, 14))?;
        sys::close(fd)?;
        t.closed(&before, got.is_err())?;
        let fd = sys::open(&t.here.join("f"), OFlag::O_RDWR)?;
        lseek(&source, 0, Whence::SeekSet)?;
        ensure_eq!(sys::sendfile(&source, &fd, 14), Ok(14), "again");
        sys::close(fd)?;
        ensure!(fs::read(t.behind.join("f"))?.starts_with(b"another file's"));
        t.closed(&before, false)
    }),
    Op::new("sendfile_out", "sendfile(2) to another file", |t| {
        let fd = t.open(OLD, OFlag::O_RDONLY)?;
        let target = t.behind.join("target");
        let target = sys::open(&target, OFlag::O_CREAT | OFlag::O_RDWR)?;
        let first = t.armed(|| sys::sendfile(&fd, &target, 12))?.unwrap_or(0);
        let then = sys::sendfile(&fd, &target, 12).context("again")?;
        ensure_eq!(first + then, 12);
        ensure_eq!(fs::read(t.behind.join("target"))?, OLD);
        sys::close(fd)?;
        t.closed(OLD, true)
    }),
    Op::new("mmap", "mmap(2), shared, for reading and writing", |t| {
        let before = pages(b'a');
        let path = t.file(&before)?;
        for again in [false, true] {
            let fd = sys::open(&path, OFlag::O_RDWR)?;
            let call = || Map::shared(&fd, PAGES * PAGE);
            let got = if again { call() } else { t.armed(call)? };
            ensure!(!again || got.is_ok(), "again it gave {:?}", got.err());
            let failed = got.is_err();
            sys::close(fd)?;
            if let Ok(map) = got {
                map.store(PAGE, b'z');
            }
            t.closed(&before, failed)?;
            if !failed {
                break;
            }
        }
        ensure_eq!(fs::read(t.behind.join("f"))?[PAGE], b'z');
        Ok(())
    }),
    Op::new("map_store", "the first stores through a mapping", |t| {
        maps(t, PROT_READ | PROT_WRITE, |map| {
            map.store(1, b'y');
            map.store(2 * PAGE, b'y');
            Ok(())
        })
    })
    .copes(RETRIED),
    Op::new("map_load", "the first loads through a mapping", |t| {
        maps(t, PROT_READ, |map| {
            map.load(1);
            map.load(2 * PAGE);
            Ok(())
        })
    })
    .copes(RETRIED),
    Op::new("map_store_read", "read(2) into a mapping", |t| {
        let zero = sys::open(Path::new("/dev/zero"), OFlag::O_RDONLY)?;
        maps(t, PROT_READ | PROT_WRITE, |map| {
            // SAFETY: the kernel writes to a mapping of ours.
            let n = unsafe { libc::read(zero.as_raw_fd(), map.address().cast(), 2 * PAGE) };
            sys::check(n as i64).map(|_| ())
        })
    })
    .also(&[(Errno::EFAULT, "as for any memory that cannot be had")])
    .copes("where the pages are there, a tmpfs takes no memory")
    .overstates("a page was made writable, and then nothing was stored"),
    Op::new("mprotect", "mprotect(2) of the middle of a mapping", |t| {
        maps(t, PROT_READ, |map| {
            // SAFETY: a page of the mapping.
            done(unsafe {
                libc::mprotect(map.address().add(PAGE).cast(), PAGE, PROT_READ | PROT_WRITE)
            })
        })
    }),
    Op::new("mremap", "mremap(2) of a mapping to a longer one", |t| {
        maps(t, PROT_READ | PROT_WRITE, |map| map.remap(64 * PAGE))
    }),
    Op::new(
        "mremap_double",
        "mremap(2) that makes a second mapping",
        |t| maps(t, PROT_READ | PROT_WRITE, |map| map.double().map(drop)),
    ),
    Op::new("munmap", "munmap(2) of the middle of a mapping", |t| {
        maps(t, PROT_READ | PROT_WRITE, |map| {
            map.store(2 * PAGE, b'y');
            // SAFETY: pages of the mapping, which are mapped anew at once.
            unsafe {
                let middle = map.address().add(PAGE);
                done(libc::munmap(middle.cast(), PAGE))?;
                let flags = libc::MAP_FIXED | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
                let prot = PROT_READ | PROT_WRITE;
                let got = libc::mmap(middle.cast(), PAGE, prot, flags, -1, 0);
                sys::check(got as i64).map(|_| ())
            }
        })
    }),
    Op::new("madv_remove", "madvise(2), MADV_REMOVE", |t| {
        maps(t, PROT_READ | PROT_WRITE, |map| {
            map.advise_pages(0, 1, MADV_REMOVE)
        })
    })
    .copes("where the pages are there, a tmpfs takes no memory")
    .overstates("a part may be gone, whatever the error says"),
    Op::new("msync", "msync(2)", |t| {
        maps(t, PROT_READ | PROT_WRITE, |map| {
            map.store(0, b'y');
            map.sync()
        })
    })
    .copes("a tmpfs has nothing to write back"),
    Op::new("fork", "fork(2) with a mapping", |t| {
        let path = t.file(&pages(b'a'))?;
        let fd = sys::open(&path, OFlag::O_RDWR)?;
        let map = Map::shared(&fd, PAGES * PAGE)?;
        sys::close(fd)?;
        for again in [false, true] {
            // SAFETY: this process has one thread.
            let call = || match unsafe { fork() }? {
                ForkResult::Child => {
                    map.store(PAGE, b'z');
                    // SAFETY: does not return and touches no memory.
                    unsafe { libc::_exit(0) }
                }
                ForkResult::Parent { child } => Ok(child),
            };
            let got = if again { call() } else { t.armed(call)? };
            match got {
                Ok(child) => {
                    nix::sys::wait::waitpid(child, None)?;
                    break;
                }
                Err(error) => ensure!(!again, "again it gave {error}"),
            }
        }
        drop(map);
        t.closed(&pages(b'a'), false)?;
        ensure_eq!(fs::read(t.behind.join("f"))?[PAGE], b'z');
        Ok(())
    })
    .also(&[(
        Errno::EAGAIN,
        "as fork(2) has it where there can be no more tasks",
    )]),
];

/// What is done with names.
static NAMES: &[Op] = &[
    Op::new("mkdir", "mkdir(2)", |t| {
        let (path, there) = (t.here.join("d"), t.behind.join("d"));
        let call = || nix::unistd::mkdir(&path, Mode::from_bits_truncate(0o755));
        renames(t, call, || there.exists(), Errno::EEXIST, false)
    }),
    Op::new("rmdir", "rmdir(2)", |t| {
        let (path, there) = (path_c(&t.here.join("d")), t.behind.join("d"));
        // Not behind the kernel's back, which knows how many links the directory above has.
        fs::create_dir(t.here.join("d"))?;
        t.agrees()?;
        // SAFETY: a string that ends.
        let call = || done(unsafe { libc::rmdir(path.as_ptr()) });
        renames(t, call, || !there.exists(), Errno::ENOENT, true)
    }),
    Op::new("unlink", "unlink(2)", |t| {
        let path = t.file(OLD)?;
        let there = t.behind.join("f");
        renames(
            t,
            || nix::unistd::unlink(&path),
            || !there.exists(),
            Errno::ENOENT,
            true,
        )
    }),
    Op::new("rename", "rename(2)", |t| {
        let (from, to) = (path_c(&t.file(OLD)?), path_c(&t.here.join("g")));
        let there = t.behind.join("g");
        // SAFETY: strings that end.
        let call = || done(unsafe { libc::rename(from.as_ptr(), to.as_ptr()) });
        renames(t, call, || there.exists(), Errno::ENOENT, true)
    }),
    Op::new("rename_over", "rename(2) over another file", |t| {
        let (from, to) = (path_c(&t.file(OLD)?), path_c(&t.here.join("g")));
        fs::write(t.behind.join("g"), b"another")?;
        t.agrees()?;
        let there = t.behind.join("f");
        // SAFETY: strings that end.
        let call = || done(unsafe { libc::rename(from.as_ptr(), to.as_ptr()) });
        renames(t, call, || !there.exists(), Errno::ENOENT, true)
    }),
    Op::new("link", "link(2)", |t| {
        let (from, to) = (path_c(&t.file(OLD)?), path_c(&t.here.join("g")));
        let there = t.behind.join("g");
        // SAFETY: strings that end.
        let call = || done(unsafe { libc::link(from.as_ptr(), to.as_ptr()) });
        renames(t, call, || there.exists(), Errno::EEXIST, true)
    }),
    Op::new("symlink", "symlink(2)", |t| {
        let (path, there) = (path_c(&t.here.join("l")), t.behind.join("l"));
        // SAFETY: strings that end.
        let call = || done(unsafe { libc::symlink(c"target".as_ptr(), path.as_ptr()) });
        renames(t, call, || there.is_symlink(), Errno::EEXIST, true)
    }),
    Op::new("readlink", "readlink(2)", |t| {
        symlink("target", t.behind.join("l"))?;
        fs::symlink_metadata(t.here.join("l"))?;
        let path = path_c(&t.here.join("l"));
        let call = || {
            let mut buffer = [0u8; 6];
            // SAFETY: a string that ends, and a buffer of that size.
            let n = unsafe { libc::readlink(path.as_ptr(), buffer.as_mut_ptr().cast(), 6) };
            sys::check(n as i64).map(|_| buffer)
        };
        asks(t, call, *b"target")
    }),
    Op::new("follow", "stat(2) through a symbolic link", |t| {
        fs::write(t.behind.join("f"), OLD)?;
        symlink("f", t.behind.join("l"))?;
        let path = t.here.join("l");
        let call = || nix::sys::stat::stat(&path).map(|stat| stat.st_size);
        asks(t, call, 12)
    }),
    Op::new("chmod", "chmod(2)", |t| {
        let (path, there) = (path_c(&t.file(OLD)?), t.behind.join("f"));
        let mode = || Ok::<_, ktest::Error>(fs::metadata(&there)?.mode() & 0o7777);
        for again in [false, true] {
            // SAFETY: a string that ends.
            let call = || done(unsafe { libc::chmod(path.as_ptr(), 0o600) });
            let got = if again { call() } else { t.armed(call)? };
            ensure_eq!(mode()? == 0o600, got.is_ok(), "mode after {got:?}");
            ensure!(!again || got.is_ok(), "again it gave {got:?}");
            t.same("f")?;
            if got.is_ok() {
                break;
            }
        }
        Ok(())
    }),
    Op::new("utimens", "utimensat(2)", |t| {
        let (path, there) = (path_c(&t.file(OLD)?), t.behind.join("f"));
        let times = [libc::timespec {
            tv_sec: 1,
            tv_nsec: 0,
        }; 2];
        for again in [false, true] {
            let call = || {
                // SAFETY: a string that ends, and two times.
                done(unsafe { libc::utimensat(libc::AT_FDCWD, path.as_ptr(), times.as_ptr(), 0) })
            };
            let got = if again { call() } else { t.armed(call)? };
            let set = fs::metadata(&there)?.mtime() == 1;
            ensure_eq!(set, got.is_ok(), "time after {got:?}");
            ensure!(!again || got.is_ok(), "again it gave {got:?}");
            t.same("f")?;
            if got.is_ok() {
                break;
            }
        }
        Ok(())
    }),
    Op::new("statfs", "statfs(2)", |t| {
        let path = path_c(&t.here);
        let call = || {
            let mut buffer = std::mem::MaybeUninit::<libc::statfs>::zeroed();
            // SAFETY: a string that ends, and a buffer of the type that is asked for,
            // which holds zeroes at least.
            done(unsafe { libc::statfs(path.as_ptr(), buffer.as_mut_ptr()) })
                .map(|()| unsafe { buffer.assume_init() }.f_type)
        };
        asks(t, call, coda_proto::SUPER_MAGIC)
    }),
    Op::new("opendir", "open(2) of a directory", |t| {
        let path = t.here.join("d");
        fs::create_dir(t.behind.join("d"))?;
        fs::metadata(&path)?;
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
        asks(t, || sys::open(&path, flags).map(drop), ())
    }),
    Op::new("readdir", "getdents64(2)", list).copes("what it takes may be there already"),
    Op::new("pioctl", "the ioctl of .CONTROL", |t| {
        let path = t.file(OLD)?;
        let control = sys::open(&t.ctx.fixture().mnt.join(".CONTROL"), OFlag::O_RDONLY)?;
        let call = || {
            let mut answer = [0; 4];
            pioctl(&control, &path, b'V', 22, b"ping", &mut answer).map(|()| answer)
        };
        asks(t, call, *b"ping")
    }),
    Op::new("pioctl_open", "open(2) of .CONTROL", |t| {
        let path = t.ctx.fixture().mnt.join(".CONTROL");
        asks(t, || sys::open(&path, OFlag::O_RDONLY).map(drop), ())
    }),
];

/// On a directory file.
static RECORDS: &[Op] = &[
    Op::new("opendir", "open(2) of a directory file", |t| {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
        asks(t, || sys::open(&t.here, flags).map(drop), ())
    }),
    Op::new("readdir", "getdents64(2) of a directory file", list)
        .copes("what it takes may be there already"),
    Op::new("mkdir", "mkdir(2) in a directory file", |t| {
        let (path, there) = (t.here.join("d"), t.behind.join("d"));
        let call = || nix::unistd::mkdir(&path, Mode::from_bits_truncate(0o755));
        renames(t, call, || there.exists(), Errno::EEXIST, false)
    }),
];

/// The cases.
pub fn cases() -> Vec<Case> {
    FILES.iter().chain(NAMES).map(Op::case).collect()
}

/// Those of a cache manager whose directories are files.
pub fn record_cases() -> Vec<Case> {
    RECORDS.iter().map(Op::case).collect()
}
