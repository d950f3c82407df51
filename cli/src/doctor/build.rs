// SPDX-License-Identifier: GPL-2.0

//! Is there a module for this kernel, and could one be built?

use super::kernel::{OLDEST, tool_version, version};
use super::{Check, Patient, Verdict};
use crate::root::{Root, is_absent};

/// The names that DKMS may know it by.
const DKMS_NAMES: [&str; 2] = ["coda-rs", "coda_rs"];

/// Is this the name of the module's file, however compressed?
fn is_module(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    name.strip_prefix("coda_rs.ko")
        .is_some_and(|rest| matches!(rest, "" | ".xz" | ".zst" | ".gz"))
}

/// What depmod knows: the module's file below `/lib/modules/RELEASE`.
fn in_modules_dep(root: &Root, release: &str) -> Option<String> {
    let text = root
        .read(&format!("/lib/modules/{release}/modules.dep"))
        .ok()?;
    text.lines()
        .filter_map(|line| line.split(':').next())
        .find(|path| is_module(path))
        .map(|path| match path.starts_with('/') {
            true => path.to_owned(),
            false => format!("/lib/modules/{release}/{path}"),
        })
}

/// The module's file for this kernel, known to depmod or not.
pub fn module_file(p: &Patient<'_>) -> Option<String> {
    in_modules_dep(p.root, &p.release)
        .filter(|path| p.root.has(path))
        .or_else(|| {
            ["updates/dkms", "updates", "extra", "weak-updates"]
                .iter()
                .map(|dir| format!("/lib/modules/{}/{dir}", p.release))
                .find_map(|dir| {
                    let names = p.root.list(&dir).ok()?;
                    let name = names.iter().find(|name| is_module(name))?;
                    Some(format!("{dir}/{name}"))
                })
        })
}

/// All of it.
pub fn checks(p: &Patient<'_>) -> Vec<Check> {
    let dkms = Dkms::find(p.root);
    let mut checks = vec![file(p, dkms.as_ref())];
    checks.extend(other_kernels(p));
    checks.extend(dkms_state(p, dkms.as_ref()));
    if p.has_module() && dkms.is_none() {
        checks.push(Check::ok(
            "building",
            "nothing has to be built, as there is a module for this kernel",
        ));
        return checks;
    }
    let mut tools = vec![
        metadata(p, dkms.is_some()),
        rustc(p),
        bindgen(p),
        compiler(p),
    ];
    if p.has_module() {
        // It is there: this will matter when it is to be built anew.
        for check in &mut tools {
            check.verdict = check.verdict.min(Verdict::Warning);
        }
    }
    checks.extend(tools);
    checks
}

fn file(p: &Patient<'_>, dkms: Option<&Dkms>) -> Check {
    const NAME: &str = "module file";
    let release = &p.release;
    let Some(path) = &p.file else {
        let found = format!("there is no coda_rs.ko in /lib/modules/{release}");
        let get = match dkms {
            Some(dkms) => format!(
                "`dkms install {}/{} -k {release}`, as root.",
                dkms.name, dkms.version
            ),
            None => {
                "Install the package coda-rs-dkms, or build it (`make`, `make install`).".to_owned()
            }
        };
        return if p.is_loaded() {
            Check::warning(
                NAME,
                format!("{found}, so the next start will be without it"),
                get,
            )
        } else {
            Check::problem(NAME, found, get)
        };
    };
    if in_modules_dep(p.root, release).is_none() {
        return Check::problem(
            NAME,
            format!("depmod does not know of {path}"),
            format!("`depmod {release}`, as root."),
        );
    }
    let Some(magic) = p.modinfo(path, "vermagic") else {
        return Check::unknown(
            NAME,
            format!("{path} is there; modinfo cannot say what it is for"),
        );
    };
    let built_for = magic.split_whitespace().next().unwrap_or("");
    if built_for != release {
        return Check::problem(
            NAME,
            format!("{path} is for the kernel {built_for}, and {release} is running"),
            "Build it anew for this kernel, or boot the other one.",
        );
    }
    let loaded = p.status.module.as_ref().and_then(|m| m.version.as_deref());
    if let (Some(loaded), Some(there)) = (loaded, p.modinfo(path, "version")) {
        if !there.is_empty() && loaded != there {
            return Check::warning(
                NAME,
                format!("{path} is version {there}, and {loaded} is loaded"),
                "Stop the cache manager, unmount, then `modprobe -r coda_rs && modprobe coda_rs`.",
            );
        }
    }
    Check::ok(NAME, format!("{path} is for this kernel"))
}

