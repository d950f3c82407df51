// SPDX-License-Identifier: GPL-2.0

//! Random operations against a model.
//!
//! Several processes at a time do random things, each to files of its own.
//! Each keeps a model of what every file must hold, and of what CODA_CLOSE has
//! to say about it: the flag is set by a modification while somebody has the
//! file open for writing, and cleared when the last writer has closed. At the
//! end, and now and then before, the model is compared with what is there.
//! Meanwhile others open, map and write, and are killed.
//!
//! `CODA_SEED` repeats a run, `CODA_CHURN` makes it longer by a factor.

use clap::Parser;
use coda_proto::C_O_NO_WRITES;
use coda_selftests::map::{Map, PAGE};
use coda_selftests::sys::{self, Child, child};
use coda_selftests::{containers, from_env};
use ktest::{
    Case, Context, Ctx, Group, Result, Spec, Suite, Watch, ensure, ensure_eq, patience, wait_for,
};
use nix::fcntl::OFlag;
use nix::sys::signal::Signal;
use nix::sys::uio;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use std::collections::HashMap;
use std::fs;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Random operations.
#[derive(Parser)]
struct Args {
    /// Run only cases whose name has one of these in it.
    only: Vec<String>,
}

/// What is done besides plain writes.
#[derive(Clone, Copy)]
struct Menu {
    /// Appends, splices into files, and shared mappings; the C module has its
    /// difficulties with these.
    everything: bool,
    /// Compare the flags of closes as well.
    closes: bool,
}

/// An open file, and perhaps its mapping.
struct Open {
    fd: Option<OwnedFd>,
    word: u32,
    append: bool,
    map: Option<Map>,
}

/// One file as it should be.
struct File {
    name: String,
    fid: String,
    bytes: Vec<u8>,
    dirty: bool,
    linked: bool,
    opens: Vec<Open>,
    closes: Vec<u32>,
}

const LIMIT: usize = 6 * PAGE;

struct Model<'a> {
    ctx: &'a Ctx<'a>,
    dir: PathBuf,
    behind: PathBuf,
    menu: Menu,
    random: SmallRng,
    /// Of our own, since processes that share a descriptor share its position.
    watch: Watch,
    files: Vec<File>,
    gone: Vec<File>,
    made: usize,
}

impl File {
    fn writers(&self) -> usize {
        self.opens.iter().filter(|o| o.word & 2 != 0).count()
    }

    /// The contents or the length have been changed.
    fn modified(&mut self) {
        self.dirty |= self.writers() > 0;
    }

    fn put(&mut self, at: usize, new: &[u8]) {
        if self.bytes.len() < at + new.len() {
            self.bytes.resize(at + new.len(), 0);
        }
        self.bytes[at..at + new.len()].copy_from_slice(new);
        self.modified();
    }

    /// The open number `n` ends: its descriptor and its mapping are gone.
    fn closed(&mut self, n: usize) {
        let word = self.opens.remove(n).word;
        self.closes.push(match word {
            1 => 1,
            _ if self.dirty => word,
            _ => word | C_O_NO_WRITES,
        });
        if self.writers() == 0 {
            self.dirty = false;
        }
    }
}

