// SPDX-License-Identifier: GPL-2.0

//! The generator: which operation comes next.

use super::model::*;
use super::op::Op;
use super::{MAPS, PAGE, SLOTS};
use rand::prelude::*;

/// The operations by weight; the sum does not matter.
#[rustfmt::skip]
pub(super) const WEIGHTS: &[(&str, u32)] = &[
    ("open", 130), ("close", 55), ("dup", 10), ("read", 30), ("pread", 40), ("readv", 12),
    ("preadv2", 12), ("write", 45), ("pwrite", 45), ("writev", 12), ("lseek", 40),
    ("ftruncate", 14), ("truncate", 14), ("fsync", 12), ("fdatasync", 6), ("stat", 30),
    ("lstat", 20), ("fstat", 25), ("statx", 20), ("access", 15), ("faccessat2", 12),
    ("chmod", 20), ("fchmod", 8), ("chown", 8), ("lchown", 5), ("utimensat", 18),
    ("futimens", 8), ("mkdir", 30), ("rmdir", 12), ("unlink", 25), ("rename", 30),
    ("renameat2", 6), ("link", 18), ("linkat", 6), ("symlink", 18), ("readlink", 12),
    ("mknod", 5), ("list", 35), ("statfs", 6), ("getfl", 6), ("setfl", 6), ("setlk", 14),
    ("getlk", 8), ("flock", 10), ("ioctl", 4), ("getxattr", 4), ("setxattr", 4),
    ("listxattr", 4), ("fadvise", 8), ("readahead", 6), ("sendfile", 12), ("splice", 12),
    ("copy_file_range", 8), ("mmap", 35), ("map_load", 40), ("map_store", 20), ("mprotect", 12),
    ("msync", 10), ("munmap", 14), ("madvise", 8), ("exec", 5), ("child_io", 14), ("kill", 16),
    ("fresh_map", 14),
];

pub(super) const FILE: &[Kind] = &[Kind::File];
pub(super) const DIR: &[Kind] = &[Kind::Dir];
pub(super) const LINK: &[Kind] = &[Kind::Link];
pub(super) const ANY: &[Kind] = &[Kind::File, Kind::Dir, Kind::Link];
pub(super) const REACHABLE: &[Kind] = &[Kind::File, Kind::File, Kind::Dir];

/// The stream of operations of a seed.
pub(super) struct Generator {
    rng: StdRng,
    model: Model,
    /// Files of their own that were made so far.
    serial: usize,
}

impl Generator {
    pub(super) fn new(seed: u64, actors: usize) -> Self {
        Self {
            rng: StdRng::seed_from_u64(seed),
            model: Model::new(actors),
            serial: 0,
        }
    }

    /// The next operation and who does it. Most that would fail are dropped.
    pub(super) fn next(&mut self) -> (usize, Op) {
        let actors = self.model.slots.len();
        // Root is no better a test than the others, but it gets further.
        let who = match self.one_in(3) {
            true => 0,
            false => self.rng.random_range(0..actors),
        };
        loop {
            let op = self.candidate(who);
            if self.model.apply(who, &op).is_some() {
                return (who, op);
            }
            if self.one_in(4) {
                self.model.forget(who, &op);
                return (who, op);
            }
        }
    }

    fn one_in(&mut self, n: u32) -> bool {
        self.rng.random_ratio(1, n)
    }

    /// One of some strings.
    fn one(&mut self, of: &[&str]) -> String {
        of.choose(&mut self.rng).copied().unwrap_or("").to_string()
    }

    /// A name that objects of this kind have.
    fn name(&mut self, kind: Kind) -> String {
        let (letter, most) = match kind {
            Kind::File => ('f', 12),
            Kind::Dir => ('d', 6),
            Kind::Link => ('s', 4),
        };
        format!("{letter}{}", self.rng.random_range(1..=most))
    }

    /// Something unusual that leads to nothing that has to stay as it is.
    fn odd(&mut self) -> String {
        let file = self.name(Kind::File);
        match self.rng.random_range(0..5) {
            0 => "x".repeat(255),
            1 => "y".repeat(256),
            2 => "o\u{ff}\u{80}d\"d\n".to_string(),
            3 => String::new(),
            _ => format!("{file}/x"),
        }
    }

