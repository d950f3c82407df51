// SPDX-License-Identifier: GPL-2.0

//! Random operations: their generator and the processes that execute them.
//!
//! The operations depend on the seed alone. What makes most of them succeed is
//! a model of the tree that is kept by the generator, and that is fed with the
//! operations it made up and never with what became of them.
//!
//! A path is a `String` whose characters are the path's bytes (Latin-1), so
//! that any name can be logged. A leading `@` stands for the absolute path of
//! the directory worked in.

mod executor;
mod generator;
mod model;
mod op;

use anyhow::{Context, Result, bail, ensure};
use executor::act;
use generator::Generator;
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, fork};
use op::{Answer, Command, Line};
use serde::Serialize;
use serde_json::json;
use std::fs::{File, OpenOptions, Permissions};
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::Shutdown;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

/// Arguments of the subcommand.
#[derive(clap::Args)]
pub struct OpsArgs {
    /// What the operations follow from
    #[arg(long)]
    pub seed: u64,
    /// Number of operations
    #[arg(long)]
    pub count: usize,
    /// An existing directory to work in
    #[arg(long)]
    pub dir: PathBuf,
    /// Where to write the results
    #[arg(long)]
    pub log: PathBuf,
    /// The cache manager's trace, which gets a mark after each operation
    #[arg(long)]
    pub trace: Option<PathBuf>,
    /// Number of processes: the first is root, the others are uid 1000, 1001...
    #[arg(long, default_value_t = 3)]
    pub actors: usize,
}

/// Descriptors that an actor can hold.
const SLOTS: usize = 8;
/// Mappings that an actor can hold.
const MAPS: usize = 4;
const PAGE: usize = 4096;

/// The driver's end of an actor.
struct Worker {
    pid: Pid,
    socket: UnixStream,
    answers: BufReader<UnixStream>,
}

impl Worker {
    fn start(who: usize, dir: &Path, others: &mut Vec<Worker>) -> Result<()> {
        let (socket, theirs) = UnixStream::pair()?;
        // SAFETY: an actor goes on by itself; only a unit test has any threads.
        if let ForkResult::Parent { child } = unsafe { fork() }? {
            let answers = BufReader::new(socket.try_clone()?);
            let worker = Worker {
                pid: child,
                socket,
                answers,
            };
            others.push(worker);
            return Ok(());
        }
        drop(socket);
        others.clear();
        let body = std::panic::AssertUnwindSafe(|| act(who, dir, theirs));
        let status = match std::panic::catch_unwind(body) {
            Ok(Ok(())) => 0,
            Ok(Err(e)) => {
                eprintln!("codadiff: actor {who}: {e:#}");
                1
            }
            Err(_) => 101,
        };
        // SAFETY: it ends the process, nothing else.
        unsafe { libc::_exit(status) }
    }

    fn answer(&mut self) -> Result<Answer> {
        let mut line = String::new();
        match self.answers.read_line(&mut line) {
            Ok(0) => bail!("the actor died: {:?}", waitpid(self.pid, None)),
            Err(e) if e.kind() == ErrorKind::ConnectionReset => {
                bail!("the actor died: {:?}", waitpid(self.pid, None))
            }
            result => result?,
        };
        Ok(serde_json::from_str(&line)?)
    }

    fn perform(&mut self, command: &Command) -> Result<Answer> {
        let mut line = serde_json::to_vec(command)?;
        line.push(b'\n');
        self.socket.write_all(&line)?;
        self.answer()
    }

    fn end(self) -> Result<()> {
        self.socket.shutdown(Shutdown::Write)?;
        let status = waitpid(self.pid, None)?;
        ensure!(
            matches!(status, nix::sys::wait::WaitStatus::Exited(_, 0)),
            "an actor ended with {status:?}"
        );
        Ok(())
    }
}

/// Appends a line by a single write.
fn put(to: &mut File, line: &impl Serialize) -> Result<()> {
    let mut line = serde_json::to_vec(line)?;
    line.push(b'\n');
    let written = to.write(&line)?;
    ensure!(written == line.len(), "a line was written only in part");
    Ok(())
}

