// SPDX-License-Identifier: GPL-2.0

//! The module as such: what it registers, what it says about itself, and that
//! it goes and comes back.

use clap::Parser;
use coda_proto::{MAX_DEVICES, PSDEV_MAJOR};
use coda_selftests::{containers, sys};
use ktest::{
    Case, Context, Fixture, Group, Result, Spec, Suite, ensure, ensure_eq, module_is_ours,
    run_to_end, skip,
};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::{major, minor, stat};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};

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
                    ktest::wait_for(
                        "the module to be idle",
                        ktest::patience(5),
                        || match unload() {
                            Ok(()) => Ok(Some(())),
                            Err(Errno::EAGAIN) => Ok(None),
                            Err(e) => Err(e.into()),
                        },
                    )?;
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
    let args = Args::parse();
    Suite::new("modinfo", vec![Group::bare("module", cases)])
        .only(args.only)
        .run()
}
