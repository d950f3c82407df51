// SPDX-License-Identifier: GPL-2.0

//! `coda-rs trace`: what the cache manager is asked, as it happens.
//!
//! It reads the module's tracepoints by an instance of tracefs of its own, so that nobody else's
//! tracing is disturbed, and takes the instance away when it ends, by whatever signal it can catch.

use crate::event::{self, Event, Fid, FidFilter, Line, Passed};
use crate::out::{self, BAD, FAIR};
use crate::proc;
use crate::root::{Root, is_absent, is_denied};
use anyhow::{Context, Result, anyhow, bail};
use clap::{Args, ValueEnum};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::time::{ClockId, clock_gettime};
use serde::Serialize;
use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Kinds of lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// What the cache manager is asked
    Upcall,
    /// What the cache manager says on its own account
    Downcall,
    /// Files that are opened
    Open,
    /// Files that are closed, and whether they are said to be modified
    Close,
    /// The first modification of a file
    Modified,
}

/// What of it is wanted.
#[derive(Args, Debug, Default)]
pub struct Options {
    /// Only upcalls and downcalls of these kinds, such as LOOKUP,GETATTR
    #[arg(long, short, value_delimiter = ',', value_name = "OPCODE")]
    pub opcode: Vec<String>,
    /// Only what is about these files; fids as printed, or as `cfs getfid` prints them
    #[arg(long, short, value_delimiter = ',', value_name = "FID")]
    pub fid: Vec<FidFilter>,
    /// Only what these processes, or threads, do or wait for. Which process a thread is of is looked
    /// up in /proc when it is first seen; one that has ended by then goes by its own number alone
    #[arg(long, short, value_delimiter = ',', value_name = "PID")]
    pub pid: Vec<i32>,
    /// Only lines of these kinds
    #[arg(long, short, value_delimiter = ',', value_name = "KIND")]
    pub event: Vec<Kind>,
    /// A line of JSON for each, for programs
    #[arg(long)]
    pub json: bool,
    /// End after so many seconds
    #[arg(long, short, value_name = "SECONDS", conflicts_with = "input")]
    pub seconds: Option<u64>,
    /// How much memory each CPU has for events that were not read yet
    #[arg(long, value_name = "KB", value_parser = clap::value_parser!(u64).range(4..=1_048_576), conflicts_with = "input")]
    pub buffer_kb: Option<u64>,
    /// Read what was recorded by `cat trace_pipe`, `trace-cmd report` or `perf script`; - is standard
    /// input. Times are those of the recording
    #[arg(long, short, value_name = "FILE")]
    pub input: Option<PathBuf>,
}

impl Options {
    fn wants_opcode(&self, opcode: &str) -> bool {
        let same = |wanted: &String| {
            let bare = match wanted.get(..5) {
                Some(prefix) if prefix.eq_ignore_ascii_case("coda_") => &wanted[5..],
                _ => wanted,
            };
            bare.eq_ignore_ascii_case(opcode)
        };
        self.opcode.is_empty() || self.opcode.iter().any(same)
    }

    /// `None` as opcode: it has none.
    fn wants(&self, kind: Kind, opcode: Option<&str>, fid: Fid, pids: &[i32]) -> bool {
        (self.event.is_empty() || self.event.contains(&kind))
            && match opcode {
                Some(opcode) => self.wants_opcode(opcode),
                // Who asks for opcodes alone does not want what has none.
                None => self.opcode.is_empty() || self.event.contains(&kind),
            }
            && (self.fid.is_empty() || self.fid.iter().any(|f| f.matches(fid)))
            && (self.pid.is_empty() || pids.iter().any(|p| self.pid.contains(p)))
    }
}

