// SPDX-License-Identifier: GPL-2.0

//! Lines of `trace_pipe`, and what the module's tracepoints say in them.
//!
//! A line is
//!
//! ```text
//!    make-4321    [001] .....   123.456789: coda_upcall_end: unique=7 opcode=LOOKUP fid=... result=0
//! ```
//!
//! where a command may have blanks, brackets and colons in it, flags may be switched off, and a group
//! of threads may stand in parentheses. So it is read from its end on: what follows the number of the
//! CPU is the kernel's own. Fields go by name.

use std::fmt;
use std::str::FromStr;

/// The identifier of a file: realm, volume, vnode, uniquifier.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fid(pub [u32; 4]);

impl fmt::Display for Fid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [realm, volume, vnode, unique] = self.0;
        write!(f, "{realm:08x}.{volume:08x}.{vnode:08x}.{unique:08x}")
    }
}

impl serde::Serialize for Fid {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl FromStr for Fid {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let parts = hex_parts(text).ok_or(())?;
        Ok(Fid(parts.try_into().map_err(|_| ())?))
    }
}

fn hex_parts(text: &str) -> Option<Vec<u32>> {
    let hex = |part: &str| {
        let digits = !part.is_empty() && part.bytes().all(|b| b.is_ascii_hexdigit());
        digits.then(|| u32::from_str_radix(part, 16).ok()).flatten()
    };
    text.split('.').map(hex).collect()
}

/// A fid to look for, as the module writes it, or without the realm, as `cfs getfid` does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FidFilter {
    realm: Option<u32>,
    rest: [u32; 3],
}

impl FidFilter {
    /// Is it this one?
    pub fn matches(&self, fid: Fid) -> bool {
        let [realm, rest @ ..] = fid.0;
        rest == self.rest && self.realm.is_none_or(|r| r == realm)
    }
}

impl FromStr for FidFilter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // cfs adds the realm's name.
        let bare = text.split('@').next().unwrap_or(text);
        // The kernel's log puts it in parentheses.
        let bare = bare.trim_matches(['(', ')']);
        match hex_parts(bare).as_deref() {
            Some([volume, vnode, unique]) => Ok(FidFilter {
                realm: None,
                rest: [*volume, *vnode, *unique],
            }),
            Some([realm, volume, vnode, unique]) => Ok(FidFilter {
                realm: Some(*realm),
                rest: [*volume, *vnode, *unique],
            }),
            _ => Err(
                "a fid is three or four hexadecimal numbers with dots between, \
                      such as 7f000001.2.3 or 1.7f000001.2.3"
                    .to_owned(),
            ),
        }
    }
}

/// What a line of the trace says.
#[derive(Clone, Debug, PartialEq)]
pub enum Line<'a> {
    /// A tracepoint was passed.
    Event(Passed<'a>),
    /// So many events of a CPU did not fit into its buffer; nothing if nobody knows how many.
    Lost {
        /// Which one.
        cpu: u32,
        /// How many, if that is known.
        count: Option<u64>,
    },
    /// A heading, or something else.
    Other,
}

/// A tracepoint that was passed.
#[derive(Clone, Debug, PartialEq)]
pub struct Passed<'a> {
    /// By which command, as far as the kernel remembers.
    pub command: &'a str,
    /// By which thread.
    pub pid: i32,
    /// Of which process, if the trace says so.
    pub process: Option<i32>,
    /// When, in microseconds of the trace's clock.
    pub time_us: u64,
    /// What it said; nothing where it is none of ours.
    pub event: Option<Event<'a>>,
}

/// What the module's tracepoints say.
#[derive(Clone, Debug, PartialEq)]
pub enum Event<'a> {
    /// A request was queued.
    Begin {
        /// Its number on its device.
        unique: u64,
        /// The protocol's name without `CODA_`.
        opcode: &'a str,
        /// Who waits.
        pid: Option<i32>,
        /// What it is about.
        fid: Fid,
    },
    /// A request is over.
    End {
        /// Its number on its device.
        unique: u64,
        /// The protocol's name without `CODA_`.
        opcode: &'a str,
        /// What it is about.
        fid: Fid,
        /// Since it was queued.
        latency_ns: u64,
        /// 0, or a negative errno.
        result: i64,
    },
    /// The cache manager said something on its own account.
    Downcall {
        /// The protocol's name without `CODA_`.
        opcode: &'a str,
        /// What it is about.
        fid: Fid,
    },
    /// A file was opened, or not.
    Open {
        /// Which.
        fid: Fid,
        /// As the protocol has them.
        flags: u32,
        /// 0, or a negative errno.
        result: i64,
    },
    /// A file was closed.
    Close {
        /// Which.
        fid: Fid,
        /// As they were sent.
        flags: u32,
        /// What the cache manager was told; nothing where the file was not open for writing.
        modified: Option<bool>,
    },
    /// A file was found to be modified, for the first time.
    Modified {
        /// Which.
        fid: Fid,
        /// `write`, `truncate`, `store` or `other`.
        how: &'a str,
    },
}

