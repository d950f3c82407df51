#![deny(unsafe_code)]
// SPDX-License-Identifier: GPL-2.0

//! Pioctls by the control file: `ioctl(2)` on `.CONTROL` in the root of the mount, which says what
//! file it is about by a path.
//!
//! The other way, by files named `...PIOCTL.xxxxxxxx`, needs nothing here: those are files like any
//! other, and the cache manager knows what they mean.

use crate::{
    inode::Coda,
    vfs::{inode::InodeRef, INode, Name, SuperBlock},
    wire::{self, Message},
};
use kernel::{
    prelude::*,
    uaccess::{UserPtr, UserSlice},
};

/// The name of the control file.
const CONTROL: &[u8] = b".CONTROL";

/// Its inode number: as `CTL_INO`.
const CONTROL_INO: u64 = u64::MAX;

/// Whether `name` in `dir` is that of the control file.
pub(crate) fn is_control(dir: &INode<Coda>, name: Name<'_>) -> bool {
    name.as_bytes() == CONTROL && dir.is_root()
}

/// Whether `inode` is that of the control file: fids make no number that is as high.
pub(crate) fn is_control_inode(inode: &INode<Coda>) -> bool {
    inode.ino() == CONTROL_INO
}

/// An inode for the control file, which the cache manager knows nothing of.
pub(crate) fn control_inode(sb: &SuperBlock<Coda>) -> Result<InodeRef<'_, Coda>> {
    sb.new_control(CONTROL_INO)
}

/// A `struct PioctlData` of a program.
struct PioctlData {
    path: UserPtr,
    follow: bool,
    input: UserPtr,
    input_len: usize,
    output: UserPtr,
    output_len: usize,
}

impl PioctlData {
    const SIZE: usize = 40;

    fn read(arg: usize) -> Result<Self> {
        let mut raw = [0u8; Self::SIZE];
        UserSlice::new(UserPtr::from_addr(arg), Self::SIZE)
            .reader()
            .read_slice(&mut raw)
            .map_err(|_| EINVAL)?;
        let pointer = |at: usize| -> Result<UserPtr> {
            let bytes = raw
                .get(at..)
                .and_then(|rest| rest.first_chunk())
                .ok_or(EINVAL)?;
            Ok(UserPtr::from_addr(usize::from_ne_bytes(*bytes)))
        };
        let short = |at: usize| -> Result<usize> {
            let bytes = raw
                .get(at..)
                .and_then(|rest| rest.first_chunk())
                .ok_or(EINVAL)?;
            Ok(u16::from_ne_bytes(*bytes).into())
        };
        Ok(Self {
            path: pointer(0)?,
            follow: raw.get(8..12).is_some_and(|follow| follow != [0; 4]),
            input: pointer(16)?,
            output: pointer(24)?,
            input_len: short(32)?,
            output_len: short(34)?,
        })
    }
}

/// Takes out of the number of a pioctl what the path and the follow flag added to its size.
fn command(cmd: u32) -> u32 {
    const EXTRA: u32 = 12;
    let size = (cmd >> 16).wrapping_sub(EXTRA) & 0xffff;
    (cmd & 0xffff) | (size << 16)
}

/// As `coda_pioctl()` and `venus_pioctl()`. `EINVAL`: the arguments cannot be read or are too large,
/// or the path leads out of the mount, or the answer is more than the program wants.
pub(crate) fn control(sb: &SuperBlock<Coda>, cmd: u32, arg: usize) -> Result {
    let data = PioctlData::read(arg)?;
    let fid = sb.with_user_path(data.path, data.follow, |inode| Ok(inode.data().fid()))?;
    if data.input_len > wire::MAXDATASIZE || data.output_len > wire::MAXDATASIZE {
        return Err(EINVAL);
    }
    let mut input = KVVec::new();
    UserSlice::new(data.input, data.input_len)
        .read_all(&mut input, GFP_KERNEL)
        .map_err(|_| EINVAL)?;
    let reply = sb
        .mount()
        .comm
        .upcall(Message::ioctl(&fid, command(cmd), &input)?)?;
    let output = reply.body().data().map_err(|_| EINVAL)?;
    if output.len() > data.output_len {
        return Err(EINVAL);
    }
    UserSlice::new(data.output, output.len())
        .writer()
        .write_slice(output)
}

#[kunit_tests(coda_rs_pioctl)]
mod tests {
    use super::*;

    #[test]
    fn command_loses_the_size_of_the_path() {
        // _IOW('V', 2, struct of 40 bytes), with a path and a flag in it.
        assert_eq!(command(0x4034_5602), 0x4028_5602);
        assert_eq!(command(0x0000_5602), 0xfff4_5602);
    }
}
