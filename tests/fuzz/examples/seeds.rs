// SPDX-License-Identifier: GPL-2.0

//! Writes the hand-made part of the corpus, one well-formed input of each kind, below the directory
//! that it is given.

use coda_proto::{
    dirtype, vtype, CreateOut, DirBuilder, Fid, FidOut, GetattrOut, IoctlOut, LookupOut, Opcode,
    OpenByFdOut, OutHdr, PurgeuserOut, ReadlinkOut, ReplaceOut, RootOut, StatfsOut, Vattr,
};
use std::{env, fs, io, path::Path};
use zerocopy::IntoBytes;

fn main() -> io::Result<()> {
    let top = env::args_os().nth(1).expect("seeds DIR");
    let put = |target: &str, name: &str, bytes: &[u8]| {
        let dir = Path::new(&top).join(target);
        fs::create_dir_all(&dir)?;
        fs::write(dir.join(name), bytes)
    };
    replies(&|name, bytes| put("reply", name, bytes))?;
    files(&|name, bytes| put("dirent", name, bytes))?;
    for (n, name) in UPCALLS.iter().enumerate() {
        // Who asks, which upcall by a number that is mapped onto all of them, and what is in it.
        let mut bytes = vec![1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0];
        let which = ((n as u64) << 32).div_ceil(UPCALLS.len() as u64);
        bytes.extend((which as u32).to_le_bytes());
        bytes.extend(1..=120);
        put("upcall", name, &bytes)?;
    }
    Ok(())
}

const FID: Fid = Fid([1, 0x7f00_0001, 3, 4]);

/// The variants of `Upcall`, in their order.
const UPCALLS: [&str; 20] = [
    "root",
    "statfs",
    "signal",
    "getattr",
    "fsync",
    "setattr",
    "access",
    "open_by_fd",
    "close",
    "readlink",
    "access_intent",
    "ioctl",
    "lookup",
    "create",
    "mkdir",
    "remove",
    "rmdir",
    "link",
    "rename",
    "symlink",
];

type Put<'a> = &'a dyn Fn(&str, &[u8]) -> io::Result<()>;

fn replies(put: Put<'_>) -> io::Result<()> {
    let oh = |opcode: Opcode| OutHdr {
        opcode: opcode.0,
        unique: 7,
        result: 0,
    };
    let attr = Vattr {
        kind: vtype::REG,
        mode: 0o644,
        nlink: 1,
        uid: 1000,
        gid: u32::MAX,
        size: 4096,
        ..Vattr::default()
    };
    let made = |opcode| CreateOut {
        oh: oh(opcode),
        fid: FID,
        attr,
        ..CreateOut::default()
    };
    let root = RootOut {
        oh: oh(Opcode::ROOT),
        fid: FID,
    };
    put("root", root.as_bytes())?;
    let open = OpenByFdOut {
        oh: oh(Opcode::OPEN_BY_FD),
        fd: 9,
    };
    put("open_by_fd", open.as_bytes())?;
    let getattr = GetattrOut {
        oh: oh(Opcode::GETATTR),
        attr,
        ..GetattrOut::default()
    };
    put("getattr", getattr.as_bytes())?;
    let lookup = LookupOut {
        oh: oh(Opcode::LOOKUP),
        fid: FID,
        vtype: vtype::DIR as u32 | vtype::NOCACHE,
    };
    put("lookup", lookup.as_bytes())?;
    put("create", made(Opcode::CREATE).as_bytes())?;
    put("mkdir", made(Opcode::MKDIR).as_bytes())?;
    let statfs = StatfsOut {
        oh: oh(Opcode::STATFS),
        blocks: 1000,
        bfree: 500,
        bavail: 400,
        files: 300,
        ffree: -1,
    };
    put("statfs", statfs.as_bytes())?;
    let target = b"path/of/it\0";
    let mut readlink = ReadlinkOut {
        oh: oh(Opcode::READLINK),
        count: target.len() as i32,
        data: size_of::<ReadlinkOut>() as u64,
    }
    .as_bytes()
    .to_vec();
    readlink.extend(target);
    put("readlink", &readlink)?;
    let mut ioctl = IoctlOut {
        oh: oh(Opcode::IOCTL),
        len: 4,
        data: size_of::<IoctlOut>() as u64,
    }
    .as_bytes()
    .to_vec();
    ioctl.extend(b"data");
    put("ioctl", &ioctl)?;
    for (name, opcode) in [
        ("close", Opcode::CLOSE),
        ("setattr", Opcode::SETATTR),
        ("access", Opcode::ACCESS),
        ("remove", Opcode::REMOVE),
        ("rmdir", Opcode::RMDIR),
        ("link", Opcode::LINK),
        ("rename", Opcode::RENAME),
        ("symlink", Opcode::SYMLINK),
        ("fsync", Opcode::FSYNC),
        ("access_intent", Opcode::ACCESS_INTENT),
        ("flush", Opcode::FLUSH),
    ] {
        put(name, oh(opcode).as_bytes())?;
    }
    // The first and the last errno, and what is on either side of them.
    for result in [1, 133, 134, 4095, 4096, i32::MIN as u32, u32::MAX] {
        let mut oh = oh(Opcode::LOOKUP);
        oh.result = result;
        put(&format!("result_{result:x}"), oh.as_bytes())?;
    }
    let uid = PurgeuserOut {
        oh: oh(Opcode::PURGEUSER),
        uid: 1000,
    };
    put("purgeuser", uid.as_bytes())?;
    for (name, opcode) in [
        ("zapfile", Opcode::ZAPFILE),
        ("zapdir", Opcode::ZAPDIR),
        ("purgefid", Opcode::PURGEFID),
    ] {
        let zap = FidOut {
            oh: oh(opcode),
            fid: FID,
        };
        put(name, zap.as_bytes())?;
    }
    let replace = ReplaceOut {
        oh: oh(Opcode::REPLACE),
        new: FID,
        old: Fid([5, 6, 7, 8]),
    };
    put("replace", replace.as_bytes())
}

fn files(put: Put<'_>) -> io::Result<()> {
    let file = |first: u8, names: &[&[u8]]| {
        let mut dir = DirBuilder::default();
        for (n, name) in names.iter().enumerate() {
            dir.push(n as u32 + 1, dirtype::REG, name);
        }
        let mut bytes = vec![first];
        bytes.extend(dir.finish());
        // The last record fills up a block; nobody looks at what is in it.
        bytes.truncate(600);
        bytes
    };
    put("listing", &file(1, &[b".", b"..", b"name", b"other"]))?;
    put("long", &file(1, &[&[b'n'; 255], b"other"]))?;
    put("slash", &file(1, &[b"name", b"a/b"]))?;
    put("nul", &file(1, &[b"name", b"a\0b"]))?;
    put(
        "end",
        &file(60, &[b"one", b"two", b"three", b"four", b"five"]),
    )?;
    put(
        "entries",
        b"\0\x01\0\0\0\x08name\x02\0\0\0\x04other\x04\x05",
    )
}
