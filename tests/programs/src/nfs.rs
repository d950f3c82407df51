// SPDX-License-Identifier: GPL-2.0

//! A file on NFS whose server answers reads when it is told to.
//!
//! A direct read of it takes plain references to the pages that it reads into,
//! and none of the pins that most others take: whoever wants to know whether
//! pages can still change has to see those, too.

use crate::containers::run;
use async_trait::async_trait;
use ktest::{Context, Result, bail, patience};
use nfsserve::nfs::{
    fattr3, fileid3, filename3, ftype3, nfspath3, nfsstat3, nfstime3, sattr3, specdata3,
};
use nfsserve::tcp::{NFSTcp, NFSTcpListener};
use nfsserve::vfs::{DirEntry, NFSFileSystem, ReadDirResult, VFSCapabilities};
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread::JoinHandle;
use tokio::sync::watch;

/// The name of the file.
const NAME: &str = "late";
const ROOT: fileid3 = 1;
const FILE: fileid3 = 2;

/// What the server does about reads, from one state to the next.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Orders {
    Hold,
    Answer,
    Stop,
}

/// A read-only export with one file in it.
struct Export {
    contents: Vec<u8>,
    asked: mpsc::Sender<()>,
    orders: watch::Receiver<Orders>,
}

impl Export {
    fn attributes(&self, id: fileid3) -> Result<fattr3, nfsstat3> {
        let (ftype, mode, size) = match id {
            ROOT => (ftype3::NF3DIR, 0o755, 4096),
            FILE => (ftype3::NF3REG, 0o644, self.contents.len() as u64),
            _ => return Err(nfsstat3::NFS3ERR_STALE),
        };
        Ok(fattr3 {
            ftype,
            mode,
            nlink: 1,
            uid: 0,
            gid: 0,
            size,
            used: size,
            rdev: specdata3::default(),
            fsid: 1,
            fileid: id,
            atime: nfstime3::default(),
            mtime: nfstime3::default(),
            ctime: nfstime3::default(),
        })
    }
}

#[async_trait]
impl NFSFileSystem for Export {
    fn capabilities(&self) -> VFSCapabilities {
        VFSCapabilities::ReadOnly
    }

    fn root_dir(&self) -> fileid3 {
        ROOT
    }

    async fn lookup(&self, dir: fileid3, name: &filename3) -> Result<fileid3, nfsstat3> {
        match (dir, &name[..]) {
            (ROOT, b"." | b"..") => Ok(ROOT),
            (ROOT, name) if name == NAME.as_bytes() => Ok(FILE),
            (ROOT, _) => Err(nfsstat3::NFS3ERR_NOENT),
            _ => Err(nfsstat3::NFS3ERR_NOTDIR),
        }
    }

    async fn getattr(&self, id: fileid3) -> Result<fattr3, nfsstat3> {
        self.attributes(id)
    }

    async fn read(
        &self,
        id: fileid3,
        offset: u64,
        count: u32,
    ) -> Result<(Vec<u8>, bool), nfsstat3> {
        if id != FILE {
            return Err(nfsstat3::NFS3ERR_ISDIR);
        }
        let _ = self.asked.send(());
        // An error says that nobody can give orders any more.
        let _ = self
            .orders
            .clone()
            .wait_for(|orders| *orders >= Orders::Answer)
            .await;
        let from = self.contents.len().min(offset as usize);
        let to = self.contents.len().min(from + count as usize);
        Ok((self.contents[from..to].to_vec(), to == self.contents.len()))
    }

    async fn readdir(
        &self,
        dir: fileid3,
        after: fileid3,
        _max: usize,
    ) -> Result<ReadDirResult, nfsstat3> {
        if dir != ROOT {
            return Err(nfsstat3::NFS3ERR_NOTDIR);
        }
        let entries = match after {
            FILE => Vec::new(),
            _ => vec![DirEntry {
                fileid: FILE,
                name: NAME.as_bytes().into(),
                attr: self.attributes(FILE)?,
            }],
        };
        Ok(ReadDirResult { entries, end: true })
    }

    async fn setattr(&self, _: fileid3, _: sattr3) -> Result<fattr3, nfsstat3> {
        Err(nfsstat3::NFS3ERR_ROFS)
    }

    async fn write(&self, _: fileid3, _: u64, _: &[u8]) -> Result<fattr3, nfsstat3> {
        Err(nfsstat3::NFS3ERR_ROFS)
    }

    async fn create(
        &self,
        _: fileid3,
        _: &filename3,
        _: sattr3,
    ) -> Result<(fileid3, fattr3), nfsstat3> {
        Err(nfsstat3::NFS3ERR_ROFS)
    }

