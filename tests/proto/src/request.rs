// SPDX-License-Identifier: GPL-2.0

//! What a cache manager reads: one request at a time.
//!
//! [`read`] finds the fields, wherever the message says that they are. [`parse`] is
//! for those who trust nobody: it writes the request down again as the protocol has
//! it, and wants the very same bytes. So a byte that nobody has set, a string that
//! is not where it belongs, and a message of another length are errors.

use crate::{
    AccessIntentIn, C_O_CREAT, C_O_NO_WRITES, C_O_READ, C_O_TRUNC, C_O_WRITE, CreateIn, CreateOut,
    Fid, FidIn, FlagsIn, GetattrOut, InHdr, IoctlIn, LinkIn, LookupIn, LookupOut, MAXDATASIZE,
    MAXNAMLEN, MAXPATHLEN, MkdirIn, NameIn, Opcode, ReadlinkOut, RenameIn, RootOut, SetattrIn,
    StatfsOut, SymlinkIn, Timespec, Vattr, intent, name_at,
};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A request: who asks, and for what.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// Opcode, number and sender.
    pub head: InHdr,
    /// The rest of it.
    pub ask: Ask<'a>,
}

/// What is asked for. `fid` is the object, or the directory that a name is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Ask<'a> {
    Root,
    OpenByFd {
        fid: Fid,
        flags: u32,
    },
    Close {
        fid: Fid,
        flags: u32,
    },
    Ioctl {
        fid: Fid,
        cmd: u32,
        data: &'a [u8],
    },
    Getattr {
        fid: Fid,
    },
    Setattr {
        fid: Fid,
        attr: Vattr,
    },
    Access {
        fid: Fid,
        mask: u32,
    },
    Lookup {
        fid: Fid,
        name: &'a [u8],
        flags: u32,
    },
    Create {
        fid: Fid,
        name: &'a [u8],
        attr: Vattr,
        excl: i32,
        mode: i32,
    },
    Remove {
        fid: Fid,
        name: &'a [u8],
    },
    /// `fid` gets one more name in `dir`.
    Link {
        fid: Fid,
        dir: Fid,
        name: &'a [u8],
    },
    /// `name` in `fid` becomes `to` in `dir`.
    Rename {
        fid: Fid,
        name: &'a [u8],
        dir: Fid,
        to: &'a [u8],
    },
    Mkdir {
        fid: Fid,
        name: &'a [u8],
        attr: Vattr,
    },
    Rmdir {
        fid: Fid,
        name: &'a [u8],
    },
    Symlink {
        fid: Fid,
        name: &'a [u8],
        target: &'a [u8],
        attr: Vattr,
    },
    Readlink {
        fid: Fid,
    },
    Fsync {
        fid: Fid,
    },
    /// Nobody waits for the reply to the request of this number any more.
    Signal,
    Statfs,
    AccessIntent {
        fid: Fid,
        count: i32,
        pos: i32,
        kind: i32,
    },
}

/// A request that is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadRequest {
    /// The fixed part is not all there.
    #[error("{0} bytes are too few")]
    Short(usize),
    /// No request has this opcode.
    #[error("opcode {0} is none of a request")]
    Opcode(u32),
    /// A string, or data, that is not inside the message. Holds its offset.
    #[error("what is to be at {0} is not inside the message, or does not end there")]
    Outside(i64),
    /// A field has a value that is never sent.
    #[error("{0}")]
    Value(&'static str),
    /// The message has another length than it should have.
    #[error("{got} bytes, not {want}")]
    Length {
        /// Its length.
        got: usize,
        /// What it should be.
        want: usize,
    },
    /// A byte that should be another one.
    #[error("the byte at {at} is {got:#04x}, not {want:#04x}")]
    Byte {
        /// Where it is.
        at: usize,
        /// What it is.
        got: u8,
        /// What it should be.
        want: u8,
    },
}

fn fixed<T: FromBytes + KnownLayout + Immutable>(msg: &[u8]) -> Result<T, BadRequest> {
    T::read_from_prefix(msg)
        .map(|(value, _)| value)
        .map_err(|_| BadRequest::Short(msg.len()))
}

fn string(msg: &[u8], offset: i32) -> Result<&[u8], BadRequest> {
    name_at(msg, offset).ok_or(BadRequest::Outside(offset.into()))
}