    /// The same place by another path.
    fn dress(&mut self, path: &str) -> String {
        if path.is_empty() {
            return self.one(&[".", "./", "@", "@/."]);
        }
        let dir = self.name(Kind::Dir);
        match self.rng.random_range(0..40) {
            0 => format!("./{path}"),
            1 => format!(".//{}", path.replace('/', "//")),
            2 => format!("{path}/"),
            3 | 4 => format!("@/{path}"),
            5 => format!("{dir}/../{path}"),
            6 => format!("@/{dir}/.././{path}"),
            _ => path.to_string(),
        }
    }

    /// The path of something that is expected to exist below the directory
    /// worked in.
    fn old(&mut self, kinds: &[Kind]) -> String {
        if self.one_in(40) {
            return self.odd();
        }
        let kind = *kinds.choose(&mut self.rng).unwrap_or(&Kind::File);
        let model = &self.model;
        let mut fitting = Vec::new();
        for (name, id) in model.names.iter().skip(1) {
            if model.nodes[*id].kind == kind {
                fitting.push(name);
            }
        }
        match fitting.choose(&mut self.rng).map(|name| name.to_string()) {
            Some(path) => self.dress(&path),
            None => self.new_path(kind),
        }
    }

    /// A path to look at, which may be the directory worked in or its parent.
    fn place(&mut self, kinds: &[Kind]) -> String {
        match self.rng.random_range(0..40) {
            0 => "..".to_string(),
            1..4 => self.dress(""),
            4 => {
                // Through what may be a link to a directory.
                let link = self.name(Kind::Link);
                let file = self.name(Kind::File);
                format!("{link}/{file}")
            }
            _ => self.old(kinds),
        }
    }

    /// A path in some directory, at which there may or may not be something.
    fn new_path(&mut self, kind: Kind) -> String {
        if self.one_in(40) {
            return self.odd();
        }
        let model = &self.model;
        let mut dirs = Vec::new();
        for (name, id) in &model.names {
            if model.nodes[*id].kind == Kind::Dir && name.matches('/').count() < 2 {
                dirs.push(name);
            }
        }
        let dir = dirs.choose(&mut self.rng).map_or("", |dir| dir).to_string();
        // Half of all is at the top, where all actors may write.
        let dir = if self.one_in(2) { String::new() } else { dir };
        let path = join(&dir, &self.name(kind));
        self.dress(&path)
    }

    fn len(&mut self) -> usize {
        let most = *[100, 100, 4096, 8192, 8192, 65536]
            .choose(&mut self.rng)
            .unwrap_or(&1);
        match self.rng.random_range(0..12) {
            0 => most,
            1 => 0,
            _ => self.rng.random_range(1..=most),
        }
    }

    /// How much to write: C takes a write of nothing for one, and sets times.
    fn some(&mut self) -> usize {
        self.len().max(1)
    }

    fn lens(&mut self) -> Vec<usize> {
        let count = self.rng.random_range(1..=4);
        (0..count).map(|_| self.some().div_ceil(2)).collect()
    }

    /// An offset, mostly within the file.
    fn off(&mut self, who: usize, slot: usize) -> i64 {
        let node = self.model.slots[who][slot].as_ref().map(|slot| slot.node);
        let size = node.map_or(0, |node| self.model.nodes[node].size);
        match self.rng.random_range(0..20) {
            0 => self.rng.random_range(0..1 << 20),
            1 => size,
            2..=6 => 0,
            7 => size / PAGE as i64 * PAGE as i64,
            _ => self.rng.random_range(0..=size.min(1 << 20)),
        }
    }

    fn size(&mut self) -> i64 {
        match self.rng.random_range(0..20) {
            0 => -1,
            1..4 => 0,
            4 => self.rng.random_range(0..1 << 20),
            _ => self.len() as i64,
        }
    }

    /// A slot that is used so, or any.
    fn slot(&mut self, who: usize, fits: impl Fn(&Slot) -> bool) -> usize {
        let slots = &self.model.slots[who];
        let fitting = |i: &usize| slots[*i].as_ref().is_some_and(&fits);
        let fitting: Vec<usize> = (0..SLOTS).filter(fitting).collect();
        let any = self.rng.random_range(0..SLOTS);
        match self.one_in(25) {
            true => any,
            false => fitting.choose(&mut self.rng).copied().unwrap_or(any),
        }
    }