/// A line of output, for programs.
#[derive(Clone, Copy, Serialize)]
struct Record<'a> {
    time_us: u64,
    event: &'static str,
    command: &'a str,
    pid: i32,
    #[serde(skip_serializing_if = "Option::is_none")]
    opcode: Option<&'a str>,
    fid: Fid,
    #[serde(skip_serializing_if = "Option::is_none")]
    unique: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    flags: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    latency_ns: Option<u64>,
    /// For a close: `null` where the file was not open for writing.
    #[serde(skip_serializing_if = "Option::is_none")]
    modified: Option<Option<bool>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    how: Option<&'a str>,
}

/// What the times of the trace mean.
#[derive(Clone, Copy)]
enum Clock {
    /// The recording's own.
    Recorded,
    /// Since the machine was booted; by how much the time of day is ahead.
    Boot { ahead_us: i64 },
}

fn now_us(clock: ClockId) -> i64 {
    clock_gettime(clock).map_or(0, |t| t.tv_sec() * 1_000_000 + t.tv_nsec() / 1000)
}

impl Clock {
    fn boot() -> Self {
        Clock::Boot {
            ahead_us: now_us(ClockId::CLOCK_REALTIME) - now_us(ClockId::CLOCK_MONOTONIC),
        }
    }

    fn us(self, trace_us: u64) -> u64 {
        match self {
            Clock::Recorded => trace_us,
            Clock::Boot { ahead_us } => trace_us.saturating_add_signed(ahead_us),
        }
    }

    fn text(self, trace_us: u64) -> String {
        let us = self.us(trace_us);
        let at = i64::try_from(us)
            .ok()
            .and_then(|us| jiff::Timestamp::from_microsecond(us).ok());
        match (self, at) {
            (Clock::Boot { .. }, Some(at)) => at
                .to_zoned(jiff::tz::TimeZone::system())
                .strftime("%H:%M:%S.%6f")
                .to_string(),
            _ => format!("{}.{:06}", us / 1_000_000, us % 1_000_000),
        }
    }
}

/// An upcall without an answer so far.
struct Begun {
    command: String,
    pid: i32,
    /// Its process; the thread that queued it, and that one's process.
    others: [i32; 3],
    time_us: u64,
    told: bool,
}

/// After this it is said that somebody waits.
const LONG_US: u64 = 1_000_000;
/// More waiters than this are not remembered; where events were lost, some wait for ever.
const MOST_WAITERS: usize = 100_000;
/// Nor more threads.
const MOST_THREADS: usize = 100_000;
/// What a thread was found to be of is not looked up again for so long.
const FRESH_US: u64 = 1_000_000;

/// Makes lines for people, or for programs, out of the kernel's.
struct Log<'o, W> {
    options: &'o Options,
    /// Where to look up commands that the kernel has forgotten.
    root: Option<&'o Root>,
    out: W,
    clock: Clock,
    waiting: HashMap<(u64, String, Fid), Begun>,
    /// The processes of threads, and when that was looked up; for `--pid`.
    processes: HashMap<i32, (i32, u64)>,
    /// Events of ours that were seen.
    seen: u64,
    /// How often events were lost, and how many are known of.
    losses: u64,
    lost: u64,
}

impl<'o, W: Write> Log<'o, W> {
    fn new(options: &'o Options, root: Option<&'o Root>, out: W, clock: Clock) -> Self {
        Self {
            options,
            root,
            out,
            clock,
            waiting: HashMap::new(),
            processes: HashMap::new(),
            seen: 0,
            losses: 0,
            lost: 0,
        }
    }

    fn write(&mut self, record: &Record<'_>, what: &str, rest: &str) -> io::Result<()> {
        if self.options.json {
            let time_us = self.clock.us(record.time_us);
            return out::json_line(&mut self.out, &Record { time_us, ..*record });
        }
        let who = format!("{}[{}]", out::safe(record.command), record.pid);
        let what = out::safe(what);
        writeln!(
            self.out,
            "{}  {who:<22} {what:<14} {}  {rest}",
            self.clock.text(record.time_us),
            record.fid,
        )
    }

