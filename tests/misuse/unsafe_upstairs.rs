// SPDX-License-Identifier: GPL-2.0
//~ error: usage of an `unsafe` block
// Coda's logic is safe Rust.

fn misuse(pointer: *const u8) -> u8 {
    unsafe { *pointer }
}
