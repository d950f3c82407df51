// SPDX-License-Identifier: GPL-2.0

//! `codadiff`: is coda_rs the same as the kernel's C module?
//!
//! The same programs run in two boots of the same kernel, one with each module
//! (see `tests/guest/diff.sh`). In the guest this program makes random
//! operations ([`ops`]) and takes down what a tree looks like ([`tree`]); on the
//! host it compares what the two boots left behind ([`compare`]), with the table
//! of known differences in hand ([`table`]).

mod compare;
mod ops;
mod strace;
mod table;
mod trace;
mod tree;

use anyhow::Result;
use clap::Parser;
use std::process::ExitCode;

/// Is coda_rs the same as the kernel's C module?
#[derive(Parser)]
enum Command {
    /// Make random operations, and log what came of each.
    Ops(ops::OpsArgs),
    /// Print a line for everything below a directory.
    Tree(tree::TreeArgs),
    /// Compare what two boots left behind; prints TAP.
    Compare(compare::CompareArgs),
}

fn main() -> Result<ExitCode> {
    match Command::parse() {
        Command::Ops(args) => ops::run(args).map(|()| ExitCode::SUCCESS),
        Command::Tree(args) => tree::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Compare(args) => compare::run(&args),
    }
}
