//! On-CPU samples.

use core::mem::size_of;

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::bpf_perf_event_data;
use aya_ebpf::helpers::{bpf_get_current_comm, bpf_get_stack, bpf_ringbuf_output};
use aya_ebpf::macros::map;
use aya_ebpf::maps::PerCpuArray;
use aya_ebpf::programs::PerfEventContext;
use profiler_common::{EventKind, Failure, MAX_KERNEL_FRAMES, MAX_USER_WORDS, SampleEvent, StackEnd};

use crate::output::{EVENTS, NO_WAKEUP, WAKEUP, count, header};
use crate::targets::{self, Current};
use crate::unwind;

/// A sample while it is put together: too large for the BPF stack.
#[repr(C)]
pub(crate) struct Scratch {
    pub(crate) event: SampleEvent,
    pub(crate) words: [u64; MAX_KERNEL_FRAMES + MAX_USER_WORDS],
    pub(crate) walker: unwind::Walker,
    waking: Waking,
}

/// When user space was woken because a walk came to code that is not known. It may have what tells of it in a ring that wakes nobody:
/// each wakeup costs whoever is sampled, in a virtual machine some ten microseconds.
#[repr(C)]
struct Waking {
    last_ns: u64,
    /// Nobody is woken again for so long: twice as long each time, as long as nothing new is told.
    rest_ns: u64,
    /// How often mappings had changed.
    changes: u64,
}

const SHORTEST_REST_NS: u64 = 2_000_000;
const LONGEST_REST_NS: u64 = 1_000_000_000;

impl Waking {
    /// Whether user space is to be woken now, where code is not known.
    #[inline(always)]
    fn is_due(&mut self, now_ns: u64) -> bool {
        let changes = u64::from(unwind::code_changes());
        if changes != self.changes {
            (self.changes, self.rest_ns) = (changes, SHORTEST_REST_NS);
        }
        if now_ns.wrapping_sub(self.last_ns) < self.rest_ns {
            return false;
        }
        self.last_ns = now_ns;
        self.rest_ns = if self.rest_ns < LONGEST_REST_NS { 2 * self.rest_ns } else { LONGEST_REST_NS };
        true
    }
}

/// Sampling programs of one CPU do not interrupt each other, so one slot a CPU is enough.
#[map]
static SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(1, 0);

#[inline(always)]
pub(crate) fn sample(context: &PerfEventContext) {
    let Some(Current { pid, tid, code_owner }) = targets::current_or_ending() else { return };
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else { return };
    // SAFETY: the slot is this CPU's own while the program runs.
    let scratch = unsafe { &mut *scratch };
    scratch.event.header = header(EventKind::Sample, pid);
    scratch.event.comm = bpf_get_current_comm().unwrap_or_default();
    scratch.event.tid = tid;
    scratch.event.reserved = 0;

    let kernel_frames = kernel_stack(context, scratch);
    let walk = unwind::user_stack(scratch, kernel_frames, code_owner);
    scratch.event.kernel_frames = kernel_frames as u16;
    scratch.event.user_words = walk.words as u16;
    scratch.event.stack_end = walk.end;
    scratch.event.unreadable = unwind::take_unreadable();

    let words = (kernel_frames + walk.words) as u64;
    if words > (MAX_KERNEL_FRAMES + MAX_USER_WORDS) as u64 {
        return; // tells the verifier; the two walks are bounded
    }
    let bytes = size_of::<SampleEvent>() as u64 + words * size_of::<u64>() as u64;
    let is_unknown = walk.end == StackEnd::NoMapping as u32;
    let now_ns = scratch.event.header.timestamp_ns;
    let wakeup = if is_unknown && scratch.waking.is_due(now_ns) { WAKEUP } else { NO_WAKEUP };
    // SAFETY: `bytes` is at most the size of the scratch slot.
    let outcome = unsafe {
        bpf_ringbuf_output(
            core::ptr::addr_of!(EVENTS).cast_mut().cast(),
            core::ptr::from_mut(scratch).cast(),
            bytes,
            wakeup,
        )
    };
    if outcome != 0 {
        count(Failure::SampleRingFull);
    }
}

/// Puts the kernel's own frames first and returns how many there are.
#[inline(always)]
fn kernel_stack(context: &PerfEventContext, scratch: &mut Scratch) -> u32 {
    // SAFETY: the context of a program of this type.
    let code_segment = unsafe { (*context.as_ptr().cast::<bpf_perf_event_data>()).regs.cs };
    // The sample hit user code: there is no kernel stack. The helper would clear all of its buffer to say so.
    if code_segment & 3 == 3 {
        return 0;
    }
    // SAFETY: the helper writes at most that many bytes into the slot.
    let bytes = unsafe {
        bpf_get_stack(
            context.as_ptr(),
            scratch.words.as_mut_ptr().cast(),
            (MAX_KERNEL_FRAMES * size_of::<u64>()) as u32,
            0,
        )
    };
    // -EFAULT: the sample hit user code, so that there is no kernel stack.
    const EFAULT: i64 = 14;
    if bytes < 0 {
        if bytes != -EFAULT {
            count(Failure::KernelStackUnreadable);
        }
        return 0;
    }
    let frames = bytes as u64 / size_of::<u64>() as u64;
    if frames > MAX_KERNEL_FRAMES as u64 { MAX_KERNEL_FRAMES as u32 } else { frames as u32 }
}
