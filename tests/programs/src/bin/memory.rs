// SPDX-License-Identifier: GPL-2.0

//! What the kernel needs for the objects that it remembers, and whether it gives it back.
//!
//! `CODA_INODES` says how many. What was measured goes to `CODA_RESULTS`, to be compared with
//! another module's.

use clap::Parser;
use coda_selftests::containers;
use ktest::{
    Case, Context, Group, Result, Spec, Suite, bail, ensure, ensure_eq, module_is_ours, patience,
    skip, wait_for,
};
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

/// Memory for cached objects.
#[derive(Parser)]
struct Args {
    /// Run only cases whose name has one of these in it.
    only: Vec<String>,
}

/// By how many objects the statistics of a slab cache may be wrong, which count what each CPU has set
/// aside as used, or not.
const SPARE: u64 = 400;

/// How many files a directory has.
const A_DIRECTORY: usize = 1000;

fn inodes() -> Result<usize> {
    match std::env::var("CODA_INODES") {
        Ok(number) => number.parse().context("CODA_INODES"),
        Err(_) => Ok(5000),
    }
}

/// The memory of all slabs, in bytes.
fn slab() -> Result<u64> {
    let all = fs::read_to_string("/proc/meminfo")?;
    let line = all.lines().find_map(|l| l.strip_prefix("Slab:"));
    let words = line.context("no Slab in /proc/meminfo")?.trim();
    let number = words.strip_suffix(" kB").context("not in kB")?;
    Ok(number.parse::<u64>()? * 1024)
}

/// Objects in use in the cache of inodes, and their size.
fn cache() -> Result<(u64, u64)> {
    let name = match module_is_ours() {
        true => "coda_rs_inode_cache",
        false => "coda_inode_cache",
    };
    let all = fs::read_to_string("/proc/slabinfo")?;
    for line in all.lines() {
        let mut words = line.split_whitespace();
        if words.next() == Some(name) {
            let mut number = || {
                words
                    .next()
                    .context("a short line")?
                    .parse()
                    .context("number")
            };
            let (active, _, size) = (number()?, number()?, number()?);
            return Ok((active, size));
        }
    }
    bail!("no {name} in /proc/slabinfo (was it merged?)")
}

/// Drops what can be had again, until no more inodes are left than that, if it can be. An inode goes
/// only after its dentry, and its memory after a grace period.
fn drop_caches(most: u64) -> Result<()> {
    // What is too many is seen by the caller.
    let _ = wait_for("inodes to go", patience(10), || {
        fs::write("/proc/sys/vm/drop_caches", "2")?;
        Ok((cache()?.0 <= most).then_some(()))
    });
    Ok(())
}

fn main() -> ExitCode {
    let cases = vec![
        Case::new(
            "inodes",
            "many files are looked at, and forgotten again",
            |ctx| {
                if std::env::var("CODA_KERNEL").is_ok_and(|kernel| kernel == "debug") {
                    skip!("KASAN keeps what is freed for a while");
                }
                let fixture = ctx.fixture();
                let count = inodes()?;
                let path =
                    |n: usize| PathBuf::from(format!("d{}/f{}", n / A_DIRECTORY, n % A_DIRECTORY));
                for n in 0..count {
                    let path = fixture.root.join(path(n));
                    if n % A_DIRECTORY == 0 {
                        fs::create_dir(path.parent().expect("it has one"))?;
                    }
                    fs::write(path, b"")?;
                }
                drop_caches(SPARE)?;
                let (slab_before, (before, size)) = (slab()?, cache()?);
                for n in 0..count {
                    let path = fixture.mnt.join(path(n));
                    ensure_eq!(fs::metadata(path)?.len(), 0, "a length");
                }
                let (slab_with, (with, _)) = (slab()?, cache()?);
                drop_caches(before + SPARE)?;
                let (slab_after, (after, _)) = (slab()?, cache()?);
                // The cache manager's own files count, for one module as for the other.
                let each = slab_with.saturating_sub(slab_before) / count as u64;
                let left = slab_after.saturating_sub(slab_before) / count as u64;
                println!(
                    "# {count} inodes of {size} bytes: {each} bytes of slab each, {left} after \
                     drop_caches ({before}, {with}, then {after} in the cache)"
                );
                ensure!(
                    with + SPARE >= before + count as u64,
                    "{before} inodes at first, and {with} with {count} files more"
                );
                ensure!(
                    after <= before + SPARE,
                    "{after} inodes are still there, of {with}; at first there were {before}"
                );
                if let Some(dir) = std::env::var_os("CODA_RESULTS") {
                    let line = format!("{count} {size} {each} {left}\n");
                    fs::write(PathBuf::from(dir).join("memory"), line)?;
                }
                Ok(())
            },
        )
        .seconds(120 + inodes().unwrap_or(0) as u64 / 100),
    ];
    let args = Args::parse();
    let tmpfs = Spec::on(containers::base().join("tmpfs"));
    Suite::new("memory", vec![Group::new("memory", tmpfs, cases)])
        .only(args.only)
        .run()
}
