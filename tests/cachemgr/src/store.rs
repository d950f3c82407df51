// SPDX-License-Identifier: GPL-2.0

//! A local directory as a Coda volume.
//!
//! Every object that the kernel has heard of has a fid, and is held by an
//! `O_PATH` descriptor: that follows the object through renames, keeps its
//! inode number from being used again, and can be opened afresh through
//! `/proc/self/fd`, whatever the object is called by then.

use crate::backend::{Backend, Counts, Period};
use coda_proto::{
    C_A_R_OK, C_A_W_OK, C_A_X_OK, C_O_READ, C_O_TRUNC, C_O_WRITE, DirBuilder, Fid, StatfsOut,
    Timespec, Vattr, dirtype, vtype,
};
use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Stat, Timestamps, UTIME_OMIT, Uid, chmod, chownat,
    fstatvfs, ftruncate, linkat, mkdirat, open, openat, readlinkat, renameat, symlinkat, unlinkat,
    utimensat,
};
use rustix::io::Errno;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};
use std::sync::{Arc, Mutex, MutexGuard};

/// The realm and volume of every fid that we give out.
const REALM: u32 = 1;
const VOLUME: u32 = 0x7f00_0001;

/// How many times an object is open at present.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Opens {
    /// Opens without C_O_WRITE.
    pub readers: i64,
    /// Opens with C_O_WRITE.
    pub writers: i64,
}

/// Something that has a fid.
pub struct Object {
    path: OwnedFd,
    dev_ino: (u64, u64),
    opens: Mutex<Opens>,
    /// Of a file that the servers have a copy of. Locked after `opens`.
    period: Mutex<Period>,
    /// What the copy is called.
    copy: String,
}

impl Object {
    fn stat(&self) -> Result<Stat, Errno> {
        rustix::fs::fstat(&self.path)
    }

    fn kind(&self) -> Result<FileType, Errno> {
        Ok(FileType::from_raw_mode(self.stat()?.st_mode))
    }

    /// A name by which the object can be opened.
    fn proc_path(&self) -> String {
        format!("/proc/self/fd/{}", self.path.as_raw_fd())
    }

    /// Whether `uid` may do `mask` to it, by its mode alone. A request names
    /// no groups, so the middle bits are nobody's.
    fn check(&self, uid: u32, mask: u32) -> Result<(), Errno> {
        let stat = self.stat()?;
        if uid == 0 || FileType::from_raw_mode(stat.st_mode) == FileType::Symlink {
            return Ok(());
        }
        let shift = if stat.st_uid == uid { 6 } else { 0 };
        if (stat.st_mode >> shift) & mask == mask {
            Ok(())
        } else {
            Err(Errno::ACCESS)
        }
    }
}

#[derive(Default)]
struct Table {
    by_fid: HashMap<Fid, Arc<Object>>,
    by_ino: HashMap<(u64, u64), Fid>,
    last: u32,
}

/// What may differ between cache managers.
pub struct Options {
    /// Make files of the contents of directories, as Venus does.
    pub venus_dirs: bool,
    /// Tell the types of entries in them, as Venus does not.
    pub dirent_types: bool,
    /// Where files are stored when they are closed.
    pub backend: Option<Backend>,
}

/// The volume.
pub struct Store {
    root: Fid,
    options: Options,
    table: Mutex<Table>,
}

type Result<T, E = Errno> = std::result::Result<T, E>;

