// SPDX-License-Identifier: GPL-2.0

//! A cache manager that means no good, and watches what the kernel tells it.
//!
//! Before a reply is written it is judged by what the protocol says of it: whether
//! the kernel may make use of it. If so, the fid, the owner and the data in it are
//! known from then on; if not, they are given values that nothing else has. A fid in
//! a request, or an owner or a target at a program, that is none of those which are
//! known, was taken from a reply that is none, or from nowhere.

use crate::shared::{Kind, Shared, TELLING, beginnings, count, phase};
use crate::volume::Volume;
use coda_proto::request::{Ask, Request, parse};
use coda_proto::{
    C_O_WRITE, CreateOut, Fid, GetattrOut, IoctlOut, LookupOut, MAXMSGSIZE, MOUNT_VERSION,
    MountData, Opcode, OpenByFdOut, OutHdr, ReadlinkOut, RootOut, StatfsOut, Vattr, intent, vtype,
};
use coda_selftests::sys;
use ktest::{Context, Result, bail, patience};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::pthread::pthread_kill;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::unistd::pipe;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, RngCore, SeedableRng};
use std::collections::{HashMap, HashSet};
use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::thread::JoinHandleExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicBool, AtomicU32};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};
use zerocopy::IntoBytes;

/// How many threads answer.
const THREADS: u64 = 3;

/// What one cache manager is like.
pub struct Plan {
    /// Its number, which is in its fids.
    pub life: u32,
    /// Where its chances come from.
    pub seed: u64,
    /// Where it mounts.
    pub mnt: PathBuf,
    /// Where its containers are.
    pub store: PathBuf,
    /// How many of a thousand requests are not answered honestly.
    pub malice: u32,
    /// Whether objects are given other fids. Closes cannot be told apart by fids then.
    pub replaces: bool,
    /// The end of a pipe, to be given away as if it were a container.
    pub pipe: OwnedFd,
}

/// A request that was read and not answered.
#[derive(Clone, Copy)]
struct Asked {
    op: Opcode,
    room: usize,
    fid: Fid,
    flags: u32,
}

/// A reply, or a downcall.
struct Message {
    bytes: Vec<u8>,
    /// What is in it is not closed before it is sent.
    _container: Option<OwnedFd>,
}

/// A request that gets no reply, as long as the life is wild.
struct Lost {
    unique: u32,
    /// Who waits for it.
    pid: i32,
    /// For how long.
    ticks: u32,
    /// What it might have got.
    reply: Message,
}

/// What was said on both sides.
#[derive(Default)]
struct Said {
    uttered: HashSet<Fid>,
    asked: HashMap<u32, Asked>,
    /// Opens without a close, by fid and access; but not once an object has had two
    /// fids.
    open: HashMap<(Fid, u32), i64>,
    replaced: bool,
}

struct Manager {
    plan: Plan,
    shared: &'static Shared,
    dev: RawFd,
    /// Nothing but honest answers, for now.
    gentle: AtomicBool,
    volume: Mutex<Volume>,
    said: Mutex<Said>,
    /// Replies for later.
    held: Mutex<Vec<Message>>,
    /// Requests that get none.
    lost: Mutex<Vec<Lost>>,
    /// A file of the mount, to be given as its own container.
    coda_file: Mutex<Option<OwnedFd>>,
    poison: AtomicU32,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("nobody panics with the lock")
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at + 4)?;
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

fn long(bytes: &[u8], at: usize) -> Option<i64> {
    let bytes = bytes.get(at..at + 8)?;
    Some(i64::from_ne_bytes(bytes.try_into().ok()?))
}

fn fid_at(bytes: &[u8], at: usize) -> Option<Fid> {
    let mut words = [0; 4];
    for (n, slot) in words.iter_mut().enumerate() {
        *slot = word(bytes, at + 4 * n)?;
    }
    Some(Fid(words))
}

fn put(bytes: &mut [u8], at: usize, new: &[u8]) {
    if let Some(slot) = bytes.get_mut(at..at + new.len()) {
        slot.copy_from_slice(new);
    }
}

fn is_downcall(op: u32) -> bool {
    (Opcode::REPLACE.0..=Opcode::PURGEFID.0).contains(&op)
}