    fn lost(&mut self, cpu: u32, count: Option<u64>) -> io::Result<()> {
        self.losses += 1;
        self.lost = self.lost.saturating_add(count.unwrap_or(0));
        if self.options.json {
            return writeln!(
                self.out,
                "{}",
                serde_json::json!({"event": "lost", "cpu": cpu, "count": count})
            );
        }
        let many = count.map_or("events".to_owned(), |n| out::count(n, "event"));
        writeln!(
            self.out,
            "{BAD}-- {many} lost here: the buffer of CPU {cpu} was full{BAD:#}"
        )
    }

    fn line(&mut self, text: &str) -> io::Result<()> {
        match event::line(text) {
            Line::Lost { cpu, count } => self.lost(cpu, count),
            Line::Event(passed) => match &passed.event {
                Some(event) => {
                    self.seen += 1;
                    self.event(&passed, event)
                }
                None => Ok(()),
            },
            Line::Other => Ok(()),
        }
    }

    /// The process that a thread is of, where that matters, as far as it can be known. The kernel could
    /// record it (`record-tgid`), but in Linux 7.3 some of what it takes for that is never given back.
    fn process(&mut self, thread: i32, time_us: u64) -> i32 {
        let Some(root) = self.root.filter(|_| !self.options.pid.is_empty()) else {
            return thread;
        };
        let known = self.processes.get(&thread).copied();
        if let Some((process, at_us)) = known {
            // Its number may become another one's.
            if time_us.abs_diff(at_us) < FRESH_US {
                return process;
            }
        }
        match proc::process(root, thread) {
            Some(process) => {
                if self.processes.len() >= MOST_THREADS {
                    self.processes.clear();
                }
                self.processes.insert(thread, (process, time_us));
                process
            }
            // It has ended, and is what it was.
            None => known.map_or(thread, |(process, _)| process),
        }
    }

    /// Who waited for what has now ended.
    fn answered(&mut self, unique: u64, opcode: &str, fid: Fid) -> Option<Begun> {
        let exact = (unique, opcode.to_owned(), fid);
        if let Some(begun) = self.waiting.remove(&exact) {
            return Some(begun);
        }
        // A file that was replaced (CODA_REPLACE) meanwhile has another fid now. Each device has
        // numbers of its own: where several have this one, nobody knows whose end it is.
        let mut same = self
            .waiting
            .keys()
            .filter(|(u, o, _)| *u == unique && o == opcode);
        let (Some(only), None) = (same.next().cloned(), same.next()) else {
            return None;
        };
        self.waiting.remove(&only)
    }

