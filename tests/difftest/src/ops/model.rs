// SPDX-License-Identifier: GPL-2.0

//! What there would be if operations did what they are expected to do.

use super::op::{Op, value};
use super::{MAPS, PAGE, SLOTS};
use libc::c_int;
use std::collections::BTreeMap;

#[derive(Clone, Copy, PartialEq)]
pub(super) enum Kind {
    File,
    Dir,
    Link,
}

/// An object of the model.
pub(super) struct Node {
    pub(super) kind: Kind,
    pub(super) uid: u32,
    pub(super) mode: u32,
    pub(super) size: i64,
    pub(super) target: String,
}

impl Node {
    /// Whether the user has these rights (4, 2, 1). No actor has any groups but
    /// its own, and groups and users have the same numbers.
    pub(super) fn allows(&self, uid: u32, rights: u32) -> bool {
        let bits = if self.uid == uid {
            self.mode >> 6
        } else {
            self.mode
        };
        uid == 0 || bits & rights == rights
    }
}

/// A descriptor of the model.
#[derive(Clone)]
pub(super) struct Slot {
    pub(super) node: usize,
    pub(super) read: bool,
    pub(super) write: bool,
    pub(super) path_only: bool,
}

/// A mapping of the model.
#[derive(Clone)]
pub(super) struct Mapping {
    pub(super) len: usize,
    pub(super) private: bool,
    pub(super) read: bool,
    pub(super) write: bool,
}

/// What there would be if the operations did what they are expected to do.
pub(super) struct Model {
    /// Canonical paths, relative to the directory worked in, which is "".
    pub(super) names: BTreeMap<String, usize>,
    pub(super) nodes: Vec<Node>,
    pub(super) slots: Vec<[Option<Slot>; SLOTS]>,
    pub(super) maps: Vec<[Option<Mapping>; MAPS]>,
}

/// The user that an actor is.
pub(super) fn uid_of(who: usize) -> u32 {
    if who == 0 { 0 } else { 999 + who as u32 }
}

pub(super) fn join(dir: &str, name: &str) -> String {
    if dir.is_empty() {
        name.to_string()
    } else {
        format!("{dir}/{name}")
    }
}

pub(super) fn parent(path: &str) -> &str {
    path.rfind('/').map_or("", |at| &path[..at])
}

impl Model {
    pub(super) fn new(actors: usize) -> Self {
        let root = Node {
            kind: Kind::Dir,
            uid: 0,
            mode: 0o777,
            size: 0,
            target: String::new(),
        };
        Self {
            names: BTreeMap::from([(String::new(), 0)]),
            nodes: vec![root],
            slots: vec![Default::default(); actors],
            maps: vec![Default::default(); actors],
        }
    }

    /// The canonical path of something that need not exist itself.
    pub(super) fn walk(&self, uid: u32, path: &str, follow: bool, links: u32) -> Option<String> {
        if path.is_empty() || links > 8 {
            return None;
        }
        let rest = path.strip_prefix('@').unwrap_or(path);
        let parts = rest.split('/').filter(|part| !matches!(*part, "" | "."));
        let parts: Vec<&str> = parts.collect();
        let mut at = String::new();
        for (i, part) in parts.iter().enumerate() {
            let here = &self.nodes[*self.names.get(&at)?];
            if here.kind != Kind::Dir || !here.allows(uid, 1) || part.len() > 255 {
                return None;
            }
            if *part == ".." {
                // Nothing is known about what is above.
                if at.is_empty() {
                    return None;
                }
                at = parent(&at).to_string();
                continue;
            }
            let next = join(&at, part);
            let node = self.names.get(&next).map(|id| &self.nodes[*id]);
            if let Some(link) = node.filter(|node| node.kind == Kind::Link) {
                if follow || i + 1 < parts.len() {
                    let onward = match link.target.starts_with('@') {
                        true => link.target.clone(),
                        false => format!("@/{at}/{}", link.target),
                    };
                    let onward = format!("{onward}/{}", parts[i + 1..].join("/"));
                    return self.walk(uid, &onward, follow, links + 1);
                }
            }
            at = next;
        }
        Some(at)
    }

    pub(super) fn find(&self, uid: u32, path: &str, follow: bool) -> Option<usize> {
        let full = self.walk(uid, path, follow, 0)?;
        self.names.get(&full).copied()
    }

