// SPDX-License-Identifier: GPL-2.0

//! Where all that is read is read from: the machine itself, or a tree that was recorded.
//!
//! A recorded tree is an ordinary directory with what matters of `/proc`, `/sys`, `/lib/modules`
//! and so on, so that tests need neither root nor the module. Links in it lead to places in it.
//! Some things cannot be had in an ordinary directory, and are written down: a file in place of a
//! device node says `char MAJOR MINOR`, what nobody may read (mode 0) is refused to root, too, and such
//! a file in place of a link is a link that nobody may read.

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{Mode, major, minor};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

/// No file that is read here is longer; if one is, its beginning will do.
const LONGEST: u64 = 64 << 20;

/// What stands where a device node is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Node {
    /// A character device with these numbers.
    Char(u64, u64),
    /// Something else.
    Other,
}

/// The directory that paths begin at.
#[derive(Debug)]
pub struct Root {
    dir: PathBuf,
    recorded: bool,
}

/// Is it not there? (A process that went away meanwhile says `ESRCH`.)
pub fn is_absent(err: &io::Error) -> bool {
    matches!(
        err.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    ) || err.raw_os_error() == Some(nix::libc::ESRCH)
}

/// Is it kept from us?
pub fn is_denied(err: &io::Error) -> bool {
    err.kind() == io::ErrorKind::PermissionDenied
}

impl Root {
    /// The machine that this runs on, or the tree in `dir`.
    pub fn new(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            recorded: dir != Path::new("/"),
        }
    }

    /// Is it a recorded tree?
    pub fn is_recorded(&self) -> bool {
        self.recorded
    }

    /// Where `path` is, for other programs and for what is written to.
    pub fn path(&self, path: &str) -> PathBuf {
        self.dir.join(path.trim_start_matches('/'))
    }

    fn open_how(&self, path: &str, flags: OFlag) -> io::Result<File> {
        let flags = match flags.contains(OFlag::O_PATH) {
            // openat2 minds flags that mean nothing.
            true => flags | OFlag::O_CLOEXEC,
            false => flags | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY,
        };
        if !self.recorded {
            let fd = nix::fcntl::open(Path::new("/").join(path).as_path(), flags, Mode::empty())?;
            return Ok(File::from(fd));
        }
        let top = File::open(&self.dir)?;
        let open = |path: &Path, flags| {
            let how = OpenHow::new()
                .flags(flags)
                .resolve(ResolveFlag::RESOLVE_IN_ROOT);
            openat2(top.as_fd(), path, how).map(File::from)
        };
        let path = Path::new(path.trim_start_matches('/'));
        let mut sofar = PathBuf::new();
        for part in path.components().filter(|c| *c != Component::RootDir) {
            sofar.push(part);
            let mode = open(&sofar, OFlag::O_PATH | OFlag::O_CLOEXEC)?
                .metadata()?
                .permissions()
                .mode();
            if mode & 0o444 == 0 {
                return Err(io::ErrorKind::PermissionDenied.into());
            }
        }
        Ok(open(
            if path.as_os_str().is_empty() {
                Path::new(".")
            } else {
                path
            },
            flags,
        )?)
    }

    /// Opens a file to read it. Never waits for somebody to write.
    pub fn open(&self, path: &str) -> io::Result<File> {
        self.open_how(path, OFlag::O_RDONLY)
    }

    /// What is in a file. What is no UTF-8 in it comes out as the replacement character.
    pub fn read(&self, path: &str) -> io::Result<String> {
        Ok(String::from_utf8_lossy(&self.read_bytes(path)?).into_owned())
    }

    /// The bytes that are in a file.
    pub fn read_bytes(&self, path: &str) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.open(path)?.take(LONGEST).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// The first line of a file, without blanks around it.
    pub fn line(&self, path: &str) -> io::Result<String> {
        let text = self.read(path)?;
        Ok(text.lines().next().unwrap_or("").trim().to_owned())
    }

    /// The names in a directory, sorted.
    pub fn list(&self, path: &str) -> io::Result<Vec<String>> {
        // Opened first for its rights; a recorded tree's links are not followed out of it.
        let dir = self.open_how(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY)?;
        let mut dir = nix::dir::Dir::from_fd(dir.into())?;
        let mut names = Vec::new();
        for entry in dir.iter() {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if name != "." && name != ".." {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    /// Where a link leads to.
    pub fn read_link(&self, path: &str) -> io::Result<OsString> {
        let path = self.path(path);
        if self.recorded {
            let meta = fs::symlink_metadata(&path)?;
            if meta.is_file() && meta.mode() & 0o444 == 0 {
                return Err(io::ErrorKind::PermissionDenied.into());
            }
        }
        Ok(fs::read_link(path)?.into_os_string())
    }

    /// Is there such a file? Where that is kept from us, an error.
    pub fn exists(&self, path: &str) -> io::Result<bool> {
        match self.open_how(path, OFlag::O_PATH) {
            Ok(_) => Ok(true),
            Err(err) if is_absent(&err) => Ok(false),
            Err(err) => Err(err),
        }
    }

    /// Is there such a file, as far as we are told?
    pub fn has(&self, path: &str) -> bool {
        self.exists(path).unwrap_or(false)
    }

    /// Is it a directory?
    pub fn is_dir(&self, path: &str) -> bool {
        self.open_how(path, OFlag::O_PATH)
            .and_then(|f| f.metadata())
            .is_ok_and(|m| m.is_dir())
    }

    /// What a device node is. It is not opened.
    pub fn node(&self, path: &str) -> io::Result<Node> {
        let meta = self.open_how(path, OFlag::O_PATH)?.metadata()?;
        if meta.file_type().is_char_device() {
            return Ok(Node::Char(major(meta.rdev()), minor(meta.rdev())));
        }
        if self.recorded {
            let said = self.line(path)?;
            let mut words = said.split_whitespace();
            if words.next() == Some("char") {
                let mut number = || words.next().and_then(|w| w.parse().ok());
                if let (Some(major), Some(minor)) = (number(), number()) {
                    return Ok(Node::Char(major, minor));
                }
            }
        }
        Ok(Node::Other)
    }
}
