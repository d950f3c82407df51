// SPDX-License-Identifier: GPL-2.0

//! The module's files in debugfs: lines of words, and headings that say what they are.
//!
//! Columns go by the names that the heading gives them, so that the module may add some. A line that
//! is shorter than its heading was read half written, or comes from another version: what is missing
//! is taken for absent, never made up.

use serde::Serialize;
use std::collections::BTreeMap;

/// A row, by the names of its columns.
#[derive(Clone, Copy)]
pub struct Row<'a> {
    names: &'a [&'a str],
    words: &'a [&'a str],
}

impl<'a> Row<'a> {
    /// The word of a column.
    pub fn word(&self, name: &str) -> Option<&'a str> {
        let at = self.names.iter().position(|n| *n == name)?;
        self.words.get(at).copied()
    }

    /// The number of a column.
    pub fn number<T: std::str::FromStr>(&self, name: &str) -> Option<T> {
        self.word(name)?.parse().ok()
    }

    /// All columns whose names begin like this, with the rest of the name.
    fn columns(&self, prefix: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.names
            .iter()
            .zip(self.words)
            .filter_map(move |(name, word)| Some((name.strip_prefix(prefix)?, *word)))
    }
}

/// Makes something of each line of a table, where `make` can.
pub fn rows<T>(text: &str, mut make: impl FnMut(Row<'_>) -> Option<T>) -> Vec<T> {
    let mut names: Vec<&str> = Vec::new();
    let mut made = Vec::new();
    // What does not end with a newline is not whole.
    for line in text
        .split_inclusive('\n')
        .filter_map(|l| l.strip_suffix('\n'))
    {
        if let Some(heading) = line.strip_prefix('#') {
            names = heading.split_whitespace().collect();
            continue;
        }
        let words: Vec<&str> = line.split_whitespace().collect();
        if words.is_empty() {
            continue;
        }
        made.extend(make(Row {
            names: &names,
            words: &words,
        }));
    }
    made
}

/// How many calls took less than so long, and not less than the bucket before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Bucket {
    /// In microseconds; nothing for the last one, which has no end.
    pub below_us: Option<u64>,
    /// How many.
    pub calls: u64,
}

/// What is known of one kind of upcall since the module was loaded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Upcall {
    /// The protocol's name without `CODA_`.
    pub opcode: String,
    /// How many are over.
    pub calls: u64,
    /// How many of those the cache manager answered with an error.
    pub errors: u64,
    /// How many of those ended without an answer.
    pub given_up: u64,
    /// How long all of them took.
    pub total_ns: u64,
    /// From the shortest on.
    pub latency: Vec<Bucket>,
}

/// The table `upcalls`.
pub fn upcalls(text: &str) -> Vec<Upcall> {
    rows(text, |row| {
        let mut latency: Vec<Bucket> = row
            .columns("lt_")
            .filter_map(|(bound, calls)| {
                Some(Bucket {
                    below_us: Some(bound.strip_suffix("us")?.parse().ok()?),
                    calls: calls.parse().ok()?,
                })
            })
            .collect();
        latency.sort_by_key(|b| b.below_us);
        latency.extend(row.number("more").map(|calls| Bucket {
            below_us: None,
            calls,
        }));
        Some(Upcall {
            opcode: row.word("opcode")?.to_owned(),
            calls: row.number("calls")?,
            errors: row.number("errors")?,
            given_up: row.number("given_up").unwrap_or(0),
            total_ns: row.number("total_ns").unwrap_or(0),
            latency,
        })
    })
}

/// The counters of `files`, by name.
pub fn files(text: &str) -> BTreeMap<String, u64> {
    text.split_inclusive('\n')
        .filter_map(|l| l.strip_suffix('\n'))
        .filter(|l| !l.starts_with('#'))
        .filter_map(|l| {
            let (name, count) = l.split_once(char::is_whitespace)?;
            Some((name.to_owned(), count.trim().parse().ok()?))
        })
        .collect()
}

/// A device that is open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Device {
    /// As in `/dev`.
    pub device: String,
    /// Who opened it.
    pub pid: i32,
    /// Does a mount stand on it?
    pub mounted: bool,
    /// Requests that it has not read yet.
    pub pending: u64,
    /// Requests that it has read and not answered.
    pub outstanding: u64,
}

/// The table `devices`.
pub fn devices(text: &str) -> Vec<Device> {
    rows(text, |row| {
        Some(Device {
            device: row.word("device")?.to_owned(),
            pid: row.number("pid")?,
            mounted: row.number::<u8>("mounted")? != 0,
            pending: row.number("pending")?,
            outstanding: row.number("outstanding")?,
        })
    })
}

/// A request on its way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Request {
    /// As in `/dev`.
    pub device: String,
    /// Its number on that device.
    pub unique: u64,
    /// The protocol's name without `CODA_`.
    pub opcode: String,
    /// `pending` or `outstanding`.
    pub state: String,
    /// For how long.
    pub age_ms: u64,
    /// Who waits for it.
    pub pid: i32,
    /// What file it is about.
    pub fid: String,
}

