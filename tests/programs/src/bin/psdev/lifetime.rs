// SPDX-License-Identifier: GPL-2.0

//! Cache managers, mounts and callers that come and go.

use crate::device;
use coda_selftests::containers;
use coda_selftests::map::{Map, PAGE};
use coda_selftests::sys::{self, Child, check, child, sleep_for_ever};
use ktest::{
    Case, Context, Fixture, Result, Rule, Spec, bail, ensure, ensure_eq, patience, run_to_end,
    wait_for,
};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::mount::{MntFlags, MsFlags, umount2};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use rand::{Rng, SeedableRng};
use std::fs;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

fn spec() -> Spec {
    Spec::on(containers::base().join("tmpfs"))
}

/// A case that starts a cache manager of its own.
fn case(
    name: &'static str,
    what: &'static str,
    body: impl Fn(&mut Fixture) -> Result<()> + 'static,
) -> Case {
    Case::new(name, what, move |_| {
        let mut fixture = Fixture::start(&spec())?;
        body(&mut fixture)?;
        fixture.stop()
    })
    .seconds(25)
}

/// Children that each ask for the attributes of a file of their own.
fn askers(fixture: &Fixture, count: usize) -> Result<Vec<Child>> {
    (0..count)
        .map(|n| {
            let path = fixture.mnt.join(format!("f{n}"));
            child(move |_| match fs::metadata(&path) {
                Ok(_) => bail!("it got an answer"),
                Err(_) => Ok(()),
            })
        })
        .collect()
}

fn manager(fixture: &Fixture) -> Result<Pid> {
    Ok(Pid::from_raw(
        fixture.manager_pid().context("no cache manager")? as i32,
    ))
}

/// The number that the cache manager's descriptor of the device has there.
fn device_number(fixture: &Fixture) -> Result<i32> {
    let pid = manager(fixture)?;
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
        let entry = entry?;
        let target = fs::read_link(entry.path())?;
        if target.starts_with("/dev") && target.to_string_lossy().contains("cfs") {
            return Ok(entry.file_name().to_string_lossy().parse()?);
        }
    }
    bail!("it has no device open")
}

/// The cache manager's own descriptor of the device, as a copy.
fn steal_device(fixture: &Fixture) -> Result<OwnedFd> {
    use std::os::fd::AsRawFd;
    let (pid, number) = (manager(fixture)?, device_number(fixture)?);
    // SAFETY: numbers only.
    let pidfd = sys::fd_from(unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) })?;
    // SAFETY: numbers only.
    Ok(sys::fd_from(unsafe {
        libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), number, 0)
    })?)
}

/// Callers that are killed while answers are on their way, many times.
fn killed_waiters(fixture: &mut Fixture, op: &'static str, delay_ms: u64) -> Result<()> {
    fs::write(fixture.root.join("f"), b"contents")?;
    fixture.rule(Rule::on(op).with("delay_ms", delay_ms))?;
    let mut random = rand::rngs::SmallRng::seed_from_u64(delay_ms);
    let end = Instant::now() + Duration::from_secs(3);
    let mut rounds = 0;
    // On a slow machine it takes longer, but is no less.
    while rounds < 8 || Instant::now() < end {
        let kids: Result<Vec<_>> = (0..4)
            .map(|n| {
                let path = fixture.mnt.join(format!(
                    "f{}",
                    if n == 0 { String::new() } else { n.to_string() }
                ));
                child(move |_| {
                    loop {
                        let _ = fs::metadata(&path);
                        let _ = fs::File::open(&path);
                        let _ = fs::write(&path, b"x");
                    }
                })
            })
            .collect();
        for kid in kids? {
            std::thread::sleep(Duration::from_micros(random.random_range(0..3000)));
            let signal = if random.random() {
                Signal::SIGKILL
            } else {
                Signal::SIGINT
            };
            kid.kill(signal)?;
            kid.die_of(signal)?;
        }
        rounds += 1;
    }
    fixture.clear_rules()?;
    // All is closed that was opened.
    wait_for("closes", patience(10), || {
        let stat = fixture.stat()?;
        Ok(stat["open"]
            .as_array()
            .is_some_and(Vec::is_empty)
            .then_some(()))
    })?;
    fs::write(fixture.mnt.join("f"), b"after")?;
    ensure_eq!(fs::read(fixture.root.join("f"))?, b"after");
    Ok(())
}

