// SPDX-License-Identifier: GPL-2.0

//! The module as such: what it registers, what it says about itself, and that
//! it goes and comes back.

use clap::Parser;
use coda_proto::{MAX_DEVICES, PSDEV_MAJOR};
use coda_selftests::containers;
use coda_selftests::map::{Map, PAGE};
use coda_selftests::sys::{self, child};
use ktest::{
    Case, Context, Fixture, Group, Result, Spec, Suite, ensure, ensure_eq, module_is_ours,
    patience, run_to_end, skip, wait_for,
};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::Signal;
use nix::sys::stat::{major, minor, stat};
use std::collections::BTreeSet;
use std::fs;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Duration;

/// The module as such.
#[derive(Parser)]
struct Args {
    /// Run only cases whose name has one of these in it.
    only: Vec<String>,
}

fn name() -> &'static str {
    if module_is_ours() { "coda_rs" } else { "coda" }
}

/// What to give to modinfo and insmod, if the guest has told us.
fn module() -> Option<String> {
    std::env::var("CODA_MODULE").ok().filter(|m| !m.is_empty())
}

/// All values of a field.
fn field(module: &str, field: &str) -> Result<BTreeSet<String>> {
    let output = Command::new("modinfo")
        .args(["-F", field, module])
        .output()?;
    ensure!(
        output.status.success(),
        "modinfo: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(str::to_owned)
        .collect())
}

/// Tries to unload it without waiting.
fn unload() -> Result<(), Errno> {
    let name = std::ffi::CString::new(name()).expect("no NUL");
    // SAFETY: a string that ends.
    let ret = unsafe { libc::syscall(libc::SYS_delete_module, name.as_ptr(), libc::O_NONBLOCK) };
    sys::check(ret).map(|_| ())
}

fn load(module: &str) -> Result<()> {
    match module {
        "coda" => run_to_end(Command::new("modprobe").arg("coda")),
        path => run_to_end(Command::new("insmod").arg(path)),
    }
}

fn spec() -> Spec {
    Spec::on(containers::base().join("tmpfs"))
}

/// Unloads it as soon as that can be done.
fn unload_soon() -> Result<()> {
    wait_for("the module to be idle", patience(10), || match unload() {
        Ok(()) => Ok(Some(())),
        Err(Errno::EAGAIN) => Ok(None),
        Err(e) => Err(e.into()),
    })
}

/// Until it is dropped, the kernel loads no module by itself: an open(2) of a node whose device is
/// not there (yet, or any more) would bring C's module.
struct NoAutoload(String);

impl NoAutoload {
    const PATH: &str = "/proc/sys/kernel/modprobe";

    fn begin() -> Result<Self> {
        let loader = fs::read_to_string(Self::PATH)?;
        fs::write(Self::PATH, "\n")?;
        Ok(NoAutoload(loader))
    }
}

impl Drop for NoAutoload {
    fn drop(&mut self) {
        let _ = fs::write(Self::PATH, &self.0);
    }
}

