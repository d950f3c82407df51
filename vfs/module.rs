// SPDX-License-Identifier: GPL-2.0

//! What a module registers: in which order it comes, in which it goes, and who has to be gone before.
//!
//! C headers: [`include/linux/module.h`](srctree/include/linux/module.h).

use super::{
    bindings as helpers,
    chrdev::{self, CharDevice},
    debugfs,
    fs::{self, FileSystem},
    inode::InodeCache,
    sysctl,
};
use core::any::TypeId;
use kernel::{bindings, prelude::*, sync::SetOnce};

/// What a module is made of, with `N` numbers for the administrator to set, and `M` files to look at.
pub(crate) trait Parts<const N: usize, const M: usize>: 'static {
    /// The file system type.
    type FileSystem: FileSystem;
    /// The devices that it is mounted on.
    type Device: CharDevice;
    /// The directory of the numbers in `/proc/sys`.
    const SYSCTLS: &'static CStr;

    /// Devices that nobody has open.
    fn device() -> impl PinInit<Self::Device, Error>;
    /// The numbers.
    fn sysctls() -> &'static [sysctl::Entry; N];
    /// The directory of the files in debugfs.
    const DEBUGFS: &'static CStr;
    /// The files.
    fn debugfs() -> &'static [debugfs::Entry<Self::Device>; M];
}

/// All that a module has registered: what `module!` is to name.
///
/// There is one, and it is in the module's own memory: `module!` makes it before anything else of
/// the module runs, makes it there, and drops it before the module goes; a second one is refused.
/// So what is in here may count on being there for as long as the module is.
///
/// Fields drop in their order. After what is only looked at, the nodes go first: whoever opens one that
/// nothing answers to makes the kernel ask for another module that would.
#[pin_data]
pub(crate) struct Module<P: Parts<N, M>, const N: usize, const M: usize> {
    #[pin]
    _debugfs: debugfs::Directory<P::Device, M>,
    _nodes: chrdev::Nodes<P::Device>,
    #[pin]
    _fs: fs::Registration<P::FileSystem>,
    #[pin]
    _device: chrdev::Registration<P::Device>,
    #[pin]
    _sysctls: sysctl::Directory<N>,
    _family: chrdev::Family<P::Device>,
    _cache: InodeCache<P::FileSystem>,
    _text: Text,
}

/// The module's own code. What runs in it with a reference to the module is waited for by who
/// unloads it; what gave its reference back while it ran there is waited for when this is dropped.
struct Text;

impl Drop for Text {
    fn drop(&mut self) {
        // SAFETY: A module is unloaded, or fails to load, where one may sleep.
        unsafe { helpers::vfsh_module_wait_for_text() };
    }
}

impl<P: Parts<N, M>, const N: usize, const M: usize> kernel::InPlaceModule for Module<P, N, M> {
    fn init(_module: &'static ThisModule) -> impl PinInit<Self, Error> {
        Self::new()
    }
}

impl<P: Parts<N, M>, const N: usize, const M: usize> Module<P, N, M> {
    /// Registers everything, for `module!`; `EEXIST` for anybody else.
    pub(crate) fn new() -> impl PinInit<Self, Error> {
        // First what may fail and is of no use to anybody else. Where another module has the numbers
        // of the devices it has their class and the sysctls, too: the numbers say so best. What can
        // be used from here on is of users who would have to be waited for, should anything fail
        // after it; that is the file system type, which anybody can get hold of, least of all.
        try_pin_init!(Self {
            _text: {
                claim::<Self>()?;
                Text
            },
            _cache: InodeCache::new()?,
            _family: chrdev::Family::new()?,
            // SAFETY: This is in the module's own memory.
            _sysctls <- unsafe { sysctl::Directory::new(P::SYSCTLS, P::sysctls()) },
            // SAFETY: This is in the module's own memory; the family is dropped later.
            _device <- unsafe { chrdev::Registration::new(_family, P::device()) },
            // SAFETY: This is in the module's own memory; the cache is dropped later.
            _fs <- unsafe { fs::Registration::new(_cache) },
            // SAFETY: The family is dropped later.
            _nodes: unsafe { chrdev::Nodes::new(_family) },
            // SAFETY: This is in the module's own memory, the devices are dropped later, and there is
            // nothing after it.
            _debugfs <- unsafe {
                debugfs::Directory::new(P::DEBUGFS, P::debugfs(), _device.devices())
            },
        })
    }
}

/// Makes sure that there is one [`Module`] at most, which is that of `module!`: `M` is what the macro
/// was told to make, and it makes one before anybody else can. `EINVAL` if it is something else: what
/// that would do with a `Module`, in whose memory, and whether it would ever drop it, nobody knows.
fn claim<M: 'static>() -> Result {
    static CLAIMED: SetOnce<()> = SetOnce::new();
    if TypeId::of::<M>() != TypeId::of::<crate::LocalModule>() {
        return Err(EINVAL);
    }
    match CLAIMED.populate(()) {
        true => Ok(()),
        false => Err(EEXIST),
    }
}

/// To be called when nobody new can become a user of a registration, and before it goes: waits for
/// those who are. (While a device is open, its node can be opened by others, though it is unregistered;
/// but an open file has a reference to the module for the node as well, which it puts when no inode
/// leads to the device any more. So when there is no user left, there is no way to become one.)
///
/// They hold references to the module, and to nothing else, and would lose what they use. An ordinary
/// `rmmod` finds none; but any user may be passing by when a module is loaded and fails.
///
/// # Panics
///
/// If somebody goes on using the module, though it be forced out (`rmmod -f`), or about to fail to
/// load; or if it is neither on its way out nor on its way in.
pub(super) fn wait_for_users() {
    /// How long to wait, after what time to say so, and how often to look, in milliseconds.
    const PATIENCE: usize = 30_000;
    const SILENCE: usize = 1_000;
    const STEP: usize = 10;

    // SAFETY: The module is alive, as this code is.
    let is_live = unsafe { helpers::vfsh_module_is_live(this_module()) };
    assert!(!is_live, "a registration is dropped while it can be used");
    for waited in (0..PATIENCE).step_by(STEP) {
        // SAFETY: As above.
        if !unsafe { helpers::vfsh_module_in_use(this_module()) } {
            return;
        }
        if waited == SILENCE {
            pr_warn!("somebody still uses what is about to go; waiting\n");
        }
        // SAFETY: Registrations are dropped where one may sleep.
        unsafe { bindings::msleep(STEP as u32) };
    }
    panic!("a registration is dropped under its users");
}

/// The `struct module` this code is linked into.
pub(super) fn this_module() -> *mut bindings::module {
    // The compiler takes issue with the empty structs in it; nothing of it is passed by value.
    #[allow(improper_ctypes)]
    extern "C" {
        static __this_module: kernel::types::Opaque<bindings::module>;
    }
    // SAFETY: modpost defines `__this_module` in every module; only its address is taken, and it
    // is as long-lived as this code.
    unsafe { __this_module.get() }
}
