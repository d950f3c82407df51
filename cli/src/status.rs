// SPDX-License-Identifier: GPL-2.0

//! `coda-rs status`: what there is, who talks to whom, and what is on its way.

use crate::out::{self, BAD, DIM, FAIR, GOOD};
use crate::proc::{self, Module, Mount, Opener, Veil};
use crate::root::{Node, Root};
use crate::table::{self, Request, Upcall};
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::{self, Write};

/// All that is known at this moment.
#[derive(Debug, Serialize)]
pub struct Status {
    /// coda_rs, if it is loaded.
    pub module: Option<Module>,
    /// The kernel's own C module, if that is loaded.
    pub c_module: Option<Module>,
    /// `/dev/cfs0` to `/dev/cfs4`.
    pub devices: Vec<Device>,
    /// What is mounted of type coda, as seen from here.
    pub mounts: Option<Vec<Mount>>,
    /// What is on its way, the oldest first.
    pub requests: Option<Vec<RequestOf>>,
    /// Since the module was loaded.
    pub upcalls: Option<Vec<Upcall>>,
    /// Since the module was loaded.
    pub files: Option<BTreeMap<String, u64>>,
    /// Why something is not known, by its name above.
    pub unknown: BTreeMap<&'static str, String>,
    /// Why it may be that not all openers are known.
    #[serde(skip)]
    pub veil: Option<Veil>,
    /// Does `/proc` show all processes?
    #[serde(skip)]
    pub whole: bool,
}

/// A device.
#[derive(Debug, Serialize)]
pub struct Device {
    /// As in `/dev`.
    pub name: String,
    /// Is its node there?
    pub node: bool,
    /// Who has it open; nothing if that is not known.
    pub openers: Option<Vec<Opener>>,
    /// Does a mount stand on it?
    pub mounted: Option<bool>,
    /// Requests that were not read yet.
    pub pending: Option<u64>,
    /// Requests that were read and not answered.
    pub outstanding: Option<u64>,
}

/// A request, and what waits for it.
#[derive(Debug, Serialize)]
pub struct RequestOf {
    /// The kernel's words.
    #[serde(flatten)]
    pub request: Request,
    /// Who waits.
    pub command: Option<String>,
}

/// Major number of the devices.
pub const MAJOR: u64 = 67;

/// Finds out.
pub fn gather(root: &Root) -> Status {
    let whole = proc::is_whole(root);
    let mut unknown = BTreeMap::new();
    let mut keep = |what, result: Result<String, proc::Hidden>| match result {
        Ok(text) => Some(text),
        Err(why) => {
            unknown.insert(what, why.to_string());
            None
        }
    };
    let open = keep("devices", proc::debugfs(root, "devices")).map(|t| table::devices(&t));
    let requests = keep("requests", proc::debugfs(root, "requests")).map(|t| {
        let with_command = |request: Request| RequestOf {
            command: proc::command_of(root, whole, request.pid),
            request,
        };
        table::requests(&t).into_iter().map(with_command).collect()
    });
    let upcalls = keep("upcalls", proc::debugfs(root, "upcalls")).map(|t| table::upcalls(&t));
    let files = keep("files", proc::debugfs(root, "files")).map(|t| table::files(&t));

    // A device that was opened is not always open in the process that did it.
    let seen = proc::openers(root, whole);
    let devices: Vec<Device> = proc::DEVICES
        .iter()
        .enumerate()
        .map(|(minor, name)| {
            let told = open
                .as_ref()
                .map(|all| all.iter().find(|d| d.device == *name));
            let mut openers = seen.devices.get(*name).cloned().unwrap_or_default();
            if let Some(Some(told)) = told {
                if openers.is_empty() {
                    openers.push(Opener {
                        pid: told.pid,
                        command: proc::command_of(root, whole, told.pid),
                    });
                }
            }
            let known = told.is_some() || seen.veil.is_none() || !openers.is_empty();
            Device {
                name: (*name).to_owned(),
                node: root.node(&format!("/dev/{name}")).ok()
                    == Some(Node::Char(MAJOR, minor as u64)),
                openers: known.then_some(openers),
                mounted: told.map(|t| t.is_some_and(|t| t.mounted)),
                pending: told.map(|t| t.map_or(0, |t| t.pending)),
                outstanding: told.map(|t| t.map_or(0, |t| t.outstanding)),
            }
        })
        .collect();
    if let Some(veil) = seen
        .veil
        .filter(|_| devices.iter().any(|d| d.openers.is_none()))
    {
        unknown.insert("openers", veil.to_string());
    }
    let mounts = match proc::mounts(root) {
        Ok(all) => Some(all.into_iter().filter(|m| m.kind == "coda").collect()),
        Err(err) => {
            let why = format!("/proc/self/mountinfo cannot be read: {err}");
            unknown.insert("mounts", why);
            None
        }
    };
    Status {
        module: proc::module(root, "coda_rs"),
        c_module: proc::module(root, "coda").or_else(|| built_in(root)),
        devices,
        mounts,
        requests,
        upcalls,
        files,
        unknown,
        veil: seen.veil,
        whole,
    }
}