    fn event(&mut self, passed: &Passed<'_>, event: &Event<'_>) -> io::Result<()> {
        let remembered = match (passed.command, self.root) {
            ("<...>", Some(root)) => proc::command(root, passed.pid),
            _ => None,
        };
        let command = remembered.as_deref().unwrap_or(passed.command);
        let process = passed
            .process
            .unwrap_or_else(|| self.process(passed.pid, passed.time_us));
        let here = [passed.pid, process];
        let mut record = Record {
            time_us: passed.time_us,
            event: "",
            command,
            pid: passed.pid,
            opcode: None,
            fid: event.fid(),
            unique: None,
            flags: None,
            result: None,
            latency_ns: None,
            modified: None,
            how: None,
        };
        let options = self.options;
        let wants = |kind, opcode, pids: &[i32]| options.wants(kind, opcode, event.fid(), pids);
        match *event {
            Event::Begin {
                unique,
                opcode,
                pid,
                fid,
            } => {
                if self.waiting.len() >= MOST_WAITERS {
                    self.waiting.clear();
                }
                // The module tells of threads, too.
                let pid = pid.unwrap_or(passed.pid);
                let its = match pid == passed.pid {
                    true => process,
                    false => self.process(pid, passed.time_us),
                };
                self.waiting.insert(
                    (unique, opcode.to_owned(), fid),
                    Begun {
                        command: command.to_owned(),
                        pid,
                        others: [its, passed.pid, process],
                        time_us: passed.time_us,
                        told: false,
                    },
                );
                Ok(())
            }
            Event::End {
                unique,
                opcode,
                fid,
                latency_ns,
                result,
            } => {
                let mut pids = here.to_vec();
                let begun = self.answered(unique, opcode, fid);
                if let Some(begun) = &begun {
                    record.command = &begun.command;
                    record.pid = begun.pid;
                    pids.push(begun.pid);
                    pids.extend(begun.others);
                }
                if !wants(Kind::Upcall, Some(opcode), &pids) {
                    return Ok(());
                }
                record.event = "upcall";
                record.opcode = Some(opcode);
                record.unique = Some(unique);
                record.result = Some(result);
                record.latency_ns = Some(latency_ns);
                let text = format!(
                    "{:<12} {:>8}",
                    out::result(result),
                    out::short_time(latency_ns)
                );
                let rest = if result < 0 {
                    format!("{BAD}{text}{BAD:#}")
                } else {
                    text
                };
                self.write(&record, opcode, &rest)
            }
            Event::Downcall { opcode, .. } => {
                if !wants(Kind::Downcall, Some(opcode), &here) {
                    return Ok(());
                }
                record.event = "downcall";
                record.opcode = Some(opcode);
                self.write(&record, opcode, "said by the cache manager")
            }
            Event::Open { flags, result, .. } => {
                if !wants(Kind::Open, None, &here) {
                    return Ok(());
                }
                record.event = "open";
                record.flags = Some(flags);
                record.result = Some(result);
                let rest = format!("{:<12} {}", out::result(result), event::flags(flags));
                self.write(&record, "open", &rest)
            }
            Event::Close {
                flags, modified, ..
            } => {
                if !wants(Kind::Close, None, &here) {
                    return Ok(());
                }
                record.event = "close";
                record.flags = Some(flags);
                record.modified = Some(modified);
                let words = match modified {
                    Some(true) => "modified",
                    Some(false) => "not modified",
                    None => "only read",
                };
                let rest = format!("{words:<12} {}", event::flags(flags));
                self.write(&record, "close", &rest)
            }
            Event::Modified { how, .. } => {
                if !wants(Kind::Modified, None, &here) {
                    return Ok(());
                }
                record.event = "modified";
                record.how = Some(how);
                let rest = match how {
                    "write" => "by a write",
                    "truncate" => "by a truncation",
                    "store" => "by a store through a mapping",
                    "other" => "by what cannot be seen, or for safety's sake",
                    other => other,
                };
                self.write(&record, "modified", &out::safe(rest))
            }
        }
    }

    /// Tells of upcalls that have waited for long, once each; at the end of all that wait.
    fn slow(&mut self, now_us: Option<u64>) -> io::Result<()> {
        let mut slow = Vec::new();
        for ((unique, opcode, fid), begun) in &mut self.waiting {
            let age_us = now_us.map(|now| now.saturating_sub(begun.time_us));
            if age_us.is_some_and(|age| age < LONG_US || begun.told)
                || !self.options.wants(
                    Kind::Upcall,
                    Some(opcode),
                    *fid,
                    &[&[begun.pid][..], &begun.others].concat(),
                )
            {
                continue;
            }
            begun.told = true;
            slow.push((
                begun.time_us,
                *unique,
                opcode.clone(),
                *fid,
                begun.command.clone(),
                begun.pid,
            ));
        }
        slow.sort();
        for (time_us, unique, opcode, fid, command, pid) in slow {
            let record = Record {
                time_us,
                event: "waiting",
                command: &command,
                pid,
                opcode: Some(&opcode),
                fid,
                unique: Some(unique),
                flags: None,
                result: None,
                latency_ns: None,
                modified: None,
                how: None,
            };
            let rest = format!("{FAIR}no answer yet{FAIR:#}");
            self.write(&record, &opcode, &rest)?;
        }
        Ok(())
    }
}

