#![deny(unsafe_code)]
// SPDX-License-Identifier: GPL-2.0

//! The file system type: mounts, attributes, permissions.

use crate::{
    cnode::{self, Cnode},
    dir,
    file::{self, CodaFile},
    pioctl,
    psdev::Psdev,
    upcall::{done, Comm},
    vfs::{
        file::{DirEmitter, IoEnd, Opening, ReadIo, SpliceRead, VmArea, WriteIo, WriteKind},
        fs::{Refusal, StatFs},
        inode::{mode, InodeRef, RcuInode},
        sb::MountLink,
        task, warn_limited, Attr, Dentry, File, FileSystem, INode, Name, SuperBlock,
    },
    wire::{self, Message},
};
use kernel::{fs::File as AnyFile, prelude::*, sync::Arc};

/// The Coda file system.
pub(crate) struct Coda;

/// What a mount has.
pub(crate) struct Mount {
    /// The cache manager that serves it.
    pub(crate) comm: Arc<Comm>,
}

impl Drop for Mount {
    fn drop(&mut self) {
        self.comm.end_mount();
    }
}

/// Access bits as `inode_operations.permission` gets them, which are those of `CODA_ACCESS`.
const MAY_EXEC: u32 = 1;
const MAY_WRITE: u32 = 2;
const MAY_READ: u32 = 4;

/// The version of the binary mount data.
const MOUNT_VERSION: i32 = 1;

/// Blocks and files reported where the cache manager has no numbers: like AFS does.
const FAKE_STATFS: u64 = 9_000_000;

/// The conversation that serves an inode.
pub(crate) fn comm(inode: &INode<Coda>) -> &Arc<Comm> {
    &inode.super_block().mount().comm
}

/// Makes the attributes current, if a downcall said they are not. As `coda_revalidate_inode()`.
fn revalidate(inode: &INode<Coda>) -> Result {
    let cnode = inode.data();
    if cnode.flags() == 0 {
        return Ok(());
    }
    // Before asking: what a downcall marks from now on has to be asked for again.
    let flags = cnode.take_flags();
    let (fid, forgotten) = (cnode.fid(), cnode.times_forgotten());
    let attr = cnode::ask_attr(comm(inode), &fid).map_err(|_| {
        cnode.flag(flags);
        EIO
    })?;
    let kind = inode.mode() & mode::S_IFMT;
    if attr.mode.is_some_and(|new| new & mode::S_IFMT != kind) {
        // The operations of the inode are those of its type, so this one is lost; a lookup makes
        // another.
        warn_limited!("inode {}, fid {} changed type\n", inode.ino(), fid);
        cnode.flag(flags | cnode::PURGE);
        return Err(EIO);
    }
    // Somebody has changed them meanwhile: this may be what they were before, or are now.
    let changed = || cnode.times_forgotten() != forgotten;
    if !changed() {
        inode.set_attr(&attr);
    }
    if changed() {
        cnode.flag(cnode::VATTR);
    }
    if cnode.fid() != fid {
        // It was replaced meanwhile.
        cnode.flag(flags);
        return Err(EIO);
    }
    cnode::flag_children(inode, cnode::FLUSH);
    Ok(())
}

impl FileSystem for Coda {
    const NAME: &'static CStr = c"coda";
    const INODE_CACHE: &'static CStr = c"coda_rs_inode_cache";
    const MAGIC: u64 = 0x7375_7245;
    const NAME_MAX: usize = wire::MAXNAMLEN;
    const FD_OPTION: &'static CStr = c"fd";
    const BINARY_DATA: usize = 8;

    type Device = Arc<Comm>;
    type Mount = Mount;
    type Inode = Cnode;
    type Handle = CodaFile;

    fn parse_binary(data: &[u8]) -> Result<u32, Refusal> {
        let mut data = wire::Decoder::new(data);
        let malformed = |err| (err, c"the mount data is too short");
        if data.u32().map_err(malformed)? as i32 != MOUNT_VERSION {
            return Err((EINVAL, c"the mount data has a version other than 1"));
        }
        data.u32().map_err(malformed)
    }

