// SPDX-License-Identifier: GPL-2.0

//! What the kernel sends.

use crate::{
    vfs::{
        errno::ENAMETOOLONG,
        inode::{Attr, TimeSpec},
        task::{self, Task},
    },
    wire::{cflags, op, Fid, Intent, Message, MAXDATASIZE, OUT_LONGEST},
};
use arbitrary::{Arbitrary, Unstructured};
use coda_proto::{
    intent, name_at, AccessIntentIn, CreateIn, CreateOut, FidIn, FlagsIn, GetattrOut, InHdr,
    IoctlIn, IoctlOut, LinkIn, LookupIn, LookupOut, MkdirIn, NameIn, Opcode, ReadlinkOut, RenameIn,
    RootOut, SetattrIn, StatfsOut, SymlinkIn, Timespec, Vattr,
};
use kernel::prelude::*;
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// The two have their numbers from nowhere in common.
const _: () = {
    assert!(op::ROOT == Opcode::ROOT.0);
    assert!(op::OPEN_BY_FD == Opcode::OPEN_BY_FD.0);
    assert!(op::CLOSE == Opcode::CLOSE.0);
    assert!(op::REPLACE == Opcode::REPLACE.0);
    assert!(op::FLUSH == Opcode::FLUSH.0);
    assert!(op::PURGEUSER == Opcode::PURGEUSER.0);
    assert!(op::ZAPFILE == Opcode::ZAPFILE.0);
    assert!(op::ZAPDIR == Opcode::ZAPDIR.0);
    assert!(op::PURGEFID == Opcode::PURGEFID.0);
    assert!(cflags::READ == coda_proto::C_O_READ);
    assert!(cflags::WRITE == coda_proto::C_O_WRITE);
    assert!(cflags::TRUNC == coda_proto::C_O_TRUNC);
    assert!(cflags::CREAT == coda_proto::C_O_CREAT);
    assert!(cflags::NO_WRITES == coda_proto::C_O_NO_WRITES);
};

/// `data` says which upcall is made, with what in it, and what happens to it until it is sent.
pub fn check(data: &[u8]) {
    let Ok(input) = Input::arbitrary_take_rest(Unstructured::new(data)) else {
        return;
    };
    task::set(input.task);
    kernel::alloc::allow(input.allocations.map_or(u32::MAX, u32::from));
    let msg = input.upcall.build();
    kernel::alloc::allow(u32::MAX);
    let mut msg = match msg {
        Ok(msg) => msg,
        Err(ENOMEM) => {
            assert!(input.allocations.is_some());
            return;
        }
        Err(err) => {
            assert!(input.upcall.is_too_long(), "refused: {:?}", input.upcall);
            assert_eq!(err, ENAMETOOLONG.into());
            return;
        }
    };
    assert!(!input.upcall.is_too_long(), "taken: {:?}", input.upcall);
    // A close is made before there is anybody who closes.
    if let Upcall::Close { .. } = input.upcall {
        msg.set_sender();
    }

    let Bytes(mut wanted) = input.upcall.wanted(&input.task);
    assert_eq!(sent(&msg), wanted, "{:?}", input.upcall);
    assert_eq!(msg.len(), wanted.len());
    assert_eq!(msg.opcode(), header(&wanted).opcode);
    match input.upcall {
        // Nobody replies.
        Upcall::Signal { .. } => assert_eq!(msg.room(), 0),
        Upcall::Ioctl { .. } => {
            assert!((size_of::<IoctlOut>() + MAXDATASIZE..=OUT_LONGEST).contains(&msg.room()));
        }
        _ => assert_eq!(msg.room(), wanted.len()),
    }
    for edit in input.edits.iter().flatten() {
        edit.make(&mut msg, &mut wanted);
        assert_eq!(sent(&msg), wanted, "{edit:?} of {:?}", input.upcall);
    }
}

/// What the cache manager reads.
fn sent(msg: &Message) -> Vec<u8> {
    let (bytes, zeroes) = msg.parts();
    [bytes, &vec![0; zeroes]].concat()
}

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    /// Who asks.
    task: Task,
    upcall: Upcall<'a>,
    /// What happens to the message.
    edits: [Option<Edit>; 3],
    /// How much memory there is.
    allocations: Option<u8>,
}

