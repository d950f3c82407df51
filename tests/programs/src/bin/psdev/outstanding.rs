// SPDX-License-Identifier: GPL-2.0

//! Many requests under way at once, of which the last one is answered first.
//!
//! The cases speak to the device themselves: what a cache manager of many
//! threads does in between would be counted as well.

use crate::device;
use coda_proto::{
    Fid, GetattrOut, InHdr, MAXMSGSIZE, MOUNT_VERSION, MountData, Opcode, OutHdr, RootOut,
    Timespec, Vattr, vtype,
};
use coda_selftests::sys::{self, Child, child};
use ktest::{Case, Context, Result, bail, ensure, ensure_eq, skip};
use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use std::io::ErrorKind;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};
use zerocopy::{FromBytes, Immutable, IntoBytes};

const MOUNT: &str = "/mnt";
/// Each of them is asked by a thread of its own.
const MANY: usize = 1000;
/// How many replies are measured.
const FEW: usize = 16;

/// A cache manager without a volume: it has a root, and knows of no name in it.
struct Manager {
    fd: OwnedFd,
}

impl Manager {
    /// Opens the device and mounts.
    fn start() -> Result<Self> {
        let fd = device::open(0)?;
        let data = MountData {
            version: MOUNT_VERSION,
            fd: fd.as_raw_fd(),
        };
        let mounter = child(|_| Ok(device::mount(Path::new(MOUNT), Some(&data))?))?;
        let this = Manager { fd };
        this.serve(Opcode::GETATTR)?;
        mounter.succeed()?;
        Ok(this)
    }

    fn next(&self) -> Result<InHdr> {
        let mut buffer = [0; MAXMSGSIZE];
        let len = nix::unistd::read(&self.fd, &mut buffer)?;
        let head = InHdr::read_from_prefix(&buffer[..len]);
        Ok(head
            .map_err(|_| ktest::anyhow!("a request of {len} bytes"))?
            .0)
    }

    fn reply(&self, message: &(impl IntoBytes + Immutable)) -> Result<()> {
        sys::write(&self.fd, message.as_bytes())
    }

    /// Answers what is asked, up to and including a request of that kind.
    fn serve(&self, last: Opcode) -> Result<()> {
        loop {
            let head = self.next()?;
            let op = Opcode(head.opcode);
            let oh = answer(&head, 0);
            let fid = Fid([1, 2, 3, 4]);
            match op {
                Opcode::ROOT => self.reply(&RootOut { oh, fid })?,
                Opcode::GETATTR => {
                    let now = Timespec { sec: 1, nsec: 0 };
                    let attr = Vattr {
                        kind: vtype::DIR,
                        mode: 0o755,
                        nlink: 2,
                        fileid: fid.inode_number().into(),
                        blocksize: 4096,
                        atime: now,
                        mtime: now,
                        ctime: now,
                        ..Vattr::default()
                    };
                    self.reply(&GetattrOut { oh, _pad: 0, attr })?;
                }
                Opcode::ACCESS => self.reply(&oh)?,
                Opcode::LOOKUP => self.reply(&answer(&head, Errno::ENOENT as u32))?,
                other => bail!("{other} is not what was asked for"),
            }
            if op == last {
                return Ok(());
            }
        }
    }

    /// A process whose threads each ask for a name, and the requests, the oldest
    /// first. It is content if every thread is told what it has to be.
    fn ask(&self) -> Result<(Child, Vec<InHdr>)> {
        let kid = child(|_| {
            let ask = |n: usize| {
                let told = std::fs::metadata(format!("{MOUNT}/n{n}"));
                told.err().map(|e| e.kind()) == Some(ErrorKind::NotFound)
            };
            // The root's permissions are known from here on.
            ensure!(ask(MANY), "the first one was told something else");
            let threads: Result<Vec<_>, _> = (0..MANY)
                .map(|n| {
                    let thread = std::thread::Builder::new().stack_size(64 << 10);
                    thread.spawn(move || ask(n))
                })
                .collect();
            for thread in threads? {
                let content = thread.join().ok().context("a thread panicked")?;
                ensure!(content, "a thread was told something else");
            }
            Ok(())
        })?;
        self.serve(Opcode::LOOKUP)?;
        let heads: Result<Vec<_>> = (0..MANY).map(|_| self.next()).collect();
        let heads = heads?;
        ensure!(
            heads.iter().all(|h| h.opcode == Opcode::LOOKUP.0),
            "not only LOOKUP"
        );
        Ok((kid, heads))
    }

    /// Answers these, the last one first, and gives the least time that one took.
    fn answer_all(&self, heads: &[InHdr]) -> Result<Duration> {
        let mut least = Duration::MAX;
        for head in heads.iter().rev() {
            let reply = answer(head, Errno::ENOENT as u32);
            let began = Instant::now();
            let sent = nix::unistd::write(&self.fd, reply.as_bytes());
            least = least.min(began.elapsed());
            ensure_eq!(sent, Ok(size_of::<OutHdr>()));
        }
        Ok(least)
    }

    /// Unmounts and closes the device.
    fn stop(self) -> Result<()> {
        Ok(umount2(MOUNT, MntFlags::empty())?)
    }
}

impl Drop for Manager {
    /// What a case left behind when it went wrong.
    fn drop(&mut self) {
        let _ = umount2(MOUNT, MntFlags::MNT_DETACH);
    }
}

fn answer(to: &InHdr, result: u32) -> OutHdr {
    OutHdr {
        opcode: to.opcode,
        unique: to.unique,
        result,
    }
}

/// The cases.
pub fn cases() -> Vec<Case> {
    vec![
        Case::new(
            "newest_first",
            "a thousand requests under way, the newest answered first",
            |_| {
                let manager = Manager::start()?;
                let (kid, heads) = manager.ask()?;
                manager.answer_all(&heads)?;
                kid.succeed_within(30)?;
                manager.stop()
            },
        )
        .seconds(60),
        Case::new(
            "cost_of_a_reply",
            "fault 12: a reply costs the same, however many others wait",
            |_| {
                // QEMU's -icount: time passes by executed instructions alone.
                if std::env::var_os("CODA_ICOUNT").is_none() {
                    skip!("the clock of this guest does not count instructions");
                }
                let manager = Manager::start()?;
                let (kid, heads) = manager.ask()?;
                let (rest, newest) = heads.split_at(MANY - FEW);
                let among_many = manager.answer_all(newest)?;
                let (few, rest) = rest.split_at(FEW);
                manager.answer_all(rest)?;
                let among_few = manager.answer_all(few)?;
                kid.succeed_within(30)?;
                manager.stop()?;
                println!("# a reply among {MANY}: {among_many:?}, among {FEW}: {among_few:?}");
                // A tree is deeper by a few steps, a list longer by a thousand.
                ensure!(
                    among_many < among_few * 3 / 2,
                    "with {MANY} under way a reply takes {} instructions, with {FEW} {}",
                    among_many.as_nanos(),
                    among_few.as_nanos()
                );
                Ok(())
            },
        )
        .tag("cost_of_a_reply")
        .seconds(60),
    ]
}