/// Why reading came to its end.
enum End {
    /// There is no more.
    Eof,
    /// A signal, or the time is over.
    Asked,
    /// Nobody reads what is written.
    Unread,
}

/// Where the lines come from.
struct Follow<'a> {
    from: &'a File,
    /// A byte for each signal.
    signals: &'a UnixStream,
    /// A trace that goes on, though there be nothing at the moment; this says when it does not.
    gone: Option<&'a dyn Fn() -> bool>,
    until: Option<Instant>,
}

impl Follow<'_> {
    /// Reads lines to the end. What is not ended by a newline is no line.
    fn run<W: Write>(&self, log: &mut Log<'_, W>) -> io::Result<End> {
        const TICK: Duration = Duration::from_millis(200);
        let stdout = io::stdout();
        let live = self.gone.is_some();
        let mut buffer = vec![0; 1 << 16];
        let mut held: Vec<u8> = Vec::new();
        let mut idle = false;
        let mut last_look = Instant::now();
        loop {
            let wait = match self.until {
                Some(until) => until.saturating_duration_since(Instant::now()).min(TICK),
                None => TICK,
            };
            let mut fds = [
                PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
                PollFd::new(stdout.as_fd(), PollFlags::empty()),
                PollFd::new(self.from.as_fd(), PollFlags::POLLIN),
            ];
            // A trace that is at its end for now would say so without end.
            let fds = if idle { &mut fds[..2] } else { &mut fds[..] };
            match poll(fds, PollTimeout::try_from(wait).unwrap_or(PollTimeout::MAX)) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(err) => return Err(err.into()),
            }
            let happened = |n: usize| fds.get(n).and_then(|f| f.any()).unwrap_or(false);
            if happened(0) {
                return Ok(End::Asked);
            }
            if happened(1) {
                return Ok(End::Unread);
            }
            // The kernel's poll may wait until a buffer is half full, so a live trace is read anyway.
            let mut eof = false;
            let mut got = 0;
            if live || happened(2) {
                let mut from = self.from;
                match from.read(&mut buffer) {
                    Ok(0) => eof = true,
                    Ok(n) => got = n,
                    Err(err) if err.kind() == io::ErrorKind::WouldBlock => {}
                    Err(err) if err.kind() == io::ErrorKind::Interrupted => continue,
                    // The module, and with it the events, went away.
                    Err(err) if live && is_absent(&err) => return Ok(End::Eof),
                    Err(err) => return Err(err),
                }
            }
            if live {
                log.clock = Clock::boot();
            }
            held.extend_from_slice(buffer.get(..got).unwrap_or(&[]));
            let mut from = 0;
            while let Some(len) = held[from..].iter().position(|b| *b == b'\n') {
                log.line(&String::from_utf8_lossy(&held[from..from + len]))?;
                from += len + 1;
            }
            held.drain(..from);
            // No line of a trace is a megabyte long.
            if held.len() > 1 << 20 {
                held.clear();
            }
            idle = live && eof;
            if live {
                log.slow(u64::try_from(now_us(ClockId::CLOCK_MONOTONIC)).ok())?;
            } else if eof {
                return Ok(End::Eof);
            }
            log.out.flush()?;
            if let Some(gone) = self.gone {
                if got == 0 && last_look.elapsed() > Duration::from_secs(1) {
                    last_look = Instant::now();
                    if gone() {
                        return Ok(End::Eof);
                    }
                }
            }
            if self.until.is_some_and(|until| Instant::now() >= until) {
                return Ok(End::Asked);
            }
        }
    }
}

/// An instance of tracefs, which goes when this goes.
struct Instance {
    dir: PathBuf,
}

const INSTANCE: &str = "coda-rs-";

