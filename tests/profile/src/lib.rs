// SPDX-License-Identifier: GPL-2.0

//! A plugin of QEMU that counts how often each instruction of the guest's kernel is
//! executed, while the benchmark says that it counts.
//!
//! The benchmark says so by a `nopl` whose displacement is one of [`mark`]'s
//! numbers. With [`mark::WRITE`] a line for each address that was counted goes to a
//! file, `out` (the plugin's argument) with a dot and a number that goes up from 0,
//! and all counts begin anew.
//!
//! Mirrors `include/qemu/qemu-plugin.h`, version 4 of the interface (QEMU 10). The
//! crate `qemu-plugin` would do it as well, but not with Debian 13's compiler.

use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Mutex, OnceLock, PoisonError};

/// `nopl DISPLACEMENT(%rax)` up to the displacement.
const NOPL: [u8; 3] = [0x0f, 0x1f, 0x80];

/// Displacements.
mod mark {
    /// Counts from here on.
    pub const BEGIN: [u8; 4] = [1, 0, 0xda, 0x40];
    /// Does not any more.
    pub const END: [u8; 4] = [2, 0, 0xda, 0x40];
    /// Writes the counts.
    pub const WRITE: [u8; 4] = [3, 0, 0xda, 0x40];
}

/// Addresses of the kernel are above this.
const KERNEL: u64 = 1 << 63;

#[repr(C)]
struct Block {
    _opaque: [u8; 0],
}

#[repr(C)]
struct Instruction {
    _opaque: [u8; 0],
}

/// `QEMU_PLUGIN_CB_NO_REGS`.
const NO_REGISTERS: c_int = 0;

// QEMU has them.
unsafe extern "C" {
    fn qemu_plugin_register_vcpu_tb_trans_cb(id: u64, translated: extern "C" fn(u64, *mut Block));
    fn qemu_plugin_tb_n_insns(block: *const Block) -> usize;
    fn qemu_plugin_tb_get_insn(block: *const Block, index: usize) -> *mut Instruction;
    fn qemu_plugin_insn_vaddr(instruction: *const Instruction) -> u64;
    fn qemu_plugin_insn_data(instruction: *const Instruction, to: *mut c_void, len: usize)
    -> usize;
    fn qemu_plugin_register_vcpu_insn_exec_cb(
        instruction: *mut Instruction,
        executed: extern "C" fn(c_uint, *mut c_void),
        flags: c_int,
        data: *mut c_void,
    );
}

/// What QEMU looks at to see whether it knows the interface.
#[unsafe(no_mangle)]
#[allow(non_upper_case_globals)]
pub static qemu_plugin_version: c_int = 4;

static COUNTING: AtomicBool = AtomicBool::new(false);
static OUT: OnceLock<String> = OnceLock::new();
/// By address. They live for ever, as blocks that were translated refer to them.
static COUNTS: Mutex<Option<HashMap<u64, &'static AtomicU64>>> = Mutex::new(None);

/// An instruction is executed; `data` is its count.
extern "C" fn executed(_cpu: c_uint, data: *mut c_void) {
    if COUNTING.load(Relaxed) {
        // SAFETY: `translated` gave it a count, which lives for ever.
        let count = unsafe { &*data.cast::<AtomicU64>() };
        count.fetch_add(1, Relaxed);
    }
}

extern "C" fn begins(_cpu: c_uint, _data: *mut c_void) {
    COUNTING.store(true, Relaxed);
}

extern "C" fn ends(_cpu: c_uint, _data: *mut c_void) {
    COUNTING.store(false, Relaxed);
}

extern "C" fn writes(_cpu: c_uint, _data: *mut c_void) {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let out = OUT.get().map_or("profile", String::as_str);
    let path = format!("{out}.{}", NUMBER.fetch_add(1, Relaxed));
    if let Err(e) = write(&path) {
        eprintln!("{path}: {e}");
        std::process::exit(1);
    }
}

fn write(path: &str) -> std::io::Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    let counts = COUNTS.lock().unwrap_or_else(PoisonError::into_inner);
    for (address, count) in counts.iter().flatten() {
        match count.swap(0, Relaxed) {
            0 => {}
            count => writeln!(file, "{address:x} {count}")?,
        }
    }
    file.flush()
}

/// A block of instructions was translated, and will be executed.
extern "C" fn translated(_id: u64, block: *mut Block) {
    let mut counts = COUNTS.lock().unwrap_or_else(PoisonError::into_inner);
    let counts = counts.get_or_insert_default();
    // SAFETY: QEMU's functions, with what it gave us, while this call lasts.
    unsafe {
        for index in 0..qemu_plugin_tb_n_insns(block) {
            let instruction = qemu_plugin_tb_get_insn(block, index);
            let address = qemu_plugin_insn_vaddr(instruction);
            let mut data = std::ptr::null_mut();
            let callback = if address >= KERNEL {
                let count: &'static AtomicU64 = counts
                    .entry(address)
                    .or_insert_with(|| Box::leak(Box::default()));
                data = std::ptr::from_ref(count).cast_mut().cast();
                executed
            } else {
                let mut bytes = [0; 8];
                let len =
                    qemu_plugin_insn_data(instruction, bytes.as_mut_ptr().cast(), bytes.len());
                match bytes.get(..len).and_then(|bytes| bytes.strip_prefix(&NOPL)) {
                    Some(number) if *number == mark::BEGIN => begins,
                    Some(number) if *number == mark::END => ends,
                    Some(number) if *number == mark::WRITE => writes,
                    _ => continue,
                }
            };
            qemu_plugin_register_vcpu_insn_exec_cb(instruction, callback, NO_REGISTERS, data);
        }
    }
}

/// QEMU calls it when it has loaded the plugin.
///
/// # Safety
///
/// `arguments` are `count` strings.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qemu_plugin_install(
    id: u64,
    _about: *const c_void,
    count: c_int,
    arguments: *const *const c_char,
) -> c_int {
    for n in 0..usize::try_from(count).unwrap_or(0) {
        // SAFETY: the caller's promise.
        let argument = unsafe { CStr::from_ptr(*arguments.add(n)) }.to_string_lossy();
        match argument.strip_prefix("out=") {
            Some(out) => drop(OUT.set(out.to_owned())),
            None => {
                eprintln!("no such argument: {argument}");
                return 1;
            }
        }
    }
    // SAFETY: QEMU's function, with the number that it gave us.
    unsafe { qemu_plugin_register_vcpu_tb_trans_cb(id, translated) };
    0
}