/// Kernels that could be booted next, and have no module.
fn other_kernels(p: &Patient<'_>) -> Option<Check> {
    p.file.as_ref()?;
    let without: Vec<String> = p
        .root
        .list("/lib/modules")
        .ok()?
        .into_iter()
        .filter(|release| *release != p.release)
        // Not those that are mere headers, or too old to have it.
        .filter(|release| p.root.is_dir(&format!("/lib/modules/{release}/kernel")))
        .filter(|release| version(release).is_some_and(|v| v >= OLDEST))
        .filter(|release| in_modules_dep(p.root, release).is_none())
        .collect();
    if without.is_empty() {
        return None;
    }
    Some(Check::warning(
        "other kernels",
        format!("there is no coda_rs for {}", without.join(", ")),
        "Build it before you boot one of them; with DKMS, `dkms autoinstall -k RELEASE`.",
    ))
}

/// What DKMS has of it.
struct Dkms {
    name: &'static str,
    version: String,
}

impl Dkms {
    fn find(root: &Root) -> Option<Self> {
        DKMS_NAMES.iter().find_map(|name| {
            let dir = format!("/var/lib/dkms/{name}");
            let versions = root.list(&dir).ok()?;
            let version = versions
                .into_iter()
                .rfind(|version| root.has(&format!("{dir}/{version}/source")))?;
            Some(Self { name, version })
        })
    }
}

/// What a log of make ends with, if it failed.
fn complaint(log: &str) -> Option<String> {
    let wrong: Vec<&str> = log
        .lines()
        .filter(|l| {
            let l = l.to_ascii_lowercase();
            l.contains("error")
                || l.contains("coda_rs:")
                || l.contains("coda-rs:")
                || l.contains("no such file")
        })
        .collect();
    let last = &wrong[wrong.len().saturating_sub(3)..];
    (!last.is_empty()).then(|| last.join("\n"))
}

/// Is a log of make about this kernel? DKMS keeps the last one that failed, whichever kernel it was
/// for, and its first line says that: `DKMS (dkms-3.2.2) make.log for coda-rs/0.1.0 for kernel
/// 7.3.4+deb13-amd64 (x86_64)`.
fn is_about(log: &str, release: &str) -> bool {
    let wanted = format!(" for kernel {release} (");
    log.lines().take(5).any(|line| line.contains(&wanted))
}

fn dkms_state(p: &Patient<'_>, dkms: Option<&Dkms>) -> Option<Check> {
    const NAME: &str = "DKMS";
    let root = p.root;
    let Some(dkms) = dkms else {
        return match root.list("/var/lib/dkms") {
            Ok(_) => Some(Check::ok(
                NAME,
                "it is here, and has nothing to do with coda_rs",
            )),
            Err(err) if is_absent(&err) => None,
            Err(err) => Some(Check::hidden(NAME, "/var/lib/dkms", &err)),
        };
    };
    let Dkms { name, version } = dkms;
    let release = &p.release;
    let dir = format!("/var/lib/dkms/{name}");
    let what = format!("{name} {version}");
    let installed = root.list(&dir).unwrap_or_default().iter().any(|n| {
        n.strip_prefix("kernel-")
            .is_some_and(|n| n.starts_with(&format!("{release}-")))
    });
    if installed {
        return Some(Check::ok(
            NAME,
            format!("{what} is installed for this kernel"),
        ));
    }
    let install = format!("`dkms install {name}/{version} -k {release}`, as root");
    let mut check = if root.is_dir(&format!("{dir}/{version}/{release}")) {
        Check::problem(
            NAME,
            format!("{what} is built for this kernel and not installed"),
            format!("{install}."),
        )
    } else {
        let log = format!("{dir}/{version}/build/make.log");
        match root.read(&log) {
            Ok(text) if is_about(&text, release) => {
                let mut found = format!("{what} could not be built for this kernel");
                if let Some(complaint) = complaint(&text) {
                    found += "\n";
                    found += &complaint;
                }
                Check::problem(
                    NAME,
                    found,
                    format!("See {log}; when what it lacks is there, {install}."),
                )
            }
            _ => Check::problem(
                NAME,
                format!("{what} is not built for this kernel"),
                format!("{install}."),
            ),
        }
    };
    if p.has_module() {
        check.verdict = Verdict::Warning;
    }
    Some(check)
}

