// SPDX-License-Identifier: GPL-2.0

//! Tracepoints of the module's owner.
//!
//! They are defined in C, as it takes the C preprocessor to do so, and called by functions that the
//! owner declares in a header for bindgen (`CODA_RS_PROBES` in Kbuild). [`probes!`] makes safe ones of
//! them. What it relies on is said at the head of that header: whatever they are called with, and
//! wherever, they do no harm.

/// What bindgen makes of the header.
#[allow(
    dead_code,
    missing_docs,
    non_camel_case_types,
    non_upper_case_globals,
    unreachable_pub,
    clippy::all,
    clippy::undocumented_unsafe_blocks
)]
pub(crate) mod bindings {
    use kernel::bindings::*;
    use kernel::ffi;

    include!(env!("CODA_RS_PROBES"));
}

mod private {
    pub(crate) trait Sealed {}
}

/// What a probe may be given: a number, or some to be looked at while it runs.
pub(crate) trait Plain: private::Sealed {
    /// How C has it.
    type Raw;

    /// The same for C.
    fn raw(self) -> Self::Raw;
}

macro_rules! numbers {
    ($($t:ty)*) => { $(
        impl private::Sealed for $t {}

        impl Plain for $t {
            type Raw = $t;

            fn raw(self) -> $t {
                self
            }
        }
    )* };
}

numbers!(u32 u64 i32);

impl<const N: usize> private::Sealed for &[u32; N] {}

impl<const N: usize> Plain for &[u32; N] {
    type Raw = *const [u32; N];

    fn raw(self) -> Self::Raw {
        self
    }
}

/// Declares functions for probes of the same types in the header: `fn NAME(ARGUMENT: TYPE, ...) = PROBE;`.
/// They are cheap where nobody traces, and may be called anywhere.
macro_rules! probes {
    ($($(#[$meta:meta])* fn $name:ident($($arg:ident: $t:ty),* $(,)?) = $probe:ident;)*) => { $(
        $(#[$meta])*
        #[allow(unsafe_code)]
        pub(crate) fn $name($($arg: $t),*) {
            // SAFETY: It is one of the header's, which may be called with anything of this kind: the
            // types are those that bindgen has found there.
            unsafe {
                $crate::vfs::trace::bindings::$probe(
                    $($crate::vfs::trace::Plain::raw($arg)),*
                )
            }
        }
    )* };
}
pub(crate) use probes;
