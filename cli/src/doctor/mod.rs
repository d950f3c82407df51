// SPDX-License-Identifier: GPL-2.0

//! `coda-rs doctor`: why does it not load, or not mount?
//!
//! A check finds one thing out and says what to do about it. What cannot be found out is told as that,
//! and is no problem. Nothing is changed, and no program is run but to ask it for its version or what a
//! file is.

mod build;
mod kernel;
mod security;

use crate::out::{self, BAD, DIM, FAIR, GOOD};
use crate::proc::{self, Veil};
use crate::root::{Node, Root, is_absent, is_denied};
use crate::status::{self, MAJOR, Status};
use kernel::{Config, Modprobe, NEWEST, OLDEST};
use serde::Serialize;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// Could not be found out.
    CannotTell,
    /// It may matter some day, or for something else.
    Warning,
    /// It keeps coda_rs from being loaded or mounted.
    Problem,
}

/// What was found out.
#[derive(Debug, Serialize)]
pub struct Check {
    /// What was looked at.
    pub name: &'static str,
    /// How it came out.
    pub verdict: Verdict,
    /// What is so.
    pub found: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub todo: Option<String>,
    /// Would root be told more?
    pub needs_root: bool,
}

impl Check {
    fn new(name: &'static str, verdict: Verdict, found: String, todo: Option<String>) -> Self {
        Self {
            name,
            verdict,
            found,
            todo,
            needs_root: false,
        }
    }

    fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self::new(name, Verdict::Ok, found.into(), None)
    }

    fn warning(name: &'static str, found: impl Into<String>, todo: impl Into<String>) -> Self {
        Self::new(name, Verdict::Warning, found.into(), Some(todo.into()))
    }

    fn problem(name: &'static str, found: impl Into<String>, todo: impl Into<String>) -> Self {
        Self::new(name, Verdict::Problem, found.into(), Some(todo.into()))
    }

    fn unknown(name: &'static str, found: impl Into<String>) -> Self {
        Self::new(name, Verdict::CannotTell, found.into(), None)
    }

    fn needs_root(name: &'static str, found: impl Into<String>) -> Self {
        let mut check = Self::unknown(name, found);
        check.needs_root = true;
        check
    }

    /// Cannot be told because of this.
    fn hidden(name: &'static str, path: &str, err: &io::Error) -> Self {
        if is_denied(err) {
            Self::needs_root(name, format!("{path} is for root alone"))
        } else {
            Self::unknown(name, format!("{path} cannot be read: {err}"))
        }
    }
}

/// What several checks want to know.
struct Patient<'a> {
    root: &'a Root,
    release: String,
    config: Option<(Config, String)>,
    status: Status,
    modprobe: Modprobe,
    /// The module's file for this kernel.
    file: Option<String>,
}

/// Other programs, which are asked for their versions.
impl Patient<'_> {
    /// Where a program is: in `PATH`, or where administrators have it.
    fn program(&self, name: &str) -> Option<PathBuf> {
        if name.contains('/') {
            let path = self.root.path(name);
            return path.is_file().then_some(path);
        }
        let mut dirs: Vec<PathBuf> =
            std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).collect();
        if !self.root.is_recorded() {
            dirs.extend(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from));
        }
        dirs.into_iter()
            .map(|dir| dir.join(name))
            .find(|path| path.is_file())
    }

    fn output(&self, name: &str, args: &[&str]) -> Option<Output> {
        Command::new(self.program(name)?)
            .args(args)
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .output()
            .ok()
    }

    /// What a program says, if it is there and content.
    fn ask(&self, name: &str, args: &[&str]) -> Option<String> {
        let output = self.output(name, args)?;
        output
            .status
            .success()
            .then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// What a program says, content or not.
    fn ask_in_any_case(&self, name: &str, args: &[&str]) -> Option<String> {
        let output = self.output(name, args)?;
        let all = [output.stdout, output.stderr].concat();
        Some(String::from_utf8_lossy(&all).trim().to_owned())
    }

    /// A field of the module's file.
    fn modinfo(&self, file: &str, field: &str) -> Option<String> {
        let path = self.root.path(file);
        self.ask("modinfo", &["-F", field, path.to_str()?])
    }

    fn is_loaded(&self) -> bool {
        self.status.module.is_some()
    }

    /// Is there nothing to be built before it can be loaded?
    fn has_module(&self) -> bool {
        self.is_loaded() || self.file.is_some()
    }
}

