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
mod containers;
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
mod tally;
mod trace;
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

/// What the module is made of.
struct Parts;

impl vfs::module::Parts<3, 4> for Parts {
    type FileSystem = Coda;
    type Device = Psdev;
    const SYSCTLS: &'static CStr = c"coda";
    const DEBUGFS: &'static CStr = c"coda_rs";

    fn device() -> impl PinInit<Psdev, Error> {
        Psdev::new()
    }

    fn sysctls() -> &'static [vfs::sysctl::Entry; 3] {
        sysctl::entries()
    }

    fn debugfs() -> &'static [vfs::debugfs::Entry<Psdev>; 4] {
        Psdev::shown()
    }
}

type CodaModule = vfs::module::Module<Parts, 3, 4>;

#[kunit_tests(coda_rs_module)]
mod tests {
    use super::*;

    #[test]
    fn there_is_one_module() {
        let second = KBox::pin_init(CodaModule::new(), GFP_KERNEL);
        assert_eq!(second.err(), Some(EEXIST));
    }
}

/// What must not compile, a file at a time: see tests/misuse/.
#[cfg(coda_rs_misuse)]
mod misuse {
    include!(env!("CODA_RS_MISUSE"));
}
