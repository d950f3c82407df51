// SPDX-License-Identifier: GPL-2.0

//! Running cases and saying so in KTAP.

use crate::{Control, Expectation, Fixture, Spec, Watch, patience};
use anyhow::{Context, Result, bail};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork, pipe, setpgid};
use serde_json::{Value, json};
use std::cell::RefCell;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::panic::AssertUnwindSafe;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// The case cannot be run here, and why.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Skip(pub String);

/// A line that a case has to say for a table.
pub type Row = Value;

/// What a case gets.
pub struct Ctx<'a> {
    fixture: Option<&'a Fixture>,
    /// The case's name without the group's; good for file names.
    pub name: &'a str,
    /// A watch from the case's beginning.
    pub watch: RefCell<Watch>,
    /// In a control this case has to fail: what does not come at once is not
    /// worth waiting for.
    pub hopeless: bool,
    rows: RefCell<Vec<Row>>,
}

impl Ctx<'_> {
    /// The group's fixture.
    pub fn fixture(&self) -> &Fixture {
        self.fixture.expect("the group has a fixture")
    }

    /// Keeps a line for the table.
    pub fn row(&self, row: Row) {
        self.rows.borrow_mut().push(row);
    }
}

type Body = Box<dyn Fn(&Ctx<'_>) -> Result<()>>;

/// One case.
pub struct Case {
    name: String,
    tags: Vec<&'static str>,
    what: &'static str,
    seconds: u64,
    may_leak: bool,
    body: Body,
}

impl Case {
    /// A case with a name, a sentence, and what it does.
    pub fn new(
        name: impl Into<String>,
        what: &'static str,
        body: impl Fn(&Ctx<'_>) -> Result<()> + 'static,
    ) -> Self {
        Case {
            name: name.into(),
            tags: Vec::new(),
            what,
            seconds: 20,
            may_leak: false,
            body: Box::new(body),
        }
    }

    /// Something that lists for controls can refer to.
    pub fn tag(mut self, tag: &'static str) -> Self {
        self.tags.push(tag);
        self
    }

    /// Allows for more time than twenty seconds.
    pub fn seconds(mut self, seconds: u64) -> Self {
        self.seconds = seconds;
        self
    }

    /// The cache manager's own misbehaviour may leave opens without a close.
    pub fn may_leak(mut self) -> Self {
        self.may_leak = true;
        self
    }
}

/// Cases with a fixture in common, or none.
pub struct Group {
    name: String,
    spec: Option<Spec>,
    /// Why all cases are skipped.
    skip: Option<String>,
    cases: Vec<Case>,
}

impl Group {
    /// Cases that need no fixture.
    pub fn bare(name: impl Into<String>, cases: Vec<Case>) -> Self {
        Group {
            name: name.into(),
            spec: None,
            skip: None,
            cases,
        }
    }

    /// Cases that share a fixture.
    pub fn new(name: impl Into<String>, spec: Spec, cases: Vec<Case>) -> Self {
        Group {
            spec: Some(spec),
            ..Group::bare(name, cases)
        }
    }

    /// Does not run them, for a reason.
    pub fn skip(mut self, reason: Option<String>) -> Self {
        self.skip = reason;
        self
    }
}

/// All cases of a program.
pub struct Suite {
    program: &'static str,
    groups: Vec<Group>,
    only: Vec<String>,
}

enum Outcome {
    Pass,
    Fail(String),
    Skip(String),
}

/// The objects that are open more often than before, as text.
fn more_open(now: &Value, before: &Value) -> Vec<String> {
    let count = |list: &Value, fid: &Value| {
        let entry = list.as_array()?.iter().find(|o| o["fid"] == *fid)?;
        Some((entry["readers"].as_i64()?, entry["writers"].as_i64()?))
    };
    let all = now.as_array().map(Vec::as_slice).unwrap_or_default();
    all.iter()
        .filter(|o| {
            let (readers, writers) = count(now, &o["fid"]).unwrap_or((0, 0));
            let (old_readers, old_writers) = count(before, &o["fid"]).unwrap_or((0, 0));
            readers > old_readers || writers > old_writers
        })
        .map(Value::to_string)
        .collect()
}

#[derive(Default)]
struct Totals {
    pass: usize,
    fail: usize,
    skip: usize,
    number: usize,
}

/// Contents of files in a message are of no use to anybody.
fn shorten(line: &str) -> String {
    match line.char_indices().nth(400) {
        Some((end, _)) => format!("{}...", &line[..end]),
        None => line.to_owned(),
    }
}

impl Totals {
    fn say(&mut self, name: &str, outcome: &Outcome) {
        self.number += 1;
        let number = self.number;
        match outcome {
            Outcome::Pass => {
                self.pass += 1;
                println!("ok {number} {name}");
            }
            Outcome::Skip(why) => {
                self.skip += 1;
                println!("ok {number} {name} # SKIP {}", why.replace('\n', " "));
            }
            Outcome::Fail(why) => {
                self.fail += 1;
                for line in why.lines() {
                    println!("# {name}: {}", shorten(line));
                }
                println!("not ok {number} {name}");
            }
        }
        let _ = std::io::stdout().flush();
    }
}

impl Suite {
    /// A suite that is called like its program.
    pub fn new(program: &'static str, groups: Vec<Group>) -> Self {
        Suite {
            program,
            groups,
            only: Vec::new(),
        }
    }

    /// Runs only cases whose full name contains one of these.
    pub fn only(mut self, only: Vec<String>) -> Self {
        self.only = only;
        self
    }

    fn wanted(only: &[String], name: &str) -> bool {
        only.is_empty() || only.iter().any(|o| name.contains(o.as_str()))
    }

    /// Runs all cases and prints KTAP.
    pub fn run(self) -> ExitCode {
        match self.run_all(None) {
            Ok(totals) if totals.fail > 0 => ExitCode::FAILURE,
            // What kselftest takes for "skipped".
            Ok(totals) if totals.pass == 0 => ExitCode::from(4),
            Ok(_) => ExitCode::SUCCESS,
            Err(e) => {
                println!("Bail out! {e:#}");
                ExitCode::FAILURE
            }
        }
    }

    /// Runs all cases and hands over what they had to say, instead of KTAP:
    /// group, description, rows, and what went wrong.
    pub fn run_for_table(
        self,
        mut line: impl FnMut(&str, &str, &[Row], Result<(), String>),
    ) -> Result<()> {
        self.run_all(Some(&mut line)).map(|_| ())
    }

    fn run_all(mut self, mut table: Option<TableLine<'_>>) -> Result<Totals> {
        let mut control = Control::from_env(self.program)?;
        for group in &mut self.groups {
            group
                .cases
                .retain(|c| Self::wanted(&self.only, &format!("{}.{}", group.name, c.name)));
        }
        self.groups.retain(|g| !g.cases.is_empty());
        let stale_check = control.is_some() && self.only.is_empty();
        let plan: usize = self
            .groups
            .iter()
            .map(|g| g.cases.len() + usize::from(g.spec.is_some()))
            .sum();
        if table.is_none() {
            println!("TAP version 13");
            println!("1..{}", plan + usize::from(stale_check));
        }
        let mut totals = Totals::default();
        for group in self.groups {
            group.run(self.program, &mut control, &mut totals, &mut table)?;
        }
        if let Some(control) = control.filter(|_| stale_check) {
            let unused = control.unused();
            totals.say(
                &format!("control_{}_has_no_stale_lines", control.name),
                &match unused.is_empty() {
                    true => Outcome::Pass,
                    false => Outcome::Fail(unused.join("\n")),
                },
            );
        }
        if table.is_none() {
            println!(
                "# Totals: pass:{} fail:{} xfail:0 xpass:0 skip:{} error:0",
                totals.pass, totals.fail, totals.skip
            );
        }
        Ok(totals)
    }
}

type TableLine<'a> = &'a mut dyn FnMut(&str, &str, &[Row], Result<(), String>);

impl Group {
    fn run(
        self,
        program: &str,
        control: &mut Option<Control>,
        totals: &mut Totals,
        table: &mut Option<TableLine<'_>>,
    ) -> Result<()> {
        let mut fixture = None;
        let mut known = json!([]);
        let mut broken: Option<String> = None;
        for case in &self.cases {
            let name = format!("{}.{}", self.name, case.name);
            let expected = control.as_mut().and_then(|c| c.look_up(&name, &case.tags));
            let mut rows = Vec::new();
            let mut outcome = match (&self.skip, &expected) {
                (Some(why), _) => Outcome::Skip(why.clone()),
                (None, Some((Expectation::NotRun, why))) => {
                    Outcome::Skip(format!("not run: {why}"))
                }
                (None, _) => {
                    if let (Some(spec), None) = (&self.spec, &fixture) {
                        match Fixture::start(spec) {
                            Ok(started) => {
                                fixture = Some(started);
                                known = json!([]);
                            }
                            Err(e) => broken = Some(format!("no fixture: {e:#}")),
                        }
                    }
                    if let Some(f) = &fixture {
                        f.note(&json!({ "ev": "case", "name": name }))?;
                    }
                    match &broken {
                        Some(why) => Outcome::Fail(why.clone()),
                        None => {
                            let hopeless = matches!(expected, Some((Expectation::Fail, _)));
                            run_case(case, fixture.as_ref(), &mut rows, hopeless)
                        }
                    }
                }
            };
            if let Some(f) = &fixture {
                if !matches!(outcome, Outcome::Skip(_)) || self.skip.is_none() {
                    let failed = matches!(outcome, Outcome::Fail(_));
                    if let (Err(e), false) = (tidy(f, case, &mut known, failed), failed) {
                        outcome = Outcome::Fail(format!("{e:#}"));
                    }
                }
            }
            if let Some(f) = &mut fixture {
                let state = match &outcome {
                    Outcome::Pass => "pass",
                    Outcome::Fail(_) => "fail",
                    Outcome::Skip(_) => "skip",
                };
                f.note(&json!({ "ev": "outcome", "state": state }))?;
                f.keep_trace(program, &self.name)?;
            }
            // After a time-out nobody knows what is still hanging in there.
            let hung = matches!(&outcome, Outcome::Fail(why) if why.contains(TIMED_OUT));
            if hung {
                if let Some(mut f) = fixture.take() {
                    let _ = f.kill_manager();
                    if let Err(e) = f.stop() {
                        println!("# {name}: while cleaning up: {e:#}");
                    }
                }
            }
            if let Some(line) = table.as_mut() {
                let result = match &outcome {
                    Outcome::Pass => Ok(()),
                    Outcome::Fail(why) => Err(why.clone()),
                    Outcome::Skip(why) => Err(format!("SKIP {why}")),
                };
                line(&self.name, case.what, &rows, result);
                continue;
            }
            let (shown, outcome) = judge(&name, outcome, expected);
            totals.say(&shown, &outcome);
        }
        if self.spec.is_some() && table.is_none() {
            // Leaving is a test too.
            let outcome = match fixture.map(Fixture::stop) {
                None => Outcome::Skip("nothing was mounted".into()),
                Some(Ok(())) => Outcome::Pass,
                Some(Err(e)) => Outcome::Fail(format!("{e:#}")),
            };
            totals.say(&format!("{}.unmount", self.name), &outcome);
        } else if let Some(f) = fixture {
            f.stop()?;
        }
        Ok(())
    }
}

/// Turns an outcome round where a control says so.
fn judge(
    name: &str,
    outcome: Outcome,
    expected: Option<(Expectation, String)>,
) -> (String, Outcome) {
    match (outcome, expected) {
        (Outcome::Fail(why), Some((Expectation::Fail, reason))) => {
            for line in why.lines() {
                println!("# {name}: fails as it must: {}", shorten(line));
            }
            (format!("{name} fails as it must: {reason}"), Outcome::Pass)
        }
        (Outcome::Pass, Some((Expectation::Fail, reason))) => (
            format!("{name} must fail here: {reason}"),
            Outcome::Fail("it passed".into()),
        ),
        (Outcome::Fail(_) | Outcome::Pass, Some((Expectation::Any, reason))) => {
            (format!("{name} may fail: {reason}"), Outcome::Pass)
        }
        (outcome, _) => (name.to_owned(), outcome),
    }
}

/// After a case: drop its rules; nothing may be open that was not before.
/// When the case has failed anyway there is nothing to wait for.
fn tidy(fixture: &Fixture, case: &Case, known: &mut Value, failed: bool) -> Result<()> {
    fixture.clear_rules()?;
    let mut now = fixture.stat()?["open"].take();
    if !failed {
        let _ = crate::wait_for("closes", patience(3), || {
            now = fixture.stat()?["open"].take();
            Ok(more_open(&now, known).is_empty().then_some(()))
        });
    }
    let more = more_open(&now, known);
    *known = now;
    if !more.is_empty() && !case.may_leak {
        bail!("still open at the cache manager: {}", more.join(", "));
    }
    Ok(())
}

const TIMED_OUT: &str = "timed out";

/// The closes that had no open.
fn surplus_closes(mut watch: Watch) -> Result<usize> {
    let mut surplus = 0;
    while let Some(event) = watch.read()? {
        if event.is_reply("CLOSE") && event.number("result") == Some(9) {
            surplus += 1;
        }
    }
    Ok(surplus)
}

fn run_case(
    case: &Case,
    fixture: Option<&Fixture>,
    rows: &mut Vec<Row>,
    hopeless: bool,
) -> Outcome {
    match run_in_child(case, fixture, rows, hopeless) {
        Ok(outcome) => outcome,
        Err(e) => Outcome::Fail(format!("{e:#}")),
    }
}

fn run_in_child(
    case: &Case,
    fixture: Option<&Fixture>,
    rows: &mut Vec<Row>,
    hopeless: bool,
) -> Result<Outcome> {
    let watch = match fixture {
        Some(f) => f.watch()?,
        None => Watch::new(std::path::Path::new("/dev/null"))?,
    };
    let (reader, writer) = pipe()?;
    std::io::stdout().flush()?;
    // SAFETY: this process has one thread only, so the child may go on as if
    // nothing had happened.
    match unsafe { fork() }? {
        ForkResult::Child => {
            drop(reader);
            let _ = setpgid(Pid::from_raw(0), Pid::from_raw(0));
            let ctx = Ctx {
                fixture,
                name: &case.name,
                watch: RefCell::new(watch),
                hopeless,
                rows: RefCell::default(),
            };
            let result = std::panic::catch_unwind(AssertUnwindSafe(|| (case.body)(&ctx)));
            let (state, why) = match result {
                Ok(Ok(())) => ("pass", String::new()),
                Ok(Err(e)) => match e.downcast_ref::<Skip>() {
                    Some(skip) => ("skip", skip.to_string()),
                    None => ("fail", format!("{e:#}")),
                },
                Err(panic) => {
                    let text = panic
                        .downcast_ref::<String>()
                        .map(String::as_str)
                        .or_else(|| panic.downcast_ref::<&str>().copied())
                        .unwrap_or("?");
                    ("fail", format!("panicked: {text}"))
                }
            };
            let message =
                json!({ "state": state, "why": why, "rows": *ctx.rows.borrow() }).to_string();
            let _ = File::from(writer).write_all(message.as_bytes());
            // Neither destructors nor the parent's buffers are ours to run.
            // SAFETY: _exit does not return and touches no memory.
            unsafe { libc::_exit(0) }
        }
        ForkResult::Parent { child } => {
            drop(writer);
            let _ = setpgid(child, child);
            let end = Instant::now() + patience(case.seconds);
            let mut reader = File::from(reader);
            let mut message = Vec::new();
            // The child's own children hold the pipe as well, so the end of
            // the file is not what to wait for: a whole message is.
            let mut status = None;
            let complete = |m: &[u8]| serde_json::from_slice::<Value>(m).ok();
            while complete(&message).is_none() && Instant::now() < end {
                let mut fds = [PollFd::new(reader.as_fd(), PollFlags::POLLIN)];
                // Once it has ended, all that it said is in the pipe.
                let wait = if status.is_none() { 50u8 } else { 0 };
                if poll(&mut fds, PollTimeout::from(wait))? > 0 {
                    let mut chunk = [0; 4096];
                    let n = reader.read(&mut chunk)?;
                    if n == 0 {
                        break;
                    }
                    message.extend(&chunk[..n]);
                } else if status.is_some() {
                    break;
                } else if let WaitStatus::Exited(..) | WaitStatus::Signaled(..) =
                    waitpid(child, Some(WaitPidFlag::WNOHANG))?
                {
                    status = Some(());
                }
            }
            let timed_out = complete(&message).is_none() && Instant::now() >= end;
            let mut where_it_hangs = String::new();
            if timed_out {
                let stack = format!("/proc/{child}/stack");
                where_it_hangs = std::fs::read_to_string(stack).unwrap_or_default();
            } else if status.is_none() {
                // Let it go in peace before its offspring is killed.
                let _ = reap(child, Duration::from_secs(2));
            }
            let _ = kill(Pid::from_raw(-child.as_raw()), Signal::SIGKILL);
            let stuck = timed_out && reap(child, patience(3)).is_err();
            if timed_out {
                bail!(
                    "{TIMED_OUT} after {:?}{}\n{where_it_hangs}",
                    patience(case.seconds),
                    if stuck { " and cannot be killed" } else { "" }
                );
            }
            let result = complete(&message).context("the case died without a word")?;
            let surplus = surplus_closes(watch)?;
            if let Some(got) = result["rows"].as_array() {
                rows.extend(got.iter().cloned());
            }
            let why = result["why"].as_str().unwrap_or("").to_owned();
            Ok(match result["state"].as_str() {
                Some("pass") if surplus > 0 => {
                    Outcome::Fail(format!("{surplus} more closes than opens"))
                }
                Some("pass") => Outcome::Pass,
                Some("skip") => Outcome::Skip(why),
                _ => Outcome::Fail(why),
            })
        }
    }
}

fn reap(child: Pid, patience: Duration) -> Result<()> {
    crate::wait_for("a child's end", patience, || {
        match waitpid(child, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) => Ok(None),
            _ => Ok(Some(())),
        }
    })
}
