// SPDX-License-Identifier: GPL-2.0

//! The same files on FUSE, whose reads, writes and mappings the kernel takes to the
//! files below by itself (`FUSE_PASSTHROUGH`): what comes closest to Coda.

use coda_selftests::containers::run;
use fuser::{
    BackgroundSession, BackingId, Config, Errno, FileAttr, FileHandle, FileType, Filesystem,
    FopenFlags, Generation, INodeNo, InitFlags, KernelConfig, LockOwner, OpenFlags, ReplyAttr,
    ReplyEmpty, ReplyEntry, ReplyOpen, Request,
};
use ktest::{Context, Result};
use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

/// What the kernel is told, it may believe for as long as this.
const LONG: Duration = Duration::from_secs(3600);

#[derive(Default)]
struct Known {
    /// Inode numbers are indices, from 1 on.
    paths: Vec<PathBuf>,
    numbers: HashMap<PathBuf, u64>,
    open: HashMap<u64, BackingId>,
    opens: u64,
}

/// A directory, through FUSE.
struct Passthrough {
    root: PathBuf,
    known: Mutex<Known>,
}

impl Passthrough {
    fn path(&self, number: INodeNo) -> io::Result<PathBuf> {
        let known = self.known.lock().expect("nobody panics");
        let at = usize::try_from(number.0 - 1).unwrap_or(usize::MAX);
        let path = known.paths.get(at);
        path.cloned()
            .ok_or_else(|| io::Error::from_raw_os_error(libc::ESTALE))
    }

    fn number(&self, path: PathBuf) -> u64 {
        let mut known = self.known.lock().expect("nobody panics");
        if let Some(number) = known.numbers.get(&path) {
            return *number;
        }
        known.paths.push(path.clone());
        let number = known.paths.len() as u64;
        known.numbers.insert(path, number);
        number
    }

    fn attr(&self, number: u64, path: &Path) -> io::Result<FileAttr> {
        let meta = fs::symlink_metadata(self.root.join(path))?;
        let time = meta.modified()?;
        Ok(FileAttr {
            ino: INodeNo(number),
            size: meta.len(),
            blocks: meta.blocks(),
            atime: time,
            mtime: time,
            ctime: time,
            crtime: time,
            kind: match meta.is_dir() {
                true => FileType::Directory,
                false => FileType::RegularFile,
            },
            perm: (meta.mode() & 0o7777) as u16,
            nlink: meta.nlink() as u32,
            uid: meta.uid(),
            gid: meta.gid(),
            rdev: 0,
            blksize: 4096,
            flags: 0,
        })
    }

    fn find(&self, parent: INodeNo, name: &OsStr) -> io::Result<FileAttr> {
        let path = self.path(parent)?.join(name);
        fs::symlink_metadata(self.root.join(&path))?;
        self.attr(self.number(path.clone()), &path)
    }

    fn back(&self, number: INodeNo, reply: &ReplyOpen) -> io::Result<u64> {
        let path = self.root.join(self.path(number)?);
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        let id = reply.open_backing(&file)?;
        let mut known = self.known.lock().expect("nobody panics");
        known.opens += 1;
        let handle = known.opens;
        known.open.insert(handle, id);
        Ok(handle)
    }
}

impl Filesystem for Passthrough {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        config
            .add_capabilities(InitFlags::FUSE_PASSTHROUGH)
            .map_err(|_| io::Error::from_raw_os_error(libc::EOPNOTSUPP))?;
        config
            .set_max_stack_depth(1)
            .map_err(|_| io::Error::from_raw_os_error(libc::EOPNOTSUPP))?;
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.find(parent, name) {
            Ok(attr) => reply.entry(&LONG, &attr, Generation(0)),
            Err(e) => reply.error(Errno::from(e)),
        }
    }

    fn getattr(&self, _: &Request, number: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self
            .path(number)
            .and_then(|path| self.attr(number.0, &path))
        {
            Ok(attr) => reply.attr(&LONG, &attr),
            Err(e) => reply.error(Errno::from(e)),
        }
    }

    fn open(&self, _: &Request, number: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        match self.back(number, &reply) {
            Ok(handle) => {
                let known = self.known.lock().expect("nobody panics");
                let id = &known.open[&handle];
                reply.opened_passthrough(FileHandle(handle), FopenFlags::empty(), id);
            }
            Err(e) => reply.error(Errno::from(e)),
        }
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        let mut known = self.known.lock().expect("nobody panics");
        known.open.remove(&handle.0);
        reply.ok();
    }
}

/// A mount of it, which ends when this is dropped.
pub struct Mounted {
    pub mnt: PathBuf,
    session: Option<BackgroundSession>,
}

impl Mounted {
    /// Serves `root`, by a thread of this process.
    pub fn new(root: &Path) -> Result<Self> {
        let _ = run("modprobe", &["-q", "fuse"]);
        let mnt = std::env::temp_dir().join(format!("bench-fuse-{}", std::process::id()));
        fs::create_dir_all(&mnt)?;
        let this = Passthrough {
            root: root.to_owned(),
            known: Mutex::default(),
        };
        this.number(PathBuf::new());
        let session = fuser::spawn_mount(this, &mnt, &Config::default()).context("FUSE")?;
        Ok(Mounted {
            mnt,
            session: Some(session),
        })
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        drop(self.session.take());
        let _ = fs::remove_dir(&self.mnt);
    }
}