fn build_dir(p: &Patient<'_>) -> String {
    format!("/lib/modules/{}/build", p.release)
}

/// What rustc made out of the kernel's crates, and every module in Rust is compiled with.
const METADATA: [&str; 9] = [
    "libcore.rmeta",
    "libcompiler_builtins.rmeta",
    "libffi.rmeta",
    "libbindings.rmeta",
    "libuapi.rmeta",
    "libbuild_error.rmeta",
    "libpin_init.rmeta",
    "libkernel.rmeta",
    "libmacros.so",
];

fn metadata(p: &Patient<'_>, dkms: bool) -> Check {
    const NAME: &str = "Rust metadata";
    let build = build_dir(p);
    let release = &p.release;
    if !p.root.has(&format!("{build}/Makefile")) {
        return Check::problem(
            NAME,
            format!("{build} is not there, so nothing can be built for this kernel"),
            format!(
                "Install the kernel's headers: `apt install linux-headers-{release}`, or the like."
            ),
        );
    }
    let missing: Vec<&str> = METADATA
        .into_iter()
        .filter(|file| !p.root.has(&format!("{build}/rust/{file}")))
        .collect();
    if missing.is_empty() {
        return Check::ok(NAME, format!("it is complete in {build}/rust"));
    }
    let what = match missing.len() {
        n if n == METADATA.len() => "the headers have none".to_owned(),
        _ => format!("{build}/rust lacks {}", missing.join(", ")),
    };
    let Some((major, minor)) = version(release) else {
        return Check::problem(NAME, what, "Install headers that have it.");
    };
    let source = format!("linux-source-{major}.{minor}");
    let has_source = ["", ".tar.xz", ".tar.bz2", ".tar.gz"]
        .iter()
        .any(|end| p.root.has(&format!("/usr/src/{source}{end}")));
    let kept = format!("/var/cache/coda-rs/{release}");
    // The stamp comes last: without it the metadata is being made, or was not made to the end.
    let is_kept = p.root.has(&format!("{kept}/stamp"));
    match (dkms, has_source) {
        (true, _) if is_kept => Check::ok(NAME, format!("{what}; it is kept in {kept}")),
        (true, true) => Check::ok(NAME, format!("{what}; it is made out of {source}")),
        (true, false) => Check::warning(
            NAME,
            format!("{what}, and {source}, to make it from, has to be fetched first"),
            format!("`apt install {source}`, unless there is network whenever DKMS builds."),
        ),
        (false, false) => Check::problem(
            NAME,
            format!("{what}, and there is no {source} to make it from"),
            format!("`apt install {source}`, or install headers that have it."),
        ),
        (false, true) => Check::problem(
            NAME,
            format!("{what}, though {source} is here to make it from"),
            "Install the package coda-rs-dkms, or run `make` in coda_rs's source: both make it.",
        ),
    }
}

/// The version of rustc that made the metadata, which says so near its beginning.
fn made_by(p: &Patient<'_>) -> Option<(u32, u32, u32)> {
    let bytes = p
        .root
        .read_bytes(&format!("{}/rust/libkernel.rmeta", build_dir(p)))
        .ok()?;
    let head = String::from_utf8_lossy(bytes.get(..4096).unwrap_or(&bytes)).into_owned();
    let at = head.find("rustc 1.")?;
    let said: String = head[at..]
        .chars()
        .take_while(|c| !c.is_control())
        .take(40)
        .collect();
    tool_version(&said)
}

fn dotted((major, minor, patch): (u32, u32, u32)) -> String {
    format!("{major}.{minor}.{patch}")
}

