// SPDX-License-Identifier: GPL-2.0

//! How things are written: times, errors, tables and colours.

use anstyle::{AnsiColor, Style};
use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};

/// Standard output, which takes colours away where they are not wanted: in a pipe, with `NO_COLOR`,
/// on a dumb terminal.
pub fn stdout() -> anstream::AutoStream<io::StdoutLock<'static>> {
    anstream::AutoStream::auto(io::stdout().lock())
}

/// Is standard output a terminal?
pub fn on_terminal() -> bool {
    io::stdout().is_terminal()
}

/// What is as it should be.
pub const GOOD: Style = AnsiColor::Green.on_default();
/// What may be none of one's concern.
pub const FAIR: Style = AnsiColor::Yellow.on_default();
/// What is wrong.
pub const BAD: Style = AnsiColor::Red.on_default().bold();
/// What is of less interest.
pub const DIM: Style = Style::new().dimmed();

/// Writes a value as JSON, readable, with a newline.
pub fn json(out: &mut impl Write, value: &impl serde::Serialize) -> io::Result<()> {
    writeln!(out, "{}", escaped(&serde_json::to_string_pretty(value)?))
}

/// Writes a value as JSON in one line.
pub fn json_line(out: &mut impl Write, value: &impl serde::Serialize) -> io::Result<()> {
    writeln!(out, "{}", escaped(&serde_json::to_string(value)?))
}

/// JSON without what a terminal may obey. serde_json escapes what is less than a blank, and leaves
/// the other control characters, of which U+009B begins a sequence like ESC [. They can be in strings
/// alone.
fn escaped(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            '\u{7f}'..='\u{9f}' => {
                // Writing to a string cannot fail.
                let _ = write!(text, "\\u{:04x}", u32::from(c));
            }
            c => text.push(c),
        }
    }
    text
}

/// What came from elsewhere (names of processes and files), fit for a terminal.
pub fn safe(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .collect()
}

/// A time that something took, in three digits.
pub fn short_time(ns: u64) -> String {
    let us = ns as f64 / 1e3;
    let (value, unit) = match ns {
        0..=999 => return format!("{ns} ns"),
        1_000..=999_499 => (us, "us"),
        999_500..=999_499_999 => (us / 1e3, "ms"),
        999_500_000..=99_999_999_999 => (us / 1e6, "s"),
        _ => return long_time(ns / 1_000_000_000),
    };
    let digits = if value < 9.995 {
        2
    } else if value < 99.95 {
        1
    } else {
        0
    };
    format!("{value:.digits$} {unit}")
}

/// Hours, minutes and seconds.
fn long_time(s: u64) -> String {
    match s {
        0..=5_999 => format!("{} min {} s", s / 60, s % 60),
        6_000..=359_999 => format!("{} h {} min", s / 3600, s / 60 % 60),
        _ => format!("{} d {} h", s / 86_400, s / 3600 % 24),
    }
}

/// A kernel's result: `ok`, or the name of the error.
pub fn result(result: i64) -> String {
    if result >= 0 {
        return "ok".to_owned();
    }
    let number = result.unsigned_abs();
    let known = i32::try_from(number)
        .map(nix::errno::Errno::from_raw)
        .unwrap_or(nix::errno::Errno::UnknownErrno);
    match known {
        // What a system call that a signal ends says to the kernel alone.
        _ if (512..=516).contains(&number) => "interrupted".to_owned(),
        nix::errno::Errno::UnknownErrno => format!("error {number}"),
        known => format!("{known:?}"),
    }
}

/// `3 requests`, `1 request`.
pub fn count(n: u64, what: &str) -> String {
    if n == 1 {
        format!("1 {what}")
    } else {
        format!("{n} {what}s")
    }
}

/// Lines up words; columns marked `>` to the right. The last column is not filled up.
pub fn align(columns: &str, rows: &[Vec<String>]) -> Vec<String> {
    let right: Vec<bool> = columns.chars().map(|c| c == '>').collect();
    let width = |n: usize| {
        rows.iter()
            .filter_map(|r| r.get(n))
            .map(|w| w.chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..right.len()).map(width).collect();
    rows.iter()
        .map(|row| {
            let mut line = String::new();
            for (n, word) in row.iter().enumerate() {
                let width = widths.get(n).copied().unwrap_or(0);
                if n > 0 {
                    line += "  ";
                }
                // Writing to a string cannot fail.
                let _ = if right.get(n) == Some(&true) {
                    write!(line, "{word:>width$}")
                } else {
                    write!(line, "{word:<width$}")
                };
            }
            line.truncate(line.trim_end().len());
            line
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        for (ns, text) in [
            (0, "0 ns"),
            (999, "999 ns"),
            (1_000, "1.00 us"),
            (9_994, "9.99 us"),
            (9_995, "10.0 us"),
            (85_400, "85.4 us"),
            (999_499, "999 us"),
            (999_500, "1.00 ms"),
            (123_456_789, "123 ms"),
            (1_500_000_000, "1.50 s"),
            (99_999_999_999, "100 s"),
            (125_000_000_000, "2 min 5 s"),
            (7_380_000_000_000, "2 h 3 min"),
            (u64::MAX, "213503 d 23 h"),
        ] {
            assert_eq!(short_time(ns), text, "{ns}");
        }
    }

    #[test]
    fn results() {
        assert_eq!(result(0), "ok");
        assert_eq!(result(-2), "ENOENT");
        assert_eq!(result(-512), "interrupted");
        assert_eq!(result(-600), "error 600");
        assert_eq!(result(i64::MIN), "error 9223372036854775808");
    }

    #[test]
    fn json_does_nothing_to_a_terminal() {
        let odd = "a\u{1b}[1m\u{7f}\u{80}\u{9b}31m\u{9f}\u{a0}\u{e9}\n";
        let (mut long, mut short) = (Vec::new(), Vec::new());
        json(&mut long, &odd).unwrap();
        json_line(&mut short, &odd).unwrap();
        for out in [long, short] {
            let text = String::from_utf8(out).unwrap();
            assert_eq!(
                text,
                "\"a\\u001b[1m\\u007f\\u0080\\u009b31m\\u009f\u{a0}\u{e9}\\n\"\n"
            );
            // It means the same.
            assert_eq!(serde_json::from_str::<String>(&text).unwrap(), odd);
        }
    }

    #[test]
    fn columns() {
        let rows = [
            vec!["a".into(), "1".into(), "x".into()],
            vec!["bcd".into(), "22".into()],
        ];
        assert_eq!(align("<><", &rows), ["a     1  x", "bcd  22"]);
    }
}
