// SPDX-License-Identifier: GPL-2.0

//! What can be seen of the module from outside: its files in debugfs, its
//! tracepoints, and its lines for dynamic debug.

use clap::Parser;
use coda_selftests::containers;
use coda_selftests::map::{Map, PAGE};
use coda_selftests::sys::{self, Child, child};
use ktest::{
    Case, Context, Fixture, Group, Result, Rule, Spec, Suite, bail, ensure, ensure_eq,
    module_is_ours, patience, wait_for,
};
use libc::{MAP_SHARED, PROT_READ, PROT_WRITE};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::mount::{MsFlags, mount};
use nix::sys::signal::Signal;
use nix::sys::stat::stat;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// What can be seen of the module from outside.
#[derive(Parser)]
struct Args {
    /// Run only cases whose name has one of these in it.
    only: Vec<String>,
}

const DEBUGFS: &str = "/sys/kernel/debug";
const TRACEFS: &str = "/sys/kernel/tracing";

/// Mounts a file system of the kernel's own, unless it is there.
fn mounted(kind: &str, at: &str) -> Result<()> {
    match mount(Some(kind), at, Some(kind), MsFlags::empty(), None::<&Path>) {
        Ok(()) | Err(Errno::EBUSY) => Ok(()),
        Err(e) => Err(e).context(format!("{kind} on {at}")),
    }
}

/// The content of one of the module's files.
fn shown(name: &str) -> Result<String> {
    mounted("debugfs", DEBUGFS)?;
    let path = format!("{DEBUGFS}/coda_rs/{name}");
    fs::read_to_string(&path).context(path)
}

/// `files`: the numbers by their names.
fn files() -> Result<BTreeMap<String, i64>> {
    let mut numbers = BTreeMap::new();
    for line in shown("files")?.lines() {
        let (name, number) = line.split_once(' ').context("no number")?;
        numbers.insert(name.to_owned(), number.parse()?);
    }
    Ok(numbers)
}

/// How much the numbers of `files` went up while something was done: those that did.
fn more(what: impl FnOnce() -> Result<()>) -> Result<BTreeMap<String, i64>> {
    let before = files()?;
    what()?;
    let mut more = files()?;
    for (name, number) in &mut more {
        *number -= before
            .get(name)
            .with_context(|| format!("no {name} before"))?;
    }
    more.retain(|_, number| *number != 0);
    Ok(more)
}

/// A table with a heading: the fields of each line by their names.
fn table(name: &str) -> Result<Vec<BTreeMap<String, String>>> {
    let text = shown(name)?;
    let mut lines = text.lines();
    let heading = lines.next().context("no heading")?;
    let names: Vec<_> = heading
        .strip_prefix("# ")
        .context("no heading")?
        .split(' ')
        .collect();
    lines
        .map(|line| {
            let fields: Vec<_> = line.split(' ').collect();
            ensure_eq!(fields.len(), names.len(), "fields in {line:?}");
            let pairs = names.iter().zip(fields);
            Ok(pairs
                .map(|(n, f)| ((*n).to_owned(), f.to_owned()))
                .collect())
        })
        .collect()
}

fn number(line: &BTreeMap<String, String>, field: &str) -> Result<i64> {
    let text = line.get(field).with_context(|| format!("no {field}"))?;
    Ok(text.parse()?)
}

/// The line of an opcode in `upcalls`.
#[derive(Default)]
struct Upcalls {
    calls: i64,
    errors: i64,
    given_up: i64,
    total_ns: i64,
}

fn upcalls(opcode: &str) -> Result<Upcalls> {
    let mut told = Upcalls::default();
    let mut seen = BTreeSet::new();
    for line in table("upcalls")? {
        let name = line.get("opcode").context("no opcode")?;
        ensure!(seen.insert(name.clone()), "{name} is there twice");
        let calls = number(&line, "calls")?;
        let classes = line
            .iter()
            .filter(|(field, _)| field.starts_with("lt_") || *field == "more")
            .map(|(_, count)| Ok(count.parse::<i64>()?))
            .sum::<Result<i64>>()?;
        ensure_eq!(classes, calls, "all that is in a class of {name}");
        if name == opcode {
            told = Upcalls {
                calls,
                errors: number(&line, "errors")?,
                given_up: number(&line, "given_up")?,
                total_ns: number(&line, "total_ns")?,
            };
        }
    }
    Ok(told)
}

