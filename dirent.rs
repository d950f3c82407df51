#![deny(unsafe_code)]
// SPDX-License-Identifier: GPL-2.0

//! The records of a directory file.
//!
//! A container that is a file holds `struct venus_dirent`s, one behind the other. It is the cache
//! manager that wrote them, and nothing in them is taken on trust.

use crate::wire::MAXNAMLEN;
use kernel::prelude::*;

/// The first bytes of a record, before the name: `d_fileno`, `d_reclen`, `d_type`, `d_namlen`.
const HEADER: usize = 8;

/// Positions of a listing are those of the file, moved by two for `.` and `..`.
const DOTS: i64 = 2;

/// A piece of a directory file, with room for a record of the longest name, or some of the usual ones. It is
/// read once for all that are whole in it.
pub(crate) struct Records {
    bytes: [u8; Self::ROOM],
    /// Where in the file it begins.
    start: i64,
    /// How much of it was read.
    len: usize,
}

/// What is at a position of a listing.
pub(crate) enum Found<'a> {
    /// The end of the file.
    End,
    /// A record.
    Record(DirEntry<'a>),
    /// Something at this offset of the file that is no record, or has no place in a listing.
    Nonsense(i64),
}

impl Records {
    // It is on the stack.
    const ROOM: usize = 512;

    /// A piece that is yet to be read.
    pub(crate) fn new() -> Self {
        const { assert!(Self::ROOM >= HEADER + MAXNAMLEN) }
        Self {
            bytes: [0; Self::ROOM],
            start: 0,
            len: 0,
        }
    }

    /// What was read of the file from `offset` on.
    fn from(&self, offset: i64) -> &[u8] {
        let read = self.bytes.get(..self.len).unwrap_or_default();
        let at = offset.checked_sub(self.start).map(usize::try_from);
        match at {
            Some(Ok(at)) => read.get(at..).unwrap_or_default(),
            _ => &[],
        }
    }

    /// What is at `position`, which is behind `.` and `..`, of a listing of the file that `read_at` reads.
    pub(crate) fn at(
        &mut self,
        position: i64,
        read_at: impl FnOnce(&mut [u8], i64) -> Result<usize>,
    ) -> Result<Found<'_>> {
        let offset = position - DOTS;
        if !DirEntry::is_whole(self.from(offset)) {
            // The file's end may be the largest number's, too.
            let room = usize::try_from(i64::MAX - offset).unwrap_or(usize::MAX);
            let into = match self.bytes.get_mut(..room) {
                Some(less) => less,
                None => &mut self.bytes,
            };
            self.len = 0;
            self.start = offset;
            self.len = read_at(into, offset)?;
        }
        let record = self.from(offset);
        if record.is_empty() {
            return Ok(Found::End);
        }
        Ok(DirEntry::parse(record, position).map_or(Found::Nonsense(offset), Found::Record))
    }
}

/// A record of a directory file.
pub(crate) struct DirEntry<'a> {
    /// The inode number, 0 if there is no entry here.
    pub(crate) ino: u32,
    /// One of `DT_*`.
    pub(crate) kind: u8,
    /// The name, without terminator.
    pub(crate) name: &'a [u8],
    /// The position of the next record.
    pub(crate) next: i64,
}

impl<'a> DirEntry<'a> {
    /// Whether all of the record that these bytes begin with is there, as far as it counts.
    fn is_whole(record: &[u8]) -> bool {
        match record.split_first_chunk::<HEADER>() {
            Some((header, name)) => name.len() >= header[HEADER - 1].into(),
            None => false,
        }
    }

    /// Reads the record at `position`; `None` if it is cut off or makes no sense.
    fn parse(record: &'a [u8], position: i64) -> Option<Self> {
        let (header, rest) = record.split_first_chunk::<HEADER>()?;
        let [i0, i1, i2, i3, r0, r1, kind, name_len] = *header;
        let record_len = u16::from_ne_bytes([r0, r1]);
        if usize::from(record_len) < HEADER + usize::from(name_len) {
            return None;
        }
        let entry = Self {
            ino: u32::from_ne_bytes([i0, i1, i2, i3]),
            // The values of `CDT_*` are those of `DT_*`; what is none of them is unknown.
            kind: if matches!(kind, 1 | 2 | 4 | 6 | 8 | 10 | 12 | 14) {
                kind
            } else {
                0
            },
            name: rest.get(..usize::from(name_len))?,
            next: position.checked_add(record_len.into())?,
        };
        // No path leads to such a name, or to another one that it looks like. What is left in a
        // record that holds no entry does not matter.
        let is_name = !entry.name.iter().any(|byte| matches!(byte, 0 | b'/'));
        (is_name || !entry.is_shown()).then_some(entry)
    }

