// SPDX-License-Identifier: GPL-2.0

//! What calls cost on a Coda mount, and what they cost on the containers themselves.
//!
//! Each operation is done many times over, in a few rounds, of which the cheapest
//! counts: the others had an interrupt in them; or, if there is something to do before each, the one in the middle counts. In a guest whose clock counts
//! instructions (`tools/vm.sh --icount`) a nanosecond is one of them, and two runs
//! give the same but for a percent.
//!
//! Nothing here is a test: a case is "ok" if it could be measured. What is printed is a line for each operation: its name,
//! where it was done (on Coda; on FUSE, with the kernel's passthrough; on the
//! containers themselves), what it cost in all, and how much of that was the
//! kernel's (all but what the cache manager spent itself).
//!
//! With `--profile` the plugin of `tests/profile` is told when to count, and what
//! it takes to name what it counted is printed.
//!
//! With `--scale` some operations are done by one thread, and then by two on
//! different files at the same time, and what is printed is how many a second.

mod manager;
mod mark;
mod passthrough;

use clap::Parser;
use coda_proto::{Fid, MOUNT_VERSION, MountData};
use coda_selftests::map::{Map, PAGE};
use coda_selftests::sys::{self, Child, child};
use ktest::{Context, Result, bail, ensure, patience, wait_for};
use libc::{MAP_SHARED, PROT_READ, PROT_WRITE};
use manager::{Told, now};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::sys::uio::{pread, pwrite};
use nix::unistd::getppid;
use std::cell::Cell;
use std::ffi::{CStr, CString};
use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Barrier;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// What calls cost on a Coda mount.
#[derive(Parser)]
struct Args {
    /// Where the containers are.
    #[arg(long, default_value = "/containers/tmpfs")]
    containers: PathBuf,
    /// How many rounds of each operation.
    #[arg(long, default_value_t = 7)]
    rounds: u32,
    /// How many requests wait for their reply in getattr_outstanding.
    #[arg(long, default_value_t = 10_000)]
    outstanding: u64,
    /// How many can be done at the same time, instead of what they cost.
    #[arg(long)]
    scale: bool,
    /// For the plugin that counts instructions.
    #[arg(long, conflicts_with = "scale")]
    profile: bool,
    /// Only operations whose name has one of these in it.
    only: Vec<String>,
}

/// How deep the deep path is.
const DEEP: usize = 8;
/// How many names there are in the large directory.
const ENTRIES: usize = 1000;
/// How long the file is.
const LENGTH: usize = 1 << 20;
/// How many pages are mapped.
const PAGES: usize = 256;

/// What an operation costs, each in nanoseconds.
#[derive(Clone, Copy)]
struct Cost {
    all: u64,
    kernel: u64,
}

/// Where operations are done.
struct Place<'a> {
    name: &'static str,
    dir: PathBuf,
    /// The containers of what is there.
    behind: &'a Path,
    /// How many files have been made there.
    made: Cell<u32>,
    rounds: u32,
    outstanding: u64,
    told: &'a Told,
    /// The device, if there is a cache manager.
    device: Option<&'a OwnedFd>,
    /// Whether what others than the kernel spend there is not told apart.
    opaque: bool,
}

fn c_path(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).expect("no NUL")
}

/// stat(2), and nothing around it.
fn stat(path: &CStr) -> Result<()> {
    let mut told = std::mem::MaybeUninit::<libc::stat>::uninit();
    // SAFETY: a string that ends, and room for what is told.
    sys::check(unsafe { libc::stat(path.as_ptr(), told.as_mut_ptr()) }.into())?;
    Ok(())
}

fn open(path: &CStr, flags: i32) -> Result<i32> {
    // SAFETY: a string that ends.
    Ok(sys::check(unsafe { libc::open(path.as_ptr(), flags, 0o644) }.into())? as i32)
}

