// SPDX-License-Identifier: GPL-2.0

//! Memory mappings that tests can treat badly.

use crate::sys::check;
use nix::errno::Errno;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

/// The size of a page.
pub const PAGE: usize = 4096;

/// A mapping. It is unmapped when it is dropped.
///
/// Loads and stores go through raw pointers: others change the memory, and it
/// may not even be there.
pub struct Map {
    address: *mut u8,
    len: usize,
}

// SAFETY: it is an address and a length; what threads do there is the test.
unsafe impl Send for Map {}
// SAFETY: as above.
unsafe impl Sync for Map {}

impl Map {
    /// mmap(2) of a file.
    pub fn new(fd: &OwnedFd, len: usize, prot: i32, flags: i32) -> Result<Self, Errno> {
        Self::at(fd, 0, len, prot, flags)
    }

    /// mmap(2) of a file from an offset on.
    pub fn at(fd: &OwnedFd, offset: i64, len: usize, prot: i32, flags: i32) -> Result<Self, Errno> {
        Self::raw(fd.as_raw_fd(), offset, len, prot, flags)
    }

    fn raw(fd: RawFd, offset: i64, len: usize, prot: i32, flags: i32) -> Result<Self, Errno> {
        // SAFETY: the kernel chooses a place where nothing is.
        let address = unsafe { libc::mmap(std::ptr::null_mut(), len, prot, flags, fd, offset) };
        if address == libc::MAP_FAILED {
            return Err(Errno::last());
        }
        Ok(Map {
            address: address.cast(),
            len,
        })
    }

    /// Memory of no file.
    pub fn anonymous(len: usize) -> Result<Self, Errno> {
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        Self::raw(-1, 0, len, prot, flags)
    }

    /// A shared mapping for reading and writing.
    pub fn shared(fd: &OwnedFd, len: usize) -> Result<Self, Errno> {
        Self::new(
            fd,
            len,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED,
        )
    }

    /// A shared mapping at a multiple of two megabytes, where huge pages can be.
    pub fn shared_huge(fd: &OwnedFd, len: usize) -> Result<Self, Errno> {
        const HUGE: usize = 2 << 20;
        // The place is found by asking for more than is needed.
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let room = Self::new(fd, len + HUGE, libc::PROT_NONE, flags)?;
        let start = room.address as usize;
        let offset = start.next_multiple_of(HUGE) - start;
        // SAFETY: all of it is inside the room, which nobody uses.
        let address = unsafe {
            libc::mmap(
                room.address.add(offset).cast(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_FIXED,
                fd.as_raw_fd(),
                0,
            )
        };
        // What is left of the room goes with the process.
        room.forget();
        if address == libc::MAP_FAILED {
            return Err(Errno::last());
        }
        Ok(Map {
            address: address.cast(),
            len,
        })
    }

    /// Whether huge pages of a file are mapped there, as /proc tells it.
    pub fn is_huge(&self) -> std::io::Result<bool> {
        let smaps = std::fs::read_to_string("/proc/self/smaps")?;
        let start = format!("{:x}-", self.address as usize);
        let mut lines = smaps.lines().skip_while(|l| !l.starts_with(&start));
        Ok(lines
            .by_ref()
            .take_while(|l| !l.starts_with("VmFlags"))
            .filter(|l| l.starts_with("ShmemPmdMapped") || l.starts_with("FilePmdMapped"))
            .any(|l| l.split_whitespace().nth(1) != Some("0")))
    }

    /// Where it is.
    pub fn address(&self) -> *mut u8 {
        self.address
    }

    /// How long it is.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it is nothing at all.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Stores a byte.
    pub fn store(&self, at: usize, value: u8) {
        assert!(at < self.len);
        // SAFETY: inside the mapping; if the page is not writable, the signal
        // that follows is what the test is about.
        unsafe { self.address.add(at).write_volatile(value) }
    }

    /// Stores a number at a multiple of its size.
    pub fn store_u64(&self, at: usize, value: u64) {
        assert!(at + 8 <= self.len && at % 8 == 0);
        // SAFETY: as for a byte; the mapping begins with a page.
        unsafe { self.address.add(at).cast::<u64>().write_volatile(value) }
    }

    /// Loads a byte.
    pub fn load(&self, at: usize) -> u8 {
        assert!(at < self.len);
        // SAFETY: as for stores.
        unsafe { self.address.add(at).read_volatile() }
    }

    /// madvise(2) for all of it.
    pub fn advise(&self, advice: i32) -> Result<(), Errno> {
        // SAFETY: the range is ours, and nobody relies on what it holds.
        check(unsafe { libc::madvise(self.address.cast(), self.len, advice) }.into()).map(|_| ())
    }

    /// madvise(2) for some pages.
    pub fn advise_pages(&self, first: usize, pages: usize, advice: i32) -> Result<(), Errno> {
        assert!((first + pages) * PAGE <= self.len);
        // SAFETY: as above.
        check(
            unsafe { libc::madvise(self.address.add(first * PAGE).cast(), pages * PAGE, advice) }
                .into(),
        )
        .map(|_| ())
    }

    /// mprotect(2) for all of it.
    pub fn protect(&self, prot: i32) -> Result<(), Errno> {
        // SAFETY: as above.
        check(unsafe { libc::mprotect(self.address.cast(), self.len, prot) }.into()).map(|_| ())
    }

    /// msync(2) with MS_SYNC.
    pub fn sync(&self) -> Result<(), Errno> {
        // SAFETY: as above.
        check(unsafe { libc::msync(self.address.cast(), self.len, libc::MS_SYNC) }.into())
            .map(|_| ())
    }

    /// mremap(2) to another length and perhaps place.
    pub fn remap(&mut self, len: usize) -> Result<(), Errno> {
        // SAFETY: as above; the old address is not used again.
        let address =
            unsafe { libc::mremap(self.address.cast(), self.len, len, libc::MREMAP_MAYMOVE) };
        if address == libc::MAP_FAILED {
            return Err(Errno::last());
        }
        self.address = address.cast();
        self.len = len;
        Ok(())
    }

    /// mremap(2) of no length, which makes a second mapping of the same pages.
    pub fn double(&self) -> Result<Self, Errno> {
        // SAFETY: the old mapping stays, and the new one goes where nothing is.
        let address =
            unsafe { libc::mremap(self.address.cast(), 0, self.len, libc::MREMAP_MAYMOVE) };
        if address == libc::MAP_FAILED {
            return Err(Errno::last());
        }
        Ok(Map {
            address: address.cast(),
            len: self.len,
        })
    }

    /// munmap(2) of some pages in the middle, which nobody may touch again.
    pub fn punch(&self, first: usize, pages: usize) -> Result<(), Errno> {
        assert!((first + pages) * PAGE <= self.len);
        // SAFETY: the range is ours. munmap of the whole, later, does not
        // mind the hole.
        check(unsafe { libc::munmap(self.address.add(first * PAGE).cast(), pages * PAGE) }.into())
            .map(|_| ())
    }

    /// Leaves it to the process's end to unmap it.
    pub fn forget(self) {
        std::mem::forget(self);
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours alone.
        unsafe { libc::munmap(self.address.cast(), self.len) };
    }
}
