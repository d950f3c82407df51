// SPDX-License-Identifier: GPL-2.0

//! A small volume: directories and symbolic links in memory, files in containers.

use coda_proto::{C_O_TRUNC, C_O_WRITE, DirBuilder, Fid, Vattr, dirtype, vtype};
use coda_selftests::map::PAGE;
use nix::errno::Errno;
use rand::Rng;
use rand::rngs::SmallRng;
use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::path::PathBuf;

enum Node {
    /// The number of its container.
    File(u32),
    Dir(BTreeMap<Vec<u8>, Fid>),
    Link(Vec<u8>),
}

impl Node {
    fn kind(&self) -> i64 {
        match self {
            Node::File(_) => vtype::REG,
            Node::Dir(_) => vtype::DIR,
            Node::Link(_) => vtype::LNK,
        }
    }
}

/// The objects of a volume.
pub struct Volume {
    store: PathBuf,
    life: u32,
    made: u32,
    root: Fid,
    nodes: HashMap<Fid, Node>,
    /// So that one can be drawn.
    fids: Vec<Fid>,
}

fn errno(e: std::io::Error) -> Errno {
    Errno::from_raw(e.raw_os_error().unwrap_or(libc::EIO))
}

impl Volume {
    /// One with nothing in it, whose containers are in a directory.
    pub fn new(store: PathBuf, life: u32) -> Self {
        let mut volume = Volume {
            store,
            life,
            made: 0,
            root: Fid::default(),
            nodes: HashMap::new(),
            fids: Vec::new(),
        };
        volume.root = volume.add(Node::Dir(BTreeMap::new()));
        volume
    }

    /// Its root.
    pub fn root(&self) -> Fid {
        self.root
    }

    fn add(&mut self, node: Node) -> Fid {
        self.made += 1;
        let fid = Fid([1, self.life, self.made, self.made.wrapping_mul(7)]);
        self.nodes.insert(fid, node);
        self.fids.push(fid);
        fid
    }

    /// Any object that there is, or was.
    pub fn draw(&self, random: &mut SmallRng) -> Fid {
        self.fids[random.random_range(0..self.fids.len())]
    }

    /// What the kernel calls by a fid that we have made up for it is taken for the
    /// root.
    fn node(&self, fid: Fid) -> &Node {
        self.nodes
            .get(&fid)
            .unwrap_or_else(|| &self.nodes[&self.root])
    }

    fn dir(&mut self, fid: Fid) -> Result<&mut BTreeMap<Vec<u8>, Fid>, Errno> {
        let fid = match self.nodes.contains_key(&fid) {
            true => fid,
            false => self.root,
        };
        match self.nodes.get_mut(&fid) {
            Some(Node::Dir(names)) => Ok(names),
            _ => Err(Errno::ENOTDIR),
        }
    }

    /// Looks a name up. With `appears`, it is there from now on if it was not.
    pub fn lookup(&mut self, dir: Fid, name: &[u8], appears: bool) -> Result<(Fid, i64), Errno> {
        if let Some(&fid) = self.dir(dir)?.get(name) {
            return Ok((fid, self.node(fid).kind()));
        }
        if !appears {
            return Err(Errno::ENOENT);
        }
        let node = match name.first() {
            Some(b'd') => Node::Dir(BTreeMap::new()),
            Some(b'l') => Node::Link(b"d0/f0".to_vec()),
            _ => Node::File(self.made),
        };
        let kind = node.kind();
        Ok((self.enter(dir, name, node)?, kind))
    }

    fn enter(&mut self, dir: Fid, name: &[u8], node: Node) -> Result<Fid, Errno> {
        if self.dir(dir)?.contains_key(name) {
            return Err(Errno::EEXIST);
        }
        let fid = self.add(node);
        self.dir(dir)?.insert(name.to_vec(), fid);
        Ok(fid)
    }

    /// A file of that name, which may be there already.
    pub fn create(&mut self, dir: Fid, name: &[u8]) -> Result<Fid, Errno> {
        match self.dir(dir)?.get(name).copied() {
            Some(fid) if self.node(fid).kind() == vtype::REG => Ok(fid),
            _ => self.enter(dir, name, Node::File(self.made)),
        }
    }

    /// A new directory.
    pub fn mkdir(&mut self, dir: Fid, name: &[u8]) -> Result<Fid, Errno> {
        self.enter(dir, name, Node::Dir(BTreeMap::new()))
    }

    /// A new symbolic link.
    pub fn symlink(&mut self, dir: Fid, name: &[u8], target: &[u8]) -> Result<Fid, Errno> {
        self.enter(dir, name, Node::Link(target.to_vec()))
    }