    /// Whether it is an entry, and neither `.` nor `..`, which were emitted already.
    pub(crate) fn is_shown(&self) -> bool {
        self.ino != 0 && !matches!(self.name, [] | b"." | b"..")
    }
}

#[kunit_tests(coda_rs_dirent)]
mod tests {
    use super::*;

    fn record(ino: u32, len: u16, kind: u8, name: &[u8]) -> Result<KVec<u8>> {
        let mut bytes = KVec::new();
        bytes.extend_from_slice(&ino.to_ne_bytes(), GFP_KERNEL)?;
        bytes.extend_from_slice(&len.to_ne_bytes(), GFP_KERNEL)?;
        bytes.extend_from_slice(&[kind, name.len() as u8], GFP_KERNEL)?;
        bytes.extend_from_slice(name, GFP_KERNEL)?;
        Ok(bytes)
    }

    #[test]
    fn entry_is_parsed() -> Result {
        let bytes = record(7, 16, 8, b"name")?;
        let entry = DirEntry::parse(&bytes, DOTS).ok_or(EIO)?;
        assert!(entry.is_shown());
        assert_eq!(entry.name, b"name");
        assert_eq!(entry.ino, 7);
        assert_eq!(entry.kind, 8);
        assert_eq!(entry.next, 18);
        Ok(())
    }

    #[test]
    fn nonsense_is_refused() -> Result {
        // The record is shorter than its name.
        assert!(DirEntry::parse(&record(7, 9, 8, b"name")?, DOTS).is_none());
        assert!(DirEntry::parse(&record(7, 0, 8, b"")?, DOTS).is_none());
        // It is cut off.
        let bytes = record(7, 16, 8, b"name")?;
        assert!(DirEntry::parse(bytes.get(..10).ok_or(EIO)?, DOTS).is_none());
        assert!(DirEntry::parse(bytes.get(..7).ok_or(EIO)?, DOTS).is_none());
        // There is no position behind it.
        assert!(DirEntry::parse(&bytes, i64::MAX - 16).is_some());
        assert!(DirEntry::parse(&bytes, i64::MAX - 15).is_none());
        // The name is none, but for a record without an entry.
        for name in [&b"a/b"[..], b"/", b"a\0", b"\0"] {
            assert!(DirEntry::parse(&record(7, 16, 8, name)?, DOTS).is_none());
            assert!(DirEntry::parse(&record(0, 16, 8, name)?, DOTS).is_some());
        }
        Ok(())
    }

    #[test]
    fn dots_and_holes_are_not_shown() -> Result {
        for (ino, name) in [(0, &b"gone"[..]), (1, b"."), (1, b".."), (1, b"")] {
            let bytes = record(ino, 16, 4, name)?;
            assert!(!DirEntry::parse(&bytes, DOTS).ok_or(EIO)?.is_shown());
        }
        let bytes = record(1, 16, 3, b"...")?;
        let entry = DirEntry::parse(&bytes, DOTS).ok_or(EIO)?;
        assert!(entry.is_shown());
        assert_eq!(entry.kind, 0);
        Ok(())
    }

    #[test]
    fn records_follow_each_other() -> Result {
        let mut file = record(7, 16, 8, b"name")?;
        file.resize(16, 0, GFP_KERNEL)?;
        file.extend_from_slice(&record(8, 12, 8, b"other")?, GFP_KERNEL)?;
        let read_at = |buf: &mut [u8], offset: i64| {
            let rest = file.get(offset as usize..).unwrap_or_default();
            let len = rest.len().min(buf.len());
            buf.get_mut(..len)
                .ok_or(EIO)?
                .copy_from_slice(rest.get(..len).ok_or(EIO)?);
            Ok(len)
        };
        let mut records = Records::new();
        match records.at(DOTS, read_at)? {
            Found::Record(entry) => assert!(entry.name == b"name" && entry.next == DOTS + 16),
            _ => return Err(EIO),
        }
        // This one is shorter than its name.
        assert!(matches!(
            records.at(DOTS + 16, read_at)?,
            Found::Nonsense(16)
        ));
        assert!(matches!(records.at(DOTS + 29, read_at)?, Found::End));
        // Read again where nothing is known of it, and only there.
        let fails = |_: &mut [u8], _| Err(EINTR);
        assert!(matches!(records.at(DOTS, fails), Err(EINTR)));
        records.at(DOTS, read_at)?;
        assert!(matches!(records.at(DOTS, fails)?, Found::Record(_)));
        assert!(matches!(records.at(DOTS + 16, fails)?, Found::Nonsense(16)));
        // At the end of all numbers.
        let end = |buf: &mut [u8], offset: i64| {
            assert!(i64::try_from(buf.len()).is_ok_and(|len| offset.checked_add(len).is_some()));
            Ok(0)
        };
        assert!(matches!(records.at(i64::MAX, end)?, Found::End));
        Ok(())
    }
}
