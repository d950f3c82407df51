// SPDX-License-Identifier: GPL-2.0

//! Attributes of the kernel that mean nothing on the host.

use proc_macro::TokenStream;

/// Leaves the suite out, as a kernel without KUnit does.
#[proc_macro_attribute]
pub fn kunit_tests(_name: TokenStream, _suite: TokenStream) -> TokenStream {
    TokenStream::new()
}