/// Where attributes are in a reply.
fn attr_at(op: Opcode) -> Option<usize> {
    match op {
        Opcode::GETATTR => Some(std::mem::offset_of!(GetattrOut, attr)),
        Opcode::CREATE | Opcode::MKDIR => Some(std::mem::offset_of!(CreateOut, attr)),
        _ => None,
    }
}

/// Whether there is a fid behind the header of a reply.
fn has_fid(op: Opcode) -> bool {
    matches!(
        op,
        Opcode::ROOT | Opcode::LOOKUP | Opcode::CREATE | Opcode::MKDIR
    )
}

/// The data in a reply to READLINK or IOCTL.
fn data_of(reply: &[u8]) -> Option<&[u8]> {
    let count = usize::try_from(word(reply, 12)? as i32).ok()?;
    let offset = usize::try_from(long(reply, 16)?).ok()?;
    reply.get(offset..offset.checked_add(count)?)
}

/// Whether the kernel may make use of what it has taken of a reply.
fn is_accepted(op: Opcode, reply: &[u8]) -> bool {
    if word(reply, 8) != Some(0) {
        return false;
    }
    if let Some(at) = attr_at(op) {
        let size = long(reply, at + std::mem::offset_of!(Vattr, size));
        return reply.len() >= at + size_of::<Vattr>()
            && matches!(long(reply, at), Some(vtype::REG | vtype::DIR | vtype::LNK))
            && size.is_some_and(|size| size >= -1);
    }
    match op {
        Opcode::ROOT => reply.len() >= size_of::<RootOut>(),
        Opcode::LOOKUP => reply.len() >= size_of::<LookupOut>(),
        Opcode::OPEN_BY_FD => reply.len() >= size_of::<OpenByFdOut>(),
        Opcode::READLINK | Opcode::IOCTL => data_of(reply).is_some(),
        _ => true,
    }
}

/// The length of a downcall's struct.
fn downcall_len(op: u32) -> usize {
    match Opcode(op) {
        Opcode::REPLACE => 44,
        Opcode::PURGEUSER => 16,
        Opcode::ZAPFILE | Opcode::ZAPDIR | Opcode::PURGEFID => 28,
        _ => 12,
    }
}

/// Values that somebody may not have thought of.
fn odd_value(random: &mut SmallRng) -> i64 {
    const ODD: [i64; 16] = [
        0,
        1,
        -1,
        2,
        5,
        -2,
        0x7fff_ffff,
        -0x8000_0000,
        i64::MAX,
        i64::MIN,
        4096,
        4097,
        133,
        134,
        512,
        0x1_0000_0000,
    ];
    match random.random_range(0..4) {
        0 => random.random(),
        1 => random.random_range(0..300),
        _ => ODD[random.random_range(0..ODD.len())],
    }
}

impl Manager {
    fn fail(&self, why: &str) {
        self.shared.fail(why);
    }

    fn is_wild(&self) -> bool {
        self.shared.phase() == phase::WILD && !self.gentle.load(SeqCst)
    }

    fn read(&self, buffer: *mut u8, len: usize) -> Result<usize, Errno> {
        // SAFETY: the kernel checks the address; where there is a buffer, it is as
        // long as that.
        let n = unsafe { libc::read(self.dev, buffer.cast(), len) };
        sys::check(n as i64).map(|n| n as usize)
    }

    fn write(&self, address: *const u8, len: usize) -> Result<usize, Errno> {
        // SAFETY: the kernel checks the address; it only reads there.
        let n = unsafe { libc::write(self.dev, address.cast(), len) };
        sys::check(n as i64).map(|n| n as usize)
    }

    /// Something that nothing else has.
    fn unheard_of(&self) -> u32 {
        0x4000_0000 | self.poison.fetch_add(1, SeqCst)
    }

    /// Reads and answers until the device is to be closed.
    fn serve(&self, mut random: SmallRng) {
        let mut buffer = vec![0; MAXMSGSIZE];
        while self.shared.phase() < phase::STOP {
            let (address, len) = match random.random_range(0..400) {
                // A page that nobody has.
                0 => (std::ptr::dangling_mut(), MAXMSGSIZE),
                1 => (buffer.as_mut_ptr(), random.random_range(1..200)),
                _ => (buffer.as_mut_ptr(), MAXMSGSIZE),
            };
            match self.read(address, len) {
                Ok(n) => self.request(&buffer[..n], &mut random),
                Err(Errno::EINTR) => (),
                Err(Errno::EFAULT) if address != buffer.as_mut_ptr() => (),
                Err(Errno::EINVAL) if len < MAXMSGSIZE => (),
                Err(e) => return self.fail(&format!("read of {len} bytes: {e}")),
            }
        }
    }

