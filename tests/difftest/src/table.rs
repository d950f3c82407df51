// SPDX-License-Identifier: GPL-2.0

//! The differences that are known, out of Documentation/differences.rst.
//!
//! Every row of a `list-table` there whose first cell is a literal counts. That cell is what a
//! difference looks like, with `*` for anything; the second one names the programs in which it may be
//! seen, literals with `*` again and commas between them. What follows is for people. A row is
//!
//! ```text
//!    * - ``PATTERN``
//!      - ``PROGRAM``, ``PROGRAM``
//!      - the reason, on as many lines
//!        as it takes
//! ```

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
        for (number, cells) in list_rows(text) {
            // Headings, and tables of something else.
            let Some(pattern) = cells[0].strip_prefix("``") else {
                continue;
            };
            let Some(pattern) = pattern.strip_suffix("``") else {
                bail!("line {number}: the pattern does not end");
            };
            let [_, scenarios, reason] = &cells[..] else {
                bail!("line {number}: a pattern, programs, a reason");
            };
            if reason.is_empty() {
                bail!("line {number}: no reason");
            }
            let mut matchers = Vec::new();
            for scenario in scenarios.split(',') {
                let scenario = scenario.trim();
                let name = scenario
                    .strip_prefix("``")
                    .and_then(|s| s.strip_suffix("``"));
                let Some(name) = name.filter(|name| !name.is_empty()) else {
                    bail!("line {number}: {scenario:?} is no program");
                };
                matchers.push(WildMatch::new(name));
            }
            rows.push(Row {
                pattern: pattern.to_owned(),
                matcher: WildMatch::new(pattern),
                scenarios: matchers,
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

/// The rows of all list-tables: the number of the line that each begins in, and its cells, of which
/// there is at least one.
fn list_rows(text: &str) -> Vec<(usize, Vec<String>)> {
    let mut rows: Vec<(usize, Vec<String>)> = Vec::new();
    let mut in_row = false;
    for (number, line) in text.lines().enumerate() {
        let line = line.trim_end();
        if let Some(cell) = line.strip_prefix("   * -") {
            rows.push((number + 1, vec![cell.trim().to_owned()]));
            in_row = true;
            continue;
        }
        let Some((_, cells)) = rows.last_mut().filter(|_| in_row) else {
            continue;
        };
        if let Some(cell) = line.strip_prefix("     -") {
            cells.push(cell.trim().to_owned());
        } else if let Some(more) = line.strip_prefix("       ") {
            let cell = cells.last_mut().expect("a row has a cell");
            cell.push(' ');
            cell.push_str(more.trim());
        } else {
            // The table has ended.
            in_row = false;
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "
Heading
=======

.. list-table::
   :header-rows: 1

   * - difference
     - programs
     - why
   * - ``C alone: ACCESS_INTENT *_FINISH *``
     - ``*``
     - fault 8
   * - ``open: C EIO, ours *``
     - ``ops*``,
       ``kselftest``
     - fault 4, which
       is a long one

   * - no row of a difference

Text - with a dash.
";

    #[test]
    fn rows_are_found() {
        let mut table = Table::parse(TEXT).unwrap();
        assert_eq!(table.rows.len(), 2);
        assert_eq!(
            table.knows("x", "C alone: ACCESS_INTENT READ_FINISH f"),
            Some(0)
        );
        assert_eq!(table.knows("ops-7", "open: C EIO, ours EACCES"), Some(1));
        assert_eq!(table.knows("kselftest", "open: C EIO, ours 0"), Some(1));
        assert_eq!(table.knows("git", "open: C EIO, ours EACCES"), None);
        assert_eq!(table.knows("git", "anything"), None);
        assert_eq!(table.unused().count(), 0);
    }

    #[test]
    fn a_reason_is_wanted() {
        let row = |cells: [&str; 3]| {
            let [pattern, programs, reason] = cells;
            Table::parse(&format!(
                "   * - {pattern}\n     - {programs}\n     - {reason}\n"
            ))
        };
        assert!(row(["``x``", "``*``", "because"]).is_ok());
        assert!(row(["``x``", "``*``", ""]).is_err());
        assert!(row(["``x", "``*``", "because"]).is_err());
        assert!(row(["``x``", "*", "because"]).is_err());
        assert!(row(["``x``", "``git``, ``", "because"]).is_err());
        assert!(row(["x", "``*``", "because"]).is_err());
        assert!(Table::parse("   * - ``x``\n     - ``*``\n").is_err());
        assert!(Table::parse("no table").is_err());
    }

    /// The document itself, against what is in it beyond doubt: each row begins with a literal.
    #[test]
    fn the_document_is_read_whole() {
        let text = include_str!("../../../Documentation/differences.rst");
        let table = Table::parse(text).unwrap();
        let begun = text.lines().filter(|line| line.starts_with("   * - ``"));
        assert_eq!(table.rows.len(), begun.count());
    }
}
