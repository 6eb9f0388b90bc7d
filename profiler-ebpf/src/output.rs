//! The way out: one ring buffer for events, one counter for each cause of loss.

use aya_ebpf::bindings::{BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP};
use aya_ebpf::macros::map;
use aya_ebpf::maps::{PerCpuArray, RingBuf};
use profiler_common::{EventHeader, EventKind, Failure, MESSAGES_BYTES};

/// Resized by the loader to what the sampling rate and the number of CPUs ask for.
#[map]
pub(crate) static EVENTS: RingBuf = RingBuf::with_byte_size(1 << 20, 0);

/// What is read and written: apart, so that a flood of messages costs no sample.
#[map]
pub(crate) static MESSAGES: RingBuf = RingBuf::with_byte_size(MESSAGES_BYTES, 0);

/// When clients wrote: apart, as they run on other CPUs than the servers that answer them, and a ring's end is contended. Some
/// write each token of a message by a system call: hundreds of thousands a second.
#[map]
pub(crate) static CLIENT_EVENTS: RingBuf = RingBuf::with_byte_size(4 << 20, 0);

#[map]
static FAILURES: PerCpuArray<u64> = PerCpuArray::with_max_entries(Failure::ALL.len() as u32, 0);

/// User space drains the ring by the clock: most events wake nobody.
pub(crate) const NO_WAKEUP: u64 = BPF_RB_NO_WAKEUP as u64;
/// User space has something to do before most of the next samples.
pub(crate) const WAKEUP: u64 = BPF_RB_FORCE_WAKEUP as u64;

/// Counts a loss.
#[inline(always)]
pub(crate) fn count(failure: Failure) {
    if let Some(counter) = FAILURES.get_ptr_mut(failure as u32) {
        // SAFETY: a live per-CPU slot. A program that interrupts this one on the same CPU may cost one count.
        unsafe { *counter += 1 };
    }
}

/// Emits an event of fixed size about the life of a process.
#[inline(always)]
pub(crate) fn emit_lifecycle<T: 'static>(event: &T, wakeup: u64) {
    if EVENTS.output::<T>(event, wakeup).is_err() {
        count(Failure::LifecycleRingFull);
    }
}

/// The start of an event about a process, now.
#[inline(always)]
pub(crate) fn header(kind: EventKind, pid: u32) -> EventHeader {
    // SAFETY: the helper has no preconditions.
    let timestamp_ns = unsafe { aya_ebpf::helpers::bpf_ktime_get_ns() };
    EventHeader { kind: kind as u32, pid, timestamp_ns }
}