    fn request(&self, msg: &[u8], random: &mut SmallRng) {
        count(&self.shared.messages);
        let request = match parse(msg) {
            Ok(request) => request,
            Err(e) => return self.fail(&format!("a request that is none: {e}: {msg:02x?}")),
        };
        let head = request.head;
        let op = Opcode(head.opcode);
        count(&self.shared.upcalls[op.0 as usize % 64]);
        let mut said = locked(&self.said);
        // The control file has no fid that anybody has given it, and no other use.
        let nobody = matches!(request.ask, Ask::Ioctl { fid, .. } if fid == Fid::default());
        if let Some(fid) = request.ask.fids().find(|fid| !said.uttered.contains(fid)) {
            if !nobody {
                return self.fail(&format!(
                    "{op} names the fid {fid}, which it can have from nowhere: {msg:02x?}"
                ));
            }
        }
        match request.ask {
            Ask::Signal => {
                said.asked.remove(&head.unique);
                return;
            }
            Ask::Close { fid, flags } => {
                self.shared.open[flags as usize & 3].fetch_sub(1, SeqCst);
                *said.open.entry((fid, flags & 3)).or_default() -= 1;
            }
            _ => (),
        }
        let is_told = matches!(
            request.ask,
            Ask::AccessIntent { kind, .. } if kind >= intent::READ_FINISH
        );
        let (fid, flags) = match request.ask {
            Ask::OpenByFd { fid, flags } => (fid, flags),
            _ => Default::default(),
        };
        let asked = Asked {
            op,
            room: request.room(),
            fid,
            flags,
        };
        if !is_told && said.asked.insert(head.unique, asked).is_some() || head.unique == 0 {
            return self.fail(&format!("{op} has a number that is taken: {}", head.unique));
        }
        drop(said);
        if is_told {
            // Nobody waits for an answer.
            if random.random_range(0..20) == 0 {
                let head = OutHdr {
                    opcode: op.0,
                    unique: head.unique,
                    result: 0,
                };
                self.send(head.as_bytes());
            }
            return;
        }
        let message = self.honest(&request, random);
        let mut kind = Kind::Honest;
        if self.is_wild() {
            if random.random_range(0..1000) < self.plan.malice {
                kind = *Kind::ALL.choose(random).expect("there are some");
            }
            if random.random_range(0..6) == 0 {
                self.downcall(random);
            }
        }
        self.answer(&request, message, kind, random);
        if random.random_range(0..8) == 0 {
            self.release(1, random);
        }
    }

    /// What one who keeps to the protocol would answer.
    fn honest(&self, request: &Request<'_>, random: &mut SmallRng) -> Message {
        let mut container = None;
        let done = self.execute(&request.ask, random, &mut container);
        let (result, mut bytes) = match done {
            Ok(bytes) => (0, bytes),
            Err(e) => (e as u32, OutHdr::default().as_bytes().to_vec()),
        };
        let head = OutHdr::answer(&request.head, result);
        put(&mut bytes, 0, head.as_bytes());
        Message {
            bytes,
            _container: container,
        }
    }

