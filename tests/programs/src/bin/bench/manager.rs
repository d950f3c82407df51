// SPDX-License-Identifier: GPL-2.0

//! A cache manager that does as little as one can, and knows how long it takes.
//!
//! It serves a directory. Everything is honest, and nothing is remembered but which
//! fid is which path. The time from when a request has been read until its reply is
//! written is its own; what is left of a call's time is the kernel's.

use coda_proto::request::{Ask, Request, read};
use coda_proto::{
    C_O_TRUNC, C_O_WRITE, CreateOut, DirBuilder, Fid, GetattrOut, InHdr, LookupOut, MAXMSGSIZE,
    Opcode, OpenByFdOut, OutHdr, RootOut, StatfsOut, Timespec, Vattr, dirtype, intent, vtype,
};
use coda_selftests::sys;
use ktest::{Context, Result, bail};
use nix::errno::Errno;
use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use zerocopy::IntoBytes;

/// What it tells whoever measures; all zero is a good beginning.
pub struct Told {
    /// Nanoseconds that it has spent itself.
    pub own: AtomicU64,
    /// Requests that it has answered.
    pub answered: AtomicU64,
    /// Requests that it does not answer yet.
    pub held: AtomicU64,
    /// The fid that it has told last, one word after the other.
    pub last: [AtomicU64; 4],
}

impl Told {
    /// In memory that a child shares.
    pub fn new() -> Result<&'static Self> {
        // SAFETY: the kernel chooses a place where nothing is.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                size_of::<Self>(),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(Errno::last().into());
        }
        // SAFETY: it is large enough, aligned, stays for ever, and holds zeroes, which atomic numbers
        // may be.
        Ok(unsafe { &*address.cast::<Self>() })
    }

    /// The fid that was told last.
    pub fn last(&self) -> Fid {
        Fid(self.last.each_ref().map(|word| word.load(Relaxed) as u32))
    }
}

/// Nanoseconds of the clock that counts instructions, where the guest has such a clock.
pub fn now() -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the kernel writes the time there.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

fn errno(e: std::io::Error) -> Errno {
    Errno::from_raw(e.raw_os_error().unwrap_or(libc::EIO))
}

struct Manager {
    root: PathBuf,
    paths: HashMap<Fid, PathBuf>,
    fids: HashMap<PathBuf, Fid>,
    /// The directories whose listing has been made; nothing changes in them afterwards but names that nobody lists.
    listed: HashSet<Fid>,
    told: &'static Told,
    /// Requests that wait for their reply: see [`HELD`].
    held: Vec<InHdr>,
}

/// Who looks up a name that begins so has to wait, until somebody looks up [`RELEASE`].
pub const HELD: &str = "held-";
/// See [`HELD`].
pub const RELEASE: &str = "release";

impl Manager {
    fn path(&self, fid: Fid) -> Result<&PathBuf, Errno> {
        self.paths.get(&fid).ok_or(Errno::ESTALE)
    }

    fn fid(&mut self, path: PathBuf) -> Fid {
        let next = Fid([1, 1, 1, self.paths.len() as u32 + 1]);
        let fid = *self.fids.entry(path.clone()).or_insert(next);
        self.paths.entry(fid).or_insert(path);
        for (slot, word) in self.told.last.iter().zip(fid.0) {
            slot.store(word.into(), Relaxed);
        }
        fid
    }

    fn attr(&self, fid: Fid) -> Result<Vattr, Errno> {
        let meta = fs::symlink_metadata(self.root.join(self.path(fid)?)).map_err(errno)?;
        let time = |sec, nsec| Timespec { sec, nsec };
        Ok(Vattr {
            kind: if meta.is_dir() {
                vtype::DIR
            } else {
                vtype::REG
            },
            mode: (meta.mode() & 0o7777) as u16,
            nlink: meta.nlink() as i16,
            fileid: fid.inode_number().into(),
            size: meta.len(),
            blocksize: 4096,
            atime: time(meta.atime(), meta.atime_nsec()),
            mtime: time(meta.mtime(), meta.mtime_nsec()),
            ctime: time(meta.ctime(), meta.ctime_nsec()),
            bytes: meta.blocks() * 512,
            ..Vattr::default()
        })
    }

    /// Where the content of an object is. That of a directory is a file of records, as Venus makes it.
    fn container(&mut self, fid: Fid) -> Result<PathBuf, Errno> {
        let path = self.root.join(self.path(fid)?);
        if !path.is_dir() {
            return Ok(path);
        }
        let listing = self.root.join(format!(".listing-{}", fid.0[3]));
        if self.listed.insert(fid) {
            let mut records = DirBuilder::default();
            for name in [&b"."[..], b".."] {
                records.push(fid.inode_number(), dirtype::UNKNOWN, name);
            }
            for entry in fs::read_dir(path).map_err(errno)? {
                let name = entry.map_err(errno)?.file_name();
                records.push(1, dirtype::UNKNOWN, name.as_bytes());
            }
            fs::write(&listing, records.finish()).map_err(errno)?;
        }
        Ok(listing)
    }

