// SPDX-License-Identifier: GPL-2.0

//! The bytes of a directory file.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| coda_fuzz::listing::check(data));