impl Store {
    /// Serves the directory `root`.
    pub fn new(root: &Path, options: Options) -> Result<Self> {
        let path = open(
            root,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        let mut store = Store {
            root: Fid::default(),
            options,
            table: Mutex::default(),
        };
        store.root = store.adopt(path)?.0;
        Ok(store)
    }

    /// The volume's root directory.
    pub fn root(&self) -> Fid {
        self.root
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().expect("nobody panics with the lock held")
    }

    /// The object that has `fid`.
    pub fn get(&self, fid: Fid) -> Result<Arc<Object>> {
        self.table().by_fid.get(&fid).cloned().ok_or(Errno::NOENT)
    }

    fn dir(&self, fid: Fid) -> Result<Arc<Object>> {
        let object = self.get(fid)?;
        match object.kind()? {
            FileType::Directory => Ok(object),
            _ => Err(Errno::NOTDIR),
        }
    }

    /// A directory that `uid` may change.
    fn dir_to_change(&self, fid: Fid, uid: u32) -> Result<Arc<Object>> {
        let dir = self.dir(fid)?;
        dir.check(uid, C_A_W_OK | C_A_X_OK)?;
        Ok(dir)
    }

    /// The fid of an object, a new one if the kernel has not heard of it.
    fn adopt(&self, path: OwnedFd) -> Result<(Fid, Arc<Object>)> {
        let stat = rustix::fs::fstat(&path)?;
        let dev_ino = (stat.st_dev, stat.st_ino);
        let mut table = self.table();
        if let Some(&fid) = table.by_ino.get(&dev_ino) {
            if let Some(object) = table.by_fid.get(&fid) {
                return Ok((fid, object.clone()));
            }
        }
        table.last += 1;
        // As in Coda, directories have odd vnode numbers.
        let odd = u32::from(FileType::from_raw_mode(stat.st_mode) == FileType::Directory);
        let fid = Fid([REALM, VOLUME, table.last * 2 + odd, table.last]);
        let object = Arc::new(Object {
            path,
            dev_ino,
            opens: Mutex::default(),
            period: Mutex::default(),
            copy: fid.to_string(),
        });
        table.by_fid.insert(fid, object.clone());
        table.by_ino.insert(dev_ino, fid);
        Ok((fid, object))
    }

    fn find(&self, dir: &Object, name: &[u8]) -> Result<(Fid, Arc<Object>)> {
        self.adopt(openat(
            &dir.path,
            OsStr::from_bytes(name),
            OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::empty(),
        )?)
    }

    /// Forgets an object that has no name left and is not open.
    fn forget_if_gone(&self, object: &Object) {
        let gone = match object.stat() {
            Ok(stat) => stat.st_nlink == 0,
            Err(_) => true,
        };
        let opens = *object.opens.lock().expect("nobody panics with the lock");
        if gone && opens == Opens::default() {
            let mut table = self.table();
            table.by_ino.remove(&object.dev_ino);
            table.by_fid.retain(|_, o| o.dev_ino != object.dev_ino);
            if let Some(backend) = &self.options.backend {
                backend.forget(&object.copy);
            }
        }
    }

    /// The fid at a path below the root, for the control channel.
    pub fn resolve(&self, path: &Path) -> Result<Fid> {
        let mut fid = self.root;
        for part in path.components() {
            if let Component::Normal(name) = part {
                fid = self.find(&*self.dir(fid)?, name.as_bytes())?.0;
            }
        }
        Ok(fid)
    }

    /// Gives an object another fid; the old one stays good, for requests that
    /// are under way.
    pub fn replace(&self, old: Fid) -> Result<Fid> {
        let mut table = self.table();
        let object = table.by_fid.get(&old).cloned().ok_or(Errno::NOENT)?;
        table.last += 1;
        let odd = old.0[2] & 1;
        let new = Fid([REALM, VOLUME, table.last * 2 + odd, table.last]);
        table.by_ino.insert(object.dev_ino, new);
        table.by_fid.insert(new, object);
        Ok(new)
    }

    /// What has been stored, if there is anywhere to store it.
    pub fn stored(&self) -> Option<Counts> {
        self.options.backend.as_ref().map(Backend::counts)
    }

    /// How often each open object is open.
    pub fn opens(&self) -> Vec<(Fid, Opens)> {
        let table = self.table();
        let mut all: Vec<_> = table
            .by_fid
            .iter()
            .map(|(&fid, o)| (fid, *o.opens.lock().expect("nobody panics with the lock")))
            .filter(|(_, opens)| *opens != Opens::default())
            .collect();
        all.sort_by_key(|(fid, _)| *fid);
        all
    }

    // From here on, one function for each request.

    /// GETATTR.
    pub fn getattr(&self, fid: Fid) -> Result<Vattr> {
        let stat = self.get(fid)?.stat()?;
        let time = |sec, nsec| Timespec { sec, nsec };
        Ok(Vattr {
            kind: match FileType::from_raw_mode(stat.st_mode) {
                FileType::RegularFile => vtype::REG,
                FileType::Directory => vtype::DIR,
                FileType::Symlink => vtype::LNK,
                _ => vtype::NON,
            },
            mode: (stat.st_mode & 0o7777) as u16,
            nlink: i16::try_from(stat.st_nlink).unwrap_or(i16::MAX),
            uid: stat.st_uid,
            gid: stat.st_gid,
            _pad: 0,
            fileid: i64::from(fid.inode_number()),
            size: stat.st_size as u64,
            blocksize: 4096,
            atime: time(stat.st_atime, stat.st_atime_nsec as i64),
            mtime: time(stat.st_mtime, stat.st_mtime_nsec as i64),
            ctime: time(stat.st_ctime, stat.st_ctime_nsec as i64),
            generation: 0,
            flags: 0,
            rdev: 0,
            bytes: stat.st_blocks as u64 * 512,
            filerev: 0,
        })
    }

    /// SETATTR: what is -1 stays.
    pub fn setattr(&self, fid: Fid, uid: u32, attr: &Vattr) -> Result<()> {
        let object = self.get(fid)?;
        let owns = || match object.stat()?.st_uid {
            owner if uid == 0 || owner == uid => Ok(()),
            _ => Err(Errno::PERM),
        };
        if attr.size != u64::MAX {
            match object.kind()? {
                FileType::RegularFile => (),
                FileType::Directory => return Err(Errno::ISDIR),
                _ => return Err(Errno::INVAL),
            }
            // An open file may be cut by whoever has it open for writing,
            // whatever its mode says by now. With the lock, it is cut before the
            // last writer closes, or after.
            let opens = object.opens.lock().expect("nobody panics with it");
            if opens.writers <= 0 {
                object.check(uid, C_A_W_OK)?;
            }
            if let Some(backend) = &self.options.backend {
                let mut period = object.period.lock().expect("nobody panics with it");
                backend.begin(&object.copy, &object.proc_path())?;
                backend.truncate(&object.copy, attr.size, opens.writers > 0, &mut period)?;
            }
            ftruncate(
                open(
                    object.proc_path(),
                    OFlags::WRONLY | OFlags::CLOEXEC,
                    Mode::empty(),
                )?,
                attr.size,
            )?;
        }
        if attr.uid != u32::MAX || attr.gid != u32::MAX {
            owns()?;
            chownat(
                &object.path,
                "",
                (attr.uid != u32::MAX).then(|| Uid::from_raw(attr.uid)),
                (attr.gid != u32::MAX).then(|| Gid::from_raw(attr.gid)),
                AtFlags::EMPTY_PATH,
            )?;
        }
        if attr.mode != u16::MAX {
            owns()?;
            chmod(
                object.proc_path(),
                Mode::from_raw_mode(u32::from(attr.mode) & 0o7777),
            )?;
        }
        if attr.atime.sec != -1 || attr.mtime.sec != -1 {
            let time = |t: Timespec| rustix::fs::Timespec {
                tv_sec: t.sec,
                tv_nsec: if t.sec == -1 { UTIME_OMIT } else { t.nsec },
            };
            utimensat(
                rustix::fs::CWD,
                object.proc_path(),
                &Timestamps {
                    last_access: time(attr.atime),
                    last_modification: time(attr.mtime),
                },
                AtFlags::empty(),
            )?;
        }
        Ok(())
    }

    /// ACCESS.
    pub fn access(&self, fid: Fid, uid: u32, mask: u32) -> Result<()> {
        self.get(fid)?.check(uid, mask & 7)
    }

    /// LOOKUP: the object and its type.
    pub fn lookup(&self, dir: Fid, uid: u32, name: &[u8]) -> Result<(Fid, u32)> {
        let dir = self.dir(dir)?;
        dir.check(uid, C_A_X_OK)?;
        let (fid, _) = self.find(&dir, name)?;
        Ok((fid, self.vget(fid)?))
    }

    /// VGET: the type.
    pub fn vget(&self, fid: Fid) -> Result<u32> {
        Ok(self.getattr(fid)?.kind as u32)
    }

    fn made_by(&self, dir: &Object, name: &[u8], uid: u32) -> Result<(Fid, Vattr)> {
        let (fid, object) = self.find(dir, name)?;
        chownat(
            &object.path,
            "",
            Some(Uid::from_raw(uid)),
            Some(Gid::from_raw(dir.stat()?.st_gid)),
            AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW,
        )?;
        Ok((fid, self.getattr(fid)?))
    }

    /// CREATE: makes a regular file, or takes an existing one and cuts it to
    /// nothing if `truncate` says so.
    pub fn create(
        &self,
        dir: Fid,
        uid: u32,
        name: &[u8],
        mode: u32,
        excl: bool,
        truncate: bool,
    ) -> Result<(Fid, Vattr)> {
        let dir = self.dir(dir)?;
        match self.find(&dir, name) {
            Ok((fid, object)) => {
                if excl {
                    return Err(Errno::EXIST);
                }
                if object.kind()? != FileType::RegularFile {
                    return Err(Errno::ISDIR);
                }
                if truncate {
                    self.setattr(
                        fid,
                        uid,
                        &Vattr {
                            size: 0,
                            ..no_change()
                        },
                    )?;
                }
                Ok((fid, self.getattr(fid)?))
            }
            Err(Errno::NOENT) => {
                dir.check(uid, C_A_W_OK | C_A_X_OK)?;
                let mode = Mode::from_raw_mode(mode & 0o7777);
                drop(openat(
                    &dir.path,
                    OsStr::from_bytes(name),
                    OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC,
                    mode,
                )?);
                self.made_by(&dir, name, uid)
            }
            Err(e) => Err(e),
        }
    }

    /// MKDIR.
    pub fn mkdir(&self, dir: Fid, uid: u32, name: &[u8], mode: u32) -> Result<(Fid, Vattr)> {
        let dir = self.dir_to_change(dir, uid)?;
        mkdirat(
            &dir.path,
            OsStr::from_bytes(name),
            Mode::from_raw_mode(mode & 0o7777),
        )?;
        self.made_by(&dir, name, uid)
    }

    /// SYMLINK.
    pub fn symlink(&self, dir: Fid, uid: u32, name: &[u8], target: &[u8]) -> Result<()> {
        let dir = self.dir_to_change(dir, uid)?;
        symlinkat(
            OsStr::from_bytes(target),
            &dir.path,
            OsStr::from_bytes(name),
        )?;
        self.made_by(&dir, name, uid)?;
        Ok(())
    }

    /// LINK.
    pub fn link(&self, file: Fid, dir: Fid, uid: u32, name: &[u8]) -> Result<()> {
        let file = self.get(file)?;
        let dir = self.dir_to_change(dir, uid)?;
        linkat(
            rustix::fs::CWD,
            file.proc_path(),
            &dir.path,
            OsStr::from_bytes(name),
            AtFlags::SYMLINK_FOLLOW,
        )
    }

    /// REMOVE, and RMDIR with `dir_wanted`.
    pub fn remove(&self, dir: Fid, uid: u32, name: &[u8], dir_wanted: bool) -> Result<()> {
        let dir = self.dir_to_change(dir, uid)?;
        let (_, victim) = self.find(&dir, name)?;
        let flags = if dir_wanted {
            AtFlags::REMOVEDIR
        } else {
            AtFlags::empty()
        };
        unlinkat(&dir.path, OsStr::from_bytes(name), flags)?;
        self.forget_if_gone(&victim);
        Ok(())
    }

    /// RENAME.
    pub fn rename(&self, from: (Fid, &[u8]), to: (Fid, &[u8]), uid: u32) -> Result<()> {
        let from_dir = self.dir_to_change(from.0, uid)?;
        let to_dir = self.dir_to_change(to.0, uid)?;
        let victim = self.find(&to_dir, to.1).ok();
        renameat(
            &from_dir.path,
            OsStr::from_bytes(from.1),
            &to_dir.path,
            OsStr::from_bytes(to.1),
        )?;
        if let Some((_, victim)) = victim {
            self.forget_if_gone(&victim);
        }
        Ok(())
    }

    /// READLINK.
    pub fn readlink(&self, fid: Fid) -> Result<Vec<u8>> {
        let object = self.get(fid)?;
        if object.kind()? != FileType::Symlink {
            return Err(Errno::INVAL);
        }
        Ok(readlinkat(&object.path, "", Vec::new())?.into_bytes())
    }

    /// OPEN_BY_FD: a container, opened afresh, and counted.
    pub fn open(&self, fid: Fid, uid: u32, flags: u32) -> Result<OwnedFd> {
        let object = self.get(fid)?;
        let write = flags & C_O_WRITE != 0;
        let mut opens = object.opens.lock().expect("nobody panics with the lock");
        if flags & C_O_READ != 0 {
            object.check(uid, C_A_R_OK)?;
        }
        let fd = match object.kind()? {
            FileType::Directory if write => return Err(Errno::ISDIR),
            FileType::Directory if self.options.venus_dirs => self.venus_dir(&object)?,
            FileType::Directory => open(
                object.proc_path(),
                OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
                Mode::empty(),
            )?,
            FileType::RegularFile => {
                // Never O_APPEND or O_TRUNC: the container is ours, and what
                // the program asked for is the kernel's business. Whoever
                // created the file may write to it even where its mode does
                // not let him, so the mode is left to ACCESS.
                let mode = if write { OFlags::RDWR } else { OFlags::RDONLY };
                let fd = open(object.proc_path(), mode | OFlags::CLOEXEC, Mode::empty())?;
                let truncate = write && flags & C_O_TRUNC != 0;
                if let Some(backend) = self.options.backend.as_ref().filter(|_| write) {
                    backend.begin(&object.copy, &object.proc_path())?;
                    if truncate {
                        let mut period = object.period.lock().expect("nobody panics with it");
                        backend.truncate(&object.copy, 0, true, &mut period)?;
                    }
                }
                if truncate {
                    ftruncate(&fd, 0)?;
                }
                fd
            }
            _ => return Err(Errno::INVAL),
        };
        if write {
            opens.writers += 1;
        } else {
            opens.readers += 1;
        }
        Ok(fd)
    }

    /// CLOSE, of an object that was opened with the same C_O_WRITE: how often it is
    /// open now, and what became of it on the servers.
    pub fn close(&self, fid: Fid, flags: u32) -> Result<(Opens, Option<&'static str>)> {
        let object = self.get(fid)?;
        let mut stored = None;
        let left = {
            let mut opens = object.opens.lock().expect("nobody panics with the lock");
            if flags & C_O_WRITE != 0 {
                opens.writers -= 1;
            } else {
                opens.readers -= 1;
            }
            let last = flags & C_O_WRITE != 0 && opens.writers == 0;
            if let Some(backend) = self.options.backend.as_ref().filter(|_| last) {
                let mut period = object.period.lock().expect("nobody panics with it");
                let end = backend.end(&object.copy, &object.proc_path(), flags, &mut period);
                stored = Some(end?);
            }
            *opens
        };
        self.forget_if_gone(&object);
        if left.writers < 0 || left.readers < 0 {
            // Closed more often than opened. That is worth more than a line
            // in the trace: the kernel's count and ours have parted.
            return Err(Errno::BADF);
        }
        Ok((left, stored))
    }

    /// STATFS.
    pub fn statfs(&self) -> Result<StatfsOut> {
        let fs = fstatvfs(self.get(self.root)?.path.as_fd())?;
        let blocks = |n: u64| i32::try_from(n * fs.f_frsize / 4096).unwrap_or(i32::MAX);
        let count = |n: u64| i32::try_from(n).unwrap_or(i32::MAX);
        Ok(StatfsOut {
            blocks: blocks(fs.f_blocks),
            bfree: blocks(fs.f_bfree),
            bavail: blocks(fs.f_bavail),
            files: count(fs.f_files),
            ffree: count(fs.f_ffree),
            ..StatfsOut::default()
        })
    }

    /// The contents of a directory in a nameless file of the same file system.
    fn venus_dir(&self, dir: &Object) -> Result<OwnedFd> {
        let mut builder = DirBuilder::default();
        let real = open(
            dir.proc_path(),
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        for entry in rustix::fs::Dir::read_from(&real)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            let kind = match entry.file_type() {
                _ if !self.options.dirent_types => dirtype::UNKNOWN,
                FileType::RegularFile => dirtype::REG,
                FileType::Directory => dirtype::DIR,
                FileType::Symlink => dirtype::LNK,
                _ => dirtype::UNKNOWN,
            };
            let fid = match name {
                // The kernel makes these two itself.
                b"." | b".." => self.root,
                _ => match self.find(dir, name) {
                    Ok((fid, _)) => fid,
                    // Gone since.
                    Err(Errno::NOENT) => continue,
                    Err(e) => return Err(e),
                },
            };
            builder.push(fid.inode_number(), kind, name);
        }
        let file = open(
            dir.proc_path(),
            OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC,
            Mode::RUSR,
        )?;
        let bytes = builder.finish();
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            rest = &rest[rustix::io::write(&file, rest)?..];
        }
        open(
            format!("/proc/self/fd/{}", file.as_raw_fd()),
            OFlags::RDONLY | OFlags::CLOEXEC,
            Mode::empty(),
        )
    }
}

