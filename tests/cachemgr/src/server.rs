// SPDX-License-Identifier: GPL-2.0

//! The conversation itself: one thread reads requests, workers answer them.

use crate::device::Device;
use crate::rules::{Effect, Flight, Met, Rules, Subject};
use crate::store::Store;
use crate::trace::Trace;
use anyhow::Result;
use coda_proto::{
    AccessIntentIn, C_O_WRITE, CreateIn, CreateOut, Fid, FidIn, FlagWord, FlagsIn, GetattrOut,
    InHdr, IoctlIn, IoctlOut, LinkIn, LookupIn, LookupOut, MAXMSGSIZE, MAXPATHLEN, MkdirIn, NameIn,
    Opcode, OpenByFdOut, OutHdr, ReadlinkOut, RenameIn, RootOut, SetattrIn, StatfsOut, SymlinkIn,
    Vattr, intent, name_at, vtype,
};
use crossbeam_channel::Sender;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A cache manager at work.
pub struct Server {
    device: Device,
    /// What the kernel may ask about.
    pub store: Store,
    /// What has been said.
    pub trace: Trace,
    /// What to do wrong.
    pub rules: Rules,
    intents: bool,
    /// The longest time that a worker lingers over a request, before it carries
    /// it out and again before it answers, in microseconds.
    jitter: u64,
    random: Mutex<SmallRng>,
    flights: Mutex<HashMap<u32, Arc<Flight>>>,
}

/// A request on its way to a worker.
struct Job {
    msg: Vec<u8>,
    head: InHdr,
    flight: Arc<Flight>,
    met: Option<Met>,
}

/// A reply that is not sent yet.
#[derive(Default)]
struct Reply {
    /// The whole message; the header is filled in later.
    bytes: Vec<u8>,
    /// A container that goes with it.
    container: Option<OwnedFd>,
    /// What the trace shall say about it.
    note: Value,
}

impl Reply {
    fn plain() -> Self {
        Reply::of(&OutHdr::default(), Value::Null)
    }

    fn of(out: &(impl IntoBytes + Immutable), note: Value) -> Self {
        Reply {
            bytes: out.as_bytes().to_vec(),
            container: None,
            note,
        }
    }
}

fn parse<T: FromBytes + KnownLayout + Immutable>(msg: &[u8]) -> Result<T, Errno> {
    T::read_from_prefix(msg)
        .map(|(value, _)| value)
        .map_err(|_| Errno::INVAL)
}

fn name(msg: &[u8], offset: i32) -> Result<&[u8], Errno> {
    name_at(msg, offset).ok_or(Errno::INVAL)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn show(attr: &Vattr) -> Value {
    json!({
        "type": attr.kind, "mode": format!("{:o}", attr.mode), "nlink": attr.nlink,
        "uid": attr.uid as i32, "gid": attr.gid as i32, "size": attr.size as i64,
        "atime": attr.atime.sec, "mtime": attr.mtime.sec,
    })
}

/// The fields of a request for the trace, its fid, and its names.
type Description<'a> = (Value, Option<Fid>, Vec<&'a [u8]>);

