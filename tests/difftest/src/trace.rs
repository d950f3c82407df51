// SPDX-License-Identifier: GPL-2.0

//! The upcalls of a boot, made comparable.
//!
//! What cannot be the same in two boots is replaced: a fid by the path under
//! which the kernel first heard of it, a process by the order in which it
//! appeared, a time of the clock by a word. Unique numbers only tell which reply
//! belongs to which request.

use crate::tree::NOW;
use anyhow::{Context, Result};
use serde_json::{Map, Value};
use similar::{Algorithm, DiffOp, capture_diff_slices};
use std::collections::{BTreeMap, HashMap, HashSet};

/// One upcall and its reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upcall {
    /// What it is: the operation, the object, the names.
    pub what: String,
    /// All else, in order.
    pub fields: Vec<(String, String)>,
}

impl Upcall {
    fn result(&self) -> &str {
        let result = self.fields.iter().find(|(name, _)| name == "result");
        result.map_or("none", |(_, value)| value)
    }

    /// What tells it from others where the order does not: all but what we expect
    /// to differ between the modules.
    fn identity(&self) -> String {
        let plain = self.show();
        match self.what.split(' ').next() {
            Some("CLOSE") => plain.replace("flags=0x40", "flags=0x"),
            // No other attribute begins with a blank.
            Some("CREATE") => plain.replace(" attr.size=-1 ", " attr.size=0 "),
            _ => plain,
        }
    }

    /// For people.
    pub fn show(&self) -> String {
        let fields: Vec<_> = self
            .fields
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        format!("{} {}", self.what, fields.join(" "))
    }
}

/// The upcalls of a program, in the parts that its marks made.
#[derive(Debug, Default)]
pub struct Trace {
    /// What came before each mark, and after the last one.
    pub parts: Vec<Vec<Upcall>>,
    /// Sorted: the order says nothing.
    loose: bool,
    /// The cases of a selftest: where each begins, its name, how it ended.
    cases: Vec<(usize, String, String)>,
}

#[derive(Default)]
struct Names {
    fids: HashMap<String, String>,
    used: HashMap<String, usize>,
    processes: HashMap<i64, usize>,
}

impl Names {
    fn give(&mut self, fid: &str, name: String) {
        if self.fids.contains_key(fid) {
            return;
        }
        let count = self.used.entry(name.clone()).or_default();
        *count += 1;
        let name = match *count {
            1 => name,
            n => format!("{name}#{n}"),
        };
        self.fids.insert(fid.to_owned(), name);
    }

    fn of(&self, fid: &str) -> String {
        // The kernel has it from elsewhere, or it is none.
        self.fids.get(fid).map_or("?", String::as_str).to_owned()
    }

    fn process(&mut self, pid: i64) -> usize {
        let next = self.processes.len() + 1;
        *self.processes.entry(pid).or_insert(next)
    }
}

