// SPDX-License-Identifier: GPL-2.0

//! As much of the `kernel` crate as `wire.rs` and `dirent.rs` use, so that they can be compiled for
//! the host as they are. Where the kernel would only warn, this panics.

pub mod alloc;
pub mod error;
pub mod prelude;

/// Formatting.
pub mod fmt {
    pub use core::fmt::*;
}