/// Looks at everything.
pub fn examine(root: &Root) -> Vec<Check> {
    let release = root.line("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut patient = Patient {
        root,
        config: Config::of(root, &release),
        release,
        status: status::gather(root),
        modprobe: Modprobe::read(root),
        file: None,
    };
    patient.file = build::module_file(&patient);
    let p = &patient;
    let mut checks = vec![kernel_version(p), kernel_config(p), loaded(p)];
    checks.extend(build::checks(p));
    checks.extend([autoload(p), filesystem(p), nodes(p), cache_manager(p)]);
    checks.extend([mounts(p), requests(p)]);
    checks.extend(security::checks(p));
    checks.push(log(p));
    checks
}

fn kernel_version(p: &Patient<'_>) -> Check {
    const NAME: &str = "kernel";
    let release = &p.release;
    let arch = p.root.line("/proc/sys/kernel/arch").unwrap_or_default();
    if !arch.is_empty() && arch != "x86_64" {
        return Check::problem(
            NAME,
            format!("{release} on {arch}"),
            "coda_rs is for x86-64 alone; use the C module coda here.",
        );
    }
    let ((oldest, from), (newest, to)) = (OLDEST, NEWEST);
    match kernel::version(release) {
        None if release.is_empty() => {
            Check::unknown(NAME, "/proc/sys/kernel/osrelease cannot be read")
        }
        None => Check::unknown(NAME, format!("{release} does not begin with a version")),
        Some(version) if version < OLDEST => Check::problem(
            NAME,
            format!("{release} is too old"),
            format!(
                "coda_rs needs Linux {oldest}.{from} to {newest}.{to}; boot a newer kernel, such as \
                 that of the backports."
            ),
        ),
        Some(version) if version > NEWEST => Check::warning(
            NAME,
            format!(
                "{release} is newer than {newest}.{to}, the last one that coda_rs is known to work with"
            ),
            "If it does not build or load, boot an older kernel, or look for a newer coda_rs.",
        ),
        Some(_) => Check::ok(NAME, format!("{release} is known to work")),
    }
}

fn kernel_config(p: &Patient<'_>) -> Check {
    const NAME: &str = "kernel configuration";
    let Some((config, path)) = &p.config else {
        return Check::unknown(
            NAME,
            format!(
                "there is no configuration of {} in /boot or with its headers",
                p.release
            ),
        );
    };
    let lacks = |name: &str| {
        Check::problem(
            NAME,
            format!("{path} has no CONFIG_{name}"),
            format!("Boot a kernel that is built with CONFIG_{name}=y."),
        )
    };
    if !config.is_set("MODULES") {
        return lacks("MODULES");
    }
    if !config.is_set("RUST") {
        return lacks("RUST");
    }
    if config.is_set("CODA_FS") {
        return Check::problem(
            NAME,
            "the C module coda is part of this kernel (CONFIG_CODA_FS=y)",
            "Boot a kernel with CONFIG_CODA_FS=m, or without it: there is room for one of them.",
        );
    }
    Check::ok(NAME, format!("modules and Rust, says {path}"))
}

fn loaded(p: &Patient<'_>) -> Check {
    const NAME: &str = "module";
    if let Some(c) = &p.status.c_module {
        return Check::problem(
            NAME,
            if c.state == "built in" {
                "the kernel has the type coda by itself, and it is not coda_rs's"
            } else {
                "the kernel's own C module coda is loaded, and there is room for one of them"
            },
            if c.state == "built in" {
                "Boot a kernel with CONFIG_CODA_FS=m."
            } else {
                "Stop the cache manager, unmount, then `modprobe -r coda && modprobe coda_rs`."
            },
        );
    }
    let Some(module) = &p.status.module else {
        return Check::warning(
            NAME,
            "coda_rs is not loaded",
            if p.file.is_some() {
                "`modprobe coda_rs` loads it; if that fails, the checks below tell why."
            } else {
                "It has to be built first; see below."
            },
        );
    };
    if module.state != "Live" {
        return Check::warning(
            NAME,
            format!("coda_rs is {}", module.state.to_lowercase()),
            "Wait; if it stays so, look into the kernel's log and restart the machine.",
        );
    }
    let version = module.version.as_deref().unwrap_or("(of unknown version)");
    Check::ok(NAME, format!("coda_rs {version} is loaded"))
}