type Words = [u32; 4];

#[derive(Arbitrary, Debug)]
enum Upcall<'a> {
    Root,
    Statfs,
    Signal {
        unique: u32,
    },
    Getattr {
        fid: Words,
    },
    Fsync {
        fid: Words,
    },
    Setattr {
        fid: Words,
        attr: Attr,
    },
    Access {
        fid: Words,
        mask: u32,
    },
    OpenByFd {
        fid: Words,
        flags: u32,
    },
    Close {
        fid: Words,
        flags: u32,
        uid: u32,
    },
    Readlink {
        fid: Words,
        room: u16,
    },
    AccessIntent {
        fid: Words,
        count: usize,
        pos: i64,
        kind: u8,
    },
    Ioctl {
        fid: Words,
        cmd: u32,
        data: &'a [u8],
    },
    Lookup {
        fid: Words,
        name: Text<'a>,
    },
    Create {
        fid: Words,
        name: Text<'a>,
        mode: u32,
    },
    Mkdir {
        fid: Words,
        name: Text<'a>,
        mode: u32,
    },
    Remove {
        fid: Words,
        name: Text<'a>,
    },
    Rmdir {
        fid: Words,
        name: Text<'a>,
    },
    Link {
        fid: Words,
        dir: Words,
        name: Text<'a>,
    },
    Rename {
        from: Words,
        old: Text<'a>,
        to: Words,
        new: Text<'a>,
    },
    Symlink {
        fid: Words,
        name: Text<'a>,
        target: Text<'a>,
    },
}

/// A string without NUL.
#[derive(Debug)]
struct Text<'a>(&'a [u8]);

impl<'a> Arbitrary<'a> for Text<'a> {
    fn arbitrary(input: &mut Unstructured<'a>) -> arbitrary::Result<Self> {
        /// So that few bytes make a long one.
        const LONG: [u8; 2048] = [b'x'; 2048];
        /// The longest that are taken, and one more.
        const LIMITS: [usize; 4] = [
            coda_proto::MAXNAMLEN,
            coda_proto::MAXNAMLEN + 1,
            coda_proto::MAXPATHLEN,
            coda_proto::MAXPATHLEN + 1,
        ];
        let text = match u16::arbitrary(input)? {
            which @ 0xc000.. => &LONG[..LIMITS[usize::from(which) % LIMITS.len()]],
            len @ 0x8000.. => &LONG[..usize::from(len) % (LONG.len() + 1)],
            len => input.bytes(usize::from(len).min(input.len()))?,
        };
        let len = text.iter().position(|byte| *byte == 0);
        Ok(Self(&text[..len.unwrap_or(text.len())]))
    }
}

const KINDS: [(Intent, i32); 5] = [
    (Intent::Read, intent::READ),
    (Intent::Write, intent::WRITE),
    (Intent::Mmap, intent::MMAP),
    (Intent::ReadFinish, intent::READ_FINISH),
    (Intent::WriteFinish, intent::WRITE_FINISH),
];