    fn execute(
        &self,
        ask: &Ask<'_>,
        random: &mut SmallRng,
        container: &mut Option<OwnedFd>,
    ) -> Result<Vec<u8>, Errno> {
        let mut volume = locked(&self.volume);
        let owner = 1000 + random.random_range(0..1000);
        let made = |volume: &Volume, fid: Fid| CreateOut {
            fid,
            attr: Vattr {
                uid: owner,
                ..volume.attr(fid)
            },
            ..CreateOut::default()
        };
        let data = |bytes: &[u8]| {
            let head = ReadlinkOut {
                count: bytes.len() as i32,
                data: size_of::<ReadlinkOut>() as u64,
                ..ReadlinkOut::default()
            };
            [head.as_bytes(), bytes].concat()
        };
        const _: () = assert!(size_of::<ReadlinkOut>() == size_of::<IoctlOut>());
        let oh = OutHdr::default();
        let appears = self.is_wild() && random.random_range(0..3) > 0;
        Ok(match *ask {
            Ask::Root => RootOut {
                oh,
                fid: volume.root(),
            }
            .as_bytes()
            .to_vec(),
            Ask::Getattr { fid } => {
                let out = made(&volume, fid);
                let head = GetattrOut {
                    attr: out.attr,
                    ..GetattrOut::default()
                };
                head.as_bytes().to_vec()
            }
            Ask::Lookup { fid, name, .. } => {
                let (fid, kind) = volume.lookup(fid, name, appears)?;
                let mut vtype = kind as u32;
                if self.is_wild() && random.random_range(0..16) == 0 {
                    vtype |= vtype::NOCACHE;
                }
                LookupOut { oh, fid, vtype }.as_bytes().to_vec()
            }
            Ask::Create { fid, name, .. } => {
                let fid = volume.create(fid, name)?;
                made(&volume, fid).as_bytes().to_vec()
            }
            Ask::Mkdir { fid, name, .. } => {
                let fid = volume.mkdir(fid, name)?;
                made(&volume, fid).as_bytes().to_vec()
            }
            Ask::Symlink {
                fid, name, target, ..
            } => {
                volume.symlink(fid, name, target)?;
                oh.as_bytes().to_vec()
            }
            Ask::Link { fid, dir, name } => {
                volume.link(fid, dir, name)?;
                oh.as_bytes().to_vec()
            }
            Ask::Remove { fid, name } | Ask::Rmdir { fid, name } => {
                volume.remove(fid, name)?;
                oh.as_bytes().to_vec()
            }
            Ask::Rename { fid, name, dir, to } => {
                volume.rename((fid, name), (dir, to))?;
                oh.as_bytes().to_vec()
            }
            Ask::Setattr { fid, attr } => {
                if attr.size != u64::MAX {
                    volume.set_size(fid, attr.size)?;
                }
                oh.as_bytes().to_vec()
            }
            Ask::Readlink { fid } => data(&volume.readlink(fid)?),
            Ask::Ioctl { .. } => {
                let mut bytes = [0; 80];
                let bytes = &mut bytes[..random.random_range(0..80)];
                bytes.fill_with(|| random.random_range(b'a'..=b'z'));
                data(bytes)
            }
            Ask::OpenByFd { fid, flags } => {
                let file = volume.open(fid, flags, random)?;
                let fd = file.as_raw_fd();
                *container = Some(file);
                OpenByFdOut { oh, fd }.as_bytes().to_vec()
            }
            Ask::Statfs => StatfsOut {
                blocks: 1000,
                bfree: 500,
                ..StatfsOut::default()
            }
            .as_bytes()
            .to_vec(),
            // One in four is to be told of all accesses.
            Ask::AccessIntent { .. } if random.random_range(0..4) > 0 => {
                return Err(Errno::EOPNOTSUPP);
            }
            Ask::AccessIntent { .. }
            | Ask::Access { .. }
            | Ask::Close { .. }
            | Ask::Fsync { .. }
            | Ask::Signal => oh.as_bytes().to_vec(),
        })
    }