/// A child that looks up `name` in the mount, and is let wait for the answer.
fn held(fixture: &Fixture, name: &'static str) -> Result<(Child, u64)> {
    let rule = Rule::on("LOOKUP").name(name).once().with("hold", true);
    let rule = fixture.rule(rule)?;
    let path = fixture.mnt.join(name);
    let kid = child(move |_| {
        ensure_eq!(stat(&path).err(), Some(Errno::ENOENT));
        Ok(())
    })?;
    fixture.wait_rule(rule, 1)?;
    Ok((kid, rule))
}

/// A fid as the module spells it.
fn fid(fixture: &Fixture, path: &str) -> Result<String> {
    let words = fixture.fid(path)?;
    let words = words
        .split('.')
        .map(|word| Ok(format!("{:08x}", u32::from_str_radix(word, 16)?)));
    Ok(words.collect::<Result<Vec<_>>>()?.join("."))
}

/// The requests that are on their way with an opcode.
fn requests(opcode: &str) -> Result<Vec<BTreeMap<String, String>>> {
    let mut lines = table("requests")?;
    lines.retain(|line| line.get("opcode").is_some_and(|name| name == opcode));
    Ok(lines)
}

/// A buffer for traces of our own, for as long as it lives.
struct Tracing(PathBuf);

impl Tracing {
    fn begin() -> Result<Self> {
        mounted("tracefs", TRACEFS)?;
        let at = Path::new(TRACEFS).join(format!("instances/observe-{}", std::process::id()));
        fs::create_dir(&at).context("an instance of the tracer")?;
        let this = Tracing(at);
        fs::write(this.0.join("events/coda_rs/enable"), "1").context("coda_rs has no events")?;
        Ok(this)
    }

    /// The lines so far: the event's name, and its fields.
    fn lines(&self) -> Result<Vec<(String, BTreeMap<String, String>)>> {
        let text = fs::read_to_string(self.0.join("trace"))?;
        let mut lines = Vec::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            // TASK-PID [CPU] FLAGS TIME: EVENT: FIELDS
            let mut parts = line.splitn(3, ": ");
            let (_, event, fields) = (parts.next(), parts.next(), parts.next());
            let (Some(event), Some(fields)) = (event, fields) else {
                bail!("{line:?} is no event");
            };
            let fields = fields.split(' ').map(|field| {
                let (name, value) = field.split_once('=').context(field.to_owned())?;
                Ok((name.to_owned(), value.to_owned()))
            });
            lines.push((event.to_owned(), fields.collect::<Result<_>>()?));
        }
        Ok(lines)
    }
}

impl Drop for Tracing {
    fn drop(&mut self) {
        let _ = fs::write(self.0.join("events/enable"), "0");
        let _ = fs::remove_dir(&self.0);
    }
}

/// Opens for reading and writing, does something, and closes.
fn with_open(path: &Path, what: impl FnOnce(&std::os::fd::OwnedFd) -> Result<()>) -> Result<()> {
    let fd = sys::open(path, OFlag::O_RDWR)?;
    what(&fd)?;
    sys::close(fd)?;
    Ok(())
}

fn store(fd: &std::os::fd::OwnedFd) -> Result<()> {
    let map = Map::new(fd, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED)?;
    map.store(0, 1);
    map.store(1, 1);
    Ok(())
}

fn write(fd: &std::os::fd::OwnedFd) -> Result<()> {
    ensure_eq!(nix::unistd::write(fd, b"w")?, 1);
    ensure_eq!(nix::unistd::write(fd, b"w")?, 1);
    Ok(())
}

fn truncate(fd: &std::os::fd::OwnedFd) -> Result<()> {
    Ok(nix::unistd::ftruncate(fd, 1)?)
}