impl Event<'_> {
    /// The file that it is about.
    pub fn fid(&self) -> Fid {
        match *self {
            Event::Begin { fid, .. }
            | Event::End { fid, .. }
            | Event::Downcall { fid, .. }
            | Event::Open { fid, .. }
            | Event::Close { fid, .. }
            | Event::Modified { fid, .. } => fid,
        }
    }
}

/// Spells out the flags of an open or a close.
pub fn flags(word: u32) -> String {
    const NAMES: [(u32, &str); 6] = [
        (0x1, "C_O_READ"),
        (0x2, "C_O_WRITE"),
        (0x10, "C_O_TRUNC"),
        (0x100, "C_O_EXCL"),
        (0x200, "C_O_CREAT"),
        (0x400, "C_O_NO_WRITES"),
    ];
    let mut left = word;
    let mut words = Vec::new();
    for (bit, name) in NAMES {
        if word & bit != 0 {
            words.push(name.to_owned());
            left &= !bit;
        }
    }
    if left != 0 || words.is_empty() {
        words.push(format!("{left:#x}"));
    }
    words.join("|")
}

/// `sec.frac`, of any number of digits, in microseconds.
fn time_us(text: &str) -> Option<u64> {
    let (sec, frac) = text.split_once('.')?;
    let digits = |t: &str| !t.is_empty() && t.bytes().all(|b| b.is_ascii_digit());
    if !digits(sec) || !digits(frac) {
        return None;
    }
    let mut us = 0;
    for n in 0..6 {
        us = us * 10 + u64::from(frac.as_bytes().get(n).unwrap_or(&b'0') - b'0');
    }
    sec.parse::<u64>()
        .ok()?
        .checked_mul(1_000_000)?
        .checked_add(us)
}

/// `CPU:3 [LOST 12 EVENTS]`, and without a number.
fn lost(line: &str) -> Option<Line<'_>> {
    let (cpu, rest) = line.trim().strip_prefix("CPU:")?.split_once(' ')?;
    let what = rest
        .trim()
        .strip_prefix("[LOST ")?
        .strip_suffix("EVENTS]")?;
    Some(Line::Lost {
        cpu: cpu.parse().ok()?,
        count: what.trim().parse().ok(),
    })
}

/// What stands before the number of the CPU: `command-pid`, perhaps with the process in parentheses.
fn task(text: &str) -> Option<(&str, i32, Option<i32>)> {
    let mut text = text.trim_end();
    let mut process = None;
    if let Some((before, group)) = text.rsplit_once('(') {
        let inner = group.strip_suffix(')').unwrap_or("x").trim();
        if inner.bytes().all(|b| b.is_ascii_digit() || b == b'-') {
            process = inner.parse().ok();
            text = before.trim_end();
        }
    }
    let split = |(command, pid): (&'_ str, &str)| Some((command.trim().len(), pid.parse().ok()?));
    // perf script has blanks between.
    let (len, pid) = text
        .rsplit_once('-')
        .and_then(split)
        .or_else(|| text.rsplit_once(' ').and_then(split))?;
    let text = text.trim_start();
    Some((text.get(..len)?, pid, process))
}

fn passed(line: &str) -> Option<Passed<'_>> {
    // The last place that looks like the number of a CPU.
    for (at, _) in line.rmatch_indices(" [") {
        let Some((cpu, rest)) = line[at + 2..].split_once("] ") else {
            continue;
        };
        if cpu.len() < 3 || !cpu.bytes().all(|b| b.is_ascii_digit()) {
            continue;
        }
        let Some((stamp, said)) = rest.split_once(": ") else {
            continue;
        };
        let (Some(time_us), Some((command, pid, process))) = (
            stamp.split_whitespace().next_back().and_then(time_us),
            task(&line[..at]),
        ) else {
            continue;
        };
        return Some(Passed {
            command,
            pid,
            process,
            time_us,
            event: event(said),
        });
    }
    None
}

