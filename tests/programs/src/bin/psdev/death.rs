// SPDX-License-Identifier: GPL-2.0

//! Who dies when: each request that there is, at each moment of its life, and what can happen to
//! those who take part in it.
//!
//! The caller has a file open meanwhile, and has stored into a shared mapping of it. Whatever
//! happens, nobody may wait for ever, each open has its one close, the module stays while it is
//! used, and somebody else can begin anew.

use coda_selftests::containers;
use coda_selftests::map::{Map, PAGE};
use coda_selftests::pioctl::pioctl;
use coda_selftests::sys::{self, Child, child};
use ktest::{
    Case, Context, Fixture, Result, Rule, Spec, Watch, bail, ensure, ensure_eq, patience, wait_for,
};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::WaitStatus;
use nix::unistd::{AccessFlags, Pid, pipe};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::Duration;

/// How far the request has come.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Moment {
    /// The cache manager has not read it.
    Unread,
    /// It has, and done nothing about it.
    Read,
    /// It has carried it out, and not answered.
    CarriedOut,
}

/// What happens then.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Event {
    /// The caller gets SIGKILL.
    CallerDies,
    /// The cache manager gets SIGKILL, and its device is closed.
    ManagerDies,
    /// The mount is taken out of the tree; then the cache manager goes on.
    MountGoes,
    /// Nothing: the cache manager was only slow.
    GoesOn,
}

const MOMENTS: [Moment; 3] = [Moment::Unread, Moment::Read, Moment::CarriedOut];
const EVENTS: [Event; 4] = [
    Event::CallerDies,
    Event::ManagerDies,
    Event::MountGoes,
    Event::GoesOn,
];

/// What the caller has found before the one request that counts: after it nothing else has to be
/// asked for.
struct Ready<'a> {
    mnt: &'a Path,
    file: OwnedFd,
    control: OwnedFd,
}

/// A system call that sends one request.
struct Act {
    op: &'static str,
    call: Call,
    /// The downcall before it, about the old file: what is known has to be asked for again.
    downcall: Option<&'static str>,
}

