// SPDX-License-Identifier: GPL-2.0

//! `/dev/cfsN`, the protocol, and what happens when the cache manager breaks
//! its rules or goes away.

mod death;
mod device;
mod lifetime;
mod outstanding;
mod replies;
mod rights;

use clap::Parser;
use coda_selftests::containers;
use ktest::{Group, Spec, Suite};
use std::process::ExitCode;

/// The device and the protocol.
#[derive(Parser)]
struct Args {
    /// Run only cases whose name has one of these in it.
    only: Vec<String>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let tmpfs = Spec::on(containers::base().join("tmpfs"));
    let venus = Spec {
        dirs: "venus",
        api: "fd",
        ..tmpfs.clone()
    };
    let groups = vec![
        Group::bare("device", device::cases()),
        Group::new("replies", tmpfs, replies::cases()),
        Group::new("directories", venus, replies::directory_cases()),
        Group::bare("outstanding", outstanding::cases()),
        Group::bare("lifetime", lifetime::cases()),
        Group::bare("death", death::cases()),
        Group::bare("rights", rights::cases()),
    ];
    Suite::new("psdev", groups).only(args.only).run()
}
