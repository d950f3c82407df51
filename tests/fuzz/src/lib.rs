// SPDX-License-Identifier: GPL-2.0

//! The parsers of the module, `wire.rs` and `dirent.rs`, compiled for the host as they are, and what
//! has to hold of them whatever they are given.
//!
//! What the bytes mean is said by [`coda_proto`], which shares no code with them.

// Each has more than is looked at here.
#[allow(dead_code)]
#[path = "../../../dirent.rs"]
mod dirent;
#[allow(dead_code)]
#[path = "../../../wire.rs"]
mod wire;

pub mod listing;
pub mod reply;
pub mod upcall;
mod vfs;
