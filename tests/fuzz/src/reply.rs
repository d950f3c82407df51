// SPDX-License-Identifier: GPL-2.0

//! What the cache manager writes: replies and downcalls.

use crate::{
    vfs::inode::{mode, Attr, TimeSpec},
    wire::{self, Decoder},
};
use coda_proto::{
    vtype, CreateOut, FidOut, GetattrOut, IoctlOut, LookupOut, Opcode, OpenByFdOut, OutHdr,
    PurgeuserOut, ReadlinkOut, ReplaceOut, RootOut, StatfsOut, Timespec, Vattr,
};
use kernel::prelude::*;
use zerocopy::FromBytes;

/// `data` is what the cache manager wrote. Whether it answers what it says is the kernel's to know:
/// here it is read as the answer to each request, and as each downcall.
pub fn check(data: &[u8]) {
    let data = &data[..data.len().min(wire::OUT_LONGEST)];
    header(data);
    result(data);

    agree(data, Decoder::fid, |out: RootOut, fid| {
        let fid = fid.unwrap();
        assert_eq!(fid.0, out.fid.0);
        assert_eq!(fid.ino(), u64::from(out.fid.inode_number()));
    });
    agree(data, Decoder::u32, |out: OpenByFdOut, fd| {
        assert_eq!(fd.unwrap() as i32, out.fd);
    });
    let fid_and_kind = |body: &mut Decoder<'_>| Ok((body.fid()?, body.u32()?));
    agree(data, fid_and_kind, |out: LookupOut, answer| {
        let (fid, kind) = answer.unwrap();
        assert_eq!((fid.0, kind), (out.fid.0, out.vtype));
    });
    agree(data, Decoder::attr, |out: GetattrOut, attr| {
        attributes(&out.attr, attr);
    });
    let fid_and_attr = |body: &mut Decoder<'_>| Ok((body.fid()?, body.attr()?));
    agree(data, fid_and_attr, |out: CreateOut, answer| {
        if let Ok((fid, _)) = &answer {
            assert_eq!(fid.0, out.fid.0);
        }
        attributes(&out.attr, answer.map(|(_, attr)| attr));
    });
    agree(data, Decoder::data, |out: ReadlinkOut, part| {
        counted(data, out.count, out.data, part);
    });
    agree(data, Decoder::data, |out: IoctlOut, part| {
        counted(data, out.len, out.data, part);
    });
    let five_words = |body: &mut Decoder<'_>| {
        let mut words = [0; 5];
        for word in &mut words {
            *word = body.u32()? as i32;
        }
        Ok(words)
    };
    agree(data, five_words, |out: StatfsOut, numbers| {
        let wanted = [out.blocks, out.bfree, out.bavail, out.files, out.ffree];
        assert_eq!(numbers.unwrap(), wanted);
    });

    agree(data, Decoder::u32, |out: PurgeuserOut, uid| {
        assert_eq!(uid.unwrap(), out.uid);
    });
    agree(data, Decoder::fid, |out: FidOut, fid| {
        assert_eq!(fid.unwrap().0, out.fid.0);
    });
    let two_fids = |body: &mut Decoder<'_>| Ok((body.fid()?, body.fid()?));
    agree(data, two_fids, |out: ReplaceOut, fids| {
        let (new, old) = fids.unwrap();
        assert_eq!((new.0, old.0), (out.new.0, out.old.0));
    });
}

/// What `decode` makes of the body has to be what `out` says, and `EIO` if that is not all there.
fn agree<'a, Out: FromBytes, T>(
    data: &'a [u8],
    decode: impl FnOnce(&mut Decoder<'a>) -> Result<T>,
    check: impl FnOnce(Out, Result<T>),
) {
    let answer = decode(&mut Decoder::body(data));
    match Out::read_from_prefix(data) {
        Ok((out, _)) => check(out, answer),
        Err(_) => assert_eq!(
            answer.err(),
            Some(EIO),
            "a struct that is cut off was taken"
        ),
    }
}

fn header(data: &[u8]) {
    let header = Decoder::new(data).header();
    assert_eq!(header.is_ok(), data.len() >= wire::OUT_SHORTEST);
    let Ok((out, _)) = OutHdr::read_from_prefix(data) else {
        assert!(data.len() < wire::OUT_HDR);
        return;
    };
    let header = header.unwrap();
    assert_eq!((header.opcode, header.unique), (out.opcode, out.unique));
    assert_eq!(
        wire::is_downcall(header.opcode),
        (Opcode::REPLACE..=Opcode::PURGEFID).contains(&Opcode(out.opcode))
    );
}

/// The last error of Linux that a program may see.
const LAST_ERRNO: u32 = libc::EHWPOISON as u32;

fn result(data: &[u8]) {
    let mut decoder = Decoder::new(data);
    let result = match decoder.header() {
        Ok(_) => decoder.result(),
        Err(err) => Err((err, false)),
    };
    if let Err((err, _)) = result {
        assert!((-4095..=-1).contains(&err.to_errno()));
    }
    let wanted = match OutHdr::read_from_prefix(data) {
        Ok((OutHdr { result: 0, .. }, _)) => Ok(()),
        Ok((OutHdr { result, .. }, _)) if result <= LAST_ERRNO => {
            Err((Error::from_errno(-(result as i32)), true))
        }
        _ => Err((EIO, false)),
    };
    assert_eq!(result, wanted);
}

fn attributes(out: &Vattr, attr: Result<Attr>) {
    let kind = match out.kind {
        vtype::REG => Some(libc::S_IFREG),
        vtype::DIR => Some(libc::S_IFDIR),
        vtype::LNK => Some(libc::S_IFLNK),
        _ => None,
    };
    let size = out.size as i64;
    let (Some(kind), -1..) = (kind, size) else {
        assert_eq!(attr, Err(EIO), "a type or size that there is not was taken");
        return;
    };
    // All bits set: not given.
    let permissions = if out.mode == u16::MAX { 0 } else { out.mode };
    let id = |id| if id == u32::MAX { None } else { Some(id) };
    let time = |Timespec { sec, nsec }| (sec != -1).then_some(TimeSpec { sec, nsec });
    let attr = attr.unwrap();
    assert_eq!(
        attr,
        Attr {
            mode: Some(kind | u32::from(permissions & 0o7777)),
            uid: id(out.uid),
            gid: id(out.gid),
            nlink: (out.nlink >= 0).then_some(out.nlink as u32),
            size: (size >= 0).then_some(size),
            atime: time(out.atime),
            mtime: time(out.mtime),
            ctime: time(out.ctime),
            rdev: 0,
        }
    );
    assert_eq!(attr.mode.unwrap() & !mode::S_IFMT & !0o7777, 0);
}

/// `part` is to be the `count` bytes from `offset` on, all of them in the reply.
fn counted(data: &[u8], count: i32, offset: u64, part: Result<&[u8]>) {
    // As wide as no sum of the two can be too large.
    let (from, to) = (i128::from(offset), i128::from(offset) + i128::from(count));
    if count < 0 || to > data.len() as i128 {
        assert_eq!(
            part,
            Err(EIO),
            "a part that leads out of the reply was taken"
        );
        return;
    }
    let part = part.unwrap();
    assert!(std::ptr::eq(part, &data[from as usize..to as usize]));
}