fn cases() -> Vec<Case> {
    vec![
        Case::new("files", "how closes and modifications are counted", |ctx| {
            let fixture = ctx.fixture();
            fs::write(fixture.root.join("f"), vec![b'f'; 2 * PAGE])?;
            let path = fixture.mnt.join("f");
            let wanted = |numbers: &[(&str, i64)]| -> BTreeMap<String, i64> {
                numbers.iter().map(|(n, i)| ((*n).to_owned(), *i)).collect()
            };
            let got = more(|| {
                drop(fs::read(&path)?);
                Ok(())
            })?;
            ensure_eq!(got, wanted(&[("opens", 1), ("closes_read", 1)]), "a reader");
            let got = more(|| with_open(&path, |_| Ok(())))?;
            ensure_eq!(
                got,
                wanted(&[("opens", 1), ("closes_clean", 1)]),
                "no write"
            );
            let modified = |how| wanted(&[("opens", 1), ("closes_modified", 1), (how, 1)]);
            let got = more(|| with_open(&path, write))?;
            ensure_eq!(got, modified("modified_write"), "writes");
            let got = more(|| with_open(&path, truncate))?;
            ensure_eq!(got, modified("modified_truncate"), "a truncation");
            let got = more(|| with_open(&path, store))?;
            let mut stored = modified("modified_store");
            stored.insert("mappings".into(), 1);
            ensure_eq!(got, stored, "stores");
            let got = more(|| {
                ensure!(fs::read(fixture.mnt.join("nobody")).is_err(), "it is there");
                Ok(())
            })?;
            ensure_eq!(got, wanted(&[]), "an open that fails");
            Ok(())
        }),
        Case::new("upcalls", "requests, errors and times by opcode", |ctx| {
            let fixture = ctx.fixture();
            fs::write(fixture.root.join("there"), b"")?;
            let before = upcalls("LOOKUP")?;
            stat(&fixture.mnt.join("there"))?;
            let found = upcalls("LOOKUP")?;
            ensure_eq!(found.calls, before.calls + 1);
            ensure_eq!(found.errors, before.errors);
            ensure!(found.total_ns > before.total_ns, "it took no time");
            ensure_eq!(stat(&fixture.mnt.join("away")).err(), Some(Errno::ENOENT));
            let missed = upcalls("LOOKUP")?;
            ensure_eq!(missed.calls, found.calls + 1);
            ensure_eq!(missed.errors, found.errors + 1);
            let (kid, rule) = held(fixture, "slow")?;
            std::thread::sleep(Duration::from_millis(50));
            fixture.release(rule)?;
            kid.succeed()?;
            let slow = upcalls("LOOKUP")?;
            ensure!(
                slow.total_ns >= missed.total_ns + 50_000_000,
                "50 ms are not in it"
            );
            ensure_eq!(slow.given_up, before.given_up);
            let (kid, rule) = held(fixture, "never")?;
            kid.kill(Signal::SIGKILL)?;
            kid.die_of(Signal::SIGKILL)?;
            let given_up = upcalls("LOOKUP")?;
            ensure_eq!(given_up.calls, slow.calls + 1);
            ensure_eq!(given_up.given_up, slow.given_up + 1);
            // The answer comes all the same, and is nobody's.
            fixture.release(rule)?;
            stat(&fixture.mnt.join("there"))?;
            ensure_eq!(upcalls("LOOKUP")?.calls, given_up.calls);
            // What the cache manager gets wrong is its error.
            let rule = Rule::on("LOOKUP")
                .name("wrong")
                .once()
                .with("result", 100_000);
            fixture.rule(rule)?;
            ensure_eq!(stat(&fixture.mnt.join("wrong")).err(), Some(Errno::EIO));
            let wrong = upcalls("LOOKUP")?;
            ensure_eq!(wrong.errors, given_up.errors + 1);
            ensure_eq!(wrong.given_up, given_up.given_up);
            Ok(())
        }),
        Case::new("requests", "what is on its way, and who waits", |ctx| {
            let fixture = ctx.fixture();
            ensure_eq!(requests("LOOKUP")?.len(), 0);
            let (kid, rule) = held(fixture, "waited-for")?;
            std::thread::sleep(Duration::from_millis(50));
            let lines = requests("LOOKUP")?;
            let [line] = lines.as_slice() else {
                bail!("{lines:?}");
            };
            let text = |field: &str| line.get(field).map(String::as_str);
            ensure_eq!(text("device"), Some("cfs0"));
            ensure_eq!(text("state"), Some("outstanding"));
            ensure_eq!(number(line, "pid")?, i64::from(kid.pid.as_raw()));
            ensure!(number(line, "age_ms")? >= 50, "{line:?}: too young");
            // It is about the directory.
            let root = fid(fixture, "")?;
            ensure_eq!(text("fid"), Some(root.as_str()));
            let devices = table("devices")?;
            let [device] = devices.as_slice() else {
                bail!("{devices:?}");
            };
            ensure_eq!(device.get("device").map(String::as_str), Some("cfs0"));
            ensure_eq!(
                Some(number(device, "pid")?),
                fixture.manager_pid().map(i64::from)
            );
            ensure_eq!(number(device, "mounted")?, 1);
            ensure_eq!(number(device, "pending")?, 0);
            ensure_eq!(number(device, "outstanding")?, 1);
            fixture.release(rule)?;
            kid.succeed()?;
            ensure_eq!(requests("LOOKUP")?.len(), 0);
            Ok(())
        }),
        Case::new(
            "tracepoints",
            "requests, opens and closes as events",
            |ctx| {
                let fixture = ctx.fixture();
                fs::write(fixture.root.join("f"), vec![b'f'; 2 * PAGE])?;
                let path = fixture.mnt.join("f");
                let tracing = Tracing::begin()?;
                with_open(&path, |_| Ok(()))?;
                with_open(&path, store)?;
                ensure_eq!(
                    stat(&fixture.mnt.join("not-there")).err(),
                    Some(Errno::ENOENT)
                );
                fixture.downcall("ZAPFILE", Some(&fixture.fid("f")?))?;
                let fid = fid(fixture, "f")?;
                let events = tracing.lines()?;
                let of = |event: &str, opcode: Option<&str>| -> Vec<_> {
                    let of_it = events.iter().filter(|(name, fields)| {
                        name == event
                            && opcode.is_none_or(|o| fields.get("opcode").is_some_and(|f| f == o))
                    });
                    of_it.map(|(_, fields)| fields).collect()
                };
                let begun = of("coda_upcall_begin", None);
                ensure!(begun.len() >= 6, "{} begun", begun.len());
                for begin in begun {
                    let ends: Vec<_> = of("coda_upcall_end", None)
                        .into_iter()
                        .filter(|end| end.get("unique") == begin.get("unique"))
                        .collect();
                    let [end] = ends.as_slice() else {
                        bail!("{begin:?} ends {} times", ends.len());
                    };
                    ensure_eq!(end.get("opcode"), begin.get("opcode"));
                    ensure_eq!(end.get("fid"), begin.get("fid"));
                    ensure!(number(end, "latency_ns")? > 0, "{end:?}: no time");
                    ensure!(
                        begin
                            .get("pid")
                            .is_some_and(|pid| *pid == std::process::id().to_string()),
                        "{begin:?}: not of ours"
                    );
                }
                let lookups = of("coda_upcall_end", Some("LOOKUP"));
                ensure!(
                    lookups
                        .iter()
                        .any(|end| number(end, "result").ok() == Some(-2)),
                    "no ENOENT: {lookups:?}"
                );
                let closes = of("coda_file_close", None);
                let [clean, modified] = closes.as_slice() else {
                    bail!("{closes:?}");
                };
                for (close, flags, said) in [(clean, "0x403", "no"), (modified, "0x3", "yes")] {
                    ensure_eq!(close.get("flags").map(String::as_str), Some(flags));
                    ensure_eq!(close.get("modified").map(String::as_str), Some(said));
                    ensure_eq!(close.get("fid"), Some(&fid));
                }
                let opens = of("coda_file_open", None);
                ensure_eq!(opens.len(), 2, "opens");
                ensure!(
                    opens.iter().all(|open| open.get("fid") == Some(&fid)),
                    "{opens:?}"
                );
                let modified = of("coda_file_modified", None);
                let [modified] = modified.as_slice() else {
                    bail!("{modified:?}");
                };
                ensure_eq!(modified.get("how").map(String::as_str), Some("store"));
                ensure_eq!(modified.get("fid"), Some(&fid));
                let zapped = of("coda_downcall", Some("ZAPFILE"));
                ensure!(
                    zapped.iter().any(|down| down.get("fid") == Some(&fid)),
                    "{zapped:?}"
                );
                Ok(())
            },
        ),
        Case::new(
            "dynamic_debug",
            "the same in the kernel's log, if it is wanted",
            |ctx| {
                const CONTROL: &str = "/proc/dynamic_debug/control";
                if !Path::new(CONTROL).exists() {
                    ktest::skip!("the kernel has no dynamic debug");
                }
                let fixture = ctx.fixture();
                let lines = || -> Result<usize> {
                    let log = std::process::Command::new("dmesg").output()?;
                    let log = String::from_utf8_lossy(&log.stdout).into_owned();
                    Ok(log
                        .lines()
                        .filter(|line| line.contains("coda_rs: coda_upcall_end: "))
                        .count())
                };
                let before = lines()?;
                ensure_eq!(
                    stat(&fixture.mnt.join("unasked")).err(),
                    Some(Errno::ENOENT)
                );
                ensure_eq!(lines()?, before, "nobody wanted it");
                fs::write(CONTROL, "module coda_rs +p").context(CONTROL)?;
                let asked = stat(&fixture.mnt.join("asked")).err();
                fs::write(CONTROL, "module coda_rs -p").context(CONTROL)?;
                ensure_eq!(asked, Some(Errno::ENOENT));
                ensure!(lines()? > before, "no line in the log");
                Ok(())
            },
        ),
        Case::new("for_root", "nobody else may look", |_| {
            for name in ["upcalls", "files", "devices", "requests"] {
                shown(name)?;
                let mode = fs::metadata(format!("{DEBUGFS}/coda_rs/{name}"))?.permissions();
                ensure_eq!(mode.mode() & 0o777, 0o400, "{name}");
            }
            Ok(())
        }),
    ]
}