    /// Answers in that way.
    fn answer(&self, request: &Request<'_>, honest: Message, kind: Kind, random: &mut SmallRng) {
        let (op, unique, pid) = (
            Opcode(request.head.opcode),
            request.head.unique,
            request.head.pid,
        );
        let is_kid = self.shared.is_kid(pid);
        let kind = match kind {
            Kind::Container if op != Opcode::OPEN_BY_FD => Kind::Field,
            // Who is none of ours cannot be got out of it.
            Kind::Never if !is_kid || random.random_range(0..4) > 0 => Kind::Late,
            Kind::Signalled if !is_kid => Kind::Twice,
            kind => kind,
        };
        count(&self.shared.replies[kind as usize]);
        match kind {
            Kind::Never => {
                return locked(&self.lost).push(Lost {
                    unique,
                    pid,
                    ticks: 0,
                    reply: honest,
                });
            }
            Kind::Late => return locked(&self.held).push(honest),
            _ => (),
        }
        let mut bytes = honest.bytes.clone();
        let mut odd = None;
        match kind {
            Kind::Errno => {
                let errno = random.random_range(1..=133u32);
                put(&mut bytes, 8, errno.as_bytes());
            }
            Kind::BadResult => {
                let value = odd_value(random) as i32;
                put(&mut bytes, 8, value.as_bytes());
            }
            Kind::Field => {
                for _ in 0..random.random_range(1..4) {
                    let value = odd_value(random).to_ne_bytes();
                    let at = random.random_range(2..=bytes.len() / 4) * 4;
                    let len = [2, 4, 8][random.random_range(0..3)];
                    put(&mut bytes, at, &value[..len]);
                }
            }
            Kind::Flipped => {
                for _ in 0..random.random_range(1..6) {
                    let at = random.random_range(0..bytes.len());
                    bytes[at] ^= 1 << random.random_range(0..8);
                }
            }
            Kind::Short => bytes.truncate(random.random_range(0..bytes.len())),
            Kind::Long => {
                let more = [1, 4, 100, 4096, 8500, 17000][random.random_range(0..6)];
                let byte = random.random();
                bytes.resize(bytes.len() + more, byte);
            }
            Kind::WrongOpcode => {
                put(&mut bytes, 0, random.random_range(0..50u32).as_bytes());
            }
            Kind::WrongUnique => {
                let other = match random.random_range(0..4) {
                    0 => 0,
                    1 => unique | 0x4000_0000,
                    2 => unique.saturating_sub(random.random_range(1..50)),
                    _ => {
                        let said = locked(&self.said);
                        said.asked.keys().next().copied().unwrap_or(unique)
                    }
                };
                put(&mut bytes, 4, other.as_bytes());
            }
            Kind::Container => {
                let (fd, owned) = self.odd_container(request, random);
                put(&mut bytes, 8, 0u32.as_bytes());
                bytes.resize(16, 0);
                put(&mut bytes, 12, fd.as_bytes());
                odd = owned;
            }
            _ => (),
        }
        self.keep_to_known_numbers(&mut bytes);
        self.spoil(op, request.room(), &mut bytes, random);
        if random.random_range(0..500) == 0 {
            self.send_nothing(&bytes);
        }
        if kind == Kind::Signalled && random.random() {
            self.shared.signal(pid, Signal::SIGINT);
        }
        self.send(&bytes);
        match kind {
            Kind::Twice => self.send(&bytes),
            Kind::Signalled => {
                let signals = [Signal::SIGINT, Signal::SIGKILL, Signal::SIGTERM];
                let signal = *signals.choose(random).expect("there are some");
                self.shared.signal(pid, signal);
            }
            _ => (),
        }
        drop(odd);
        // It may not have been taken for an answer to this.
        if locked(&self.said).asked.contains_key(&unique) {
            locked(&self.held).push(honest);
        }
    }

    /// A number that no request has yet may have one before the reply is there, and
    /// then nobody knows what was answered. What we know of may well be hit.
    fn keep_to_known_numbers(&self, bytes: &mut [u8]) {
        if let Some(unique) = word(bytes, 4) {
            if !locked(&self.said).asked.contains_key(&unique) && unique != 0 {
                put(bytes, 4, (unique | 0x4000_0000).as_bytes());
            }
        }
    }

    /// What the kernel must not make use of is made telling.
    fn spoil(&self, op: Opcode, room: usize, bytes: &mut [u8], random: &mut SmallRng) {
        let len = bytes.len().min(room);
        if is_accepted(op, &bytes[..len]) {
            return;
        }
        if has_fid(op) {
            let fid = Fid([0xdead, self.plan.life, self.unheard_of(), random.random()]);
            put(&mut bytes[..len], 12, fid.as_bytes());
        }
        if let Some(at) = attr_at(op) {
            let owner = self.unheard_of();
            put(
                &mut bytes[..len],
                at + std::mem::offset_of!(Vattr, uid),
                owner.as_bytes(),
            );
        }
        if matches!(op, Opcode::READLINK | Opcode::IOCTL) {
            if let Some(data) = bytes[..len].get_mut(24..) {
                let data = data.iter_mut().take(TELLING);
                data.for_each(|byte| *byte = random.random_range(b'A'..=b'Z'));
            }
        }
    }