fn close(fd: i32) -> Result<()> {
    // SAFETY: a descriptor of ours, which nobody uses any more.
    sys::check(unsafe { libc::close(fd) }.into())?;
    Ok(())
}

impl Place<'_> {
    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn file(&self, flags: OFlag) -> Result<OwnedFd> {
        Ok(sys::open(&self.path("f"), flags)?)
    }

    /// An open file that nobody has opened before. (C's module cannot map one a second time.)
    fn fresh(&self, pages: usize) -> Result<OwnedFd> {
        let name = format!("{}-{}", self.name, self.made.replace(self.made.get() + 1));
        let container = self.behind.join(&name);
        fs::write(&container, vec![b'm'; pages * PAGE])?;
        let file = sys::open(&self.path(&name), OFlag::O_RDWR)?;
        // Or the room for containers would come to an end.
        fs::remove_file(container)?;
        Ok(file)
    }

    /// `n` times in a row, as many rounds as there are to be; the first one is not counted.
    fn cost(&self, n: u32, mut operation: impl FnMut() -> Result<()>) -> Result<Cost> {
        let mut best: Option<Cost> = None;
        for round in 0..=self.rounds {
            let (own, began) = (self.told.own.load(Relaxed), now());
            // The first round finds nothing in the caches.
            if round > 0 {
                mark::begin(n);
            }
            for _ in 0..n {
                operation()?;
            }
            mark::end();
            let (ended, own) = (now(), self.told.own.load(Relaxed) - own);
            let all = ended - began;
            let cost = Cost {
                all: all / u64::from(n),
                kernel: all.saturating_sub(own) / u64::from(n),
            };
            if round > 0 && best.is_none_or(|best| cost.kernel < best.kernel) {
                best = Some(cost);
            }
        }
        best.context("no round")
    }

    /// The same for what needs something before each of them that does not count: `operation` gives
    /// what it took. The one in the middle counts: an interrupt is seldom in it, and it is not the one that had luck.
    fn cost_of_each(&self, n: u32, mut operation: impl FnMut() -> Result<Cost>) -> Result<Cost> {
        let (mut costs, first) = (Vec::new(), n as usize);
        for _ in 0..n * (self.rounds + 1) {
            costs.push(operation()?);
        }
        costs.drain(..first);
        costs.sort_unstable_by_key(|cost| cost.kernel);
        costs.get(costs.len() / 2).copied().context("no round")
    }

    fn timed(&self, operation: impl FnOnce() -> Result<()>) -> Result<Cost> {
        let (own, began) = (self.told.own.load(Relaxed), now());
        mark::begin(1);
        operation()?;
        mark::end();
        let all = now() - began;
        let own = self.told.own.load(Relaxed) - own;
        Ok(Cost {
            all,
            kernel: all.saturating_sub(own),
        })
    }
}

