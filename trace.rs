#![deny(unsafe_code)]
// SPDX-License-Identifier: GPL-2.0

//! What can be watched while it happens: see `trace.h` for the tracepoints.

use crate::vfs::trace::{bindings, probes};

/// How a file was found to be modified.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum How {
    /// By write(2) and its like.
    Write = bindings::coda_rs_how_CODA_RS_HOW_WRITE as isize,
    /// By a truncation.
    Truncate = bindings::coda_rs_how_CODA_RS_HOW_TRUNCATE as isize,
    /// By a store through a shared mapping.
    Store = bindings::coda_rs_how_CODA_RS_HOW_STORE as isize,
    /// By fallocate(2); or it may be, and nobody would tell.
    Other = bindings::coda_rs_how_CODA_RS_HOW_OTHER as isize,
}

probes! {
    /// A request was queued, for the thread `pid`.
    fn upcall_begin(unique: u32, opcode: u32, pid: u32, fid: &[u32; 4]) = coda_rs_upcall_begin;
    /// A request is over, after `latency` nanoseconds, with 0 or a negative errno.
    fn upcall_end(
        unique: u32,
        opcode: u32,
        fid: &[u32; 4],
        latency: u64,
        result: i32,
    ) = coda_rs_upcall_end;
    /// The cache manager has told something, about `fid` if it is about one.
    fn downcall(opcode: u32, fid: &[u32; 4]) = coda_rs_downcall;
    /// A file was opened, with the flags of the protocol, or could not be.
    fn file_open(fid: &[u32; 4], flags: u32, result: i32) = coda_rs_file_open;
    /// A close was queued, with these flags. `modified` is 0 or 1, or 2 for a file that was not open
    /// for writing.
    fn file_close(fid: &[u32; 4], flags: u32, modified: u32) = coda_rs_file_close;
    /// A file was found to be modified: see [`How`].
    fn file_modified(fid: &[u32; 4], how: u32) = coda_rs_file_modified;
}