/// Tries to unload the module without waiting.
fn unload() -> Result<(), Errno> {
    // SAFETY: a string that ends.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_delete_module,
            c"coda_rs".as_ptr(),
            libc::O_NONBLOCK,
        )
    };
    sys::check(ret).map(|_| ())
}

/// Unloads it as soon as that can be done, and loads it again.
fn reload(module: &str, meanwhile: impl FnOnce() -> Result<()>) -> Result<()> {
    wait_for("the module to be idle", patience(10), || match unload() {
        Ok(()) => Ok(Some(())),
        Err(Errno::EAGAIN) => Ok(None),
        Err(e) => Err(e.into()),
    })?;
    let gone = meanwhile();
    ktest::run_to_end(std::process::Command::new("insmod").arg(module))?;
    gone
}

/// What to give to insmod, if the guest has told us.
fn module() -> Result<String> {
    match std::env::var("CODA_MODULE") {
        Ok(module) => Ok(module),
        Err(_) => ktest::skip!("CODA_MODULE is not set"),
    }
}

/// Without a mount, or with one that loses its cache manager.
fn module_cases() -> Vec<Case> {
    vec![
        Case::new("hang_up", "what nobody will answer is given up", |_| {
            let spec = Spec::on(containers::base().join("tmpfs"));
            let mut fixture = Fixture::start(&spec)?;
            let before = upcalls("LOOKUP")?;
            let rule = Rule::on("LOOKUP").name("f").once().with("hold", true);
            let rule = fixture.rule(rule)?;
            let path = fixture.mnt.join("f");
            let kid = child(move |_| {
                ensure_eq!(stat(&path).err(), Some(Errno::ENXIO));
                Ok(())
            })?;
            fixture.wait_rule(rule, 1)?;
            fixture.kill_manager()?;
            kid.succeed()?;
            ensure_eq!(upcalls("LOOKUP")?.given_up, before.given_up + 1);
            ensure_eq!(table("devices")?.len(), 0, "devices");
            ensure_eq!(table("requests")?.len(), 0, "requests");
            fixture.unmount()?;
            fixture.forget()
        }),
        Case::new(
            "events_on",
            "it goes, and comes back, while its events are wanted",
            |_| {
                let module = module()?;
                let tracing = Tracing::begin()?;
                let events = tracing.0.join("events/coda_rs");
                reload(&module, || {
                    ensure!(!events.exists(), "there are still events");
                    Ok(())
                })?;
                ensure!(events.exists(), "there are no events");
                Ok(())
            },
        ),
        Case::new(
            "open_file",
            "while somebody has a file of debugfs open the module stays",
            |_| {
                let module = module()?;
                mounted("debugfs", DEBUGFS)?;
                let mut file = fs::File::open(format!("{DEBUGFS}/coda_rs/upcalls"))?;
                ensure_eq!(unload(), Err(Errno::EAGAIN));
                let mut text = String::new();
                file.read_to_string(&mut text)?;
                ensure!(text.starts_with("# opcode "), "{text:?}");
                drop(file);
                reload(&module, || {
                    let dir = Path::new(DEBUGFS).join("coda_rs");
                    ensure!(!dir.exists(), "it is still there");
                    Ok(())
                })
            },
        ),
    ]
}

fn main() -> ExitCode {
    let args = Args::parse();
    let tmpfs = Spec::on(containers::base().join("tmpfs"));
    let reason = (!module_is_ours()).then(|| "the C module shows nothing".to_owned());
    let groups = vec![
        Group::new("mounted", tmpfs, cases()).skip(reason.clone()),
        Group::bare("module", module_cases()).skip(reason),
    ];
    Suite::new("observe", groups).only(args.only).run()
}