impl Upcall<'_> {
    fn build(&self) -> Result<Message> {
        match *self {
            Self::Root => Message::root(),
            Self::Statfs => Message::statfs(),
            Self::Signal { unique } => Message::signal(unique),
            Self::Getattr { fid } => Message::getattr(&Fid(fid)),
            Self::Fsync { fid } => Message::fsync(&Fid(fid)),
            Self::Setattr { fid, attr } => Message::setattr(&Fid(fid), &attr),
            Self::Access { fid, mask } => Message::access(&Fid(fid), mask),
            Self::OpenByFd { fid, flags } => Message::open_by_fd(&Fid(fid), flags),
            Self::Close { fid, flags, uid } => Message::close(&Fid(fid), flags, uid),
            Self::Readlink { fid, room } => Message::readlink(&Fid(fid), room.into()),
            Self::AccessIntent {
                fid,
                count,
                pos,
                kind,
            } => {
                let (kind, _) = KINDS[usize::from(kind) % KINDS.len()];
                Message::access_intent(&Fid(fid), count, pos, kind)
            }
            Self::Ioctl { fid, cmd, data } => Message::ioctl(&Fid(fid), cmd, data),
            Self::Lookup { fid, ref name } => Message::lookup(&Fid(fid), name.0),
            Self::Create {
                fid,
                ref name,
                mode,
            } => Message::create(&Fid(fid), name.0, mode),
            Self::Mkdir {
                fid,
                ref name,
                mode,
            } => Message::mkdir(&Fid(fid), name.0, mode),
            Self::Remove { fid, ref name } => Message::remove(&Fid(fid), name.0),
            Self::Rmdir { fid, ref name } => Message::rmdir(&Fid(fid), name.0),
            Self::Link { fid, dir, ref name } => Message::link(&Fid(fid), &Fid(dir), name.0),
            Self::Rename {
                from,
                ref old,
                to,
                ref new,
            } => Message::rename(&Fid(from), old.0, &Fid(to), new.0),
            Self::Symlink {
                fid,
                ref name,
                ref target,
            } => Message::symlink(&Fid(fid), name.0, target.0),
        }
    }

    fn is_too_long(&self) -> bool {
        let is_name = |name: &Text<'_>| name.0.len() <= coda_proto::MAXNAMLEN;
        match self {
            Self::Lookup { name, .. }
            | Self::Create { name, .. }
            | Self::Mkdir { name, .. }
            | Self::Remove { name, .. }
            | Self::Rmdir { name, .. }
            | Self::Link { name, .. } => !is_name(name),
            Self::Rename { old, new, .. } => !is_name(old) || !is_name(new),
            Self::Symlink { name, target, .. } => {
                !is_name(name) || target.0.len() > coda_proto::MAXPATHLEN
            }
            _ => false,
        }
    }

    /// All bytes of the message, as `coda_proto` lays them out.
    fn wanted(&self, task: &Task) -> Bytes {
        let ih = |opcode: Opcode| InHdr {
            opcode: opcode.0,
            unique: 0,
            pid: task.pid,
            pgid: task.pgid,
            uid: task.fsuid,
        };
        let about = |opcode, fid| FidIn {
            ih: ih(opcode),
            fid: coda_proto::Fid(fid),
        };
        let flags = |opcode, fid, flags| FlagsIn {
            ih: ih(opcode),
            fid: coda_proto::Fid(fid),
            flags,
        };
        match *self {
            Self::Root => Bytes::of(ih(Opcode::ROOT)).with_reply::<RootOut>(0),
            Self::Statfs => Bytes::of(ih(Opcode::STATFS)).with_reply::<StatfsOut>(0),
            // Of its header no more than these two are set.
            Self::Signal { unique } => Bytes::of(InHdr {
                opcode: Opcode::SIGNAL.0,
                unique,
                ..InHdr::default()
            }),
            Self::Getattr { fid } => {
                Bytes::of(about(Opcode::GETATTR, fid)).with_reply::<GetattrOut>(0)
            }
            Self::Fsync { fid } => Bytes::of(about(Opcode::FSYNC, fid)),
            Self::Setattr { fid, attr } => Bytes::of(SetattrIn {
                ih: ih(Opcode::SETATTR),
                fid: coda_proto::Fid(fid),
                attr: changes(&attr),
                ..SetattrIn::default()
            }),
            Self::Access { fid, mask } => Bytes::of(flags(Opcode::ACCESS, fid, mask)),
            Self::OpenByFd { fid, flags: bits } => Bytes::of(flags(Opcode::OPEN_BY_FD, fid, bits)),
            Self::Close {
                fid,
                flags: bits,
                uid,
            } => {
                let mut close = flags(Opcode::CLOSE, fid, bits);
                close.ih.uid = uid;
                Bytes::of(close)
            }
            Self::Readlink { fid, room } => {
                Bytes::of(about(Opcode::READLINK, fid)).with_reply::<ReadlinkOut>(room.into())
            }
            Self::AccessIntent {
                fid,
                count,
                pos,
                kind,
            } => Bytes::of(AccessIntentIn {
                ih: ih(Opcode::ACCESS_INTENT),
                fid: coda_proto::Fid(fid),
                // The low halves.
                count: count as i32,
                pos: pos as i32,
                kind: KINDS[usize::from(kind) % KINDS.len()].1,
            }),
            Self::Ioctl { fid, cmd, data } => Bytes::of(IoctlIn {
                ih: ih(Opcode::IOCTL),
                fid: coda_proto::Fid(fid),
                cmd,
                len: data.len() as i32,
                rwflag: 0,
                data: size_of::<IoctlIn>() as u64,
            })
            .then(data),
            Self::Lookup { fid, ref name } => Bytes::of(LookupIn {
                ih: ih(Opcode::LOOKUP),
                fid: coda_proto::Fid(fid),
                name: size_of::<LookupIn>() as i32,
                // CLU_CASE_SENSITIVE
                flags: 1,
            })
            .name(name)
            .with_reply::<LookupOut>(0),
            Self::Create {
                fid,
                ref name,
                mode,
            } => Bytes::of(CreateIn {
                ih: ih(Opcode::CREATE),
                fid: coda_proto::Fid(fid),
                attr: Vattr {
                    mode: mode as u16,
                    // Not given: 0 would truncate.
                    size: u64::MAX,
                    ..Vattr::default()
                },
                mode: mode as i32,
                name: size_of::<CreateIn>() as i32,
                ..CreateIn::default()
            })
            .name(name)
            .with_reply::<CreateOut>(0),
            Self::Mkdir {
                fid,
                ref name,
                mode,
            } => Bytes::of(MkdirIn {
                ih: ih(Opcode::MKDIR),
                fid: coda_proto::Fid(fid),
                attr: Vattr {
                    mode: mode as u16,
                    ..Vattr::default()
                },
                name: size_of::<MkdirIn>() as i32,
                ..MkdirIn::default()
            })
            .name(name)
            .with_reply::<CreateOut>(0),
            Self::Remove { fid, ref name } | Self::Rmdir { fid, ref name } => {
                let opcode = match self {
                    Self::Remove { .. } => Opcode::REMOVE,
                    _ => Opcode::RMDIR,
                };
                Bytes::of(NameIn {
                    ih: ih(opcode),
                    fid: coda_proto::Fid(fid),
                    name: size_of::<NameIn>() as i32,
                })
                .name(name)
            }
            Self::Link { fid, dir, ref name } => Bytes::of(LinkIn {
                ih: ih(Opcode::LINK),
                source: coda_proto::Fid(fid),
                dest: coda_proto::Fid(dir),
                tname: size_of::<LinkIn>() as i32,
            })
            .name(name),
            Self::Rename {
                from,
                ref old,
                to,
                ref new,
            } => Bytes::of(RenameIn {
                ih: ih(Opcode::RENAME),
                source: coda_proto::Fid(from),
                srcname: size_of::<RenameIn>() as i32,
                dest: coda_proto::Fid(to),
                destname: behind(size_of::<RenameIn>(), old),
            })
            .two_names(old, new),
            Self::Symlink {
                fid,
                ref name,
                ref target,
            } => Bytes::of(SymlinkIn {
                ih: ih(Opcode::SYMLINK),
                fid: coda_proto::Fid(fid),
                srcname: size_of::<SymlinkIn>() as i32,
                tname: behind(size_of::<SymlinkIn>(), target),
                ..SymlinkIn::default()
            })
            .two_names(target, name),
        }
    }
}