    fn execute(&mut self, ask: &Ask<'_>, keep: &mut Option<OwnedFd>) -> Result<Vec<u8>, Errno> {
        let oh = OutHdr::default();
        let below = |this: &Self, fid: Fid, name: &[u8]| -> Result<PathBuf, Errno> {
            Ok(this.path(fid)?.join(OsStr::from_bytes(name)))
        };
        Ok(match *ask {
            Ask::Root => {
                let fid = self.fid(PathBuf::new());
                RootOut { oh, fid }.as_bytes().to_vec()
            }
            Ask::Getattr { fid } => {
                let attr = self.attr(fid)?;
                GetattrOut { oh, _pad: 0, attr }.as_bytes().to_vec()
            }
            Ask::Lookup { fid, name, .. } => {
                let path = below(self, fid, name)?;
                fs::symlink_metadata(self.root.join(&path)).map_err(errno)?;
                let fid = self.fid(path);
                let vtype = self.attr(fid)?.kind as u32;
                LookupOut { oh, fid, vtype }.as_bytes().to_vec()
            }
            Ask::Create { fid, name, .. } => {
                let path = below(self, fid, name)?;
                File::create(self.root.join(&path)).map_err(errno)?;
                let fid = self.fid(path);
                let attr = self.attr(fid)?;
                let out = CreateOut {
                    oh,
                    fid,
                    attr,
                    ..CreateOut::default()
                };
                out.as_bytes().to_vec()
            }
            Ask::Remove { fid, name } => {
                let path = below(self, fid, name)?;
                fs::remove_file(self.root.join(&path)).map_err(errno)?;
                // The name may come again, for another object.
                self.fids.remove(&path);
                oh.as_bytes().to_vec()
            }
            Ask::OpenByFd { fid, flags } => {
                let path = self.container(fid)?;
                let writes = flags & C_O_WRITE != 0;
                let file = OpenOptions::new()
                    .read(true)
                    .write(writes)
                    .truncate(writes && flags & C_O_TRUNC != 0)
                    .open(path)
                    .map_err(errno)?;
                let fd = keep.insert(file.into()).as_raw_fd();
                OpenByFdOut { oh, fd }.as_bytes().to_vec()
            }
            Ask::Statfs => StatfsOut::default().as_bytes().to_vec(),
            // Who is told so sends no more of them for this file.
            Ask::AccessIntent { .. } => return Err(Errno::EOPNOTSUPP),
            Ask::Close { .. } | Ask::Access { .. } | Ask::Setattr { .. } => oh.as_bytes().to_vec(),
            _ => return Err(Errno::EOPNOTSUPP),
        })
    }

    /// The reply, if there is to be one.
    fn reply(&mut self, request: &Request<'_>, keep: &mut Option<OwnedFd>) -> Option<Vec<u8>> {
        if let Ask::AccessIntent { kind, .. } = request.ask {
            if kind >= intent::READ_FINISH {
                return None;
            }
        }
        if matches!(request.ask, Ask::Signal) {
            return None;
        }
        if matches!(request.ask, Ask::Lookup { name, .. } if name.starts_with(HELD.as_bytes())) {
            self.held.push(request.head);
            self.told.held.store(self.held.len() as u64, Relaxed);
            return None;
        }
        let (result, mut bytes) = match self.execute(&request.ask, keep) {
            Ok(bytes) => (0, bytes),
            Err(e) => (e as u32, OutHdr::default().as_bytes().to_vec()),
        };
        let head = OutHdr::answer(&request.head, result);
        bytes[..size_of::<OutHdr>()].copy_from_slice(head.as_bytes());
        Some(bytes)
    }
}

/// Serves `root` until the process is killed.
pub fn serve(device: &OwnedFd, root: &Path, told: &'static Told) -> Result<Infallible> {
    let mut manager = Manager {
        root: root.to_owned(),
        paths: HashMap::new(),
        fids: HashMap::new(),
        listed: HashSet::new(),
        told,
        held: Vec::new(),
    };
    let mut buffer = vec![0; MAXMSGSIZE];
    loop {
        let len = nix::unistd::read(device, &mut buffer).context("read of the device")?;
        let began = now();
        // C's messages have bytes that nobody has set.
        let request = match read(&buffer[..len]) {
            Ok(request) => request,
            Err(e) => bail!("a request that is none: {e}"),
        };
        let mut keep = None;
        let reply = manager.reply(&request, &mut keep);
        if matches!(request.ask, Ask::Lookup { name, .. } if name == RELEASE.as_bytes()) {
            for head in manager.held.drain(..) {
                let no = OutHdr::answer(&head, Errno::ENOENT as u32);
                sys::write(device, no.as_bytes())?;
            }
        }
        told.own.fetch_add(now() - began, Relaxed);
        if let Some(reply) = reply {
            told.answered.fetch_add(1, Relaxed);
            nix::unistd::write(device, &reply).context("write of the device")?;
        }
        let began = now();
        drop(keep);
        told.own.fetch_add(now() - began, Relaxed);
    }
}

/// Tells the kernel that what it knows of `fid`'s attributes is void.
pub fn zap(device: &OwnedFd, fid: Fid) -> Result<()> {
    let oh = OutHdr {
        opcode: Opcode::ZAPFILE.0,
        ..OutHdr::default()
    };
    sys::write(device, coda_proto::FidOut { oh, fid }.as_bytes())
}
