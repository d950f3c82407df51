// SPDX-License-Identifier: GPL-2.0

//! What several of the programs need: thin layers over system calls that
//! return errors instead of setting `errno`, and file systems to serve from.

pub mod aio;
pub mod containers;
pub mod map;
pub mod pioctl;
pub mod sys;
pub mod uffd;
