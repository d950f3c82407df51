// SPDX-License-Identifier: GPL-2.0

//! Memory that all processes of a life have in common: where it stands, what was
//! counted, and what the kernel may show to programs.

use ktest::Result;
use nix::errno::Errno;
use nix::unistd::Pid;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicI32, AtomicI64, AtomicU8, AtomicU32, AtomicU64};

/// How many programs run at a time.
pub const KIDS: usize = 6;

/// Values of [`Shared::phase`].
pub mod phase {
    /// Anything goes.
    pub const WILD: u32 = 0;
    /// The cache manager keeps to the protocol, and loses nothing.
    pub const QUIET: u32 = 1;
    /// The cache manager closes the device.
    pub const STOP: u32 = 2;
    /// The cache manager exits as it stands.
    pub const EXIT: u32 = 3;
}

/// Counts, each with a name. `LEN` is how many.
macro_rules! named {
    ($(#[$doc:meta])* $name:ident { $($item:ident,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq)]
        #[allow(missing_docs)]
        pub enum $name { $($item,)* }

        impl $name {
            /// In their order.
            pub const ALL: &'static [$name] = &[$($name::$item,)*];
            /// What they are called.
            pub const NAMES: &'static [&'static str] = &[$(stringify!($item),)*];
            /// How many there are.
            pub const LEN: usize = Self::ALL.len();
        }
    };
}
pub(crate) use named;

named! {
    /// What becomes of a request.
    Kind {
        Honest,
        Errno,
        BadResult,
        Field,
        Flipped,
        Short,
        Long,
        WrongOpcode,
        WrongUnique,
        Container,
        Twice,
        Late,
        Signalled,
        Never,
    }
}

/// A set of numbers that all may add to. It is never too small: once it is full, it
/// has everything.
pub struct Set {
    slots: [AtomicU64; Self::SLOTS],
    full: AtomicU32,
}

impl Set {
    const SLOTS: usize = 1 << 15;
    const TRIES: usize = 64;

    fn places(number: u64) -> impl Iterator<Item = usize> {
        let first = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 49;
        (0..Self::TRIES).map(move |n| (first as usize + n) % Self::SLOTS)
    }

    /// Adds a number.
    pub fn insert(&self, number: u64) {
        // 0 is an empty slot.
        let number = number.max(1);
        for at in Self::places(number) {
            match self.slots[at].compare_exchange(0, number, SeqCst, SeqCst) {
                Ok(_) => return,
                Err(there) if there == number => return,
                Err(_) => (),
            }
        }
        self.full.store(1, SeqCst);
    }

    /// Whether it was added.
    pub fn has(&self, number: u64) -> bool {
        let number = number.max(1);
        Self::places(number).any(|at| self.slots[at].load(SeqCst) == number)
            || self.full.load(SeqCst) != 0
    }

    fn clear(&self) {
        self.slots.iter().for_each(|slot| slot.store(0, SeqCst));
        self.full.store(0, SeqCst);
    }
}

/// A number for each beginning of `bytes`, the empty one included.
pub fn beginnings(bytes: &[u8]) -> impl Iterator<Item = u64> {
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    std::iter::once(hash).chain(bytes.iter().map(move |&byte| {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        hash
    }))
}

/// Longer ones are compared up to here.
pub const TELLING: usize = 256;

/// See the module's documentation. All zero is a good beginning.
pub struct Shared {
    /// Where the life stands.
    pub phase: AtomicU32,
    /// The file system is mounted.
    pub mounted: AtomicU32,
    /// All messages, in either direction.
    pub messages: AtomicU64,
    /// Requests by opcode.
    pub upcalls: [AtomicU64; 64],
    /// What became of them.
    pub replies: [AtomicU64; Kind::LEN],
    /// What the kernel said to what was written, by errno.
    pub answers: [AtomicU64; 134],
    /// Downcalls by opcode.
    pub downcalls: [AtomicU64; 64],
    /// System calls, by name: well and not.
    pub calls: [[AtomicU64; 2]; 64],
    /// And by errno.
    pub errnos: [AtomicU64; 134],
    /// Processes that a signal ended.
    pub killed: AtomicU64,
    /// Opens without a close so far, by access.
    pub open: [AtomicI64; 4],
    /// Processes that may be signalled.
    pub kids: [AtomicI32; KIDS],
    /// Owners that files may have.
    pub owners: Set,
    /// Beginnings of targets and of answers to ioctls that programs may see.
    pub shown: Set,
    failed: AtomicU32,
    why: [AtomicU8; 3000],
}

/// Counts one more.
pub fn count(of: &AtomicU64) {
    of.fetch_add(1, Relaxed);
}

impl Shared {
    /// For this process and those that it forks.
    pub fn new() -> Result<&'static Self> {
        let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
        // SAFETY: the kernel chooses a place where nothing is.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                size_of::<Self>(),
                libc::PROT_READ | libc::PROT_WRITE,
                flags,
                -1,
                0,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(Errno::last().into());
        }
        // SAFETY: it is large enough, begins with a page, stays for ever, and holds
        // zeroes, which atomic numbers may be. Nobody has anything but shared
        // references to it.
        Ok(unsafe { &*address.cast::<Self>() })
    }

    /// Before a life.
    pub fn begin(&self) {
        self.phase.store(phase::WILD, SeqCst);
        self.mounted.store(0, SeqCst);
        self.open.iter().for_each(|n| n.store(0, SeqCst));
        self.owners.clear();
        self.shown.clear();
    }

    /// Where the life stands.
    pub fn phase(&self) -> u32 {
        self.phase.load(SeqCst)
    }

    /// Something is wrong. The first one to say so counts.
    pub fn fail(&self, why: &str) {
        if self.failed.compare_exchange(0, 1, SeqCst, SeqCst).is_err() {
            return;
        }
        for (slot, byte) in self.why.iter().zip(why.bytes()) {
            slot.store(byte, SeqCst);
        }
        self.failed.store(2, SeqCst);
    }

    /// What is wrong, if anything is.
    pub fn failure(&self) -> Option<String> {
        if self.failed.load(SeqCst) != 2 {
            return None;
        }
        let bytes: Vec<u8> = self.why.iter().map(|b| b.load(SeqCst)).collect();
        let end = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
        Some(String::from_utf8_lossy(&bytes[..end]).into_owned())
    }

    /// Whether a process is one of the programs.
    pub fn is_kid(&self, pid: i32) -> bool {
        pid > 0 && self.kids.iter().any(|kid| kid.load(SeqCst) == pid)
    }

    /// Sends a signal to a program; to nobody, if it is none.
    pub fn signal(&self, pid: i32, signal: nix::sys::signal::Signal) {
        if self.is_kid(pid) {
            let _ = nix::sys::signal::kill(Pid::from_raw(pid), signal);
        }
    }

    /// Counts a system call. An error that no program may see is a fault.
    pub fn called<T>(&self, index: usize, name: &str, result: &Result<T, Errno>) {
        count(&self.calls[index][usize::from(result.is_err())]);
        if let Err(errno) = result {
            match self.errnos.get(*errno as usize) {
                Some(slot) if *errno != Errno::UnknownErrno => count(slot),
                // Two numbers that Linux leaves out; but a cache manager may not know.
                _ if matches!(Errno::last_raw(), 41 | 58) => (),
                _ => self.fail(&format!("{name} fails with an error that is none")),
            }
        }
    }
}
