// SPDX-License-Identifier: GPL-2.0

//! The same cases, for a person to read.

use coda_proto::FlagWord;
use ktest::{Row, Suite};
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

fn modified(row: &Row) -> &'static str {
    match row["verdict"].as_str() {
        Some("Clean") => "no",
        Some("Modified") => "yes",
        Some("Both") => "no, yes",
        Some("NoWriter") => "-",
        _ => match words(&row["expected"]).iter().all(|w| w & 0x400 != 0) {
            true => "no",
            false => "yes",
        },
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
        let got = words(&row["got"]);
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
        let first = got
            .first()
            .map(|&w| (format!("{w:#05x}"), FlagWord(w).to_string()));
        let (word, decoded) = first.unwrap_or(("none".into(), "no close came".into()));
        println!(
            "{group:<6} {what:<WHAT$} {:<8} {word:<7} {decoded:<32} {verdict}",
            modified(&row)
        );
        for w in got.iter().skip(1) {
            println!(
                "{:<6} {:<WHAT$} {:<8} {:<7} {}",
                "",
                "",
                "",
                format!("{w:#05x}"),
                FlagWord(*w)
            );
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
