// SPDX-License-Identifier: GPL-2.0

//! `/dev/cfsN` and mounting.

use anyhow::{Context, Result, bail};
use coda_proto::{CIOC_KERNEL_VERSION, KERNEL_VERSION, MOUNT_VERSION, MountData};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, fsconfig_create, fsconfig_set_fd,
    fsmount, fsopen, move_mount,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use zerocopy::IntoBytes;

/// The kernel's end of the conversation.
pub struct Device {
    fd: OwnedFd,
}

impl Device {
    /// Opens the device and makes sure that the module speaks our protocol.
    pub fn open(path: &Path) -> Result<Self> {
        let fd = rustix::fs::open(path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
            .with_context(|| format!("cannot open {}", path.display()))?;
        // The kernel writes an int, although the number says size_t.
        let mut version: libc::c_long = 0;
        // SAFETY: the request writes at most a size_t through the pointer.
        let ret = unsafe {
            libc::ioctl(
                fd.as_raw_fd(),
                CIOC_KERNEL_VERSION as libc::Ioctl,
                &mut version,
            )
        };
        if ret != 0 {
            return Err(std::io::Error::last_os_error())
                .context("the module does not tell its protocol's number");
        }
        if version as u32 != KERNEL_VERSION {
            bail!("the module speaks protocol {version}, not {KERNEL_VERSION}");
        }
        Ok(Device { fd })
    }

    /// Waits for the next message. Signals are not for us.
    pub fn read(&self, buf: &mut [u8]) -> Result<usize, Errno> {
        rustix::io::retry_on_intr(|| rustix::io::read(&self.fd, &mut *buf))
    }

    /// Sends one message.
    pub fn write(&self, msg: &[u8]) -> Result<usize, Errno> {
        rustix::io::write(&self.fd, msg)
    }

    /// Mounts as Venus does.
    pub fn mount_by_data(&self, target: &Path) -> Result<()> {
        let data = MountData {
            version: MOUNT_VERSION,
            fd: self.fd.as_raw_fd(),
        };
        let target = CString::new(target.as_os_str().as_bytes())?;
        // SAFETY: all pointers are to live objects; the file system reads
        // `size_of::<MountData>()` bytes of the data. A safe wrapper would
        // take a string for data, and ours has NULs in it.
        let ret = unsafe {
            libc::mount(
                c"coda".as_ptr(),
                target.as_ptr(),
                c"coda".as_ptr(),
                libc::MS_NOATIME,
                data.as_bytes().as_ptr().cast(),
            )
        };
        if ret != 0 {
            return Err(std::io::Error::last_os_error()).context("mount");
        }
        Ok(())
    }

    /// Mounts by the newer system calls.
    pub fn mount_by_fd(&self, target: &Path) -> Result<()> {
        let context = fsopen("coda", FsOpenFlags::FSOPEN_CLOEXEC).context("fsopen")?;
        fsconfig_set_fd(context.as_fd(), "fd", self.fd.as_fd()).context("fsconfig fd")?;
        fsconfig_create(context.as_fd()).context("fsconfig create")?;
        let mount = fsmount(
            context.as_fd(),
            FsMountFlags::FSMOUNT_CLOEXEC,
            MountAttrFlags::empty(),
        )
        .context("fsmount")?;
        move_mount(
            mount.as_fd(),
            "",
            rustix::fs::CWD,
            target,
            MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
        )
        .context("move_mount")
    }
}

/// Lets this process have as many files open as it may.
pub fn raise_file_limit() -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    // Root may go beyond the hard limit, and a test looks at 200,000 files, of each of which a
    // descriptor is kept. This is what the kernel lets a process have (fs.nr_open).
    const MOST: u64 = 1 << 20;
    let want = Rlimit {
        current: Some(MOST),
        maximum: limit.maximum.map(|m| m.max(MOST)),
    };
    setrlimit(Resource::Nofile, want)
        .or_else(|_| {
            setrlimit(
                Resource::Nofile,
                Rlimit {
                    current: limit.maximum,
                    maximum: limit.maximum,
                },
            )
        })
        .context("setrlimit")
}