/// C's module, if it is part of the kernel: then the type is registered, and no module is loaded.
fn built_in(root: &Root) -> Option<Module> {
    let nobody = proc::module(root, "coda_rs").is_none() && proc::module(root, "coda").is_none();
    (nobody && proc::has_filesystem(root, "coda")?).then(|| Module {
        name: "coda".to_owned(),
        version: None,
        state: "built in".to_owned(),
        users: None,
    })
}

impl Status {
    /// Is it known that no cache manager serves what is mounted?
    pub fn mounts_are_dead(&self) -> bool {
        let gone = |d: &Device| d.openers.as_deref().is_some_and(<[_]>::is_empty);
        let unserved = |d: &Device| d.mounted == Some(false);
        self.devices.iter().all(gone) || self.devices.iter().all(unserved)
    }

    /// Is it known that a cache manager is there that serves a mount, or may?
    pub fn is_served(&self) -> bool {
        let open = |d: &Device| d.openers.as_deref().is_some_and(|o| !o.is_empty());
        self.devices.iter().any(open)
    }

    /// A process for people.
    pub fn who(&self, opener: &Opener) -> String {
        let command = proc::called(opener.command.as_deref(), self.whole);
        format!("{} ({command})", opener.pid)
    }

    /// For people.
    pub fn print(&self, out: &mut impl Write) -> io::Result<()> {
        self.print_module(out)?;
        match self.mounts.as_deref() {
            Some([]) => writeln!(out, "mount     {DIM}none{DIM:#}")?,
            Some(mounts) => {
                let dead = match self.mounts_are_dead() {
                    true => format!(" {BAD}is dead, as its cache manager is gone{BAD:#}"),
                    false => String::new(),
                };
                for mount in mounts {
                    writeln!(
                        out,
                        "mount     {} {DIM}({}){DIM:#}{dead}",
                        out::safe(&mount.point),
                        out::safe(&mount.options)
                    )?;
                }
            }
            None => self.print_unknown(out, "mount", "mounts")?,
        }
        self.print_devices(out)?;
        self.print_requests(out)?;
        if let (Some(upcalls), Some(files)) = (&self.upcalls, &self.files) {
            print_totals(out, upcalls, files)?;
        }
        Ok(())
    }

    fn print_unknown(&self, out: &mut impl Write, label: &str, what: &str) -> io::Result<()> {
        let why = self.unknown.get(what).map_or("", String::as_str);
        writeln!(out, "{label:<9} {FAIR}not known: {why}{FAIR:#}")
    }

    fn print_module(&self, out: &mut impl Write) -> io::Result<()> {
        if let Some(module) = &self.module {
            let version = module.version.as_deref().unwrap_or("of unknown version");
            let style = if module.state == "Live" { GOOD } else { FAIR };
            write!(
                out,
                "module    coda_rs {}, {style}{}{style:#}",
                out::safe(version),
                match module.state.as_str() {
                    "Live" => "loaded",
                    "Loading" => "being loaded",
                    "Unloading" => "being unloaded",
                    other => other,
                }
            )?;
            if let Some(users) = module.users {
                write!(out, ", {}", out::count(users, "user"))?;
            }
            writeln!(out)?;
        }
        if let Some(c) = &self.c_module {
            let state = match c.state.as_str() {
                "built in" => "which is part of this kernel",
                _ => "which is loaded",
            };
            writeln!(
                out,
                "module    {BAD}it is the kernel's own C module coda, {state}{BAD:#}"
            )?;
        }
        if self.module.is_none() && self.c_module.is_none() {
            writeln!(
                out,
                "module    {BAD}coda_rs is not loaded{BAD:#}; `coda-rs doctor` tells why"
            )?;
        }
        Ok(())
    }