    async fn create_exclusive(&self, _: fileid3, _: &filename3) -> Result<fileid3, nfsstat3> {
        Err(nfsstat3::NFS3ERR_ROFS)
    }

    async fn mkdir(&self, _: fileid3, _: &filename3) -> Result<(fileid3, fattr3), nfsstat3> {
        Err(nfsstat3::NFS3ERR_ROFS)
    }

    async fn remove(&self, _: fileid3, _: &filename3) -> Result<(), nfsstat3> {
        Err(nfsstat3::NFS3ERR_ROFS)
    }

    async fn rename(
        &self,
        _: fileid3,
        _: &filename3,
        _: fileid3,
        _: &filename3,
    ) -> Result<(), nfsstat3> {
        Err(nfsstat3::NFS3ERR_ROFS)
    }

    async fn symlink(
        &self,
        _: fileid3,
        _: &filename3,
        _: &nfspath3,
        _: &sattr3,
    ) -> Result<(fileid3, fattr3), nfsstat3> {
        Err(nfsstat3::NFS3ERR_ROFS)
    }

    async fn readlink(&self, _: fileid3) -> Result<nfspath3, nfsstat3> {
        Err(nfsstat3::NFS3ERR_INVAL)
    }
}

/// Serves until it is told to stop; says first on which port.
fn serve(
    contents: Vec<u8>,
    asked: mpsc::Sender<()>,
    mut orders: watch::Receiver<Orders>,
    port: mpsc::Sender<u16>,
) -> std::io::Result<()> {
    let export = Export {
        contents,
        asked,
        orders: orders.clone(),
    };
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(async {
            let listener = NFSTcpListener::bind("127.0.0.1:0", export).await?;
            let _ = port.send(listener.get_listen_port());
            tokio::select! {
                ended = listener.handle_forever() => ended,
                _ = orders.wait_for(|orders| *orders == Orders::Stop) => Ok(()),
            }
        })
}

/// A mounted export with one file, [`LateFile::path`]. It is unmounted when
/// this is dropped.
pub struct LateFile {
    dir: PathBuf,
    mounted: bool,
    asked: mpsc::Receiver<()>,
    orders: watch::Sender<Orders>,
    server: Option<JoinHandle<std::io::Result<()>>>,
}

impl LateFile {
    /// Mounts it; `None` if the kernel has no NFS.
    pub fn mount(contents: &[u8]) -> Result<Option<Self>> {
        // Nothing loads them by itself where there is no udev.
        let _ = run("modprobe", &["-q", "-a", "nfs", "nfsv3"]);
        run("ip", &["link", "set", "lo", "up"])?;
        let (orders, given) = watch::channel(Orders::Hold);
        let (asks, asked) = mpsc::channel();
        let (port_to, port) = mpsc::channel();
        let contents = contents.to_vec();
        let server = std::thread::spawn(move || serve(contents, asks, given, port_to));
        let dir = std::env::temp_dir().join(format!("coda-nfs-{}", std::process::id()));
        std::fs::create_dir_all(&dir)?;
        let mut this = LateFile {
            dir,
            mounted: false,
            asked,
            orders,
            server: Some(server),
        };
        let port = port
            .recv_timeout(patience(10))
            .context("the NFS server does not start")?;
        let options = format!(
            "vers=3,proto=tcp,mountproto=tcp,port={port},mountport={port},addr=127.0.0.1,\
             mountaddr=127.0.0.1,nolock,noresvport,soft,timeo=600"
        );
        let mounted = mount(
            Some("127.0.0.1:/"),
            &this.dir,
            Some("nfs"),
            MsFlags::empty(),
            Some(options.as_str()),
        );
        match mounted {
            Ok(()) => this.mounted = true,
            Err(Errno::ENODEV) => return Ok(None),
            Err(e) => bail!("mount of NFS: {e}"),
        }
        Ok(Some(this))
    }

    /// Where the file is.
    pub fn path(&self) -> PathBuf {
        self.dir().join(NAME)
    }

    fn dir(&self) -> &Path {
        &self.dir
    }

    /// Waits until the server has been asked for data.
    pub fn wait_until_asked(&self) -> Result<()> {
        self.asked
            .recv_timeout(patience(20))
            .context("nobody asks the NFS server for data")
    }

    /// From now on, reads are answered.
    pub fn answer(&self) {
        self.orders.send_replace(Orders::Answer);
    }
}

impl Drop for LateFile {
    fn drop(&mut self) {
        self.answer();
        if self.mounted {
            let _ = umount2(&self.dir, MntFlags::MNT_FORCE | MntFlags::MNT_DETACH);
        }
        let _ = std::fs::remove_dir(&self.dir);
        self.orders.send_replace(Orders::Stop);
        if let Some(server) = self.server.take() {
            let _ = server.join();
        }
    }
}