/// The fields of a message, which may have anything else in it as well.
pub fn read(msg: &[u8]) -> Result<Request<'_>, BadRequest> {
    let head: InHdr = fixed(msg)?;
    let ask = match Opcode(head.opcode) {
        Opcode::ROOT => Ask::Root,
        Opcode::STATFS => Ask::Statfs,
        Opcode::SIGNAL => Ask::Signal,
        Opcode::GETATTR => Ask::Getattr {
            fid: fixed::<FidIn>(msg)?.fid,
        },
        Opcode::READLINK => Ask::Readlink {
            fid: fixed::<FidIn>(msg)?.fid,
        },
        Opcode::FSYNC => Ask::Fsync {
            fid: fixed::<FidIn>(msg)?.fid,
        },
        Opcode::OPEN_BY_FD => {
            let FlagsIn { fid, flags, .. } = fixed(msg)?;
            Ask::OpenByFd { fid, flags }
        }
        Opcode::CLOSE => {
            let FlagsIn { fid, flags, .. } = fixed(msg)?;
            Ask::Close { fid, flags }
        }
        Opcode::ACCESS => {
            let FlagsIn { fid, flags, .. } = fixed(msg)?;
            Ask::Access { fid, mask: flags }
        }
        Opcode::IOCTL => {
            let m: IoctlIn = fixed(msg)?;
            let data = usize::try_from(m.data)
                .ok()
                .and_then(|start| msg.get(start..))
                .zip(usize::try_from(m.len).ok())
                .and_then(|(rest, len)| rest.get(..len));
            Ask::Ioctl {
                fid: m.fid,
                cmd: m.cmd,
                data: data.ok_or(BadRequest::Outside(m.data as i64))?,
            }
        }
        Opcode::SETATTR => {
            let SetattrIn { fid, attr, .. } = fixed(msg)?;
            Ask::Setattr { fid, attr }
        }
        Opcode::LOOKUP => {
            let m: LookupIn = fixed(msg)?;
            Ask::Lookup {
                fid: m.fid,
                name: string(msg, m.name)?,
                flags: m.flags,
            }
        }
        Opcode::CREATE => {
            let m: CreateIn = fixed(msg)?;
            Ask::Create {
                fid: m.fid,
                name: string(msg, m.name)?,
                attr: m.attr,
                excl: m.excl,
                mode: m.mode,
            }
        }
        Opcode::REMOVE => {
            let NameIn { fid, name, .. } = fixed(msg)?;
            let name = string(msg, name)?;
            Ask::Remove { fid, name }
        }
        Opcode::RMDIR => {
            let NameIn { fid, name, .. } = fixed(msg)?;
            let name = string(msg, name)?;
            Ask::Rmdir { fid, name }
        }
        Opcode::LINK => {
            let m: LinkIn = fixed(msg)?;
            Ask::Link {
                fid: m.source,
                dir: m.dest,
                name: string(msg, m.tname)?,
            }
        }
        Opcode::RENAME => {
            let m: RenameIn = fixed(msg)?;
            Ask::Rename {
                fid: m.source,
                name: string(msg, m.srcname)?,
                dir: m.dest,
                to: string(msg, m.destname)?,
            }
        }
        Opcode::MKDIR => {
            let m: MkdirIn = fixed(msg)?;
            Ask::Mkdir {
                fid: m.fid,
                name: string(msg, m.name)?,
                attr: m.attr,
            }
        }
        Opcode::SYMLINK => {
            let m: SymlinkIn = fixed(msg)?;
            Ask::Symlink {
                fid: m.fid,
                name: string(msg, m.tname)?,
                target: string(msg, m.srcname)?,
                attr: m.attr,
            }
        }
        Opcode::ACCESS_INTENT => {
            let m: AccessIntentIn = fixed(msg)?;
            Ask::AccessIntent {
                fid: m.fid,
                count: m.count,
                pos: m.pos,
                kind: m.kind,
            }
        }
        Opcode(other) => return Err(BadRequest::Opcode(other)),
    };
    Ok(Request { head, ask })
}

/// The fields of a message that is as the protocol has it, to the last byte.
pub fn parse(msg: &[u8]) -> Result<Request<'_>, BadRequest> {
    let request = read(msg)?;
    request.ask.check()?;
    let want = request.to_bytes();
    if let Some(at) = (0..msg.len().min(want.len())).find(|&at| msg[at] != want[at]) {
        return Err(BadRequest::Byte {
            at,
            got: msg[at],
            want: want[at],
        });
    }
    if msg.len() != want.len() {
        return Err(BadRequest::Length {
            got: msg.len(),
            want: want.len(),
        });
    }
    Ok(request)
}