    /// The canonical path, if what it names can be added to or removed from
    /// its directory.
    pub(super) fn entry(&self, uid: u32, path: &str, follow: bool) -> Option<String> {
        let full = self.walk(uid, path, follow, 0)?;
        let dir = &self.nodes[*self.names.get(parent(&full))?];
        let good = !full.is_empty() && dir.kind == Kind::Dir && dir.allows(uid, 3);
        good.then_some(full)
    }

    /// The same for a name that is not there yet.
    pub(super) fn vacancy(&self, uid: u32, path: &str, follow: bool) -> Option<String> {
        let full = self.entry(uid, path, follow)?;
        (!self.names.contains_key(&full)).then_some(full)
    }

    pub(super) fn add(
        &mut self,
        full: String,
        kind: Kind,
        uid: u32,
        mode: u32,
        target: &str,
    ) -> usize {
        self.nodes.push(Node {
            kind,
            uid,
            mode,
            size: 0,
            target: target.to_string(),
        });
        self.names.insert(full, self.nodes.len() - 1);
        self.nodes.len() - 1
    }

    pub(super) fn is_empty(&self, full: &str) -> bool {
        let inside = format!("{full}/");
        !self.names.keys().any(|name| name.starts_with(&inside))
    }

    pub(super) fn open(&mut self, uid: u32, path: &str, flags: c_int, mode: u32) -> Option<Slot> {
        let has = |bits| flags & bits == bits;
        let access = flags & libc::O_ACCMODE;
        let path_only = has(libc::O_PATH);
        let rights = [4, 2, 6, 6][access as usize];
        let follow = !has(libc::O_NOFOLLOW) && !has(libc::O_CREAT | libc::O_EXCL);
        let full = self.walk(uid, path, follow, 0)?;
        let node = match self.names.get(&full).copied() {
            Some(id) => {
                let node = &mut self.nodes[id];
                let good = match node.kind {
                    _ if path_only => true,
                    Kind::File => !has(libc::O_DIRECTORY) && !path.ends_with('/'),
                    Kind::Dir => access == 0 && flags & (libc::O_CREAT | libc::O_TRUNC) == 0,
                    Kind::Link => false,
                };
                let denied = !path_only && !node.allows(uid, rights);
                if !good || denied || has(libc::O_CREAT | libc::O_EXCL) || has(libc::O_TMPFILE) {
                    return None;
                }
                if has(libc::O_TRUNC) {
                    node.size = 0;
                }
                id
            }
            None if has(libc::O_CREAT) && !has(libc::O_DIRECTORY) && !path_only => {
                let full = self.vacancy(uid, path, follow)?;
                self.add(full, Kind::File, uid, mode & !0o022, "")
            }
            None => return None,
        };
        Some(Slot {
            node,
            read: !path_only && matches!(access, libc::O_RDONLY | libc::O_RDWR),
            write: !path_only && matches!(access, libc::O_WRONLY | libc::O_RDWR),
            path_only,
        })
    }

    pub(super) fn rename(&mut self, uid: u32, from: &str, to: &str) -> Option<()> {
        let from = self.entry(uid, from, false)?;
        let to = self.entry(uid, to, false)?;
        let id = *self.names.get(&from)?;
        let below = format!("{from}/");
        if to.starts_with(&below) {
            return None;
        }
        if let Some(old) = self.names.get(&to) {
            let dirs = [id, *old].map(|id| self.nodes[id].kind == Kind::Dir);
            if dirs[0] != dirs[1] || !self.is_empty(&to) {
                return None;
            }
            if *old == id {
                return Some(());
            }
        }
        let moved = |name: &String| *name == from || name.starts_with(&below);
        let moved: Vec<String> = self.names.keys().filter(|n| moved(n)).cloned().collect();
        for name in moved {
            if let Some(id) = self.names.remove(&name) {
                self.names
                    .insert(format!("{to}{}", &name[from.len()..]), id);
            }
        }
        Some(())
    }

    /// What a slot refers to, if it can be used so.
    pub(super) fn slot(&self, who: usize, slot: usize, read: bool, write: bool) -> Option<&Slot> {
        let found = self.slots[who][slot].as_ref()?;
        let file = self.nodes[found.node].kind == Kind::File || !(read || write);
        let good = file && (found.read || !read) && (found.write || !write) && !found.path_only;
        good.then_some(found)
    }

