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
use crate::output::{MESSAGES, NO_WAKEUP, count};

/// Processes that hold the other end of a stream of a watched one.
#[map]
static CLIENTS: HashMap<u32, u32> = HashMap::with_max_entries(MAX_CLIENTS, 0);

/// Their ends of such streams, by inode: of a pipe the same one, of a socket its peer's.
#[map]
static CLIENT_STREAMS: HashMap<u64, ClientStream> = HashMap::with_max_entries(MAX_CLIENT_STREAMS, 0);

/// Writes that have begun, by thread. Threads that are killed meanwhile make room by and by.
#[map]
static CLIENT_WRITES: LruHashMap<u64, Write> = LruHashMap::with_max_entries(MAX_CLIENTS, 0);

#[repr(C)]
#[derive(Clone, Copy)]
struct Write {
    inode: u64,
    start_ns: u64,
}

/// The current thread, if it is a client's.
#[inline(always)]
fn current() -> Option<u64> {
    let thread = bpf_get_current_pid_tgid();
    // SAFETY: a copy of a value that is never changed.
    unsafe { CLIENTS.get((thread >> 32) as u32) }?;
    Some(thread)
}

/// `sys_enter(registers, number)`.
#[inline(always)]
pub(crate) fn entered(context: &BtfTracePointContext) {
    let Some(Call::Moves { is_write: true, .. }) = Call::of(context.arg(1)) else { return };
    let Some(thread) = current() else { return };
    let registers = Registers(context.arg(0));
    let Some(Descriptor { stream: inode, .. }) = descriptor::look_up(registers.get(FIRST_ARGUMENT)) else {
        return;
    };
    if CLIENT_STREAMS.get_ptr(inode).is_none() {
        return;
    }
    // SAFETY: the helper has no preconditions.
    let start_ns = unsafe { bpf_ktime_get_ns() };
    // Without an entry user space sees by the total that it misses one.
    let _ = CLIENT_WRITES.insert(thread, Write { inode, start_ns }, 0);
}

/// A writing system call has returned so many bytes, or an error.
#[inline(always)]
pub(super) fn returned(result: i64) {
    let Some(thread) = current() else { return };
    // SAFETY: a copy; only this thread changes the entry.
    let Some(&Write { inode, start_ns }) = (unsafe { CLIENT_WRITES.get(thread) }) else { return };
    let _ = CLIENT_WRITES.remove(thread);
    if result <= 0 {
        return;
    }
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
    if MESSAGES.output::<ClientWriteEvent>(&event, NO_WAKEUP).is_err() {
        count(Failure::WireRingFull);
    }
}