/// Unloaded and loaded while programs open a device, and use a mount whose cache manager dies.
fn traffic() -> Case {
    let long = std::env::var_os("CODA_LONG").is_some();
    let rounds = if long { 1000 } else { 10 };
    Case::new(
        "reload_in_traffic",
        "unloaded and loaded again, with programs in the way",
        move |_| {
            let Some(module) = module() else {
                skip!("CODA_MODULE is not set");
            };
            let _quiet = NoAutoload::begin()?;
            // They go on for all of the case, whether there is a device or none.
            let openers: Vec<_> = ["/dev/cfs1", "/dev/cfs2"]
                .into_iter()
                .map(|device| {
                    child(move |_| {
                        loop {
                            // It is closed again at once, or else it would always be in use.
                            drop(sys::open(Path::new(device), OFlag::O_RDWR));
                            std::thread::sleep(Duration::from_millis(3));
                        }
                    })
                })
                .collect::<Result<_>>()?;
            for round in 0..rounds {
                let mut fixture = Fixture::start(&spec())?;
                fs::write(fixture.root.join("f"), vec![b'o'; 3 * PAGE])?;
                let path = fixture.mnt.join("f");
                let callers: Vec<_> = (0..3)
                    .map(|_| {
                        let path = path.clone();
                        child(move |_| {
                            loop {
                                let _ = fs::metadata(&path);
                                // Not made, where nothing is mounted any more.
                                let Ok(fd) = sys::open(&path, OFlag::O_RDWR) else {
                                    continue;
                                };
                                let _ = nix::unistd::write(&fd, b"x");
                                let _ = nix::unistd::ftruncate(&fd, 3 * PAGE as i64);
                                if let Ok(map) = Map::shared(&fd, PAGE) {
                                    map.store(0, b'm');
                                }
                            }
                        })
                    })
                    .collect::<Result<_>>()?;
                for _ in 0..5 {
                    ensure_eq!(unload(), Err(Errno::EAGAIN), "in use, round {round}");
                    std::thread::sleep(Duration::from_millis(4));
                }
                fixture.kill_manager()?;
                ensure_eq!(unload(), Err(Errno::EAGAIN), "mounted, round {round}");
                umount2(&fixture.mnt, MntFlags::MNT_DETACH)?;
                for caller in callers {
                    let signal = [Signal::SIGKILL, Signal::SIGTERM][round % 2];
                    caller.kill(signal)?;
                    caller.die_of(signal)?;
                }
                unload_soon().with_context(|| format!("round {round}"))?;
                ensure!(
                    !Path::new("/dev/cfs0").exists(),
                    "its nodes are still there"
                );
                load(&module)?;
                fixture.forget()?;
            }
            for opener in openers {
                opener.kill(Signal::SIGKILL)?;
                opener.die_of(Signal::SIGKILL)?;
            }
            Ok(())
        },
    )
    .tag("traffic")
    .seconds(if long { 4000 } else { 60 })
}

/// Loads it, and does not mind being refused.
fn insmod(module: &str) -> Result<Result<(), Errno>> {
    let file = fs::File::open(module)?;
    // SAFETY: a descriptor, and a string that ends.
    let ret = unsafe { libc::syscall(libc::SYS_finit_module, file.as_raw_fd(), c"".as_ptr(), 0) };
    Ok(sys::check(ret).map(|_| ()))
}

/// Refused where the C module has all the names, and that one is none the worse for it.
fn beside_c() -> Case {
    Case::new(
        "refused_beside_c",
        "EBUSY while the C module is loaded, and nothing left behind",
        |_| {
            let Some(module) = module() else {
                skip!("CODA_MODULE is not set");
            };
            if !module_is_ours() {
                skip!("this is the C module");
            }
            let found = Command::new("modprobe")
                .args(["-n", "-q", "coda"])
                .status()?;
            if !found.success() {
                skip!("the guest has no C module for this kernel");
            }
            unload_soon()?;
            let refused = load("coda").and_then(|()| insmod(&module));
            let lost: Vec<_> = [
                "/dev/cfs0",
                "/sys/class/coda/cfs0",
                "/proc/sys/coda/timeout",
            ]
            .into_iter()
            .filter(|path| !Path::new(path).exists())
            .collect();
            let loaded = module_is_ours();
            let removed = run_to_end(Command::new("rmmod").arg("coda"));
            // The other cases want it, whatever came of this one.
            if !loaded {
                load(&module)?;
            }
            ensure_eq!(refused?, Err(Errno::EBUSY));
            ensure!(lost.is_empty(), "the C module lost {lost:?}");
            removed
        },
    )
    .seconds(30)
}

