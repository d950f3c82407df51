// SPDX-License-Identifier: GPL-2.0

//! What the Coda kselftests have in common.
//!
//! A test program describes its [`Suite`]: groups of cases. A group may have a
//! [`Fixture`], which is a directory, a cache manager that serves it, and a
//! mount; it is set up once for all cases of the group. Every case runs in a
//! process of its own, so that a case that hangs or dies takes nothing with it,
//! and whatever it left behind is cleaned up by the kernel.
//!
//! After every case the runner looks whether the cache manager still counts a
//! file as open: every open that the kernel was told to have succeeded must
//! have been closed, exactly once, by then.

mod control;
mod fixture;
mod runner;
mod trace;

pub use control::{Control, Expectation};
pub use fixture::{Fixture, Rule, Spec, module_is_ours, path_c, run_to_end};
pub use runner::{Case, Ctx, Group, Row, Skip, Suite};
pub use trace::{Event, Watch};

pub use anyhow::{Context, Error, Result, anyhow, bail, ensure};

use std::time::Duration;

/// How long things may take, in seconds, on a machine of ordinary speed.
///
/// `CODA_TIME_SCALE` stretches it, for emulated machines and debug kernels.
pub fn patience(seconds: u64) -> Duration {
    static SCALE: std::sync::OnceLock<f64> = std::sync::OnceLock::new();
    let scale = SCALE.get_or_init(|| {
        std::env::var("CODA_TIME_SCALE")
            .ok()
            .and_then(|s| s.parse().ok())
            .unwrap_or(1.0)
    });
    Duration::from_secs(seconds).mul_f64(*scale)
}

/// Leaves a case because it cannot be run here.
#[macro_export]
macro_rules! skip {
    ($($arg:tt)*) => {
        return Err($crate::Skip(format!($($arg)*)).into())
    };
}

/// Like `assert_eq!`, but leaves the case with an error.
#[macro_export]
macro_rules! ensure_eq {
    ($left:expr, $right:expr $(,)?) => {
        $crate::ensure_eq!($left, $right, "{} and {} differ", stringify!($left), stringify!($right))
    };
    ($left:expr, $right:expr, $($arg:tt)+) => {{
        let (left, right) = (&$left, &$right);
        if !(*left == *right) {
            $crate::bail!("{}: {:?}, not {:?}", format!($($arg)+), left, right);
        }
    }};
}

/// Polls until `done` gives something, or patience ends.
pub fn wait_for<T>(
    what: &str,
    patience: Duration,
    mut done: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let end = std::time::Instant::now() + patience;
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(value) = done()? {
            return Ok(value);
        }
        if std::time::Instant::now() >= end {
            bail!("waited {patience:?} in vain for {what}");
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}
