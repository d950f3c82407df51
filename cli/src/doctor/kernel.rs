// SPDX-License-Identifier: GPL-2.0

//! What a kernel is made of: its release, its configuration, what modprobe and the log say.

use crate::root::Root;
use std::collections::BTreeMap;

/// The oldest kernel that coda_rs is known to work with.
pub const OLDEST: (u32, u32) = (7, 2);
/// The newest one.
pub const NEWEST: (u32, u32) = (7, 3);

/// Major and minor number of a release such as `7.3.4+deb13-amd64`.
pub fn version(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split('.');
    let major = parts.next()?.parse().ok()?;
    let minor = parts.next()?;
    let digits = minor.find(|c: char| !c.is_ascii_digit());
    Some((major, minor[..digits.unwrap_or(minor.len())].parse().ok()?))
}

/// A kernel's configuration.
#[derive(Debug, Default)]
pub struct Config(BTreeMap<String, String>);

impl Config {
    /// Reads `CONFIG_X=y` and `CONFIG_X="text"`.
    pub fn parse(text: &str) -> Self {
        let value = |line: &str| {
            let (name, value) = line.strip_prefix("CONFIG_")?.split_once('=')?;
            Some((name.to_owned(), value.trim().trim_matches('"').to_owned()))
        };
        Self(text.lines().filter_map(value).collect())
    }

    /// That of a release, and where it was found.
    pub fn of(root: &Root, release: &str) -> Option<(Self, String)> {
        [
            format!("/lib/modules/{release}/build/.config"),
            format!("/lib/modules/{release}/config"),
            format!("/boot/config-{release}"),
        ]
        .into_iter()
        .find_map(|path| Some((Self::parse(&root.read(&path).ok()?), path)))
    }

    /// The value of an option, if it is set.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// Is it built in?
    pub fn is_set(&self, name: &str) -> bool {
        self.get(name) == Some("y")
    }

    /// A version as the kernel writes it: 108501 is 1.85.1.
    pub fn version(&self, name: &str) -> Option<(u32, u32, u32)> {
        let number: u32 = self.get(name)?.parse().ok()?;
        let (major, rest) = (number / 100_000, number % 100_000);
        (number > 0).then_some((major, rest / 100, rest % 100))
    }
}

/// `1.85.1` out of `rustc 1.85.1 (4eb161250 2025-03-15)` or `bindgen 0.71.1`.
pub fn tool_version(said: &str) -> Option<(u32, u32, u32)> {
    said.split_whitespace().find_map(|word| {
        let mut parts = word.trim_matches(|c: char| c == ',' || c == ')').split('.');
        let major = parts.next()?.parse().ok()?;
        let minor = parts.next()?.parse().ok()?;
        let patch = parts.next().unwrap_or("0");
        let end = patch
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(patch.len());
        Some((major, minor, patch[..end].parse().unwrap_or(0)))
    })
}

/// What modprobe's configuration says of the C module.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Modprobe {
    /// The file that blacklists `coda`, or makes its loading do something else.
    pub blacklisted: Option<String>,
    /// The same of coda_rs, which would keep that from being loaded.
    pub ours_blacklisted: Option<String>,
    /// The file that leads the alias `fs-coda` to coda_rs.
    pub alias: Option<String>,
}

/// The directories that modprobe reads, from the strongest on.
const MODPROBE_DIRS: [&str; 5] = [
    "/etc/modprobe.d",
    "/run/modprobe.d",
    "/usr/local/lib/modprobe.d",
    "/usr/lib/modprobe.d",
    "/lib/modprobe.d",
];

impl Modprobe {
    /// Takes a file of it.
    fn take(&mut self, text: &str, path: &str) {
        // A backslash goes on with the next line.
        for line in text.replace("\\\n", " ").lines() {
            let words: Vec<String> = line
                .split_whitespace()
                .map(|w| w.replace('-', "_"))
                .collect();
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            let slot = match words.as_slice() {
                ["blacklist" | "install", "coda", ..] => &mut self.blacklisted,
                ["blacklist" | "install", "coda_rs", ..] => &mut self.ours_blacklisted,
                ["alias", "fs_coda", "coda_rs", ..] => &mut self.alias,
                _ => continue,
            };
            slot.get_or_insert_with(|| path.to_owned());
        }
    }

    /// Reads all of it; a file in one directory hides those of the same name in later ones.
    pub fn read(root: &Root) -> Self {
        let mut found = Self::default();
        let mut seen = Vec::new();
        for dir in MODPROBE_DIRS {
            for name in root.list(dir).unwrap_or_default() {
                if !name.ends_with(".conf") || seen.contains(&name) {
                    continue;
                }
                let path = format!("{dir}/{name}");
                if let Ok(text) = root.read(&path) {
                    found.take(&text, &path);
                }
                seen.push(name);
            }
        }
        // Of the kernel's command line, modprobe heeds this.
        let line = root.read("/proc/cmdline").unwrap_or_default();
        for list in line
            .split_whitespace()
            .filter_map(|w| w.strip_prefix("modprobe.blacklist="))
        {
            for name in list.split(',') {
                found.take(&format!("blacklist {name}"), "/proc/cmdline");
            }
        }
        found
    }
}

