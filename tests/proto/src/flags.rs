// SPDX-License-Identifier: GPL-2.0

//! The flags word of OPEN_BY_FD and CLOSE, and the mask of ACCESS.

use std::fmt;

/// The file is open for reading.
pub const C_O_READ: u32 = 0x001;
/// The file is open for writing.
pub const C_O_WRITE: u32 = 0x002;
/// The file shall be cut to nothing.
pub const C_O_TRUNC: u32 = 0x010;
/// The file must be new.
pub const C_O_EXCL: u32 = 0x100;
/// The file shall be made if it is not there.
pub const C_O_CREAT: u32 = 0x200;
/// In CLOSE alone: the file was open for writing, and nobody has changed its
/// contents or length since it was last stored. The cache manager need not
/// send it to the server.
pub const C_O_NO_WRITES: u32 = 0x400;

/// Execute, or search.
pub const C_A_X_OK: u32 = 1;
/// Write.
pub const C_A_W_OK: u32 = 2;
/// Read.
pub const C_A_R_OK: u32 = 4;

/// Shows a flags word as C would spell it.
///
/// ```
/// # use coda_proto::FlagWord;
/// assert_eq!(FlagWord(0x403).to_string(), "C_O_READ|C_O_WRITE|C_O_NO_WRITES");
/// assert_eq!(FlagWord(0x1001).to_string(), "C_O_READ|0x1000");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlagWord(pub u32);

impl fmt::Display for FlagWord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const NAMES: [(u32, &str); 6] = [
            (C_O_READ, "C_O_READ"),
            (C_O_WRITE, "C_O_WRITE"),
            (C_O_TRUNC, "C_O_TRUNC"),
            (C_O_EXCL, "C_O_EXCL"),
            (C_O_CREAT, "C_O_CREAT"),
            (C_O_NO_WRITES, "C_O_NO_WRITES"),
        ];
        let mut parts = Vec::new();
        let mut rest = self.0;
        for (bit, name) in NAMES {
            if rest & bit != 0 {
                parts.push(name.to_owned());
                rest &= !bit;
            }
        }
        if rest != 0 || parts.is_empty() {
            parts.push(format!("{rest:#x}"));
        }
        f.pad(&parts.join("|"))
    }
}