fn describe(op: Opcode, msg: &[u8]) -> Result<Description<'_>, Errno> {
    let fid_only = |m: FidIn| (json!({ "fid": m.fid.to_string() }), Some(m.fid), vec![]);
    Ok(match op {
        Opcode::OPEN_BY_FD | Opcode::CLOSE | Opcode::OPEN | Opcode::STORE | Opcode::RELEASE => {
            let m: FlagsIn = parse(msg)?;
            let fields = json!({
                "fid": m.fid.to_string(),
                "flags": m.flags,
                "decoded": FlagWord(m.flags).to_string(),
            });
            (fields, Some(m.fid), vec![])
        }
        Opcode::ACCESS => {
            let m: FlagsIn = parse(msg)?;
            let fields = json!({ "fid": m.fid.to_string(), "mask": m.flags });
            (fields, Some(m.fid), vec![])
        }
        Opcode::GETATTR | Opcode::READLINK | Opcode::FSYNC | Opcode::VGET => fid_only(parse(msg)?),
        Opcode::SETATTR => {
            let m: SetattrIn = parse(msg)?;
            let fields = json!({ "fid": m.fid.to_string(), "attr": show(&m.attr) });
            (fields, Some(m.fid), vec![])
        }
        Opcode::LOOKUP => {
            let m: LookupIn = parse(msg)?;
            let n = name(msg, m.name)?;
            let fields = json!({ "fid": m.fid.to_string(), "name": text(n), "flags": m.flags });
            (fields, Some(m.fid), vec![n])
        }
        Opcode::CREATE => {
            let m: CreateIn = parse(msg)?;
            let n = name(msg, m.name)?;
            let fields = json!({
                "fid": m.fid.to_string(), "name": text(n), "excl": m.excl,
                "mode": format!("{:o}", m.mode), "attr": show(&m.attr),
            });
            (fields, Some(m.fid), vec![n])
        }
        Opcode::MKDIR => {
            let m: MkdirIn = parse(msg)?;
            let n = name(msg, m.name)?;
            let fields = json!({
                "fid": m.fid.to_string(), "name": text(n), "attr": show(&m.attr),
            });
            (fields, Some(m.fid), vec![n])
        }
        Opcode::REMOVE | Opcode::RMDIR => {
            let m: NameIn = parse(msg)?;
            let n = name(msg, m.name)?;
            let fields = json!({ "fid": m.fid.to_string(), "name": text(n) });
            (fields, Some(m.fid), vec![n])
        }
        Opcode::LINK => {
            let m: LinkIn = parse(msg)?;
            let n = name(msg, m.tname)?;
            let fields = json!({
                "fid": m.source.to_string(), "dir": m.dest.to_string(), "name": text(n),
            });
            (fields, Some(m.source), vec![n])
        }
        Opcode::RENAME => {
            let m: RenameIn = parse(msg)?;
            let (from, to) = (name(msg, m.srcname)?, name(msg, m.destname)?);
            let fields = json!({
                "fid": m.source.to_string(), "name": text(from),
                "dir": m.dest.to_string(), "to": text(to),
            });
            (fields, Some(m.source), vec![from, to])
        }
        Opcode::SYMLINK => {
            let m: SymlinkIn = parse(msg)?;
            let (target, n) = (name(msg, m.srcname)?, name(msg, m.tname)?);
            let fields = json!({
                "fid": m.fid.to_string(), "name": text(n), "target": text(target),
            });
            (fields, Some(m.fid), vec![n])
        }
        Opcode::IOCTL => {
            let m: IoctlIn = parse(msg)?;
            let fields = json!({
                "fid": m.fid.to_string(), "cmd": format!("{:#x}", m.cmd), "len": m.len,
            });
            (fields, Some(m.fid), vec![])
        }
        Opcode::ACCESS_INTENT => {
            let m: AccessIntentIn = parse(msg)?;
            let kind = match m.kind {
                intent::READ => "READ".into(),
                intent::WRITE => "WRITE".into(),
                intent::MMAP => "MMAP".into(),
                intent::READ_FINISH => "READ_FINISH".into(),
                intent::WRITE_FINISH => "WRITE_FINISH".into(),
                other => json!(other),
            };
            let fields = json!({
                "fid": m.fid.to_string(), "count": m.count, "pos": m.pos, "type": kind,
            });
            (fields, Some(m.fid), vec![])
        }
        _ => (json!({ "size": msg.len() }), None, vec![]),
    })
}

impl Server {
    /// Puts the parts together; nothing runs yet.
    pub fn new(
        device: Device,
        store: Store,
        trace: Trace,
        intents: bool,
        jitter: u64,
    ) -> Arc<Self> {
        Arc::new(Server {
            device,
            store,
            trace,
            rules: Rules::default(),
            intents,
            jitter,
            random: Mutex::new(SmallRng::seed_from_u64(jitter)),
            flights: Mutex::default(),
        })
    }

    /// The device that is served.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Starts the reader, which it gives, and the workers.
    pub fn start(self: &Arc<Self>, workers: usize) -> Result<JoinHandle<Result<()>>> {
        let (sender, receiver) = crossbeam_channel::unbounded::<Job>();
        for n in 0..workers {
            let (server, receiver) = (self.clone(), receiver.clone());
            std::thread::Builder::new()
                .name(format!("worker-{n}"))
                .spawn(move || receiver.iter().for_each(|job| server.work(job)))?;
        }
        let server = self.clone();
        Ok(std::thread::Builder::new()
            .name("reader".into())
            .spawn(move || server.read_all(&sender))?)
    }

