// SPDX-License-Identifier: GPL-2.0

//! The kernel's fault injection: `Documentation/fault-injection/` of its source.

use ktest::{Context, Result, ensure, module_is_ours};
use nix::errno::Errno;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

const NTH: &str = "/proc/thread-self/fail-nth";
const DEBUG: &str = "/sys/kernel/debug";

/// Which allocations may fail, and that the kernel does not write a trace for
/// each. Pages of files are `highmem` to the allocator.
const SETTINGS: [(&str, &str); 6] = [
    ("failslab/ignore-gfp-wait", "N"),
    ("failslab/verbose", "0"),
    ("fail_page_alloc/ignore-gfp-wait", "N"),
    ("fail_page_alloc/ignore-gfp-highmem", "N"),
    ("fail_page_alloc/min-order", "0"),
    ("fail_page_alloc/verbose", "0"),
];

/// No operation has so many allocations.
pub const MOST: u32 = 1500;

/// Why allocations cannot be made to fail, or must not.
pub fn missing() -> Option<String> {
    if !module_is_ours() {
        return Some("the C module would come to harm".into());
    }
    let files = SETTINGS.map(|(name, _)| format!("{DEBUG}/{name}"));
    let missing = files.iter().map(String::as_str).chain([NTH]);
    let mut missing = missing.filter(|path| !Path::new(path).exists());
    missing
        .next()
        .map(|path| format!("the kernel has no {path}"))
}

/// Makes allocations of the thread that made it fail.
pub struct Injector {
    nth: File,
}

impl Injector {
    /// Sets the kernel up.
    pub fn new() -> Result<Self> {
        for (name, value) in SETTINGS {
            fs::write(format!("{DEBUG}/{name}"), value).context(name)?;
        }
        let nth = File::options().read(true).write(true).open(NTH)?;
        let this = Injector { nth };
        // What this does for the first time must not count.
        let (done, delivered) = this.with(MOST, || Ok(()))?;
        ensure!(done.is_ok() && !delivered, "nothing takes memory");
        Ok(this)
    }

    /// Makes a system call whose `n`th allocation fails. Tells what it gave, and
    /// whether it came to that allocation. The call must take no memory of its
    /// own in user space.
    pub fn with<R>(
        &self,
        n: u32,
        call: impl FnOnce() -> Result<R, Errno>,
    ) -> Result<(Result<R, Errno>, bool)> {
        let digits = n.to_string();
        let mut left = [0; 12];
        self.nth.write_all_at(digits.as_bytes(), 0)?;
        let done = call();
        let len = self.nth.read_at(&mut left, 0);
        let _ = self.nth.write_all_at(b"0", 0);
        let left = String::from_utf8_lossy(&left[..len?]).trim().to_owned();
        Ok((done, left == "0"))
    }
}

/// Where the one allocation that a call cannot do without stands among the others
/// differs from attempt to attempt, so that a whole round may miss it.
const ROUNDS: u32 = 5;

/// What came of all attempts of a case.
#[derive(Default)]
pub struct Tally {
    /// Allocations that failed.
    pub faults: u32,
    /// Attempts that failed for it.
    pub felt: u32,
}

impl Tally {
    /// Does an attempt for each allocation, in rounds until one has failed for it, or in one if
    /// `copes` is why none need. An attempt gets the round and the allocation's number, and tells
    /// whether the allocation of that number failed, and the attempt with it.
    pub fn of(
        copes: Option<&str>,
        mut attempt: impl FnMut(u32, u32) -> Result<(bool, bool)>,
    ) -> Result<Self> {
        let mut tally = Tally::default();
        for round in 0..ROUNDS {
            tally.round(|n| attempt(round, n))?;
            if tally.felt > 0 || copes.is_some() {
                break;
            }
        }
        Ok(tally)
    }

    /// An attempt for each allocation. How many there are differs a little, as others do a part of
    /// the work: the end is where there are none for a while.
    fn round(&mut self, mut attempt: impl FnMut(u32) -> Result<(bool, bool)>) -> Result<()> {
        const A_WHILE: u32 = 3;
        let mut none = 0;
        for n in 1..MOST {
            let (delivered, felt) =
                attempt(n).with_context(|| format!("when allocation {n} failed"))?;
            if delivered {
                none = 0;
                self.faults += 1;
                self.felt += u32::from(felt);
                continue;
            }
            none += 1;
            if none == A_WHILE {
                return Ok(());
            }
        }
        ktest::bail!("after {MOST} allocations there is no end to it")
    }

    /// Says so, and makes sure that it was a test: `copes` is why no attempt
    /// need fail.
    pub fn conclude(self, name: &str, copes: Option<&str>) -> Result<()> {
        let Tally { faults, felt } = self;
        println!("# {name}: {faults} allocations failed, and {felt} calls for it");
        ensure!(
            felt > 0 || copes.is_some(),
            "no call failed, though {faults} allocations did"
        );
        Ok(())
    }
}
