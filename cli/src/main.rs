// SPDX-License-Identifier: GPL-2.0

//! `coda-rs`: see the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    coda_rs::cli::main()
}
