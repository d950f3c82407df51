// SPDX-License-Identifier: GPL-2.0

//! The same cases, for a person to read.

use coda_proto::{C_O_NO_WRITES, C_O_WRITE, FlagWord};
use ktest::Suite;
use serde_json::Value;
use std::process::ExitCode;

fn words(value: &Value) -> Vec<u32> {
    let numbers = value.as_array().map(Vec::as_slice).unwrap_or_default();
    numbers
        .iter()
        .filter_map(Value::as_u64)
        .map(|n| n as u32)
        .collect()
}

/// Whether the file was modified, as a close with this word has to see it.
fn modified(word: Option<&u32>) -> &'static str {
    match word {
        Some(w) if w & C_O_NO_WRITES != 0 => "no",
        Some(w) if w & C_O_WRITE != 0 => "yes",
        _ => "-",
    }
}

/// Runs the suite and prints a line for each case.
pub fn print(suite: Suite) -> ExitCode {
    const WHAT: usize = 58;
    println!(
        "{:<6} {:<WHAT$} {:<8} {:<7} {:<32} verdict",
        "on", "what the program did", "modified", "flags", "CODA_CLOSE said"
    );
    println!(
        "{}",
        "-".repeat(6 + 1 + WHAT + 1 + 8 + 1 + 7 + 1 + 32 + 1 + 7)
    );
    let (mut lines, mut bad, mut skipped) = (0, 0, 0);
    let done = suite.run_for_table(|group, what, rows, outcome| {
        lines += 1;
        let row = rows.first().cloned().unwrap_or_default();
        let (expected, got) = (words(&row["expected"]), words(&row["got"]));
        let verdict = match &outcome {
            Ok(()) => "ok",
            Err(why) if why.starts_with("SKIP ") => {
                skipped += 1;
                "skipped"
            }
            Err(_) => {
                bad += 1;
                "WRONG"
            }
        };
        // A case has several closes now and then; each gets a line.
        for n in 0..got.len().max(1) {
            let (word, decoded) = match got.get(n) {
                Some(&w) => (format!("{w:#05x}"), FlagWord(w).to_string()),
                None => ("none".into(), "no close came".into()),
            };
            let (group, what, verdict) = match n {
                0 => (group, what, verdict),
                _ => ("", "", ""),
            };
            let line = format!(
                "{group:<6} {what:<WHAT$} {:<8} {word:<7} {decoded:<32} {verdict}",
                modified(expected.get(n))
            );
            println!("{}", line.trim_end());
        }
        if let Err(why) = outcome {
            why.lines().for_each(|line| println!("       {line}"));
        }
    });
    match done {
        Ok(()) => println!(
            "\n{lines} cases: {} as they should be, {bad} wrong, {skipped} skipped",
            lines - bad - skipped
        ),
        Err(e) => {
            println!("\nstopped: {e:#}");
            bad += 1;
        }
    }
    match bad {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}
