// SPDX-License-Identifier: GPL-2.0

//! The differences that are known, out of Documentation/differences.rst.
//!
//! Every row of a table there whose first cell is in backquotes counts. That
//! cell is what a difference looks like, with `*` for anything; the second one
//! names the programs in which it may be seen, with `*` again and commas. What
//! follows is for people.

use anyhow::{Result, bail};
use std::collections::BTreeMap;
use wildmatch::WildMatch;

/// A row.
#[derive(Debug)]
struct Row {
    pattern: String,
    matcher: WildMatch,
    scenarios: Vec<WildMatch>,
}

/// All rows.
#[derive(Debug)]
pub struct Table {
    rows: Vec<Row>,
    /// How often each was needed.
    used: BTreeMap<usize, usize>,
}

impl Table {
    /// Reads them out of the document.
    pub fn parse(text: &str) -> Result<Self> {
        let mut rows = Vec::new();
        for (number, line) in text.lines().enumerate() {
            let Some(cells) = line.trim().strip_prefix("| `") else {
                continue;
            };
            let Some((pattern, rest)) = cells.split_once("` |") else {
                bail!("line {}: the pattern does not end", number + 1);
            };
            let cells: Vec<&str> = rest.trim_end_matches('|').split('|').collect();
            let [scenarios, reason, ..] = cells[..] else {
                bail!("line {}: a pattern, programs, a reason", number + 1);
            };
            if reason.trim().is_empty() {
                bail!("line {}: no reason", number + 1);
            }
            rows.push(Row {
                pattern: pattern.to_owned(),
                matcher: WildMatch::new(pattern),
                scenarios: scenarios
                    .split(',')
                    .map(|s| WildMatch::new(s.trim()))
                    .collect(),
            });
        }
        if rows.is_empty() {
            bail!("there is no row in it");
        }
        Ok(Table {
            rows,
            used: BTreeMap::new(),
        })
    }

    /// Whether a difference is in the table; the first row that fits counts.
    pub fn knows(&mut self, scenario: &str, difference: &str) -> Option<usize> {
        let row = self.rows.iter().position(|row| {
            row.scenarios.iter().any(|s| s.matches(scenario)) && row.matcher.matches(difference)
        })?;
        *self.used.entry(row).or_default() += 1;
        Some(row)
    }

    /// What a row looks for.
    pub fn pattern(&self, row: usize) -> &str {
        &self.rows[row].pattern
    }

    /// Rows that nothing has needed.
    pub fn unused(&self) -> impl Iterator<Item = &str> {
        let unused = |&(row, _): &(usize, &Row)| !self.used.contains_key(&row);
        let rows = self.rows.iter().enumerate().filter(unused);
        rows.map(|(_, row)| row.pattern.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "
# Heading

| difference | programs | why |
|---|---|---|
| `C alone: ACCESS_INTENT *_FINISH *` | * | fault 8 |
| `open: C EIO, ours *` | ops*, kselftest | fault 4 |
";

    #[test]
    fn rows_are_found() {
        let mut table = Table::parse(TEXT).unwrap();
        assert_eq!(
            table.knows("x", "C alone: ACCESS_INTENT READ_FINISH f"),
            Some(0)
        );
        assert_eq!(table.knows("ops-7", "open: C EIO, ours EACCES"), Some(1));
        assert_eq!(table.knows("git", "open: C EIO, ours EACCES"), None);
        assert_eq!(table.knows("git", "anything"), None);
        assert_eq!(table.unused().count(), 0);
    }

    #[test]
    fn a_reason_is_wanted() {
        assert!(Table::parse("| `x` | * | |").is_err());
        assert!(Table::parse("| `x | * | because |").is_err());
        assert!(Table::parse("no table").is_err());
    }
}
