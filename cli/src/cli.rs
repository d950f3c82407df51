// SPDX-License-Identifier: GPL-2.0

//! What can be asked for on the command line.

use crate::root::Root;
use crate::{doctor, pages, status, top, trace};
use anyhow::Result;
use clap::{Parser, Subcommand};
use clap_complete::Shell;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

/// Look at the Coda client module coda_rs: what it is doing, and why it does not
///
/// What an ordinary user may not see is told as that; root sees all of it.
#[derive(Parser, Debug)]
#[command(name = "coda-rs", version, max_term_width = 100)]
pub struct Cli {
    /// Read a recorded tree, not this machine
    #[arg(
        long,
        global = true,
        hide = true,
        default_value = "/",
        value_name = "DIR"
    )]
    root: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Show the module, its devices and mounts, the cache manager, and what is on its way
    ///
    /// Without root, /proc tells what it can: of the requests that are on their way, nothing. In a
    /// container /proc shows the container's processes alone, so who has a device open may not be known.
    Status {
        /// JSON, for programs
        #[arg(long)]
        json: bool,
    },
    /// Show what goes on, as it goes on: upcalls, how long they take, errors, opens and closes
    ///
    /// It needs root. Keys: q quits, < and > choose what the table is sorted by, r reverses it, t changes
    /// between the last interval and all since the module was loaded, p pauses, space looks at once.
    /// Latencies are from the moment a request is queued until its caller is woken; percentiles are
    /// bounds, as they come from a histogram.
    Top(top::Options),
    /// Log what the cache manager is asked, and what became of it
    ///
    /// It needs root, for the kernel's tracing; its own instance of that is removed at the end.
    Trace(trace::Options),
    /// Find out why coda_rs does not load or mount
    ///
    /// Nothing is changed. The exit status is 0 if there is no problem, 1 otherwise.
    Doctor {
        /// JSON, for programs
        #[arg(long)]
        json: bool,
    },
    /// Print completions for a shell
    Completions {
        /// Which
        shell: Shell,
    },
    /// Write the manual pages
    #[command(hide = true)]
    Man {
        /// Where to
        dir: PathBuf,
    },
}

/// Does nobody read what we write? That is no error.
fn is_unread(err: &anyhow::Error) -> bool {
    err.chain().any(|cause| {
        let kind = match cause.downcast_ref::<io::Error>() {
            Some(err) => Some(err.kind()),
            None => cause
                .downcast_ref::<serde_json::Error>()
                .and_then(serde_json::Error::io_error_kind),
        };
        kind == Some(io::ErrorKind::BrokenPipe)
    })
}

fn run(cli: &Cli) -> Result<bool> {
    let root = Root::new(&cli.root);
    match &cli.command {
        Command::Status { json } => status::run(&root, *json)?,
        Command::Top(options) => top::run(&root, options)?,
        Command::Trace(options) => trace::run(&root, options)?,
        Command::Doctor { json } => return doctor::run(&root, *json),
        Command::Completions { shell } => pages::completions(*shell)?,
        Command::Man { dir } => pages::man(dir)?,
    }
    Ok(true)
}

/// What the program is.
pub fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(err) if is_unread(&err) => ExitCode::SUCCESS,
        Err(err) => {
            // Standard error may be closed, too.
            let _ = writeln!(io::stderr(), "coda-rs: {err:#}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_makes_sense() {
        Cli::command().debug_assert();
    }
}
