// SPDX-License-Identifier: GPL-2.0

//! Completions and manual pages, for packages to be built with.

use crate::cli::Cli;
use anyhow::{Context, Result};
use clap::{Command, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;
use roff::{Roff, bold, roman};
use std::fs;
use std::io::{self, Write};
use std::path::Path;

/// The section of commands for administrators.
const SECTION: &str = "8";

/// Prints completions.
pub fn completions(shell: Shell) -> Result<()> {
    // The generator panics where it cannot write.
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "coda-rs", &mut text);
    let mut out = io::stdout().lock();
    out.write_all(&text)?;
    out.flush()?;
    Ok(())
}

/// What the options do not tell, by the name of the subcommand: headings, and what is under them.
fn more(name: &str) -> &'static [(&'static str, &'static [(&'static str, &'static str)])] {
    const STATUS: (&str, &str) = ("0", "It could be told.");
    const FAILED: (&str, &str) = ("1", "It could not; standard error says why.");
    const USAGE: (&str, &str) = ("2", "There is no such option.");
    match name {
        "coda-rs" => &[(
            "FILES",
            &[
                (
                    "/dev/cfs0 to /dev/cfs4",
                    "The devices that cache managers talk through.",
                ),
                (
                    "/sys/kernel/debug/coda_rs/",
                    "Statistics, and what is on its way; for root alone.",
                ),
                (
                    "/sys/kernel/tracing/events/coda_rs/",
                    "The tracepoints; for root alone.",
                ),
            ],
        )],
        "status" => &[("EXIT STATUS", &[STATUS, FAILED, USAGE])],
        "top" => &[
            ("EXIT STATUS", &[STATUS, FAILED, USAGE]),
            (
                "EXAMPLES",
                &[
                    ("coda-rs top -s p99", "The slowest upcalls first."),
                    (
                        "coda-rs top -b -n 10 -d 60",
                        "Ten tables as plain text, one a minute.",
                    ),
                ],
            ),
        ],
        "trace" => &[
            (
                "EXIT STATUS",
                &[
                    ("0", "It was ended by a signal, or because nobody reads on."),
                    FAILED,
                    USAGE,
                ],
            ),
            (
                "EXAMPLES",
                &[
                    (
                        "coda-rs trace -e close",
                        "What is closed, and whether it was modified.",
                    ),
                    (
                        "coda-rs trace -o LOOKUP,GETATTR -p 4321",
                        "Two kinds of upcalls that one process waits for.",
                    ),
                    (
                        "coda-rs trace -f 7f000001.2.3 --json",
                        "All that is about one file, for a program.",
                    ),
                ],
            ),
        ],
        "doctor" => &[(
            "EXIT STATUS",
            &[
                ("0", "There is no problem; there may be warnings."),
                ("1", "There is a problem."),
                USAGE,
            ],
        )],
        _ => &[],
    }
}

/// The date of the source, where a package is built that is to come out the same each time.
fn date() -> String {
    std::env::var("SOURCE_DATE_EPOCH")
        .ok()
        .and_then(|text| text.parse().ok())
        .and_then(|seconds| jiff::Timestamp::from_second(seconds).ok())
        .map_or(String::new(), |at| at.strftime("%Y-%m-%d").to_string())
}

fn page(command: &Command, name: &str, title: &str) -> io::Result<Vec<u8>> {
    let version = command.get_version().unwrap_or("").to_owned();
    let man = Man::new(command.clone());
    let mut page = Vec::new();
    // clap_mangen leaves an empty date out, and the rest of the line moves into its place.
    let title_line = format!(
        "{SECTION} \"{}\" \"coda_rs {version}\" \"Coda client\"",
        date()
    );
    writeln!(page, ".TH {title} {title_line}")?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    if command.get_subcommands().next().is_some() {
        man.render_subcommands_section(&mut page)?;
    }
    let mut rest = Roff::default();
    for (heading, entries) in more(name) {
        rest.control("SH", [*heading]);
        for (what, means) in *entries {
            rest.control("TP", []);
            rest.text([bold(*what)]);
            rest.text([roman(*means)]);
        }
    }
    rest.control("SH", ["SEE ALSO"]);
    let mut others = Vec::new();
    for sub in Cli::command()
        .get_subcommands()
        .filter(|s| !s.is_hide_set())
    {
        let other = format!("coda-rs-{}", sub.get_name());
        if other != title {
            others.push(bold(other));
            others.push(roman(format!("({SECTION}), ")));
        }
    }
    if title != "coda-rs" {
        others.push(bold("coda-rs"));
        others.push(roman(format!("({SECTION}), ")));
    }
    others.push(bold("modprobe"));
    others.push(roman("(8)"));
    rest.text(others);
    rest.to_writer(&mut page)?;
    Ok(page)
}

/// Writes `coda-rs.8` and a page for each subcommand.
pub fn man(dir: &Path) -> Result<()> {
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    let version = command.get_version().unwrap_or("").to_owned();
    let write = |name: &str, page: io::Result<Vec<u8>>| {
        let path = dir.join(format!("{name}.{SECTION}"));
        page.and_then(|page| fs::write(&path, page))
            .with_context(|| format!("{} cannot be written", path.display()))
    };
    write("coda-rs", page(&command, "coda-rs", "coda-rs"))?;
    for sub in command.get_subcommands().filter(|s| !s.is_hide_set()) {
        let name = sub.get_name();
        let title = format!("coda-rs-{name}");
        // Its page is called as one looks for it.
        let sub = sub.clone().name(title.clone()).version(version.clone());
        write(&title, page(&sub, name, &title))?;
    }
    Ok(())
}
