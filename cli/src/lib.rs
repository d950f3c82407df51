// SPDX-License-Identifier: GPL-2.0

//! The tool `coda-rs`: what the Coda client module coda_rs is doing, and why it does not.
//!
//! What it knows of the module is in files: `/proc`, `/sys`, debugfs and tracefs. They are read by
//! [`root`], of this machine or of a recorded tree, and understood by [`proc`], [`table`] and
//! [`event`]; the rest shows it.

pub mod cli;
pub mod doctor;
pub mod event;
pub mod out;
pub mod pages;
pub mod proc;
pub mod root;
pub mod status;
pub mod table;
pub mod top;
pub mod trace;