type Operation = fn(&Place<'_>) -> Result<Option<Cost>>;

/// Those that whoever serves has a part in.
const SERVED: &[&str] = &[
    "open_close_read",
    "open_close_write",
    "open_write_close",
    "getdents_1000",
    "create_unlink",
];

/// All of them, with how many times in a row.
const OPERATIONS: &[(&str, Operation)] = &[
    ("stat_deep", |at| {
        let path = c_path(&deep(&at.dir).join("f"));
        at.cost(1000, || stat(&path)).map(Some)
    }),
    ("stat", |at| {
        let path = c_path(&at.path("f"));
        at.cost(1000, || stat(&path)).map(Some)
    }),
    ("fstat", |at| {
        let file = at.file(OFlag::O_RDONLY)?;
        at.cost(1000, || {
            nix::sys::stat::fstat(&file)?;
            Ok(())
        })
        .map(Some)
    }),
    ("access", |at| {
        let path = c_path(&at.path("f"));
        at.cost(1000, || {
            // SAFETY: a string that ends.
            sys::check(unsafe { libc::access(path.as_ptr(), libc::R_OK) }.into())?;
            Ok(())
        })
        .map(Some)
    }),
    ("open_close_read", |at| {
        let path = c_path(&at.path("f"));
        at.cost(200, || close(open(&path, libc::O_RDONLY)?))
            .map(Some)
    }),
    ("open_close_write", |at| {
        let path = c_path(&at.path("f"));
        at.cost(200, || close(open(&path, libc::O_RDWR)?)).map(Some)
    }),
    ("open_write_close", |at| {
        let path = c_path(&at.path("f"));
        at.cost(200, || {
            let fd = open(&path, libc::O_RDWR)?;
            // SAFETY: a byte is read.
            sys::check(unsafe { libc::write(fd, b"x".as_ptr().cast(), 1) } as i64)?;
            close(fd)
        })
        .map(Some)
    }),
    ("read_4096", |at| reads(at, PAGE, 1000)),
    ("write_4096", |at| writes(at, PAGE, 1000)),
    ("read_1", |at| reads(at, 1, 1000)),
    ("write_1", |at| writes(at, 1, 1000)),
    ("read_1048576", |at| reads(at, LENGTH, 20)),
    ("write_1048576", |at| writes(at, LENGTH, 20)),
    ("getattr_upcall", |at| getattrs(at, "a/once")),
    // The same while others wait for their replies, which went before.
    ("getattr_outstanding", |at| {
        if at.device.is_none() {
            return Ok(None);
        }
        let others = Outstanding::new(at)?;
        let cost = getattrs(at, "a/twice");
        others.end()?;
        cost
    }),
    ("getdents_1000", |at| {
        let mut buffer = vec![0u8; 32768];
        at.cost_of_each(5, || {
            // C's module begins where somebody else has ended.
            let dir = sys::open(&at.path("many"), OFlag::O_RDONLY | OFlag::O_DIRECTORY)?;
            at.timed(|| {
                while sys::getdents(&dir, &mut buffer)? > 0 {}
                Ok(())
            })
        })
        .map(Some)
    }),
    ("create_unlink", |at| {
        let path = c_path(&at.path("new"));
        at.cost(50, || {
            close(open(&path, libc::O_RDWR | libc::O_CREAT | libc::O_EXCL)?)?;
            // SAFETY: a string that ends.
            sys::check(unsafe { libc::unlink(path.as_ptr()) }.into())?;
            Ok(())
        })
        .map(Some)
    }),
    ("mmap_munmap", |at| {
        at.cost_of_each(20, || {
            let file = at.fresh(1)?;
            at.timed(|| {
                drop(Map::new(&file, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED)?);
                Ok(())
            })
        })
        .map(Some)
    }),
    // Of an open: what finds out that the file is modified.
    ("fault_write_first", |at| {
        at.cost_of_each(20, || {
            let file = at.fresh(1)?;
            let map = Map::new(&file, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED)?;
            at.timed(|| {
                map.store(0, 1);
                Ok(())
            })
        })
        .map(Some)
    }),
    ("fault_write_next", |at| {
        faults(at, PROT_READ | PROT_WRITE, |map, page| {
            map.store(page * PAGE, 1);
        })
    }),
    ("fault_read_next", |at| {
        faults(at, PROT_READ, |map, page| {
            map.load(page * PAGE);
        })
    }),
];

/// A stat(2) for which the cache manager is asked: of a file that nobody has looked at before.
fn getattrs(at: &Place<'_>, name: &str) -> Result<Option<Cost>> {
    let Some(device) = at.device else {
        return Ok(None);
    };
    let path = c_path(&at.path(name));
    stat(&path)?;
    let fid = at.told.last();
    ensure!(fid != Fid::default(), "no fid was told");
    let cost = at.cost_of_each(100, || {
        manager::zap(device, fid)?;
        let before = at.told.answered.load(Relaxed);
        let cost = at.timed(|| stat(&path))?;
        let asked = at.told.answered.load(Relaxed) - before;
        ensure!(asked > 0, "nobody was asked");
        Ok(cost)
    });
    cost.map(Some)
}

/// Threads that wait for a reply each.
struct Outstanding {
    threads: Child,
    release: CString,
}

impl Outstanding {
    fn new(at: &Place<'_>) -> Result<Self> {
        let (dir, many) = (at.dir.clone(), at.outstanding);
        let threads = child(move |_| {
            let ask = |n| {
                let path = c_path(&dir.join(format!("{}{n}", manager::HELD)));
                matches!(stat(&path), Err(e) if e.downcast_ref() == Some(&Errno::ENOENT))
            };
            let threads: std::result::Result<Vec<_>, _> = std::thread::scope(|scope| {
                let small = || std::thread::Builder::new().stack_size(64 << 10);
                let threads = (0..many).map(|n| small().spawn_scoped(scope, move || ask(n)));
                let threads: std::result::Result<Vec<_>, _> = threads.collect();
                threads.map(|threads| threads.into_iter().map(|t| t.join().ok()).collect())
            });
            ensure!(
                threads?.iter().all(|told| *told == Some(true)),
                "a thread was told something else"
            );
            Ok(())
        })?;
        let held = || Ok((at.told.held.load(Relaxed) == many).then_some(()));
        wait_for("all to ask", patience(600), held)?;
        Ok(Outstanding {
            threads,
            release: c_path(&at.path(manager::RELEASE)),
        })
    }

    fn end(self) -> Result<()> {
        ensure!(stat(&self.release).is_err(), "there is such a name");
        self.threads.succeed()
    }
}

/// Of a mapping, all faults but the first.
fn faults(at: &Place<'_>, prot: i32, touch: fn(&Map, usize)) -> Result<Option<Cost>> {
    let cost = at.cost_of_each(5, || {
        let file = at.fresh(PAGES)?;
        let map = Map::new(&file, PAGES * PAGE, prot, MAP_SHARED)?;
        // One page at a time.
        map.advise(libc::MADV_RANDOM)?;
        touch(&map, 0);
        let all = at.timed(|| {
            (1..PAGES).for_each(|page| touch(&map, page));
            Ok(())
        })?;
        let each = |n: u64| n / (PAGES as u64 - 1);
        Ok(Cost {
            all: each(all.all),
            kernel: each(all.kernel),
        })
    });
    cost.map(Some)
}

fn reads(at: &Place<'_>, len: usize, n: u32) -> Result<Option<Cost>> {
    let file = at.file(OFlag::O_RDONLY)?;
    let mut buffer = vec![0u8; len];
    at.cost(n, || {
        ensure!(pread(&file, &mut buffer, 0)? == len, "a short read");
        Ok(())
    })
    .map(Some)
}

fn writes(at: &Place<'_>, len: usize, n: u32) -> Result<Option<Cost>> {
    let file = at.file(OFlag::O_RDWR)?;
    let buffer = vec![b'w'; len];
    at.cost(n, || {
        ensure!(pwrite(&file, &buffer, 0)? == len, "a short write");
        Ok(())
    })
    .map(Some)
}

fn deep(dir: &Path) -> PathBuf {
    (1..=DEEP).fold(dir.to_owned(), |path, n| path.join(format!("d{n}")))
}

/// What operations are done with.
fn fill(dir: &Path) -> Result<()> {
    fs::create_dir_all(deep(dir))?;
    fs::write(deep(dir).join("f"), b"deep")?;
    fs::write(dir.join("f"), vec![b'f'; LENGTH])?;
    for n in 0..2 {
        fs::write(dir.join(format!("d1/own-{n}")), vec![b'o'; PAGE])?;
    }
    fs::create_dir_all(dir.join("a"))?;
    fs::write(dir.join("a/once"), b"")?;
    fs::write(dir.join("a/twice"), b"")?;
    let many = dir.join("many");
    fs::create_dir_all(&many)?;
    (0..ENTRIES).try_for_each(|n| Ok(fs::write(many.join(format!("entry-{n:04}")), b"")?))
}

/// The mount, the device and the cache manager, for as long as this lives.
struct Mounted {
    mnt: PathBuf,
    device: OwnedFd,
    manager: Child,
}

impl Mounted {
    fn new(root: &Path, told: &'static Told) -> Result<Self> {
        let mnt = std::env::temp_dir().join(format!("bench-mnt-{}", std::process::id()));
        fs::create_dir_all(&mnt)?;
        let device = sys::open(Path::new("/dev/cfs0"), OFlag::O_RDWR)?;
        let served = root.to_owned();
        let fd = device.as_raw_fd();
        let given = device.try_clone()?;
        let manager = child(move |_| {
            let Err(e) = manager::serve(&given, &served, told);
            // Whoever measures would wait for it, and hold the device open meanwhile.
            println!("# the cache manager: {e:#}");
            kill(getppid(), Signal::SIGKILL)?;
            Err(e)
        })?;
        let data = MountData {
            version: MOUNT_VERSION,
            fd,
        };
        sys::mount_coda(&mnt, Some(&data)).context("mount(2)")?;
        Ok(Mounted {
            mnt,
            device,
            manager,
        })
    }

    fn end(self) -> Result<()> {
        wait_for("umount(2)", patience(10), || {
            match umount2(&self.mnt, MntFlags::empty()) {
                Ok(()) => Ok(Some(())),
                Err(Errno::EBUSY) => Ok(None),
                Err(e) => Err(e.into()),
            }
        })?;
        self.manager.kill(Signal::SIGKILL)?;
        self.manager.die_of(Signal::SIGKILL)?;
        Ok(fs::remove_dir(&self.mnt)?)
    }
}

/// What has been measured so far.
#[derive(Default)]
struct Cases {
    lines: Vec<String>,
    failed: u32,
}

impl Cases {
    /// One is over, with the line that says what came of it; or it makes no sense there.
    fn over(&mut self, name: &str, place: &Place<'_>, line: Result<Option<String>>) {
        let good = match line {
            Ok(None) => return,
            Ok(Some(line)) => {
                println!("{line}");
                "ok"
            }
            Err(e) => {
                self.failed += 1;
                println!("# {name}.{}: {e:#}", place.name);
                "not ok"
            }
        };
        let number = self.lines.len() + 1;
        self.lines
            .push(format!("{good} {number} {name}.{}", place.name));
    }

    /// Says so, once it is known how many there are.
    fn end(self) -> Result<()> {
        println!("KTAP version 1\n1..{}", self.lines.len());
        for line in self.lines {
            println!("{line}");
        }
        match self.failed {
            0 => Ok(()),
            n => bail!("{n} operations failed"),
        }
    }
}

/// What several threads can do at the same time, each with a file of its own.
type Parallel = fn(&CStr, u32) -> Result<()>;

const PARALLEL: &[(&str, Parallel)] = &[
    ("stat", |path, n| (0..n).try_for_each(|_| stat(path))),
    ("read_4096", |path, n| {
        let fd = open(path, libc::O_RDONLY)?;
        let mut buffer = [0u8; PAGE];
        for _ in 0..n {
            // SAFETY: a buffer of that size.
            let got = unsafe { libc::pread(fd, buffer.as_mut_ptr().cast(), PAGE, 0) };
            sys::check(got as i64)?;
        }
        close(fd)
    }),
    ("open_close_read", |path, n| {
        (0..n / 10).try_for_each(|_| close(open(path, libc::O_RDONLY)?))
    }),
];

/// The best of a few rounds, in nanoseconds for all that `threads` threads do.
fn together(dir: &Path, threads: usize, rounds: u32, what: Parallel) -> Result<u64> {
    const TIMES: u32 = 20_000;
    let paths: Vec<_> = (0..threads)
        .map(|n| c_path(&dir.join(format!("d1/own-{n}"))))
        .collect();
    let mut best = u64::MAX;
    for _ in 0..rounds {
        let gate = Barrier::new(threads + 1);
        let took = std::thread::scope(|scope| -> Result<u64> {
            let at_work: Vec<_> = paths
                .iter()
                .map(|path| {
                    let gate = &gate;
                    scope.spawn(move || {
                        let ready = what(path, 10);
                        gate.wait();
                        ready.and_then(|()| what(path, TIMES))
                    })
                })
                .collect();
            gate.wait();
            let began = now();
            for thread in at_work {
                thread.join().ok().context("a thread")??;
            }
            Ok(now() - began)
        })?;
        best = best.min(took);
    }
    Ok(best)
}

/// The names of the kernel's functions, and of its modules'.
fn symbols() -> Result<()> {
    for line in fs::read_to_string("/proc/kallsyms")?.lines() {
        let words: Vec<_> = line.split_whitespace().collect();
        if let [address, "t" | "T" | "w" | "W", name, ..] = words.as_slice() {
            println!("symbol {address} {name}");
        }
    }
    Ok(())
}

fn measure(args: &Args) -> Result<()> {
    if args.profile {
        // What the kernel still does after its start is not to be in it.
        std::thread::sleep(Duration::from_secs(30));
    }
    let root = args
        .containers
        .join(format!("bench-{}", std::process::id()));
    fill(&root)?;
    let told = Told::new()?;
    let mounted = Mounted::new(&root, told)?;
    // A kernel without it is no failure.
    let fuse = passthrough::Mounted::new(&root);
    if let Err(e) = &fuse {
        println!("# no FUSE: {e:#}");
    }
    let place = |name, dir: &Path| Place {
        name,
        dir: dir.to_owned(),
        behind: &root,
        made: Cell::new(0),
        rounds: args.rounds,
        outstanding: args.outstanding,
        told,
        device: None,
        opaque: false,
    };
    let mut places = vec![place("bare", &root)];
    places.push(Place {
        device: Some(&mounted.device),
        ..place("coda", &mounted.mnt)
    });
    if let Ok(fuse) = &fuse {
        places.push(Place {
            opaque: true,
            ..place("fuse", &fuse.mnt)
        });
    }
    let wanted =
        |name: &str| args.only.is_empty() || args.only.iter().any(|only| name.contains(only));
    let mut cases = Cases::default();
    if args.scale {
        for (name, what) in PARALLEL.iter().filter(|(name, _)| wanted(name)) {
            for place in places.iter().filter(|place| !place.opaque) {
                let times = [1, 2].map(|n| together(&place.dir, n, args.rounds, *what));
                let [one, two] = times;
                let line =
                    one.and_then(|one| Ok(format!("scale {name} {} {one} {}", place.name, two?)));
                cases.over(name, place, line.map(Some));
            }
        }
    } else {
        for (name, operation) in OPERATIONS.iter().filter(|(name, _)| wanted(name)) {
            let is_told = |place: &&Place<'_>| !(place.opaque && SERVED.contains(name));
            for place in places.iter().filter(is_told) {
                let line =
                    |Cost { all, kernel }| format!("bench {name} {} {all} {kernel}", place.name);
                cases.over(name, place, operation(place).map(|cost| cost.map(line)));
                if args.profile {
                    println!("profile {name} {} {}", place.name, mark::write());
                }
            }
        }
    }
    if args.profile {
        symbols()?;
    }
    drop(fuse);
    mounted.end()?;
    fs::remove_dir_all(&root)?;
    cases.end()
}

fn main() -> ExitCode {
    match measure(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            println!("# {e:#}");
            ExitCode::FAILURE
        }
    }
}
