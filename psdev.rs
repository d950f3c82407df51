#![deny(unsafe_code)]
// SPDX-License-Identifier: GPL-2.0

//! The device a cache manager talks through: `/dev/cfs0` to `/dev/cfs4`.

use crate::{
    containers::Containers,
    downcall, tally,
    upcall::Comm,
    vfs::{
        chrdev::{open_device, CharDevice, Ready},
        debugfs::Entry,
        file::is_nonblocking,
        task,
    },
    wire::{self, Bytes, Decoder},
};
use kernel::{
    alloc::KVVec,
    fmt,
    fs::File,
    ioctl::_IOWR,
    new_mutex,
    prelude::*,
    sync::{poll::PollTable, Arc, ArcBorrow, Mutex},
    uaccess::{UserPtr, UserSlice, UserSliceReader, UserSliceWriter},
};

/// How many devices there are.
const DEVICES: usize = 5;

/// Answers the protocol version; the argument is a pointer to where an `int` goes, though the number
/// says `size_t`.
const CIOC_KERNEL_VERSION: u32 = _IOWR::<usize>('c' as u32, 10);

/// The devices, with the conversation of each that is open.
#[pin_data]
pub(crate) struct Psdev {
    #[pin]
    open: Mutex<[Option<Arc<Comm>>; DEVICES]>,
    containers: Arc<Containers>,
}

impl Psdev {
    /// Devices that nobody has open.
    pub(crate) fn new() -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            open <- new_mutex!([const { None }; DEVICES], "Psdev::open"),
            containers: Containers::alloc()?,
        })
    }

    /// What debugfs shows.
    pub(crate) fn shown() -> &'static [Entry<Self>; 4] {
        static SHOWN: [Entry<Psdev>; 4] = [
            Entry {
                name: c"upcalls",
                show: |_, f| tally::show_upcalls(f),
            },
            Entry {
                name: c"files",
                show: |_, f| tally::show_files(f),
            },
            Entry {
                name: c"devices",
                show: |psdev, f| {
                    f.write_str("# device pid mounted pending outstanding\n")?;
                    psdev.show_each(|comm, device| comm.show(device, f))
                },
            },
            Entry {
                name: c"requests",
                show: |psdev, f| {
                    f.write_str("# device unique opcode state age_ms pid fid\n")?;
                    psdev.show_each(|comm, device| comm.show_requests(device, f))
                },
            },
        ];
        &SHOWN
    }

    /// Shows something of each device that is open.
    fn show_each(&self, mut show: impl FnMut(&Comm, usize) -> fmt::Result) -> fmt::Result {
        for device in 0..DEVICES {
            // Not with the lock held, which an open takes.
            let comm = self.open.lock().get(device).cloned().flatten();
            if let Some(comm) = comm {
                show(&comm, device)?;
            }
        }
        Ok(())
    }

    /// The conversation of the device that `file` is, if it is one.
    pub(crate) fn comm(file: &File) -> Option<Arc<Comm>> {
        open_device::<Psdev>(file)
    }
}

/// Reads what the cache manager writes; of what is longer than anything it may write, the beginning.
fn read_bytes(mut from: UserSliceReader) -> Result<Bytes> {
    let len = from.len();
    if let Some(mut short) = Bytes::short(len) {
        from.read_slice(&mut short)?;
        return Ok(short);
    }
    let mut long = KVVec::new();
    if len <= wire::OUT_LONGEST {
        // Not zeroed first: that takes as long as all the rest.
        from.read_all(&mut long, GFP_KERNEL)?;
    } else {
        long.resize(wire::OUT_LONGEST, 0, GFP_KERNEL)?;
        from.read_slice(&mut long)?;
    }
    Ok(Bytes::Long(long))
}

impl CharDevice for Psdev {
    const MAJOR: u32 = 67;
    const MINORS: u32 = DEVICES as u32;
    const NAME: &'static CStr = c"coda";
    const NODE: &'static CStr = c"cfs";
    type Open = Comm;

    fn open(&self, minor: u32) -> Result<Arc<Comm>> {
        // Pids and uids in messages are those of the initial namespaces.
        if !task::in_init_namespaces() {
            return Err(EINVAL);
        }
        let comm = Comm::new(self.containers.clone())?;
        let mut open = self.open.lock();
        let slot = open.get_mut(minor as usize).ok_or(ENODEV)?;
        if slot.is_some() {
            return Err(EBUSY);
        }
        *slot = Some(comm.clone());
        Ok(comm)
    }

    fn release(&self, comm: Arc<Comm>) {
        comm.hang_up();
        let mut open = self.open.lock();
        for slot in open.iter_mut() {
            if slot.as_ref().is_some_and(|other| Arc::ptr_eq(other, &comm)) {
                *slot = None;
            }
        }
    }

    fn read(comm: ArcBorrow<'_, Comm>, file: &File, mut to: UserSliceWriter) -> Result<usize> {
        if to.is_empty() {
            return Ok(0);
        }
        let taken = comm.take(to.len(), is_nonblocking(file))?;
        let (bytes, mut zeroes) = taken.parts();
        let len = bytes.len() + zeroes;
        let mut written = to.write_slice(bytes);
        while written.is_ok() && zeroes > 0 {
            let some = wire::ZEROES.get(..zeroes).unwrap_or(&wire::ZEROES);
            written = to.write_slice(some);
            zeroes -= some.len();
        }
        if let Err(err) = written {
            comm.put_back(taken);
            return Err(err);
        }
        Comm::delivered(taken);
        Ok(len)
    }

    fn write(comm: ArcBorrow<'_, Comm>, from: UserSliceReader) -> Result<usize> {
        let sent = from.len();
        if sent < wire::OUT_SHORTEST {
            return Err(EINVAL);
        }
        let buf = read_bytes(from)?;
        let header = Decoder::new(&buf).header()?;
        if wire::is_downcall(header.opcode) {
            downcall::handle(&comm, header.opcode, &buf)?;
            return Ok(sent);
        }
        comm.reply(header, buf, sent)
    }

    fn poll(comm: ArcBorrow<'_, Comm>, file: &File, table: PollTable<'_>) -> Ready {
        table.register_wait(file, &comm.readable);
        Ready {
            read: comm.has_pending(),
            write: true,
        }
    }

    fn ioctl(_comm: ArcBorrow<'_, Comm>, cmd: u32, arg: usize) -> Result<isize> {
        match cmd {
            CIOC_KERNEL_VERSION => {
                let to = UserPtr::from_addr(arg);
                UserSlice::new(to, core::mem::size_of::<u32>())
                    .writer()
                    .write(&wire::KERNEL_VERSION)?;
                Ok(0)
            }
            _ => Err(ENOTTY),
        }
    }
}