    pub(super) fn grow(&mut self, node: usize, end: i64) {
        self.nodes[node].size = self.nodes[node].size.max(end);
    }

    /// Forgets what an operation that is going to fail would replace. So it is
    /// certain that a slot or a mapping is what the model says, or not there;
    /// where the model has none, there may be any.
    pub(super) fn forget(&mut self, who: usize, op: &Op) {
        match op {
            Op::Open { slot, .. } | Op::Dup { to: slot, .. } => self.slots[who][*slot] = None,
            Op::Mmap { map, .. } => self.maps[who][*map] = None,
            _ => {}
        }
    }

    /// Applies an operation, or changes nothing if it is going to fail.
    pub(super) fn apply(&mut self, who: usize, op: &Op) -> Option<()> {
        let uid = uid_of(who);
        let owned = |node: &Node| (uid == 0 || node.uid == uid).then_some(());
        match op {
            Op::Open {
                slot,
                path,
                flags,
                mode,
            } => self.slots[who][*slot] = Some(self.open(uid, path, value(flags), *mode)?),
            Op::Kill { path, flags, len } => {
                let slot = self.open(uid, path, value(flags), 0o644)?;
                if slot.write {
                    self.grow(slot.node, *len as i64);
                }
            }
            Op::Close { slot } => {
                self.slots[who][*slot].take()?;
            }
            Op::Dup { slot, to } => {
                let copy = self.slots[who][*slot].clone()?;
                self.slots[who][*to] = Some(copy);
            }
            Op::Read { slot, .. } | Op::Readv { slot, .. } | Op::Readahead { slot, .. } => {
                self.slot(who, *slot, true, false)?;
            }
            Op::Sendfile { slot, .. } | Op::Splice { slot, .. } => {
                self.slot(who, *slot, true, false)?;
            }
            Op::CopyFileRange { slot, .. } => {
                self.slot(who, *slot, true, false)?;
            }
            Op::Pread { slot, off, .. } | Op::Preadv2 { slot, off, .. } => {
                self.slot(who, *slot, true, false).filter(|_| *off >= 0)?;
            }
            Op::ChildIo { slot, write, .. } => {
                self.slot(who, *slot, !write, *write)?;
            }
            Op::Write { slot, len } => {
                let node = self.slot(who, *slot, false, true)?.node;
                self.grow(node, *len as i64);
            }
            Op::Writev { slot, lens } => {
                let node = self.slot(who, *slot, false, true)?.node;
                self.grow(node, lens.iter().sum::<usize>() as i64);
            }
            Op::Pwrite { slot, off, len } => {
                let node = self.slot(who, *slot, false, true)?.node;
                self.grow(node, *off + *len as i64);
            }
            Op::Ftruncate { slot, size } => {
                let node = self.slot(who, *slot, false, true)?.node;
                self.nodes[node].size = (*size >= 0).then_some(*size)?;
            }
            Op::Truncate { path, size } => {
                let id = self.find(uid, path, true)?;
                let node = &mut self.nodes[id];
                if node.kind != Kind::File || !node.allows(uid, 2) || *size < 0 {
                    return None;
                }
                node.size = *size;
            }
            Op::Lseek { slot, off, .. } => {
                self.slot(who, *slot, false, false).filter(|_| *off >= 0)?;
            }
            Op::Fsync { slot }
            | Op::Fdatasync { slot }
            | Op::Setfl { slot, .. }
            | Op::Getlk { slot, .. }
            | Op::Flock { slot, .. }
            | Op::Fadvise { slot, .. } => {
                self.slot(who, *slot, false, false)?;
            }
            Op::Setlk { slot, kind, .. } => {
                let (read, write) = (kind == "F_RDLCK", kind == "F_WRLCK");
                self.slot(who, *slot, read, write)?;
            }
            Op::Fstat { slot } | Op::Getfl { slot } => {
                self.slots[who][*slot].as_ref()?;
            }
            Op::Futimens { slot, .. } => {
                let node = self.slot(who, *slot, false, false)?.node;
                owned(&self.nodes[node])?;
            }
            Op::Fchmod { slot, mode } => {
                let node = self.slot(who, *slot, false, false)?.node;
                owned(&self.nodes[node])?;
                self.nodes[node].mode = *mode;
            }
            Op::Chmod { path, mode } => {
                let id = self.find(uid, path, true)?;
                owned(&self.nodes[id])?;
                self.nodes[id].mode = *mode;
            }
            Op::Chown { path, uid: to, .. } | Op::Lchown { path, uid: to, .. } => {
                let id = self.find(uid, path, matches!(op, Op::Chown { .. }))?;
                (uid == 0).then_some(())?;
                if *to >= 0 {
                    self.nodes[id].uid = *to as u32;
                }
            }
            Op::Utimensat { path, flags, .. } => {
                let id = self.find(uid, path, flags.is_empty())?;
                owned(&self.nodes[id])?;
            }
            Op::Stat { path } | Op::Statfs { path } => {
                self.find(uid, path, true)?;
            }
            Op::Lstat { path } | Op::Statx { path, .. } => {
                self.find(uid, path, false)?;
            }
            Op::Access { path, mode } | Op::Faccessat2 { path, mode, .. } => {
                let id = self.find(uid, path, true)?;
                self.nodes[id]
                    .allows(uid, value(mode) as u32)
                    .then_some(())?;
            }
            Op::Readlink { path } => {
                let id = self.find(uid, path, false)?;
                (self.nodes[id].kind == Kind::Link).then_some(())?;
            }
            Op::List { path } => {
                let id = self.find(uid, path, true)?;
                let node = &self.nodes[id];
                (node.kind == Kind::Dir && node.allows(uid, 4)).then_some(())?;
            }
            Op::Mkdir { path, mode } => {
                let full = self.vacancy(uid, path, false)?;
                self.add(full, Kind::Dir, uid, mode & !0o022, "");
            }
            Op::Symlink { path, target } => {
                let full = self.vacancy(uid, path, false)?;
                self.add(full, Kind::Link, uid, 0o777, target);
            }
            Op::Link { from, to } | Op::Linkat { from, to, .. } => {
                let id = self.find(uid, from, matches!(op, Op::Linkat { .. }))?;
                let full = self.vacancy(uid, to, false)?;
                // The sysctl protected_hardlinks asks for that.
                (self.nodes[id].kind == Kind::File && self.nodes[id].allows(uid, 6))
                    .then_some(())?;
                self.names.insert(full, id);
            }
            Op::Rename { from, to } => self.rename(uid, from, to)?,
            Op::Unlink { path } | Op::Rmdir { path } => {
                let full = self.entry(uid, path, false)?;
                let dir = self.nodes[*self.names.get(&full)?].kind == Kind::Dir;
                (dir == matches!(op, Op::Rmdir { .. }) && self.is_empty(&full)).then_some(())?;
                self.names.remove(&full);
            }
            Op::Mmap {
                map,
                slot,
                len,
                off,
                prot,
                flags,
            } => {
                let read = self.slot(who, *slot, true, false);
                let denied = flags == "MAP_SHARED" && prot.contains("PROT_WRITE");
                read.filter(|_| *len > 0 && !denied && off % PAGE as i64 == 0)?;
                self.maps[who][*map] = Some(Mapping {
                    len: *len,
                    private: flags == "MAP_PRIVATE",
                    read: true,
                    write: prot.contains("PROT_WRITE"),
                });
            }
            Op::Mprotect { map, prot } => {
                let mapping = self.maps[who][*map].as_mut()?;
                let write = prot.contains("PROT_WRITE");
                (mapping.private || !write).then_some(())?;
                mapping.write = write;
                mapping.read = prot != "PROT_NONE";
            }
            Op::MapLoad { map, .. } => {
                self.maps[who][*map].as_ref().filter(|m| m.read)?;
            }
            Op::MapStore { map, .. } => {
                self.maps[who][*map].as_ref().filter(|m| m.write)?;
            }
            Op::Munmap { map } => {
                self.maps[who][*map].take()?;
            }
            Op::Msync { map, .. } | Op::Madvise { map, .. } => {
                self.maps[who][*map].as_ref()?;
            }
            Op::FreshMap { .. } => {}
            Op::Renameat2 { .. }
            | Op::Mknod { .. }
            | Op::Ioctl { .. }
            | Op::Getxattr { .. }
            | Op::Setxattr { .. }
            | Op::Listxattr { .. }
            | Op::Exec { .. } => return None,
        }
        Some(())
    }
}