impl Instance {
    fn new(tracing: &str, root: &Root) -> Result<Self> {
        // What one that was killed has left; the kernel refuses to remove what is in use.
        for name in root
            .list(&format!("{tracing}/instances"))
            .unwrap_or_default()
        {
            if let Some(Ok(pid)) = name.strip_prefix(INSTANCE).map(str::parse::<u32>) {
                if !root.has(&format!("/proc/{pid}")) {
                    let _ = fs::remove_dir(root.path(&format!("{tracing}/instances/{name}")));
                }
            }
        }
        let name = format!("{tracing}/instances/{INSTANCE}{}", std::process::id());
        let dir = root.path(&name);
        match fs::create_dir(&dir) {
            Ok(()) => Ok(Self { dir }),
            Err(err) if is_denied(&err) && !proc::is_root() => Err(needs_root()),
            Err(err) => Err(err).with_context(|| {
                format!("{} cannot be made, so nothing can be traced", dir.display())
            }),
        }
    }

    fn set(&self, file: &str, value: &str) -> Result<()> {
        let path = self.dir.join(file);
        // Never made anew: it is the kernel's.
        OpenOptions::new()
            .write(true)
            .open(&path)
            .and_then(|mut f| f.write_all(value.as_bytes()))
            .with_context(|| format!("{} cannot be set to {value}", path.display()))
    }

    fn enable(&self, buffer_kb: Option<u64>) -> Result<File> {
        if let Some(kb) = buffer_kb {
            self.set("buffer_size_kb", &kb.to_string())?;
        }
        self.set("trace_clock", "mono")?;
        // Wake us at the first event; older kernels have no such file.
        let _ = self.set("buffer_percent", "0");
        let path = self.dir.join("trace_pipe");
        let pipe = OpenOptions::new()
            .read(true)
            .custom_flags(nix::libc::O_NONBLOCK)
            .open(&path)
            .with_context(|| format!("{} cannot be read", path.display()))?;
        self.set("events/coda_rs/enable", "1")?;
        Ok(pipe)
    }

    /// Events that the kernel threw away, as it counts them itself.
    fn thrown_away(&self) -> u64 {
        let Ok(cpus) = fs::read_dir(self.dir.join("per_cpu")) else {
            return 0;
        };
        cpus.flatten()
            .filter_map(|cpu| fs::read_to_string(cpu.path().join("stats")).ok())
            .flat_map(|text| text.lines().filter_map(thrown_away).collect::<Vec<_>>())
            .sum()
    }
}

/// A line of `stats`.
fn thrown_away(line: &str) -> Option<u64> {
    let (name, count) = line.split_once(':')?;
    matches!(name.trim(), "overrun" | "commit overrun" | "dropped events")
        .then(|| count.trim().parse().ok())
        .flatten()
}

impl Drop for Instance {
    fn drop(&mut self) {
        let _ = self.set("events/coda_rs/enable", "0");
        for _ in 0..20 {
            match fs::remove_dir(&self.dir) {
                Ok(()) => return,
                Err(err) if is_absent(&err) => return,
                // Somebody is looking at it, who may stop doing so.
                Err(_) => sleep(Duration::from_millis(50)),
            }
        }
        // Standard error may be gone as well.
        let _ = writeln!(
            io::stderr(),
            "coda-rs: {} is left over; `rmdir` removes it",
            self.dir.display()
        );
    }
}

fn needs_root() -> anyhow::Error {
    anyhow!("trace needs root, as the kernel's tracing is for root alone: try `sudo coda-rs trace`")
}