    /// A mapping that is there or is not.
    fn map(&mut self, who: usize, there: bool) -> usize {
        let maps = &self.model.maps[who];
        let fitting: Vec<usize> = (0..MAPS).filter(|i| maps[*i].is_some() == there).collect();
        let any = self.rng.random_range(0..MAPS);
        fitting.choose(&mut self.rng).copied().unwrap_or(any)
    }

    fn time(&mut self) -> String {
        match self.rng.random_range(0..8) {
            0 => "now".to_string(),
            1 => "omit".to_string(),
            _ => {
                let seconds = self.rng.random_range(100..=999_999_999);
                format!("{seconds}.{:09}", self.rng.random_range(0..1_000_000_000))
            }
        }
    }

    fn mode(&mut self, dir: bool) -> u32 {
        // No set-id bits: C does not take them away when somebody else writes.
        let files = [0o644, 0o644, 0o666, 0o600, 0o444, 0o755, 0];
        let dirs = [0o755, 0o755, 0o777, 0o777, 0o700, 0o555, 0o1777, 0o2775, 0];
        let modes = if dir { &dirs[..] } else { &files[..] };
        modes.choose(&mut self.rng).copied().unwrap_or(0)
    }

    fn open(&mut self, who: usize) -> Op {
        let free = self.model.slots[who].iter().position(|slot| slot.is_none());
        let Some(slot) = free else {
            let slot = self.rng.random_range(0..SLOTS);
            return Op::Close { slot };
        };
        let mode = self.one(&["O_RDONLY", "O_RDONLY", "O_RDWR", "O_RDWR", "O_WRONLY"]);
        let (path, flags) = match self.rng.random_range(0..40) {
            0..14 => (self.place(REACHABLE), mode),
            14..26 => (self.new_path(Kind::File), format!("{mode}|O_CREAT")),
            26..29 => (self.new_path(Kind::File), format!("{mode}|O_CREAT|O_EXCL")),
            29 => (self.old(FILE), format!("{mode}|O_CREAT|O_EXCL")),
            30 => (self.old(FILE), format!("{mode}|O_TRUNC")),
            31 => (self.old(FILE), format!("{mode}|O_CREAT|O_TRUNC")),
            32 => (self.place(ANY), format!("{mode}|O_NOFOLLOW")),
            33 | 34 => (self.place(DIR), "O_RDONLY|O_DIRECTORY".to_string()),
            35 => (self.place(ANY), "O_RDONLY|O_DIRECTORY".to_string()),
            36 => (self.place(ANY), "O_PATH|O_NOFOLLOW".to_string()),
            37 => (self.old(LINK), mode),
            38 => (self.old(FILE), "O_ACCMODE".to_string()),
            _ => (self.old(DIR), "O_TMPFILE|O_RDWR".to_string()),
        };
        // There should be no FIFO, but then nothing should wait for one either.
        let flags = format!("{flags}|O_NONBLOCK");
        let mode = *[0o644, 0o644, 0o666, 0o600, 0o444, 0o755]
            .choose(&mut self.rng)
            .unwrap_or(&0);
        Op::Open {
            slot,
            path,
            flags,
            mode,
        }
    }

    fn mmap(&mut self, who: usize) -> Op {
        let map = self.map(who, false);
        let slot = self.slot(who, |slot| slot.read);
        let off = self.off(who, slot);
        let off = match self.one_in(30) {
            true => off,
            false => off / PAGE as i64 * PAGE as i64,
        };
        // The C module counts the writable shared mappings of a file wrongly,
        // so a shared one is only made of what cannot be written. The model
        // knows that well: a slot is never in use for anything else.
        let known = self.model.slots[who][slot].as_ref();
        let shared = known.is_some_and(|slot| slot.read && !slot.write) && self.one_in(2);
        let (prot, flags) = match (shared, self.rng.random_range(0..3)) {
            (true, 0) => ("PROT_READ|PROT_WRITE", "MAP_SHARED"),
            (true, _) => ("PROT_READ", "MAP_SHARED"),
            (false, 0) => ("PROT_READ", "MAP_PRIVATE"),
            (false, _) => ("PROT_READ|PROT_WRITE", "MAP_PRIVATE"),
        };
        let len = self.len();
        let (prot, flags) = (prot.to_string(), flags.to_string());
        Op::Mmap {
            map,
            slot,
            off,
            len,
            prot,
            flags,
        }
    }

