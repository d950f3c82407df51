// SPDX-License-Identifier: GPL-2.0

//! A storm: many threads that map, store, write, truncate and close the same few
//! files, while the cache manager is slow, answers out of order and gives files
//! other fids. And somebody else to judge: the cache manager stores each file when
//! its last writer has closed it, unless the kernel says that it need not, and
//! compares what it has stored with what the file holds.
//!
//! A file that the kernel calls unmodified, and that has changed, is lost. One that
//! it calls modified, and that has not, is a false alarm, but in two cases. A
//! truncation may bring a file back to what it was. And where several have a file
//! open, the kernel counts an open from before the cache manager hears of it; so if
//! that has just stored the file when it does, it is to be stored again. Hence the
//! two kinds of storm: files that all have in common, of which none may be lost, and
//! files that each have one user at a time, of which there may be no false alarm
//! either.
//!
//! `CODA_SEED` repeats a run, as far as threads can be repeated, `CODA_STORM` says
//! how many seconds each lasts.

use clap::Parser;
use coda_selftests::map::{Map, PAGE};
use coda_selftests::sys::{self, child};
use coda_selftests::{containers, from_env, seed};
use ktest::{
    Case, Context, Ctx, Group, Result, Spec, Suite, ensure, ensure_eq, patience, wait_for,
};
use libc::{MAP_SHARED, PROT_READ, PROT_WRITE};
use nix::fcntl::OFlag;
use nix::sys::uio;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use std::fs;
use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A storm.
#[derive(Parser)]
struct Args {
    /// Run only cases whose name has one of these in it.
    only: Vec<String>,
}

const FILES: usize = 3;
const PROCESSES: u64 = 4;
/// No file gets shorter: a store beyond its end is a signal.
const PAGES: usize = 4;

fn seconds() -> u64 {
    from_env("CODA_STORM").unwrap_or(6)
}

/// A number that nobody else has: who stores it changes the file.
fn unique() -> u64 {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    (u64::from(std::process::id()) << 40) | COUNT.fetch_add(1, Ordering::Relaxed)
}

/// A place for such a number, in a page that is always there.
fn place(random: &mut SmallRng, pages: usize) -> usize {
    random.random_range(0..pages * PAGE / 8) * 8
}

/// Some threads that store to one mapping, or only load from it, each with one of
/// its own beside it.
fn many_threads(fd: &OwnedFd, random: &mut SmallRng) -> Result<()> {
    let shared = Map::shared(fd, PAGES * PAGE).context("mmap")?;
    let seeds: [u64; 3] = random.random();
    std::thread::scope(|scope| {
        let threads = seeds.map(|seed| {
            let shared = &shared;
            scope.spawn(move || -> Result<()> {
                let mut random = SmallRng::seed_from_u64(seed);
                for _ in 0..random.random_range(1..6) {
                    match random.random_range(0..10) {
                        // The last page is somebody's who unmaps it.
                        0..3 => shared.store_u64(place(&mut random, PAGES - 1), unique()),
                        3..6 => {
                            shared.load(place(&mut random, PAGES - 1));
                        }
                        6 => {
                            let own = Map::new(fd, PAGES * PAGE, PROT_READ, MAP_SHARED)?;
                            own.load(0);
                            own.protect(PROT_READ | PROT_WRITE)?;
                            if random.random() {
                                own.store_u64(place(&mut random, PAGES), unique());
                            }
                        }
                        7 => {
                            let mut own = Map::shared(fd, PAGES * PAGE)?;
                            own.remap(2 * PAGES * PAGE)?;
                            own.punch(1, 2)?;
                            own.load(0);
                            if random.random() {
                                own.store_u64(place(&mut random, 1), unique());
                            }
                        }
                        8 => {
                            shared.advise_pages(0, PAGES - 1, libc::MADV_DONTNEED)?;
                        }
                        _ => {
                            shared.advise_pages(0, 2, libc::MADV_PAGEOUT)?;
                        }
                    }
                }
                Ok(())
            })
        });
        for thread in threads {
            thread
                .join()
                .map_err(|_| ktest::anyhow!("a thread panicked"))??;
        }
        Ok(())
    })
}

/// One open, what is done with it, and its close.
fn round(path: &std::path::Path, random: &mut SmallRng) -> Result<()> {
    let flags = match random.random_range(0..8) {
        0 => OFlag::O_RDONLY,
        1 => OFlag::O_WRONLY,
        _ => OFlag::O_RDWR,
    };
    let fd = sys::open(path, flags).context("open")?;
    let maps = flags == OFlag::O_RDWR;
    match random.random_range(0..12) {
        0..3 => (),
        3 if flags != OFlag::O_RDONLY => {
            let at = place(random, PAGES) as i64;
            ensure_eq!(uio::pwrite(&fd, &unique().to_ne_bytes(), at)?, 8);
        }
        4 if flags != OFlag::O_RDONLY => {
            let size = random.random_range(PAGES * PAGE..2 * PAGES * PAGE);
            nix::unistd::ftruncate(&fd, size as i64)?;
        }
        5..8 if maps => many_threads(&fd, random)?,
        8 if maps => {
            // The mapping outlives the descriptor, and a child the mapping.
            let map = Map::shared(&fd, PAGES * PAGE)?;
            sys::close(fd)?;
            let stores = random.random();
            let at = place(random, PAGES);
            let kid = child(|_| {
                map.load(at);
                if stores {
                    map.store_u64(at, unique());
                }
                Ok(())
            })?;
            if random.random() {
                drop(map);
                return kid.succeed();
            }
            kid.succeed()?;
            map.load(0);
            return Ok(());
        }
        9 if maps => {
            let map = Map::shared(&fd, PAGES * PAGE)?;
            sys::close(fd)?;
            (0..PAGES).for_each(|page| {
                map.load(page * PAGE);
            });
            if random.random() {
                map.store_u64(place(random, PAGES), unique());
                map.sync()?;
            }
            return Ok(());
        }
        _ => {
            if flags != OFlag::O_WRONLY {
                uio::pread(&fd, &mut [0; 100], 0)?;
            }
        }
    }
    Ok(sys::close(fd)?)
}

