// SPDX-License-Identifier: GPL-2.0

//! The comparison of what two boots left behind.
//!
//! Each program has a directory with what is known of it: `status`, `output`,
//! `tree`, `trace`; `ops` if it logged its calls itself, `strace/` if it was
//! watched; `order`, which says "strict" where one thing happens after the
//! other, "loose" where several processes run at a time, "changes" if that
//! is so, and what is read depends on the clock, "none" where not even the number
//! of calls is the same each time; and `same`, regular expressions
//! for what is random by design, such as names of temporary files.

use crate::strace::Calls;
use crate::table::Table;
use crate::trace::{Trace, Upcall};
use crate::tree::Tree;
use anyhow::{Context, Result, bail, ensure};
use regex::Regex;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// How many unknown differences are shown.
const SHOWN: usize = 20;

/// What to compare.
#[derive(clap::Args)]
pub struct CompareArgs {
    /// What the boot with the C module left behind.
    c: PathBuf,
    /// What the boot with coda_rs left behind.
    ours: PathBuf,
    /// The known differences.
    #[arg(long)]
    table: PathBuf,
}

/// One program in one boot.
struct Side {
    dir: PathBuf,
    same: Vec<(Regex, String)>,
}

impl Side {
    fn open(dir: PathBuf) -> Result<Self> {
        let mut same = Vec::new();
        let path = dir.join("same");
        if path.exists() {
            for line in fs::read_to_string(&path)?.lines() {
                let (pattern, to) = line
                    .split_once(" => ")
                    .with_context(|| format!("{}: {line}", path.display()))?;
                same.push((Regex::new(pattern)?, to.to_owned()));
            }
        }
        Ok(Side { dir, same })
    }

    fn wash(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for (pattern, to) in &self.same {
            text = pattern.replace_all(&text, to).into_owned();
        }
        text
    }

    fn has(&self, name: &str) -> bool {
        self.dir.join(name).exists()
    }

    fn read(&self, name: &str) -> Result<String> {
        let path = self.dir.join(name);
        let bytes = fs::read(&path).with_context(|| path.display().to_string())?;
        Ok(self.wash(&String::from_utf8_lossy(&bytes)))
    }
}

/// A difference, and what helps to understand it.
struct Difference {
    words: String,
    context: Vec<String>,
}

impl From<String> for Difference {
    fn from(words: String) -> Self {
        Difference {
            words,
            context: Vec::new(),
        }
    }
}

/// Whoever prints TAP: at the end, since the plan comes first.
struct Judge {
    table: Table,
    lines: Vec<String>,
    number: usize,
    failed: usize,
}

impl Judge {
    /// One case: all differences have to be known.
    fn judge(&mut self, scenario: &str, aspect: &str, what: &str, all: Vec<Difference>) {
        let mut known: BTreeMap<usize, usize> = BTreeMap::new();
        let mut unknown: Vec<(Difference, usize)> = Vec::new();
        let mut seen: HashMap<String, usize> = HashMap::new();
        for difference in all {
            if let Some(row) = self.table.knows(scenario, &difference.words) {
                *known.entry(row).or_default() += 1;
            } else if let Some(&at) = seen.get(&difference.words) {
                unknown[at].1 += 1;
            } else {
                seen.insert(difference.words.clone(), unknown.len());
                unknown.push((difference, 1));
            }
        }
        let name = format!("{scenario}.{aspect}");
        self.number += 1;
        if !what.is_empty() {
            self.lines.push(format!("# {name}: {what}"));
        }
        for (row, count) in known {
            self.lines.push(format!(
                "# {name}: known, {count} times: {}",
                self.table.pattern(row)
            ));
        }
        for (n, (difference, count)) in unknown.iter().take(SHOWN).enumerate() {
            self.lines
                .push(format!("# {name}: {count} times: {}", difference.words));
            for line in difference.context.iter().filter(|_| n == 0) {
                self.lines.push(format!("# {name}:     {line}"));
            }
        }
        if unknown.len() > SHOWN {
            self.lines
                .push(format!("# {name}: and {} others", unknown.len() - SHOWN));
        }
        let verdict = if unknown.is_empty() { "ok" } else { "not ok" };
        self.failed += usize::from(!unknown.is_empty());
        self.lines.push(format!("{verdict} {} {name}", self.number));
    }
}