/// The cases.
pub fn cases() -> Vec<Case> {
    vec![
        case(
            "manager_dies_asked",
            "the cache manager dies: who waits for an answer gets an error",
            |fixture| {
                let rule = fixture.rule(Rule::on("LOOKUP").with("hold", true))?;
                let kids = askers(fixture, 8)?;
                fixture.wait_rule(rule, 1)?;
                fixture.kill_manager()?;
                kids.into_iter().try_for_each(Child::succeed)
            },
        ),
        case(
            "manager_dies_unasked",
            "the same for requests that it has not even read",
            |fixture| {
                kill(manager(fixture)?, Signal::SIGSTOP)?;
                let kids = askers(fixture, 8)?;
                std::thread::sleep(Duration::from_millis(100));
                fixture.kill_manager()?;
                kids.into_iter().try_for_each(Child::succeed)
            },
        ),
        case(
            "manager_dies_by_request",
            "it dies of one request while others wait",
            |fixture| {
                fixture.rule(Rule::on("LOOKUP").name("f5").with("die", true))?;
                fixture.rule(Rule::on("LOOKUP").with("hold", true))?;
                let kids = askers(fixture, 8)?;
                kids.into_iter().try_for_each(Child::succeed)?;
                fixture.kill_manager()
            },
        ),
        case(
            "container_is_device",
            "it answers an open with its own device, and dies: the device is free",
            |fixture| {
                fs::write(fixture.root.join("f"), b"")?;
                let number = device_number(fixture)?;
                fixture.rule(Rule::on("OPEN_BY_FD").with("fd", number))?;
                // Were there a close, nobody would answer it.
                fixture.rule(Rule::on("CLOSE").with("never", true))?;
                let path = fixture.mnt.join("f");
                let kid = child(|_| {
                    ensure_eq!(sys::open(&path, OFlag::O_RDWR).err(), Some(Errno::EINVAL));
                    Ok(())
                })?;
                let asked = kid.succeed_within(5);
                fixture.kill_manager()?;
                wait_for("the device", patience(5), || {
                    Ok(device::open(0).ok().map(drop))
                })?;
                asked
            },
        )
        .tag("odd_container"),
        case(
            "dead_mount",
            "a mount whose cache manager is gone says so, and can be left",
            |fixture| {
                fs::write(fixture.root.join("f"), b"")?;
                fixture.kill_manager()?;
                let began = Instant::now();
                ensure!(
                    fs::metadata(fixture.mnt.join("f")).is_err(),
                    "it got an answer"
                );
                ensure!(
                    fs::write(fixture.mnt.join("g"), b"").is_err(),
                    "it was written"
                );
                ensure!(fs::read_dir(&fixture.mnt).is_err(), "it was listed");
                ensure!(
                    began.elapsed() < patience(10),
                    "it took {:?}",
                    began.elapsed()
                );
                // statfs makes numbers up.
                nix::sys::statfs::statfs(&fixture.mnt)?;
                Ok(())
            },
        ),
        case(
            "dead_mount_open_file",
            "an open file outlives the cache manager",
            |fixture| {
                fs::write(fixture.root.join("f"), vec![b'o'; PAGE])?;
                let fd = sys::open(&fixture.mnt.join("f"), OFlag::O_RDWR)?;
                let map = Map::shared(&fd, PAGE)?;
                map.store(0, b'm');
                fixture.kill_manager()?;
                map.store(1, b'm');
                ensure_eq!(map.load(2), b'o');
                let _ = nix::sys::uio::pwrite(&fd, b"w", 3);
                let _ = nix::unistd::fsync(&fd);
                let _ = nix::unistd::ftruncate(&fd, 10);
                sys::close(fd)?;
                drop(map);
                ensure_eq!(&fs::read(fixture.root.join("f"))?[..2], b"mm");
                Ok(())
            },
        ),
        case(
            "dead_mount_modified",
            "with the cache manager gone, what nobody would store is refused",
            |fixture| {
                fs::write(fixture.root.join("f"), vec![b'o'; PAGE])?;
                let fd = sys::open(&fixture.mnt.join("f"), OFlag::O_RDWR)?;
                // By now it is known that nobody wants to hear of accesses.
                sys::write(&fd, b"w")?;
                fixture.kill_manager()?;
                ensure_eq!(nix::unistd::write(&fd, b"x"), Err(Errno::ENXIO), "write(2)");
                // SAFETY: numbers alone.
                let punched = check(i64::from(unsafe {
                    use std::os::fd::AsRawFd;
                    libc::fallocate(fd.as_raw_fd(), libc::FALLOC_FL_ZERO_RANGE, 0, 10)
                }));
                ensure_eq!(punched, Err(Errno::ENXIO), "fallocate(2)");
                ensure_eq!(Map::shared(&fd, PAGE).err(), Some(Errno::ENXIO), "mmap(2)");
                let mut bytes = [0; 2];
                ensure_eq!(nix::sys::uio::pread(&fd, &mut bytes, 0)?, 2);
                ensure_eq!(bytes, *b"wo");
                sys::close(fd)?;
                Ok(())
            },
        )
        .tag("restart"),
        case(
            "restart_mapped",
            "who has a file open after a restart hears of stores through a mapping from before",
            |fixture| {
                let file = fixture.root.join("f");
                fs::write(&file, vec![b'o'; PAGE])?;
                let fd = sys::open(&fixture.mnt.join("f"), OFlag::O_RDWR)?;
                let map = Map::shared(&fd, PAGE)?;
                map.store(0, b'm');
                sys::close(fd)?;
                fixture.kill_manager()?;
                let new = Fixture::start(&spec())?;
                for name in ["f", "g"] {
                    fs::write(new.root.join(name), vec![b'o'; PAGE])?;
                }
                // The container is that of the old one.
                new.rule(
                    Rule::on("OPEN_BY_FD")
                        .fid(&new.fid("f")?)
                        .with("container", file.to_string_lossy().into_owned()),
                )?;
                let mut watch = new.watch()?;
                let mut close = |name: &str, act: &dyn Fn()| -> Result<i64> {
                    let fd = sys::open(&new.mnt.join(name), OFlag::O_RDWR)?;
                    act();
                    let before = watch.requests("CLOSE", "")?.len();
                    sys::close(fd)?;
                    let closes = watch.requests("CLOSE", "")?;
                    ensure_eq!(closes.len(), before + 1, "closes");
                    closes[before].number("flags").context("flags")
                };
                ensure_eq!(
                    close("f", &|| map.store(1, b's'))?,
                    0x003,
                    "the same container"
                );
                ensure_eq!(close("g", &|| ())?, 0x403, "another one");
                drop(map);
                ensure_eq!(&fs::read(&file)?[..2], b"ms");
                fixture.unmount()?;
                new.stop()?;
                fixture.start_manager()
            },
        )
        .tag("restart"),
        case(
            "restart",
            "after a restart the old mount is dead, the new one alive",
            |fixture| {
                fs::write(fixture.root.join("f"), b"one")?;
                fs::write(fixture.root.join("g"), b"two")?;
                ensure_eq!(fs::read(fixture.mnt.join("f"))?, b"one");
                fixture.kill_manager()?;
                let new = Fixture::start(&spec())?;
                fs::write(new.root.join("h"), b"three")?;
                ensure_eq!(fs::read(new.mnt.join("h"))?, b"three");
                // The old mount's questions are not for the new cache manager,
                // which knows other objects by the same names.
                ensure!(
                    fs::metadata(fixture.mnt.join("g")).is_err(),
                    "the old mount got an answer"
                );
                ensure!(
                    fs::read(fixture.mnt.join("f")).is_err(),
                    "the old mount's file was opened"
                );
                fixture.unmount().context("the old mount")?;
                fs::write(new.mnt.join("i"), b"four")?;
                ensure_eq!(fs::read(new.root.join("i"))?, b"four");
                new.stop()?;
                // Mounted again, so that there is something to leave.
                fixture.start_manager()
            },
        )
        .tag("restart"),
        case(
            "restart_open_file",
            "a file that was open before the restart is closed to nobody",
            |fixture| {
                fs::write(fixture.root.join("f"), b"one")?;
                let fd = sys::open(&fixture.mnt.join("f"), OFlag::O_RDWR)?;
                sys::write(&fd, b"two")?;
                fixture.kill_manager()?;
                let new = Fixture::start(&spec())?;
                let mut watch = new.watch()?;
                sys::close(fd)?;
                fs::write(new.mnt.join("h"), b"")?;
                let closes = watch.requests("CLOSE", "")?;
                ensure_eq!(closes.len(), 1, "closes at the new cache manager");
                fixture.unmount()?;
                new.stop()?;
                fixture.start_manager()
            },
        )
        .tag("restart"),
        case(
            "killed_waiter",
            "a caller that is killed while it waits is gone at once",
            |fixture| {
                fs::write(fixture.root.join("f"), b"")?;
                for late in [false, true] {
                    let rule = Rule::on("LOOKUP")
                        .name("f")
                        .once()
                        .with("hold", true)
                        .with("late", late);
                    let rule = fixture.rule(rule)?;
                    let kid = child(|_| {
                        fs::metadata(fixture.mnt.join("f"))?;
                        bail!("it got an answer")
                    })?;
                    fixture.wait_rule(rule, 1)?;
                    std::thread::sleep(Duration::from_millis(20));
                    let mut watch = fixture.watch()?;
                    let began = Instant::now();
                    kid.kill(Signal::SIGKILL)?;
                    kid.die_of(Signal::SIGKILL)?;
                    ensure!(
                        began.elapsed() < patience(2),
                        "it took {:?}",
                        began.elapsed()
                    );
                    // And the cache manager is told.
                    watch.wait("CODA_SIGNAL", patience(6), |events| {
                        events.iter().any(|e| e.is_request("SIGNAL")).then_some(())
                    })?;
                    fixture.release(rule)?;
                }
                fs::metadata(fixture.mnt.join("f"))?;
                Ok(())
            },
        ),
        case(
            "sigint_waiter",
            "SIGINT ends a wait with EINTR",
            |fixture| {
                let rule = fixture.rule(Rule::on("LOOKUP").name("f").once().with("hold", true))?;
                let mut kid = child(|teller| {
                    // SAFETY: the handler does nothing.
                    unsafe {
                        extern "C" fn ignore(_: libc::c_int) {}
                        libc::signal(libc::SIGINT, ignore as *const () as libc::sighandler_t);
                    }
                    teller.ready()?;
                    let error = fs::metadata(fixture.mnt.join("f"))
                        .err()
                        .and_then(|e| e.raw_os_error());
                    ensure_eq!(error, Some(libc::EINTR));
                    Ok(())
                })?;
                kid.wait_ready()?;
                fixture.wait_rule(rule, 1)?;
                kid.kill(Signal::SIGINT)?;
                kid.succeed()?;
                fixture.release(rule)
            },
        ),
        case(
            "timeout",
            "other signals end a wait only after the timeout",
            |fixture| {
                let sysctl = Path::new("/proc/sys/coda/timeout");
                let old = fs::read_to_string(sysctl).context("no sysctl coda.timeout")?;
                fs::write(sysctl, "1")?;
                let rule = fixture.rule(Rule::on("LOOKUP").name("f").once().with("hold", true))?;
                let kid = child(|_| {
                    fs::metadata(fixture.mnt.join("f"))?;
                    bail!("it got an answer")
                })?;
                fixture.wait_rule(rule, 1)?;
                let began = Instant::now();
                kid.kill(Signal::SIGTERM)?;
                let ended = kid.end();
                fs::write(sysctl, old.trim())?;
                ensure!(
                    matches!(ended?, WaitStatus::Signaled(_, Signal::SIGTERM, _)),
                    "not killed"
                );
                ensure!(
                    began.elapsed() > Duration::from_millis(600),
                    "it was let go after {:?}",
                    began.elapsed()
                );
                fixture.release(rule)
            },
        )
        .tag("sysctl"),
        case("hard", "with coda.hard, no signal ends a wait", |fixture| {
            let sysctl = Path::new("/proc/sys/coda/hard");
            fs::write(sysctl, "1").context("no sysctl coda.hard")?;
            let rule = Rule::on("LOOKUP").name("f").once().with("hold", true);
            let rule = fixture.rule(rule)?;
            let kid = child(|_| {
                let _ = fs::metadata(fixture.mnt.join("f"));
                sleep_for_ever()
            })?;
            let waited = fixture.wait_rule(rule, 1).and_then(|()| {
                kid.kill(Signal::SIGINT)?;
                std::thread::sleep(Duration::from_millis(200));
                Ok(waitpid(kid.pid, Some(WaitPidFlag::WNOHANG))?)
            });
            fs::write(sysctl, "0")?;
            fixture.release(rule)?;
            ensure_eq!(waited?, WaitStatus::StillAlive);
            kid.die_of(Signal::SIGINT)
        })
        .tag("sysctl"),
        case(
            "killed_waiters_lookup",
            "fault 3: callers killed while answers arrive: LOOKUP",
            |fixture| killed_waiters(fixture, "LOOKUP", 1),
        )
        .tag("race"),
        case(
            "killed_waiters_open",
            "faults 2, 3, 4: callers killed while answers arrive: OPEN_BY_FD",
            |fixture| killed_waiters(fixture, "OPEN_BY_FD", 2),
        )
        .tag("race"),
        case(
            "killed_waiters_close",
            "faults 2, 3: callers killed while answers arrive: CLOSE",
            |fixture| killed_waiters(fixture, "CLOSE", 1),
        )
        .tag("race"),
        case(
            "killed_in_create",
            "callers killed while answers arrive: CREATE",
            |fixture| killed_waiters(fixture, "CREATE", 2),
        )
        .tag("race"),
        case("unmount_busy", "umount(2) of a mount in use", |fixture| {
            fs::write(fixture.root.join("f"), b"")?;
            let fd = sys::open(&fixture.mnt.join("f"), OFlag::O_RDONLY)?;
            ensure_eq!(umount2(&fixture.mnt, MntFlags::empty()), Err(Errno::EBUSY));
            sys::close(fd)?;
            Ok(())
        }),
        case(
            "unmount_lazily",
            "a mount that goes away while somebody waits and has a file open",
            |fixture| {
                fs::write(fixture.root.join("f"), b"open")?;
                let fd = sys::open(&fixture.mnt.join("f"), OFlag::O_RDWR)?;
                let rule = fixture.rule(Rule::on("LOOKUP").name("g").with("hold", true))?;
                let kid = child(|_| {
                    let _ = fs::metadata(fixture.mnt.join("g"));
                    Ok(())
                })?;
                fixture.wait_rule(rule, 1)?;
                umount2(&fixture.mnt, MntFlags::MNT_DETACH)?;
                fixture.release(rule)?;
                kid.succeed()?;
                let mut watch = fixture.watch()?;
                sys::write(&fd, b"more")?;
                sys::close(fd)?;
                watch.wait("the close", patience(6), |events| {
                    events.iter().any(|e| e.is_request("CLOSE")).then_some(())
                })?;
                // The device can be mounted again once all of that is gone.
                fixture.kill_manager()?;
                wait_for("the device", patience(10), || {
                    Ok(fixture.start_manager().ok())
                })
            },
        ),
        case(
            "unmount_mapped",
            "a mapping keeps its file system",
            |fixture| {
                fs::write(fixture.root.join("f"), vec![b'o'; PAGE])?;
                let fd = sys::open(&fixture.mnt.join("f"), OFlag::O_RDWR)?;
                let map = Map::shared(&fd, PAGE)?;
                sys::close(fd)?;
                ensure_eq!(umount2(&fixture.mnt, MntFlags::empty()), Err(Errno::EBUSY));
                umount2(&fixture.mnt, MntFlags::MNT_DETACH)?;
                map.store(0, b'm');
                let mut watch = fixture.watch()?;
                drop(map);
                watch.wait("the close", patience(6), |events| {
                    events.iter().any(|e| e.is_request("CLOSE")).then_some(())
                })?;
                fixture.kill_manager()?;
                wait_for("the device", patience(10), || {
                    Ok(fixture.start_manager().ok())
                })
            },
        ),
        case("mount_twice", "one device, one mount", |fixture| {
            use std::os::fd::AsRawFd;
            let device = steal_device(fixture)?;
            let data = coda_proto::MountData {
                version: coda_proto::MOUNT_VERSION,
                fd: device.as_raw_fd(),
            };
            ensure_eq!(
                sys::mount_coda(Path::new("/mnt"), Some(&data)),
                Err(Errno::EBUSY)
            );
            fs::write(fixture.mnt.join("f"), b"alive")?;
            ensure_eq!(fs::read(fixture.root.join("f"))?, b"alive");
            Ok(())
        }),
        Case::new(
            "mount_refused",
            "a mount that the cache manager refuses, and then does not",
            |_| {
                use std::os::fd::AsRawFd;
                let fixture = Fixture::start(&Spec { api: "", ..spec() })?;
                let device = steal_device(&fixture)?;
                let data = coda_proto::MountData {
                    version: coda_proto::MOUNT_VERSION,
                    fd: device.as_raw_fd(),
                };
                for op in ["ROOT", "GETATTR"] {
                    fixture.rule(Rule::on(op).once().with("result", libc::EACCES))?;
                    let refused = sys::mount_coda(&fixture.mnt, Some(&data));
                    ensure_eq!(refused, Err(Errno::EACCES), "{op}");
                }
                sys::mount_coda(&fixture.mnt, Some(&data))?;
                umount2(&fixture.mnt, MntFlags::empty())?;
                drop(device);
                fixture.stop()
            },
        )
        .seconds(20),
        Case::new(
            "mount_killed",
            "a mount that is killed while the cache manager thinks",
            |_| {
                use std::os::fd::AsRawFd;
                let fixture = Fixture::start(&Spec { api: "", ..spec() })?;
                let device = steal_device(&fixture)?;
                let data = coda_proto::MountData {
                    version: coda_proto::MOUNT_VERSION,
                    fd: device.as_raw_fd(),
                };
                for op in ["ROOT", "GETATTR"] {
                    let rule = fixture.rule(Rule::on(op).once().with("hold", true))?;
                    let kid = child(|_| {
                        sys::mount_coda(&fixture.mnt, Some(&data))?;
                        Ok(())
                    })?;
                    fixture.wait_rule(rule, 1)?;
                    kid.kill(Signal::SIGKILL)?;
                    kid.die_of(Signal::SIGKILL)?;
                    fixture.release(rule)?;
                }
                sys::mount_coda(&fixture.mnt, Some(&data))?;
                fs::write(fixture.mnt.join("f"), b"")?;
                umount2(&fixture.mnt, MntFlags::empty())?;
                drop(device);
                fixture.stop()
            },
        )
        .seconds(20),
        case("remount", "mount -o remount", |fixture| {
            let remount = |option: &str| {
                run_to_end(Command::new("mount").args(["-o", option]).arg(&fixture.mnt))
            };
            fs::write(fixture.mnt.join("f"), b"1")?;
            remount("remount,ro")?;
            let refused = fs::write(fixture.mnt.join("f"), b"2");
            ensure_eq!(
                refused.err().and_then(|e| e.raw_os_error()),
                Some(libc::EROFS)
            );
            remount("remount,rw")?;
            fs::write(fixture.mnt.join("f"), b"3")?;
            Ok(())
        }),
        case(
            "bind",
            "a bind mount of a directory, and its container path",
            |fixture| {
                fs::create_dir_all(fixture.root.join("d/e"))?;
                fs::create_dir(fixture.root.join("m"))?;
                let target = fixture.mnt.join("m");
                nix::mount::mount(
                    Some(&fixture.mnt.join("d")),
                    &target,
                    None::<&str>,
                    MsFlags::MS_BIND,
                    None::<&str>,
                )?;
                let there = target.join("e").is_dir();
                umount2(&target, MntFlags::empty())?;
                ensure!(there, "nothing is there");
                Ok(())
            },
        ),
        Case::new(
            "five_at_once",
            "five cache managers and mounts at once",
            |_| {
                let all: Result<Vec<_>> = (0..5)
                    .map(|device| {
                        let api = if device % 2 == 0 { "data" } else { "fd" };
                        Fixture::start(&Spec {
                            device,
                            api,
                            ..spec()
                        })
                    })
                    .collect();
                let all = all?;
                for (n, fixture) in all.iter().enumerate() {
                    fs::write(fixture.mnt.join("f"), format!("number {n}"))?;
                }
                for (n, fixture) in all.iter().enumerate() {
                    ensure_eq!(
                        fs::read(fixture.mnt.join("f"))?,
                        format!("number {n}").into_bytes()
                    );
                    ensure_eq!(
                        fs::read(fixture.root.join("f"))?,
                        format!("number {n}").into_bytes()
                    );
                }
                // Across two of them nothing can be linked or renamed.
                let across = fs::hard_link(all[0].mnt.join("f"), all[1].mnt.join("g"));
                ensure_eq!(
                    across.err().and_then(|e| e.raw_os_error()),
                    Some(libc::EXDEV)
                );
                all.into_iter().try_for_each(Fixture::stop)
            },
        )
        .seconds(30),
        case(
            "many_waiters",
            "a hundred requests wait at once, and are answered in any order",
            |fixture| {
                for n in 0..100 {
                    fs::write(fixture.root.join(format!("f{n}")), b"")?;
                }
                let rule = fixture.rule(Rule::on("LOOKUP").with("hold", true))?;
                // The directory is locked shared for lookups of different names.
                let kids: Result<Vec<_>> = (0..100)
                    .map(|n| {
                        let path = fixture.mnt.join(format!("f{n}"));
                        child(move |_| {
                            fs::metadata(&path)?;
                            Ok(())
                        })
                    })
                    .collect();
                fixture.wait_rule(rule, 100)?;
                fixture.release(rule)?;
                kids?.into_iter().try_for_each(Child::succeed)
            },
        )
        .seconds(40),
        case(
            "slow_reader",
            "a cache manager that stops for a while",
            |fixture| {
                let pid = manager(fixture)?;
                kill(pid, Signal::SIGSTOP)?;
                let kids: Result<Vec<_>> = (0..4)
                    .map(|n| {
                        let path = fixture.mnt.join(format!("f{n}"));
                        child(move |_| Ok(fs::write(&path, b"late")?))
                    })
                    .collect();
                std::thread::sleep(Duration::from_millis(200));
                kill(pid, Signal::SIGCONT)?;
                kids?.into_iter().try_for_each(Child::succeed)
            },
        ),
        case(
            "blocked_signals",
            "a signal that is caught waits, and the caller's own signal mask is as before",
            |fixture| {
                static CAUGHT: AtomicBool = AtomicBool::new(false);
                extern "C" fn catch(_: libc::c_int) {
                    CAUGHT.store(true, Relaxed);
                }
                fs::write(fixture.root.join("f"), b"")?;
                let rule = Rule::on("LOOKUP").name("f").once().with("hold", true);
                let rule = fixture.rule(rule)?;
                let mut kid = child(|teller| {
                    // SAFETY: the handler does nothing that it must not.
                    unsafe {
                        libc::signal(libc::SIGUSR1, catch as *const () as libc::sighandler_t)
                    };
                    let before = SigSet::thread_get_mask()?;
                    teller.ready()?;
                    fs::metadata(fixture.mnt.join("f"))?;
                    ensure!(CAUGHT.load(Relaxed), "it did not come");
                    ensure!(SigSet::thread_get_mask()? == before, "the mask changed");
                    Ok(())
                })?;
                kid.wait_ready()?;
                fixture.wait_rule(rule, 1)?;
                kid.kill(Signal::SIGUSR1)?;
                // Who took it now would get no answer.
                std::thread::sleep(Duration::from_millis(300));
                fixture.release(rule)?;
                kid.succeed()
            },
        ),
        case("forced_unmount", "umount -f", |fixture| {
            run_to_end(Command::new("umount").arg("-f").arg(&fixture.mnt))?;
            fixture.kill_manager()?;
            fixture.start_manager()
        }),
    ]
}
