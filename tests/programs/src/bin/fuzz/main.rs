// SPDX-License-Identifier: GPL-2.0

//! A hostile cache manager, and programs that call whatever there is at random.
//!
//! A *life* begins with a cache manager that opens the device and mounts, and
//! programs that work in that mount. It ends in one of several ways: all in order;
//! or the mount is taken out of the tree under the programs; or the cache manager
//! closes the device, exits, or is killed, with everything under way. Then all of it
//! has to be gone: the programs, the mount, the device's and the containers' files.
//!
//! `CODA_FUZZ` says how many messages there are to be in all, `CODA_SEED` repeats a
//! run, as far as processes can be repeated.

mod manager;
mod program;
mod shared;
mod volume;

use clap::Parser;
use coda_selftests::containers::Small;
use coda_selftests::sys::{self, Child, child};
use coda_selftests::{from_env, seed};
use ktest::{
    Case, Context, Ctx, Group, Result, Suite, bail, ensure, ensure_eq, patience, wait_for,
};
use manager::Plan;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::stat::makedev;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::pipe;
use program::Call;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, RngCore, SeedableRng};
use shared::{KIDS, Kind, Shared, count, phase};
use std::fs;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::time::{Duration, Instant};

/// A hostile cache manager.
#[derive(Parser)]
struct Args {
    /// Run only cases whose name has one of these in it.
    only: Vec<String>,
}

/// How many messages a life has, more or less.
const LIFE: u64 = 4000;

/// How a life ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The programs, then the mount, then the cache manager.
    InOrder,
    /// The mount is detached, then the same.
    Detached,
    /// The device is closed.
    Closed,
    /// The cache manager exits.
    Exited,
    /// The cache manager is killed.
    Killed,
}

const ENDS: [End; 5] = [
    End::InOrder,
    End::Detached,
    End::Closed,
    End::Exited,
    End::Killed,
];

/// How many messages there are to be in each case.
fn wanted() -> u64 {
    let slow = std::env::var("CODA_KERNEL").is_ok_and(|kernel| kernel != "stock");
    from_env("CODA_FUZZ").unwrap_or(if slow { 8_000 } else { 24_000 }) / 2
}

/// Seconds that a request may take against all signals, and its value before.
struct Timeout(String);

const TIMEOUT: &str = "/proc/sys/coda/timeout";

impl Timeout {
    fn set(seconds: &str) -> Result<Self> {
        let before = fs::read_to_string(TIMEOUT).context(TIMEOUT)?;
        fs::write(TIMEOUT, seconds)?;
        Ok(Timeout(before))
    }
}

impl Drop for Timeout {
    fn drop(&mut self) {
        let _ = fs::write(TIMEOUT, &self.0);
    }
}

/// How many use the module.
fn module_users() -> Result<u64> {
    let count = fs::read_to_string("/sys/module/coda_rs/refcnt")?;
    Ok(count.trim().parse()?)
}

/// The number of what is mounted there, which nobody is asked for.
fn device_number(mnt: &Path) -> Result<u64> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let number = mounts.lines().rev().find_map(|line| {
        let mut fields = line.split(' ').skip(2);
        let (major, minor) = fields.next()?.split_once(':')?;
        let found = Path::new(fields.nth(1)?) == mnt;
        found.then(|| Some(makedev(major.parse().ok()?, minor.parse().ok()?)))?
    });
    number.with_context(|| format!("nothing is mounted on {}", mnt.display()))
}

/// The programs of a life.
struct Programs<'a> {
    shared: &'static Shared,
    mnt: &'a Path,
    /// The number that its objects have in `st_dev`.
    dev: u64,
    kids: Vec<Option<Child>>,
    seeds: SmallRng,
}