/// The table `requests`, the oldest first.
pub fn requests(text: &str) -> Vec<Request> {
    let mut all = rows(text, |row| {
        Some(Request {
            device: row.word("device")?.to_owned(),
            unique: row.number("unique")?,
            opcode: row.word("opcode")?.to_owned(),
            state: row.word("state")?.to_owned(),
            age_ms: row.number("age_ms")?,
            pid: row.number("pid").unwrap_or(0),
            fid: row.word("fid").unwrap_or("").to_owned(),
        })
    });
    all.sort_by(|a, b| b.age_ms.cmp(&a.age_ms).then(a.unique.cmp(&b.unique)));
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const UPCALLS: &str = "\
# opcode calls errors given_up total_ns lt_1us lt_2us lt_4us more
LOOKUP 12 3 1 12345678 0 2 4 6
GETATTR 1 0 0 900 1 0 0 0
";

    #[test]
    fn upcalls_by_name() {
        let all = upcalls(UPCALLS);
        assert_eq!(all.len(), 2);
        assert_eq!(all[0].opcode, "LOOKUP");
        assert_eq!((all[0].calls, all[0].errors, all[0].given_up), (12, 3, 1));
        assert_eq!(all[0].total_ns, 12_345_678);
        let bounds: Vec<_> = all[0]
            .latency
            .iter()
            .map(|b| (b.below_us, b.calls))
            .collect();
        assert_eq!(
            bounds,
            [(Some(1), 0), (Some(2), 2), (Some(4), 4), (None, 6)]
        );
    }

    #[test]
    fn other_columns_and_another_order_do_no_harm() {
        let all = upcalls(
            "# a later heading\n# calls retries opcode more errors lt_4us lt_2us\n7 99 OPEN 1 2 3 4\n",
        );
        assert_eq!(all[0].opcode, "OPEN");
        assert_eq!((all[0].calls, all[0].errors, all[0].given_up), (7, 2, 0));
        let bounds: Vec<_> = all[0]
            .latency
            .iter()
            .map(|b| (b.below_us, b.calls))
            .collect();
        assert_eq!(bounds, [(Some(2), 4), (Some(4), 3), (None, 1)]);
    }

    #[test]
    fn what_is_not_whole_is_left_out() {
        assert_eq!(
            upcalls("# opcode calls errors\nLOOKUP 12 3\nOPEN 1").len(),
            1
        );
        assert_eq!(
            upcalls("# opcode calls errors\nLOOKUP 12\n\nOPEN x 1\n"),
            []
        );
        assert_eq!(
            upcalls("LOOKUP 12 3\n"),
            [],
            "without a heading nobody knows what is what"
        );
        assert_eq!(
            files("opens 12\ncloses_read 5\nbad\nworse x\nmappings 3").len(),
            2
        );
    }

    #[test]
    fn devices_and_requests() {
        let all = devices("# device pid mounted pending outstanding\ncfs0 1234 1 0 2\n");
        assert_eq!(
            all,
            [Device {
                device: "cfs0".into(),
                pid: 1234,
                mounted: true,
                pending: 0,
                outstanding: 2
            }]
        );
        let all = requests(
            "# device unique opcode state age_ms pid fid\n\
             cfs0 77 OPEN_BY_FD outstanding 12 4321 1.2.3.4\n\
             cfs0 78 LOOKUP pending 1234 1 1.2.3.4\n",
        );
        let order: Vec<_> = all.iter().map(|r| r.unique).collect();
        assert_eq!(order, [78, 77]);
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(text in "(#|[a-z_0-9. -]|\n|\\PC){0,300}") {
            upcalls(&text);
            files(&text);
            devices(&text);
            requests(&text);
        }

        #[test]
        fn any_prefix_gives_the_rows_that_are_whole(cut in 0..UPCALLS.len()) {
            let whole = UPCALLS[..cut].matches('\n').count().saturating_sub(1);
            let (read, all) = (upcalls(&UPCALLS[..cut]), upcalls(UPCALLS));
            prop_assert_eq!(&read[..], &all[..whole]);
        }

        #[test]
        fn numbers_come_back(calls: u64, errors: u64, total: u64, counts in proptest::collection::vec(any::<u64>(), 24)) {
            let mut text = String::from("# opcode calls errors given_up total_ns");
            for n in 0..23 {
                text += &format!(" lt_{}us", 1u64 << n);
            }
            text += &format!(" more\nCLOSE {calls} {errors} 0 {total}");
            for n in &counts {
                text += &format!(" {n}");
            }
            text += "\n";
            let all = upcalls(&text);
            prop_assert_eq!(all.len(), 1);
            prop_assert_eq!((all[0].calls, all[0].errors, all[0].total_ns), (calls, errors, total));
            let back: Vec<_> = all[0].latency.iter().map(|b| b.calls).collect();
            prop_assert_eq!(back, counts);
        }
    }
}
