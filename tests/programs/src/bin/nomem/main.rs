// SPDX-License-Identifier: GPL-2.0

//! Memory runs out: each allocation of each operation fails in turn.
//!
//! A case is an operation. It is done again and again, the first time with its
//! first allocation failing, then with its second, until it ends before its
//! turn comes. After each attempt everything has to be as if the operation had
//! been done, or as if not, on both sides of the mount; whatever was opened is
//! closed once, and the close says whether the file was modified; and the same
//! operation succeeds when there is memory.
//!
//! This takes a kernel that lets itself be made to fail; elsewhere nothing is
//! run.

mod calls;
mod device;
mod faults;

use clap::Parser;
use coda_selftests::containers;
use ktest::{Case, Group, Spec, Suite, skip};
use std::process::ExitCode;

/// Allocations that fail.
#[derive(Parser)]
struct Args {
    /// Run only cases whose name has one of these in it.
    only: Vec<String>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let groups = match faults::missing() {
        Some(why) => vec![Group::bare(
            "nomem",
            vec![Case::new("all", "needs fault injection", move |_| {
                skip!("{why}")
            })],
        )],
        None => {
            let mut groups: Vec<_> = ["tmpfs", "ext4"]
                .map(|fs| Group::new(fs, Spec::on(containers::base().join(fs)), calls::cases()))
                .into();
            let venus = Spec {
                dirs: "venus",
                ..Spec::on(containers::base().join("tmpfs"))
            };
            groups.push(Group::new("records", venus, calls::record_cases()));
            groups.push(Group::bare("device", device::cases()));
            groups
        }
    };
    Suite::new("nomem", groups).only(args.only).run()
}
