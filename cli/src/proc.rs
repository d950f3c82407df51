// SPDX-License-Identifier: GPL-2.0

//! What `/proc` tells of modules, mounts and processes.

use crate::root::{Root, is_absent, is_denied};
use serde::Serialize;
use std::collections::BTreeMap;
use std::io;

/// A module that is loaded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Module {
    /// Its name, with underscores.
    pub name: String,
    /// What it says of itself.
    pub version: Option<String>,
    /// `Live`, `Loading` or `Unloading`.
    pub state: String,
    /// How many use it: mounts, open devices.
    pub users: Option<u64>,
}

/// The line of a module in `/proc/modules`: name, size, users, who, state, address.
fn parse_modules(text: &str, name: &str) -> Option<Module> {
    text.lines().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        (*words.first()? == name).then(|| Module {
            name: name.to_owned(),
            version: None,
            state: words.get(4).unwrap_or(&"Live").to_string(),
            users: words.get(2).and_then(|w| w.parse().ok()),
        })
    })
}

/// A module by its name, if it is loaded.
pub fn module(root: &Root, name: &str) -> Option<Module> {
    let sys = format!("/sys/module/{name}");
    let listed = root
        .read("/proc/modules")
        .ok()
        .and_then(|text| parse_modules(&text, name));
    // What is built in has a directory as well, but no initstate.
    let mut found = match listed {
        Some(module) => module,
        None => Module {
            name: name.to_owned(),
            version: None,
            state: match root.line(&format!("{sys}/initstate")).ok()?.as_str() {
                "live" => "Live".to_owned(),
                "coming" => "Loading".to_owned(),
                "going" => "Unloading".to_owned(),
                other => other.to_owned(),
            },
            users: root
                .line(&format!("{sys}/refcnt"))
                .ok()
                .and_then(|w| w.parse().ok()),
        },
    };
    found.version = root
        .line(&format!("{sys}/version"))
        .ok()
        .filter(|v| !v.is_empty());
    Some(found)
}

/// A mount, as `/proc/self/mountinfo` has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Mount {
    /// Where.
    pub point: String,
    /// What it calls itself.
    pub source: String,
    /// Type of file system.
    #[serde(skip)]
    pub kind: String,
    /// Options of the mount and, where they differ, of the file system.
    pub options: String,
}

/// `\040` and its like, for what would end a word.
fn unescape(word: &str) -> String {
    let bytes = word.as_bytes();
    let mut plain = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let octal = (byte == b'\\')
            .then(|| bytes.get(at + 1..at + 4))
            .flatten()
            .and_then(|d| std::str::from_utf8(d).ok())
            .filter(|d| d.bytes().all(|b| b.is_ascii_digit()))
            .and_then(|d| u8::from_str_radix(d, 8).ok());
        match octal {
            Some(value) => {
                plain.push(value);
                at += 4;
            }
            None => {
                plain.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&plain).into_owned()
}

/// A line of mountinfo: any number of optional fields, then ` - `.
fn parse_mount(line: &str) -> Option<Mount> {
    let (here, there) = line.split_once(" - ")?;
    let here: Vec<&str> = here.split(' ').collect();
    let there: Vec<&str> = there.split(' ').collect();
    let mut options = (*here.get(5)?).to_owned();
    let had: Vec<&str> = here.get(5)?.split(',').collect();
    for option in there.get(2).unwrap_or(&"").split(',') {
        if !option.is_empty() && !had.contains(&option) {
            options += ",";
            options += option;
        }
    }
    Some(Mount {
        point: unescape(here.get(4)?),
        kind: unescape(there.first()?),
        source: unescape(there.get(1)?),
        options,
    })
}

/// The mounts that this process can see.
pub fn mounts(root: &Root) -> io::Result<Vec<Mount>> {
    let text = root.read("/proc/self/mountinfo")?;
    Ok(text.lines().filter_map(parse_mount).collect())
}

/// What a process is called, as long as it is there.
pub fn command(root: &Root, pid: i32) -> Option<String> {
    root.line(&format!("/proc/{pid}/comm"))
        .ok()
        .filter(|c| !c.is_empty())
}

/// A field of `/proc/PID/status`.
fn field(root: &Root, pid: i32, name: &str) -> Option<String> {
    let text = root.read(&format!("/proc/{pid}/status")).ok()?;
    text.lines().find_map(|line| {
        let value = line.strip_prefix(name)?.strip_prefix(':')?;
        Some(value.trim().to_owned())
    })
}

/// The process that a thread is of, as long as it is there.
pub fn process(root: &Root, thread: i32) -> Option<i32> {
    field(root, thread, "Tgid")?.parse().ok()
}

/// Does `/proc` show all processes, by the numbers that the kernel has for them? Not in a PID namespace
/// of its own, such as a container's, and not to whom `hidepid` hides them. All threads of the kernel
/// are in the initial namespace, and there kthreadd is number 2 and root's.
pub fn is_whole(root: &Root) -> bool {
    field(root, 2, "Kthread").as_deref() == Some("1")
}

/// What a process is called whose number the module tells, as far as `/proc` has it by that number.
pub fn command_of(root: &Root, whole: bool, pid: i32) -> Option<String> {
    whole.then(|| command(root, pid)).flatten()
}

/// A command for people.
pub fn called(command: Option<&str>, whole: bool) -> &str {
    command.unwrap_or(if whole { "gone" } else { "not shown here" })
}

/// A process that has a device open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Opener {
    /// As `/proc` has it; where the module tells, in the initial namespace.
    pub pid: i32,
    /// Nothing if it is gone, or is not shown here.
    pub command: Option<String>,
}