/// A value in words; times of the clock are all alike.
fn word(name: &str, value: &Value) -> String {
    match value {
        Value::Number(n) if name.ends_with("time") && n.as_i64().is_some_and(|n| n >= NOW) => {
            "now".into()
        }
        Value::Number(n) if name == "flags" || name == "mask" => {
            format!("{:#x}", n.as_i64().unwrap_or(0))
        }
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn put(fields: &mut Vec<(String, String)>, prefix: &str, name: &str, value: &Value) {
    match value {
        Value::Object(inner) => {
            for (key, value) in inner {
                put(fields, &format!("{prefix}{name}."), key, value);
            }
        }
        value => fields.push((format!("{prefix}{name}"), word(name, value))),
    }
}

/// Of no interest: numbers of this boot, and what another field says as well.
const DROPPED: &[&str] = &[
    "ev",
    "op",
    "unique",
    "us",
    "fid",
    "name",
    "dir",
    "to",
    "target",
    "decoded",
    "fd",
    "got",
    "blocks",
    "bfree",
    "pgid",
    "left",
    "last_writer",
];

/// The attributes that a SETATTR sets, by name: those that are not -1.
fn attributes(attr: Option<&Value>) -> String {
    let fields = attr.and_then(Value::as_object).into_iter().flatten();
    let set = fields.filter(|(name, value)| match name.as_str() {
        "type" => false,
        "mode" => value.as_str() != Some("177777"),
        _ => value.as_i64() != Some(-1),
    });
    set.flat_map(|(name, _)| [" ", name.as_str()]).collect()
}

/// An errno by its name; 0 and numbers that are none stay.
fn errno(number: i64) -> String {
    match nix::errno::Errno::from_raw(number.unsigned_abs() as i32) {
        _ if number == 0 => "0".into(),
        nix::errno::Errno::UnknownErrno => number.to_string(),
        known => format!("{known:?}"),
    }
}

impl Trace {
    /// Reads a trace. `processes`: whether who asked is part of it.
    pub fn parse(text: &str, processes: bool) -> Result<Self> {
        let mut trace = Trace::default();
        let mut part: Vec<Upcall> = Vec::new();
        // Where a request is that has no reply yet: its parts, and its names.
        let mut waiting: HashMap<u64, (usize, usize, Map<String, Value>)> = HashMap::new();
        let mut names = Names::default();
        // Objects whose attributes were changed: what was known of permissions
        // was forgotten with that.
        let mut changed: HashSet<String> = HashSet::new();
        for line in text.lines() {
            let Value::Object(line) = serde_json::from_str(line)
                .with_context(|| format!("a line of the trace: {line}"))?
            else {
                anyhow::bail!("a line of the trace: {line}");
            };
            let field = |name: &str| line.get(name).and_then(Value::as_str).unwrap_or("");
            let unique = line.get("unique").and_then(Value::as_u64).unwrap_or(0);
            match field("ev") {
                "mark" => trace.parts.push(std::mem::take(&mut part)),
                "case" => {
                    trace.parts.push(std::mem::take(&mut part));
                    let name = field("name").to_owned();
                    trace.cases.push((trace.parts.len(), name, String::new()));
                }
                "outcome" => {
                    if let Some((_, _, state)) = trace.cases.last_mut() {
                        *state = field("state").to_owned();
                    }
                }
                "in" | "downcall" => {
                    let mut what = field("op").to_owned();
                    if what == "ACCESS_INTENT" {
                        what = format!("{what} {}", field("type"));
                    }
                    let fid = field("fid").to_owned();
                    for name in ["fid", "name", "dir", "to", "target"] {
                        if !line.contains_key(name) {
                            continue;
                        }
                        let text = match name {
                            "fid" | "dir" => names.of(field(name)),
                            _ => format!("{:?}", field(name)),
                        };
                        what = format!("{what} {text}");
                    }
                    let mut fields = Vec::new();
                    if what.starts_with("ACCESS //") {
                        let mask = line.get("mask").and_then(Value::as_i64).unwrap_or(0);
                        what = format!("{what} {mask:#x}");
                        if changed.contains(&fid) {
                            what.push_str(" once changed");
                        }
                    }
                    if what.starts_with("SETATTR ") {
                        what.push_str(&attributes(line.get("attr")));
                    }
                    // What only one of the modules may send is no way to count by.
                    let extra = what.starts_with("ACCESS_INTENT") && what.contains("_FINISH ")
                        || what.ends_with(" once changed");
                    for (name, value) in &line {
                        match (name.as_str(), value.as_i64()) {
                            ("pid", Some(_)) if extra => (),
                            ("pid", Some(pid)) => {
                                let number = names.process(pid);
                                if processes {
                                    fields.push(("pid".into(), number.to_string()));
                                }
                            }
                            (name, _) if DROPPED.contains(&name) => (),
                            (name, _) => put(&mut fields, "", name, value),
                        }
                    }
                    // A signal has the number of the request that it is about.
                    if what == "SIGNAL" {
                        part.push(Upcall { what, fields });
                        continue;
                    }
                    waiting.insert(unique, (trace.parts.len(), part.len(), line));
                    part.push(Upcall { what, fields });
                }
                ev @ ("out" | "dropped" | "undone" | "sent") => {
                    let Some((at, index, request)) = waiting.get(&unique) else {
                        continue;
                    };
                    if let Some(Value::String(got)) = line.get("got") {
                        let parent = match request.get("fid").and_then(Value::as_str) {
                            Some(fid) => names.of(fid),
                            None => String::new(),
                        };
                        let name = request.get("name").and_then(Value::as_str).unwrap_or("");
                        names.give(got, format!("{parent}/{}", name.escape_debug()));
                    }
                    let fid = request.get("fid").and_then(Value::as_str);
                    let fid = fid.map(str::to_owned);
                    let request = match trace.parts.get_mut(*at) {
                        Some(part) => &mut part[*index],
                        None => &mut part[*index],
                    };
                    match ev {
                        "out" => {
                            let good = line.get("result").and_then(Value::as_i64) == Some(0);
                            if let (true, "SETATTR", Some(fid)) = (good, field("op"), fid) {
                                changed.insert(fid);
                            }
                            for (name, value) in &line {
                                match name.as_str() {
                                    "result" => request
                                        .fields
                                        .push((name.clone(), errno(value.as_i64().unwrap_or(0)))),
                                    name if DROPPED.contains(&name) => (),
                                    name => put(&mut request.fields, "reply.", name, value),
                                }
                            }
                        }
                        "dropped" => request.fields.push(("dropped".into(), field("why").into())),
                        other => request.fields.push((other.into(), "yes".into())),
                    }
                }
                _ => (),
            }
        }
        trace.parts.push(part);
        Ok(trace)
    }

    /// A part, empty where there is none.
    pub fn part(&self, n: usize) -> &[Upcall] {
        self.parts.get(n).map(Vec::as_slice).unwrap_or_default()
    }

    /// How many upcalls there are.
    pub fn len(&self) -> usize {
        self.parts.iter().map(Vec::len).sum()
    }

    /// Everything in one part, in an order that does not depend on who was
    /// faster.
    pub fn sorted(self) -> Self {
        let mut all: Vec<Upcall> = self.parts.into_iter().flatten().collect();
        all.sort_by_cached_key(Upcall::identity);
        Trace {
            parts: vec![all],
            loose: true,
            ..Trace::default()
        }
    }

    /// Only what changes something, and the closes of files that were open for
    /// writing.
    pub fn changes(mut self) -> Self {
        let change = |call: &Upcall| {
            let op = call.what.split(' ').next().unwrap_or("");
            let flags = call.fields.iter().find(|(name, _)| name == "flags");
            let writer = flags.is_some_and(|(_, flags)| {
                let number = flags.strip_prefix("0x").unwrap_or(flags);
                u32::from_str_radix(number, 16).is_ok_and(|flags| flags & 2 != 0)
            });
            match op {
                "CREATE" | "MKDIR" | "SYMLINK" | "LINK" | "RENAME" | "REMOVE" | "RMDIR"
                | "SETATTR" | "FSYNC" => true,
                "OPEN_BY_FD" | "CLOSE" => writer,
                _ => false,
            }
        };
        self.parts.iter_mut().for_each(|part| part.retain(change));
        self
    }

    /// The cases of a selftest: how each ended, and its upcalls in an order that
    /// does not depend on who was faster.
    pub fn cases(&self) -> BTreeMap<&str, (&str, Trace)> {
        let upcalls = |at: usize| Trace {
            parts: self.parts.get(at).cloned().into_iter().collect(),
            ..Trace::default()
        };
        self.cases
            .iter()
            .map(|(at, name, state)| (name.as_str(), (state.as_str(), upcalls(*at).sorted())))
            .collect()
    }

    /// How `ours` is different: the part's number, and the difference in words.
    pub fn differences(&self, ours: &Trace) -> Vec<(usize, String)> {
        let mut all = Vec::new();
        for n in 0..self.parts.len().max(ours.parts.len()) {
            let differences = compare(self.part(n), ours.part(n), self.loose);
            all.extend(differences.into_iter().map(|d| (n, d)));
        }
        all
    }
}

fn compare(c: &[Upcall], ours: &[Upcall], loose: bool) -> Vec<String> {
    let mut all = Vec::new();
    let what = |calls: &[Upcall]| -> Vec<String> {
        let one = |call: &Upcall| match loose {
            true => call.identity(),
            false => call.what.clone(),
        };
        calls.iter().map(one).collect()
    };
    let alone = |who: &str, call: &Upcall| match loose {
        // There is no other place to see the fields.
        true => format!("{who} alone: {} = {}", call.show(), call.result()),
        false => format!("{who} alone: {} = {}", call.what, call.result()),
    };
    for op in capture_diff_slices(Algorithm::Myers, &what(c), &what(ours)) {
        if let DiffOp::Equal {
            old_index,
            new_index,
            len,
        } = op
        {
            for n in 0..len {
                pair(&c[old_index + n], &ours[new_index + n], &mut all);
            }
            continue;
        }
        all.extend(c[op.old_range()].iter().map(|call| alone("C", call)));
        all.extend(ours[op.new_range()].iter().map(|call| alone("ours", call)));
    }
    all
}

/// The same upcall in both: its fields.
fn pair(c: &Upcall, ours: &Upcall, all: &mut Vec<String>) {
    let get = |call: &Upcall, name: &str| {
        let found = call.fields.iter().find(|(n, _)| n == name);
        found.map_or("none", |(_, value)| value).to_owned()
    };
    let op = c.what.split(' ').next().unwrap_or("");
    let missing = |(name, _): &&(String, String)| get(c, name) == "none";
    for (name, _) in c.fields.iter().chain(ours.fields.iter().filter(missing)) {
        let (a, b) = (get(c, name), get(ours, name));
        if a != b {
            all.push(format!("{op} {name}: C {a}, ours {b}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const C: &str = r#"{"ev":"in","op":"ROOT","unique":1,"us":5,"size":20,"pid":77}
{"ev":"out","op":"ROOT","unique":1,"us":6,"result":0,"size":28,"got":"(1.2.3.1)"}
{"ev":"in","op":"LOOKUP","unique":2,"us":7,"fid":"(1.2.3.1)","name":"f","flags":1,"pid":77}
{"ev":"out","op":"LOOKUP","unique":2,"us":8,"result":0,"got":"(1.2.4.2)","type":1}
{"ev":"mark","n":0}
{"ev":"in","op":"CLOSE","unique":3,"us":9,"fid":"(1.2.4.2)","flags":3,"decoded":"x","pid":77}
{"ev":"out","op":"CLOSE","unique":3,"us":9,"result":0}
"#;

    #[test]
    fn numbers_of_a_boot_do_not_count() {
        let other = C
            .replace("1.2.4.2", "1.2.9.9")
            .replace("\"pid\":77", "\"pid\":78")
            .replace("\"us\":7", "\"us\":1234");
        let (a, b) = (
            Trace::parse(C, true).unwrap(),
            Trace::parse(&other, true).unwrap(),
        );
        assert_eq!(a.differences(&b), []);
        assert_eq!((a.len(), a.parts.len()), (3, 2));
        assert_eq!(a.parts[1][0].what, "CLOSE //f");
    }

    #[test]
    fn fields_and_messages_count() {
        let other = C
            .replace("\"flags\":3", "\"flags\":1027")
            .replace("\"op\":\"ROOT\"", "\"op\":\"STATFS\"");
        let (a, b) = (
            Trace::parse(C, true).unwrap(),
            Trace::parse(&other, true).unwrap(),
        );
        assert_eq!(
            a.differences(&b),
            [
                (0, "C alone: ROOT = 0".to_owned()),
                (0, "ours alone: STATFS = 0".to_owned()),
                (1, "CLOSE flags: C 0x3, ours 0x403".to_owned()),
            ]
        );
    }

    #[test]
    fn errors_have_names() {
        assert_eq!(errno(2), "ENOENT");
        assert_eq!(errno(-2), "ENOENT");
        assert_eq!(errno(0), "0");
        assert_eq!(errno(5000), "5000");
    }
}
