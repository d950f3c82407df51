// SPDX-License-Identifier: GPL-2.0

//! What every file of the module has.

pub use crate::alloc::{flags::*, KVVec};
pub use crate::error::{code::*, Error, Result};
pub use macros::kunit_tests;
