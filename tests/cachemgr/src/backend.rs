// SPDX-License-Identifier: GPL-2.0

//! What would be on the servers: a copy of each file, stored when its last
//! writer closes it.
//!
//! This is where C_O_NO_WRITES pays: a close that carries it needs no store. And
//! as the copy is what was stored last, it can be told whether the kernel was
//! right: at each last close the copy and the container are compared.

use coda_proto::C_O_NO_WRITES;
use rustix::io::Errno;
use serde::Serialize;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// What came of all last closes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Files that were stored.
    pub stores: u64,
    /// Their bytes.
    pub sent: u64,
    /// Files that were not stored, as the kernel said that it is not needed.
    pub spared: u64,
    /// Their bytes.
    pub saved: u64,
    /// Of these: files that had changed all the same. There must be none.
    pub lost: u64,
    /// Stores of what the server had already.
    pub needless: u64,
    /// Of these: files that were truncated, perhaps to what they were.
    pub truncated: u64,
}

/// What is known of a file while it is open for writing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Period {
    truncated: bool,
}

/// The copies.
pub struct Backend {
    dir: PathBuf,
    counts: Mutex<Counts>,
}

impl Backend {
    /// Copies will be in `dir`.
    pub fn new(dir: &Path) -> std::io::Result<Self> {
        fs::create_dir_all(dir)?;
        Ok(Backend {
            dir: dir.to_owned(),
            counts: Mutex::default(),
        })
    }

    /// The counts so far.
    pub fn counts(&self) -> Counts {
        *self.counts.lock().expect("nobody panics with the lock")
    }

    fn copy_of(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// A file is about to be opened for writing, or truncated. Where there is no
    /// copy yet, the server has what the container holds.
    pub fn begin(&self, name: &str, container: &str) -> Result<(), Errno> {
        let copy = self.copy_of(name);
        if !copy.exists() {
            fs::copy(container, copy).map_err(|_| Errno::IO)?;
        }
        Ok(())
    }

    /// A file is truncated, to `size`. Without a writer that goes to the server by
    /// itself; else with the store at the end.
    pub fn truncate(
        &self,
        name: &str,
        size: u64,
        has_writers: bool,
        period: &mut Period,
    ) -> Result<(), Errno> {
        period.truncated = has_writers;
        if !has_writers {
            let copy = File::options().write(true).open(self.copy_of(name));
            copy.and_then(|copy| copy.set_len(size))
                .map_err(|_| Errno::IO)?;
        }
        Ok(())
    }

    /// The last writer has closed a file, with this flags word. Nobody can open it
    /// until this is done.
    pub fn end(
        &self,
        name: &str,
        container: &str,
        flags: u32,
        period: &mut Period,
    ) -> Result<&'static str, Errno> {
        let copy = self.copy_of(name);
        let read = |path: &Path| fs::read(path).map_err(|_| Errno::IO);
        let (now, before) = (read(Path::new(container))?, read(&copy)?);
        let truncated = std::mem::take(period).truncated;
        let len = now.len() as u64;
        let mut counts = self.counts.lock().expect("nobody panics with the lock");
        if flags & C_O_NO_WRITES != 0 {
            counts.spared += 1;
            counts.saved += len;
            if now == before {
                return Ok("spared");
            }
            counts.lost += 1;
            return Ok("lost");
        }
        counts.stores += 1;
        counts.sent += len;
        if now != before {
            fs::write(copy, now).map_err(|_| Errno::IO)?;
            return Ok("stored");
        }
        counts.needless += 1;
        counts.truncated += u64::from(truncated);
        Ok("stored needlessly")
    }

    /// A file is gone.
    pub fn forget(&self, name: &str) {
        let _ = fs::remove_file(self.copy_of(name));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use coda_proto::{C_O_READ, C_O_WRITE};
    use tempfile::TempDir;

    #[test]
    fn what_changed_and_what_was_said() {
        let dir = TempDir::new().unwrap();
        let backend = Backend::new(&dir.path().join("server")).unwrap();
        let file = dir.path().join("f");
        let path = file.to_str().unwrap();
        let mut period = Period::default();
        let (modified, clean) = (C_O_READ | C_O_WRITE, C_O_READ | C_O_WRITE | C_O_NO_WRITES);
        fs::write(&file, b"one").unwrap();
        backend.begin("1", path).unwrap();
        assert_eq!(backend.end("1", path, clean, &mut period), Ok("spared"));
        fs::write(&file, b"three").unwrap();
        assert_eq!(backend.end("1", path, modified, &mut period), Ok("stored"));
        let again = backend.end("1", path, modified, &mut period);
        assert_eq!(again, Ok("stored needlessly"));
        fs::write(&file, b"nobody knows").unwrap();
        assert_eq!(backend.end("1", path, clean, &mut period), Ok("lost"));
        assert_eq!(
            backend.counts(),
            Counts {
                stores: 2,
                sent: 10,
                spared: 2,
                saved: 15,
                lost: 1,
                needless: 1,
                truncated: 0,
            }
        );
    }
}
