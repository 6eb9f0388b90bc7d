//! When clients on this host wrote what watched servers read: times and lengths of their writes, never what they wrote.
//! User space knows who they are.

use aya_ebpf::helpers::bpf_get_current_pid_tgid;
use aya_ebpf::helpers::generated::bpf_ktime_get_ns;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{HashMap, LruHashMap};
use aya_ebpf::programs::BtfTracePointContext;
use profiler_common::{
    ClientStream, ClientWriteEvent, EventHeader, EventKind, Failure, MAX_CLIENT_STREAMS, MAX_CLIENTS,
};

use super::descriptor::{self, Descriptor};
use super::{Call, FIRST_ARGUMENT, Registers};
use crate::output::{CLIENT_EVENTS, NO_WAKEUP, count};

/// Processes that hold the other end of a stream of a watched one.
#[map]
static CLIENTS: HashMap<u32, u32> = HashMap::with_max_entries(MAX_CLIENTS, 0);

/// Their ends of such streams, by inode: of a pipe the same one, of a socket its peer's.
#[map]
static CLIENT_STREAMS: HashMap<u64, ClientStream> = HashMap::with_max_entries(MAX_CLIENT_STREAMS, 0);

/// When threads began the writes that they are in. Entries stay, for it is cheaper to change one than to make one; those of threads that
/// end make room by and by.
#[map]
static CLIENT_WRITES: LruHashMap<u64, Write> = LruHashMap::with_max_entries(MAX_CLIENTS, 0);

/// A writing system call that has begun.
#[repr(C)]
#[derive(Clone, Copy)]
struct Write {
    /// Zero when there is none.
    start_ns: u64,
}

/// `sys_enter(registers, number)`.
#[inline(always)]
pub(crate) fn entered(context: &BtfTracePointContext) {
    let Some(Call::Moves { is_write: true, .. }) = Call::of(context.arg(1)) else { return };
    let thread = bpf_get_current_pid_tgid();
    // SAFETY: it is not looked at what is there.
    if unsafe { CLIENTS.get((thread >> 32) as u32) }.is_none() {
        return;
    }
    // SAFETY: the helper has no preconditions.
    let start_ns = unsafe { bpf_ktime_get_ns() };
    match CLIENT_WRITES.get_ptr_mut(thread) {
        // SAFETY: a live entry, which only this thread changes.
        Some(write) => unsafe { (*write).start_ns = start_ns },
        // Without an entry user space sees by the total that it misses one.
        None => drop(CLIENT_WRITES.insert(thread, Write { start_ns }, 0)),
    }
}

/// A writing system call has returned so many bytes, or an error.
#[inline(always)]
pub(super) fn returned(registers: Registers, thread: u64, result: i64) {
    let Some(write) = CLIENT_WRITES.get_ptr_mut(thread) else { return };
    // SAFETY: a live entry, which only this thread changes.
    let start_ns = unsafe { core::mem::take(&mut (*write).start_ns) };
    if start_ns == 0 || result <= 0 {
        return;
    }
    let Some(Descriptor { stream: inode, .. }) = descriptor::look_up(registers.get(FIRST_ARGUMENT)) else {
        return;
    };
    let Some(client) = CLIENT_STREAMS.get_ptr_mut(inode) else { return };
    // SAFETY: a live entry. Threads that write at once may cost one length: then more is read than was written, which user
    // space notices.
    let client = unsafe { &mut *client };
    client.written += result as u64;
    let (stream, written) = (client.stream, client.written);
    let event = ClientWriteEvent {
        header: EventHeader {
            kind: EventKind::ClientWrite as u32,
            pid: (thread >> 32) as u32,
            timestamp_ns: start_ns,
        },
        stream,
        // SAFETY: the helper has no preconditions.
        end_ns: unsafe { bpf_ktime_get_ns() },
        written,
        length: result as u64,
    };
    if CLIENT_EVENTS.output::<ClientWriteEvent>(&event, NO_WAKEUP).is_err() {
        count(Failure::ClientRingFull);
    }
}