/// Replaces inode numbers by the order in which they appeared: those of stat(2)
/// and, third of each entry, those in the listing of a directory.
fn number_inodes(line: &mut Value, inodes: &mut HashMap<u64, usize>) {
    let mut number = |value: &mut Value| {
        if let Some(ino) = value.as_u64() {
            let next = inodes.len() + 1;
            *value = Value::from(*inodes.entry(ino).or_insert(next));
        }
    };
    if let Some(ino) = line.pointer_mut("/stat/ino") {
        number(ino);
    }
    let entries = line.get_mut("entries").and_then(Value::as_array_mut);
    for entry in entries.into_iter().flatten() {
        if let Some(ino) = entry.get_mut(2) {
            number(ino);
        }
    }
}

fn parse_log(text: &str) -> Result<Vec<Value>> {
    let mut inodes = HashMap::new();
    text.lines()
        .map(|line| {
            let mut line: Value =
                serde_json::from_str(line).with_context(|| format!("the log: {line}"))?;
            number_inodes(&mut line, &mut inodes);
            Ok(line)
        })
        .collect()
}

/// The places in which two values differ, as `a.b.c: C x, ours y`.
fn places(path: &str, c: &Value, ours: &Value, all: &mut Vec<String>) {
    match (c, ours) {
        (Value::Object(a), Value::Object(b)) => {
            let keys: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            for key in keys {
                let get = |map: &serde_json::Map<String, Value>| {
                    map.get(key).cloned().unwrap_or(Value::Null)
                };
                places(&format!("{path}.{key}"), &get(a), &get(b), all);
            }
        }
        _ if c == ours => (),
        _ => all.push(format!("{path}: C {c}, ours {ours}")),
    }
}

/// Where one call differs.
fn call_differences(c: &Value, ours: &Value) -> Vec<String> {
    let op = c["op"].as_str().unwrap_or("?");
    let result = |v: &Value| match v["errno"].as_str() {
        Some(errno) => errno.to_owned(),
        None => v["ret"].to_string(),
    };
    let (a, b) = (result(c), result(ours));
    // What else is different follows from that.
    if a != b {
        return vec![format!("{op}: C {a}, ours {b}")];
    }
    let mut all = Vec::new();
    places(op, c, ours, &mut all);
    if let Some(kind) = c.pointer("/stat/type").and_then(Value::as_str) {
        for words in &mut all {
            *words = format!("{kind}: {words}");
        }
    }
    all
}

fn show_part(trace: &Trace, n: usize, who: &str) -> Vec<String> {
    let show = |call: &Upcall| format!("{who} upcall: {}", call.show());
    trace.part(n).iter().take(SHOWN).map(show).collect()
}

