// SPDX-License-Identifier: GPL-2.0

//! Replies that are wrong.
//!
//! After each of them the file system must still work: the caller gets an
//! error, or anything that the reply could be taken for, but neither waits for
//! ever nor takes the kernel with it.

use coda_proto::{DirBuilder, dirtype};
use coda_selftests::containers::{Small, run};
use coda_selftests::map::{Map, PAGE};
use coda_selftests::pioctl::pioctl;
use coda_selftests::sys::{self, child};
use ktest::{Case, Context, Ctx, Result, Rule, bail, ensure, ensure_eq, patience, wait_for};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::sys::wait::WaitStatus;
use nix::unistd::mkfifo;
use serde_json::json;
use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

struct T<'a> {
    ctx: &'a Ctx<'a>,
    here: PathBuf,
    behind: PathBuf,
}

fn case(
    name: &'static str,
    what: &'static str,
    body: impl Fn(&T<'_>) -> Result<()> + 'static,
) -> Case {
    Case::new(name, what, move |ctx| {
        let fixture = ctx.fixture();
        let t = T {
            ctx,
            here: fixture.mnt.join(ctx.name),
            behind: fixture.root.join(ctx.name),
        };
        fs::create_dir(&t.behind)?;
        // Known from now on, so that no rule is about it.
        fs::metadata(&t.here)?;
        body(&t)?;
        t.works()
    })
    .seconds(15)
}

impl T<'_> {
    /// The file system does as ever.
    fn works(&self) -> Result<()> {
        self.ctx.fixture().clear_rules()?;
        let path = self.here.join("after");
        fs::write(&path, b"works").context("afterwards")?;
        ensure_eq!(fs::read(&path)?, b"works");
        ensure_eq!(fs::read(self.behind.join("after"))?, b"works");
        ensure!(
            fs::read_dir(&self.here)?.any(|e| e.is_ok_and(|e| e.file_name() == "after")),
            "afterwards a name is missing"
        );
        Ok(())
    }

    fn rule(&self, rule: Rule) -> Result<u64> {
        self.ctx.fixture().rule(rule)
    }
}

/// Does whatever makes the kernel send a request of that name, and gives the
/// error, if there was one.
fn provoke(t: &T<'_>, op: &str, n: usize) -> Result<Option<Errno>> {
    let (old, new) = (format!("old{n}"), format!("new{n}"));
    let (here, behind) = (&t.here, &t.behind);
    fs::write(behind.join(&old), b"contents")?;
    symlink("target", behind.join(format!("{old}l")))?;
    fs::create_dir(behind.join(format!("{old}d")))?;
    let result = match op {
        "LOOKUP" | "GETATTR" => fs::metadata(here.join(&old)).map(|_| ()),
        "SETATTR" => fs::OpenOptions::new()
            .write(true)
            .open(here.join(&old))
            .and_then(|f| f.set_len(3)),
        "ACCESS" => {
            let fid = t.ctx.fixture().fid(&format!("{}/{old}", t.ctx.name))?;
            t.ctx.fixture().downcall("PURGEFID", Some(&fid))?;
            nix::unistd::access(&here.join(&old), nix::unistd::AccessFlags::R_OK)
                .map_err(Into::into)
        }
        "CREATE" => fs::File::create_new(here.join(&new)).map(|_| ()),
        "MKDIR" => fs::create_dir(here.join(&new)),
        "REMOVE" => fs::remove_file(here.join(&old)),
        "RMDIR" => fs::remove_dir(here.join(format!("{old}d"))),
        "RENAME" => fs::rename(here.join(&old), here.join(&new)),
        "LINK" => fs::hard_link(here.join(&old), here.join(&new)),
        "SYMLINK" => symlink("x", here.join(&new)),
        "READLINK" => fs::read_link(here.join(format!("{old}l"))).map(|_| ()),
        "OPEN_BY_FD" => fs::File::open(here.join(&old)).map(|_| ()),
        "FSYNC" => fs::File::open(here.join(&old)).and_then(|f| f.sync_all()),
        "STATFS" => nix::sys::statfs::statfs(here.as_path())
            .map(|_| ())
            .map_err(Into::into),
        other => bail!("{other}?"),
    };
    Ok(result
        .err()
        .map(|e| Errno::from_raw(e.raw_os_error().unwrap_or(0))))
}