    /// A part of a mapping.
    fn part(&mut self, who: usize) -> (usize, usize, usize) {
        let map = self.map(who, true);
        let whole = self.model.maps[who][map].as_ref().map_or(1, |m| m.len);
        let off = self.rng.random_range(0..whole.max(1));
        match self.one_in(2) {
            true => (map, 0, whole),
            false => (map, off, self.rng.random_range(0..=whole - off)),
        }
    }

    /// An operation that is not known to succeed.
    #[rustfmt::skip]
    fn candidate(&mut self, who: usize) -> Op {
        let kind = WEIGHTS.choose_weighted(&mut self.rng, |entry| entry.1);
        let read = |slot: &Slot| slot.read;
        let write = |slot: &Slot| slot.write;
        let used = |_: &Slot| true;
        // Something that is certainly no directory, if it is there at all:
        // seeking in those is left to other tests, and the directory worked in
        // has to keep its mode.
        let file = |i: &usize| self.model.slots[who][*i].as_ref().is_some_and(write);
        let file: Vec<usize> = (0..SLOTS).filter(file).collect();
        let file = file.choose(&mut self.rng).copied();
        match kind.expect("the weights are good").0 {
            "open" => self.open(who),
            "close" => Op::Close { slot: self.slot(who, used) },
            "dup" => Op::Dup { slot: self.slot(who, used), to: self.rng.random_range(0..SLOTS) },
            "read" => Op::Read { slot: self.slot(who, read), len: self.len() },
            "pread" => {
                let slot = self.slot(who, read);
                Op::Pread { slot, off: self.off(who, slot), len: self.len() }
            }
            "readv" => Op::Readv { slot: self.slot(who, read), lens: self.lens() },
            "preadv2" => {
                let slot = self.slot(who, read);
                Op::Preadv2 { slot, off: self.off(who, slot), lens: self.lens() }
            }
            "write" => Op::Write { slot: self.slot(who, write), len: self.some() },
            "pwrite" => {
                let slot = self.slot(who, write);
                Op::Pwrite { slot, off: self.off(who, slot), len: self.some() }
            }
            "writev" => Op::Writev { slot: self.slot(who, write), lens: self.lens() },
            "lseek" => {
                let Some(slot) = file else { return self.open(who) };
                let whence = self.one(&[
                    "SEEK_SET", "SEEK_SET", "SEEK_SET", "SEEK_CUR", "SEEK_END", "SEEK_DATA",
                    "SEEK_HOLE",
                ]);
                let off = match whence.as_str() {
                    "SEEK_CUR" | "SEEK_END" => self.rng.random_range(-9000..100),
                    _ => self.off(who, slot),
                };
                Op::Lseek { slot, off, whence }
            }
            "ftruncate" => Op::Ftruncate { slot: self.slot(who, write), size: self.size() },
            "truncate" => Op::Truncate { path: self.place(FILE), size: self.size() },
            "fsync" => Op::Fsync { slot: self.slot(who, used) },
            "fdatasync" => Op::Fdatasync { slot: self.slot(who, used) },
            "stat" => Op::Stat { path: self.place(ANY) },
            "lstat" => Op::Lstat { path: self.place(ANY) },
            "fstat" => Op::Fstat { slot: self.slot(who, used) },
            "statx" => Op::Statx {
                path: self.place(ANY),
                flags: self.one(&[
                    "AT_STATX_DONT_SYNC", "AT_STATX_FORCE_SYNC", "AT_SYMLINK_NOFOLLOW",
                    "AT_STATX_DONT_SYNC|AT_SYMLINK_NOFOLLOW",
                    "AT_STATX_FORCE_SYNC|AT_SYMLINK_NOFOLLOW",
                ]),
                mask: self.one(&[
                    "STATX_BASIC_STATS", "STATX_BASIC_STATS|STATX_BTIME", "STATX_SIZE",
                    "STATX_TYPE|STATX_MODE", "STATX_INO", "STATX_MTIME|STATX_SIZE",
                ]),
            },
            "access" => Op::Access {
                path: self.place(ANY),
                mode: self.one(&["F_OK", "R_OK", "W_OK", "X_OK", "R_OK|W_OK", "R_OK|X_OK"]),
            },
            "faccessat2" => Op::Faccessat2 {
                path: self.place(ANY),
                mode: self.one(&["F_OK", "R_OK", "W_OK", "X_OK", "R_OK|W_OK"]),
                flags: self.one(&["AT_EACCESS", "AT_EACCESS|AT_SYMLINK_NOFOLLOW"]),
            },
            "chmod" => {
                let kinds = if self.one_in(3) { DIR } else { FILE };
                Op::Chmod { path: self.old(kinds), mode: self.mode(kinds == DIR) }
            }
            "fchmod" => {
                let Some(slot) = file else { return self.open(who) };
                Op::Fchmod { slot, mode: self.mode(false) }
            }
            "chown" | "lchown" => {
                let ids = [-1, 0, 1000, 1000, 1001];
                let uid = *ids.choose(&mut self.rng).unwrap_or(&-1);
                let gid = *ids.choose(&mut self.rng).unwrap_or(&-1);
                let path = self.old(ANY);
                match self.one_in(2) {
                    true => Op::Chown { path, uid, gid },
                    false => Op::Lchown { path, uid, gid },
                }
            }
            "utimensat" => Op::Utimensat {
                path: self.old(ANY),
                atime: self.time(),
                mtime: self.time(),
                flags: self.one(&["", "AT_SYMLINK_NOFOLLOW"]),
            },
            "futimens" => {
                let Some(slot) = file else { return self.open(who) };
                Op::Futimens { slot, atime: self.time(), mtime: self.time() }
            }
            "mkdir" => Op::Mkdir {
                path: self.new_path(Kind::Dir),
                mode: *[0o777, 0o777, 0o755, 0o700].choose(&mut self.rng).unwrap_or(&0),
            },
            "rmdir" => match self.one_in(6) {
                true => Op::Rmdir { path: self.place(ANY) },
                false => Op::Rmdir { path: self.old(DIR) },
            },
            "unlink" => match self.one_in(6) {
                true => Op::Unlink { path: self.place(DIR) },
                false => Op::Unlink { path: self.old(&[Kind::File, Kind::File, Kind::Link]) },
            },
            "rename" => {
                let kind = *ANY.choose(&mut self.rng).unwrap_or(&Kind::File);
                let to = match self.one_in(8) {
                    true => self.place(ANY),
                    false => self.new_path(kind),
                };
                Op::Rename { from: self.old(&[kind]), to }
            }
            "renameat2" => Op::Renameat2 {
                from: self.old(ANY),
                to: self.new_path(Kind::File),
                flags: self.one(&["RENAME_NOREPLACE", "RENAME_EXCHANGE"]),
            },
            "link" => Op::Link { from: self.old(FILE), to: self.new_path(Kind::File) },
            "linkat" => Op::Linkat {
                from: self.old(&[Kind::File, Kind::Link]),
                to: self.new_path(Kind::File),
                flags: "AT_SYMLINK_FOLLOW".to_string(),
            },
            "symlink" => {
                let path = self.new_path(Kind::Link);
                let target = match self.rng.random_range(0..10) {
                    0 => "none".to_string(),
                    1 => path.rsplit('/').next().unwrap_or("").to_string(),
                    2 => self.name(Kind::Link),
                    3 | 4 => format!("@/{}", self.name(Kind::Dir)),
                    5 | 6 => format!("@/{}", self.name(Kind::File)),
                    7 => self.name(Kind::Dir),
                    _ => self.name(Kind::File),
                };
                Op::Symlink { target, path }
            }
            "readlink" => match self.one_in(6) {
                true => Op::Readlink { path: self.place(ANY) },
                false => Op::Readlink { path: self.old(LINK) },
            },
            // Never opened: the names are of no other use.
            "mknod" => Op::Mknod {
                path: self.one(&["p1", "p2", "p3"]),
                kind: self.one(&["S_IFIFO", "S_IFREG", "S_IFCHR"]),
                mode: 0o644,
            },
            "list" => match self.one_in(3) {
                true => Op::List { path: self.dress("") },
                false => Op::List { path: self.old(DIR) },
            },
            "statfs" => Op::Statfs { path: self.place(ANY) },
            "getfl" => Op::Getfl { slot: self.slot(who, used) },
            "setfl" => Op::Setfl {
                slot: self.slot(who, used),
                flags: self.one(&["O_NONBLOCK", ""]),
            },
            lock @ ("setlk" | "getlk") => {
                let kind = self.one(&["F_RDLCK", "F_WRLCK", "F_UNLCK"]);
                let slot = match kind.as_str() {
                    "F_RDLCK" => self.slot(who, read),
                    _ => self.slot(who, write),
                };
                let (off, len) = (self.off(who, slot), self.len() as i64);
                match lock {
                    "setlk" => Op::Setlk { slot, kind, off, len },
                    _ => Op::Getlk { slot, kind, off, len },
                }
            }
            "flock" => Op::Flock {
                slot: self.slot(who, used),
                how: self.one(&["LOCK_SH|LOCK_NB", "LOCK_EX|LOCK_NB", "LOCK_UN|LOCK_NB"]),
            },
            "ioctl" => Op::Ioctl { slot: self.slot(who, used), number: 0x5eed },
            "getxattr" => Op::Getxattr { path: self.place(ANY), name: "user.x".to_string() },
            "setxattr" => {
                let len = self.len() % 100;
                Op::Setxattr { path: self.old(ANY), name: "user.x".to_string(), len }
            }
            "listxattr" => Op::Listxattr { path: self.place(ANY) },
            "fadvise" => {
                let slot = self.slot(who, used);
                Op::Fadvise {
                    slot,
                    off: self.off(who, slot),
                    len: self.len() as i64,
                    advice: self.one(&[
                        "POSIX_FADV_NORMAL", "POSIX_FADV_SEQUENTIAL", "POSIX_FADV_WILLNEED",
                        "POSIX_FADV_DONTNEED",
                    ]),
                }
            }
            "readahead" => {
                let slot = self.slot(who, read);
                Op::Readahead { slot, off: self.off(who, slot), len: self.len() }
            }
            // What goes to a pipe has to fit into it, whatever its pages hold.
            "sendfile" => {
                let (len, to_pipe) = (self.len() / 2, self.one_in(2));
                Op::Sendfile { slot: self.slot(who, read), len, to_pipe }
            }
            "splice" => Op::Splice { slot: self.slot(who, read), len: self.len() / 2 },
            "copy_file_range" => {
                Op::CopyFileRange { slot: self.slot(who, read), len: self.len() }
            }
            "mmap" => self.mmap(who),
            "map_load" => {
                let (map, off, len) = self.part(who);
                Op::MapLoad { map, off, len }
            }
            "map_store" => {
                let (map, off, len) = self.part(who);
                Op::MapStore { map, off, len }
            }
            "mprotect" => Op::Mprotect {
                map: self.map(who, true),
                prot: self.one(&["PROT_READ", "PROT_READ|PROT_WRITE", "PROT_NONE"]),
            },
            "msync" => Op::Msync {
                map: self.map(who, true),
                flags: self.one(&["MS_SYNC", "MS_ASYNC", "MS_INVALIDATE", "MS_SYNC|MS_ASYNC"]),
            },
            "munmap" => Op::Munmap { map: self.map(who, true) },
            "madvise" => Op::Madvise {
                map: self.map(who, true),
                advice: self.one(&["MADV_DONTNEED", "MADV_WILLNEED", "MADV_NORMAL"]),
            },
            "exec" => Op::Exec { path: self.place(FILE) },
            "child_io" => {
                let (len, out) = (self.some(), self.one_in(2));
                let slot = self.slot(who, |slot| if out { slot.write } else { slot.read });
                Op::ChildIo { slot, len, write: out }
            }
            "kill" => {
                let flags = self.one(&["O_RDONLY", "O_RDWR", "O_WRONLY", "O_RDWR|O_CREAT"]);
                let path = match flags.contains("O_CREAT") {
                    true => self.new_path(Kind::File),
                    false => self.old(FILE),
                };
                Op::Kill { path, flags: format!("{flags}|O_NONBLOCK"), len: self.some() }
            }
            "fresh_map" => {
                self.serial += 1;
                Op::FreshMap {
                    path: format!("m{}", self.serial),
                    len: self.len().max(1),
                    msync: self.one_in(2),
                    unlink: self.one_in(3),
                }
            }
            other => unreachable!("no operation is called {other}"),
        }
    }
}
