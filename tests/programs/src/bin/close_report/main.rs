// SPDX-License-Identifier: GPL-2.0

//! What CODA_CLOSE says about a file: was it modified?
//!
//! Every case makes a file, does something to it through the mount, and looks
//! at the flags words of all the CODA_CLOSE requests that the cache manager
//! got about it: that there is one for each open, and that each says what it
//! should.

mod case;
mod maps;
mod opens;
mod routes;
mod space;
mod table;
mod writes;

use clap::Parser;
use coda_selftests::containers;
use ktest::{Group, Spec, Suite};
use std::process::ExitCode;

/// What the cache manager is told at close.
#[derive(Parser)]
struct Args {
    /// Print a table instead of KTAP.
    #[arg(long)]
    table: bool,
    /// Run only cases whose name has one of these in it.
    only: Vec<String>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let mut groups = Vec::new();
    for (fs, all) in containers::to_test(true) {
        let mut cases = writes::cases();
        cases.extend(maps::cases());
        cases.extend(opens::cases());
        cases.extend(routes::cases());
        cases.retain(|c| all || c.is_core());
        groups.push(
            Group::new(
                fs.clone(),
                Spec::on(containers::base().join(&fs)),
                cases.into_iter().map(case::CloseCase::build).collect(),
            )
            .skip(containers::missing(&fs)),
        );
    }
    // They live until all cases have been run.
    let special = space::groups();
    let suite_of = |groups: Vec<Group>| Suite::new("close_report", groups).only(args.only.clone());
    if args.table {
        return table::print(suite_of(groups));
    }
    let (special, _mounts) = special;
    groups.extend(special);
    suite_of(groups).run()
}
