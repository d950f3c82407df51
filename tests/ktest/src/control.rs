// SPDX-License-Identifier: GPL-2.0

//! Negative controls: runs in which certain cases have to fail.
//!
//! A test proves nothing if it cannot fail. So the same programs are run
//! against the stock C module, and against a build whose mmap wrapper does
//! nothing, with `CODA_CONTROL` naming the list of what must come out
//! differently there. The list is a file beside the programs; see its head for
//! the form.

use anyhow::{Context, Result, bail};
use std::fs;

/// What a case has to do in a control.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expectation {
    /// Fail.
    Fail,
    /// Not even be run.
    NotRun,
    /// Either, for what depends on a race.
    Any,
}

#[derive(Debug)]
struct Line {
    number: usize,
    pattern: String,
    expectation: Expectation,
    reason: String,
    used: bool,
}

/// The list for one program.
#[derive(Debug)]
pub struct Control {
    /// Which control this is.
    pub name: String,
    lines: Vec<Line>,
}

impl Control {
    /// Reads the list that `CODA_CONTROL` names, if it does.
    pub fn from_env(program: &str) -> Result<Option<Self>> {
        let Ok(name) = std::env::var("CODA_CONTROL") else {
            return Ok(None);
        };
        let exe = std::env::current_exe()?;
        let path = exe.with_file_name(format!("control-{name}.list"));
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        Ok(Some(Control {
            name,
            lines: parse(&text, program).with_context(|| path.display().to_string())?,
        }))
    }

    /// What the list says about a case: the first line that fits.
    pub fn look_up(&mut self, case: &str, tags: &[&str]) -> Option<(Expectation, String)> {
        let line = self
            .lines
            .iter_mut()
            .find(|l| fits(&l.pattern, case, tags))?;
        line.used = true;
        Some((line.expectation, line.reason.clone()))
    }

    /// Lines that were about nothing: a list that has gone stale.
    pub fn unused(&self) -> Vec<String> {
        self.lines
            .iter()
            .filter(|l| !l.used)
            .map(|l| format!("line {}: {}", l.number, l.pattern))
            .collect()
    }
}

fn parse(text: &str, program: &str) -> Result<Vec<Line>> {
    let mut lines = Vec::new();
    for (index, line) in text.lines().enumerate() {
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        let mut words = line.splitn(4, char::is_whitespace);
        let (Some(whose), Some(pattern), Some(what), Some(reason)) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            bail!("line {}: a program, a case, a word, a reason", index + 1);
        };
        let expectation = match what {
            "fail" => Expectation::Fail,
            "notrun" => Expectation::NotRun,
            "any" => Expectation::Any,
            other => bail!("line {}: {other}?", index + 1),
        };
        if whose == program {
            lines.push(Line {
                number: index + 1,
                pattern: pattern.to_owned(),
                expectation,
                reason: reason.trim().to_owned(),
                used: false,
            });
        }
    }
    Ok(lines)
}

fn fits(pattern: &str, case: &str, tags: &[&str]) -> bool {
    match pattern.strip_prefix('@') {
        Some(tag) => tags.contains(&tag),
        None => glob(pattern.as_bytes(), case.as_bytes()),
    }
}

/// `*` stands for anything.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    match pattern.split_first() {
        None => text.is_empty(),
        Some((b'*', rest)) => (0..=text.len()).any(|n| glob(rest, &text[n..])),
        Some((c, rest)) => text.first() == Some(c) && glob(rest, &text[1..]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_stand_for_anything() {
        assert!(glob(b"*.write", b"tmpfs.write"));
        assert!(!glob(b"*.write", b"tmpfs.write_twice"));
        assert!(glob(b"a*b*c", b"a-b-b-c"));
        assert!(glob(b"*", b""));
    }

    #[test]
    fn lines_are_for_one_program() {
        let text = "# head\n\none a.* fail it cannot\ntwo @tag notrun it would oops\n";
        let lines = parse(text, "two").unwrap();
        assert_eq!(lines.len(), 1);
        assert_eq!(lines[0].expectation, Expectation::NotRun);
        assert_eq!(lines[0].reason, "it would oops");
        assert!(fits(&lines[0].pattern, "x", &["tag"]));
        assert!(parse("one two", "one").is_err());
    }
}