    fn read_all(self: &Arc<Self>, workers: &Sender<Job>) -> Result<()> {
        let mut buf = vec![0; MAXMSGSIZE];
        loop {
            let len = self.device.read(&mut buf)?;
            let msg = &buf[..len];
            let Ok(head) = parse::<InHdr>(msg) else {
                self.trace.line("garbage", "?", 0, json!({ "size": len }));
                continue;
            };
            let op = Opcode(head.opcode);
            let described = describe(op, msg);
            let (mut fields, fid, names) = match described {
                Ok(all) => all,
                Err(_) => (json!({ "malformed": len }), None, vec![]),
            };
            fields["pid"] = json!(head.pid);
            fields["pgid"] = json!(head.pgid);
            fields["uid"] = json!(head.uid);
            fields["size"] = json!(len);
            self.trace
                .line("in", &op.to_string(), head.unique, fields.take());

            if op == Opcode::SIGNAL {
                // Its unique number is that of the request that nobody waits
                // for any longer. It gets no answer itself.
                let flights = self.flights.lock().expect("nobody panics with the lock");
                if let Some(flight) = flights.get(&head.unique) {
                    self.rules.interrupt(flight);
                }
                continue;
            }
            let met = self.rules.meet(&Subject {
                op,
                fid,
                names,
                pid: head.pid,
            });
            let flight = Arc::new(Flight::default());
            self.flights
                .lock()
                .expect("nobody panics with the lock")
                .insert(head.unique, flight.clone());
            let waits = met
                .as_ref()
                .is_some_and(|m| m.effect.hold || m.effect.delay_ms.is_some());
            let job = Job {
                msg: msg.to_vec(),
                head,
                flight,
                met,
            };
            if waits {
                // Workers are few; a request that waits must not be in the
                // way of those that do not.
                let server = self.clone();
                std::thread::spawn(move || server.work(job));
            } else {
                workers.send(job)?;
            }
        }
    }

    fn work(&self, job: Job) {
        let unique = job.head.unique;
        self.answer(&job);
        let mut flights = self.flights.lock().expect("nobody panics with the lock");
        // A wrapped or reused number may belong to somebody else by now.
        if flights
            .get(&unique)
            .is_some_and(|f| Arc::ptr_eq(f, &job.flight))
        {
            flights.remove(&unique);
        }
    }

    fn answer(&self, job: &Job) {
        let op = Opcode(job.head.opcode);
        let unique = job.head.unique;
        let name = op.to_string();
        let effect = job.met.as_ref().map(|m| &m.effect);
        let drop_it = |why: &str| {
            self.trace
                .line("dropped", &name, unique, json!({ "why": why }))
        };

        if let Some(met) = job.met.as_ref().filter(|m| !m.effect.late) {
            self.rules.wait(met, &job.flight);
        }
        if effect.is_some_and(|e| e.die) {
            drop_it("died");
            // As after SIGKILL: the kernel closes the device, nobody tidies up.
            std::process::abort();
        }
        self.linger();
        if job.flight.is_interrupted() {
            return drop_it("interrupted");
        }
        if effect.is_some_and(|e| e.never) {
            return drop_it("never");
        }
        let done = match effect.and_then(|e| e.result) {
            Some(result) => Ok((result as u32, Reply::plain())),
            None => self.execute(op, job).map(|reply| (0, reply)),
        };
        let opened =
            op == Opcode::OPEN_BY_FD && matches!(&done, Ok((0, r)) if r.container.is_some());
        let (result, mut reply) = match done {
            Ok(done) => done,
            // Somebody was told, not asked.
            Err(Answer::None) => return drop_it("notification"),
            Err(Answer::Errno(e)) => (e.raw_os_error() as u32, Reply::plain()),
        };
        if let Some(met) = job.met.as_ref().filter(|m| m.effect.late) {
            self.rules.wait(met, &job.flight);
            if job.flight.is_interrupted() {
                drop_it("interrupted");
                if opened {
                    self.undo_open(job);
                }
                return;
            }
        }
        let head = OutHdr {
            opcode: job.head.opcode,
            unique,
            result,
        };
        reply.bytes[..size_of::<OutHdr>()].copy_from_slice(head.as_bytes());
        if let Some(effect) = effect {
            spoil(&mut reply.bytes, effect);
        }
        let mut fields = json!({ "result": result as i32, "size": reply.bytes.len() });
        if let (Value::Object(all), Value::Object(note)) = (&mut fields, reply.note) {
            all.extend(note);
        }
        self.trace.line("out", &name, unique, fields);
        self.linger();

        let before = reply.container.as_ref().map(rustix::fs::fcntl_getfl);
        let times = if effect.is_some_and(|e| e.twice) {
            2
        } else {
            1
        };
        for time in 0..times {
            let sent = self.device.write(&reply.bytes);
            if sent != Ok(reply.bytes.len()) {
                self.trace.line(
                    "sent",
                    &name,
                    unique,
                    match sent {
                        Ok(len) => json!({ "len": len }),
                        Err(e) => json!({ "errno": e.raw_os_error() }),
                    },
                );
            }
            // ESRCH: the caller was interrupted and has left before our reply
            // came. EBADF, EINVAL: the kernel cannot use what we gave it. There
            // is no open file then, and we must not think so.
            let refused = matches!(sent, Err(Errno::SRCH | Errno::BADF | Errno::INVAL));
            if time == 0 && opened && refused {
                self.undo_open(job);
            }
        }
        if let (Some(ms), Some(container)) =
            (effect.and_then(|e| e.linger_ms), reply.container.as_ref())
        {
            std::thread::sleep(Duration::from_millis(ms));
            let flags = |f: rustix::io::Result<OFlags>| f.map_or(0, |f| f.bits());
            let (before, after) = (
                flags(before.unwrap_or(Ok(OFlags::empty()))),
                flags(rustix::fs::fcntl_getfl(container)),
            );
            self.trace.line(
                "lingered",
                &name,
                unique,
                json!({ "before": before, "after": after }),
            );
        }
    }