/// Why there may be processes of which it is not known what they have open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Veil {
    /// They are not in this `/proc`.
    Elsewhere,
    /// By rights.
    NeedsRoot,
    /// Root is less than that, by its capabilities or for another reason.
    NeedsPtrace,
}

impl std::fmt::Display for Veil {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Veil::Elsewhere => {
                "/proc does not show all processes here, as in a container; root outside of it is told"
            }
            Veil::NeedsRoot => "needs root",
            Veil::NeedsPtrace => {
                "this root may not look at all processes: it needs CAP_SYS_PTRACE, or something like \
                 SELinux forbids it"
            }
        })
    }
}

impl Veil {
    fn of(whole: bool, denied: bool, hidepid: bool, root: bool) -> Option<Self> {
        match (whole, hidepid) {
            (true, _) if !denied => None,
            (false, false) => Some(Veil::Elsewhere),
            _ if root => Some(Veil::NeedsPtrace),
            _ => Some(Veil::NeedsRoot),
        }
    }
}

/// Are processes hidden by an option of `/proc`?
fn has_hidepid(root: &Root) -> bool {
    mounts(root).is_ok_and(|all| {
        let last = all.iter().rfind(|m| m.point == "/proc");
        last.is_some_and(|m| m.options.split(',').any(|o| o.starts_with("hidepid=")))
    })
}

/// Who has a device open, by the name of the device.
#[derive(Debug)]
pub struct Openers {
    /// Found.
    pub devices: BTreeMap<String, Vec<Opener>>,
    /// Why there may be others.
    pub veil: Option<Veil>,
}

/// Looks through the descriptors of all processes.
pub fn openers(root: &Root, whole: bool) -> Openers {
    let mut devices: BTreeMap<String, Vec<Opener>> = BTreeMap::new();
    let mut denied = false;
    let names = root.list("/proc").unwrap_or_default();
    let mut pids: Vec<i32> = names.iter().filter_map(|n| n.parse().ok()).collect();
    pids.sort_unstable();
    for pid in pids {
        let dir = format!("/proc/{pid}/fd");
        let fds = match root.list(&dir) {
            Ok(fds) => fds,
            Err(err) => {
                denied |= is_denied(&err);
                continue;
            }
        };
        for fd in fds {
            let to = match root.read_link(&format!("{dir}/{fd}")) {
                Ok(to) => to,
                Err(err) => {
                    // Root may list what it may not look at. Or it is closed by now.
                    denied |= is_denied(&err);
                    continue;
                }
            };
            let to = to.to_string_lossy();
            let Some(device) = to.strip_prefix("/dev/").filter(|d| is_device(d)) else {
                continue;
            };
            let who = devices.entry(device.to_owned()).or_default();
            if who.last().is_none_or(|o| o.pid != pid) {
                who.push(Opener {
                    pid,
                    command: command(root, pid),
                });
            }
        }
    }
    let root_here = is_root() && !root.is_recorded();
    Openers {
        devices,
        veil: Veil::of(whole, denied, has_hidepid(root), root_here),
    }
}

/// The names of the devices.
pub const DEVICES: [&str; 5] = ["cfs0", "cfs1", "cfs2", "cfs3", "cfs4"];

fn is_device(name: &str) -> bool {
    DEVICES.contains(&name)
}

/// Is a type of file system known to the kernel? Nothing if that cannot be told.
pub fn has_filesystem(root: &Root, kind: &str) -> Option<bool> {
    let text = root.read("/proc/filesystems").ok()?;
    Some(
        text.lines()
            .any(|line| line.split_whitespace().next_back() == Some(kind)),
    )
}

/// Why a file of the module's in debugfs cannot be read.
#[derive(Debug, PartialEq, Eq)]
pub enum Hidden {
    /// By rights.
    NeedsRoot,
    /// The kernel is locked down, or has no debugfs.
    Refused,
    /// The module is not loaded.
    NotLoaded,
    /// debugfs is not mounted.
    NotMounted,
    /// The module has no such file.
    NotThere,
    /// Something else, in the kernel's words.
    Failed(String),
}

