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
use coda_selftests::sys::{self, Child, child, sleep_for_ever};
use ktest::{Case, Context, Result, bail, ensure, ensure_eq, patience, skip, wait_for};
use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};
use zerocopy::{FromBytes, Immutable, IntoBytes};

const MOUNT: &str = "/mnt";
/// Each of them is asked by a thread of its own.
fn many() -> usize {
    match std::env::var_os("CODA_LONG") {
        Some(_) => 10_000,
        None => 1000,
    }
}
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
        let mounter = child(|_| Ok(sys::mount_coda(Path::new(MOUNT), Some(&data))?))?;
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

    fn is_readable(&self) -> Result<bool> {
        let mut fds = [PollFd::new(self.fd.as_fd(), PollFlags::POLLIN)];
        Ok(poll(&mut fds, PollTimeout::ZERO)? > 0)
    }

    fn reply(&self, message: &(impl IntoBytes + Immutable)) -> Result<()> {
        sys::write(&self.fd, message.as_bytes())
    }

    /// Answers what is asked, up to and including a request of that kind.
    fn serve(&self, last: Opcode) -> Result<()> {
        loop {
            let head = self.next()?;
            let op = Opcode(head.opcode);
            let oh = OutHdr::answer(&head, 0);
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
                Opcode::LOOKUP => self.reply(&OutHdr::answer(&head, Errno::ENOENT as u32))?,
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
        let many = many();
        let kid = child(|_| {
            let ask = |n: usize| {
                let told = std::fs::metadata(format!("{MOUNT}/n{n}"));
                told.err().map(|e| e.kind()) == Some(ErrorKind::NotFound)
            };
            // The root's permissions are known from here on.
            ensure!(ask(many), "the first one was told something else");
            let threads: Result<Vec<_>, _> = (0..many)
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
        let heads: Result<Vec<_>> = (0..many).map(|_| self.next()).collect();
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
            let reply = OutHdr::answer(head, Errno::ENOENT as u32);
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

/// How many threads ask at a time, where not all of them are to be outstanding.
const THREADS: usize = 40;

fn rounds() -> usize {
    match std::env::var_os("CODA_LONG") {
        Some(_) => 500,
        None => 10,
    }
}

/// A process whose threads each ask for a name of that round, and wait for ever after it.
fn askers(round: usize) -> Result<Child> {
    child(|_| {
        let ask = move |n: usize| {
            let _ = std::fs::metadata(format!("{MOUNT}/r{round}n{n}"));
            sleep_for_ever()
        };
        for n in 1..THREADS {
            let thread = std::thread::Builder::new().stack_size(64 << 10);
            thread.spawn(move || ask(n))?;
        }
        ask(0)
    })
}

/// Waits until all of them have asked.
fn wait_asking(kid: &Child) -> Result<()> {
    wait_for("all of them to ask", patience(10), || {
        let mut asking = 0;
        for task in std::fs::read_dir(format!("/proc/{}/task", kid.pid))? {
            // statx(2), or what else the C library asks with.
            let call = std::fs::read_to_string(task?.path().join("syscall"))?;
            let number = call.split(' ').next().and_then(|n| n.parse().ok());
            if [libc::SYS_statx, libc::SYS_newfstatat]
                .map(Some)
                .contains(&number)
            {
                asking += 1;
            }
        }
        Ok((asking == THREADS).then_some(()))
    })
}

/// The cases.
pub fn cases() -> Vec<Case> {
    vec![
        Case::new(
            "newest_first",
            "many requests under way, the newest answered first",
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
                let many = heads.len();
                let (rest, newest) = heads.split_at(heads.len() - FEW);
                let among_many = manager.answer_all(newest)?;
                let (few, rest) = rest.split_at(FEW);
                manager.answer_all(rest)?;
                let among_few = manager.answer_all(few)?;
                kid.succeed_within(30)?;
                manager.stop()?;
                println!("# a reply among {many}: {among_many:?}, among {FEW}: {among_few:?}");
                // A tree is deeper by a few steps, a list longer by a thousand.
                ensure!(
                    among_many < among_few * 3 / 2,
                    "with {many} under way a reply takes {} instructions, with {FEW} {}",
                    among_many.as_nanos(),
                    among_few.as_nanos()
                );
                Ok(())
            },
        )
        .tag("cost_of_a_reply")
        .seconds(60),
        Case::new(
            "unread",
            "what nobody reads does not pile up: who is killed takes his request along",
            |_| {
                let manager = Manager::start()?;
                for round in 0..rounds() {
                    let kid = askers(round)?;
                    wait_asking(&kid)?;
                    kid.kill(Signal::SIGKILL)?;
                    kid.die_of(Signal::SIGKILL)?;
                }
                ensure!(!manager.is_readable()?, "there is something to be read");
                manager.stop()
            },
        )
        .tag("unread")
        .seconds(120),
        Case::new(
            "signals",
            "who is killed is told of once, and not if the answer has come",
            |_| {
                let manager = Manager::start()?;
                // The root's permissions are known from here on.
                let first = child(|_| {
                    let _ = std::fs::metadata(format!("{MOUNT}/first"));
                    Ok(())
                })?;
                manager.serve(Opcode::LOOKUP)?;
                first.succeed()?;
                for round in 0..rounds() {
                    let kid = askers(round)?;
                    let mut asked = BTreeSet::new();
                    for n in 0..THREADS {
                        let head = manager.next()?;
                        ensure_eq!(head.opcode, Opcode::LOOKUP.0);
                        if n % 2 == 0 {
                            manager.reply(&OutHdr::answer(&head, Errno::ENOENT as u32))?;
                        } else {
                            asked.insert(head.unique);
                        }
                    }
                    kid.kill(Signal::SIGKILL)?;
                    kid.die_of(Signal::SIGKILL)?;
                    while !asked.is_empty() {
                        let head = manager.next()?;
                        ensure_eq!(head.opcode, Opcode::SIGNAL.0);
                        ensure!(asked.remove(&head.unique), "of nobody, or twice: {head:?}");
                    }
                    ensure!(!manager.is_readable()?, "there is more to be read");
                }
                manager.stop()
            },
        )
        .tag("unread")
        .seconds(120),
    ]
}
