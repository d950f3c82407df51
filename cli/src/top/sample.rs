// SPDX-License-Identifier: GPL-2.0

//! What `top` shows: two looks at the module's counters, and what happened between them.

use crate::proc::{self, Hidden};
use crate::root::Root;
use crate::table::{self, Bucket, Device, Request, Upcall};
use clap::ValueEnum;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// One look.
#[derive(Clone, Debug)]
pub struct Sample {
    /// When.
    pub at: Instant,
    /// By opcode.
    pub upcalls: Vec<Upcall>,
    /// By name.
    pub files: BTreeMap<String, u64>,
    /// Those that are open.
    pub devices: Vec<Device>,
    /// The oldest first.
    pub requests: Vec<Request>,
}

impl Sample {
    /// Looks.
    pub fn take(root: &Root) -> Result<Self, Hidden> {
        let at = Instant::now();
        Ok(Self {
            at,
            upcalls: table::upcalls(&proc::debugfs(root, "upcalls")?),
            files: table::files(&proc::debugfs(root, "files")?),
            devices: table::devices(&proc::debugfs(root, "devices")?),
            requests: table::requests(&proc::debugfs(root, "requests")?),
        })
    }
}

/// A bound on a latency, from a histogram.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Bound {
    /// Less than so many microseconds.
    Below(u64),
    /// At least so many.
    AtLeast(u64),
}

/// Below which bound are `percent` of what the histogram counts? The bucket is all that is known.
pub fn percentile(latency: &[Bucket], percent: u64) -> Option<Bound> {
    let total: u128 = latency.iter().map(|b| u128::from(b.calls)).sum();
    let wanted = (total * u128::from(percent)).div_ceil(100).max(1);
    let mut sofar = 0;
    let mut last = 0;
    for bucket in latency {
        sofar += u128::from(bucket.calls);
        if sofar >= wanted {
            return Some(bucket.below_us.map_or(Bound::AtLeast(last), Bound::Below));
        }
        last = bucket.below_us.unwrap_or(last);
    }
    None
}

/// What happened to one kind of upcall.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// The protocol's name without `CODA_`.
    pub opcode: String,
    /// How many were over.
    pub calls: u64,
    /// How many of them each second; nothing where there is no time to count by.
    pub rate: Option<f64>,
    /// Answered with an error.
    pub errors: u64,
    /// Not answered.
    pub given_up: u64,
    /// On the average.
    pub mean_ns: Option<u64>,
    /// Half of them.
    pub p50: Option<Bound>,
    /// All but one in a hundred.
    pub p99: Option<Bound>,
    /// All.
    pub max: Option<Bound>,
    /// All that were over since the module was loaded.
    pub total: u64,
}

/// What happened between two looks, or since the module was loaded.
#[derive(Clone, Debug)]
pub struct Change {
    /// How long it was; nothing if it is since the module was loaded.
    pub during: Option<Duration>,
    /// By opcode.
    pub rows: Vec<Row>,
    /// By name.
    pub files: BTreeMap<String, u64>,
}

/// The difference of two histograms, by bound.
fn buckets(new: &[Bucket], old: &[Bucket]) -> Vec<Bucket> {
    new.iter()
        .map(|b| {
            let before = old.iter().find(|o| o.below_us == b.below_us);
            Bucket {
                below_us: b.below_us,
                calls: b.calls.saturating_sub(before.map_or(0, |o| o.calls)),
            }
        })
        .collect()
}