const OPS: [&str; 14] = [
    "LOOKUP",
    "GETATTR",
    "SETATTR",
    "ACCESS",
    "CREATE",
    "MKDIR",
    "REMOVE",
    "RMDIR",
    "RENAME",
    "LINK",
    "SYMLINK",
    "READLINK",
    "OPEN_BY_FD",
    "FSYNC",
];

/// Every kind of request gets a reply with that result.
fn results(name: &'static str, what: &'static str, values: &'static [i64]) -> Case {
    case(name, what, move |t| {
        let mut n = 0;
        for op in OPS {
            for &value in values {
                n += 1;
                let rule = t.rule(Rule::on(op).with("result", value))?;
                let error = provoke(t, op, n)?;
                t.ctx
                    .fixture()
                    .order(&json!({ "cmd": "clear", "id": rule }))?;
                let error =
                    error.with_context(|| format!("{op} succeeded with a result of {value}"))?;
                ensure!(
                    error != Errno::UnknownErrno,
                    "{op}: a result of {value} reached the program"
                );
            }
        }
        Ok(())
    })
    .tag("bad_result")
    .seconds(40)
}

/// Every kind of request gets a reply that is spoilt in that way.
fn spoilt(
    name: &'static str,
    what: &'static str,
    effect: &'static str,
    values: &'static [u64],
    must_fail: bool,
) -> Case {
    case(name, what, move |t| {
        let mut n = 0;
        for op in OPS {
            for &value in values {
                n += 1;
                let rule = t.rule(Rule::on(op).with(effect, value))?;
                let error = provoke(t, op, n)?;
                t.ctx
                    .fixture()
                    .order(&json!({ "cmd": "clear", "id": rule }))?;
                ensure!(
                    error.is_some() || !must_fail,
                    "{op} succeeded with {effect} {value}"
                );
            }
        }
        Ok(())
    })
    .may_leak()
    .seconds(40)
}

/// Overwrites bytes of the reply to one request, for each of the patches.
fn patched(
    name: &'static str,
    what: &'static str,
    op: &'static str,
    patches: &'static [(usize, &'static str)],
) -> Case {
    case(name, what, move |t| {
        for (n, (at, digits)) in patches.iter().enumerate() {
            let rule = t.rule(Rule::on(op).with("patch", json!([[at, digits]])))?;
            // Any outcome will do that is one.
            provoke(t, op, n)?;
            t.ctx
                .fixture()
                .order(&json!({ "cmd": "clear", "id": rule }))?;
        }
        Ok(())
    })
    .tag("patched")
}

/// Ends swapping to a file when it is dropped.
struct Off<'a>(&'a str);

impl Drop for Off<'_> {
    fn drop(&mut self) {
        let _ = run("swapoff", &[self.0]);
    }
}

/// Opens a file whose container is something else.
fn odd_container(t: &T<'_>, path: &Path) -> Result<()> {
    fs::write(t.behind.join("f"), b"contents")?;
    t.rule(Rule::on("OPEN_BY_FD").with("container", path.to_string_lossy().into_owned()))?;
    for flags in [OFlag::O_RDONLY, OFlag::O_RDWR] {
        let Ok(fd) = sys::open(&t.here.join("f"), flags | OFlag::O_NONBLOCK) else {
            continue;
        };
        // Not for ever: some of these would wait for data.
        let kid = child(|_| {
            let _ = nix::unistd::read(&fd, &mut [0; 10]);
            let _ = nix::unistd::write(&fd, b"x");
            if let Ok(map) = Map::new(&fd, PAGE, libc::PROT_READ, libc::MAP_SHARED) {
                // SAFETY: asks only; the address is a mapping of ours.
                unsafe { libc::msync(map.address().cast(), PAGE, libc::MS_SYNC) };
            }
            let _ = nix::unistd::fsync(&fd);
            let _ = sys::seek(&fd, 5, libc::SEEK_SET);
            Ok(())
        })?;
        std::thread::sleep(std::time::Duration::from_millis(20));
        kid.kill(Signal::SIGKILL)?;
        ensure!(
            matches!(
                kid.end()?,
                WaitStatus::Exited(..) | WaitStatus::Signaled(..)
            ),
            "it does not end"
        );
    }
    Ok(())
}

