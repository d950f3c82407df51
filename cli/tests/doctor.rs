// SPDX-License-Identifier: GPL-2.0

//! `coda-rs doctor` of recorded trees: each thing that may be wrong, by itself.

mod common;

use common::{
    RELEASE, Tree, installed, lib, loaded, machine, modinfo, running, running_hidden,
    running_in_a_container, running_unprivileged, running_untraceable,
};
use expect_test::expect;
use serde_json::Value;

const EFI: &str = "sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c";

fn says(tree: &Tree) -> String {
    let output = tree.run(&["doctor"]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    tree.plain(output.stdout)
}

/// The verdict, and all that is said, of one check; also whether the exit status fits.
fn check(tree: &Tree, name: &str) -> (String, String) {
    let output = tree.run(&["doctor", "--json"]).output().unwrap();
    let all: Value = serde_json::from_slice(&output.stdout).unwrap();
    let verdicts = all["checks"].as_array().unwrap();
    let problems = verdicts
        .iter()
        .filter(|c| c["verdict"] == "problem")
        .count();
    assert_eq!(all["problems"], problems);
    assert_eq!(output.status.success(), problems == 0);
    let of: Vec<&Value> = verdicts.iter().filter(|c| c["name"] == name).collect();
    let [check] = of.as_slice() else {
        panic!("{} checks are called {name}", of.len());
    };
    let text = format!(
        "{} -> {}",
        check["found"].as_str().unwrap(),
        check["todo"].as_str().unwrap_or("")
    );
    (
        check["verdict"].as_str().unwrap().to_owned(),
        tree.plain(text.into_bytes()),
    )
}

#[track_caller]
fn expect(tree: &Tree, name: &str, verdict: &str, said: &str) {
    let (is, text) = check(tree, name);
    assert!(is == verdict && text.contains(said), "{name}: {is}: {text}");
}

#[test]
fn all_is_well() {
    let tree = running();
    expect![[r#"
        ok           kernel                7.3.4+deb13-amd64 is known to work
        ok           kernel configuration  modules and Rust, says /boot/config-7.3.4+deb13-amd64
        ok           module                coda_rs 0.1.0 is loaded
        ok           module file           /lib/modules/7.3.4+deb13-amd64/updates/coda_rs.ko is for this kernel
        ok           building              nothing has to be built, as there is a module for this kernel
        ok           autoload              /etc/modprobe.d/coda_rs.conf keeps the C module from being loaded
        ok           file system type      coda is registered
        ok           device nodes          /dev/cfs0 to /dev/cfs4 are there
        ok           cache manager         1234 (venus) has /dev/cfs0 open
        ok           mount                 /srv/co da
        ok           requests              2 on the way, none for long
        ok           Secure Boot           there is none, as the machine was not started by EFI
        ok           module signature      this kernel does not ask for one
        ok           AppArmor              the cache manager is not confined
        ok           kernel log            nothing about coda_rs

        0 problems, 0 warnings.
    "#]].assert_eq(&says(&tree));
    assert!(tree.run(&["doctor"]).output().unwrap().status.success());
}

#[test]
fn without_root() {
    let tree = running_unprivileged();
    expect![[r#"
        ok           kernel                7.3.4+deb13-amd64 is known to work
        ok           kernel configuration  modules and Rust, says /boot/config-7.3.4+deb13-amd64
        ok           module                coda_rs 0.1.0 is loaded
        ok           module file           /lib/modules/7.3.4+deb13-amd64/updates/coda_rs.ko is for this kernel
        ok           building              nothing has to be built, as there is a module for this kernel
        ok           autoload              /etc/modprobe.d/coda_rs.conf keeps the C module from being loaded
        ok           file system type      coda is registered
        ok           device nodes          /dev/cfs0 to /dev/cfs4 are there
        cannot tell  cache manager         who has a device open is for root to know (needs root)
        cannot tell  mount                 /srv/co da is mounted; whether its cache manager is there is for root to know (needs root)
        cannot tell  requests              what is on its way is for root to know (needs root)
        ok           Secure Boot           there is none, as the machine was not started by EFI
        ok           module signature      this kernel does not ask for one
        ok           AppArmor              /etc/apparmor.d has no profile for a cache manager
        cannot tell  kernel log            /dev/kmsg is for root alone (needs root)

        0 problems, 0 warnings; 4 checks need root (`sudo coda-rs doctor`).
    "#]].assert_eq(&says(&tree));
    assert!(tree.run(&["doctor"]).output().unwrap().status.success());
}

#[test]
fn a_machine_without_anything() {
    let tree = machine();
    expect![[r#"
        ok           kernel                7.3.4+deb13-amd64 is known to work
        ok           kernel configuration  modules and Rust, says /boot/config-7.3.4+deb13-amd64
        warning      module                coda_rs is not loaded
                                           -> It has to be built first; see below.
        PROBLEM      module file           there is no coda_rs.ko in /lib/modules/7.3.4+deb13-amd64
                                           -> Install the package coda-rs-dkms, or build it (`make`, `make install`).
        PROBLEM      Rust metadata         /lib/modules/7.3.4+deb13-amd64/build is not there, so nothing can be built for this kernel
                                           -> Install the kernel's headers: `apt install linux-headers-7.3.4+deb13-amd64`, or the like.
        PROBLEM      rustc                 this kernel was built with 1.85.1, and only that one can build for it; there is none
                                           -> Install rustc 1.85.1: your distribution's, or `rustup toolchain install 1.85.1`.
        PROBLEM      bindgen               there is none, or none that works
                                           -> `apt install bindgen`, or `cargo install bindgen-cli`.
        PROBLEM      C compiler            this kernel was built with gcc 14, and there is no gcc
                                           -> `apt install gcc-14`, or the like.
        warning      autoload              nothing keeps the kernel's own C module coda from being loaded instead
                                           -> `echo 'blacklist coda' > /etc/modprobe.d/coda_rs.conf`, as root.
        ok           file system type      coda is not registered, as nothing is loaded
        ok           device nodes          made when the module is loaded
        ok           cache manager         none, as no module is loaded that it could talk to
        ok           mount                 nothing of type coda is mounted
        ok           requests              none, as coda_rs is not loaded
        ok           Secure Boot           there is none, as the machine was not started by EFI
        ok           module signature      this kernel does not ask for one
        ok           AppArmor              it has no profile for a cache manager
        ok           kernel log            nothing about coda_rs

        5 problems, 2 warnings.
    "#]].assert_eq(&says(&tree));
    assert!(!tree.run(&["doctor"]).output().unwrap().status.success());
}

#[test]
fn an_empty_tree() {
    says(&Tree::new());
    expect(&Tree::new(), "kernel", "cannot-tell", "cannot be read");
}

#[test]
fn kernels() {
    let with = |release: &str| machine().file("proc/sys/kernel/osrelease", release);
    expect(
        &with("6.12.30+deb13-amd64\n"),
        "kernel",
        "problem",
        "too old",
    );
    expect(
        &with("7.2.12+deb14-amd64\n"),
        "kernel",
        "ok",
        "known to work",
    );
    expect(&with("7.4-rc1\n"), "kernel", "warning", "newer than 7.3");
    expect(&with("mine\n"), "kernel", "cannot-tell", "mine");
    let arm = machine().file("proc/sys/kernel/arch", "aarch64\n");
    expect(&arm, "kernel", "problem", "x86-64 alone");

    let with = |config: &str| machine().file(&format!("boot/config-{RELEASE}"), config);
    let name = "kernel configuration";
    expect(
        &with("CONFIG_MODULES=y\n# CONFIG_RUST is not set\n"),
        name,
        "problem",
        "no CONFIG_RUST",
    );
    expect(
        &with("CONFIG_RUST=y\n"),
        name,
        "problem",
        "no CONFIG_MODULES",
    );
    let text = "CONFIG_MODULES=y\nCONFIG_RUST=y\nCONFIG_CODA_FS=y\n";
    expect(&with(text), name, "problem", "part of this kernel");
    let none = machine().without(&format!("boot/config-{RELEASE}"));
    expect(&none, name, "cannot-tell", "no configuration");
}

#[test]
fn the_module_and_its_file() {
    expect(&machine(), "module", "warning", "has to be built first");
    expect(&machine(), "module file", "problem", "no coda_rs.ko");
    expect(
        &installed(machine()),
        "module",
        "warning",
        "`modprobe coda_rs` loads it",
    );
    expect(
        &installed(machine()),
        "module file",
        "ok",
        "is for this kernel",
    );
    expect(
        &installed(machine()),
        "building",
        "ok",
        "nothing has to be built",
    );
    expect(
        &loaded(machine()),
        "module file",
        "warning",
        "next start will be without it",
    );

    let c = machine().file("proc/modules", "coda 61440 0 - Live 0x0\n");
    expect(
        &c,
        "module",
        "problem",
        "modprobe -r coda && modprobe coda_rs",
    );
    let going = loaded(machine()).file("proc/modules", "coda_rs 1 0 - Unloading 0x0\n");
    expect(&going, "module", "warning", "unloading");

    let other = modinfo(installed(machine()), "7.3.3+deb13-amd64", "");
    expect(
        &other,
        "module file",
        "problem",
        "for the kernel 7.3.3+deb13-amd64",
    );
    let unknown = installed(machine()).file(&lib("modules.dep"), "");
    expect(&unknown, "module file", "problem", "depmod");
    let mute = installed(machine()).without("bin/modinfo");
    expect(&mute, "module file", "cannot-tell", "modinfo cannot say");
    let newer = loaded(installed(machine())).file("sys/module/coda_rs/version", "0.0.9\n");
    expect(
        &newer,
        "module file",
        "warning",
        "is version 0.1.0, and 0.0.9 is loaded",
    );

    let two = installed(machine())
        .file("lib/modules/7.3.9+deb13-amd64/kernel/fs/x.ko", "")
        .file("lib/modules/6.12.1-amd64/kernel/fs/x.ko", "");
    expect(
        &two,
        "other kernels",
        "warning",
        "no coda_rs for 7.3.9+deb13-amd64 ->",
    );
}

#[test]
fn dkms() {
    let added = machine().link(
        "var/lib/dkms/coda-rs/0.1.0/source",
        "/usr/src/coda-rs-0.1.0",
    );
    let added = added.file("usr/src/coda-rs-0.1.0/dkms.conf", "");
    expect(&added, "DKMS", "problem", "is not built for this kernel");
    expect(
        &added,
        "module file",
        "problem",
        "dkms install coda-rs/0.1.0",
    );
    let log = |kernel: &str| {
        format!(
            "DKMS (dkms-3.2.2) make.log for coda-rs/0.1.0 for kernel {kernel} (x86_64)\n\
             Mon Sep  7 08:00:00 UTC 2026\nmake: Entering\ncoda_rs: no rustc here\nerror: gone\n\
             make: *** [x] Error 1\n"
        )
    };
    let path = "var/lib/dkms/coda-rs/0.1.0/build/make.log";
    // There is one log, of whichever kernel it last failed for.
    let elsewhere = added.file(path, log("7.3.9+deb13-amd64"));
    let (_, text) = check(&elsewhere, "DKMS");
    assert!(
        text.contains("is not built for this kernel") && !text.contains("rustc"),
        "{text}"
    );
    let failed = elsewhere.file(path, log(RELEASE));
    expect(
        &failed,
        "DKMS",
        "problem",
        "could not be built for this kernel\ncoda_rs: no rustc here\n",
    );
    let built = failed.file(
        &format!("var/lib/dkms/coda-rs/0.1.0/{RELEASE}/x86_64/module/coda_rs.ko"),
        "",
    );
    expect(&built, "DKMS", "problem", "not installed");
    let done = installed(built).link(
        &format!("var/lib/dkms/coda-rs/kernel-{RELEASE}-x86_64"),
        &format!("0.1.0/{RELEASE}/x86_64"),
    );
    expect(&done, "DKMS", "ok", "installed for this kernel");
    // It can be built anew, or not: a warning, as there is one.
    expect(&done, "rustc", "warning", "1.85.1");
    let other = machine().file("var/lib/dkms/zfs/2.3/source/x", "");
    expect(&other, "DKMS", "ok", "nothing to do with coda_rs");
}

/// Headers with all of the metadata, and the tools.
fn builder() -> Tree {
    let mut tree = machine()
        .link(&lib("build"), &format!("/usr/src/linux-headers-{RELEASE}"))
        .file(&format!("usr/src/linux-headers-{RELEASE}/Makefile"), "")
        .program("rustc-1.85", "echo 'rustc 1.85.1 (4eb161250 2025-03-15)'")
        .program("rustc", "echo 'rustc 1.97.1 (x 2026-07-01)'")
        .program("bindgen", "echo bindgen 0.71.1")
        .program("gcc-14", "echo 14");
    for name in [
        "core",
        "compiler_builtins",
        "ffi",
        "bindings",
        "uapi",
        "build_error",
        "pin_init",
        "kernel",
    ] {
        let path = format!("usr/src/linux-headers-{RELEASE}/rust/lib{name}.rmeta");
        tree = tree.file(
            &path,
            b"rust\0\0\0\x09#rustc 1.85.1 (4eb161250 2025-03-15)\xff\0",
        );
    }
    tree.file(
        &format!("usr/src/linux-headers-{RELEASE}/rust/libmacros.so"),
        "",
    )
}

#[test]
fn building() {
    let all = builder();
    for name in ["Rust metadata", "rustc", "bindgen", "C compiler"] {
        expect(&all, name, "ok", "");
    }
    expect(&all, "rustc", "ok", "rustc-1.85 is 1.85.1");
    let other = builder().without("bin/rustc-1.85");
    expect(
        &other,
        "rustc",
        "problem",
        "rustc is 1.97.1 -> Install rustc 1.85.1",
    );
    let none = builder().without("bin/rustc-1.85").without("bin/rustc");
    expect(&none, "rustc", "problem", "there is none");
    let rustup = none.program("rustc", "exit 1").file(
        ".rustup/toolchains/1.85.1-x86_64-unknown-linux-gnu/bin/rustc",
        "",
    );
    expect(&rustup, "rustc", "problem", "there is none");
    expect(
        &builder().without("bin/bindgen"),
        "bindgen",
        "problem",
        "apt install bindgen",
    );
    expect(
        &builder().without("bin/gcc-14"),
        "C compiler",
        "problem",
        "there is no gcc",
    );
    let gcc = builder().without("bin/gcc-14").program("gcc", "echo 15");
    expect(&gcc, "C compiler", "warning", "here is 15");

    let partly = builder().without(&format!(
        "usr/src/linux-headers-{RELEASE}/rust/libuapi.rmeta"
    ));
    expect(
        &partly,
        "Rust metadata",
        "problem",
        "lacks libuapi.rmeta, and there is no linux-source-7.3",
    );
    let bare = builder().without(&format!("usr/src/linux-headers-{RELEASE}/rust"));
    expect(
        &bare,
        "Rust metadata",
        "problem",
        "apt install linux-source-7.3",
    );
    // Which compiler is wanted is in the configuration then.
    expect(&bare, "rustc", "ok", "1.85.1");
    let source = bare.file("usr/src/linux-source-7.3.tar.xz", "");
    expect(&source, "Rust metadata", "problem", "coda-rs-dkms");
    let dkms = source.file("var/lib/dkms/coda-rs/0.1.0/source/dkms.conf", "");
    expect(
        &dkms,
        "Rust metadata",
        "ok",
        "it is made out of linux-source-7.3",
    );
    let kept = builder()
        .without(&format!("usr/src/linux-headers-{RELEASE}/rust"))
        .file("var/lib/dkms/coda-rs/0.1.0/source/dkms.conf", "");
    expect(&kept, "Rust metadata", "warning", "has to be fetched first");
    // Making it was interrupted.
    let kept = kept.file(&format!("var/cache/coda-rs/{RELEASE}/build/Makefile"), "");
    expect(&kept, "Rust metadata", "warning", "has to be fetched first");
    let kept = kept.file(&format!("var/cache/coda-rs/{RELEASE}/stamp"), "");
    expect(&kept, "Rust metadata", "ok", "it is kept in");
    let none = builder().without(&lib("build"));
    expect(
        &none,
        "Rust metadata",
        "problem",
        "apt install linux-headers-7.3.4",
    );
}

#[test]
fn which_module_is_taken() {
    expect(&machine(), "autoload", "warning", "blacklist coda");
    expect(
        &installed(machine()),
        "autoload",
        "ok",
        "coda_rs.conf keeps the C module",
    );
    let none = machine().without(&lib("kernel"));
    expect(&none, "autoload", "ok", "no C module");
    let alias = machine().file("usr/lib/modprobe.d/c.conf", "alias fs-coda coda-rs\n");
    expect(
        &alias,
        "autoload",
        "ok",
        "leads mounts of type coda to coda_rs",
    );
    let hidden = machine()
        .file("usr/lib/modprobe.d/c.conf", "blacklist coda\n")
        .file("etc/modprobe.d/c.conf", "\n");
    expect(&hidden, "autoload", "warning", "nothing keeps");
    let line = machine().file("proc/cmdline", "quiet modprobe.blacklist=x,coda_rs\n");
    expect(&line, "autoload", "problem", "/proc/cmdline");
    let broken = loaded(machine()).file("proc/filesystems", "nodev\tsysfs\n");
    expect(&broken, "file system type", "problem", "not registered");
}

#[test]
fn devices_and_mounts() {
    let base = || loaded(installed(machine()));
    expect(&base(), "device nodes", "ok", "are there");
    expect(
        &base().without("dev/cfs3"),
        "device nodes",
        "problem",
        "no node for cfs3",
    );
    expect(
        &base().file("dev/cfs0", "char 1 3\n"),
        "device nodes",
        "problem",
        "is the device 1:3",
    );
    expect(
        &base().file("dev/cfs0", "text\n"),
        "device nodes",
        "problem",
        "not a character device",
    );
    expect(
        &machine(),
        "device nodes",
        "ok",
        "made when the module is loaded",
    );
    expect(
        &base(),
        "cache manager",
        "warning",
        "Start the cache manager",
    );
    expect(
        &running(),
        "cache manager",
        "ok",
        "1234 (venus) has /dev/cfs0 open",
    );
    expect(&machine(), "cache manager", "ok", "no module is loaded");
    expect(&running(), "mount", "ok", "/srv/co da");
    let devices = "sys/kernel/debug/coda_rs/devices";
    let dead = running()
        .without("proc/1234")
        .file(devices, "# device pid mounted pending outstanding\n");
    expect(&dead, "mount", "problem", "umount /srv/co da");
    let anew = running().file(
        devices,
        "# device pid mounted pending outstanding\ncfs0 1234 0 0 0\n",
    );
    expect(&anew, "mount", "problem", "dead");
    let stuck = running().file(
        "sys/kernel/debug/coda_rs/requests",
        "# device unique opcode state age_ms pid fid\ncfs0 7 OPEN outstanding 125000 1 0.0.0.0\n",
    );
    expect(
        &stuck,
        "requests",
        "warning",
        "1 request without an answer, the oldest (OPEN) for 2 min 5 s",
    );
}

#[test]
fn where_not_all_processes_are_seen() {
    for (tree, why) in [
        (
            running_in_a_container(),
            "is not known: /proc does not show all processes here, as in a container; root outside",
        ),
        (running_hidden(), "is for root to know"),
        (running_untraceable(), "is for root to know"),
    ] {
        let said = format!("who has a device open {why}");
        expect(&tree, "cache manager", "cannot-tell", &said);
        let said = format!("is mounted; whether its cache manager is there {why}");
        expect(&tree, "mount", "cannot-tell", &said);
        assert!(tree.run(&["doctor"]).output().unwrap().status.success());
    }
    // The module's own word is enough, wherever this is.
    let told = running().without("proc/1234").without("proc/2");
    let said = "1234 (not shown here) has /dev/cfs0 open";
    expect(&told, "cache manager", "ok", said);
    expect(&told, "mount", "ok", "/srv/co da");
    // So it is where the number is that of somebody else.
    let other = told
        .file("proc/1234/comm", "sh\n")
        .file("proc/1234/attr/current", "somebody (enforce)\n");
    expect(&other, "cache manager", "ok", said);
    expect(&other, "AppArmor", "ok", "no profile");
}

#[test]
fn signatures() {
    let off = machine().file(EFI, [6, 0, 0, 0, 0]);
    expect(&off, "Secure Boot", "ok", "off");
    let on = || installed(machine()).file(EFI, [6, 0, 0, 0, 1]);
    expect(&on(), "Secure Boot", "ok", "modules have to be signed");
    expect(
        &machine().file(EFI, [6]),
        "Secure Boot",
        "cannot-tell",
        "not as it should be",
    );
    expect(
        &machine().file(EFI, [6]).denied(EFI),
        "Secure Boot",
        "cannot-tell",
        "root alone",
    );
    expect(&machine(), "Secure Boot", "ok", "not started by EFI");
    let other = machine().file("sys/firmware/efi/efivars/Boot0000-8be4df61", [0]);
    expect(&other, "Secure Boot", "ok", "this firmware has none");
    let real_time = other.without("sys/firmware/efi/efivars/Boot0000-8be4df61");
    expect(&real_time, "Secure Boot", "cannot-tell", "efi=runtime");

    let name = "module signature";
    expect(&on(), name, "ok", "does not ask");
    let locked = || {
        on().file(
            "sys/kernel/security/lockdown",
            "none [integrity] confidentiality\n",
        )
    };
    expect(&locked(), name, "problem", "is not signed");
    let enforced = on().file("sys/module/module/parameters/sig_enforce", "Y\n");
    expect(&enforced, name, "problem", "module.sig_enforce is set");
    // What matters of a certificate.
    let key = b"\x30\x82\x06\x03\x55\x04\x03\x0c\x17DKMS module signing key\x30\x1e";
    let signed_by = |who: &str| modinfo(locked(), RELEASE, who).file("var/lib/dkms/mok.pub", key);
    let signed = || signed_by("DKMS module signing key");
    expect(&signed(), name, "cannot-tell", "nothing says whether");
    let said = |text: &str| signed().program("mokutil", &format!("echo '{text}'; exit 1"));
    expect(
        &said("mok.pub is not enrolled"),
        name,
        "problem",
        "mokutil --import /var/lib/dkms/mok.pub",
    );
    expect(
        &said("mok.pub is already enrolled"),
        name,
        "ok",
        "is enrolled",
    );
    expect(
        &said("EFI variables are not supported on this system"),
        name,
        "cannot-tell",
        "start the kernel with efi=runtime",
    );
    // That DKMS's key is enrolled, or is not, says nothing of another one.
    for said in ["is not enrolled", "is already enrolled"] {
        let other = signed_by("Somebody").program("mokutil", &format!("echo 'mok.pub {said}'"));
        expect(
            &other,
            name,
            "cannot-tell",
            "signed by Somebody, and nothing says",
        );
    }
    expect(&loaded(locked()), name, "ok", "coda_rs is loaded");
}

#[test]
fn other_guards() {
    let selinux = loaded(machine()).file("sys/fs/selinux/enforce", "1");
    expect(&selinux, "SELinux", "warning", "ausearch");
    expect(
        &running().file("sys/fs/selinux/enforce", "1"),
        "SELinux",
        "ok",
        "Coda is mounted",
    );
    expect(
        &machine().file("sys/fs/selinux/enforce", "0"),
        "SELinux",
        "ok",
        "does not enforce",
    );

    let profiles = "sys/kernel/security/apparmor/profiles";
    expect(&machine(), "AppArmor", "ok", "no profile");
    let with = |text: &str| machine().file(profiles, text);
    expect(
        &with("x (enforce)\n/usr/sbin/venus (enforce)\n"),
        "AppArmor",
        "warning",
        "aa-complain",
    );
    expect(&with("venus (complain)\n"), "AppArmor", "ok", "complain");
    let user = machine()
        .denied(profiles)
        .file("etc/apparmor.d/usr.sbin.venus", "");
    expect(&user, "AppArmor", "cannot-tell", "root");
    let confined = running().file("proc/1234/attr/current", "venus (enforce)\n");
    expect(&confined, "AppArmor", "ok", "which works");
    let stopped = confined.file("proc/self/mountinfo", "");
    expect(
        &stopped,
        "AppArmor",
        "warning",
        "confined by venus (enforce)",
    );
}

#[test]
fn what_the_kernel_says() {
    let with = |text: &str| running().file("dev/kmsg", text);
    expect(
        &with("6,1,2500000,-;coda_rs: mounted\n"),
        "kernel log",
        "ok",
        "[    2.500000] coda_rs: mounted",
    );
    expect(&running(), "kernel log", "ok", "nothing about coda_rs");
    let taint = "5,9,1,-;coda_rs: loading out-of-tree module taints kernel.\n";
    expect(&with(taint), "kernel log", "ok", "nothing about coda_rs");
    let bad =
        "3,9,2500000,-;coda_rs: version magic '7.3.3' should be '7.3.4'\n6,10,1,-;coda_rs: x\n";
    expect(&with(bad), "kernel log", "warning", "version magic");
    expect(
        &running_unprivileged(),
        "kernel log",
        "cannot-tell",
        "root alone",
    );
    expect(&with("half a record"), "kernel log", "ok", "nothing");
}