/// A message in the making.
struct Bytes(Vec<u8>);

impl Bytes {
    fn of(fixed: impl IntoBytes + Immutable) -> Self {
        Self(fixed.as_bytes().to_vec())
    }

    fn then(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }

    /// A name that the message ends with.
    fn name(self, name: &Text<'_>) -> Self {
        let at = self.0.len();
        let this = self.then(name.0).then(&[0]);
        assert_eq!(name_at(&this.0, at as i32), Some(name.0));
        this
    }

    /// Two names, each filled up to a word. There is always room for the most that this can take.
    fn two_names(self, first: &Text<'_>, second: &Text<'_>) -> Self {
        let at = self.0.len();
        let mut this = self.name(first);
        this.0.resize(behind(at, first) as usize, 0);
        let mut this = this.name(second);
        this.0.resize(at + first.0.len() + second.0.len() + 8, 0);
        this
    }

    /// Room for a reply of so many bytes more than the struct.
    fn with_reply<Out>(mut self, more: usize) -> Self {
        let len = self.0.len().max(size_of::<Out>() + more);
        self.0.resize(len, 0);
        self
    }
}

/// Where the second of two names begins.
fn behind(at: usize, first: &Text<'_>) -> i32 {
    (at + (first.0.len() + 1).next_multiple_of(4)) as i32
}