impl Model<'_> {
    fn path(&self, file: usize) -> PathBuf {
        self.dir.join(&self.files[file].name)
    }

    fn bytes(&mut self, most: usize) -> Vec<u8> {
        let len = self.random.random_range(1..most);
        let byte = self.random.random();
        vec![byte; len]
    }

    fn create(&mut self) -> Result<()> {
        self.made += 1;
        let name = format!("f{}", self.made);
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL;
        let fd = sys::open(&self.dir.join(&name), flags)?;
        let dir = self.dir.file_name().context("no name")?.to_string_lossy();
        let fid = self.ctx.fixture().fid(&format!("{dir}/{name}"))?;
        self.files.push(File {
            name,
            fid,
            bytes: Vec::new(),
            dirty: false,
            linked: true,
            opens: vec![Open {
                fd: Some(fd),
                word: 3,
                append: false,
                map: None,
            }],
            closes: Vec::new(),
        });
        Ok(())
    }

    fn open(&mut self, n: usize) -> Result<()> {
        if !self.files[n].linked || self.files[n].opens.len() >= 4 {
            return Ok(());
        }
        let (mode, word) = *[
            (OFlag::O_RDONLY, 1),
            (OFlag::O_WRONLY, 2),
            (OFlag::O_RDWR, 3),
            (OFlag::O_RDWR, 3),
        ]
        .choose(&mut self.random)
        .expect("there are some");
        let truncate = word != 1 && self.random.random_ratio(1, 8);
        let append = word != 1 && self.menu.everything && self.random.random_ratio(1, 4);
        let mut flags = mode;
        flags.set(OFlag::O_TRUNC, truncate);
        flags.set(OFlag::O_APPEND, append);
        let fd = sys::open(&self.path(n), flags).context("open")?;
        let file = &mut self.files[n];
        file.opens.push(Open {
            fd: Some(fd),
            word,
            append,
            map: None,
        });
        if truncate {
            file.bytes.clear();
            file.modified();
        }
        Ok(())
    }

    /// A random open of a file that allows for what `bits` say.
    fn pick(&mut self, n: usize, bits: u32) -> Option<usize> {
        let fit: Vec<usize> = self.files[n]
            .opens
            .iter()
            .enumerate()
            .filter(|(_, o)| o.fd.is_some() && o.word & bits == bits)
            .map(|(i, _)| i)
            .collect();
        fit.choose(&mut self.random).copied()
    }

    fn write(&mut self, n: usize) -> Result<()> {
        let Some(o) = self.pick(n, 2) else {
            return Ok(());
        };
        let new = self.bytes(PAGE + 500);
        let len = self.files[n].bytes.len();
        let open = &self.files[n].opens[o];
        let fd = open.fd.as_ref().context("picked")?;
        if open.append {
            if len < LIMIT {
                sys::write(fd, &new).context("append")?;
                self.files[n].put(len, &new);
            }
            return Ok(());
        }
        let at = self.random.random_range(0..=len.min(LIMIT));
        let fd = self.files[n].opens[o].fd.as_ref().context("picked")?;
        if self.menu.everything && self.random.random_ratio(1, 4) {
            let pipe = sys::pipe_with(&new)?;
            sys::seek(fd, at as i64, libc::SEEK_SET)?;
            ensure_eq!(
                sys::splice(&pipe, fd, new.len()).context("splice")?,
                new.len()
            );
        } else {
            ensure_eq!(
                uio::pwrite(fd, &new, at as i64).context("pwrite")?,
                new.len()
            );
        }
        self.files[n].put(at, &new);
        Ok(())
    }

    fn truncate(&mut self, n: usize) -> Result<()> {
        let size = self.random.random_range(0..LIMIT);
        if self.random.random() && self.files[n].linked {
            nix::unistd::truncate(&self.path(n), size as i64).context("truncate")?;
        } else if let Some(o) = self.pick(n, 2) {
            let fd = self.files[n].opens[o].fd.as_ref().context("picked")?;
            nix::unistd::ftruncate(fd, size as i64).context("ftruncate")?;
        } else {
            return Ok(());
        }
        let file = &mut self.files[n];
        file.bytes.resize(size, 0);
        file.modified();
        Ok(())
    }

    fn map(&mut self, n: usize, store: bool) -> Result<()> {
        let len = self.files[n].bytes.len();
        let Some(o) = self.pick(n, 3).filter(|_| len > 0) else {
            return Ok(());
        };
        let (at, byte) = (self.random.random_range(0..len), self.random.random());
        let open = &mut self.files[n].opens[o];
        if open.map.is_none() {
            let fd = open.fd.as_ref().context("picked")?;
            open.map = Some(Map::shared(fd, LIMIT + 2 * PAGE).context("mmap")?);
        }
        let map = open.map.as_ref().context("mapped")?;
        if store {
            map.store(at, byte);
            self.files[n].put(at, &[byte]);
        } else {
            let got = map.load(at);
            ensure_eq!(got, self.files[n].bytes[at], "mapped byte {at}");
        }
        Ok(())
    }

    fn close(&mut self, n: usize) -> Result<()> {
        if self.files[n].opens.is_empty() {
            return Ok(());
        }
        let o = self.random.random_range(0..self.files[n].opens.len());
        let keep = self.random.random_ratio(1, 4);
        let open = &mut self.files[n].opens[o];
        if open.map.is_some() && open.fd.is_some() && keep {
            // The mapping alone keeps the file open from now on.
            sys::close(open.fd.take().context("open")?)?;
            return Ok(());
        }
        if let Some(fd) = open.fd.take() {
            sys::close(fd)?;
        }
        drop(open.map.take());
        self.files[n].closed(o);
        Ok(())
    }

    fn unlink(&mut self, n: usize) -> Result<()> {
        if self.files[n].linked {
            nix::unistd::unlink(&self.path(n)).context("unlink")?;
            self.files[n].linked = false;
        }
        if self.files[n].opens.is_empty() {
            let file = self.files.remove(n);
            self.gone.push(file);
        }
        Ok(())
    }

    fn rename(&mut self, n: usize) -> Result<()> {
        if self.files[n].linked {
            self.made += 1;
            let new = format!("r{}", self.made);
            fs::rename(self.path(n), self.dir.join(&new)).context("rename")?;
            self.files[n].name = new;
        }
        Ok(())
    }

    fn check(&self, n: usize) -> Result<()> {
        let file = &self.files[n];
        if !file.linked {
            return Ok(());
        }
        let behind = fs::read(self.behind.join(&file.name)).context("container")?;
        ensure!(
            behind == file.bytes,
            "{}: the container differs from the model",
            file.name
        );
        let size = fs::metadata(self.path(n))?.len();
        ensure_eq!(size, file.bytes.len() as u64, "{}: st_size", file.name);
        if let Some(open) = file
            .opens
            .iter()
            .find(|o| o.word & 1 != 0 && o.fd.is_some())
        {
            let mut got = vec![0; file.bytes.len() + 1];
            let fd = open.fd.as_ref().context("open")?;
            let len = uio::pread(fd, &mut got, 0)?;
            ensure!(
                got[..len] == file.bytes[..],
                "{}: pread differs from the model",
                file.name
            );
        }
        Ok(())
    }

    fn step(&mut self) -> Result<()> {
        if self.files.len() < 4 {
            return self.create();
        }
        let n = self.random.random_range(0..self.files.len());
        match self.random.random_range(0..100) {
            0..20 => self.open(n),
            20..40 => self.write(n),
            40..48 => self.truncate(n),
            48..58 if self.menu.everything => self.map(n, true),
            58..64 if self.menu.everything => self.map(n, false),
            48..64 => self.write(n),
            64..86 => self.close(n),
            86..90 => self.check(n),
            90..93 => self.rename(n),
            93..95 => self.unlink(n),
            _ => match self.pick(n, 2) {
                // These change nothing.
                Some(o) => {
                    let fd = self.files[n].opens[o].fd.as_ref().context("picked")?;
                    ensure_eq!(uio::pwrite(fd, b"", 5)?, 0);
                    Ok(nix::unistd::fsync(fd)?)
                }
                None => Ok(()),
            },
        }
    }

    fn finish(mut self) -> Result<()> {
        for n in 0..self.files.len() {
            self.check(n)?;
        }
        while let Some(n) = self.files.iter().position(|f| !f.opens.is_empty()) {
            self.close(n)?;
        }
        if !self.menu.closes {
            return Ok(());
        }
        let all: HashMap<_, _> = self
            .files
            .iter()
            .chain(&self.gone)
            .map(|f| (f.fid.clone(), f))
            .collect();
        let total: usize = all.values().map(|f| f.closes.len()).sum();
        let mut got: HashMap<String, Vec<u32>> = HashMap::new();
        wait_for("all closes", patience(10), || {
            got.clear();
            for event in self.watch.requests("CLOSE", "")? {
                if all.contains_key(event.text("fid")) {
                    let word = event.number("flags").unwrap_or(-1) as u32;
                    got.entry(event.text("fid").to_owned())
                        .or_default()
                        .push(word);
                }
            }
            Ok((got.values().map(Vec::len).sum::<usize>() >= total).then_some(()))
        })?;
        for (fid, file) in all {
            let words = got.remove(&fid).unwrap_or_default();
            ensure!(
                words == file.closes,
                "{}: CODA_CLOSE said {words:x?}, not {:x?}",
                file.name,
                file.closes
            );
        }
        Ok(())
    }
}