type Call = fn(Ready<'_>) -> std::io::Result<()>;

const fn act(op: &'static str, call: Call) -> Act {
    let downcall = None;
    Act { op, call, downcall }
}

const fn act_after(downcall: &'static str, op: &'static str, call: Call) -> Act {
    let downcall = Some(downcall);
    Act { op, call, downcall }
}

/// All that a mounted file system sends; ROOT is in `lifetime`.
const ACTS: [Act; 18] = [
    act("LOOKUP", |r| fs::metadata(r.mnt.join("unseen")).map(drop)),
    act_after("ZAPFILE", "GETATTR", |r| {
        nix::sys::stat::fstat(&r.file).map(drop).map_err(Into::into)
    }),
    act("SETATTR", |r| {
        let mode = fs::Permissions::from_mode(0o600);
        fs::set_permissions(r.mnt.join("old"), mode)
    }),
    act_after("FLUSH", "ACCESS", |r| {
        nix::unistd::access(&r.mnt.join("old"), AccessFlags::R_OK).map_err(Into::into)
    }),
    act("CREATE", |r| File::create_new(r.mnt.join("new")).map(drop)),
    act("MKDIR", |r| fs::create_dir(r.mnt.join("new"))),
    act("REMOVE", |r| fs::remove_file(r.mnt.join("old"))),
    act("RMDIR", |r| fs::remove_dir(r.mnt.join("dir"))),
    act("RENAME", |r| {
        fs::rename(r.mnt.join("old"), r.mnt.join("new"))
    }),
    act("LINK", |r| {
        fs::hard_link(r.mnt.join("old"), r.mnt.join("new"))
    }),
    act("SYMLINK", |r| symlink("target", r.mnt.join("new"))),
    act("READLINK", |r| fs::read_link(r.mnt.join("link")).map(drop)),
    act("OPEN_BY_FD", |r| File::open(r.mnt.join("old")).map(drop)),
    act("CLOSE", |r| sys::close(r.file).map_err(Into::into)),
    act("FSYNC", |r| File::from(r.file).sync_all()),
    act("IOCTL", |r| {
        let mut answer = [0; 64];
        pioctl(
            &r.control,
            &r.mnt.join("old"),
            b'V',
            22,
            b"ping",
            &mut answer,
        )
        .map_err(Into::into)
    }),
    act("STATFS", |r| {
        nix::sys::statfs::statfs(r.mnt)
            .map(drop)
            .map_err(Into::into)
    }),
    act("ACCESS_INTENT", |r| {
        nix::unistd::read(&r.file, &mut [0; 10])
            .map(drop)
            .map_err(Into::into)
    }),
];

/// The caller, just before the request: it has a mapping with a store of its own.
struct Caller {
    kid: Child,
    go: File,
}

impl Caller {
    fn start(fixture: &Fixture, act: &'static Act) -> Result<Self> {
        let mnt = &fixture.mnt;
        let (wait, go) = pipe()?;
        let mut kid = child(|teller| {
            let mapped = sys::open(&mnt.join("mapped"), OFlag::O_RDWR)?;
            let map = Map::shared(&mapped, PAGE)?;
            sys::close(mapped)?;
            // Names, attributes and rights are known from here on; these are all of them.
            fs::write(mnt.join("scratch"), b"")?;
            fs::remove_file(mnt.join("scratch"))?;
            for name in ["old", "dir", "link"] {
                fs::symlink_metadata(mnt.join(name))?;
            }
            ensure!(fs::metadata(mnt.join("new")).is_err(), "there is a new one");
            let ready = Ready {
                mnt,
                file: sys::open(&mnt.join("old"), OFlag::O_RDWR)?,
                control: sys::open(&mnt.join(".CONTROL"), OFlag::O_RDONLY)?,
            };
            sys::close(sys::open(&mnt.join("old"), OFlag::O_RDONLY)?)?;
            teller.ready()?;
            File::from(wait).read_exact(&mut [0])?;
            map.store(0, b'm');
            (act.call)(ready)?;
            drop(map);
            Ok(())
        })?;
        kid.wait_ready()?;
        Ok(Caller { kid, go: go.into() })
    }

    fn go(&mut self) -> Result<()> {
        Ok(self.go.write_all(b"!")?)
    }
}

/// Stops the cache manager, and waits until none of its threads runs.
fn stop_manager(manager: Pid) -> Result<()> {
    kill(manager, Signal::SIGSTOP)?;
    wait_for("the cache manager's threads to stop", patience(10), || {
        for entry in fs::read_dir(format!("/proc/{manager}/task"))? {
            let stat = fs::read_to_string(entry?.path().join("stat"))?;
            let state = stat
                .rsplit(')')
                .next()
                .and_then(|rest| rest.trim().chars().next());
            if state != Some('T') {
                return Ok(None);
            }
        }
        Ok(Some(()))
    })
}

/// Waits until the caller sleeps in the kernel, which it does for the one request alone.
fn wait_asleep(pid: Pid) -> Result<()> {
    wait_for("the caller to wait", patience(10), || {
        let name = fs::read_to_string(format!("/proc/{pid}/wchan"))?;
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let asleep = matches!(
            stat.rsplit(')')
                .next()
                .and_then(|rest| rest.trim().chars().next()),
            Some('S' | 'D')
        );
        Ok((asleep && !name.contains("pipe")).then_some(()))
    })
}

/// The module cannot be unloaded, nor can the file system be left, while this goes on.
fn refuses_to_go(fixture: &Fixture) -> Result<()> {
    // SAFETY: a string and a number.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_delete_module,
            c"coda_rs".as_ptr(),
            libc::O_NONBLOCK,
        )
    };
    ensure_eq!(
        sys::check(ret),
        Err(Errno::EWOULDBLOCK),
        "delete_module(2) of a module in use"
    );
    ensure_eq!(
        umount2(&fixture.mnt, MntFlags::empty()),
        Err(Errno::EBUSY),
        "umount(2) of a mount in use"
    );
    Ok(())
}

/// No open is without its close; and each close had its open, or the cache manager would say so.
fn all_closed(fixture: &Fixture) -> Result<()> {
    wait_for("closes", patience(10), || {
        let stat = fixture.stat()?;
        Ok(stat["open"]
            .as_array()
            .is_some_and(Vec::is_empty)
            .then_some(()))
    })
}

/// The close of the mapped file tells of the store.
fn store_was_told(watch: &mut Watch, fid: &str) -> Result<()> {
    let closes = watch.requests("CLOSE", fid)?;
    ensure_eq!(closes.len(), 1, "closes of the mapped file");
    let flags = closes[0].number("flags").context("a close has flags")?;
    ensure!(
        flags & i64::from(coda_proto::C_O_NO_WRITES) == 0,
        "the store was not told: flags {flags:#x}"
    );
    Ok(())
}

/// The seconds of /proc/sys/coda/timeout, until it is dropped.
struct Timeout(String);

impl Timeout {
    const PATH: &str = "/proc/sys/coda/timeout";

    fn set(seconds: u32) -> Result<Self> {
        let old = fs::read_to_string(Self::PATH).context("no sysctl coda.timeout")?;
        fs::write(Self::PATH, seconds.to_string())?;
        Ok(Timeout(old))
    }
}

impl Drop for Timeout {
    fn drop(&mut self) {
        let _ = fs::write(Self::PATH, self.0.trim());
    }
}

