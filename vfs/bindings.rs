// SPDX-License-Identifier: GPL-2.0

//! What bindgen makes of `helpers.h`, with the kernel's own types taken from `kernel::bindings`.

#![allow(
    dead_code,
    improper_ctypes,
    unsafe_op_in_unsafe_fn,
    missing_docs,
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    unknown_lints,
    unnecessary_transmutes,
    unreachable_pub,
    clippy::all,
    clippy::pedantic,
    clippy::undocumented_unsafe_blocks
)]

use kernel::bindings::*;
use kernel::ffi;

include!(env!("CODA_RS_BINDINGS"));