fn factor() -> u64 {
    from_env("CODA_CHURN").unwrap_or(1)
}

fn seed() -> u64 {
    match std::env::var_os("CODA_CONTROL") {
        // Where it has to fail, it may not depend on luck.
        Some(_) => from_env("CODA_SEED").unwrap_or(8),
        None => coda_selftests::seed(),
    }
}

fn model(ctx: &Ctx<'_>, menu: Menu, steps: u64) -> Result<()> {
    let seed = seed();
    let fixture = ctx.fixture();
    let kids: Result<Vec<(u64, Child)>> = (0..3)
        .map(|n| {
            let seed = seed.wrapping_add(n);
            let name = format!("{}-{n}", ctx.name);
            let behind = fixture.root.join(&name);
            fs::create_dir(&behind)?;
            let dir = fixture.mnt.join(&name);
            let kid = child(|_| {
                let mut model = Model {
                    ctx,
                    dir,
                    behind,
                    menu,
                    random: SmallRng::seed_from_u64(seed),
                    watch: fixture.watch()?,
                    files: Vec::new(),
                    gone: Vec::new(),
                    made: 0,
                };
                for step in 0..steps * factor() {
                    model.step().with_context(|| format!("step {step}"))?;
                }
                model.finish()
            })?;
            Ok((seed, kid))
        })
        .collect();
    for (seed, kid) in kids? {
        kid.succeed_within(60 * factor())
            .with_context(|| format!("CODA_SEED={seed}"))?;
    }
    Ok(())
}

