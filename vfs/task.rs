// SPDX-License-Identifier: GPL-2.0

//! The current task, as an upcall describes it.

use super::bindings;

/// The number of the current task in the initial pid namespace: that of the thread (`gettid(2)`),
/// not of its process.
pub(crate) fn pid() -> i32 {
    // SAFETY: Only reads the current task, in task context.
    unsafe { bindings::vfsh_current_pid() }
}

/// The process group id of the current task in the initial pid namespace.
pub(crate) fn pgid() -> i32 {
    // SAFETY: Only reads the current task, in task context.
    unsafe { bindings::vfsh_current_pgid() }
}

/// The file system uid of the current task in the initial user namespace; the overflow value of
/// `from_kuid()`, -1, if it has none there.
pub(crate) fn fsuid() -> u32 {
    // SAFETY: Only reads the current task's own credentials.
    unsafe { bindings::vfsh_current_fsuid() }
}

/// Whether the current task lives in the initial pid and user namespaces.
pub(crate) fn in_init_namespaces() -> bool {
    // SAFETY: Only reads the current task.
    unsafe { bindings::vfsh_current_in_init_namespaces() }
}

/// Whether the current task lives in the initial pid namespace.
pub(crate) fn in_init_pid_namespace() -> bool {
    // SAFETY: Only reads the current task.
    unsafe { bindings::vfsh_current_in_init_pid_ns() }
}

/// Whether the current task is to die.
pub(crate) fn is_killed() -> bool {
    // SAFETY: Only reads the current task.
    unsafe { bindings::vfsh_current_is_killed() }
}

/// Whether no signal can end a wait of the current task any more: it is exiting or a kernel thread.
pub(crate) fn cannot_be_signalled() -> bool {
    // SAFETY: Only reads the current task's flags.
    unsafe { bindings::vfsh_current_cannot_be_signalled() }
}