fn autoload(p: &Patient<'_>) -> Check {
    const NAME: &str = "autoload";
    if let Some(path) = &p.modprobe.ours_blacklisted {
        return Check::problem(
            NAME,
            format!("{path} keeps coda_rs from being loaded by itself"),
            format!("Take the line about coda_rs out of {path}."),
        );
    }
    let (by, path) = match (&p.modprobe.blacklisted, &p.modprobe.alias) {
        (Some(path), _) => ("keeps the C module from being loaded", path),
        (None, Some(path)) => ("leads mounts of type coda to coda_rs", path),
        (None, None) => {
            let c = ["/lib/modules", "/usr/lib/modules"].iter().any(|dir| {
                p.root
                    .list(&format!("{dir}/{}/kernel/fs/coda", p.release))
                    .is_ok_and(|names| names.iter().any(|n| n.starts_with("coda.ko")))
            });
            return if c {
                Check::warning(
                    NAME,
                    "nothing keeps the kernel's own C module coda from being loaded instead",
                    "`echo 'blacklist coda' > /etc/modprobe.d/coda_rs.conf`, as root.",
                )
            } else {
                Check::ok(NAME, "this kernel has no C module coda")
            };
        }
    };
    Check::ok(NAME, format!("{path} {by}"))
}

fn filesystem(p: &Patient<'_>) -> Check {
    const NAME: &str = "file system type";
    match (proc::has_filesystem(p.root, "coda"), p.is_loaded()) {
        (None, _) => Check::unknown(NAME, "/proc/filesystems cannot be read"),
        (Some(true), true) => Check::ok(NAME, "coda is registered"),
        (Some(true), false) => Check::ok(NAME, "coda is registered, though not by coda_rs"),
        (Some(false), false) => Check::ok(NAME, "coda is not registered, as nothing is loaded"),
        (Some(false), true) => Check::problem(
            NAME,
            "coda_rs is loaded but the type coda is not registered",
            "`modprobe -r coda_rs && modprobe coda_rs`; if that does not help, see the kernel's log.",
        ),
    }
}

fn nodes(p: &Patient<'_>) -> Check {
    const NAME: &str = "device nodes";
    let mut absent = Vec::new();
    for (minor, name) in proc::DEVICES.iter().enumerate() {
        let path = format!("/dev/{name}");
        match p.root.node(&path) {
            Ok(Node::Char(MAJOR, n)) if n == minor as u64 => {}
            Ok(what) => {
                let is = match what {
                    Node::Char(major, minor) => format!("is the device {major}:{minor}"),
                    Node::Other => "is not a character device".to_owned(),
                };
                return Check::problem(
                    NAME,
                    format!("{path} {is}, not {MAJOR}:{minor}"),
                    format!("`rm {path} && mknod {path} c {MAJOR} {minor}`, as root."),
                );
            }
            Err(err) if is_absent(&err) => absent.push(*name),
            Err(err) => return Check::hidden(NAME, &path, &err),
        }
    }
    match (absent.as_slice(), p.is_loaded()) {
        ([], _) => Check::ok(NAME, "/dev/cfs0 to /dev/cfs4 are there"),
        (_, false) => Check::ok(NAME, "made when the module is loaded"),
        (absent, true) => Check::problem(
            NAME,
            format!("no node for {}", absent.join(", ")),
            "`udevadm trigger --action=add /sys/class/*/cfs*`, or `mknod /dev/cfs0 c 67 0`, as root; \
             in a container, the host has to give it the device.",
        ),
    }
}