/// A line of the kernel's log.
#[derive(Debug, PartialEq, Eq)]
pub struct LogLine {
    /// 0 is the most urgent.
    pub level: u32,
    /// Since the machine was booted.
    pub us: u64,
    /// What it says.
    pub text: String,
}

/// Records of `/dev/kmsg`: `level,number,microseconds,flags;text`, with lines that begin with a blank
/// for what programs may want to know.
pub fn log_lines(text: &str) -> Vec<LogLine> {
    text.lines()
        .filter(|line| !line.starts_with(' '))
        .filter_map(|line| {
            let (head, text) = line.split_once(';')?;
            let mut head = head.split(',');
            let level: u32 = head.next()?.parse().ok()?;
            let us = head.nth(1)?.parse().ok()?;
            Some(LogLine {
                level: level & 7,
                us,
                text: text.to_owned(),
            })
        })
        .collect()
}

/// Lines of the log that are about coda_rs, or may be.
pub fn about_us(line: &LogLine) -> bool {
    line.text.contains("coda_rs") || line.text.contains("unsigned module loading is restricted")
}

/// Does this line say why coda_rs was not loaded, or that it is broken?
pub fn is_trouble(line: &LogLine) -> bool {
    const TROUBLE: [&str; 5] = [
        "version magic",
        "Unknown symbol",
        "disagrees about version of symbol",
        "is rejected",
        "is restricted",
    ];
    line.level <= 3 || TROUBLE.iter().any(|t| line.text.contains(t))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn versions() {
        assert_eq!(version("7.3.4+deb13-amd64"), Some((7, 3)));
        assert_eq!(version("7.3-rc1"), Some((7, 3)));
        assert_eq!(version("seven.3"), None);
        assert_eq!(version("7"), None);
        assert_eq!(
            tool_version("rustc 1.85.1 (4eb161250 2025-03-15)"),
            Some((1, 85, 1))
        );
        assert_eq!(tool_version("bindgen 0.71.1"), Some((0, 71, 1)));
        assert_eq!(tool_version("rustc 1.97.0-nightly (x)"), Some((1, 97, 0)));
        assert_eq!(
            tool_version("gcc-14 (Debian 14.2.0-19) 14.2.0"),
            Some((14, 2, 0))
        );
        assert_eq!(tool_version("rustup: no"), None);
        let config = Config::parse(
            "CONFIG_RUSTC_VERSION=108501\n# CONFIG_X is not set\nCONFIG_RUST=y\nCONFIG_T=\"a b\"\nCONFIG_RUSTC_LLVM_VERSION=0\n",
        );
        assert_eq!(config.version("RUSTC_VERSION"), Some((1, 85, 1)));
        assert_eq!(config.version("RUSTC_LLVM_VERSION"), None);
        assert!(config.is_set("RUST") && !config.is_set("X"));
        assert_eq!(config.get("T"), Some("a b"));
    }

    #[test]
    fn modprobe() {
        let mut found = Modprobe::default();
        found.take("# blacklist coda\nblacklist coda_other\n", "a");
        assert_eq!(found, Modprobe::default());
        found.take("alias fs-coda coda-rs\ninstall \\\n coda /bin/false\n", "b");
        found.take("blacklist coda\n", "c");
        assert_eq!(found.alias.as_deref(), Some("b"));
        assert_eq!(found.blacklisted.as_deref(), Some("b"));
        assert_eq!(found.ours_blacklisted, None);
    }

    #[test]
    fn log() {
        let lines = log_lines(
            "6,339,5140900,-;coda_rs: mounted, root is 0.0.0.0\n SUBSYSTEM=x\n\
             3,340,5140901,c;coda_rs: version magic '7.3.3' should be '7.3.4'\nhalf",
        );
        assert_eq!(lines.len(), 2);
        assert_eq!((lines[0].level, lines[0].us), (6, 5_140_900));
        assert!(about_us(&lines[0]) && !is_trouble(&lines[0]));
        assert!(is_trouble(&lines[1]));
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(text in "(\\PC|[0-9,;.=\"\\\\-]|\n|CONFIG_|blacklist |coda){0,200}") {
            version(&text);
            tool_version(&text);
            log_lines(&text);
            Modprobe::default().take(&text, "x");
            Config::parse(&text).version("RUSTC_VERSION");
        }
    }
}