    /// Takes a while, as one who is busy: so that others overtake it.
    fn linger(&self) {
        if self.jitter > 0 {
            let mut random = self.random.lock().expect("nobody panics with the lock");
            let micros = random.random_range(0..=self.jitter);
            drop(random);
            std::thread::sleep(Duration::from_micros(micros));
        }
    }

    /// Takes back an open that the kernel does not know to have succeeded.
    fn undo_open(&self, job: &Job) {
        let undone = parse::<FlagsIn>(&job.msg).and_then(|m| self.store.close(m.fid, m.flags));
        self.trace.line(
            "undone",
            "OPEN_BY_FD",
            job.head.unique,
            json!({ "ok": undone.is_ok() }),
        );
    }

    fn execute(&self, op: Opcode, job: &Job) -> Result<Reply, Answer> {
        let (msg, uid, store) = (&job.msg[..], job.head.uid, &self.store);
        let found = |fid: Fid, vtype: u32| {
            let vtype = match &job.met {
                Some(met) if met.effect.nocache => vtype | vtype::NOCACHE,
                _ => vtype,
            };
            let out = LookupOut {
                fid,
                vtype,
                ..LookupOut::default()
            };
            Reply::of(&out, json!({ "got": fid.to_string(), "type": vtype }))
        };
        let made = |(fid, attr): (Fid, Vattr)| {
            let out = CreateOut {
                fid,
                attr,
                ..CreateOut::default()
            };
            Reply::of(&out, json!({ "got": fid.to_string(), "attr": show(&attr) }))
        };
        Ok(match op {
            Opcode::ROOT => {
                let out = RootOut {
                    fid: store.root(),
                    ..RootOut::default()
                };
                Reply::of(&out, json!({ "got": out.fid.to_string() }))
            }
            Opcode::GETATTR => {
                let m: FidIn = parse(msg)?;
                let out = GetattrOut {
                    attr: store.getattr(m.fid)?,
                    ..GetattrOut::default()
                };
                Reply::of(&out, json!({ "attr": show(&out.attr) }))
            }
            Opcode::SETATTR => {
                let m: SetattrIn = parse(msg)?;
                store.setattr(m.fid, uid, &m.attr)?;
                Reply::plain()
            }
            Opcode::ACCESS => {
                let m: FlagsIn = parse(msg)?;
                store.access(m.fid, uid, m.flags)?;
                Reply::plain()
            }
            Opcode::LOOKUP => {
                let m: LookupIn = parse(msg)?;
                let (fid, vtype) = store.lookup(m.fid, uid, name(msg, m.name)?)?;
                found(fid, vtype)
            }
            Opcode::VGET => {
                let m: FidIn = parse(msg)?;
                found(m.fid, store.vget(m.fid)?)
            }
            Opcode::CREATE => {
                let m: CreateIn = parse(msg)?;
                made(store.create(
                    m.fid,
                    uid,
                    name(msg, m.name)?,
                    m.mode as u32,
                    m.excl != 0,
                    // Venus takes a size of nothing for a wish to truncate.
                    m.attr.size == 0,
                )?)
            }
            Opcode::MKDIR => {
                let m: MkdirIn = parse(msg)?;
                let mode = u32::from(m.attr.mode);
                made(store.mkdir(m.fid, uid, name(msg, m.name)?, mode)?)
            }
            Opcode::REMOVE | Opcode::RMDIR => {
                let m: NameIn = parse(msg)?;
                store.remove(m.fid, uid, name(msg, m.name)?, op == Opcode::RMDIR)?;
                Reply::plain()
            }
            Opcode::LINK => {
                let m: LinkIn = parse(msg)?;
                store.link(m.source, m.dest, uid, name(msg, m.tname)?)?;
                Reply::plain()
            }
            Opcode::RENAME => {
                let m: RenameIn = parse(msg)?;
                let from = (m.source, name(msg, m.srcname)?);
                store.rename(from, (m.dest, name(msg, m.destname)?), uid)?;
                Reply::plain()
            }
            Opcode::SYMLINK => {
                let m: SymlinkIn = parse(msg)?;
                let (link, target) = (name(msg, m.tname)?, name(msg, m.srcname)?);
                store.symlink(m.fid, uid, link, target)?;
                Reply::plain()
            }
            Opcode::READLINK => {
                let m: FidIn = parse(msg)?;
                let mut target = store.readlink(m.fid)?;
                target.truncate(MAXPATHLEN - 1);
                let out = ReadlinkOut {
                    count: target.len() as i32,
                    // An offset, whatever its type in C.
                    data: size_of::<ReadlinkOut>() as u64,
                    ..ReadlinkOut::default()
                };
                let mut reply = Reply::of(&out, json!({ "target": text(&target) }));
                reply.bytes.extend(target);
                reply
            }
            Opcode::OPEN_BY_FD => {
                let m: FlagsIn = parse(msg)?;
                let mut container = store.open(m.fid, uid, m.flags)?;
                if let Some(other) = job.met.as_ref().and_then(|m| m.effect.container.as_ref()) {
                    let mode = match m.flags & C_O_WRITE {
                        0 => OFlags::RDONLY,
                        _ => OFlags::RDWR,
                    };
                    // A FIFO must not make us wait for its other end.
                    let mode = mode | OFlags::NONBLOCK | OFlags::CLOEXEC;
                    container = rustix::fs::open(other, mode, Mode::empty())?;
                }
                let out = OpenByFdOut {
                    fd: container.as_raw_fd(),
                    ..OpenByFdOut::default()
                };
                let mut reply = Reply::of(&out, json!({ "fd": out.fd }));
                // Our copy is closed when the reply has been sent; the kernel
                // has its own by then.
                reply.container = Some(container);
                reply
            }
            Opcode::CLOSE => {
                let m: FlagsIn = parse(msg)?;
                let (left, stored) = store.close(m.fid, m.flags)?;
                let last = m.flags & C_O_WRITE != 0 && left.writers == 0;
                let mut note = json!({ "left": left, "last_writer": last });
                if let Some(stored) = stored {
                    note["server"] = json!(stored);
                }
                Reply::of(&OutHdr::default(), note)
            }
            // What a container holds is safe with its own file system; it is
            // stored on a server at the last close only.
            Opcode::FSYNC => {
                let m: FidIn = parse(msg)?;
                store.get(m.fid)?;
                Reply::plain()
            }
            Opcode::STATFS => {
                let out: StatfsOut = store.statfs()?;
                Reply::of(&out, json!({ "blocks": out.blocks, "bfree": out.bfree }))
            }
            Opcode::IOCTL => ioctl(msg)?,
            Opcode::ACCESS_INTENT => {
                let m: AccessIntentIn = parse(msg)?;
                if matches!(m.kind, intent::READ_FINISH | intent::WRITE_FINISH) {
                    return Err(Answer::None);
                }
                store.get(m.fid)?;
                if !self.intents {
                    return Err(Errno::OPNOTSUPP.into());
                }
                Reply::plain()
            }
            _ => return Err(Errno::OPNOTSUPP.into()),
        })
    }
}

