// SPDX-License-Identifier: GPL-2.0

//! The bytes of a directory file.

use crate::dirent::{Found, Records};
use arbitrary::{Arbitrary, Unstructured};
use coda_proto::{dirents, BadDirent, DirBuilder, Dirent};

/// The position of the first record, behind `.` and `..`.
const FIRST: i64 = 2;

/// The first byte of `data` says what the rest is: entries, of which a directory file is made; or
/// the file itself, which begins with records or, for all but a few values, is the end of one that
/// is as long as can be.
pub fn check(data: &[u8]) {
    match data.split_first() {
        None => {}
        Some((0, rest)) => well_formed(rest),
        Some((1, file)) => at_the_front(file),
        Some((room, file)) => at_the_end(file, i64::from(*room)),
    }
}

/// An entry as a reader sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    ino: u32,
    kind: u8,
    name: Vec<u8>,
}

/// What a listing shows, and the position of what ends it if that is not the file's end.
#[derive(Debug, Default, PartialEq, Eq)]
struct Listing {
    shown: Vec<Entry>,
    malformed: Option<i64>,
}

/// Lists a file as the module does, from `position` on. The bytes of `file` begin at its offset
/// `base`. Gives the positions of all records, too.
fn list(file: &[u8], base: i64, mut position: i64) -> (Listing, Vec<i64>) {
    let (mut listing, mut positions) = (Listing::default(), Vec::new());
    let mut records = Records::new();
    loop {
        let wanted = position - FIRST;
        let found = records.at(position, |buf, offset| {
            assert_eq!(offset, wanted);
            assert!(offset.checked_add(buf.len() as i64).is_some());
            let rest = usize::try_from(offset - base)
                .ok()
                .and_then(|at| file.get(at..));
            let rest = rest.unwrap_or_default();
            let len = rest.len().min(buf.len());
            buf[..len].copy_from_slice(&rest[..len]);
            Ok(len)
        });
        match found.expect("reading does not fail") {
            Found::End => {
                assert!(wanted - base >= file.len() as i64, "it ends before the end");
                return (listing, positions);
            }
            Found::Nonsense(offset) => {
                assert_eq!(offset, wanted);
                listing.malformed = Some(position);
                return (listing, positions);
            }
            Found::Record(entry) => {
                // A header and a name at least.
                let least = 8 + entry.name.len() as i64;
                assert!(entry.next - position >= least, "it does not get on");
                assert!(
                    wanted - base + least <= file.len() as i64,
                    "a name from beyond the end"
                );
                if entry.is_shown() {
                    assert!(is_name(entry.name), "no name: {:?}", entry.name);
                    listing.shown.push(Entry {
                        ino: entry.ino,
                        kind: entry.kind,
                        name: entry.name.to_vec(),
                    });
                }
                positions.push(position);
                position = entry.next;
            }
        }
    }
}

fn is_name(name: &[u8]) -> bool {
    (1..=255).contains(&name.len())
        && name != b"."
        && name != b".."
        && !name.contains(&0)
        && !name.contains(&b'/')
}

/// What `coda_proto` makes of a file.
fn wanted(file: &[u8]) -> Listing {
    let mut listing = Listing::default();
    for entry in dirents(file) {
        match entry {
            Ok(Dirent {
                name: b"." | b"..", ..
            }) => {}
            Ok(entry) if is_name(entry.name) => listing.shown.push(seen(&entry)),
            Ok(Dirent { offset, .. }) | Err(BadDirent(offset)) => {
                listing.malformed = Some(FIRST + offset as i64);
                break;
            }
        }
    }
    listing
}

fn seen(entry: &Dirent<'_>) -> Entry {
    const TYPES: [u8; 8] = [
        libc::DT_FIFO,
        libc::DT_CHR,
        libc::DT_DIR,
        libc::DT_BLK,
        libc::DT_REG,
        libc::DT_LNK,
        libc::DT_SOCK,
        // DT_WHT
        14,
    ];
    Entry {
        ino: entry.fileno,
        kind: if TYPES.contains(&entry.kind) {
            entry.kind
        } else {
            libc::DT_UNKNOWN
        },
        name: entry.name.to_vec(),
    }
}

/// Any bytes.
fn at_the_front(file: &[u8]) {
    let (listing, positions) = list(file, 0, FIRST);
    assert_eq!(listing, wanted(file));
    // A reader may come back to any record later.
    if let Some(&last) = positions.last() {
        let (rest, _) = list(file, 0, last);
        assert!(listing.shown.ends_with(&rest.shown));
        assert_eq!(listing.malformed, rest.malformed);
        // Or to anywhere in it.
        let (rest, _) = list(file, 0, last + 1);
        let offset = (last + 1 - FIRST) as usize;
        let mut wanted = wanted(file.get(offset..).unwrap_or_default());
        wanted.malformed = wanted.malformed.map(|position| position + offset as i64);
        assert_eq!(rest, wanted);
    }
}

/// The same where positions come to their end, `room` bytes behind that of the first record.
fn at_the_end(file: &[u8], room: i64) {
    let (low, positions) = list(file, 0, FIRST);
    let (high, moved) = list(file, i64::MAX - room - FIRST, i64::MAX - room);
    let by = i64::MAX - room - FIRST;
    // A record that is good is followed by another, or by what ends the file.
    let fits = |position: &i64| {
        let at = (position - FIRST) as usize;
        let len = u16::from_ne_bytes([file[at + 4], file[at + 5]]);
        position
            .checked_add(by)
            .and_then(|at| at.checked_add(len.into()))
            .is_some()
    };
    let fitting: Vec<_> = positions
        .iter()
        .take_while(|at| fits(at))
        .map(|at| at + by)
        .collect();
    assert_eq!(moved, fitting);
    match positions.get(fitting.len()) {
        Some(position) => {
            assert_eq!(high.malformed, Some(position + by));
            assert!(low.shown.starts_with(&high.shown));
        }
        None => {
            assert_eq!(high.malformed, low.malformed.map(|position| position + by));
            assert_eq!(high.shown, low.shown);
        }
    }
}

/// Entries, written by `coda_proto`: all of them are to be seen.
fn well_formed(data: &[u8]) {
    let mut input = Unstructured::new(data);
    let mut dir = DirBuilder::default();
    let mut wanted = Listing::default();
    for _ in 0..100 {
        let Ok((fileno, kind, name)) = <(u32, u8, &[u8])>::arbitrary(&mut input) else {
            break;
        };
        let name = &name[..name.len().min(255)];
        if fileno == 0 || !(is_name(name) || matches!(name, b"." | b"..")) {
            continue;
        }
        dir.push(fileno, kind, name);
        if is_name(name) {
            wanted.shown.push(seen(&Dirent {
                offset: 0,
                fileno,
                kind,
                name,
            }));
        }
    }
    let file = dir.finish();
    assert_eq!(list(&file, 0, FIRST).0, wanted);
    let cut = &file[..file.len() / 2];
    assert_eq!(list(cut, 0, FIRST).0, self::wanted(cut));
}