/// Everything about one program.
fn scenario(judge: &mut Judge, name: &str, c: &Side, ours: &Side) -> Result<()> {
    let order = c.read("order")?;
    let (strict, counted, changes) = match order.trim() {
        "strict" => (true, true, false),
        "loose" => (false, true, false),
        "changes" => (false, true, true),
        "none" => (false, false, false),
        other => bail!("{name}: order {other}?"),
    };

    // How it ended, and what it said.
    let status = [c.read("status")?, ours.read("status")?].map(|s| s.trim().to_owned());
    let mut all = Vec::new();
    if status != ["0", "0"] {
        let mut difference = Difference::from(format!("exit: C {}, ours {}", status[0], status[1]));
        for (who, side) in [("C", c), ("ours", ours)] {
            let output = side.read("output")?;
            let lines: Vec<_> = output.lines().collect();
            let last = lines.iter().skip(lines.len().saturating_sub(8));
            difference
                .context
                .extend(last.map(|line| format!("{who}: {line}")));
        }
        all.push(difference);
    }
    judge.judge(name, "exit", "", all);
    let said = [c.read("output")?, ours.read("output")?];
    let diff = similar::TextDiff::from_lines(&said[0], &said[1]);
    let all = diff
        .iter_all_changes()
        .filter_map(|change| match change.tag() {
            similar::ChangeTag::Equal => None,
            similar::ChangeTag::Delete => Some(("C", change.value())),
            similar::ChangeTag::Insert => Some(("ours", change.value())),
        })
        .map(|(who, line)| format!("output: {who} alone: {}", line.trim_end()).into())
        .collect();
    judge.judge(name, "output", "", all);

    let parse = |side: &Side| -> Result<Trace> {
        let trace = Trace::parse(&side.read("trace")?, strict)?;
        Ok(match (strict, changes) {
            (true, _) => trace,
            (false, true) => trace.changes().sorted(),
            (false, false) => trace.sorted(),
        })
    };
    let (trace_c, trace_ours) = match counted {
        true => (parse(c)?, parse(ours)?),
        // Long, and not looked at.
        false => Default::default(),
    };

    // What the calls gave.
    let mut log = Vec::new();
    if c.has("ops") {
        log = parse_log(&c.read("ops")?)?;
        let log_ours = parse_log(&ours.read("ops")?)?;
        let mut all = Vec::new();
        if log.len() != log_ours.len() {
            all.push(format!("log: C {} lines, ours {}", log.len(), log_ours.len()).into());
        }
        for (n, (a, b)) in log.iter().zip(&log_ours).enumerate() {
            for words in call_differences(a, b) {
                let mut context = vec![format!("C: {a}"), format!("ours: {b}")];
                // The first part is what came before the first operation.
                context.extend(show_part(&trace_c, n + 1, "C"));
                context.extend(show_part(&trace_ours, n + 1, "ours"));
                all.push(Difference { words, context });
            }
        }
        judge.judge(name, "calls", &format!("{} calls", log.len()), all);
    }
    if c.has("strace") {
        let read = |side: &Side| Calls::read(&side.dir.join("strace"), &|line| side.wash(line));
        let (calls, calls_ours) = (read(c)?, read(ours)?);
        ensure!(calls.len() > 0, "{name}: nothing was seen of its calls");
        let all = calls.differences(&calls_ours);
        let what = format!("{} calls in C, {} in ours", calls.len(), calls_ours.len());
        let all = all.into_iter().map(Difference::from).collect();
        judge.judge(name, "calls", &what, all);
    }

    // What is there afterwards.
    let (tree, tree_ours) = (
        Tree::parse(&c.read("tree")?)?,
        Tree::parse(&ours.read("tree")?)?,
    );
    let all = tree.differences(&tree_ours, strict);
    let all = all.into_iter().map(Difference::from).collect();
    judge.judge(name, "tree", &format!("{} objects", tree.len()), all);

    // What the cache manager heard.
    if !counted {
        return Ok(());
    }
    let differences = trace_c.differences(&trace_ours);
    let context = |n: usize| {
        let line = n.checked_sub(1).and_then(|n| log.get(n));
        let mut context: Vec<_> = line.map(Value::to_string).into_iter().collect();
        if strict && trace_c.parts.len() > 1 {
            context.extend(show_part(&trace_c, n, "C"));
            context.extend(show_part(&trace_ours, n, "ours"));
        }
        context
    };
    let all = differences
        .into_iter()
        .map(|(n, words)| Difference {
            words,
            context: context(n),
        })
        .collect();
    let what = format!(
        "{} upcalls in C, {} in ours",
        trace_c.len(),
        trace_ours.len()
    );
    judge.judge(name, "upcalls", &what, all);
    Ok(())
}

/// The selftests leave a trace for each group of cases. What a case in which C
/// fails is worth is another list's business (tests/control-c.list).
fn selftests(judge: &mut Judge, name: &str, c: &Path, ours: &Path) -> Result<()> {
    let (mut compared, mut upcalls, mut not, mut all) = (0, 0, 0, Vec::new());
    for group in names(c)? {
        let read = |dir: &Path| -> Result<Trace> {
            let bytes = fs::read(dir.join(&group)).with_context(|| group.clone())?;
            Trace::parse(&String::from_utf8_lossy(&bytes), false)
        };
        let (c, ours) = (read(c)?, read(ours)?);
        let mut ours = ours.cases();
        for (case, (state, trace)) in c.cases() {
            let Some((state_ours, trace_ours)) = ours.remove(case) else {
                all.push(format!("case: only C has run {case}").into());
                continue;
            };
            if (state, state_ours) != ("pass", "pass") {
                not += 1;
                continue;
            }
            compared += 1;
            upcalls += trace.len();
            for (_, words) in trace.differences(&trace_ours) {
                let context = vec![format!("in {case}")];
                all.push(Difference { words, context });
            }
        }
    }
    ensure!(compared > 0, "no case was run in both boots");
    let what = format!("{compared} cases, {upcalls} upcalls in C; {not} fail or are skipped");
    judge.judge(name, "upcalls", &what, all);
    Ok(())
}

fn names(dir: &Path) -> Result<BTreeSet<String>> {
    fs::read_dir(dir)
        .with_context(|| dir.display().to_string())?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect()
}