/// Processes that share files, in every way, and are killed.
fn victims(ctx: &Ctx<'_>) -> Result<()> {
    let seed = seed();
    let fixture = ctx.fixture();
    for n in 0..4 {
        fs::write(fixture.root.join(format!("v{n}")), vec![b'v'; 2 * PAGE])?;
    }
    let mut random = SmallRng::seed_from_u64(seed);
    let end = Instant::now() + Duration::from_secs(4 * factor());
    while Instant::now() < end {
        let kids: Result<Vec<_>> = (0..3)
            .map(|_| {
                let seed = random.random();
                child(move |_| {
                    let mut random = SmallRng::seed_from_u64(seed);
                    loop {
                        let path = fixture.mnt.join(format!("v{}", random.random_range(0..4)));
                        let Ok(fd) = sys::open(&path, OFlag::O_RDWR) else {
                            continue;
                        };
                        let map = Map::shared(&fd, 2 * PAGE)?;
                        match random.random_range(0..5) {
                            0 => map.store(random.random_range(0..2 * PAGE), b's'),
                            1 => drop(uio::pwrite(&fd, b"written", 100)),
                            2 => drop(nix::unistd::fsync(&fd)),
                            3 => drop(fs::metadata(&path)),
                            _ => drop(map.load(PAGE)),
                        }
                    }
                })
            })
            .collect();
        for kid in kids? {
            std::thread::sleep(Duration::from_micros(random.random_range(0..30_000)));
            let signals = [Signal::SIGKILL, Signal::SIGINT, Signal::SIGTERM];
            let signal = *signals.choose(&mut random).context("three")?;
            kid.kill(signal)?;
            kid.die_of(signal)?;
        }
    }
    wait_for("as many closes as opens", patience(10), || {
        let stat = fixture.stat()?;
        let open = stat["open"].as_array().map(Vec::len);
        Ok((open == Some(0)).then_some(()))
    })
    .with_context(|| format!("CODA_SEED={seed}: {}", fixture.stat().unwrap_or_default()))
}

fn main() -> ExitCode {
    let args = Args::parse();
    let groups = containers::to_test(false)
        .into_iter()
        .map(|(fs, all)| {
            let spec = Spec::on(containers::base().join(&fs));
            let contents = Menu {
                everything: false,
                closes: false,
            };
            let everything = Menu {
                everything: true,
                closes: true,
            };
            let mut cases = vec![
                Case::new(
                    "model",
                    "random operations, contents and closes",
                    move |ctx| model(ctx, everything, 500),
                )
                .tag("no_writes")
                .seconds(80 * factor()),
                Case::new(
                    "victims",
                    "processes that share files and are killed",
                    victims,
                )
                .tag("race")
                .seconds(30 * factor()),
            ];
            if all {
                cases.push(
                    Case::new(
                        "contents",
                        "random operations, contents alone",
                        move |ctx| model(ctx, contents, 300),
                    )
                    .tag("contents")
                    .seconds(80 * factor()),
                );
            }
            Group::new(fs.clone(), spec, cases).skip(containers::missing(&fs))
        })
        .collect();
    Suite::new("churn", groups).only(args.only).run()
}