/// Where tracefs is.
fn tracing(root: &Root) -> Result<&'static str> {
    let mut denied = false;
    for dir in ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"] {
        match root.list(&format!("{dir}/instances")) {
            Ok(_) => {
                if root.has(&format!("{dir}/events/coda_rs")) {
                    return Ok(dir);
                }
                if proc::module(root, "coda_rs").is_none() {
                    bail!(proc::Hidden::NotLoaded);
                }
                bail!(
                    "there are no tracepoints in {dir}/events/coda_rs: \
                     this version of the module has none, or the kernel has no tracing"
                );
            }
            Err(err) => denied |= is_denied(&err),
        }
    }
    match denied {
        true if proc::is_root() && !root.is_recorded() => bail!(
            "the kernel refuses its tracing to root, too; it may be locked down \
             (/sys/kernel/security/lockdown)"
        ),
        true => Err(needs_root()),
        false => {
            bail!("tracefs is not mounted: `mount -t tracefs nodev /sys/kernel/tracing` does it")
        }
    }
}

/// A stream that gets a byte for each signal that asks us to end.
fn signals() -> Result<UnixStream> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
    let (ours, theirs) = UnixStream::pair()?;
    for signal in [SIGHUP, SIGINT, SIGQUIT, SIGTERM] {
        signal_hook::low_level::pipe::register(signal, theirs.try_clone()?)?;
    }
    Ok(ours)
}

/// `coda-rs trace`.
pub fn run(root: &Root, options: &Options) -> Result<()> {
    let signals = signals()?;
    match &options.input {
        Some(path) => {
            let from = if path.as_os_str() == "-" {
                File::from(io::stdin().as_fd().try_clone_to_owned()?)
            } else {
                // It is waited for where a signal is heeded.
                OpenOptions::new()
                    .read(true)
                    .custom_flags(nix::libc::O_NONBLOCK)
                    .open(path)
                    .with_context(|| format!("{} cannot be read", path.display()))?
            };
            let mut log = Log::new(options, None, out::stdout(), Clock::Recorded);
            let end = Follow {
                from: &from,
                signals: &signals,
                gone: None,
                until: None,
            }
            .run(&mut log)
            .with_context(|| format!("{} cannot be read", path.display()))?;
            finish(&mut log, &end, 0)?;
            if matches!(end, End::Eof) && log.seen == 0 {
                bail!("{} has no events of coda_rs", path.display());
            }
            Ok(())
        }
        None => live(root, options, &signals),
    }
}

fn live(root: &Root, options: &Options, signals: &UnixStream) -> Result<()> {
    let tracing = tracing(root)?;
    let instance = Instance::new(tracing, root)?;
    let pipe = instance.enable(options.buffer_kb)?;
    if !options.json && out::on_terminal() {
        eprintln_quietly("coda-rs: tracing; Ctrl-C ends it");
    }
    // The trace has the kernel's numbers of threads.
    let lookup = proc::is_whole(root).then_some(root);
    let mut log = Log::new(options, lookup, out::stdout(), Clock::boot());
    let events = format!("{tracing}/events/coda_rs");
    let end = Follow {
        from: &pipe,
        signals,
        gone: Some(&|| !root.has(&events)),
        until: options
            .seconds
            .and_then(|s| Instant::now().checked_add(Duration::from_secs(s))),
    }
    .run(&mut log)?;
    let thrown_away = instance.thrown_away();
    // The instance cannot be removed while it is read.
    drop(pipe);
    drop(instance);
    if matches!(end, End::Eof) {
        eprintln_quietly("coda-rs: the module was unloaded");
    }
    finish(&mut log, &end, thrown_away)
}

