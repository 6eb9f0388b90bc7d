//! Which processes are watched. User space puts the first ones in; fork, exec and exit keep the set current.

use core::ffi::c_void;
use core::mem::size_of;

use aya_ebpf::Global;
use aya_ebpf::helpers::generated::{bpf_get_current_task, bpf_probe_read_user};
use aya_ebpf::helpers::{bpf_get_current_pid_tgid, bpf_probe_read_kernel, bpf_ringbuf_output};
use aya_ebpf::macros::map;
use aya_ebpf::maps::{HashMap, LruHashMap, PerCpuArray};
use aya_ebpf::programs::RawTracePointContext;
use profiler_common::{
    EventKind, ExecEvent, Failure, ForkEvent, KernelOffsets, MAX_ARGUMENT_BYTES, MAX_TARGETS,
};

use crate::output::{EVENTS, NO_WAKEUP, count, emit_lifecycle, header};

/// Process IDs of the watched processes, each with the one whose code mappings are its own: after a fork its parent's,
/// until user space has made a copy.
#[map]
static TARGETS: HashMap<u32, u32> = HashMap::with_max_entries(MAX_TARGETS, 0);

/// What is told of a program that starts, while it is put together.
#[repr(C)]
struct ExecScratch {
    event: ExecEvent,
    bytes: [u8; MAX_ARGUMENT_BYTES],
    length: u64,
}

/// Tracepoints run without preemption: one a CPU is enough.
#[map]
static EXEC_SCRATCH: PerCpuArray<ExecScratch> = PerCpuArray::with_max_entries(1, 0);

/// Processes whose last thread has begun to end, by ID. It gives up their memory after that, which takes its time.
#[map]
static ENDING: LruHashMap<u32, Ending> = LruHashMap::with_max_entries(256, 0);

/// The last thread of a process.
#[repr(C)]
#[derive(Clone, Copy)]
struct Ending {
    task: u64,
    code_owner: u32,
    reserved: u32,
}

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
    backing_file_entry: 0,
    entry_inode: 0,
    inode_superblock: 0,
    superblock_device: 0,
    task_memory: 0,
    memory_code: 0,
    memory_arguments: 0,
    memory_arguments_end: 0,
    memory_tree: 0,
    mapping_start: 0,
    mapping_end: 0,
    mapping_offset: 0,
    mapping_file: 0,
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

/// The process that runs on this CPU, if it is watched, or was until it began to end.
#[inline(always)]
pub(crate) fn current_or_ending() -> Option<Current> {
    current().or_else(|| {
        let pid_tgid = bpf_get_current_pid_tgid();
        let pid = (pid_tgid >> 32) as u32;
        // SAFETY: a copy of a value that is replaced as a whole.
        let ending = *unsafe { ENDING.get(pid) }?;
        let is_it = ending.task == task();
        is_it.then_some(Current { pid, tid: pid_tgid as u32, code_owner: ending.code_owner })
    })
}

/// The address of the thread that runs on this CPU, by which it is told from a later one of the same ID.
#[inline(always)]
fn task() -> u64 {
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_get_current_task() }
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

/// Tells user space what the process runs now.
#[inline(always)]
pub(crate) fn exec() {
    let Some(Current { pid, .. }) = current() else { return };
    // It has new mappings of its own, which user space will tell.
    let _ = TARGETS.insert(pid, pid, 0);
    let Some(scratch) = EXEC_SCRATCH.get_ptr_mut(0) else { return };
    // SAFETY: the slot is this CPU's own while the program runs.
    let scratch = unsafe { &mut *scratch };
    scratch.event = ExecEvent { header: header(EventKind::Exec, pid), length: 0, reserved: 0 };
    let bytes = arguments(scratch).unwrap_or(0);
    scratch.event.length = bytes as u32;
    // SAFETY: the event and so many bytes behind it lie within the slot.
    let outcome = unsafe {
        bpf_ringbuf_output(
            core::ptr::addr_of!(EVENTS).cast_mut().cast(),
            core::ptr::from_mut(&mut scratch.event).cast(),
            size_of::<ExecEvent>() as u64 + bytes,
            NO_WAKEUP,
        )
    };
    if outcome != 0 {
        count(Failure::LifecycleRingFull);
    }
}

/// Copies the arguments of the program that the process has just started: it may be over before user space could read them. Returns how
/// many bytes there are.
#[inline(always)]
fn arguments(scratch: &mut ExecScratch) -> Option<u64> {
    let offsets = KERNEL_OFFSETS.load();
    let memory = memory()?;
    let start: u64 = field(memory, offsets.memory_arguments)?;
    let end: u64 = field(memory, offsets.memory_arguments_end)?;
    scratch.length = end.wrapping_sub(start);
    // SAFETY: the field was written just now. Older verifiers want a bound of what they have not seen made.
    let all = unsafe { core::ptr::addr_of!(scratch.length).read_volatile() };
    let length = if all < MAX_ARGUMENT_BYTES as u64 { all } else { MAX_ARGUMENT_BYTES as u64 };
    // SAFETY: so many bytes are in the slot; the helper checks the source.
    let outcome = unsafe {
        let bytes = scratch.bytes.as_mut_ptr();
        bpf_probe_read_user(bytes.cast(), length as u32, start as *const c_void)
    };
    (outcome == 0).then_some(length)
}

/// The `mm_struct` of the process that runs on this CPU, or null.
#[inline(always)]
pub(crate) fn memory() -> Option<u64> {
    field(task(), KERNEL_OFFSETS.load().task_memory)
}

/// A field of a structure of the kernel.
#[inline(always)]
pub(crate) fn field<T>(structure: u64, offset: u32) -> Option<T> {
    // SAFETY: the helper checks the address.
    unsafe { bpf_probe_read_kernel((structure + u64::from(offset)) as *const T) }.ok()
}

/// Forgets a process when its last thread ends, before its ID can be used again.
#[inline(always)]
pub(crate) fn exit(context: &RawTracePointContext) {
    let Some(Current { pid, code_owner, .. }) = current() else { return };
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
    // Without it, what follows is not sampled.
    let _ = ENDING.insert(pid, Ending { task: task as u64, code_owner, reserved: 0 }, 0);
    let _ = TARGETS.remove(pid);
    emit_lifecycle(&header(EventKind::Exit, pid), NO_WAKEUP);
}
