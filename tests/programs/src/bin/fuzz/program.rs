// SPDX-License-Identifier: GPL-2.0

//! A program that calls whatever there is, at random, and looks only whether what
//! the kernel shows to it can be true.

use crate::manager::wake_by;
use crate::shared::{Shared, TELLING, beginnings, named};
use coda_selftests::map::{Map, PAGE};
use coda_selftests::pioctl::pioctl;
use coda_selftests::sys;
use ktest::Result;
use libc::{MAP_PRIVATE, MAP_SHARED, PROT_READ, PROT_WRITE};
use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag};
use nix::sys::signal::Signal;
use nix::sys::stat::{FileStat, Mode, UtimensatFlags, fstat, lstat, stat, utimensat};
use nix::sys::statfs::statfs;
use nix::sys::time::TimeSpec;
use nix::sys::uio::{pread, pwrite};
use nix::unistd::{self, AccessFlags, Whence};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;

named! {
    /// What it calls.
    Call {
        Open,
        Close,
        Read,
        Write,
        Pread,
        Pwrite,
        Lseek,
        Ftruncate,
        Truncate,
        Fallocate,
        Mmap,
        Store,
        Load,
        Msync,
        Mremap,
        Munmap,
        Fsync,
        Sendfile,
        Splice,
        Copy,
        Fstat,
        Stat,
        Lstat,
        Statx,
        Statfs,
        Access,
        Chmod,
        Chown,
        Utimens,
        Rename,
        Link,
        Symlink,
        Readlink,
        Unlink,
        Mkdir,
        Rmdir,
        Readdir,
        Chdir,
        Pioctl,
    }
}

/// Owners that it gives to files.
pub const OWNERS: [u32; 3] = [501, 502, 503];

/// The longest that it makes a file, more or less.
const LIMIT: usize = 8 * PAGE;

struct Program {
    shared: &'static Shared,
    mnt: PathBuf,
    random: SmallRng,
    files: Vec<OwnedFd>,
    maps: Vec<Map>,
    zero: OwnedFd,
    pipe: (OwnedFd, OwnedFd),
    /// The number of the mount.
    dev: u64,
    /// It is inside of the mount.
    inside: bool,
}

fn errno(e: std::io::Error) -> Errno {
    Errno::from_raw(e.raw_os_error().unwrap_or(libc::EIO))
}