/// The fields of a tracepoint.
struct Fields<'a>(&'a str);

impl<'a> Fields<'a> {
    fn word(&self, name: &str) -> Option<&'a str> {
        self.0
            .split_whitespace()
            .find_map(|w| w.strip_prefix(name)?.strip_prefix('='))
    }

    fn number<T: FromStr>(&self, name: &str) -> Option<T> {
        self.word(name)?.parse().ok()
    }

    fn fid(&self) -> Option<Fid> {
        self.word("fid")?.parse().ok()
    }

    fn flags(&self) -> Option<u32> {
        let word = self.word("flags")?;
        // C's %#x leaves the 0x out for nothing.
        u32::from_str_radix(word.strip_prefix("0x").unwrap_or(word), 16).ok()
    }
}

fn event(said: &str) -> Option<Event<'_>> {
    let said = said.trim_start();
    let (name, rest) = said
        .strip_prefix("coda_rs:")
        .unwrap_or(said)
        .split_once(':')?;
    let fields = Fields(rest);
    let fid = fields.fid()?;
    Some(match name.trim().strip_prefix("coda_")? {
        "upcall_begin" => Event::Begin {
            unique: fields.number("unique")?,
            opcode: fields.word("opcode")?,
            pid: fields.number("pid"),
            fid,
        },
        "upcall_end" => Event::End {
            unique: fields.number("unique")?,
            opcode: fields.word("opcode")?,
            fid,
            latency_ns: fields.number("latency_ns")?,
            result: fields.number("result")?,
        },
        "downcall" => Event::Downcall {
            opcode: fields.word("opcode")?,
            fid,
        },
        "file_open" => Event::Open {
            fid,
            flags: fields.flags()?,
            result: fields.number("result")?,
        },
        "file_close" => Event::Close {
            fid,
            flags: fields.flags()?,
            modified: match fields.word("modified")? {
                "yes" => Some(true),
                "no" => Some(false),
                "-" => None,
                _ => return None,
            },
        },
        "file_modified" => Event::Modified {
            fid,
            how: fields.word("how")?,
        },
        _ => return None,
    })
}

