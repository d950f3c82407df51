// SPDX-License-Identifier: GPL-2.0

//! What a tree looks like: one JSON object a line.

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Times from here on are the clock's, and not the same in another boot.
pub const NOW: i64 = 1_000_000_000;

/// How far apart two times have to be for their order to mean anything, in
/// seconds. The kernel's clock ticks every few milliseconds.
const APART: f64 = 0.05;

/// What to look at.
#[derive(clap::Args)]
pub struct TreeArgs {
    /// The directory.
    dir: PathBuf,
}

fn describe(path: &Path, name: &str) -> Result<Value> {
    let meta = fs::symlink_metadata(path)?;
    let kind = meta.file_type();
    let mut line = json!({
        "path": name,
        "mode": format!("{:o}", meta.mode() & 0o7777),
        "nlink": meta.nlink(),
        "uid": meta.uid(),
        "gid": meta.gid(),
        "mtime": meta.mtime() as f64 + meta.mtime_nsec() as f64 / 1e9,
    });
    if kind.is_dir() {
        line["type"] = json!("dir");
    } else if kind.is_symlink() {
        line["type"] = json!("symlink");
        line["target"] = json!(fs::read_link(path)?.to_string_lossy());
    } else if kind.is_file() {
        line["type"] = json!("file");
        line["size"] = json!(meta.size());
        let mut hash = Sha256::new();
        io::copy(&mut File::open(path)?, &mut hash)?;
        line["hash"] = json!(format!("{:x}", hash.finalize()));
    } else {
        line["type"] = json!(if kind.is_fifo() { "fifo" } else { "other" });
    }
    Ok(line)
}

/// Prints the tree.
pub fn run(args: &TreeArgs) -> Result<()> {
    for entry in walkdir::WalkDir::new(&args.dir).sort_by_file_name() {
        let entry = entry?;
        let name = entry.path().strip_prefix(&args.dir)?.to_string_lossy();
        let name = if name.is_empty() { "." } else { &name };
        let line = describe(entry.path(), name).with_context(|| name.to_owned())?;
        println!("{line}");
    }
    Ok(())
}

/// A tree that was printed.
#[derive(Debug)]
pub struct Tree(BTreeMap<String, Value>);

impl Tree {
    /// Reads what [`run`] printed.
    pub fn parse(text: &str) -> Result<Self> {
        let mut all = BTreeMap::new();
        for line in text.lines() {
            let entry: Value = serde_json::from_str(line).context("a line of the tree")?;
            let Some(path) = entry["path"].as_str() else {
                bail!("a line without a path: {line}");
            };
            all.insert(path.to_owned(), entry);
        }
        Ok(Tree(all))
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether an earlier time of one is a later one of the other: pairs of
    /// paths.
    fn disordered<'a>(&'a self, ours: &'a Tree) -> Vec<(&'a str, &'a str)> {
        let time = |v: &Value| v["mtime"].as_f64().unwrap_or(0.0);
        let mut times: Vec<(f64, f64, &str)> = self
            .0
            .iter()
            .filter_map(|(path, c)| Some((time(c), time(ours.0.get(path)?), path.as_str())))
            .filter(|(c, ours, _)| *c >= NOW as f64 && *ours >= NOW as f64)
            .collect();
        times.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut pairs = Vec::new();
        // The latest of ours among those that are certainly earlier in C's.
        let (mut behind, mut latest): (usize, Option<(f64, &str)>) = (0, None);
        for &(c, ours, path) in &times {
            while times[behind].0 + APART < c {
                let (_, time, path) = times[behind];
                if latest.is_none_or(|(t, _)| t < time) {
                    latest = Some((time, path));
                }
                behind += 1;
            }
            if let Some((time, earlier)) = latest {
                if time > ours + APART {
                    pairs.push((earlier, path));
                }
            }
        }
        pairs
    }

    /// How `ours` is different, in words.
    pub fn differences(&self, ours: &Tree, in_order: bool) -> Vec<String> {
        let mut all = Vec::new();
        for (path, c) in &self.0 {
            let Some(other) = ours.0.get(path) else {
                all.push(format!("tree: only C has {path}"));
                continue;
            };
            let kind = c["type"].as_str().unwrap_or("?");
            let fields = c.as_object().into_iter().flatten().map(|(key, _)| key);
            let extra = other.as_object().into_iter().flatten().map(|(key, _)| key);
            let mut keys: Vec<_> = fields.chain(extra.filter(|k| c.get(k).is_none())).collect();
            keys.retain(|key| *key != "path");
            for key in keys {
                let (c, ours) = (&c[key], &other[key]);
                // The clock's times are looked at below.
                let now = |v: &Value| v.as_f64().is_some_and(|t| t >= NOW as f64);
                if c != ours && !(key == "mtime" && now(c) && now(ours)) {
                    all.push(format!("tree: {key} of {kind} {path}: C {c}, ours {ours}"));
                }
            }
        }
        for path in ours.0.keys().filter(|path| !self.0.contains_key(*path)) {
            all.push(format!("tree: only ours has {path}"));
        }
        if in_order {
            for (earlier, later) in self.disordered(ours) {
                all.push(format!("tree: in C {earlier} is older than {later}"));
            }
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(lines: &[Value]) -> Tree {
        let text: Vec<String> = lines.iter().map(Value::to_string).collect();
        Tree::parse(&text.join("\n")).unwrap()
    }

    #[test]
    fn a_tree_is_like_itself() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("f"), b"content").unwrap();
        std::os::unix::fs::symlink("f", dir.path().join("l")).unwrap();
        let lines = ["f", "l"].map(|name| describe(&dir.path().join(name), name).unwrap());
        assert_eq!(lines[0]["size"], 7);
        assert_eq!(lines[1]["target"], "f");
        let (a, b) = (tree(&lines), tree(&lines));
        assert_eq!(a.differences(&b, true), [""; 0]);
    }

    #[test]
    fn every_field_counts() {
        let a = tree(&[
            json!({ "path": "f", "type": "file", "size": 1, "mtime": 5.0 }),
            json!({ "path": "g" }),
        ]);
        let b = tree(&[
            json!({ "path": "f", "type": "file", "size": 2, "mtime": 6.0 }),
            json!({ "path": "h" }),
        ]);
        assert_eq!(
            a.differences(&b, true),
            [
                "tree: size of file f: C 1, ours 2",
                "tree: mtime of file f: C 5.0, ours 6.0",
                "tree: only C has g",
                "tree: only ours has h",
            ]
        );
    }

    #[test]
    fn the_order_of_times_counts() {
        let at = |path: &str, time: f64| json!({ "path": path, "mtime": NOW as f64 + time });
        let a = tree(&[at("f", 1.0), at("g", 1.01), at("h", 2.0)]);
        let same = tree(&[at("f", 7.01), at("g", 7.0), at("h", 7.02)]);
        assert_eq!(a.differences(&same, true), [""; 0]);
        let other = tree(&[at("f", 1.0), at("g", 3.0), at("h", 2.0)]);
        assert_eq!(
            a.differences(&other, true),
            ["tree: in C g is older than h"]
        );
        assert_eq!(a.differences(&other, false), [""; 0]);
    }
}
