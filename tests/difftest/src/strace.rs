// SPDX-License-Identifier: GPL-2.0

//! System calls of real programs, as `strace -ff -y` wrote them down.
//!
//! Descriptors, addresses and times of the clock are not the same in two boots;
//! which process makes which call first is not, either. So what counts is how
//! often a call was made with certain arguments and a certain result, if it is
//! about a path below the mount or relative to it.

use anyhow::{Context, Result};
use regex::Regex;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// How often each call was made.
#[derive(Debug, Default)]
pub struct Calls(BTreeMap<String, usize>);

/// What takes out of a line what is different in every boot.
struct Washer(Vec<(Regex, &'static str)>);

impl Washer {
    fn new() -> Result<Self> {
        let rules = [
            // 3</coda/f>, the path of a descriptor.
            (r"\b\d+</", "</"),
            (r"0x[0-9a-f]{6,}", "ADDRESS"),
            (r"\b[1-9]\d{9}\b", "TIME"),
            (r"tv_nsec=\d+", "tv_nsec=N"),
            // The memory of a machine, if a tmpfs is behind it.
            (r"\bf_(blocks|bfree|bavail|files|ffree)=\d+", "f_$1=N"),
            (r"\b(pid|tid|st_ino|st_dev|d_ino|l_pid)=[^,}]+", "$1=N"),
        ];
        let compiled: Result<_, regex::Error> = rules
            .into_iter()
            .map(|(pattern, to)| Ok((Regex::new(pattern)?, to)))
            .collect();
        Ok(Washer(compiled?))
    }

    fn wash(&self, line: &str) -> String {
        let mut line = line.to_owned();
        for (pattern, to) in &self.0 {
            line = pattern.replace_all(&line, *to).into_owned();
        }
        line
    }
}

/// Whether a call is about our file system: a path of it, or one relative to
/// the directory that the program started in.
fn concerns_us(line: &str) -> bool {
    let Some((_, arguments)) = line.split_once('(') else {
        return false;
    };
    let path = arguments.split('"').nth(1);
    match path {
        // An absolute path does not care for the directory before it.
        Some(path) if path.starts_with('/') => path == "/coda" || path.starts_with("/coda/"),
        // The old calls have no directory before a relative one.
        Some(_) if arguments.starts_with('"') => true,
        _ => arguments.contains("</coda/") || arguments.contains("</coda>"),
    }
}

impl Calls {
    /// Reads every file of a directory; `same` is applied to each line.
    pub fn read(dir: &Path, same: &dyn Fn(&str) -> String) -> Result<Self> {
        let washer = Washer::new()?;
        let mut calls = Calls::default();
        for entry in fs::read_dir(dir).with_context(|| dir.display().to_string())? {
            let text = String::from_utf8_lossy(&fs::read(entry?.path())?).into_owned();
            for line in text.lines().filter(|l| concerns_us(l)) {
                *calls.0.entry(washer.wash(&same(line))).or_default() += 1;
            }
        }
        Ok(calls)
    }

    /// How many calls there are.
    pub fn len(&self) -> usize {
        self.0.values().sum()
    }

    /// How `ours` is different, in words.
    pub fn differences(&self, ours: &Calls) -> Vec<String> {
        let mut all = Vec::new();
        let mut add = |who: &str, line: &str, count: usize| {
            all.extend((0..count).map(|_| format!("{who} alone: {line}")));
        };
        for (line, &count) in &self.0 {
            let other = ours.0.get(line).copied().unwrap_or(0);
            add("C", line, count.saturating_sub(other));
            add("ours", line, other.saturating_sub(count));
        }
        for (line, &count) in &ours.0 {
            if !self.0.contains_key(line) {
                add("ours", line, count);
            }
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn calls(lines: &str) -> Calls {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("st.7"), lines).unwrap();
        Calls::read(dir.path(), &|line| line.replace("tmp_123", "tmp_X")).unwrap()
    }

    #[test]
    fn numbers_of_a_boot_do_not_count() {
        let a = calls("read(3</coda/f>, \"\"..., 4096) = 10\nmkdir(\"tmp_123\", 0777) = 0\n");
        let b = calls("read(5</coda/f>, \"\"..., 4096) = 10\nmkdir(\"tmp_X\", 0777) = 0\n");
        assert_eq!(a.len(), 2);
        assert_eq!(a.differences(&b), [""; 0]);
        let other = calls("read(5</coda/f>, \"\"..., 4096) = 9\nmkdir(\"tmp_X\", 0777) = 0\n");
        assert_eq!(a.differences(&other).len(), 2);
    }

    #[test]
    fn others_are_left_alone() {
        assert!(concerns_us("unlink(\"f\") = 0"));
        assert!(concerns_us(
            "openat(AT_FDCWD</coda/x>, \"f\", O_RDONLY) = 3</coda/x/f>"
        ));
        assert!(concerns_us("fstat(3</coda/f>, {}) = 0"));
        assert!(!concerns_us("unlink(\"/tmp/f\") = 0"));
        assert!(!concerns_us(
            "openat(AT_FDCWD</coda/x>, \"/proc/self\", 0) = 3</proc/1>"
        ));
        assert!(!concerns_us("+++ exited with 0 +++"));
    }
}