    /// One more name.
    pub fn link(&mut self, fid: Fid, dir: Fid, name: &[u8]) -> Result<(), Errno> {
        if self.dir(dir)?.contains_key(name) {
            return Err(Errno::EEXIST);
        }
        self.dir(dir)?.insert(name.to_vec(), fid);
        Ok(())
    }

    /// One name less. The object stays: it may be open.
    pub fn remove(&mut self, dir: Fid, name: &[u8]) -> Result<(), Errno> {
        match self.dir(dir)?.remove(name) {
            Some(_) => Ok(()),
            None => Err(Errno::ENOENT),
        }
    }

    /// Another name.
    pub fn rename(&mut self, from: (Fid, &[u8]), to: (Fid, &[u8])) -> Result<(), Errno> {
        self.dir(to.0)?;
        let fid = self.dir(from.0)?.remove(from.1).ok_or(Errno::ENOENT)?;
        self.dir(to.0)?.insert(to.1.to_vec(), fid);
        Ok(())
    }

    /// Another fid for an object.
    pub fn replace(&mut self, old: Fid, new: Fid) {
        if self.nodes.contains_key(&new) {
            return;
        }
        let Some(node) = self.nodes.remove(&old) else {
            return;
        };
        self.nodes.insert(new, node);
        self.fids.push(new);
        if self.root == old {
            self.root = new;
        }
        for node in self.nodes.values_mut() {
            if let Node::Dir(names) = node {
                names
                    .values_mut()
                    .filter(|f| **f == old)
                    .for_each(|f| *f = new);
            }
        }
    }

    /// What a symbolic link says.
    pub fn readlink(&self, fid: Fid) -> Result<Vec<u8>, Errno> {
        match self.node(fid) {
            Node::Link(target) => Ok(target.clone()),
            _ => Err(Errno::EINVAL),
        }
    }

    fn container(&self, number: u32) -> PathBuf {
        self.store.join(format!("c{number}"))
    }

    /// The attributes of an object, of which the owner is not ours to say.
    pub fn attr(&self, fid: Fid) -> Vattr {
        let node = self.node(fid);
        let size = match node {
            Node::File(n) => fs::metadata(self.container(*n)).map_or(0, |m| m.len()),
            Node::Dir(_) => PAGE as u64,
            Node::Link(target) => target.len() as u64,
        };
        Vattr {
            kind: node.kind(),
            mode: 0o755,
            nlink: 2,
            fileid: fid.inode_number().into(),
            size,
            blocksize: PAGE as i64,
            ..Vattr::default()
        }
    }

    /// Another length.
    pub fn set_size(&self, fid: Fid, size: u64) -> Result<(), Errno> {
        let Node::File(n) = self.node(fid) else {
            return Err(Errno::EINVAL);
        };
        match OpenOptions::new().write(true).open(self.container(*n)) {
            Ok(file) => file.set_len(size.min(1 << 20)).map_err(errno),
            Err(_) => Ok(()),
        }
    }

    /// The container of an object, as for an open.
    pub fn open(&self, fid: Fid, flags: u32, random: &mut SmallRng) -> Result<OwnedFd, Errno> {
        match self.node(fid) {
            Node::Link(_) => Err(Errno::ELOOP),
            Node::File(n) => {
                let path = self.container(*n);
                let writes = flags & C_O_WRITE != 0;
                let open = |create| {
                    OpenOptions::new()
                        .read(true)
                        .write(writes || create)
                        .create(create)
                        .truncate(flags & C_O_TRUNC != 0 && (writes || create))
                        .open(&path)
                };
                if let Ok(file) = open(false) {
                    return Ok(file.into());
                }
                let new = open(true).map_err(errno)?;
                new.set_len(random.random_range(0..4 * PAGE as u64))
                    .map_err(errno)?;
                drop(new);
                Ok(open(false).map_err(errno)?.into())
            }
            // A real one, or a file of records as Venus has it.
            Node::Dir(_) if random.random_range(0..4) == 0 => {
                Ok(File::open(&self.store).map_err(errno)?.into())
            }
            Node::Dir(names) => {
                let mut dir = DirBuilder::default();
                for (name, fid) in names {
                    dir.push(fid.inode_number(), dirtype::UNKNOWN, name);
                }
                let mut bytes = dir.finish();
                if random.random_range(0..4) == 0 {
                    for _ in 0..random.random_range(1..8) {
                        let len = bytes.len();
                        if len > 0 {
                            bytes[random.random_range(0..len.min(64))] = random.random();
                        }
                    }
                }
                let mut file = OpenOptions::new()
                    .read(true)
                    .write(true)
                    .create(true)
                    .truncate(true)
                    .open(
                        self.store
                            .join(format!("records{}", random.random_range(0..4))),
                    )
                    .map_err(errno)?;
                file.write_all(&bytes).map_err(errno)?;
                file.seek(SeekFrom::Start(0)).map_err(errno)?;
                Ok(file.into())
            }
        }
    }
}
