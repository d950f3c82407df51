#![deny(unsafe_code)]
// SPDX-License-Identifier: GPL-2.0

//! The Linux client module of the Coda distributed file system.
//!
//! It takes the place of the kernel's `coda.ko`: the same file system type, device and protocol,
//! for an unmodified cache manager; and the close upcall tells truthfully whether a file that was
//! open for writing was modified. See Documentation/ for how.
//!
//! This storey is Coda's logic, in safe Rust; what it stands on is in `vfs/`.

use kernel::prelude::*;

#[allow(unsafe_code)]
mod vfs;

mod cnode;
mod dir;
mod dirent;
mod downcall;
mod file;
mod inode;
mod mmap;
mod pioctl;
mod psdev;
mod report;
mod sysctl;
mod upcall;
mod wire;

use inode::Coda;
use psdev::Psdev;

module! {
    type: CodaModule,
    name: "coda_rs",
    authors: ["The coda_rs maintainers"],
    description: "Coda Distributed File System client in Rust",
    license: "GPL",
    alias: ["fs-coda", "char-major-67-*"],
}

/// What the module holds while it is loaded. Fields drop in order: the file system type first, so
/// that no mount can begin while the device goes.
#[pin_data]
struct CodaModule {
    #[pin]
    _fs: vfs::fs::Registration<Coda>,
    #[pin]
    _sysctl: vfs::sysctl::Directory<3>,
    #[pin]
    _psdev: vfs::chrdev::Registration<Psdev>,
}

impl kernel::InPlaceModule for CodaModule {
    fn init(_module: &'static ThisModule) -> impl PinInit<Self, Error> {
        // Where the C module is loaded, it is the file system type that is taken first. The device
        // comes last: with it things begin.
        try_pin_init!(Self {
            _fs <- vfs::fs::Registration::new(),
            _sysctl <- sysctl::directory(),
            _psdev <- vfs::chrdev::Registration::new(Psdev::new()),
        })
    }
}

/// What must not compile, a file at a time: see tests/misuse/.
#[cfg(coda_rs_misuse)]
mod misuse {
    include!(env!("CODA_RS_MISUSE"));
}