    fn print_devices(&self, out: &mut impl Write) -> io::Result<()> {
        let mut idle = Vec::new();
        let mut absent = Vec::new();
        let mut hidden = false;
        for device in &self.devices {
            let name = device.name.as_str();
            match device.openers.as_deref() {
                Some([]) if device.node => idle.push(name),
                Some([]) => absent.push(name),
                None => {
                    hidden = true;
                    if !device.node {
                        absent.push(name);
                    }
                }
                Some(openers) => {
                    let list: Vec<String> =
                        openers.iter().map(|o| out::safe(&self.who(o))).collect();
                    write!(out, "device    {name}: open by {}", list.join(", "))?;
                    if let (Some(mounted), Some(pending), Some(outstanding)) =
                        (device.mounted, device.pending, device.outstanding)
                    {
                        write!(
                            out,
                            ", {}, {pending} pending, {outstanding} outstanding",
                            if mounted { "mounted" } else { "not mounted" }
                        )?;
                    }
                    if !device.node {
                        write!(out, ", {FAIR}no node in /dev{FAIR:#}")?;
                    }
                    writeln!(out)?;
                }
            }
        }
        if hidden && absent.len() < self.devices.len() {
            let why = self.unknown.get("openers").map_or("", String::as_str);
            writeln!(
                out,
                "device    {FAIR}who has one open is not known: {why}{FAIR:#}"
            )?;
        }
        for (names, what) in [(idle, "not open"), (absent, "no node in /dev")] {
            if !names.is_empty() {
                writeln!(out, "device    {DIM}{}: {what}{DIM:#}", names.join(" "))?;
            }
        }
        Ok(())
    }

    fn print_requests(&self, out: &mut impl Write) -> io::Result<()> {
        let Some(requests) = &self.requests else {
            return if self.module.is_some() {
                self.print_unknown(out, "requests", "requests")
            } else {
                Ok(())
            };
        };
        let Some(oldest) = requests.first() else {
            return writeln!(out, "requests  {DIM}none on its way{DIM:#}");
        };
        writeln!(
            out,
            "requests  {} on {} way, the oldest for {}",
            out::count(requests.len() as u64, "request"),
            if requests.len() == 1 { "its" } else { "their" },
            out::short_time(oldest.request.age_ms.saturating_mul(1_000_000))
        )?;
        let rows: Vec<Vec<String>> = requests
            .iter()
            .map(|r| {
                let command = proc::called(r.command.as_deref(), self.whole);
                vec![
                    out::safe(&r.request.device),
                    r.request.unique.to_string(),
                    out::safe(&r.request.opcode),
                    out::safe(&r.request.state),
                    out::short_time(r.request.age_ms.saturating_mul(1_000_000)),
                    format!("{} ({})", r.request.pid, out::safe(command)),
                    out::safe(&r.request.fid),
                ]
            })
            .collect();
        for line in out::align("<><<><<", &rows) {
            writeln!(out, "          {line}")?;
        }
        Ok(())
    }
}

fn print_totals(
    out: &mut impl Write,
    upcalls: &[Upcall],
    files: &BTreeMap<String, u64>,
) -> io::Result<()> {
    let sum = |of: fn(&Upcall) -> u64| upcalls.iter().fold(0u64, |n, u| n.saturating_add(of(u)));
    writeln!(
        out,
        "so far    {}, {}, {} given up",
        out::count(sum(|u| u.calls), "upcall"),
        out::count(sum(|u| u.errors), "error"),
        sum(|u| u.given_up)
    )?;
    let file = |name: &str| files.get(name).copied().unwrap_or(0);
    writeln!(
        out,
        "          {}; closes: {} modified, {} not modified, {} only read",
        out::count(file("opens"), "open"),
        file("closes_modified"),
        file("closes_clean"),
        file("closes_read"),
    )
}

/// `coda-rs status`.
pub fn run(root: &Root, json: bool) -> anyhow::Result<()> {
    let status = gather(root);
    let mut out = out::stdout();
    if json {
        out::json(&mut out, &status)?;
    } else {
        status.print(&mut out)?;
    }
    out.flush()?;
    Ok(())
}