impl Programs<'_> {
    /// Starts those that are not there, and sees how the others have ended.
    fn tend(&mut self) -> Result<()> {
        for (kid, slot) in self.kids.iter_mut().zip(&self.shared.kids) {
            if let Some(running) = kid {
                match waitpid(running.pid, Some(WaitPidFlag::WNOHANG))? {
                    WaitStatus::StillAlive => continue,
                    WaitStatus::Signaled(_, Signal::SIGSEGV | Signal::SIGABRT, _) => {
                        bail!("a program has crashed")
                    }
                    WaitStatus::Exited(..) => bail!("a program has ended by itself"),
                    _ => count(&self.shared.killed),
                }
                slot.store(0, SeqCst);
            }
            let (shared, mnt, dev) = (self.shared, self.mnt.to_owned(), self.dev);
            let seed = self.seeds.next_u64();
            let new = child(move |_| program::run(shared, mnt, dev, seed))?;
            slot.store(new.pid.as_raw(), SeqCst);
            *kid = Some(new);
        }
        Ok(())
    }

    /// A signal for any of them.
    fn disturb(&mut self, random: &mut SmallRng) {
        const SIGNALS: [Signal; 7] = [
            Signal::SIGKILL,
            Signal::SIGTERM,
            Signal::SIGINT,
            Signal::SIGHUP,
            Signal::SIGALRM,
            Signal::SIGSTOP,
            Signal::SIGUSR1,
        ];
        let signal = *SIGNALS.choose(random).expect("there are some");
        if let Some(kid) = self.kids.choose(random).and_then(Option::as_ref) {
            let _ = kid.kill(signal);
            if signal == Signal::SIGSTOP {
                std::thread::sleep(Duration::from_millis(3));
                let _ = kid.kill(Signal::SIGCONT);
            }
        }
    }

    /// Kills all of them, who have to be gone soon.
    fn end(&mut self) -> Result<()> {
        for kid in self.kids.iter().flatten() {
            let _ = kid.kill(Signal::SIGKILL);
        }
        let mut stuck = String::new();
        for kid in self.kids.drain(..).flatten() {
            if kid.end_within(15).is_err() {
                let stack = fs::read_to_string(format!("/proc/{}/stack", kid.pid));
                stuck = format!("a program cannot be killed:\n{}", stack.unwrap_or_default());
            }
        }
        self.shared
            .kids
            .iter()
            .for_each(|slot| slot.store(0, SeqCst));
        ensure!(stuck.is_empty(), "{stuck}");
        Ok(())
    }
}

/// After all that: a file can still be made, written and read.
fn works(mnt: &Path, life: u32) -> Result<()> {
    let path = mnt.join(format!("works{life}"));
    child(move |_| {
        fs::write(&path, b"works").context("a new file cannot be written")?;
        let read = fs::read(&path).context("a new file cannot be read")?;
        ensure_eq!(read, b"works");
        Ok(())
    })?
    .succeed()
}

/// umount2(2) in another process, since that may take for ever.
fn unmount(mnt: &Path, flags: MntFlags) -> Result<()> {
    let kid = child(move |_| Ok(umount2(mnt, flags)?))?;
    kid.succeed().context("umount")
}

/// A directory, and a mount that is there until this is dropped. Once that is gone, the directory is
/// one that nothing can be made in: what programs find there is not theirs.
struct Place {
    mnt: PathBuf,
}

