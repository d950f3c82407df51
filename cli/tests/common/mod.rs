// SPDX-License-Identifier: GPL-2.0

//! Trees as they would be recorded on a machine. Formats are those that were seen on a Debian 13.

#![allow(dead_code, reason = "not every test needs all of it")]

use assert_cmd::Command;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use tempfile::TempDir;

pub const RELEASE: &str = "7.3.4+deb13-amd64";

/// A tree to be read in place of this machine.
pub struct Tree {
    dir: TempDir,
}

impl Tree {
    pub fn new() -> Self {
        let tree = Self {
            dir: TempDir::new().unwrap(),
        };
        // Programs of this machine would tell of this machine.
        fs::create_dir_all(tree.path().join("bin")).unwrap();
        tree
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn file(self, path: &str, text: impl AsRef<[u8]>) -> Self {
        let path = self.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self
    }

    pub fn link(self, path: &str, to: &str) -> Self {
        let path = self.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        symlink(to, path).unwrap();
        self
    }

    pub fn without(self, path: &str) -> Self {
        let path = self.path().join(path);
        if path.is_dir() {
            fs::remove_dir_all(path).unwrap();
        } else {
            fs::remove_file(path).unwrap();
        }
        self
    }

    /// Only root may look at it.
    pub fn denied(self, path: &str) -> Self {
        let path = self.path().join(path);
        fs::set_permissions(path, fs::Permissions::from_mode(0o000)).unwrap();
        self
    }

    /// A program that says something.
    pub fn program(self, name: &str, script: &str) -> Self {
        let tree = self.file(&format!("bin/{name}"), format!("#!/bin/sh\n{script}\n"));
        let path = tree.path().join("bin").join(name);
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        tree
    }

    /// The tool, to look at this tree.
    pub fn run(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_coda-rs"));
        command
            .env_clear()
            .env("PATH", self.path().join("bin"))
            .env("HOME", self.path())
            .arg("--root")
            .arg(self.path())
            .args(args);
        command
    }

    /// What it prints, where it has to succeed.
    pub fn says(&self, args: &[&str]) -> String {
        let output = self.run(args).output().unwrap();
        assert!(output.status.success(), "{args:?}: {output:?}");
        assert_eq!(String::from_utf8_lossy(&output.stderr), "");
        self.plain(output.stdout)
    }

    /// Without the place where the tree happens to be.
    pub fn plain(&self, text: Vec<u8>) -> String {
        String::from_utf8(text)
            .unwrap()
            .replace(self.path().to_str().unwrap(), "")
    }
}

const MOUNTINFO: &str = "\
24 31 0:22 / /proc rw,relatime shared:5 - proc proc rw
25 31 0:23 / /sys rw,relatime shared:6 - sysfs sysfs rw
26 25 0:7 / /sys/kernel/debug rw,relatime shared:7 - debugfs debugfs rw
31 1 0:25 / / rw,relatime shared:1 - overlay overlay rw
";

/// A Debian 13 with its backports kernel, where nothing of Coda is.
pub fn machine() -> Tree {
    Tree::new()
        .file("proc/sys/kernel/osrelease", format!("{RELEASE}\n"))
        .file("proc/sys/kernel/arch", "x86_64\n")
        .file("proc/self/mountinfo", MOUNTINFO)
        .file(
            "proc/modules",
            "overlay 225280 1 - Live 0x0000000000000000\n",
        )
        .file("proc/filesystems", "nodev\tsysfs\nnodev\toverlay\n\text4\n")
        .file("proc/cmdline", "BOOT_IMAGE=/vmlinuz quiet\n")
        .file("proc/1/comm", "systemd\n")
        .link("proc/1/fd/0", "/dev/null")
        .file("proc/2/comm", "kthreadd\n")
        .file(
            "proc/2/status",
            "Name:\tkthreadd\nTgid:\t2\nPid:\t2\nKthread:\t1\n",
        )
        .file("sys/kernel/debug/clk/clk_summary", "")
        .file(
            "sys/kernel/security/lockdown",
            "[none] integrity confidentiality\n",
        )
        .file("sys/module/module/parameters/sig_enforce", "N\n")
        .file("sys/module/apparmor/parameters/enabled", "Y\n")
        .file(
            "sys/kernel/security/apparmor/profiles",
            "lsb_release (enforce)\n",
        )
        .file("dev/kmsg", "6,1,100,-;Linux version 7.3.4\n SUBSYSTEM=x\n")
        .file(
            format!("boot/config-{RELEASE}").as_str(),
            "CONFIG_MODULES=y\nCONFIG_RUST=y\nCONFIG_CODA_FS=m\nCONFIG_CC_IS_GCC=y\n\
             CONFIG_GCC_VERSION=140200\nCONFIG_RUSTC_VERSION=108501\n",
        )
        .file(&lib("modules.dep"), "kernel/fs/coda/coda.ko.xz:\n")
        .file(&lib("kernel/fs/coda/coda.ko.xz"), "")
}

/// A path below this kernel's modules.
pub fn lib(path: &str) -> String {
    format!("lib/modules/{RELEASE}/{path}")
}

/// modinfo, for the module of the very kernel.
pub fn modinfo(tree: Tree, vermagic: &str, signer: &str) -> Tree {
    let script = format!(
        "case $2 in vermagic) echo '{vermagic} SMP preempt mod_unload modversions' ;; \
         version) echo 0.1.0 ;; signer) echo '{signer}' ;; *) exit 1 ;; esac"
    );
    tree.program("modinfo", &script)
}

/// The module's file is there, and the C module is kept out.
pub fn installed(tree: Tree) -> Tree {
    modinfo(tree, RELEASE, "")
        .file(&lib("updates/coda_rs.ko"), "")
        .file(
            &lib("modules.dep"),
            "updates/coda_rs.ko:\nkernel/fs/coda/coda.ko.xz:\n",
        )
        .file("etc/modprobe.d/coda_rs.conf", "# ours\nblacklist coda\n")
}

/// It is loaded, and nobody talks to it.
pub fn loaded(tree: Tree) -> Tree {
    let mut tree = tree
        .file(
            "proc/modules",
            "coda_rs 266240 0 - Live 0x0000000000000000 (OE)\n",
        )
        .file("proc/filesystems", "nodev\tsysfs\nnodev\tcoda\n")
        .file("sys/module/coda_rs/version", "0.1.0\n")
        .file("sys/module/coda_rs/initstate", "live\n")
        .file("sys/kernel/debug/coda_rs/upcalls", HEADING)
        .file(
            "sys/kernel/debug/coda_rs/files",
            "opens 0\ncloses_read 0\ncloses_clean 0\ncloses_modified 0\n",
        )
        .file(
            "sys/kernel/debug/coda_rs/devices",
            "# device pid mounted pending outstanding\n",
        )
        .file(
            "sys/kernel/debug/coda_rs/requests",
            "# device unique opcode state age_ms pid fid\n",
        );
    for n in 0..5 {
        tree = tree.file(&format!("dev/cfs{n}"), format!("char 67 {n}\n"));
    }
    tree
}

const HEADING: &str = "# opcode calls errors given_up total_ns lt_1us lt_2us lt_4us lt_8us more\n";

/// Venus runs, `/coda` is mounted, and somebody waits.
pub fn running() -> Tree {
    loaded(installed(machine()))
        .file(
            "proc/modules",
            "coda_rs 266240 2 - Live 0x0000000000000000 (OE)\n",
        )
        .file(
            "proc/self/mountinfo",
            format!("{MOUNTINFO}61 31 0:45 / /srv/co\\040da rw,relatime shared:9 - coda coda rw\n"),
        )
        .file("proc/1234/comm", "venus\n")
        .file("proc/1234/attr/current", "unconfined\n")
        .link("proc/1234/fd/0", "/dev/null")
        .link("proc/1234/fd/7", "/dev/cfs0")
        .link("proc/1234/fd/8", "/dev/cfs0")
        .file("proc/4321/comm", "make\n")
        .file(
            "sys/kernel/debug/coda_rs/devices",
            "# device pid mounted pending outstanding\ncfs0 1234 1 1 1\n",
        )
        .file(
            "sys/kernel/debug/coda_rs/requests",
            "# device unique opcode state age_ms pid fid\n\
             cfs0 78 LOOKUP pending 12 4322 00000001.7f000001.00000002.00000003\n\
             cfs0 77 OPEN_BY_FD outstanding 1234 4321 00000001.7f000001.00000004.00000005\n",
        )
        .file(
            "sys/kernel/debug/coda_rs/upcalls",
            format!(
                "{HEADING}LOOKUP 500 300 0 900000 100 0 400 0 0\nCLOSE 7 0 1 70000 0 0 0 6 1\n"
            ),
        )
        .file(
            "sys/kernel/debug/coda_rs/files",
            "opens 12\ncloses_read 5\ncloses_clean 3\ncloses_modified 4\nmodified_write 2\n\
             modified_truncate 1\nmodified_store 1\nmodified_other 0\nmappings 3\n",
        )
}

/// The same, as an ordinary user sees it.
pub fn running_unprivileged() -> Tree {
    running()
        .denied("sys/kernel/debug")
        .denied("proc/1234/fd")
        .denied("proc/1/fd")
        .denied("dev/kmsg")
        .denied("sys/kernel/security/apparmor/profiles")
        .denied("proc/1234/attr/current")
}

/// The same, as root of a container sees it: a /proc of its own, without debugfs.
pub fn running_in_a_container() -> Tree {
    running()
        .without("sys/kernel/debug")
        .without("proc/1234")
        .without("proc/4321")
        .file("proc/1/comm", "sh\n")
        .file("proc/2/comm", "kthreadd\n")
        .file(
            "proc/2/status",
            "Name:\tkthreadd\nTgid:\t2\nPid:\t2\nKthread:\t0\n",
        )
}

/// The same, as a user sees it from whom other processes are hidden.
pub fn running_hidden() -> Tree {
    running_unprivileged()
        .without("proc/1")
        .without("proc/2")
        .without("proc/1234")
        .without("proc/4321")
        .file(
            "proc/self/mountinfo",
            format!(
                "{}61 31 0:45 / /coda rw,relatime shared:9 - coda coda rw\n",
                MOUNTINFO.replace("proc rw\n", "proc rw,hidepid=invisible\n")
            ),
        )
}

/// The same, as root without CAP_SYS_PTRACE sees it where there is no debugfs: what is open can be
/// listed, and not looked at.
pub fn running_untraceable() -> Tree {
    let mut tree = running().without("sys/kernel/debug");
    for link in [
        "proc/1/fd/0",
        "proc/1234/fd/0",
        "proc/1234/fd/7",
        "proc/1234/fd/8",
    ] {
        tree = tree.without(link).file(link, "").denied(link);
    }
    tree
}