/// All bits set where nothing is to change.
fn changes(attr: &Attr) -> Vattr {
    let time = |time: Option<TimeSpec>| match time {
        Some(TimeSpec { sec, nsec }) => Timespec { sec, nsec },
        None => Timespec { sec: -1, nsec: -1 },
    };
    Vattr {
        kind: coda_proto::vtype::NON,
        mode: attr.mode.map_or(u16::MAX, |mode| mode as u16),
        nlink: -1,
        uid: attr.uid.unwrap_or(u32::MAX),
        gid: attr.gid.unwrap_or(u32::MAX),
        _pad: 0,
        fileid: -1,
        size: attr.size.map_or(u64::MAX, |size| size as u64),
        blocksize: -1,
        atime: time(attr.atime),
        mtime: time(attr.mtime),
        ctime: time(attr.ctime),
        generation: u64::MAX,
        flags: 0,
        rdev: u64::MAX,
        bytes: u64::MAX,
        filerev: 0,
    }
}

#[derive(Arbitrary, Debug)]
enum Edit {
    Unique(u32),
    Sender(Task),
    Fid(Words),
    /// The fid that is there, or this one, is replaced.
    Replace(Option<Words>, Words),
    NoWrites,
}

impl Edit {
    /// Does it to the message, and to the bytes that it is to have.
    fn make(&self, msg: &mut Message, wanted: &mut [u8]) {
        let opcode = Opcode(header(wanted).opcode);
        let about_one = !matches!(opcode, Opcode::ROOT | Opcode::STATFS | Opcode::SIGNAL);
        match *self {
            Self::Unique(unique) => {
                msg.set_unique(unique);
                change::<InHdr>(wanted, |ih| ih.unique = unique);
            }
            Self::Sender(task) => {
                // The user is that of who made the message.
                task::set(task);
                msg.set_sender();
                change::<InHdr>(wanted, |ih| (ih.pid, ih.pgid) = (task.pid, task.pgid));
            }
            Self::Fid(fid) if about_one => {
                msg.set_fid(&Fid(fid));
                change::<FidIn>(wanted, |about| about.fid.0 = fid);
            }
            Self::Replace(old, new) => {
                let about = FidIn::read_from_prefix(wanted).ok();
                let fid = about.map(|(about, _)| about.fid.0);
                let old = old.or(fid).unwrap_or_default();
                msg.replace_fid(&Fid(old), &Fid(new));
                if about_one && fid == Some(old) {
                    change::<FidIn>(wanted, |about| about.fid.0 = new);
                }
            }
            Self::NoWrites if opcode == Opcode::CLOSE => {
                msg.set_no_writes();
                change::<FlagsIn>(wanted, |close| close.flags |= coda_proto::C_O_NO_WRITES);
            }
            Self::Fid(_) | Self::NoWrites => {}
        }
    }
}

/// Changes the struct at the front.
fn change<T: FromBytes + IntoBytes + Immutable>(bytes: &mut [u8], how: impl FnOnce(&mut T)) {
    let (mut fixed, _) = T::read_from_prefix(bytes).expect("the struct is there");
    how(&mut fixed);
    fixed.write_to_prefix(bytes).expect("and so is its room");
}

fn header(bytes: &[u8]) -> InHdr {
    InHdr::read_from_prefix(bytes)
        .expect("the header is there")
        .0
}
