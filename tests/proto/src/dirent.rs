// SPDX-License-Identifier: GPL-2.0

//! The contents of a directory, as a file that the kernel reads.
//!
//! Where the cache manager does not hand out a real directory, it hands out a
//! regular file of records in 4.4BSD's form. A record never crosses a block
//! boundary: the one before it is made longer instead, and a last empty record
//! fills up the last block.

/// Records do not cross multiples of this.
pub const DIR_BLOCK: usize = 4096;
/// The part of a record before the name.
pub const DIRENT_HEADER: usize = 8;

/// Values of the type byte of a record.
pub mod dirtype {
    /// Not told; this is what Venus always says.
    pub const UNKNOWN: u8 = 0;
    /// A directory.
    pub const DIR: u8 = 4;
    /// A regular file.
    pub const REG: u8 = 8;
    /// A symbolic link.
    pub const LNK: u8 = 10;
}

/// Writes such a file.
///
/// ```
/// # use coda_proto::*;
/// let mut dir = DirBuilder::default();
/// dir.push(7, dirtype::DIR, b".");
/// dir.push(9, dirtype::REG, b"file");
/// let bytes = dir.finish();
/// assert_eq!(bytes.len(), DIR_BLOCK);
/// let names: Vec<_> = dirents(&bytes).map(|e| e.unwrap().name.to_vec()).collect();
/// assert_eq!(names, [b".".to_vec(), b"file".to_vec()]);
/// ```
#[derive(Debug, Default)]
pub struct DirBuilder {
    bytes: Vec<u8>,
    last: Option<usize>,
}

impl DirBuilder {
    /// Appends an entry. Names longer than a record can hold are cut.
    pub fn push(&mut self, fileno: u32, kind: u8, name: &[u8]) {
        let name = &name[..name.len().min(crate::MAXNAMLEN)];
        // One NUL at least, and up to a multiple of four.
        let len = (DIRENT_HEADER + name.len() + 1).next_multiple_of(4);
        let start = self.bytes.len();
        if start / DIR_BLOCK != (start + len - 1) / DIR_BLOCK {
            self.lengthen_last(start.next_multiple_of(DIR_BLOCK) - start);
        }
        let start = self.bytes.len();
        self.last = Some(start);
        self.bytes.extend(fileno.to_ne_bytes());
        self.bytes.extend((len as u16).to_ne_bytes());
        self.bytes.extend([kind, name.len() as u8]);
        self.bytes.extend(name);
        self.bytes.resize(start + len, 0);
    }

    /// Fills up the last block and gives the file's contents.
    pub fn finish(mut self) -> Vec<u8> {
        let start = self.bytes.len();
        let rest = start.next_multiple_of(DIR_BLOCK) - start;
        if rest >= DIRENT_HEADER + 4 {
            self.bytes.extend(0u32.to_ne_bytes());
            self.bytes.extend((rest as u16).to_ne_bytes());
            self.bytes.resize(start + rest, 0);
        } else {
            self.lengthen_last(rest);
        }
        self.bytes
    }

    fn lengthen_last(&mut self, by: usize) {
        self.bytes.resize(self.bytes.len() + by, 0);
        if let Some(last) = self.last {
            let field = last + 4..last + 6;
            let old = u16::from_ne_bytes([self.bytes[last + 4], self.bytes[last + 5]]);
            self.bytes[field].copy_from_slice(&(old + by as u16).to_ne_bytes());
        }
    }
}

/// One entry that [`dirents`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dirent<'a> {
    /// Where the record begins.
    pub offset: usize,
    /// The inode number.
    pub fileno: u32,
    /// One of [`dirtype`].
    pub kind: u8,
    /// The name without its NUL.
    pub name: &'a [u8],
}

/// A record is cut off, or its length cannot be right. Holds its offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("bad directory entry at {0}")]
pub struct BadDirent(pub usize);

/// Reads such a file: every entry that is not empty.
pub fn dirents(bytes: &[u8]) -> impl Iterator<Item = Result<Dirent<'_>, BadDirent>> {
    let mut offset = 0;
    std::iter::from_fn(move || {
        while offset < bytes.len() {
            let start = offset;
            let Some(head) = bytes[start..].first_chunk::<DIRENT_HEADER>() else {
                offset = bytes.len();
                return Some(Err(BadDirent(start)));
            };
            let fileno = u32::from_ne_bytes([head[0], head[1], head[2], head[3]]);
            let reclen = usize::from(u16::from_ne_bytes([head[4], head[5]]));
            let end = DIRENT_HEADER + usize::from(head[7]);
            if reclen < end || bytes.len() - start < end {
                offset = bytes.len();
                return Some(Err(BadDirent(start)));
            }
            offset += reclen;
            if fileno != 0 && head[7] != 0 {
                return Some(Ok(Dirent {
                    offset: start,
                    fileno,
                    kind: head[6],
                    name: &bytes[start + DIRENT_HEADER..start + end],
                }));
            }
        }
        None
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_written_is_read(
            entries in prop::collection::vec(
                (1u32.., 0u8..15, prop::collection::vec(1u8.., 1..=255)), 0..200)
        ) {
            let mut dir = DirBuilder::default();
            for (fileno, kind, name) in &entries {
                dir.push(*fileno, *kind, name);
            }
            let bytes = dir.finish();
            prop_assert_eq!(bytes.len() % DIR_BLOCK, 0);
            let read: Result<Vec<_>, _> = dirents(&bytes).collect();
            let read = read.unwrap();
            prop_assert_eq!(read.len(), entries.len());
            for (got, (fileno, kind, name)) in read.iter().zip(&entries) {
                prop_assert_eq!(got.fileno, *fileno);
                prop_assert_eq!(got.kind, *kind);
                prop_assert_eq!(got.name, &name[..]);
                let end = got.offset + DIRENT_HEADER + name.len();
                prop_assert_eq!(got.offset / DIR_BLOCK, end / DIR_BLOCK);
            }
        }

        #[test]
        fn any_bytes_are_read_to_an_end(bytes in prop::collection::vec(any::<u8>(), 0..9000)) {
            dirents(&bytes).count();
        }
    }
}