/// Attributes of which SETATTR changes none.
fn no_change() -> Vattr {
    let never = Timespec { sec: -1, nsec: -1 };
    Vattr {
        kind: vtype::NON,
        mode: u16::MAX,
        nlink: -1,
        uid: u32::MAX,
        gid: u32::MAX,
        size: u64::MAX,
        atime: never,
        mtime: never,
        ctime: never,
        ..Vattr::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use coda_proto::{C_O_CREAT, dirents};
    use rustix::process::getuid;
    use std::fs::File;
    use std::io::Read;
    use tempfile::TempDir;

    fn store(venus_dirs: bool) -> (TempDir, Store, u32) {
        let dir = TempDir::new().unwrap();
        let options = Options {
            venus_dirs,
            dirent_types: true,
            backend: None,
        };
        let store = Store::new(dir.path(), options).unwrap();
        (dir, store, getuid().as_raw())
    }

    #[test]
    fn fids_follow_renames() {
        let (dir, store, uid) = store(false);
        let (fid, attr) = store
            .create(store.root(), uid, b"old", 0o644, true, false)
            .unwrap();
        assert_eq!((attr.kind, attr.mode, attr.size), (vtype::REG, 0o644, 0));
        assert_eq!(fid.0[2] & 1, 0);
        assert_eq!(store.root().0[2] & 1, 1);
        store
            .rename((store.root(), b"old"), (store.root(), b"new"), uid)
            .unwrap();
        assert_eq!(store.lookup(store.root(), uid, b"new").unwrap().0, fid);
        assert_eq!(store.lookup(store.root(), uid, b"old"), Err(Errno::NOENT));
        assert!(dir.path().join("new").exists());
    }

    #[test]
    fn removed_objects_live_while_open() {
        let (_dir, store, uid) = store(false);
        let root = store.root();
        let (fid, _) = store.create(root, uid, b"f", 0o600, true, false).unwrap();
        let flags = C_O_READ | C_O_WRITE | C_O_CREAT;
        store.open(fid, uid, flags).unwrap();
        store.remove(root, uid, b"f", false).unwrap();
        assert_eq!(store.getattr(fid).unwrap().nlink, 0);
        assert_eq!(store.close(fid, flags), Ok((Opens::default(), None)));
        assert_eq!(store.getattr(fid), Err(Errno::NOENT));
    }

    #[test]
    fn opens_are_counted() {
        let (_dir, store, uid) = store(false);
        let root = store.root();
        let (fid, _) = store.create(root, uid, b"f", 0o600, true, false).unwrap();
        store.open(fid, uid, C_O_READ).unwrap();
        store.open(fid, uid, C_O_WRITE).unwrap();
        let both = Opens {
            readers: 1,
            writers: 1,
        };
        assert_eq!(store.opens(), [(fid, both)]);
        store.close(fid, C_O_WRITE).unwrap();
        store.close(fid, C_O_READ).unwrap();
        assert_eq!(store.opens(), []);
        assert_eq!(store.close(fid, C_O_READ), Err(Errno::BADF));
    }

    #[test]
    fn truncation_is_ours() {
        let (dir, store, uid) = store(false);
        std::fs::write(dir.path().join("f"), b"contents").unwrap();
        let (fid, _) = store.lookup(store.root(), uid, b"f").unwrap();
        store.open(fid, uid, C_O_READ | C_O_TRUNC).unwrap();
        assert_eq!(store.getattr(fid).unwrap().size, 8);
        store.open(fid, uid, C_O_WRITE | C_O_TRUNC).unwrap();
        assert_eq!(store.getattr(fid).unwrap().size, 0);
        let size = Vattr {
            size: 5,
            ..no_change()
        };
        store.setattr(fid, uid, &size).unwrap();
        assert_eq!(std::fs::read(dir.path().join("f")).unwrap(), [0; 5]);
    }

    #[test]
    fn create_takes_what_is_there() {
        let (dir, store, uid) = store(false);
        let root = store.root();
        std::fs::write(dir.path().join("f"), b"contents").unwrap();
        let exists = store.create(root, uid, b"f", 0o600, true, false);
        assert_eq!(exists, Err(Errno::EXIST));
        let (fid, attr) = store.create(root, uid, b"f", 0o600, false, false).unwrap();
        assert_eq!(attr.size, 8);
        let (again, attr) = store.create(root, uid, b"f", 0o600, false, true).unwrap();
        assert_eq!((again, attr.size), (fid, 0));
    }

    #[test]
    fn directories_can_be_files() {
        let (dir, store, uid) = store(true);
        for n in 0..300 {
            std::fs::write(dir.path().join(format!("file-{n}")), b"").unwrap();
        }
        let fd = store.open(store.root(), uid, C_O_READ).unwrap();
        let mut bytes = Vec::new();
        File::from(fd).read_to_end(&mut bytes).unwrap();
        let all: Vec<_> = dirents(&bytes).map(Result::unwrap).collect();
        assert_eq!(all.len(), 302);
        let entry = all.iter().find(|e| e.name == b"file-7").unwrap();
        let (fid, _) = store.lookup(store.root(), uid, b"file-7").unwrap();
        assert_eq!(entry.fileno, fid.inode_number());
        assert_eq!(entry.kind, dirtype::REG);
    }

    #[test]
    fn an_old_fid_stays_good() {
        let (_dir, store, uid) = store(false);
        let root = store.root();
        let (old, _) = store.create(root, uid, b"f", 0o600, true, false).unwrap();
        let new = store.replace(old).unwrap();
        assert_ne!(old, new);
        assert_eq!(store.lookup(root, uid, b"f").unwrap().0, new);
        assert_eq!(
            store.getattr(old).unwrap().fileid,
            i64::from(old.inode_number())
        );
    }
}