    /// A descriptor that is no good container, and what has to stay open for it.
    fn odd_container(
        &self,
        request: &Request<'_>,
        random: &mut SmallRng,
    ) -> (i32, Option<OwnedFd>) {
        let flags = match request.ask {
            Ask::OpenByFd { flags, .. } => flags,
            _ => 0,
        };
        let open = |path: &str, flags| sys::open(Path::new(path), flags).ok();
        let read_write = match flags & C_O_WRITE {
            0 => OFlag::O_RDONLY,
            _ => OFlag::O_RDWR,
        };
        let owned = match random.random_range(0..14) {
            0 => return (-1, None),
            1 => return (odd_value(random) as i32, None),
            2 => return (9999, None),
            3 => return (self.dev, None),
            4 => return (self.plan.pipe.as_raw_fd(), None),
            5 | 6 => match locked(&self.coda_file).as_ref().map(OwnedFd::try_clone) {
                Some(Ok(file)) => Some(file),
                _ => None,
            },
            7 => open("/dev/null", read_write),
            8 => open("/proc/version", OFlag::O_RDONLY),
            9 => open("/", OFlag::O_PATH),
            10 => pipe().ok().map(|(read, _)| read),
            // Not open for what the program wants.
            11 => sys::open(
                &self.plan.store.join("odd"),
                OFlag::O_CREAT | OFlag::O_WRONLY,
            )
            .ok(),
            12 => sys::open(
                &self.plan.store.join("odd"),
                OFlag::O_CREAT | OFlag::O_RDONLY,
            )
            .ok(),
            _ => sys::open(&self.plan.store, OFlag::O_DIRECTORY).ok(),
        };
        match owned {
            Some(fd) => (fd.as_raw_fd(), Some(fd)),
            None => (-1, None),
        }
    }

    /// A message from where there is nothing to be read.
    fn send_nothing(&self, bytes: &[u8]) {
        let want = match bytes.len() {
            0..8 => Errno::EINVAL,
            _ => Errno::EFAULT,
        };
        let sent = self.write(std::ptr::dangling(), bytes.len());
        if sent != Err(want) {
            self.fail(&format!(
                "write of {} bytes from nowhere: {sent:?}",
                bytes.len()
            ));
        }
    }

    /// Sends a message and looks whether the answer is what it has to be.
    fn send(&self, bytes: &[u8]) {
        let len = bytes.len();
        let head = word(bytes, 0).zip(word(bytes, 4));
        let mut target = None;
        {
            let mut said = locked(&self.said);
            match head {
                Some((op, _)) if is_downcall(op) => {
                    count(&self.shared.downcalls[op as usize % 64]);
                    if op == Opcode::REPLACE.0 && len >= downcall_len(op) {
                        said.replaced = true;
                        said.uttered.extend(fid_at(bytes, 12));
                    }
                }
                Some((_, unique)) => {
                    target = said.asked.get(&unique).copied();
                    if let Some(asked) = &target {
                        self.utter(&mut said, asked.op, &bytes[..len.min(asked.room)]);
                    }
                }
                None => (),
            }
        }
        let sent = self.write(bytes.as_ptr(), len);
        count(&self.shared.messages);
        count(&self.shared.answers[sent.err().map_or(0, |e| e as usize) % 134]);
        let taken = target.map_or(len, |asked| len.min(asked.room));
        let opens =
            target.is_some_and(|asked| asked.op == Opcode::OPEN_BY_FD) && word(bytes, 8) == Some(0);
        let is_right = match (head, target) {
            (None, _) => sent == Err(Errno::EINVAL),
            (Some((op, _)), _) if is_downcall(op) => match len < downcall_len(op) {
                true => sent == Err(Errno::EINVAL),
                false => sent == Ok(len),
            },
            (_, None) => sent == Err(Errno::ESRCH),
            // Its number was answered in the meantime, or given up.
            (_, Some(_)) if sent == Err(Errno::ESRCH) => true,
            (_, Some(_)) if taken < 12 || opens && taken < 16 => sent == Err(Errno::EINVAL),
            // EINVAL: what the descriptor stands for is neither file nor directory.
            (_, Some(_)) => {
                sent == Ok(taken) || opens && matches!(sent, Err(Errno::EBADF | Errno::EINVAL))
            }
        };
        if !is_right {
            return self.fail(&format!(
                "write of {len} bytes to {:?}: {sent:?}: {:02x?}",
                target.map(|asked| asked.op.to_string()),
                &bytes[..len.min(64)]
            ));
        }
        if let (Some((_, unique)), Some(asked)) = (head, target) {
            let mut said = locked(&self.said);
            said.asked.remove(&unique);
            if opens && sent.is_ok() {
                let access = asked.flags & 3;
                self.shared.open[access as usize].fetch_add(1, SeqCst);
                *said.open.entry((asked.fid, access)).or_default() += 1;
            }
        }
    }

