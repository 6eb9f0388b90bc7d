//! TLS inside of watched processes: what they hand to OpenSSL, and get from it, is taken in plain. The functions are
//! `SSL_read`, `SSL_write`, `SSL_read_ex` and `SSL_write_ex` (`include/openssl/ssl.h.in`, OpenSSL 1.1.1 to 3.5; BoringSSL has
//! the first two). User space attaches to them where a watched process maps them, and to no other process.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::helpers::{bpf_get_attach_cookie, bpf_get_smp_processor_id, bpf_probe_read_user as read_user};
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, LruHashMap};
use aya_ebpf::programs::{ProbeContext, RetProbeContext};
use profiler_common::{Failure, TlsFunction, WireFlag};

use super::IF_ABSENT;
use super::streams::{self, Judgement};
use super::transfer::{Buffers, Scratch};
use super::{event, transfer};
use crate::output::count;
use crate::targets::{self, Current};

/// Calls of these functions that have begun, by thread. Threads that end meanwhile make room by and by.
#[map]
static TLS_CALLS: LruHashMap<u64, TlsCall> = LruHashMap::with_max_entries(4096, 0);

/// Unlike tracepoints, these programs can be preempted: each takes a slot that nobody else has.
#[map]
static TLS_SCRATCH: Array<Scratch> = Array::with_max_entries(SLOTS, 0);
/// The slots that are taken.
#[map]
static TLS_TAKEN: HashMap<u32, u32> = HashMap::with_max_entries(SLOTS, 0);

const SLOTS: u32 = 64;
/// Slots that are tried.
const TRIES: u32 = 4;

#[repr(C)]
#[derive(Clone, Copy)]
struct TlsCall {
    connection: u64,
    buffer: u64,
    /// Where the length comes; zero where the function returns it.
    length_at: u64,
    is_write: u64,
}

/// A connection's name among streams: inode numbers of sockets are counted by 32 bits. `SSL` structures come from the heap
/// and are aligned to 16 bytes.
#[inline(always)]
fn stream(pid: u32, connection: u64) -> u64 {
    1 << 63 | (u64::from(pid) & 0xf_ffff) << 43 | (connection >> 4) & 0x7ff_ffff_ffff
}

#[inline(always)]
fn thread(current: &Current) -> u64 {
    u64::from(current.pid) << 32 | u64::from(current.tid)
}

/// One of the functions is entered: `(connection, buffer, length[, where the length comes])`.
#[inline(always)]
pub(crate) fn entered(context: &ProbeContext) {
    let Some(current) = targets::current() else { return };
    // SAFETY: the context is this program's own.
    let function = unsafe { bpf_get_attach_cookie(context.as_ptr()) };
    let (Some(connection), Some(buffer)) = (context.arg(0), context.arg(1)) else { return };
    let is_extended =
        function == TlsFunction::ReadExtended as u64 || function == TlsFunction::WriteExtended as u64;
    let is_write = function == TlsFunction::Write as u64 || function == TlsFunction::WriteExtended as u64;
    let length_at = if is_extended { context.arg(3).unwrap_or(0) } else { 0 };
    let call = TlsCall { connection, buffer, length_at, is_write: u64::from(is_write) };
    if TLS_CALLS.insert(thread(&current), call, 0).is_err() {
        count(Failure::TlsUnread);
    }
}

/// One of the functions returns.
#[inline(always)]
pub(crate) fn returned(context: &RetProbeContext) {
    let Some(current) = targets::current() else { return };
    let thread = thread(&current);
    // SAFETY: a copy; only this thread changes the entry.
    let Some(&call) = (unsafe { TLS_CALLS.get(thread) }) else { return };
    let _ = TLS_CALLS.remove(thread);
    let result = context.ret::<u64>() as i32;
    if result <= 0 {
        return; // it wants to be called again, or failed
    }
    let total = if call.length_at == 0 {
        result as u64
    } else {
        // SAFETY: the helper checks the address.
        match unsafe { read_user(call.length_at as *const u64) } {
            // A message over 4 GiB does not exist: `SSL_write` takes an `int`.
            Ok(length) if length > 0 && length <= u64::from(u32::MAX) => length,
            _ => return,
        }
    };
    let stream = stream(current.pid, call.connection);
    let rule = streams::rule(stream);
    if streams::is_ignored(rule, false) {
        return;
    }
    let start = streams::Start { buffer: call.buffer, length: 0, is_written: call.is_write != 0 };
    let Judgement::Take(rule) = streams::judge(stream, rule, start) else { return };
    let Some(slot) = take_slot() else {
        count(Failure::TlsUnread);
        // SAFETY: a live entry.
        unsafe { if call.is_write != 0 { (*rule).lost_written = 1 } else { (*rule).lost_read = 1 } }
        return;
    };
    if let Some(scratch) = TLS_SCRATCH.get_ptr_mut(slot) {
        // SAFETY: the slot is this program's own until it is given back.
        let scratch = unsafe { &mut *scratch };
        scratch.transfer.set(Buffers::Plain, call.buffer, total);
        let flags = call.is_write as u32 * WireFlag::Written as u32
            | WireFlag::Socket as u32
            | WireFlag::Plain as u32;
        scratch.event = event(&current, stream, 0, flags);
        transfer::send(scratch, rule, total);
    }
    let _ = TLS_TAKEN.remove(slot);
}

#[inline(always)]
fn take_slot() -> Option<u32> {
    // SAFETY: the helper has no preconditions.
    let first = unsafe { bpf_get_smp_processor_id() };
    for number in 0..TRIES {
        let slot = (first * TRIES + number) % SLOTS;
        if TLS_TAKEN.insert(slot, 1, IF_ABSENT).is_ok() {
            return Some(slot);
        }
    }
    None
}

/// `SSL_free(connection)`: its memory may become another connection's.
#[inline(always)]
pub(crate) fn freed(context: &ProbeContext) {
    let Some(current) = targets::current() else { return };
    let Some(connection) = context.arg(0) else { return };
    let stream = stream(current.pid, connection);
    if streams::forget(stream) {
        let flags = WireFlag::Ended as u32 | WireFlag::Plain as u32 | WireFlag::Socket as u32;
        transfer::tell(&event(&current, stream, 0, flags));
    }
}