impl Change {
    /// From `old` to `new`. If a counter went back, the module was loaded anew: then all of it is new.
    pub fn between(old: Option<&Sample>, new: &Sample) -> Self {
        let went_back = old.is_some_and(|old| {
            old.upcalls.iter().any(|before| {
                new.upcalls
                    .iter()
                    .find(|u| u.opcode == before.opcode)
                    .is_none_or(|now| now.calls < before.calls)
            })
        });
        let during = old.map(|old| new.at.saturating_duration_since(old.at));
        let old = old.filter(|_| !went_back);
        let rows = new
            .upcalls
            .iter()
            .map(|now| {
                let before = old.and_then(|o| o.upcalls.iter().find(|u| u.opcode == now.opcode));
                let since = |of: fn(&Upcall) -> u64| of(now).saturating_sub(before.map_or(0, of));
                let calls = since(|u| u.calls);
                let latency = buckets(&now.latency, before.map_or(&[], |b| &b.latency));
                Row {
                    opcode: now.opcode.clone(),
                    calls,
                    rate: during
                        .map(|d| d.as_secs_f64())
                        .filter(|s| *s > 0.0)
                        .map(|s| calls as f64 / s),
                    errors: since(|u| u.errors),
                    given_up: since(|u| u.given_up),
                    mean_ns: since(|u| u.total_ns).checked_div(calls),
                    p50: percentile(&latency, 50),
                    p99: percentile(&latency, 99),
                    max: percentile(&latency, 100),
                    total: now.calls,
                }
            })
            .collect();
        let files = new
            .files
            .iter()
            .map(|(name, now)| {
                let before = old.and_then(|o| o.files.get(name)).copied().unwrap_or(0);
                (name.clone(), now.saturating_sub(before))
            })
            .collect();
        Self {
            during,
            rows,
            files,
        }
    }

    /// Sorts the rows; of those that are alike the one with more calls so far is first.
    pub fn sort(&mut self, by: Key, backwards: bool) {
        self.rows.sort_by(|a, b| {
            let order = match by {
                Key::Opcode => a.opcode.cmp(&b.opcode),
                Key::Rate => b.calls.cmp(&a.calls),
                Key::Errors => b.errors.cmp(&a.errors),
                Key::GivenUp => b.given_up.cmp(&a.given_up),
                Key::Mean => b.mean_ns.cmp(&a.mean_ns),
                Key::P50 => b.p50.cmp(&a.p50),
                Key::P99 => b.p99.cmp(&a.p99),
                Key::Max => b.max.cmp(&a.max),
                Key::Total => b.total.cmp(&a.total),
            };
            let order = if backwards { order.reverse() } else { order };
            order
                .then(b.total.cmp(&a.total))
                .then(a.opcode.cmp(&b.opcode))
        });
    }
}

/// What rows are sorted by: their columns, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Key {
    /// By name
    Opcode,
    /// Most calls first
    Rate,
    /// Most errors first
    Errors,
    /// Most without an answer first
    GivenUp,
    /// Longest mean first
    Mean,
    /// Longest median first
    P50,
    /// Longest 99th percentile first
    P99,
    /// Longest maximum first
    Max,
    /// Most calls since the module was loaded first
    Total,
}

impl Key {
    /// In the order of the columns.
    pub const ALL: [Key; 9] = [
        Key::Opcode,
        Key::Rate,
        Key::Errors,
        Key::GivenUp,
        Key::Mean,
        Key::P50,
        Key::P99,
        Key::Max,
        Key::Total,
    ];