fn once(act: &'static Act, moment: Moment, event: Event) -> Result<()> {
    let spec = Spec {
        intents: act.op == "ACCESS_INTENT",
        ..Spec::on(containers::base().join("tmpfs"))
    };
    let mut fixture = Fixture::start(&spec)?;
    for name in ["old", "mapped", "unseen"] {
        fs::write(fixture.root.join(name), vec![b'o'; PAGE])?;
    }
    fs::create_dir(fixture.root.join("dir"))?;
    symlink("target", fixture.root.join("link"))?;

    let mut watch = fixture.watch()?;
    let mut caller = Caller::start(&fixture, act)?;
    let mapped = fixture.fid("mapped")?;
    if let Some(downcall) = act.downcall {
        let old = fixture.fid("old")?;
        fixture.downcall(downcall, (downcall != "FLUSH").then_some(&old))?;
    }
    let manager = Pid::from_raw(fixture.manager_pid().context("no cache manager")? as i32);
    let mut rule = None;
    if moment == Moment::Unread {
        stop_manager(manager)?;
        caller.go()?;
        wait_asleep(caller.kid.pid)?;
    } else {
        let held = Rule::on(act.op)
            .once()
            .with("hold", true)
            .with("late", moment == Moment::CarriedOut);
        let held = fixture.rule(held)?;
        caller.go()?;
        fixture.wait_rule(held, 1)?;
        rule = Some(held);
    }
    refuses_to_go(&fixture)?;
    if event == Event::GoesOn && std::env::var_os("CODA_LONG").is_some() {
        std::thread::sleep(Duration::from_secs(5));
    }
    watch.update()?;
    let asked = watch.events.len();
    let goes_on = |fixture: &Fixture| match rule {
        Some(rule) => fixture.release(rule),
        None => Ok(kill(manager, Signal::SIGCONT)?),
    };

    let mut replaced = false;
    match event {
        Event::CallerDies => {
            caller.kid.kill(Signal::SIGKILL)?;
            // A close is waited for no longer, too.
            caller.kid.die_of(Signal::SIGKILL)?;
            goes_on(&fixture)?;
            all_closed(&fixture)?;
            store_was_told(&mut watch, &mapped)?;
            if moment == Moment::Unread && act.op != "CLOSE" {
                // Nobody asks any longer.
                ensure!(
                    !watch.events[asked..].iter().any(|e| e.is_request(act.op)
                        && e.number("pid") == Some(caller.kid.pid.as_raw().into())),
                    "what was given up was read"
                );
            }
        }
        Event::ManagerDies => {
            fixture.kill_manager()?;
            match caller.kid.end()? {
                // Nobody looks at the result of a close; and statfs makes numbers up.
                WaitStatus::Exited(_, 0) => ensure!(
                    ["CLOSE", "STATFS", "ACCESS_INTENT"].contains(&act.op),
                    "it succeeded, and nobody had answered"
                ),
                WaitStatus::Exited(..) => {}
                other => bail!("the caller: {other:?}"),
            }
            replaced = true;
        }
        Event::MountGoes => {
            umount2(&fixture.mnt, MntFlags::MNT_DETACH)?;
            goes_on(&fixture)?;
            caller.kid.succeed()?;
            all_closed(&fixture)?;
            store_was_told(&mut watch, &mapped)?;
            fixture.kill_manager()?;
            // Mounted again, once all of the old mount is gone.
            wait_for("the device", patience(10), || {
                Ok(fixture.start_manager().ok())
            })?;
        }
        Event::GoesOn => {
            goes_on(&fixture)?;
            caller.kid.succeed()?;
            all_closed(&fixture)?;
            store_was_told(&mut watch, &mapped)?;
            if moment == Moment::Unread {
                // It was this one that nobody had read.
                let first = watch.events[asked..].iter().find(|e| e.text("ev") == "in");
                ensure_eq!(
                    first.map(|e| e.text("op")),
                    Some(act.op),
                    "the first request"
                );
            }
        }
    }
    if replaced {
        fixture.unmount()?;
        fixture.start_manager()?;
    }
    let after = fixture.mnt.join("after");
    fs::write(&after, b"works").context("afterwards")?;
    ensure_eq!(fs::read(&after)?, b"works", "afterwards");
    all_closed(&fixture)?;
    fixture.stop()?;
    // The mount and the device were all that used the module.
    wait_for("the module's users to go", patience(10), || {
        let count = fs::read_to_string("/sys/module/coda_rs/refcnt")?;
        Ok((count.trim() == "0").then_some(()))
    })
}

/// The cases: one for each request. All moments and events are met by some request in the short
/// run, and by each of them in the long one.
pub fn cases() -> Vec<Case> {
    let long = std::env::var_os("CODA_LONG").is_some();
    ACTS.iter()
        .enumerate()
        .map(|(n, act)| {
            let name = act.op.to_lowercase();
            Case::new(name, "whoever dies, nobody waits for ever", move |_| {
                // A close that nobody reads is waited for that long, for each file.
                let _timeout = Timeout::set(1)?;
                for (m, moment) in MOMENTS.into_iter().enumerate() {
                    for (e, event) in EVENTS.into_iter().enumerate() {
                        if !long && (n + m * EVENTS.len() + e) % 6 != 0 {
                            continue;
                        }
                        once(act, moment, event)
                            .with_context(|| format!("{moment:?}, {event:?}"))?;
                    }
                }
                Ok(())
            })
            .tag("death")
            .seconds(if long { 200 } else { 30 })
        })
        .collect()
}