fn main() -> ExitCode {
    let cases = vec![
        Case::new("loaded", "lsmod shows it by its name", |_| {
            let modules = fs::read_to_string("/proc/modules")?;
            let line = format!("{} ", name());
            ensure!(modules.lines().any(|l| l.starts_with(&line)), "not loaded");
            Ok(())
        }),
        Case::new("filesystem", "the file system type is there", |_| {
            let all = fs::read_to_string("/proc/filesystems")?;
            ensure!(all.lines().any(|l| l == "nodev\tcoda"), "no coda in {all}");
            Ok(())
        }),
        Case::new("device_number", "character devices 67 are Coda's", |_| {
            let all = fs::read_to_string("/proc/devices")?;
            let mut lines = all.lines().take_while(|l| !l.starts_with("Block"));
            ensure!(lines.any(|l| l.trim() == "67 coda"), "no 67 coda in {all}");
            Ok(())
        }),
        Case::new("nodes", "/dev/cfs0 to cfs4", |_| {
            for n in 0..MAX_DEVICES {
                let node = stat(Path::new(&format!("/dev/cfs{n}")))?;
                ensure_eq!(major(node.st_rdev), u64::from(PSDEV_MAJOR));
                ensure_eq!(minor(node.st_rdev), u64::from(n));
                ensure_eq!(node.st_mode & 0o777, 0o600, "its mode");
                ensure!(
                    Path::new(&format!("/sys/class/coda/cfs{n}")).exists(),
                    "no class"
                );
            }
            Ok(())
        }),
        Case::new("sysctls", "/proc/sys/coda", |_| {
            for (name, value) in [("timeout", "30"), ("hard", "0"), ("fake_statfs", "0")] {
                let path = format!("/proc/sys/coda/{name}");
                let got = fs::read_to_string(&path).context(path)?;
                ensure_eq!(got.trim(), value, "{name}");
            }
            Ok(())
        })
        .tag("sysctl"),
        Case::new(
            "aliases",
            "modinfo: aliases by which the kernel asks for it",
            |_| {
                let Some(module) = module() else {
                    skip!("CODA_MODULE is not set");
                };
                let aliases = field(&module, "alias")?;
                for alias in ["fs-coda", "char-major-67-*"] {
                    ensure!(aliases.contains(alias), "no alias {alias}: {aliases:?}");
                }
                Ok(())
            },
        ),
        Case::new(
            "information",
            "modinfo: license, version, description",
            |_| {
                let Some(module) = module() else {
                    skip!("CODA_MODULE is not set");
                };
                let license = field(&module, "license")?;
                ensure!(
                    license.iter().any(|l| l == "GPL" || l == "GPL v2"),
                    "license {license:?}"
                );
                for name in ["version", "description", "vermagic"] {
                    let values = field(&module, name)?;
                    ensure!(values.iter().any(|v| !v.is_empty()), "no {name}");
                }
                let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
                let magic = field(&module, "vermagic")?;
                ensure!(
                    magic.iter().any(|m| m.starts_with(release.trim())),
                    "built for {magic:?}, not {release}"
                );
                Ok(())
            },
        ),
        Case::new("busy_device", "it stays while a device is open", |_| {
            let fd = sys::open(Path::new("/dev/cfs0"), OFlag::O_RDWR)?;
            ensure_eq!(unload(), Err(Errno::EAGAIN));
            sys::close(fd)?;
            Ok(())
        }),
        Case::new("busy_mount", "it stays while something is mounted", |_| {
            let mut fixture = Fixture::start(&spec())?;
            ensure_eq!(unload(), Err(Errno::EAGAIN));
            fixture.kill_manager()?;
            ensure_eq!(
                unload(),
                Err(Errno::EAGAIN),
                "no cache manager, but mounted"
            );
            fixture.stop()
        })
        .seconds(20),
        Case::new(
            "reload",
            "used, unloaded and loaded again, five times",
            |_| {
                let Some(module) = module() else {
                    skip!("CODA_MODULE is not set");
                };
                for _ in 0..5 {
                    let fixture = Fixture::start(&spec())?;
                    fs::create_dir(fixture.mnt.join("d"))?;
                    fs::write(fixture.mnt.join("d/f"), b"contents")?;
                    ensure_eq!(fs::read(fixture.root.join("d/f"))?, b"contents");
                    fixture.stop()?;
                    unload_soon()?;
                    ensure!(
                        !Path::new("/dev/cfs0").exists(),
                        "its nodes are still there"
                    );
                    load(&module)?;
                }
                Ok(())
            },
        )
        .seconds(60),
    ];
    let cases = cases.into_iter().chain([beside_c(), traffic()]).collect();
    let args = Args::parse();
    Suite::new("modinfo", vec![Group::bare("module", cases)])
        .only(args.only)
        .run()
}