impl Place {
    fn new() -> Result<Self> {
        let mnt = std::env::temp_dir().join(format!("fuzz-mnt-{}", std::process::id()));
        fs::create_dir_all(&mnt)?;
        let place = Place { mnt };
        let nothing: Option<&str> = None;
        mount(
            Some("tmpfs"),
            &place.mnt,
            Some("tmpfs"),
            MsFlags::MS_RDONLY,
            nothing,
        )
        .context("a tmpfs to be mounted on")?;
        Ok(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        while umount2(&self.mnt, MntFlags::MNT_DETACH).is_ok() {}
        let _ = fs::remove_dir(&self.mnt);
    }
}

fn life(
    shared: &'static Shared,
    number: u32,
    store: &Path,
    most: u64,
    random: &mut SmallRng,
) -> Result<()> {
    let place = Place::new()?;
    fs::create_dir(store)?;
    let users = module_users()?;
    let end = *ENDS.choose(random).expect("there are some");
    // Where a signal counts only after a second, and where it counts at once.
    let _timeout = Timeout::set(["0", "1"][random.random_range(0..2)])?;
    shared.begin();
    program::OWNERS
        .iter()
        .for_each(|&owner| shared.owners.insert(owner.into()));
    let (read, write) = pipe()?;
    let plan = Plan {
        life: number,
        seed: random.next_u64(),
        mnt: place.mnt.clone(),
        store: store.to_owned(),
        malice: [60, 200, 450][random.random_range(0..3)],
        replaces: random.random(),
        pipe: write,
    };
    let manager = child(|_| manager::run(plan, shared))?;
    let failed = || match shared.failure() {
        Some(why) => bail!("{why}"),
        None => Ok(()),
    };
    wait_for("mount(2)", patience(30), || {
        failed()?;
        if let WaitStatus::Exited(..) = waitpid(manager.pid, Some(WaitPidFlag::WNOHANG))? {
            bail!("the cache manager has ended by itself");
        }
        Ok((shared.mounted.load(SeqCst) != 0).then_some(()))
    })?;

    let mut programs = Programs {
        shared,
        mnt: &place.mnt,
        dev: device_number(&place.mnt)?,
        kids: (0..KIDS).map(|_| None).collect(),
        seeds: SmallRng::seed_from_u64(random.next_u64()),
    };
    let goal = shared.messages.load(Relaxed) + most;
    let late = Instant::now() + patience(60);
    while shared.messages.load(Relaxed) < goal {
        failed()?;
        if let WaitStatus::Exited(..) = waitpid(manager.pid, Some(WaitPidFlag::WNOHANG))? {
            bail!("the cache manager has ended by itself");
        }
        programs.tend()?;
        if random.random_range(0..8) == 0 {
            programs.disturb(random);
        }
        std::thread::sleep(Duration::from_millis(10));
        ensure!(Instant::now() < late, "nothing goes on any more");
    }

    // The dead mount is worked in for a while.
    let mut linger = |programs: &mut Programs<'_>| -> Result<()> {
        for _ in 0..random.random_range(0..8) {
            programs.tend()?;
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    };
    let in_order = matches!(end, End::InOrder | End::Detached);
    match end {
        End::InOrder => (),
        End::Detached => {
            unmount(&place.mnt, MntFlags::MNT_DETACH)?;
            linger(&mut programs)?;
        }
        End::Closed => {
            shared.phase.store(phase::STOP, SeqCst);
            linger(&mut programs)?;
        }
        End::Exited => {
            shared.phase.store(phase::EXIT, SeqCst);
            linger(&mut programs)?;
        }
        End::Killed => {
            manager.kill(Signal::SIGKILL)?;
            linger(&mut programs)?;
        }
    }
    programs.end()?;
    if in_order {
        shared.phase.store(phase::QUIET, SeqCst);
        if end == End::InOrder {
            works(&place.mnt, number)?;
        }
    }
    if end != End::Detached {
        wait_for("umount(2)", patience(20), || {
            Ok(unmount(&place.mnt, MntFlags::empty()).ok())
        })
        .context("the mount is busy")?;
    }
    if in_order {
        let open = || shared.open.each_ref().map(|n| n.load(SeqCst));
        wait_for("as many closes as opens", patience(10), || {
            failed()?;
            Ok((open() == [0; 4]).then_some(()))
        })
        .with_context(|| format!("open, by access: {:?}", open()))?;
        shared.phase.store(phase::STOP, SeqCst);
    }
    match end {
        End::Killed => manager.die_of(Signal::SIGKILL)?,
        _ => manager.succeed_within(30)?,
    }
    failed()?;

    // Nothing may be left of it.
    wait_for("the device", patience(10), || {
        match sys::open(Path::new("/dev/cfs0"), OFlag::O_RDWR) {
            Ok(_) => Ok(Some(())),
            Err(Errno::EBUSY) => Ok(None),
            Err(e) => Err(e.into()),
        }
    })
    .context("somebody has the device open still")?;
    wait_for("the pipe's end", patience(10), || {
        let mut fds = [PollFd::new(read.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::ZERO)?;
        let events = fds[0].revents().unwrap_or(PollFlags::empty());
        Ok(events.contains(PollFlags::POLLHUP).then_some(()))
    })
    .context("somebody has a file that was refused as a container")?;
    wait_for("the module's users", patience(10), || {
        Ok((module_users()? <= users).then_some(()))
    })
    .context("somebody uses the module still")?;
    Ok(fs::remove_dir_all(store)?)
}

/// The counts that are not 0, with their names.
fn counts<'a>(all: &[AtomicU64], name: impl Fn(usize) -> String + 'a) -> String {
    let all = all.iter().map(|n| n.load(Relaxed)).enumerate();
    let some = all.filter(|(_, n)| *n != 0);
    let words: Vec<_> = some.map(|(at, n)| format!("{} {n}", name(at))).collect();
    words.join(", ")
}

fn errno_name(number: usize) -> String {
    match number {
        0 => "taken".into(),
        number => format!("{:?}", Errno::from_raw(number as i32)),
    }
}

fn report(name: &str, shared: &Shared, lives: u32, took: Duration) {
    let messages = shared.messages.load(Relaxed);
    let opcode = |n: usize| coda_proto::Opcode(n as u32).to_string();
    let kind = |n: usize| Kind::NAMES[n].to_lowercase();
    println!(
        "# {name}: {messages} messages, {} a second, {lives} lives, {} programs were killed",
        messages * 1000 / took.as_millis().max(1) as u64,
        shared.killed.load(Relaxed)
    );
    println!("# {name}: requests: {}", counts(&shared.upcalls, opcode));
    println!("# {name}: replies: {}", counts(&shared.replies, kind));
    println!("# {name}: downcalls: {}", counts(&shared.downcalls, opcode));
    println!("# {name}: writes: {}", counts(&shared.answers, errno_name));
    let calls = shared.calls.iter().take(Call::LEN).zip(Call::NAMES);
    let calls: Vec<_> = calls
        .map(|([well, not], name)| {
            let (well, not) = (well.load(Relaxed), not.load(Relaxed));
            format!("{} {well}+{not}", name.to_lowercase())
        })
        .collect();
    println!("# {name}: calls, well and not: {}", calls.join(", "));
    println!("# {name}: errors: {}", counts(&shared.errnos, errno_name));
}

fn hostile(ctx: &Ctx<'_>, make: fn(&str) -> Result<Small>) -> Result<()> {
    let (seed, wanted) = (seed(), wanted());
    let shared = Shared::new()?;
    let mut random = SmallRng::seed_from_u64(seed);
    let again = format!(
        "CODA_SEED={seed} CODA_FUZZ={} repeats it, as far as it can be",
        2 * wanted
    );
    println!("# {}: CODA_SEED={seed}", ctx.name);
    let small = make("fuzz")?;
    let store = small.dir().join("store");
    let began = Instant::now();
    let mut lives = 0;
    while shared.messages.load(Relaxed) < wanted {
        lives += 1;
        let left = wanted - shared.messages.load(Relaxed);
        let most = left.min(random.random_range(LIFE / 4..LIFE));
        let done = life(shared, lives, &store, most, &mut random);
        // What one of the others has to say is more to the point.
        match shared.failure() {
            Some(why) => Err(ktest::anyhow!("{why}")),
            None => done,
        }
        .with_context(|| format!("life {lives}: {again}"))?;
    }
    report(ctx.name, shared, lives, began.elapsed());
    // Nobody may have a container open still.
    wait_for(
        "umount(2) of the containers",
        patience(10),
        || match umount2(small.dir(), MntFlags::empty()) {
            Ok(()) => Ok(Some(())),
            Err(Errno::EBUSY) => Ok(None),
            Err(e) => Err(e.into()),
        },
    )
    .with_context(|| format!("somebody has a container open still: {again}"))
}

fn main() -> ExitCode {
    let args = Args::parse();
    let case = |name: &str, what, make: fn(&str) -> Result<Small>| {
        Case::new(name, what, move |ctx| hostile(ctx, make)).seconds(120 + wanted() / 60)
    };
    let cases = vec![
        case(
            "tmpfs",
            "hostile cache managers, containers on tmpfs",
            |name| Small::tmpfs(name, "size=64m"),
        ),
        case(
            "ext4",
            "hostile cache managers, containers on ext4",
            |name| Small::ext4(name, 64),
        ),
    ];
    let groups = vec![Group::bare("hostile", cases)];
    Suite::new("fuzz", groups).only(args.only).run()
}