/// Why a request gets no ordinary reply.
enum Answer {
    /// It was none.
    None,
    /// It failed.
    Errno(Errno),
}

impl From<Errno> for Answer {
    fn from(e: Errno) -> Self {
        Answer::Errno(e)
    }
}

/// A pioctl. There is no server to talk to; ours of type 'V' give back what
/// they were given, which is enough to see that the data went both ways.
fn ioctl(msg: &[u8]) -> Result<Reply, Errno> {
    let m: IoctlIn = parse(msg)?;
    let start = usize::try_from(m.data).map_err(|_| Errno::INVAL)?;
    let len = usize::try_from(m.len).map_err(|_| Errno::INVAL)?;
    let data = msg
        .get(start..)
        .and_then(|rest| rest.get(..len))
        .ok_or(Errno::INVAL)?;
    if (m.cmd >> 8) & 0xff != u32::from(b'V') {
        return Err(Errno::OPNOTSUPP);
    }
    let out = IoctlOut {
        len: m.len,
        data: size_of::<IoctlOut>() as u64,
        ..IoctlOut::default()
    };
    let mut reply = Reply::of(&out, json!({ "len": m.len }));
    reply.bytes.extend(data);
    Ok(reply)
}

/// Does to a reply what a rule says.
fn spoil(bytes: &mut Vec<u8>, effect: &Effect) {
    fn put(bytes: &mut Vec<u8>, at: usize, new: &[u8]) {
        if bytes.len() < at + new.len() {
            bytes.resize(at + new.len(), 0);
        }
        bytes[at..at + new.len()].copy_from_slice(new);
    }
    if effect.unique_add != 0 {
        let at = std::mem::offset_of!(OutHdr, unique);
        if let Ok((unique, _)) = u32::read_from_prefix(&bytes[at..]) {
            let wrong = unique.wrapping_add(effect.unique_add);
            put(bytes, at, wrong.as_bytes());
        }
    }
    if let Some(fd) = effect.fd {
        put(bytes, std::mem::offset_of!(OpenByFdOut, fd), fd.as_bytes());
    }
    for (at, digits) in &effect.patch {
        put(
            bytes,
            *at,
            &crate::control::unhex(digits).unwrap_or_default(),
        );
    }
    if let Some(size) = effect.pad_to.filter(|&size| size > bytes.len()) {
        bytes.resize(size, 0xa5);
    }
    if let Some(size) = effect.truncate {
        bytes.truncate(size);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spoilt(effect: &str) -> Vec<u8> {
        let mut bytes: Vec<u8> = (0..16).collect();
        spoil(&mut bytes, &serde_json::from_str(effect).unwrap());
        bytes
    }

    #[test]
    fn replies_are_spoilt_as_told() {
        assert_eq!(spoilt("{}").len(), 16);
        assert_eq!(spoilt(r#"{"truncate":8}"#).len(), 8);
        assert_eq!(spoilt(r#"{"pad_to":20}"#)[16..], [0xa5; 4]);
        assert_eq!(spoilt(r#"{"patch":[[1,"ffee"]]}"#)[..4], [0, 0xff, 0xee, 3]);
        assert_eq!(spoilt(r#"{"patch":[[18,"77"]]}"#)[16..], [0, 0, 0x77]);
        assert_eq!(spoilt(r#"{"fd":-1}"#)[12..], [0xff; 4]);
        assert_eq!(spoilt(r#"{"unique_add":1}"#)[4..8], [5, 5, 6, 7]);
    }

    #[test]
    fn requests_are_described() {
        let mut msg = NameIn {
            fid: Fid([1, 2, 3, 4]),
            name: size_of::<NameIn>() as i32,
            ..NameIn::default()
        }
        .as_bytes()
        .to_vec();
        // A name that does not end.
        msg.extend(b"name");
        assert_eq!(describe(Opcode::REMOVE, &msg).err(), Some(Errno::INVAL));
        msg.push(0);
        let (fields, fid, names) = describe(Opcode::REMOVE, &msg).unwrap();
        assert_eq!(fields["name"], "name");
        assert_eq!(fid, Some(Fid([1, 2, 3, 4])));
        assert_eq!(names, [b"name"]);
        assert!(describe(Opcode::RENAME, &msg).is_err());
    }

    #[test]
    fn pioctls_give_back_what_they_got() {
        let head = IoctlIn {
            cmd: 0xc028_5616,
            len: 4,
            data: size_of::<IoctlIn>() as u64,
            ..IoctlIn::default()
        };
        let mut msg = head.as_bytes().to_vec();
        assert!(ioctl(&msg).is_err());
        msg.extend(b"ping");
        assert_eq!(
            ioctl(&msg).unwrap().bytes[size_of::<IoctlOut>()..],
            *b"ping"
        );
        msg[37] = b'X';
        assert_eq!(ioctl(&msg).err(), Some(Errno::OPNOTSUPP));
    }
}