fn odd(name: &'static str, what: &'static str, make: fn(&T<'_>) -> Result<PathBuf>) -> Case {
    case(name, what, move |t| odd_container(t, &make(t)?))
        .tag("odd_container")
        .may_leak()
}

/// The cases.
pub fn cases() -> Vec<Case> {
    vec![
        results(
            "errnos",
            "every errno that there is comes through as an error",
            &[1, 2, 13, 110, 116, 133],
        ),
        results(
            "bad_results",
            "fault 6: results that are no errno",
            &[5000, -5, -1, i32::MIN as i64, i32::MAX as i64, 4096, 65536],
        )
        .tag("worse_result"),
        spoilt(
            "short",
            "fault 6: replies that are cut off",
            "truncate",
            &[8, 12, 13, 20],
            false,
        )
        .tag("short"),
        case(
            "short_replies_fail",
            "fault 6: a success that is cut off is none",
            |t| {
                for (n, op) in [
                    "LOOKUP",
                    "GETATTR",
                    "CREATE",
                    "MKDIR",
                    "READLINK",
                    "OPEN_BY_FD",
                ]
                .into_iter()
                .enumerate()
                {
                    let rule = t.rule(Rule::on(op).with("truncate", 14))?;
                    let error = provoke(t, op, n)?;
                    t.ctx
                        .fixture()
                        .order(&json!({ "cmd": "clear", "id": rule }))?;
                    ensure!(error.is_some(), "{op} succeeded with 14 bytes");
                }
                Ok(())
            },
        )
        .tag("short")
        .may_leak(),
        spoilt(
            "long",
            "replies that are too long",
            "pad_to",
            &[200, 1000, 8192, 15000],
            false,
        ),
        case(
            "replies_twice",
            "replies that come twice: the second is refused",
            |t| {
                for (n, op) in OPS.into_iter().enumerate() {
                    let rule = t.rule(Rule::on(op).once().with("twice", true))?;
                    t.ctx.watch.borrow_mut().events.clear();
                    ensure_eq!(provoke(t, op, n)?, None, "{op}");
                    t.ctx.fixture().wait_rule(rule, 1)?;
                    t.ctx
                        .watch
                        .borrow_mut()
                        .wait("the second answer", patience(6), |events| {
                            events
                                .iter()
                                .any(|e| {
                                    e.text("ev") == "sent"
                                        && e.text("op") == op
                                        && e.number("errno") == Some(Errno::ESRCH as i64)
                                })
                                .then_some(())
                        })?;
                }
                Ok(())
            },
        ),
        patched(
            "readlink_counts",
            "fault 6: READLINK with counts and offsets out of range",
            "READLINK",
            &[
                (12, "ffffffff"),
                (12, "ffffff7f"),
                (12, "00100000"),
                (12, "00000080"),
                (12, "00000000"),
                (16, "ffffffffffffffff"),
                (16, "00000000"),
                (16, "0010000000000000"),
                (16, "e8ffffffffffffff"),
                (16, "0000000000000080"),
            ],
        ),
        patched(
            "attributes",
            "GETATTR with impossible attributes",
            "GETATTR",
            &[
                (16, "4d00000000000000"),
                (16, "ffffffffffffffff"),
                (16, "0000000000000000"),
                (16, "0200000000000000"),
                (24, "ffff"),
                (26, "0080"),
                (48, "ffffffffffffff7f"),
                (48, "0000000000000080"),
                (80, "ffffffffffffffffffffffffffffff7f"),
            ],
        ),
        patched(
            "fids",
            "LOOKUP with fids of something else, and odd types",
            "LOOKUP",
            &[
                (12, "00000000000000000000000000000000"),
                (12, "ffffffffffffffffffffffffffffffff"),
                (28, "05000000"),
                (28, "02000000"),
                (28, "ffffffff"),
            ],
        ),
        patched(
            "created_fids",
            "CREATE whose new file is nothing known",
            "CREATE",
            &[
                (12, "00000000000000000000000000000000"),
                (32, "0200000000000000"),
                (32, "0500000000000000"),
                (32, "ffffffffffffffff"),
            ],
        )
        .may_leak(),
        case(
            "root_as_child",
            "LOOKUP that gives the root, or the directory itself",
            |t| {
                fs::write(t.behind.join("f"), b"")?;
                let fixture = t.ctx.fixture();
                for path in ["", t.ctx.name] {
                    let fid: coda_proto::Fid = fixture.fid(path)?.parse()?;
                    let digits: Vec<_> =
                        fid.0.iter().map(|w| format!("{:08x}", w.to_be())).collect();
                    let words = digits.concat();
                    fixture.rule(
                        Rule::on("LOOKUP")
                            .name("loop")
                            .with("result", 0)
                            .with("patch", json!([[12, words], [28, "02000000"]])),
                    )?;
                    let _ = fs::metadata(t.here.join("loop"));
                    let _ = fs::metadata(t.here.join("loop/loop/loop"));
                    let _ = fs::read_dir(t.here.join("loop")).map(|d| d.count());
                    fixture.clear_rules()?;
                    fixture.downcall("FLUSH", None)?;
                }
                Ok(())
            },
        )
        .tag("patched"),
        case(
            "bad_fd",
            "fault 4: OPEN_BY_FD with what is no descriptor",
            |t| {
                fs::write(t.behind.join("f"), b"")?;
                for fd in [-1, 9999, i32::MIN, i32::MAX] {
                    t.rule(Rule::on("OPEN_BY_FD").once().with("fd", fd))?;
                    let kid = child(|_| {
                        ensure!(fs::File::open(t.here.join("f")).is_err(), "it was opened");
                        Ok(())
                    })?;
                    kid.succeed().with_context(|| format!("descriptor {fd}"))?;
                }
                Ok(())
            },
        )
        .may_leak()
        .tag("bad_fd"),
        odd("container_null", "a container that is /dev/null", |_| {
            Ok("/dev/null".into())
        }),
        odd(
            "container_directory",
            "a container that is a directory",
            |t| Ok(t.behind.clone()),
        ),
        odd("container_fifo", "a container that is a FIFO", |t| {
            let path = t.behind.join("fifo");
            mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR)?;
            // Keeps both ends open, so that nothing waits for the other.
            let ends = sys::open(&path, OFlag::O_RDWR)?;
            std::mem::forget(ends);
            Ok(path)
        }),
        case(
            "container_no_pages",
            "an open whose container has no page cache is refused, and closed",
            |t| {
                fs::write(t.behind.join("f"), b"contents")?;
                let fid = t.ctx.fixture().fid(&format!("{}/f", t.ctx.name))?;
                let mut watch = t.ctx.fixture().watch()?;
                t.rule(
                    Rule::on("OPEN_BY_FD")
                        .once()
                        .with("container", "/sys/kernel/debug/devices_deferred"),
                )?;
                let opened = sys::open(&t.here.join("f"), OFlag::O_RDONLY);
                ensure_eq!(opened.err(), Some(Errno::EINVAL));
                ensure_eq!(watch.requests("CLOSE", &fid)?.len(), 1, "closes");
                Ok(())
            },
        )
        .tag("odd_container"),
        case(
            "container_refused",
            "the reply with a container that is no file and no directory is refused",
            |t| {
                fs::write(t.behind.join("f"), b"contents")?;
                let fid = t.ctx.fixture().fid(&format!("{}/f", t.ctx.name))?;
                let fifo = t.behind.join("fifo");
                mkfifo(&fifo, Mode::S_IRUSR | Mode::S_IWUSR)?;
                let ends = sys::open(&fifo, OFlag::O_RDWR)?;
                let mut watch = t.ctx.fixture().watch()?;
                for (n, path) in [Path::new("/dev/null"), &fifo].into_iter().enumerate() {
                    let path = path.to_string_lossy().into_owned();
                    t.rule(Rule::on("OPEN_BY_FD").once().with("container", path))?;
                    let opened = sys::open(&t.here.join("f"), OFlag::O_RDWR | OFlag::O_NONBLOCK);
                    ensure_eq!(opened.err(), Some(Errno::EINVAL));
                    let refused = |e: &&ktest::Event| {
                        e.text("ev") == "sent" && e.number("errno") == Some(libc::EINVAL.into())
                    };
                    watch.wait("the refusal", patience(5), |events| {
                        (events.iter().filter(refused).count() > n).then_some(())
                    })?;
                }
                sys::close(ends)?;
                ensure_eq!(watch.requests("CLOSE", &fid)?.len(), 0, "closes");
                Ok(())
            },
        )
        .tag("odd_container"),
        odd("container_proc", "a container in /proc", |_| {
            Ok("/proc/version".into())
        }),
        odd(
            "container_elsewhere",
            "a container on another file system",
            |t| {
                let path = std::env::temp_dir().join(format!("elsewhere-{}", t.ctx.name));
                fs::write(&path, b"elsewhere")?;
                Ok(path)
            },
        ),
        case(
            "container_changes",
            "another container at the second open, while the first is mapped",
            |t| {
                fs::write(t.behind.join("f"), vec![b'1'; PAGE])?;
                fs::write(t.behind.join("g"), vec![b'2'; PAGE])?;
                let first = sys::open(&t.here.join("f"), OFlag::O_RDWR)?;
                let map = Map::shared(&first, PAGE)?;
                map.store(0, b'x');
                let other = t.behind.join("g");
                t.rule(
                    Rule::on("OPEN_BY_FD")
                        .once()
                        .with("container", other.to_string_lossy().into_owned()),
                )?;
                let second = sys::open(&t.here.join("f"), OFlag::O_RDWR)?;
                // Refused, as C does, or working: but not the one for the other.
                match Map::shared(&second, PAGE) {
                    Ok(map) => ensure_eq!(map.load(1), b'2'),
                    Err(e) => ensure_eq!(e, Errno::EBUSY),
                }
                let mut byte = [0];
                nix::sys::uio::pread(&second, &mut byte, 1)?;
                ensure_eq!(byte, *b"2");
                ensure_eq!(map.load(1), b'1');
                Ok(())
            },
        ),
        case(
            "container_sealed",
            "a container that is sealed against being written to",
            |t| {
                use nix::fcntl::{FcntlArg, SealFlag, fcntl};
                use nix::sys::memfd::{MFdFlags, memfd_create};
                fs::write(t.behind.join("f"), b"contents")?;
                let shared = |fd: &OwnedFd, prot| Map::new(fd, PAGE, prot, libc::MAP_SHARED);
                let (read, write) = (libc::PROT_READ, libc::PROT_READ | libc::PROT_WRITE);
                for seal in [SealFlag::F_SEAL_WRITE, SealFlag::F_SEAL_FUTURE_WRITE] {
                    let container = memfd_create("container", MFdFlags::MFD_ALLOW_SEALING)?;
                    nix::unistd::write(&container, &[b'o'; PAGE])?;
                    let path = format!("/proc/{}/fd/{}", std::process::id(), container.as_raw_fd());
                    let rule = t.rule(Rule::on("OPEN_BY_FD").with("container", path))?;
                    let seal_it = || fcntl(&container, FcntlArg::F_ADD_SEALS(seal));
                    let fd = sys::open(&t.here.join("f"), OFlag::O_RDWR)?;
                    let map = shared(&fd, write)?;
                    map.store(0, b'm');
                    drop(map);
                    if seal == SealFlag::F_SEAL_WRITE {
                        // Nor can it be while it is being mapped.
                        ensure_eq!(seal_it(), Err(Errno::EBUSY));
                    }
                    sys::close(fd)?;
                    wait_for("the seal", patience(5), || Ok(seal_it().ok()))?;

                    let fd = sys::open(&t.here.join("f"), OFlag::O_RDWR)?;
                    ensure_eq!(shared(&fd, write).err(), Some(Errno::EPERM));
                    ensure_eq!(nix::unistd::write(&fd, b"w"), Err(Errno::EPERM));
                    let map = shared(&fd, read)?;
                    ensure_eq!(map.load(0), b'm');
                    ensure_eq!(map.protect(write), Err(Errno::EACCES));
                    Map::new(&fd, PAGE, write, libc::MAP_PRIVATE)?.store(0, b'p');
                    ensure_eq!(map.load(0), b'm');
                    sys::close(fd)?;
                    t.ctx
                        .fixture()
                        .order(&json!({ "cmd": "clear", "id": rule }))?;
                }
                Ok(())
            },
        )
        .tag("odd_container"),
        case(
            "container_swapped_to",
            "a container that is swapped to",
            |t| {
                fs::write(t.behind.join("f"), b"contents")?;
                let small = Small::ext4("coda-swap", 4)?;
                let path = small.dir().join("swap");
                fs::write(&path, vec![0; 1 << 20])?;
                let text = path.to_string_lossy().into_owned();
                fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
                run("mkswap", &[&text])?;
                run("swapon", &[&text])?;
                let _off = Off(&text);
                t.rule(Rule::on("OPEN_BY_FD").with("container", text.clone()))?;
                let fd = sys::open(&t.here.join("f"), OFlag::O_RDWR)?;
                ensure_eq!(
                    Map::shared(&fd, PAGE).err(),
                    Some(Errno::ETXTBSY),
                    "mmap(2)"
                );
                ensure_eq!(
                    nix::unistd::write(&fd, b"w"),
                    Err(Errno::ETXTBSY),
                    "write(2)"
                );
                let map = Map::new(&fd, PAGE, libc::PROT_READ, libc::MAP_SHARED)?;
                ensure_eq!(map.load(0), 0);
                drop(map);
                sys::close(fd)?;
                Ok(())
            },
        )
        .tag("odd_container")
        .seconds(40),
        case(
            "wrong_unique",
            "a reply to nobody leaves the caller waiting, who can be killed",
            |t| {
                fs::write(t.behind.join("f"), b"")?;
                let rule = t.rule(
                    Rule::on("LOOKUP")
                        .name("f")
                        .once()
                        .with("unique_add", 100_000),
                )?;
                let kid = child(|_| {
                    fs::metadata(t.here.join("f"))?;
                    bail!("it got an answer")
                })?;
                t.ctx.fixture().wait_rule(rule, 1)?;
                std::thread::sleep(std::time::Duration::from_millis(30));
                kid.kill(Signal::SIGKILL)?;
                kid.die_of(Signal::SIGKILL)?;
                fs::metadata(t.here.join("f"))?;
                Ok(())
            },
        ),
        case(
            "pioctl_replies",
            "fault 6: IOCTL with lengths and offsets out of range",
            |t| {
                fs::write(t.behind.join("f"), b"")?;
                let control = sys::open(&t.ctx.fixture().mnt.join(".CONTROL"), OFlag::O_RDONLY)?;
                for (at, digits) in [
                    (12, "ffffffff"),
                    (12, "00000080"),
                    (12, "00200000"),
                    (12, "ffffff7f"),
                    (16, "ffffffffffffffff"),
                    (16, "0000000000000080"),
                    (16, "00f0ffffffffffff"),
                ] {
                    let rule = t.rule(Rule::on("IOCTL").with("patch", json!([[at, digits]])))?;
                    let mut answer = [0xee; 64];
                    let _ = pioctl(&control, &t.here.join("f"), b'V', 22, b"ping", &mut answer);
                    // Nothing but our own bytes may have come.
                    ensure!(
                        answer.iter().all(|b| b"ping\xee".contains(b)),
                        "kernel memory came out: {answer:x?}"
                    );
                    t.ctx
                        .fixture()
                        .order(&json!({ "cmd": "clear", "id": rule }))?;
                }
                Ok(())
            },
        )
        .tag("patched"),
        case(
            "downcalls_random",
            "downcalls about everything, all the time",
            |t| {
                let fixture = t.ctx.fixture();
                let busy = child(|_| {
                    for n in 0.. {
                        let path = t.here.join(format!("f{}", n % 7));
                        let _ = fs::write(&path, b"x");
                        let _ = fs::metadata(&path);
                        let _ = fs::read(&path);
                        if n % 3 == 0 {
                            let _ = fs::remove_file(&path);
                        }
                    }
                    Ok(())
                })?;
                let dir = fixture.fid(t.ctx.name)?;
                for n in 0..150 {
                    let name = format!("{}/f{}", t.ctx.name, n % 7);
                    let fid = fixture.fid(&name).unwrap_or_else(|_| dir.clone());
                    let op = ["ZAPFILE", "ZAPDIR", "PURGEFID", "FLUSH"][n % 4];
                    fixture.downcall(op, (op != "FLUSH").then_some(&fid))?;
                    fixture.downcall("PURGEFID", Some(&dir))?;
                }
                busy.kill(Signal::SIGTERM)?;
                busy.die_of(Signal::SIGTERM)?;
                Ok(())
            },
        )
        .seconds(30),
    ]
}