    fn device(file: &AnyFile) -> Result<Arc<Comm>, Refusal> {
        Psdev::comm(file).ok_or((EINVAL, c"the descriptor is not of a Coda device"))
    }

    fn mount(device: Option<Arc<Comm>>) -> Result<(Mount, Arc<MountLink<Self>>), Refusal> {
        let comm = device.ok_or((EINVAL, c"no device given, say fd="))?;
        comm.begin_mount()?;
        let link = comm.link.clone();
        Ok((Mount { comm }, link))
    }

    fn root(sb: &SuperBlock<Self>) -> Result<InodeRef<'_, Self>> {
        let comm = &sb.mount().comm;
        let fid = comm.upcall(Message::root()?)?.body().fid()?;
        let root = cnode::make(sb, &fid)?;
        if !root.is_dir() {
            pr_warn!("root {fid} is not a directory\n");
            return Err(ENOTDIR);
        }
        pr_info!("mounted, root is {fid}\n");
        Ok(root)
    }

    fn statfs(sb: &SuperBlock<Self>) -> Result<StatFs> {
        let ask = || -> Result<[u64; 5]> {
            let reply = sb.mount().comm.upcall(Message::statfs()?)?;
            let mut body = reply.body();
            let mut numbers = [0; 5];
            for number in &mut numbers {
                // They are signed on the wire, and a negative one means nothing.
                *number = (body.u32()? as i32).max(0) as u64;
            }
            Ok(numbers)
        };
        let [blocks, blocks_free, blocks_available, files, files_free] =
            ask().unwrap_or([FAKE_STATFS; 5]);
        Ok(StatFs {
            blocks,
            blocks_free,
            blocks_available,
            files,
            files_free,
        })
    }

    fn new_inode_data() -> impl PinInit<Cnode> {
        Cnode::new()
    }

    fn permission_rcu(inode: RcuInode<'_, Self>, mask: u32) -> Result {
        let mask = mask & (MAY_READ | MAY_WRITE | MAY_EXEC);
        if mask & MAY_EXEC != 0 && !inode.execute_ok() {
            return Err(EACCES);
        }
        let epoch = inode.mount().comm.epoch();
        if mask == 0 || inode.data().is_permitted(task::fsuid(), mask, epoch) {
            return Ok(());
        }
        Err(ECHILD)
    }

    fn permission(inode: &INode<Self>, mask: u32) -> Result {
        let mask = mask & (MAY_READ | MAY_WRITE | MAY_EXEC);
        if mask == 0 {
            return Ok(());
        }
        if mask & MAY_EXEC != 0 && !inode.execute_ok() {
            return Err(EACCES);
        }
        let (cnode, comm, uid) = (inode.data(), comm(inode), task::fsuid());
        // Before asking: what is answered is of this generation or older.
        let epoch = comm.epoch();
        if cnode.is_permitted(uid, mask, epoch) {
            return Ok(());
        }
        let forgotten = cnode.times_forgotten();
        comm.upcall(Message::access(&cnode.fid(), mask)?)?;
        cnode.permit(uid, mask, epoch, forgotten);
        Ok(())
    }

    fn getattr(inode: &INode<Self>) -> Result {
        revalidate(inode)
    }

    fn setattr(inode: &INode<Self>, attr: &Attr) -> Result {
        let cnode = inode.data();
        let msg = Message::setattr(&cnode.fid(), attr)?;
        // The cache manager truncates the container.
        let truncation = match attr.size {
            Some(_) => cnode::truncate(inode)?,
            None => None,
        };
        inode.touch_ctime();
        // An open that truncates from now on marks it anew.
        let truncated = match attr.size {
            Some(_) => cnode.take_truncated(),
            None => 0,
        };
        let after = truncation.as_ref().map(cnode::Truncation::after);
        let answer = comm(inode).upcall_after(msg, after);
        if let Some(truncation) = truncation {
            truncation.over(done(&answer));
        }
        let changed = done(&answer);
        if changed == Some(true) {
            inode.set_attr(attr);
        }
        if changed != Some(false) {
            cnode.forget_permissions();
        }
        match changed {
            Some(true) => {}
            Some(false) => cnode.flag(truncated),
            None => cnode.flag(cnode::VATTR),
        }
        answer?;
        Ok(())
    }

    fn revalidate_rcu(inode: RcuInode<'_, Self>) -> Option<bool> {
        (inode.data().flags() & (cnode::PURGE | cnode::FLUSH) == 0).then_some(true)
    }

    fn revalidate(dentry: &Dentry<Self>) -> bool {
        let Some(inode) = dentry.inode() else {
            return true;
        };
        let cnode = inode.data();
        let flags = cnode.flags();
        if flags & (cnode::PURGE | cnode::FLUSH) == 0 || dentry.is_root() {
            return true;
        }
        dentry.shrink_children();
        if flags & cnode::FLUSH != 0 {
            cnode::flag_children(inode, cnode::FLUSH);
        }
        if dentry.count() > 1 {
            // Somebody uses it: it stays, and so do the flags.
            return true;
        }
        cnode.take_flags();
        false
    }

    fn forget(cnode: &Cnode) -> bool {
        cnode.flags() & cnode::PURGE != 0
    }

    fn lookup<'a>(dir: &'a INode<Self>, name: Name<'_>) -> Result<Option<InodeRef<'a, Self>>> {
        dir::lookup(dir, name)
    }

    fn create<'a>(dir: &'a INode<Self>, name: Name<'_>, mode: u32) -> Result<InodeRef<'a, Self>> {
        dir::create(dir, name, mode)
    }

    fn mkdir<'a>(dir: &'a INode<Self>, name: Name<'_>, mode: u32) -> Result<InodeRef<'a, Self>> {
        dir::mkdir(dir, name, mode)
    }

    fn link(inode: &INode<Self>, dir: &INode<Self>, name: Name<'_>) -> Result {
        dir::link(inode, dir, name)
    }

    fn symlink(dir: &INode<Self>, name: Name<'_>, target: &CStr) -> Result {
        dir::symlink(dir, name, target.to_bytes())
    }

    fn unlink(dir: &INode<Self>, name: Name<'_>, inode: &INode<Self>) -> Result {
        dir::unlink(dir, name, inode)
    }

    fn rmdir(dir: &INode<Self>, name: Name<'_>, inode: &INode<Self>) -> Result {
        dir::rmdir(dir, name, inode)
    }

    fn rename(
        old_dir: &INode<Self>,
        old_name: Name<'_>,
        new_dir: &INode<Self>,
        new_name: Name<'_>,
        inode: &INode<Self>,
        replaced: Option<&INode<Self>>,
    ) -> Result {
        dir::rename(old_dir, old_name, new_dir, new_name, inode, replaced)
    }

    fn readlink(inode: &INode<Self>, buffer: &mut [u8]) -> Result<usize> {
        dir::readlink(inode, buffer)
    }

    fn open(inode: &INode<Self>, file: &Opening<'_, Self>) -> Result<CodaFile> {
        CodaFile::open(inode, file)
    }

    fn read<'a>(file: &File<Self>, io: ReadIo<'a>) -> IoEnd<'a> {
        file::read(file, io)
    }

    fn write<'a>(file: &File<Self>, io: WriteIo<'a, Self>) -> IoEnd<'a> {
        file::write(file, io)
    }

    fn write_ended(file: &File<Self>, result: Result<usize>, kind: WriteKind) {
        file::write_ended(file, result, kind);
    }

    fn splice_read<'a>(file: &File<Self>, io: SpliceRead<'a>) -> IoEnd<'a> {
        file::splice_read(file, io)
    }

    fn mmap(file: &File<Self>, area: VmArea<'_>) -> Result {
        crate::mmap::coda_file_mmap(file, area)
    }

    fn fsync(file: &File<Self>, datasync: bool) -> Result {
        file::fsync(file, datasync)
    }

    fn fallocate(file: &File<Self>, mode: i32, offset: i64, len: i64) -> Result {
        file::fallocate(file, mode, offset, len)
    }

    fn control(sb: &SuperBlock<Self>, cmd: u32, arg: usize) -> Result {
        pioctl::control(sb, cmd, arg)
    }

    fn readdir(file: &File<Self>, emitter: &mut DirEmitter<'_>) -> Result {
        dir::readdir(file, emitter)
    }
}
