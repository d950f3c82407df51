// SPDX-License-Identifier: GPL-2.0

//! What the kernel sends.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| coda_fuzz::upcall::check(data));