/// The longest target of a symbolic link that a reply has room for: a page.
const TARGET: usize = 4096;

/// How long the reply to an ioctl may be.
const IOCTL_ROOM: usize = MAXDATASIZE + 512;

/// As the kernel sees the reply to OPEN_BY_FD, with a pointer at the end.
const OPEN_BY_FD_OUT: usize = 24;

/// A name with its terminator, padded to a word.
fn padded(name: &[u8]) -> usize {
    (name.len() + 1).next_multiple_of(4)
}

impl Request<'_> {
    /// The message: as long as the longer of request and reply.
    pub fn to_bytes(&self) -> Vec<u8> {
        let ih = self.head;
        let (mut msg, strings, len) = match self.ask {
            Ask::Root => (bytes(&ih), vec![], size_of::<RootOut>()),
            Ask::Statfs => (bytes(&ih), vec![], size_of::<StatfsOut>()),
            Ask::Signal => {
                let head = InHdr {
                    opcode: ih.opcode,
                    unique: ih.unique,
                    ..InHdr::default()
                };
                (bytes(&head), vec![], 0)
            }
            Ask::Getattr { fid } => (bytes(&FidIn { ih, fid }), vec![], size_of::<GetattrOut>()),
            Ask::Fsync { fid } => (bytes(&FidIn { ih, fid }), vec![], 0),
            Ask::Readlink { fid } => {
                let len = size_of::<ReadlinkOut>() + TARGET;
                (bytes(&FidIn { ih, fid }), vec![], len)
            }
            Ask::OpenByFd { fid, flags } => {
                (bytes(&FlagsIn { ih, fid, flags }), vec![], OPEN_BY_FD_OUT)
            }
            Ask::Close { fid, flags } => (bytes(&FlagsIn { ih, fid, flags }), vec![], 0),
            Ask::Access { fid, mask } => {
                let flags = mask;
                (bytes(&FlagsIn { ih, fid, flags }), vec![], 0)
            }
            Ask::Ioctl { fid, cmd, data } => {
                let head = IoctlIn {
                    ih,
                    fid,
                    cmd,
                    len: data.len() as i32,
                    rwflag: 0,
                    data: size_of::<IoctlIn>() as u64,
                };
                (bytes(&head), vec![(data, data.len())], 0)
            }
            Ask::Setattr { fid, attr } => {
                let _pad = 0;
                let head = SetattrIn {
                    ih,
                    fid,
                    _pad,
                    attr,
                };
                (bytes(&head), vec![], 0)
            }
            Ask::Lookup { fid, name, flags } => {
                let head = LookupIn {
                    ih,
                    fid,
                    name: size_of::<LookupIn>() as i32,
                    flags,
                };
                (bytes(&head), vec![ended(name)], size_of::<LookupOut>())
            }
            Ask::Create {
                fid,
                name,
                attr,
                excl,
                mode,
            } => {
                let head = CreateIn {
                    ih,
                    fid,
                    attr,
                    excl,
                    mode,
                    name: size_of::<CreateIn>() as i32,
                    ..CreateIn::default()
                };
                (bytes(&head), vec![ended(name)], size_of::<CreateOut>())
            }
            Ask::Mkdir { fid, name, attr } => {
                let head = MkdirIn {
                    ih,
                    fid,
                    attr,
                    name: size_of::<MkdirIn>() as i32,
                    ..MkdirIn::default()
                };
                (bytes(&head), vec![ended(name)], size_of::<CreateOut>())
            }
            Ask::Remove { fid, name } | Ask::Rmdir { fid, name } => {
                let head = NameIn {
                    ih,
                    fid,
                    name: size_of::<NameIn>() as i32,
                };
                (bytes(&head), vec![ended(name)], 0)
            }
            Ask::Link { fid, dir, name } => {
                let head = LinkIn {
                    ih,
                    source: fid,
                    dest: dir,
                    tname: size_of::<LinkIn>() as i32,
                };
                (bytes(&head), vec![ended(name)], 0)
            }
            Ask::Rename { fid, name, dir, to } => {
                const NAMES: usize = size_of::<RenameIn>();
                let head = RenameIn {
                    ih,
                    source: fid,
                    srcname: NAMES as i32,
                    dest: dir,
                    destname: (NAMES + padded(name)) as i32,
                };
                let strings = vec![(name, padded(name)), (to, padded(to))];
                (bytes(&head), strings, NAMES + name.len() + to.len() + 8)
            }
            Ask::Symlink {
                fid,
                name,
                target,
                attr,
            } => {
                const NAMES: usize = size_of::<SymlinkIn>();
                let head = SymlinkIn {
                    ih,
                    fid,
                    srcname: NAMES as i32,
                    attr,
                    tname: (NAMES + padded(target)) as i32,
                    _pad: 0,
                };
                let strings = vec![(target, padded(target)), (name, padded(name))];
                (bytes(&head), strings, NAMES + target.len() + name.len() + 8)
            }
            Ask::AccessIntent {
                fid,
                count,
                pos,
                kind,
            } => {
                let head = AccessIntentIn {
                    ih,
                    fid,
                    count,
                    pos,
                    kind,
                };
                (bytes(&head), vec![], 0)
            }
        };
        for (string, room) in strings {
            let end = msg.len() + room;
            msg.extend(string);
            msg.resize(end, 0);
        }
        msg.resize(msg.len().max(len), 0);
        msg
    }

    /// How much of a reply is taken.
    pub fn room(&self) -> usize {
        match self.ask {
            Ask::Ioctl { .. } => IOCTL_ROOM,
            _ => self.to_bytes().len(),
        }
    }
}