/// Compares all programs, and says so in TAP.
pub fn run(args: &CompareArgs) -> Result<ExitCode> {
    let text = fs::read_to_string(&args.table)
        .with_context(|| format!("the table {}", args.table.display()))?;
    let mut judge = Judge {
        table: Table::parse(&text).with_context(|| args.table.display().to_string())?,
        lines: Vec::new(),
        number: 0,
        failed: 0,
    };
    let (c, ours) = (names(&args.c)?, names(&args.ours)?);
    let both = c.intersection(&ours).count();
    ensure!(both > 0, "no program was run in both boots");
    for name in c.union(&ours) {
        let one_sided = match (c.contains(name), ours.contains(name)) {
            (true, true) => None,
            (true, false) => Some("only C has run it"),
            _ => Some("only ours has run it"),
        };
        if let Some(words) = one_sided {
            judge.judge(name, "run", "", vec![words.to_owned().into()]);
            continue;
        }
        let (c, ours) = (args.c.join(name), args.ours.join(name));
        let done = if name.starts_with("selftests-") {
            selftests(&mut judge, name, &c, &ours)
        } else {
            Side::open(c)
                .and_then(|c| Ok((c, Side::open(ours)?)))
                .and_then(|(c, ours)| scenario(&mut judge, name, &c, &ours))
        };
        if let Err(e) = done {
            judge.judge(name, "run", "", vec![format!("{e:#}").into()]);
        }
    }
    println!("TAP version 13");
    println!("1..{}", judge.number);
    for line in &judge.lines {
        println!("{line}");
    }
    for pattern in judge.table.unused() {
        println!("# not seen this time: {pattern}");
    }
    Ok(ExitCode::from(u8::from(judge.failed > 0)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn calls_differ_by_result_or_detail() {
        let a = json!({ "op": "stat", "ret": 0, "stat": { "size": 1, "type": "dir" } });
        let b = json!({ "op": "stat", "ret": 0, "stat": { "size": 2, "type": "dir" } });
        assert_eq!(call_differences(&a, &a), [""; 0]);
        assert_eq!(
            call_differences(&a, &b),
            ["dir: stat.stat.size: C 1, ours 2"]
        );
        let failed = json!({ "op": "stat", "errno": "ENOENT" });
        assert_eq!(call_differences(&a, &failed), ["stat: C 0, ours ENOENT"]);
    }

    #[test]
    fn inodes_are_numbered() {
        let log = "{\"stat\":{\"ino\":700}}\n{\"entries\":[[\"f\",8,9],[\"g\",8,700]]}";
        let log = parse_log(log).unwrap();
        assert_eq!(log[0], json!({ "stat": { "ino": 1 } }));
        assert_eq!(log[1], json!({ "entries": [["f", 8, 2], ["g", 8, 1]] }));
    }

    fn side(dir: &Path, text: &[(&str, &str)]) -> PathBuf {
        let dir = dir.join("prog");
        fs::create_dir_all(&dir).unwrap();
        for (name, text) in text {
            fs::write(dir.join(name), text).unwrap();
        }
        dir.parent().unwrap().to_owned()
    }

    #[test]
    fn a_difference_fails_unless_it_is_known() {
        let tmp = tempfile::tempdir().unwrap();
        let (a, b) = (tmp.path().join("a"), tmp.path().join("b"));
        let close = |flags: u32| {
            format!("{{\"ev\":\"in\",\"op\":\"CLOSE\",\"unique\":1,\"flags\":{flags}}}\n")
        };
        for (dir, flags) in [(&a, 3), (&b, 0x403)] {
            let trace = close(flags);
            let files = [
                ("status", "0"),
                ("output", "done in 7 s"),
                ("order", "strict"),
                ("tree", "{\"path\":\".\"}"),
                ("same", "in \\d+ s => in N s"),
                ("trace", trace.as_str()),
            ];
            side(dir, &files);
        }
        fs::write(b.join("prog/output"), "done in 8 s").unwrap();
        let table = tmp.path().join("table");
        let args = CompareArgs {
            c: a,
            ours: b,
            table: table.clone(),
        };
        fs::write(
            &table,
            "   * - ``something else``\n     - ``*``\n     - reason\n",
        )
        .unwrap();
        assert_eq!(run(&args).unwrap(), ExitCode::FAILURE);
        fs::write(
            &table,
            "   * - ``CLOSE flags: C 0x3, ours 0x403``\n     - ``*``\n     - reason\n",
        )
        .unwrap();
        assert_eq!(run(&args).unwrap(), ExitCode::SUCCESS);
    }
}