/// Executes the operations of a seed. Mark 0 in the trace says that the actors
/// are there, and mark `count + 1` that they have closed everything and are
/// gone; the others are those of the operations, which count from 1.
pub fn run(args: OpsArgs) -> Result<()> {
    ensure!(args.actors > 0, "there has to be an actor");
    let dir = std::path::absolute(&args.dir)?;
    let mut workers = Vec::new();
    std::fs::set_permissions(&dir, Permissions::from_mode(0o777))
        .with_context(|| format!("chmod of {}", dir.display()))?;
    for who in 0..args.actors {
        Worker::start(who, &dir, &mut workers)?;
        // One after the other, so that even this is in a fixed order.
        workers[who].answer()?;
    }
    let mut log =
        File::create(&args.log).with_context(|| format!("creating {}", args.log.display()))?;
    let mut trace = match &args.trace {
        Some(path) => {
            let file = OpenOptions::new().append(true).create(true).open(path);
            Some(file.with_context(|| format!("opening {}", path.display()))?)
        }
        None => None,
    };
    let mut mark = |n: usize| match &mut trace {
        Some(trace) => put(trace, &json!({ "ev": "mark", "n": n })),
        None => Ok(()),
    };
    mark(0)?;
    let mut generator = Generator::new(args.seed, args.actors);
    for n in 1..=args.count {
        let (who, op) = generator.next();
        let command = Command { n, who, op };
        let answer = workers[who].perform(&command);
        let answer = answer.with_context(|| format!("operation {n}, {:?}", command.op))?;
        mark(n)?;
        let line = Line {
            command: &command,
            answer,
        };
        put(&mut log, &line)?;
    }
    for worker in workers {
        worker.end()?;
    }
    mark(args.count + 1)?;
    put(&mut log, &json!({ "end": true, "count": args.count }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use op::{Op, value};
    use serde_json::Value;

    fn stream(seed: u64) -> Vec<(usize, Op)> {
        let mut generator = Generator::new(seed, 3);
        (0..2000).map(|_| generator.next()).collect()
    }

    #[test]
    fn the_seed_decides() {
        assert_eq!(stream(1), stream(1));
        assert_ne!(stream(1), stream(2));
    }

    #[test]
    fn operations_survive_the_way_to_an_actor() {
        for (n, (who, op)) in stream(3).into_iter().enumerate() {
            let line = serde_json::to_string(&Command { n, who, op }).unwrap();
            let back: Command = serde_json::from_str(&line).unwrap();
            assert_eq!(serde_json::to_string(&back).unwrap(), line);
        }
    }

    #[test]
    fn what_the_c_module_does_wrong_is_not_asked_for() {
        for seed in 0..20 {
            // Whether what a slot holds can be written, if anything is in it.
            let mut slots = [[None; SLOTS]; 3];
            for (who, op) in stream(seed) {
                let text = serde_json::to_string(&op).unwrap();
                assert!(
                    !["O_APPEND", "O_SYNC", "O_DSYNC", "O_DIRECT|"]
                        .iter()
                        .any(|f| text.contains(f))
                );
                match op {
                    Op::Open { slot, flags, .. } => {
                        assert!(flags.contains("O_NONBLOCK"));
                        let write = value(&flags) & libc::O_ACCMODE != libc::O_RDONLY;
                        slots[who][slot] = Some(write);
                    }
                    Op::Dup { slot, to } => slots[who][to] = slots[who][slot],
                    Op::Mmap { slot, flags, .. } if flags == "MAP_SHARED" => {
                        assert_eq!(slots[who][slot], Some(false));
                    }
                    // Never a directory, which cannot be written.
                    Op::Lseek { slot, .. } | Op::Fchmod { slot, .. } => {
                        assert_eq!(slots[who][slot], Some(true));
                    }
                    _ => {}
                }
            }
        }
    }

    /// The log of 300 operations, without what differs between directories.
    fn log_in(name: &str) -> Vec<String> {
        let base = std::env::temp_dir().join(format!("codadiff-{}-{name}", std::process::id()));
        let dir = base.join("ops");
        std::fs::create_dir_all(&dir).unwrap();
        run(OpsArgs {
            seed: 7,
            count: 300,
            dir,
            log: base.join("log"),
            trace: Some(base.join("trace")),
            actors: 1,
        })
        .unwrap();
        let trace = std::fs::read_to_string(base.join("trace")).unwrap();
        assert_eq!(trace.lines().count(), 302);
        let log = std::fs::read_to_string(base.join("log")).unwrap();
        // A chmod may have made something inaccessible.
        let _ = std::fs::remove_dir_all(&base);
        let without_ino = |line: &str| {
            let mut line: Value = serde_json::from_str(line).unwrap();
            if let Some(ino) = line.pointer_mut("/stat/ino") {
                *ino = Value::Null;
            }
            for entry in line["entries"].as_array_mut().into_iter().flatten() {
                entry[2] = Value::Null;
            }
            line.to_string()
        };
        log.lines().map(without_ino).collect()
    }

    #[test]
    fn a_run_can_be_repeated() {
        let first = log_in("a");
        assert_eq!(first.len(), 301);
        let good = first.iter().filter(|line| line.contains("\"ret\"")).count();
        assert!(good > 150, "only {good} operations succeeded");
        for (first, second) in first.iter().zip(log_in("b")) {
            assert_eq!(*first, second);
        }
    }
}