/// Makes sense of a line.
pub fn line(text: &str) -> Line<'_> {
    if let Some(lost) = lost(text) {
        return lost;
    }
    match passed(text) {
        Some(passed) if !text.starts_with('#') => Line::Event(passed),
        _ => Line::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const END: &str = "coda_upcall_end: unique=7 opcode=LOOKUP \
        fid=00000001.7f000001.00000002.00000003 latency_ns=85400 result=-2";

    fn whole(text: &str) -> Passed<'_> {
        match line(text) {
            Line::Event(passed) => passed,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn an_upcall() {
        let text = format!("            make-4321    [001] .....   123.456789: {END}");
        let passed = whole(&text);
        assert_eq!(
            (passed.command, passed.pid, passed.time_us),
            ("make", 4321, 123_456_789)
        );
        assert_eq!(
            passed.event,
            Some(Event::End {
                unique: 7,
                opcode: "LOOKUP",
                fid: Fid([1, 0x7f00_0001, 2, 3]),
                latency_ns: 85400,
                result: -2
            })
        );
    }

    #[test]
    fn odd_commands_and_options() {
        for (head, command, pid) in [
            ("a [001] 1.0: x-9 [000] d..1. ", "a [001] 1.0: x", 9),
            (
                "  kworker/u8:1-ev-77   (     77) [013] ",
                "kworker/u8:1-ev",
                77,
            ),
            (" <...>-5  (-----) [003] ..... ", "<...>", 5),
            ("(sd-pam)-1234 [000] ", "(sd-pam)", 1234),
            (" my prog-1 [1000] ", "my prog", 1),
            // As perf script and trace-cmd report write it.
            ("a-b c   77 [002] ", "a-b c", 77),
        ] {
            let text = format!("{head}    0.000001: {END}");
            let passed = whole(&text);
            assert_eq!(
                (passed.command, passed.pid, passed.time_us),
                (command, pid, 1)
            );
            assert!(passed.event.is_some());
            assert_eq!(
                passed.process,
                (pid == 77 && head.contains('(')).then_some(77)
            );
        }
    }

    #[test]
    fn the_others() {
        let fid = Fid([1, 2, 3, 4]);
        for (said, what) in [
            (
                "coda_upcall_begin: unique=7 opcode=OPEN pid=12 fid=1.2.3.4",
                Event::Begin {
                    unique: 7,
                    opcode: "OPEN",
                    pid: Some(12),
                    fid,
                },
            ),
            (
                "coda_downcall: opcode=ZAPFILE fid=1.2.3.4",
                Event::Downcall {
                    opcode: "ZAPFILE",
                    fid,
                },
            ),
            (
                "coda_file_open: fid=1.2.3.4 flags=0x13 result=0",
                Event::Open {
                    fid,
                    flags: 0x13,
                    result: 0,
                },
            ),
            (
                "coda_file_close: later=1 fid=1.2.3.4 flags=0x403 modified=no",
                Event::Close {
                    fid,
                    flags: 0x403,
                    modified: Some(false),
                },
            ),
            (
                "coda_file_close: fid=1.2.3.4 flags=0x1 modified=-",
                Event::Close {
                    fid,
                    flags: 1,
                    modified: None,
                },
            ),
            (
                "coda_file_modified: fid=1.2.3.4 how=store",
                Event::Modified { fid, how: "store" },
            ),
        ] {
            assert_eq!(event(said), Some(what), "{said}");
        }
        assert_eq!(
            event("coda_file_close: fid=1.2.3.4 flags=0x1 modified=perhaps"),
            None
        );
        assert_eq!(event("coda_file_open: fid=1.2.3 flags=0x1 result=0"), None);
        assert_eq!(event("sched_switch: fid=1.2.3.4"), None);
    }

    #[test]
    fn lost_events() {
        assert_eq!(
            line("CPU:3 [LOST 12 EVENTS]"),
            Line::Lost {
                cpu: 3,
                count: Some(12)
            }
        );
        assert_eq!(
            line("CPU:0 [LOST EVENTS]"),
            Line::Lost {
                cpu: 0,
                count: None
            }
        );
        assert_eq!(line("# tracer: nop"), Line::Other);
        assert_eq!(line(""), Line::Other);
    }

    #[test]
    fn fids() {
        let fid = Fid([1, 0x7f00_0001, 2, 3]);
        for (text, is) in [
            ("7f000001.2.3", true),
            ("1.7f000001.2.3", true),
            ("7f000001.00000002.00000003@example.org", true),
            ("(00000001.7f000001.00000002.00000003)", true),
            ("2.7f000001.2.3", false),
            ("7f000001.2.4", false),
        ] {
            assert_eq!(
                text.parse::<FidFilter>().unwrap().matches(fid),
                is,
                "{text}"
            );
        }
        for text in [
            "",
            "1.2",
            "1.2.3.4.5",
            "x.1.2",
            "+1.2.3",
            "1.2.100000000",
            "1..3",
        ] {
            assert!(text.parse::<FidFilter>().is_err(), "{text}");
        }
        assert_eq!(fid.to_string().parse(), Ok(fid));
    }

    #[test]
    fn flags_in_words() {
        assert_eq!(flags(0x403), "C_O_READ|C_O_WRITE|C_O_NO_WRITES");
        assert_eq!(flags(0), "0x0");
        assert_eq!(flags(0x1001), "C_O_READ|0x1000");
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(text in "(\\PC|[\\[\\]().:=-]|[0-9]| \\[|\\] |: ){0,200}") {
            line(&text);
            event(&text);
            let _ = text.parse::<FidFilter>();
        }

        #[test]
        fn half_a_line_is_no_other_line(cut in 0usize..200) {
            let text = format!(" make-4321 [001] ..... 123.456789: {END}");
            let half: String = text.chars().take(cut).collect();
            if let Line::Event(Passed { event: Some(Event::End { fid, unique, .. }), .. }) = line(&half) {
                prop_assert_eq!((fid, unique), (Fid([1, 0x7f00_0001, 2, 3]), 7));
            }
        }

        #[test]
        fn any_command(command in "\\PC{1,15}", pid in 1..i32::MAX, sec in 0u32.., us in 0u32..1_000_000) {
            let text = format!("{command:>16}-{pid:<7} [000] ..... {sec:5}.{us:06}: {END}");
            let passed = whole(&text);
            prop_assert_eq!(passed.command, command.trim());
            prop_assert_eq!(passed.pid, pid);
            prop_assert_eq!(passed.time_us, u64::from(sec) * 1_000_000 + u64::from(us));
            prop_assert!(passed.event.is_some());
        }
    }
}