fn storm(ctx: &Ctx<'_>, shared: bool) -> Result<()> {
    let seed = seed();
    let fixture = ctx.fixture();
    let before = fixture.stat()?;
    let files = if shared { FILES } else { PROCESSES as usize };
    let names: Vec<_> = (0..files).map(|n| format!("{}{n}", ctx.name)).collect();
    for name in &names {
        fs::write(fixture.root.join(name), vec![b's'; PAGES * PAGE])?;
    }
    let end = Instant::now() + Duration::from_secs(seconds());
    let kids: Result<Vec<_>> = (0..PROCESSES)
        .map(|n| {
            let paths: Vec<_> = names.iter().map(|n| fixture.mnt.join(n)).collect();
            child(move |_| {
                let mut random = SmallRng::seed_from_u64(seed.wrapping_add(n));
                let mut rounds = 0;
                // On a slow machine it takes longer, but is no less.
                while rounds < 20 || Instant::now() < end {
                    let which = match shared {
                        true => random.random_range(0..files),
                        false => n as usize,
                    };
                    round(&paths[which], &mut random).with_context(|| format!("round {rounds}"))?;
                    rounds += 1;
                }
                Ok(())
            })
        })
        .collect();
    let kids = kids?;
    let mut random = SmallRng::seed_from_u64(seed.wrapping_sub(1));
    while Instant::now() < end {
        std::thread::sleep(Duration::from_millis(random.random_range(1..30)));
        let name = &names[random.random_range(0..files)];
        match random.random_range(0..4) {
            0 => {
                let fid = fixture.fid(name)?;
                fixture.order(&json!({ "cmd": "replace", "fid": fid }))?;
            }
            // One on its way at a close would be a cause for alarm.
            1 if shared => {
                let size = random.random_range(PAGES * PAGE..2 * PAGES * PAGE);
                // The fid may be replaced under it.
                let _ = nix::unistd::truncate(&fixture.mnt.join(name), size as i64);
            }
            2 => {
                let fid = fixture.fid(name)?;
                fixture.downcall("ZAPFILE", Some(&fid))?;
            }
            _ => drop(fs::metadata(fixture.mnt.join(name))),
        }
    }
    for kid in kids {
        kid.succeed_within(60 + seconds())
            .with_context(|| format!("CODA_SEED={seed}"))?;
    }
    wait_for("as many closes as opens", patience(10), || {
        let stat = fixture.stat()?;
        Ok((stat["open"].as_array().map(Vec::len) == Some(0)).then_some(()))
    })?;
    let stat = fixture.stat()?;
    let stored = &stat["stored"];
    let count = |what: &str| {
        let number = |stat: &Value| stat["stored"][what].as_u64().context("no such count");
        Ok::<_, ktest::Error>(number(&stat)? - number(&before)?)
    };
    println!("# {}: {stored}", ctx.name);
    let closes = count("stores")? + count("spared")?;
    ensure!(closes > 20, "{closes} last closes: nothing happened");
    ensure_eq!(
        count("lost")?,
        0,
        "CODA_SEED={seed}: files that were called unmodified, and had changed"
    );
    if !shared {
        ensure_eq!(
            count("needless")? - count("truncated")?,
            0,
            "CODA_SEED={seed}: files that were called modified, and had not changed"
        );
    }
    ensure!(
        count("spared")? > 0,
        "no close said that nothing was modified"
    );
    Ok(())
}

fn main() -> ExitCode {
    let args = Args::parse();
    let groups = containers::to_test(true)
        .into_iter()
        .map(|(fs, _)| {
            let spec = Spec {
                stores: true,
                jitter: 1500,
                ..Spec::on(containers::base().join(&fs))
            };
            let case = |name, what, shared| {
                Case::new(name, what, move |ctx| storm(ctx, shared))
                    .tag("storm")
                    .seconds(80 + 2 * seconds())
            };
            let cases = vec![
                case("shared", "a storm on files that all have in common", true),
                case("alone", "a storm on a file for each process", false),
            ];
            Group::new(fs.clone(), spec, cases).skip(containers::missing(&fs))
        })
        .collect();
    Suite::new("storm", groups).only(args.only).run()
}
