// SPDX-License-Identifier: GPL-2.0

//! In which functions of the kernel the instructions of an operation are.

use anyhow::{Context, Result};
use rustc_demangle::demangle;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

/// How many functions of an operation are shown.
const SHOWN: usize = 60;

/// For one operation: how many instructions of a function.
type Functions = BTreeMap<String, f64>;

/// What a guest has printed, and its plugin counted: by operation and place.
struct Profile(BTreeMap<(String, String), Functions>);

impl Profile {
    fn read(results: &Path, name: &str) -> Result<Self> {
        let path = results.join(name);
        let read =
            |path: &Path| fs::read_to_string(path).with_context(|| path.display().to_string());
        let text = read(&path)?;
        let symbols = symbols(&text)?;
        let mut all = BTreeMap::new();
        let lines = text
            .lines()
            .filter_map(|line| line.strip_prefix("profile "));
        for (number, line) in lines.enumerate() {
            let words: Vec<_> = line.split_whitespace().collect();
            let [operation, place, times] = words.as_slice() else {
                continue;
            };
            let times: f64 = times.parse().with_context(|| line.to_owned())?;
            if times == 0.0 {
                continue;
            }
            let mut functions = Functions::new();
            for line in read(&results.join(format!("{name}.{number}")))?.lines() {
                let (address, count) = line.split_once(' ').context("a line of counts")?;
                let address = u64::from_str_radix(address, 16)?;
                let count: f64 = count.parse()?;
                let function = symbols.range(..=address).next_back();
                let function = function.map_or("?", |(_, name)| name);
                *functions.entry(function.to_owned()).or_default() += count / times;
            }
            all.insert(((*operation).to_owned(), (*place).to_owned()), functions);
        }
        Ok(Profile(all))
    }

    fn at(&self, operation: &str, place: &str) -> Option<&Functions> {
        self.0.get(&(operation.to_owned(), place.to_owned()))
    }
}

/// Names by address.
fn symbols(text: &str) -> Result<BTreeMap<u64, String>> {
    let lines = text.lines().filter_map(|line| line.strip_prefix("symbol "));
    lines
        .map(|line| {
            let (address, name) = line.split_once(' ').context("a symbol")?;
            // Without the hash that tells crates of the same name from each other.
            let name = format!("{:#}", demangle(name));
            Ok((u64::from_str_radix(address, 16)?, name))
        })
        .collect()
}

/// A table for each operation: those functions first in which the two modules differ most.
pub fn report(results: &Path, kernel: &str) -> Result<String> {
    let (c, ours) = (
        Profile::read(results, "profile-c")?,
        Profile::read(results, "profile-ours")?,
    );
    let operations: BTreeSet<_> = ours.0.keys().map(|(operation, _)| operation).collect();
    let nothing = Functions::new();
    let mut text = format!(
        "Instructions of {kernel} for one operation, the cache manager's system calls among them\n"
    );
    for operation in operations {
        let of = |profile: &Profile, place| profile.at(operation, place).cloned();
        let [c, ours, bare] = [of(&c, "coda"), of(&ours, "coda"), of(&ours, "bare")];
        let all = [&c, &ours, &bare].map(|functions| functions.as_ref().unwrap_or(&nothing));
        let get = |name: &str| all.map(|functions| functions.get(name).copied().unwrap_or(0.0));
        let sums = all.map(|functions| functions.values().sum::<f64>());
        writeln!(
            text,
            "\n{:>8} {:>8} {:>8}  {operation}",
            "C", "coda_rs", "bare"
        )?;
        writeln!(
            text,
            "{:>8.0} {:>8.0} {:>8.0}  in all",
            sums[0], sums[1], sums[2]
        )?;
        let names: BTreeSet<_> = all.iter().flat_map(|functions| functions.keys()).collect();
        let mut names: Vec<_> = names.into_iter().collect();
        names.sort_by(|one, other| {
            let differs = |name: &str| {
                let [c, ours, _] = get(name);
                ((c - ours).abs(), ours)
            };
            let (one, other) = (differs(one), differs(other));
            other.partial_cmp(&one).unwrap_or(std::cmp::Ordering::Equal)
        });
        for name in names.iter().take(SHOWN) {
            let [c, ours, bare] = get(name);
            writeln!(text, "{c:>8.0} {ours:>8.0} {bare:>8.0}  {name}")?;
        }
    }
    Ok(text)
}