fn rustc(p: &Patient<'_>) -> Check {
    const NAME: &str = "rustc";
    let config = p.config.as_ref().map(|(config, _)| config);
    let Some(wanted) = made_by(p).or_else(|| config?.version("RUSTC_VERSION")) else {
        return Check::unknown(NAME, "nothing says which rustc this kernel was built with");
    };
    let (major, minor, _) = wanted;
    let version = dotted(wanted);
    let home = std::env::var("HOME").unwrap_or_default();
    let mut others = Vec::new();
    for candidate in [
        "rustc".to_owned(),
        format!("rustc-{major}.{minor}"),
        format!("/usr/lib/rust-{major}.{minor}/bin/rustc"),
        format!("{home}/.rustup/toolchains/{version}-x86_64-unknown-linux-gnu/bin/rustc"),
    ] {
        match p
            .ask(&candidate, &["--version"])
            .as_deref()
            .and_then(tool_version)
        {
            Some(found) if found == wanted => {
                return Check::ok(
                    NAME,
                    format!("{candidate} is {version}, as the kernel's was"),
                );
            }
            Some(found) => others.push(format!("{candidate} is {}", dotted(found))),
            None => {}
        }
    }
    let what = match others.is_empty() {
        true => "there is none".to_owned(),
        false => others.join(", "),
    };
    Check::problem(
        NAME,
        format!("this kernel was built with {version}, and only that one can build for it; {what}"),
        format!(
            "Install rustc {version}: your distribution's, or `rustup toolchain install {version}`."
        ),
    )
}

fn bindgen(p: &Patient<'_>) -> Check {
    const NAME: &str = "bindgen";
    match p.ask("bindgen", &["--version"]) {
        Some(said) => Check::ok(NAME, said.lines().next().unwrap_or("").to_owned()),
        None => Check::problem(
            NAME,
            "there is none, or none that works",
            "`apt install bindgen`, or `cargo install bindgen-cli`.",
        ),
    }
}

fn compiler(p: &Patient<'_>) -> Check {
    const NAME: &str = "C compiler";
    let Some((config, _)) = &p.config else {
        return Check::unknown(
            NAME,
            "nothing says which compiler this kernel was built with",
        );
    };
    // 140200 is 14.2.0.
    let major = |name: &str| -> Option<u32> {
        let number: u32 = config.get(name)?.parse().ok()?;
        (number > 0).then_some(number / 10_000)
    };
    let (name, major) = if config.is_set("CC_IS_CLANG") {
        ("clang", major("CLANG_VERSION"))
    } else {
        ("gcc", major("GCC_VERSION"))
    };
    let Some(major) = major else {
        return Check::unknown(
            NAME,
            "nothing says which compiler this kernel was built with",
        );
    };
    let mut other = None;
    for candidate in [format!("{name}-{major}"), name.to_owned()] {
        let said = p.ask(&candidate, &["-dumpversion"]);
        let version: Option<u32> = said
            .as_deref()
            .and_then(|s| s.split('.').next()?.parse().ok());
        match version {
            Some(version) if version == major => {
                return Check::ok(
                    NAME,
                    format!("{candidate} is version {major}, as the kernel's was"),
                );
            }
            Some(version) => other = Some(version),
            None => {}
        }
    }
    let install = format!("`apt install {name}-{major}`, or the like.");
    match other {
        Some(version) => Check::warning(
            NAME,
            format!("this kernel was built with {name} {major}, and here is {version}"),
            install,
        ),
        None => Check::problem(
            NAME,
            format!("this kernel was built with {name} {major}, and there is no {name}"),
            install,
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_file() {
        for (path, is) in [
            ("updates/coda_rs.ko", true),
            ("updates/dkms/coda_rs.ko.xz", true),
            ("kernel/fs/coda/coda.ko.xz", false),
            ("extra/coda_rs.ko.orig", false),
            ("coda_rs.ko.zst", true),
        ] {
            assert_eq!(is_module(path), is, "{path}");
        }
    }

    #[test]
    fn whose_log() {
        let first = |kernel: &str| {
            format!("DKMS (dkms-3.2.2) make.log for coda-rs/0.1.0 for kernel {kernel}")
        };
        for (log, is) in [
            (first("7.3.4+deb13-amd64 (x86_64)\nerror\n"), true),
            (first("7.3.4+deb13-amd64-rt (x86_64)\n"), false),
            (first("7.3.3+deb13-amd64 (x86_64)\n"), false),
            (String::new(), false),
        ] {
            assert_eq!(is_about(&log, "7.3.4+deb13-amd64"), is, "{log}");
        }
    }

    #[test]
    fn complaints() {
        assert_eq!(complaint("  CC x.o\n  LD y.o\n"), None);
        assert_eq!(
            complaint("a\nerror[E0514]: found crate\nmake: *** Error 2\n").as_deref(),
            Some("error[E0514]: found crate\nmake: *** Error 2")
        );
    }
}
