//! Which processes are watched. User space puts the first ones in; fork, exec and exit keep the set current.

use aya_ebpf::Global;
use aya_ebpf::helpers::{bpf_get_current_pid_tgid, bpf_probe_read_kernel};
use aya_ebpf::macros::map;
use aya_ebpf::maps::HashMap;
use aya_ebpf::programs::RawTracePointContext;
use profiler_common::{EventKind, Failure, ForkEvent, KernelOffsets, MAX_TARGETS};

use crate::output::{NO_WAKEUP, WAKEUP, count, emit_lifecycle, header};

/// Process IDs of the watched processes, each with the one whose code mappings are its own: after a fork its parent's,
/// until user space has made a copy.
#[map]
static TARGETS: HashMap<u32, u32> = HashMap::with_max_entries(MAX_TARGETS, 0);

#[unsafe(no_mangle)]
pub(crate) static KERNEL_OFFSETS: Global<KernelOffsets> = Global::new(KernelOffsets {
    task_tgid: 0,
    task_signal: 0,
    signal_live: 0,
    task_thread_pointer: 0,
    task_files: 0,
    files_table: 0,
    table_limit: 0,
    table_files: 0,
    file_inode: 0,
    inode_mode: 0,
    inode_number: 0,
});

/// The process that runs on this CPU, if it is watched.
#[inline(always)]
pub(crate) fn current() -> Option<Current> {
    of(bpf_get_current_pid_tgid())
}

/// A thread, as the helper tells it, if its process is watched.
#[inline(always)]
pub(crate) fn of(pid_tgid: u64) -> Option<Current> {
    let pid = (pid_tgid >> 32) as u32;
    // SAFETY: a copy of a value that is replaced as a whole.
    let code_owner = *unsafe { TARGETS.get(pid) }?;
    Some(Current { pid, tid: pid_tgid as u32, code_owner })
}

/// A watched process and the thread of it that runs now.
pub(crate) struct Current {
    pub(crate) pid: u32,
    pub(crate) tid: u32,
    /// The process whose code mappings it has.
    pub(crate) code_owner: u32,
}

/// Children of targets are targets.
#[inline(always)]
pub(crate) fn fork(context: &RawTracePointContext) {
    let Some(Current { pid, code_owner, .. }) = current() else { return };
    let child: *const u8 = context.arg(1);
    // SAFETY: the helper checks the address; the offset is that of a `u32` field of this kernel.
    let Ok(child_pid) =
        (unsafe { bpf_probe_read_kernel(child.add(KERNEL_OFFSETS.load().task_tgid as usize).cast::<u32>()) })
    else {
        count(Failure::ForkUnreadable);
        return;
    };
    if child_pid == pid {
        return; // a thread
    }
    if TARGETS.insert(child_pid, code_owner, 0).is_err() {
        count(Failure::TargetSetFull);
        return;
    }
    emit_lifecycle(&ForkEvent { header: header(EventKind::Fork, pid), child_pid, reserved: 0 }, NO_WAKEUP);
}

/// Tells user space to read the new program's names.
#[inline(always)]
pub(crate) fn exec() {
    let Some(Current { pid, .. }) = current() else { return };
    // It has new mappings of its own, which user space will tell.
    let _ = TARGETS.insert(pid, pid, 0);
    // Its stacks can be walked once its unwind tables are here.
    emit_lifecycle(&header(EventKind::Exec, pid), WAKEUP);
}

/// Forgets a process when its last thread ends, before its ID can be used again.
#[inline(always)]
pub(crate) fn exit(context: &RawTracePointContext) {
    let Some(Current { pid, .. }) = current() else { return };
    let task: *const u8 = context.arg(0);
    // SAFETY: the helper checks both addresses; the offsets are those of this kernel.
    let live = unsafe {
        let offsets = KERNEL_OFFSETS.load();
        match bpf_probe_read_kernel(task.add(offsets.task_signal as usize).cast::<*const u8>()) {
            Ok(signal) => {
                bpf_probe_read_kernel(signal.add(offsets.signal_live as usize).cast::<i32>()).unwrap_or(0)
            }
            Err(_) => 0,
        }
    };
    if live > 0 {
        return; // other threads go on
    }
    let _ = TARGETS.remove(pid);
    emit_lifecycle(&header(EventKind::Exit, pid), NO_WAKEUP);
}