fn cache_manager(p: &Patient<'_>) -> Check {
    const NAME: &str = "cache manager";
    let mut unknown = false;
    let mut open = Vec::new();
    for device in &p.status.devices {
        match device.openers.as_deref() {
            None => unknown = true,
            Some(openers) => open.extend(openers.iter().map(|o| (device.name.as_str(), o))),
        }
    }
    if let Some((device, opener)) = open.first() {
        let who = p.status.who(opener);
        return Check::ok(NAME, format!("{who} has /dev/{device} open"));
    }
    if !p.is_loaded() && p.status.c_module.is_none() {
        return Check::ok(NAME, "none, as no module is loaded that it could talk to");
    }
    if unknown {
        return openers_hidden(p, NAME, "who has a device open");
    }
    Check::warning(
        NAME,
        "nobody has /dev/cfs0 open, and nothing can be mounted before somebody has",
        "Start the cache manager (for Venus, `systemctl start venus` or `venus`), and see its log.",
    )
}

/// What is not known as not all openers are.
fn openers_hidden(p: &Patient<'_>, name: &'static str, what: &str) -> Check {
    match p.status.veil {
        Some(Veil::NeedsRoot) => Check::needs_root(name, format!("{what} is for root to know")),
        Some(why) => Check::unknown(name, format!("{what} is not known: {why}")),
        None => Check::unknown(name, format!("{what} is not known")),
    }
}

fn mounts(p: &Patient<'_>) -> Check {
    const NAME: &str = "mount";
    let Some(mounts) = &p.status.mounts else {
        return Check::unknown(NAME, "/proc/self/mountinfo cannot be read");
    };
    let points: Vec<&str> = mounts.iter().map(|m| m.point.as_str()).collect();
    if points.is_empty() {
        return Check::ok(NAME, "nothing of type coda is mounted");
    }
    if p.status.mounts_are_dead() {
        return Check::problem(
            NAME,
            format!(
                "{} is dead, as its cache manager is gone",
                points.join(", ")
            ),
            format!(
                "`umount {}`, then start the cache manager.",
                points.join(" ")
            ),
        );
    }
    let points = points.join(", ");
    if !p.status.is_served() {
        let what = format!("{points} is mounted; whether its cache manager is there");
        return openers_hidden(p, NAME, &what);
    }
    Check::ok(NAME, points)
}

fn requests(p: &Patient<'_>) -> Check {
    const NAME: &str = "requests";
    const LONG_MS: u64 = 30_000;
    let Some(requests) = &p.status.requests else {
        return match proc::debugfs(p.root, "requests") {
            Err(proc::Hidden::NeedsRoot) => {
                Check::needs_root(NAME, "what is on its way is for root to know")
            }
            Err(proc::Hidden::NotLoaded) => Check::ok(NAME, "none, as coda_rs is not loaded"),
            Err(why) => Check::unknown(NAME, why.to_string()),
            Ok(_) => Check::unknown(NAME, "they could not be read a moment ago"),
        };
    };
    match requests
        .iter()
        .filter(|r| r.request.age_ms >= LONG_MS)
        .count()
    {
        0 => Check::ok(
            NAME,
            format!("{} on the way, none for long", requests.len()),
        ),
        n => {
            let oldest = &requests[0].request;
            Check::warning(
                NAME,
                format!(
                    "{} without an answer, the oldest ({}) for {}",
                    out::count(n as u64, "request"),
                    oldest.opcode,
                    out::short_time(oldest.age_ms.saturating_mul(1_000_000))
                ),
                "The cache manager is stuck, or waits for its server: see its log and `cfs checkservers`.",
            )
        }
    }
}