impl std::fmt::Display for Hidden {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Hidden::NeedsRoot => write!(f, "needs root, as {DEBUGFS} is for root alone"),
            Hidden::Refused => write!(
                f,
                "the kernel refuses {DEBUGFS} to root, too; it may be locked down"
            ),
            Hidden::NotLoaded => write!(
                f,
                "the module coda_rs is not loaded; `coda-rs doctor` tells why"
            ),
            Hidden::NotMounted => write!(
                f,
                "debugfs is not mounted; `mount -t debugfs none /sys/kernel/debug` does it"
            ),
            Hidden::NotThere => write!(
                f,
                "there is no {DEBUGFS}/coda_rs: this version of the module has no statistics, \
                 or the kernel was started without debugfs"
            ),
            Hidden::Failed(why) => write!(f, "{DEBUGFS}/coda_rs cannot be read: {why}"),
        }
    }
}

impl std::error::Error for Hidden {}

const DEBUGFS: &str = "/sys/kernel/debug";

/// Are we root? (A recorded tree is read as root would.)
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// One of the module's files in debugfs.
pub fn debugfs(root: &Root, file: &str) -> Result<String, Hidden> {
    let err = match root.read(&format!("{DEBUGFS}/coda_rs/{file}")) {
        Ok(text) => return Ok(text),
        Err(err) => err,
    };
    let known = module(root, "coda_rs").is_some();
    if is_denied(&err) {
        return Err(match (known, root.is_recorded() || !is_root()) {
            (false, _) => Hidden::NotLoaded,
            (_, true) => Hidden::NeedsRoot,
            _ => Hidden::Refused,
        });
    }
    if !is_absent(&err) {
        return Err(Hidden::Failed(err.to_string()));
    }
    if !known {
        return Err(Hidden::NotLoaded);
    }
    let mounted = mounts(root).is_ok_and(|all| all.iter().any(|m| m.kind == "debugfs"));
    Err(if mounted {
        Hidden::NotThere
    } else {
        Hidden::NotMounted
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn modules() {
        let text = "coda_rs 212992 2 - Live 0x0000000000000000 (OE)\n\
                    coda 61440 0 - Unloading 0x0000000000000000\n\
                    short\n";
        let ours = parse_modules(text, "coda_rs").unwrap();
        assert_eq!((ours.users, ours.state.as_str()), (Some(2), "Live"));
        assert_eq!(parse_modules(text, "coda").unwrap().state, "Unloading");
        assert_eq!(parse_modules(text, "cod"), None);
        assert_eq!(parse_modules(text, "short").unwrap().users, None);
    }

    #[test]
    fn what_may_be_hidden() {
        use Veil::{Elsewhere, NeedsPtrace, NeedsRoot};
        for (whole, denied, hidepid, root, veil) in [
            (true, false, false, true, None),
            // root sees all of it, whatever others see.
            (true, false, true, true, None),
            (true, true, false, false, Some(NeedsRoot)),
            (true, true, false, true, Some(NeedsPtrace)),
            (false, false, true, false, Some(NeedsRoot)),
            (false, false, true, true, Some(NeedsPtrace)),
            (false, false, false, true, Some(Elsewhere)),
            (false, true, false, false, Some(Elsewhere)),
        ] {
            assert_eq!(Veil::of(whole, denied, hidepid, root), veil);
        }
    }

    #[test]
    fn mount_lines() {
        let line =
            r"61 29 0:45 / /srv/co\040da\134 rw,relatime shared:12 master:1 - coda coda rw,x=1";
        let mount = parse_mount(line).unwrap();
        assert_eq!(mount.point, r"/srv/co da\");
        assert_eq!(mount.options, "rw,relatime,x=1");
        assert_eq!(
            (mount.kind.as_str(), mount.source.as_str()),
            ("coda", "coda")
        );
        assert_eq!(parse_mount("61 29 0:45 / /coda rw - coda"), None);
        assert_eq!(parse_mount("61 29 0:45 - coda coda rw"), None);
        assert_eq!(unescape(r"\04\0400\999\04"), "\\04 0\\999\\04");
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(text in "(\\PC|\\\\|[0-7]| - | ){0,200}") {
            parse_mount(&text);
            parse_modules(&text, "coda");
            unescape(&text);
        }

        #[test]
        fn escapes_come_back(name in "\\PC{0,40}") {
            let mut escaped = String::new();
            for c in name.chars() {
                match c {
                    ' ' | '\t' | '\n' | '\\' | '#' => escaped += &format!("\\{:03o}", c as u32),
                    c => escaped.push(c),
                }
            }
            prop_assert_eq!(unescape(&escaped), name);
        }
    }
}