    /// What is in this reply is known from now on.
    fn utter(&self, said: &mut Said, op: Opcode, reply: &[u8]) {
        if !is_accepted(op, reply) {
            return;
        }
        if has_fid(op) {
            said.uttered.extend(fid_at(reply, 12));
        }
        if let Some(owner) =
            attr_at(op).and_then(|at| word(reply, at + std::mem::offset_of!(Vattr, uid)))
        {
            // "Not given": a new object is root's.
            let owner = if owner == u32::MAX { 0 } else { owner };
            self.shared.owners.insert(owner.into());
        }
        if matches!(op, Opcode::READLINK | Opcode::IOCTL) {
            let data = data_of(reply).unwrap_or_default();
            for number in beginnings(&data[..data.len().min(TELLING)]) {
                self.shared.shown.insert(number);
            }
        }
    }

    /// Tells the kernel something that it did not ask for.
    fn downcall(&self, random: &mut SmallRng) {
        let mut op = random.random_range(Opcode::REPLACE.0..=Opcode::PURGEFID.0);
        // This one makes the kernel drop all that it has.
        if op == Opcode::FLUSH.0 && random.random_range(0..4) > 0 {
            op = Opcode::ZAPDIR.0;
        }
        if op == Opcode::REPLACE.0 && (!self.plan.replaces || random.random()) {
            op = Opcode::ZAPFILE.0;
        }
        let mut any = |volume: &Volume| match random.random_range(0..8) {
            0 => Fid(random.random()),
            1 => Fid::default(),
            _ => volume.draw(random),
        };
        let (first, second, root) = {
            let volume = locked(&self.volume);
            (any(&volume), any(&volume), volume.root())
        };
        // What is a file by another fid is no root, and nothing works any more.
        if op == Opcode::REPLACE.0 && second == root {
            op = Opcode::PURGEFID.0;
        }
        let head = OutHdr {
            opcode: op,
            unique: random.random(),
            result: random.random(),
        };
        let mut bytes = [head.as_bytes(), first.as_bytes(), second.as_bytes()].concat();
        match random.random_range(0..10) {
            0 => bytes.truncate(random.random_range(0..bytes.len())),
            1 => bytes.resize(random.random_range(44..20_000), 0xa5),
            _ => {
                bytes.truncate(downcall_len(op));
                if op == Opcode::REPLACE.0 {
                    locked(&self.volume).replace(second, first);
                }
            }
        }
        self.send(&bytes);
    }

    /// Sends some of what is held, in any order.
    fn release(&self, most: usize, random: &mut SmallRng) {
        for _ in 0..most {
            let message = {
                let mut held = locked(&self.held);
                if held.is_empty() {
                    return;
                }
                let which = random.random_range(0..held.len());
                held.swap_remove(which)
            };
            self.send(&message.bytes);
        }
    }

    /// From time to time: so that nobody waits for ever.
    fn tick(&self, random: &mut SmallRng) {
        self.release(usize::MAX, random);
        self.remember_the_lost();
        if self.is_wild() {
            for _ in 0..4 {
                self.downcall(random);
            }
        }
    }

    /// Whoever waits for a reply that never comes gets a signal. In the end there is
    /// a reply: a close that nobody has answered holds up later ones of the file.
    fn remember_the_lost(&self) {
        let mut lost = std::mem::take(&mut *locked(&self.lost));
        {
            let said = locked(&self.said);
            lost.retain(|lost| said.asked.contains_key(&lost.unique));
        }
        if self.shared.phase() != phase::WILD {
            return lost.iter().for_each(|lost| self.send(&lost.reply.bytes));
        }
        for lost in &mut lost {
            lost.ticks += 1;
            let signal = match lost.ticks {
                0..4 => Signal::SIGINT,
                _ => Signal::SIGKILL,
            };
            self.shared.signal(lost.pid, signal);
        }
        locked(&self.lost).extend(lost);
    }