fn log(p: &Patient<'_>) -> Check {
    const NAME: &str = "kernel log";
    let records = match read_log(p.root) {
        Ok(text) => kernel::log_lines(&text),
        Err(err) => return Check::hidden(NAME, "/dev/kmsg", &err),
    };
    let ours: Vec<_> = records.iter().filter(|l| kernel::about_us(l)).collect();
    let show = |lines: &[&&kernel::LogLine]| {
        lines
            .iter()
            .map(|l| {
                format!(
                    "[{:5}.{:06}] {}",
                    l.us / 1_000_000,
                    l.us % 1_000_000,
                    l.text
                )
            })
            .collect::<Vec<_>>()
            .join("\n")
    };
    let last = |lines: &[&&kernel::LogLine]| show(&lines[lines.len().saturating_sub(5)..]);
    let trouble: Vec<_> = ours.iter().filter(|l| kernel::is_trouble(l)).collect();
    if !trouble.is_empty() {
        return Check::warning(
            NAME,
            format!("it has complaints, the last being\n{}", last(&trouble)),
            "If they are from before the last change, never mind; otherwise they say what is wrong.",
        );
    }
    // That it is not part of the kernel is no news.
    let ours: Vec<_> = ours.iter().filter(|l| !l.text.contains("taint")).collect();
    match ours.is_empty() {
        true => Check::ok(NAME, "nothing about coda_rs"),
        false => Check::ok(
            NAME,
            format!("no complaint; the last lines are\n{}", last(&ours)),
        ),
    }
}

/// The kernel's log, as far as it goes; each `read` gives one record.
fn read_log(root: &Root) -> io::Result<String> {
    use std::io::Read;
    let mut file = root.open("/dev/kmsg")?;
    let mut text = Vec::new();
    let mut record = vec![0; 16 << 10];
    // So that a log that is written to all the time has an end.
    for _ in 0..1_000_000 {
        match file.read(&mut record) {
            Ok(0) => break,
            Ok(n) => text.extend_from_slice(record.get(..n).unwrap_or(&[])),
            Err(err) if err.kind() == io::ErrorKind::WouldBlock => break,
            Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
            // What was to come next has been overwritten.
            Err(err) if err.raw_os_error() == Some(nix::libc::EPIPE) => {}
            Err(err) => return Err(err),
        }
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// For programs.
#[derive(Serialize)]
struct Report<'a> {
    problems: usize,
    warnings: usize,
    checks: &'a [Check],
}

fn print(out: &mut impl Write, checks: &[Check]) -> io::Result<()> {
    let width = checks.iter().map(|c| c.name.len()).max().unwrap_or(0);
    for check in checks {
        let (style, word) = match check.verdict {
            Verdict::Ok => (GOOD, "ok"),
            Verdict::Warning => (FAIR, "warning"),
            Verdict::Problem => (BAD, "PROBLEM"),
            Verdict::CannotTell => (DIM, "cannot tell"),
        };
        let name = check.name;
        let mut lines = check.found.lines();
        let first = out::safe(lines.next().unwrap_or(""));
        let root = if check.needs_root {
            " (needs root)"
        } else {
            ""
        };
        writeln!(
            out,
            "{style}{word:<11}{style:#}  {name:<width$}  {first}{root}"
        )?;
        let indent = 11 + 2 + width + 2;
        for line in lines {
            writeln!(out, "{:indent$}{DIM}{}{DIM:#}", "", out::safe(line))?;
        }
        if let Some(todo) = &check.todo {
            writeln!(out, "{:indent$}-> {}", "", out::safe(todo))?;
        }
    }
    let count = |v| checks.iter().filter(|c| c.verdict == v).count() as u64;
    let hidden = checks.iter().filter(|c| c.needs_root).count() as u64;
    write!(
        out,
        "\n{}, {}",
        out::count(count(Verdict::Problem), "problem"),
        out::count(count(Verdict::Warning), "warning")
    )?;
    if hidden > 0 {
        write!(
            out,
            "; {} root (`sudo coda-rs doctor`)",
            if hidden == 1 {
                "1 check needs".to_owned()
            } else {
                format!("{hidden} checks need")
            }
        )?;
    }
    writeln!(out, ".")
}

/// `coda-rs doctor`. Is all well?
pub fn run(root: &Root, json: bool) -> anyhow::Result<bool> {
    let checks = examine(root);
    let count = |v| checks.iter().filter(|c| c.verdict == v).count();
    let problems = count(Verdict::Problem);
    let mut out = out::stdout();
    if json {
        let report = Report {
            problems,
            warnings: count(Verdict::Warning),
            checks: &checks,
        };
        out::json(&mut out, &report)?;
    } else {
        print(&mut out, &checks)?;
    }
    out.flush()?;
    Ok(problems == 0)
}
