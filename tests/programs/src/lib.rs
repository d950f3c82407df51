// SPDX-License-Identifier: GPL-2.0

//! What several of the programs need: thin layers over system calls that
//! return errors instead of setting `errno`, and file systems to serve from.

pub mod aio;
pub mod containers;
pub mod map;
pub mod nfs;
pub mod pioctl;
pub mod sys;
pub mod uffd;

/// A number in the environment, if there is one.
pub fn from_env(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// What the chances of a run begin with: `CODA_SEED`, or something new each time.
pub fn seed() -> u64 {
    from_env("CODA_SEED").unwrap_or_else(|| {
        std::time::UNIX_EPOCH
            .elapsed()
            .map_or(0, |t| t.as_nanos() as u64)
    })
}