impl Program {
    fn one_of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.random.random_range(0..all.len())]
    }

    /// A name that may be there, and what it may be.
    fn path(&mut self) -> PathBuf {
        let mut path = match self.random.random_range(0..16) {
            0 if self.inside => PathBuf::from("."),
            _ => self.mnt.clone(),
        };
        for _ in 0..*self.one_of(&[0, 0, 0, 0, 0, 1, 1, 2]) {
            path.push(self.one_of(&["d0", "d1", "d0", "l0", "."]));
        }
        let names = ["f0", "f1", "f2", "f3", "d0", "d1", "d2", "l0", "l1"];
        match self.random.random_range(0..200) {
            0 => path.push(".CONTROL"),
            1 => path.push("n".repeat(self.random.random_range(250..258))),
            _ => path.push(self.one_of(&names)),
        }
        path
    }

    fn file(&mut self) -> Result<OwnedFd, Errno> {
        if self.files.is_empty() {
            return Err(Errno::EBADF);
        }
        let which = self.random.random_range(0..self.files.len());
        self.files[which].try_clone().map_err(errno)
    }

    fn map(&mut self) -> Result<usize, Errno> {
        match self.maps.len() {
            0 => Err(Errno::EINVAL),
            len => Ok(self.random.random_range(0..len)),
        }
    }

    fn at(&mut self) -> i64 {
        match self.random.random_range(0..20) {
            0 => self.random.random(),
            1 => i64::from(self.random.random::<u32>()),
            _ => self.random.random_range(0..LIMIT as i64),
        }
    }

    fn len(&mut self) -> usize {
        *self.one_of(&[0, 1, 100, PAGE, 2 * PAGE + 1])
    }

    /// What is told of an object may be nonsense, but it has to be the cache manager's.
    fn shown(&mut self, what: &str, dev: u64, ino: u64, owner: u32, mode: u32) {
        // A link may lead out of the mount, which may not be there any more; and the control file
        // is the kernel's own.
        if self.dev != dev || ino == u64::MAX {
            return;
        }
        if !self.shared.owners.has(owner.into()) {
            self.shared.fail(&format!(
                "{what} belongs to {owner:#x}, which the kernel can have from nowhere"
            ));
        }
        if !matches!(
            mode & libc::S_IFMT,
            libc::S_IFREG | libc::S_IFDIR | libc::S_IFLNK
        ) {
            self.shared.fail(&format!("{what} has the mode {mode:o}"));
        }
    }

    fn shown_stat(&mut self, what: &str, told: &FileStat) {
        self.shown(what, told.st_dev, told.st_ino, told.st_uid, told.st_mode);
    }

    fn shown_bytes(&mut self, what: &str, bytes: &[u8]) {
        let telling = &bytes[..bytes.len().min(TELLING)];
        let number = beginnings(telling).last().expect("one at least");
        if !self.shared.shown.has(number) {
            self.shared.fail(&format!(
                "{what} gives what the kernel can have from nowhere: {bytes:02x?}"
            ));
        }
    }

    fn open(&mut self) -> Result<(), Errno> {
        let access = *self.one_of(&[
            OFlag::O_RDONLY,
            OFlag::O_RDWR,
            OFlag::O_RDWR,
            OFlag::O_WRONLY,
            OFlag::O_ACCMODE,
        ]);
        let mut flags = access;
        for (flag, chance) in [
            (OFlag::O_CREAT, 2),
            (OFlag::O_TRUNC, 8),
            (OFlag::O_EXCL, 16),
            (OFlag::O_APPEND, 8),
            (OFlag::O_DIRECT, 16),
            (OFlag::O_NOFOLLOW, 16),
            (OFlag::O_DIRECTORY, 16),
            (OFlag::O_SYNC, 16),
            (OFlag::O_PATH, 32),
        ] {
            if self.random.random_range(0..chance) == 0 {
                flags |= flag;
            }
        }
        let fd = sys::open(&self.path(), flags | OFlag::O_NONBLOCK)?;
        if self.files.len() > 3 {
            let which = self.random.random_range(0..self.files.len());
            self.files.swap_remove(which);
        }
        self.files.push(fd);
        Ok(())
    }

    fn call(&mut self, call: Call) -> Result<(), Errno> {
        let mut buffer = [b'k'; 2 * PAGE + 1];
        match call {
            Call::Open => self.open(),
            Call::Close => {
                if self.files.is_empty() {
                    return Err(Errno::EBADF);
                }
                let which = self.random.random_range(0..self.files.len());
                sys::close(self.files.swap_remove(which))
            }
            Call::Read => {
                let len = self.len();
                unistd::read(self.file()?, &mut buffer[..len]).map(drop)
            }
            Call::Write => {
                let len = self.len();
                unistd::write(self.file()?, &buffer[..len]).map(drop)
            }
            Call::Pread => {
                let (at, len) = (self.at(), self.len());
                pread(self.file()?, &mut buffer[..len], at).map(drop)
            }
            Call::Pwrite => {
                // Not so far out that the store gets full of holes.
                let (at, len) = (self.at(), self.len());
                pwrite(self.file()?, &buffer[..len], at).map(drop)
            }
            Call::Lseek => {
                let at = self.at();
                let whence = *self.one_of(&[Whence::SeekSet, Whence::SeekEnd, Whence::SeekData]);
                unistd::lseek(self.file()?, at, whence).map(drop)
            }
            Call::Ftruncate => {
                let at = self.at();
                unistd::ftruncate(self.file()?, at)
            }
            Call::Truncate => {
                let at = self.at();
                unistd::truncate(&self.path(), at)
            }
            Call::Fallocate => {
                let modes = [0, libc::FALLOC_FL_KEEP_SIZE, 3, libc::FALLOC_FL_ZERO_RANGE];
                let (mode, at) = (*self.one_of(&modes), self.random.random_range(0..LIMIT));
                sys::fallocate(&self.file()?, mode, at as i64, PAGE as i64)
            }
            Call::Mmap => {
                let protection = *self.one_of(&[PROT_READ, PROT_READ | PROT_WRITE]);
                let flags = *self.one_of(&[MAP_SHARED, MAP_SHARED, MAP_PRIVATE]);
                let pages = self.random.random_range(1..5);
                let map = Map::new(&self.file()?, pages * PAGE, protection, flags)?;
                if self.maps.len() > 1 {
                    self.maps.remove(0);
                }
                self.maps.push(map);
                Ok(())
            }
            // By read(2) and write(2), which do not mind if there is no page.
            Call::Store => {
                let which = self.map()?;
                let map = &self.maps[which];
                let at = self.random.random_range(0..map.len());
                // SAFETY: the kernel checks the address; the mapping is of no object
                // of ours.
                let n =
                    unsafe { libc::read(self.zero.as_raw_fd(), map.address().add(at).cast(), 1) };
                sys::check(n as i64)?;
                // If it can be stored to, it may be so without help, unless somebody
                // takes the page away.
                if self.random.random_range(0..16) == 0 {
                    map.store(at, b's');
                }
                Ok(())
            }
            Call::Load => {
                let which = self.map()?;
                let map = &self.maps[which];
                let at = self.random.random_range(0..map.len());
                let n = sys::write_raw(&self.pipe.1, map.address().wrapping_add(at), 1)?;
                unistd::read(&self.pipe.0, &mut buffer[..n]).map(drop)
            }
            Call::Msync => {
                let which = self.map()?;
                self.maps[which].sync()
            }
            Call::Mremap => {
                let len = self.random.random_range(1..6) * PAGE;
                let which = self.map()?;
                self.maps[which].remap(len)
            }
            Call::Munmap => {
                let which = self.map()?;
                drop(self.maps.swap_remove(which));
                Ok(())
            }
            Call::Fsync => match self.random.random() {
                true => unistd::fsync(self.file()?),
                false => unistd::fdatasync(self.file()?),
            },
            Call::Sendfile => {
                let (from, to) = (self.file()?, self.file()?);
                sys::sendfile(&from, &to, 100).map(drop)
            }
            Call::Splice => {
                let file = self.file()?;
                // What is left in the pipe would block the next one for ever.
                let pipe = unistd::pipe()?;
                match self.random.random() {
                    true => sys::splice(&file, &pipe.1, 100).map(drop),
                    false => {
                        unistd::write(&pipe.1, b"spliced")?;
                        sys::splice(&pipe.0, &file, 7).map(drop)
                    }
                }
            }
            Call::Copy => {
                let (from, to) = (self.file()?, self.file()?);
                sys::copy_file_range(&from, &to, 100).map(drop)
            }
            Call::Fstat => {
                let told = fstat(self.file()?)?;
                self.shown_stat("an open file", &told);
                Ok(())
            }
            Call::Stat => {
                let path = self.path();
                let told = stat(&path)?;
                self.shown_stat(&path.to_string_lossy(), &told);
                Ok(())
            }
            Call::Lstat => {
                let path = self.path();
                let told = lstat(&path)?;
                self.shown_stat(&path.to_string_lossy(), &told);
                Ok(())
            }
            Call::Statx => {
                let path = self.path();
                let told = fs::symlink_metadata(&path).map_err(errno)?;
                let what = path.to_string_lossy();
                self.shown(&what, told.dev(), told.ino(), told.uid(), told.mode());
                Ok(())
            }
            Call::Statfs => statfs(&self.path()).map(drop),
            Call::Access => {
                let mode = *self.one_of(&[AccessFlags::R_OK, AccessFlags::W_OK, AccessFlags::X_OK]);
                unistd::access(&self.path(), mode)
            }
            Call::Chmod => {
                let mode = fs::Permissions::from_mode(self.random.random_range(0..0o10000));
                fs::set_permissions(self.path(), mode).map_err(errno)
            }
            Call::Chown => {
                let owner = (*self.one_of(&OWNERS)).into();
                unistd::chown(&self.path(), Some(owner), None)
            }
            Call::Utimens => {
                let time = TimeSpec::new(self.random.random_range(0..1 << 40), 5);
                let path = self.path();
                utimensat(
                    AT_FDCWD,
                    &path,
                    &time,
                    &time,
                    UtimensatFlags::NoFollowSymlink,
                )
            }
            Call::Rename => fs::rename(self.path(), self.path()).map_err(errno),
            Call::Link => fs::hard_link(self.path(), self.path()).map_err(errno),
            Call::Symlink => {
                let targets = ["f0", "d0/f1", "d0/l0", "l1", "./f2", "."];
                let target = *self.one_of(&targets);
                symlink(target, self.path()).map_err(errno)
            }
            Call::Readlink => {
                let target = fs::read_link(self.path()).map_err(errno)?;
                self.shown_bytes("readlink(2)", target.as_os_str().as_bytes());
                Ok(())
            }
            Call::Unlink => fs::remove_file(self.path()).map_err(errno),
            Call::Mkdir => fs::create_dir(self.path()).map_err(errno),
            Call::Rmdir => fs::remove_dir(self.path()).map_err(errno),
            Call::Readdir => {
                let mut path = self.path();
                if self.random.random() {
                    path.clone_from(&self.mnt);
                }
                let mut dir = Dir::open(&path, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?;
                dir.iter().take(100).try_for_each(|entry| entry.map(drop))
            }
            Call::Chdir => {
                let path = match self.random.random() {
                    true => self.path(),
                    false => self.mnt.clone(),
                };
                unistd::chdir(&path)?;
                self.inside = true;
                Ok(())
            }
            Call::Pioctl => {
                let control = sys::open(&self.mnt.join(".CONTROL"), OFlag::O_RDONLY)?;
                let path = self.path();
                let mut answer = [0xee; 64];
                let room = self.random.random_range(0..=64);
                let len = self.random.random_range(0..64);
                pioctl(
                    &control,
                    &path,
                    b'V',
                    self.random.random(),
                    &buffer[..len],
                    &mut answer[..room],
                )?;
                let end = answer.iter().rposition(|&b| b != 0xee).map_or(0, |n| n + 1);
                self.shown_bytes("ioctl(2)", &answer[..end]);
                Ok(())
            }
        }
    }
}

/// Calls whatever there is until the process is killed.
pub fn run(shared: &'static Shared, mnt: PathBuf, dev: u64, seed: u64) -> Result<()> {
    wake_by(Signal::SIGINT)?;
    sys::limit_file_size(1 << 20)?;
    let mut program = Program {
        shared,
        mnt,
        random: SmallRng::seed_from_u64(seed),
        files: Vec::new(),
        maps: Vec::new(),
        zero: sys::open("/dev/zero".as_ref(), OFlag::O_RDONLY)?,
        pipe: unistd::pipe()?,
        dev,
        inside: false,
    };
    loop {
        let index = program.random.random_range(0..Call::LEN);
        // What needs an open file, and what makes one, are not equally many.
        let call = match program.random.random_range(0..6) {
            0 => Call::Open,
            1 => Call::Mmap,
            _ => Call::ALL[index],
        };
        let result = program.call(call);
        shared.called(call as usize, Call::NAMES[call as usize], &result);
    }
}