    /// Opens files of the mount itself, to have one to give away.
    fn inside(&self, mut random: SmallRng) {
        while self.shared.phase() == phase::WILD {
            let path = self
                .plan
                .mnt
                .join(format!("f{}", random.random_range(0..3)));
            let file = sys::open(&path, OFlag::O_RDWR | OFlag::O_CREAT).ok();
            *locked(&self.coda_file) = file;
            std::thread::sleep(Duration::from_millis(100));
        }
        locked(&self.coda_file).take();
    }

    fn mount(&self) -> Result<(), Errno> {
        let data = MountData {
            version: MOUNT_VERSION,
            fd: self.dev,
        };
        sys::mount_coda(&self.plan.mnt, Some(&data))
    }

    /// Mounts, by and by without tricks.
    fn mount_somehow(&self) {
        for attempt in 0..4 {
            self.gentle.store(attempt == 3, SeqCst);
            match self.mount() {
                Ok(()) => break,
                Err(e) if attempt == 3 => return self.fail(&format!("mount: {e}")),
                Err(_) => (),
            }
        }
        self.gentle.store(false, SeqCst);
        self.shared.mounted.store(1, SeqCst);
    }
}

extern "C" fn nothing(_: i32) {}

/// A signal that ends a system call, and does nothing else.
pub fn wake_by(signal: Signal) -> Result<()> {
    let action = SigAction::new(
        SigHandler::Handler(nothing),
        SaFlags::empty(),
        SigSet::empty(),
    );
    // SAFETY: the handler does nothing.
    unsafe { sigaction(signal, &action) }?;
    Ok(())
}

/// Runs a cache manager until the phase says that it is over.
pub fn run(plan: Plan, shared: &'static Shared) -> Result<()> {
    wake_by(Signal::SIGUSR1)?;
    let mut random = SmallRng::seed_from_u64(plan.seed);
    let dev = sys::open(Path::new("/dev/cfs0"), OFlag::O_RDWR).context("/dev/cfs0")?;
    let volume = Volume::new(plan.store.clone(), plan.life);
    let manager = Arc::new(Manager {
        plan,
        shared,
        dev: dev.into_raw_fd(),
        gentle: AtomicBool::new(false),
        volume: Mutex::new(volume),
        said: Mutex::default(),
        held: Mutex::default(),
        lost: Mutex::default(),
        coda_file: Mutex::default(),
        poison: AtomicU32::new(0),
    });
    let start = |name: &str, work: Box<dyn FnOnce(&Manager) + Send>| {
        let manager = manager.clone();
        let thread = std::thread::Builder::new().name(name.into());
        thread.spawn(move || {
            let work = std::panic::AssertUnwindSafe(|| work(&manager));
            if std::panic::catch_unwind(work).is_err() {
                manager.fail("a thread of the cache manager panicked");
            }
        })
    };
    let mut servers = Vec::new();
    for _ in 0..THREADS {
        let random = SmallRng::seed_from_u64(random.next_u64());
        servers.push(start("server", Box::new(move |m| m.serve(random)))?);
    }
    let seed = random.next_u64();
    let insider = start(
        "insider",
        Box::new(move |m| {
            m.mount_somehow();
            m.inside(SmallRng::seed_from_u64(seed));
        }),
    )?;
    while shared.phase() < phase::STOP {
        std::thread::sleep(Duration::from_millis(10));
        manager.tick(&mut random);
    }
    if shared.phase() == phase::EXIT {
        return Ok(());
    }
    let end = Instant::now() + patience(20);
    while !servers.iter().all(|thread| thread.is_finished()) {
        if Instant::now() > end {
            bail!("read(2) of the device is not ended by a signal");
        }
        for thread in &servers {
            let _ = pthread_kill(thread.as_pthread_t(), Signal::SIGUSR1);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    nix::unistd::close(manager.dev)?;
    while !insider.is_finished() {
        if Instant::now() > end {
            bail!("the device is closed, and somebody still waits for an answer");
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    let said = locked(&manager.said);
    let left: Vec<_> = said.open.iter().filter(|(_, n)| **n != 0).collect();
    let all_closed = shared.open.iter().all(|n| n.load(SeqCst) == 0);
    if all_closed && !said.replaced && !left.is_empty() {
        bail!("opens and closes are of different files: {left:?}");
    }
    Ok(())
}