/// Standard error may be gone: that is no reason to panic.
fn eprintln_quietly(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

fn finish<W: Write>(log: &mut Log<'_, W>, end: &End, thrown_away: u64) -> Result<()> {
    if matches!(end, End::Unread) {
        return Ok(());
    }
    log.slow(None)?;
    log.out.flush()?;
    let lost = log.lost.max(thrown_away);
    if log.losses > 0 || lost > 0 {
        let many = match lost {
            0 => "an unknown number of events".to_owned(),
            n => out::count(n, "event"),
        };
        eprintln_quietly(&format!(
            "coda-rs: {many} lost, as they came faster than they were read; \
             a larger --buffer-kb, or writing to a file, helps"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_go_by_their_processes() {
        let dir = tempfile::tempdir().unwrap();
        let thread = |pid: i32, process: i32| {
            let proc = dir.path().join(format!("proc/{pid}"));
            fs::create_dir_all(&proc).unwrap();
            let status = format!("Name:\tx\nState:\tS\nTgid:\t{process}\nNgid:\t0\nPid:\t{pid}\n");
            fs::write(proc.join("status"), status).unwrap();
        };
        let close = |pid, sec| {
            format!(
                "x-{pid} [000] ..... {sec}.0: coda_file_close: fid=1.2.3.{sec} flags=0x1 modified=-"
            )
        };
        thread(11, 10);
        thread(12, 10);
        thread(20, 20);
        let root = Root::new(dir.path());
        let options = Options {
            pid: vec![10],
            ..Options::default()
        };
        let mut log = Log::new(&options, Some(&root), Vec::new(), Clock::Recorded);
        // 13 is gone already.
        for pid in [11, 13, 20] {
            log.line(&close(pid, 1)).unwrap();
        }
        // What has ended is what it was, and a number that is another thread's now is not.
        fs::remove_dir_all(dir.path().join("proc/11")).unwrap();
        log.line(&close(11, 5)).unwrap();
        thread(11, 20);
        log.line(&close(11, 6)).unwrap();
        // Who waits is a thread, too, and need not be the one that asks.
        let begin = |unique, asks, waits| {
            format!(
                "x-{asks} [000] ..... 7.0: coda_upcall_begin: unique={unique} opcode=OPEN pid={waits} fid=1.2.3.4"
            )
        };
        let end = |unique| {
            format!(
                "x-20 [000] ..... 7.1: coda_upcall_end: unique={unique} opcode=OPEN fid=1.2.3.4 latency_ns=5 result=0"
            )
        };
        for (unique, asks, waits) in [(1, 12, 12), (2, 20, 12), (3, 20, 20)] {
            log.line(&begin(unique, asks, waits)).unwrap();
            log.line(&end(unique)).unwrap();
        }
        // This one has no answer, and is told of at the end.
        log.line(&begin(4, 20, 12)).unwrap();
        log.slow(None).unwrap();
        let text = String::from_utf8(log.out).unwrap();
        let lines: Vec<Vec<&str>> = text
            .lines()
            .map(|line| line.split_whitespace().take(3).collect())
            .collect();
        assert_eq!(
            lines,
            [
                ["1.000000", "x[11]", "close"],
                ["5.000000", "x[11]", "close"],
                ["7.100000", "x[12]", "OPEN"],
                ["7.100000", "x[12]", "OPEN"],
                ["7.000000", "x[12]", "OPEN"],
            ]
        );
        // Nothing is looked up where nobody asks.
        let options = Options::default();
        let mut log = Log::new(&options, Some(&root), Vec::new(), Clock::Recorded);
        log.line(&close(12, 1)).unwrap();
        assert!(log.processes.is_empty());
    }

    #[test]
    fn what_is_set_in_the_instance() {
        let dir = tempfile::tempdir().unwrap();
        let files = [
            ("buffer_size_kb", "7"),
            ("trace_clock", "mono"),
            ("buffer_percent", "0"),
            ("events/coda_rs/enable", "1"),
            // That of record-tgid costs the kernel what it never gets back.
            ("options/record-tgid", ""),
            ("trace_pipe", ""),
        ];
        for (file, _) in files {
            let path = dir.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        let instance = Instance {
            dir: dir.path().to_owned(),
        };
        instance.enable(Some(7)).unwrap();
        // It would wait for the directory to become empty.
        std::mem::forget(instance);
        for (file, value) in files {
            let is = fs::read_to_string(dir.path().join(file)).unwrap();
            assert_eq!(is, value, "{file}");
        }
    }
}