fn bytes(head: &(impl IntoBytes + Immutable)) -> Vec<u8> {
    head.as_bytes().to_vec()
}

fn ended(name: &[u8]) -> (&[u8], usize) {
    (name, name.len() + 1)
}

/// What SETATTR says of what nobody may change.
const UNCHANGED: Vattr = Vattr {
    kind: 0,
    mode: u16::MAX,
    nlink: -1,
    uid: u32::MAX,
    gid: u32::MAX,
    _pad: 0,
    fileid: -1,
    size: u64::MAX,
    blocksize: -1,
    atime: NEVER,
    mtime: NEVER,
    ctime: NEVER,
    generation: u64::MAX,
    flags: 0,
    rdev: u64::MAX,
    bytes: u64::MAX,
    filerev: 0,
};

const NEVER: Timespec = Timespec { sec: -1, nsec: -1 };

impl Ask<'_> {
    /// The objects that it names.
    pub fn fids(&self) -> impl Iterator<Item = Fid> + use<> {
        let (first, second) = match *self {
            Ask::Root | Ask::Signal | Ask::Statfs => (None, None),
            Ask::Link { fid, dir, .. } | Ask::Rename { fid, dir, .. } => (Some(fid), Some(dir)),
            Ask::OpenByFd { fid, .. }
            | Ask::Close { fid, .. }
            | Ask::Ioctl { fid, .. }
            | Ask::Getattr { fid }
            | Ask::Setattr { fid, .. }
            | Ask::Access { fid, .. }
            | Ask::Lookup { fid, .. }
            | Ask::Create { fid, .. }
            | Ask::Remove { fid, .. }
            | Ask::Mkdir { fid, .. }
            | Ask::Rmdir { fid, .. }
            | Ask::Symlink { fid, .. }
            | Ask::Readlink { fid }
            | Ask::Fsync { fid }
            | Ask::AccessIntent { fid, .. } => (Some(fid), None),
        };
        first.into_iter().chain(second)
    }

    /// The names in directories that it is about.
    pub fn names(&self) -> impl Iterator<Item = &[u8]> {
        let (first, second) = match *self {
            Ask::Rename { name, to, .. } => (Some(name), Some(to)),
            Ask::Lookup { name, .. }
            | Ask::Create { name, .. }
            | Ask::Remove { name, .. }
            | Ask::Link { name, .. }
            | Ask::Mkdir { name, .. }
            | Ask::Rmdir { name, .. }
            | Ask::Symlink { name, .. } => (Some(name), None),
            _ => (None, None),
        };
        first.into_iter().chain(second)
    }

    /// Fields that may not have any value.
    fn check(&self) -> Result<(), BadRequest> {
        let is_name = |name: &[u8]| {
            (1..=MAXNAMLEN).contains(&name.len())
                && !name.contains(&b'/')
                && !matches!(name, b"." | b"..")
        };
        let bad = |why| Err(BadRequest::Value(why));
        if !self.names().all(is_name) {
            return bad("a name that no directory entry can have");
        }
        match *self {
            Ask::OpenByFd { flags, .. }
                if flags & !(C_O_READ | C_O_WRITE | C_O_TRUNC | C_O_CREAT) != 0 =>
            {
                bad("an open with flags that are none")
            }
            Ask::Close { flags, .. } if flags & !(C_O_READ | C_O_WRITE | C_O_NO_WRITES) != 0 => {
                bad("a close with flags that are none")
            }
            Ask::Close { flags, .. } if flags & (C_O_WRITE | C_O_NO_WRITES) == C_O_NO_WRITES => {
                bad("a close of a reader that tells of writes")
            }
            Ask::Access { mask, .. } if !(1..=7).contains(&mask) => {
                bad("an access that is none of read, write and execute")
            }
            Ask::AccessIntent { kind, .. }
                if !(intent::READ..=intent::WRITE_FINISH).contains(&kind) =>
            {
                bad("an intent of no kind")
            }
            Ask::Lookup { flags, .. } if flags != 1 => bad("a lookup in which case does not count"),
            Ask::Ioctl { data, .. } if data.len() > MAXDATASIZE => bad("too much data"),
            Ask::Symlink { target, .. } if !(1..=MAXPATHLEN).contains(&target.len()) => {
                bad("a target that no symbolic link can have")
            }
            Ask::Symlink { attr, .. } if attr != Vattr::default() => {
                bad("a symbolic link with attributes")
            }
            Ask::Setattr { attr, .. } => {
                let only = Vattr {
                    mode: attr.mode,
                    uid: attr.uid,
                    gid: attr.gid,
                    size: attr.size,
                    atime: attr.atime,
                    mtime: attr.mtime,
                    ctime: attr.ctime,
                    ..UNCHANGED
                };
                match attr == only {
                    true => Ok(()),
                    false => bad("a change of what cannot be changed"),
                }
            }
            Ask::Create {
                attr, excl, mode, ..
            } => {
                // A size of 0 would be an order to truncate.
                let only = Vattr {
                    mode: mode as u16,
                    size: u64::MAX,
                    ..Vattr::default()
                };
                match attr == only && excl == 0 {
                    true => Ok(()),
                    false => bad("a new file with more than its mode"),
                }
            }
            Ask::Mkdir { attr, .. } => {
                let only = Vattr {
                    mode: attr.mode,
                    ..Vattr::default()
                };
                match attr == only {
                    true => Ok(()),
                    false => bad("a new directory with more than its mode"),
                }
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FID: Fid = Fid([1, 2, 3, 4]);

    /// One of each.
    fn all() -> Vec<Vec<u8>> {
        let (fid, dir) = (FID, Fid([5, 6, 7, 8]));
        let (name, to, target) = (&b"name"[..], &b"other"[..], &b"a/b"[..]);
        let flags = C_O_WRITE | C_O_NO_WRITES;
        let mode = 0o644;
        let new = Vattr {
            mode,
            ..Vattr::default()
        };
        let attr = Vattr {
            size: u64::MAX,
            ..new
        };
        let changes = Vattr {
            size: 5,
            ..UNCHANGED
        };
        let asks = [
            (Opcode::ROOT, Ask::Root),
            (Opcode::OPEN_BY_FD, Ask::OpenByFd { fid, flags: 3 }),
            (Opcode::CLOSE, Ask::Close { fid, flags }),
            (
                Opcode::IOCTL,
                Ask::Ioctl {
                    fid,
                    cmd: 9,
                    data: b"data",
                },
            ),
            (Opcode::GETATTR, Ask::Getattr { fid }),
            (Opcode::SETATTR, Ask::Setattr { fid, attr: changes }),
            (Opcode::ACCESS, Ask::Access { fid, mask: 4 }),
            (
                Opcode::LOOKUP,
                Ask::Lookup {
                    fid,
                    name,
                    flags: 1,
                },
            ),
            (
                Opcode::CREATE,
                Ask::Create {
                    fid,
                    name,
                    attr,
                    excl: 0,
                    mode: mode.into(),
                },
            ),
            (Opcode::REMOVE, Ask::Remove { fid, name }),
            (Opcode::LINK, Ask::Link { fid, dir, name }),
            (Opcode::RENAME, Ask::Rename { fid, name, dir, to }),
            (
                Opcode::MKDIR,
                Ask::Mkdir {
                    fid,
                    name,
                    attr: new,
                },
            ),
            (Opcode::RMDIR, Ask::Rmdir { fid, name }),
            (
                Opcode::SYMLINK,
                Ask::Symlink {
                    fid,
                    name,
                    target,
                    attr: Vattr::default(),
                },
            ),
            (Opcode::READLINK, Ask::Readlink { fid }),
            (Opcode::FSYNC, Ask::Fsync { fid }),
            (Opcode::STATFS, Ask::Statfs),
            (
                Opcode::ACCESS_INTENT,
                Ask::AccessIntent {
                    fid,
                    count: 1,
                    pos: 2,
                    kind: 3,
                },
            ),
        ];
        let head = |opcode| InHdr {
            opcode,
            unique: 7,
            pid: 8,
            pgid: 9,
            uid: 10,
        };
        let mut all: Vec<_> = asks
            .map(|(op, ask)| (head(op.0), ask))
            .map(|(head, ask)| Request { head, ask }.to_bytes())
            .into();
        let signal = InHdr {
            pid: 0,
            pgid: 0,
            uid: 0,
            ..head(Opcode::SIGNAL.0)
        };
        all.push(bytes(&signal));
        all
    }

    #[test]
    fn lengths_are_those_of_the_protocol() {
        let lengths: Vec<_> = all().iter().map(Vec::len).collect();
        let (n, m, t) = (4, 5, 3);
        assert_eq!(
            lengths,
            [
                28,
                40,
                40,
                56 + 4,
                152,
                176,
                40,
                45 + n,
                193 + n,
                41 + n,
                57 + n,
                68 + n + m,
                185 + n,
                41 + n,
                192 + t + n,
                24 + 4096,
                36,
                32,
                48,
                20
            ]
        );
    }

    #[test]
    fn what_is_written_is_parsed() {
        for msg in all() {
            let request = parse(&msg).unwrap();
            assert_eq!(request.to_bytes(), msg);
            assert!(request.room() >= msg.len());
        }
    }

    #[test]
    fn every_byte_counts() {
        for msg in all() {
            let op = Opcode(parse(&msg).unwrap().head.opcode);
            let mut longer = msg.clone();
            longer.push(0);
            assert!(parse(&longer).is_err(), "{op} with one byte more");
            assert!(
                parse(&msg[..msg.len() - 1]).is_err(),
                "{op} with one byte less"
            );
        }
        for (op, at) in [
            (Opcode::CREATE, 37),
            (Opcode::CREATE, 60),
            (Opcode::CREATE, 189),
            (Opcode::MKDIR, 170),
            (Opcode::MKDIR, 182),
            (Opcode::SETATTR, 39),
            (Opcode::SETATTR, 61),
            (Opcode::SIGNAL, 8),
            (Opcode::SYMLINK, 100),
            (Opcode::SYMLINK, 196),
            (Opcode::RENAME, 76),
            (Opcode::GETATTR, 36),
            (Opcode::GETATTR, 151),
            (Opcode::READLINK, 4119),
            (Opcode::ROOT, 20),
            (Opcode::STATFS, 31),
            (Opcode::IOCTL, 44),
        ] {
            let mut msg = all()
                .into_iter()
                .find(|m| m[0] == op.0 as u8)
                .expect("there is one of each");
            msg[at] ^= 0x5a;
            assert!(parse(&msg).is_err(), "{op} with a stray byte at {at}");
        }
    }

    #[test]
    fn odd_values_are_refused() {
        let head = InHdr {
            opcode: Opcode::VGET.0,
            ..InHdr::default()
        };
        assert_eq!(
            parse(&bytes(&head)).err(),
            Some(BadRequest::Opcode(Opcode::VGET.0))
        );
        let close = |flags| {
            let head = InHdr {
                opcode: Opcode::CLOSE.0,
                ..InHdr::default()
            };
            let ask = Ask::Close { fid: FID, flags };
            parse(&Request { head, ask }.to_bytes()).is_ok()
        };
        assert!(close(C_O_READ) && close(C_O_WRITE | C_O_NO_WRITES) && close(0));
        assert!(!close(C_O_READ | C_O_NO_WRITES) && !close(C_O_TRUNC));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(
            which in any::<prop::sample::Index>(),
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
            cut in any::<prop::sample::Index>(),
        ) {
            let all = all();
            let mut msg = which.get(&all).clone();
            for (at, byte) in changes {
                let at = at.index(msg.len());
                msg[at] = byte;
            }
            let _ = read(&msg[..cut.index(msg.len())]);
            if let Ok(request) = parse(&msg) {
                prop_assert_eq!(request.to_bytes(), msg);
            }
        }
    }
}
