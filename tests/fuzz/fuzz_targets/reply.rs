// SPDX-License-Identifier: GPL-2.0

//! What the cache manager writes.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| coda_fuzz::reply::check(data));