fn garbage_dir(name: &'static str, what: &'static str, bytes: fn() -> Vec<u8>) -> Case {
    case(name, what, move |t| {
        fs::create_dir(t.behind.join("d"))?;
        let file = t.behind.join("records");
        fs::write(&file, bytes())?;
        let fid = t.ctx.fixture().fid(&format!("{}/d", t.ctx.name))?;
        t.rule(
            Rule::on("OPEN_BY_FD")
                .fid(&fid)
                .with("container", file.to_string_lossy().into_owned()),
        )?;
        let dir = fs::read_dir(t.here.join("d"))?;
        // It ends, by an error or not.
        let count = dir.take(10_000).take_while(|e| e.is_ok()).count();
        ensure!(count < 10_000, "it never ends");
        Ok(())
    })
    .may_leak()
}

fn record(fileno: u32, reclen: u16, namlen: u8, name: &[u8]) -> Vec<u8> {
    let mut bytes = fileno.to_ne_bytes().to_vec();
    bytes.extend(reclen.to_ne_bytes());
    bytes.extend([dirtype::REG, namlen]);
    bytes.extend(name);
    bytes
}

/// Directory files that make no sense.
pub fn directory_cases() -> Vec<Case> {
    vec![
        garbage_dir("empty", "no records at all", Vec::new),
        garbage_dir("no_progress", "a record of no length", || {
            record(5, 0, 0, &[0; 300])
        }),
        garbage_dir(
            "too_short",
            "a record that is shorter than its name",
            || record(5, 12, 200, &[b'n'; 300]),
        ),
        garbage_dir("cut_off", "a record that is cut off", || {
            record(5, 100, 50, b"short")
        }),
        garbage_dir("header_only", "half a header", || vec![1, 2, 3]),
        garbage_dir("slash", "a name with a slash", || {
            let mut dir = DirBuilder::default();
            dir.push(5, dirtype::REG, b"a/b");
            dir.finish()
        }),
        garbage_dir("nul", "a name with a NUL", || {
            record(5, 20, 5, b"a\0b\0c\0\0\0\0\0\0")
        }),
        garbage_dir("zeroes", "a megabyte of zeroes", || vec![0; 1 << 20]),
        garbage_dir("random", "random bytes", || {
            use rand::{Rng, SeedableRng};
            let mut random = rand::rngs::SmallRng::seed_from_u64(7);
            (0..10_000).map(|_| random.random()).collect()
        }),
    ]
}