    /// The column `by` to the right of this one.
    pub fn step(self, by: isize) -> Self {
        let here = Self::ALL.iter().position(|k| *k == self).unwrap_or(0);
        let there = here.saturating_add_signed(by).min(Self::ALL.len() - 1);
        Self::ALL[there]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample(at: Instant, upcalls: &str, files: &str) -> Sample {
        Sample {
            at,
            upcalls: table::upcalls(upcalls),
            files: table::files(files),
            devices: Vec::new(),
            requests: Vec::new(),
        }
    }

    const HEAD: &str = "# opcode calls errors given_up total_ns lt_1us lt_2us lt_4us more\n";

    #[test]
    fn between_two_looks() {
        let at = Instant::now();
        let old = sample(
            at,
            &format!("{HEAD}OPEN 10 1 0 5000 10 0 0 0\n"),
            "opens 3\n",
        );
        let new = sample(
            at + Duration::from_secs(2),
            &format!("{HEAD}OPEN 20 3 1 25000 12 3 4 1\nCLOSE 4 0 0 4000 0 4 0 0\n"),
            "opens 10\nmappings 2\n",
        );
        let mut change = Change::between(Some(&old), &new);
        change.sort(Key::Rate, false);
        assert_eq!(change.rows[0].opcode, "OPEN");
        assert_eq!(
            change.rows[0],
            Row {
                opcode: "OPEN".into(),
                calls: 10,
                rate: Some(5.0),
                errors: 2,
                given_up: 1,
                mean_ns: Some(2000),
                p50: Some(Bound::Below(2)),
                p99: Some(Bound::AtLeast(4)),
                max: Some(Bound::AtLeast(4)),
                total: 20,
            }
        );
        assert_eq!(change.rows[1].calls, 4);
        assert_eq!(change.rows[1].p99, Some(Bound::Below(2)));
        assert_eq!(change.files["opens"], 7);
        change.sort(Key::Rate, true);
        assert_eq!(change.rows[0].opcode, "CLOSE");
        change.sort(Key::Opcode, false);
        assert_eq!(change.rows[0].opcode, "CLOSE");
    }

    #[test]
    fn a_module_that_was_loaded_anew() {
        let at = Instant::now();
        let old = sample(
            at,
            &format!("{HEAD}OPEN 10 1 0 5000 10 0 0 0\n"),
            "opens 3\n",
        );
        let new = sample(
            at + Duration::from_secs(1),
            &format!("{HEAD}OPEN 4 0 0 400 4 0 0 0\n"),
            "opens 4\n",
        );
        let change = Change::between(Some(&old), &new);
        assert_eq!(
            (change.rows[0].calls, change.rows[0].mean_ns),
            (4, Some(100))
        );
        assert_eq!(change.files["opens"], 4);
        let none = sample(at + Duration::from_secs(1), HEAD, "");
        assert!(Change::between(Some(&old), &none).rows.is_empty());
    }

    #[test]
    fn nothing_happened() {
        let at = Instant::now();
        let one = sample(at, &format!("{HEAD}OPEN 10 1 0 5000 10 0 0 0\n"), "");
        let row = Change::between(Some(&one), &one).rows.remove(0);
        assert_eq!(
            (row.calls, row.rate, row.mean_ns, row.p99),
            (0, None, None, None)
        );
        assert_eq!(Change::between(None, &one).rows[0].mean_ns, Some(500));
    }

    #[test]
    fn keys() {
        assert_eq!(Key::Rate.step(1), Key::Errors);
        assert_eq!(Key::Opcode.step(-1), Key::Opcode);
        assert_eq!(Key::Total.step(1), Key::Total);
    }

    proptest! {
        #[test]
        fn percentiles_bound(counts in proptest::collection::vec(0u64.., 1..24), percent in 0u64..=100) {
            let latency: Vec<Bucket> = counts
                .iter()
                .enumerate()
                .map(|(n, calls)| Bucket {
                    below_us: (n + 1 < counts.len() || n == 0).then(|| 1 << n),
                    calls: *calls,
                })
                .collect();
            let total: u128 = counts.iter().map(|c| u128::from(*c)).sum();
            match percentile(&latency, percent) {
                None => prop_assert_eq!(total, 0),
                Some(bound) => {
                    // Below the bound are at least as many as were asked for, below the one before fewer.
                    let at = latency
                        .iter()
                        .position(|b| match bound {
                            Bound::Below(us) => b.below_us == Some(us),
                            Bound::AtLeast(_) => b.below_us.is_none(),
                        })
                        .unwrap();
                    let below: u128 = counts[..=at].iter().map(|c| u128::from(*c)).sum();
                    let before: u128 = counts[..at].iter().map(|c| u128::from(*c)).sum();
                    prop_assert!(below * 100 >= total * u128::from(percent));
                    prop_assert!(before * 100 < total * u128::from(percent) || percent == 0 || before == 0);
                }
            }
        }

        #[test]
        fn any_two_looks(a in "[0-9 OPENCLS\n]{0,80}", b in "[0-9 OPENCLS\n]{0,80}") {
            let at = Instant::now();
            let (old, new) = (sample(at, &format!("{HEAD}{a}"), &a), sample(at, &format!("{HEAD}{b}"), &b));
            for key in Key::ALL {
                Change::between(Some(&old), &new).sort(key, true);
            }
        }
    }
}
