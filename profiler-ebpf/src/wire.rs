//! What watched processes read and write, where it may be MCP: taken when the system call returns, from the process's
//! own buffers. Streams are known by the inode of their pipe or socket: file descriptors are moved and copied.

use core::ffi::c_void;
use core::mem::size_of;

use aya_ebpf::helpers::generated::bpf_probe_read_user;
use aya_ebpf::helpers::{
    bpf_get_current_task, bpf_loop, bpf_probe_read_kernel, bpf_probe_read_user as read_user,
    bpf_ringbuf_output,
};
use aya_ebpf::macros::map;
use aya_ebpf::maps::{LruHashMap, PerCpuArray};
use aya_ebpf::programs::RawTracePointContext;
use profiler_common::{
    EventKind, Failure, MAX_STREAMS, MAX_VECTORS, MAX_WIRE_BYTES, StreamRule, StreamVerdict, WireEvent,
    WireFlag,
};

use crate::output::{MESSAGES, NO_WAKEUP, count, header};
use crate::targets::{self, Current, KERNEL_OFFSETS};

/// What is known of streams. The kernel half puts them in; user space may change its mind about them.
#[map]
static STREAMS: LruHashMap<u64, StreamRule> = LruHashMap::with_max_entries(MAX_STREAMS, 0);

/// A part of a transfer while it is put together. Tracepoints run without preemption: one a CPU is enough.
#[map]
static WIRE_SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(1, 0);

#[repr(C)]
struct Scratch {
    event: WireEvent,
    /// Twice as long as what is used, so that any copy from within the first half stays in it.
    bytes: [u8; 2 * MAX_WIRE_BYTES],
    transfer: Transfer,
}

/// What one system call moved, and which part of it is being copied. In a map, so that the verifier forgets its values.
#[repr(C)]
struct Transfer {
    /// Where the buffers are: an array of `struct iovec`; zero for a single buffer.
    vectors: u64,
    vector_count: u64,
    /// The single buffer.
    buffer: u64,
    /// Bytes that were moved.
    total: u64,
    whole_bytes: u64,
    /// The part that is wanted.
    from: u64,
    to: u64,
    /// Bytes of the buffers before the current one.
    position: u64,
    /// Bytes copied so far.
    copied: u64,
    is_unreadable: u64,
}

/// How a system call tells its buffers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Buffers {
    /// `(fd, buffer, length)`.
    Plain,
    /// `(fd, vectors, count)`.
    Vectors,
    /// `(fd, message header)`.
    Message,
}

/// A system call of interest by its number (`arch/x86/entry/syscalls/syscall_64.tbl`): its buffers, and whether it writes.
#[inline(always)]
fn call(number: u64) -> Option<(Buffers, bool)> {
    Some(match number {
        0 | 45 => (Buffers::Plain, false),     // read, recvfrom
        1 | 44 => (Buffers::Plain, true),      // write, sendto
        19 | 327 => (Buffers::Vectors, false), // readv, preadv2
        20 | 328 => (Buffers::Vectors, true),  // writev, pwritev2
        47 => (Buffers::Message, false),       // recvmsg
        46 => (Buffers::Message, true),        // sendmsg
        _ => return None,
    })
}

/// Where `rdx`, `rsi`, `rdi` and `orig_rax` are in `struct pt_regs` of x86-64: next to each other.
const REGISTERS: usize = 96;
/// `S_IFMT` and two of its values (`include/uapi/linux/stat.h`).
const TYPE_MASK: u16 = 0o170_000;
const IS_PIPE: u16 = 0o010_000;
const IS_SOCKET: u16 = 0o140_000;
/// Two results of system calls on a stream whose other end is gone (`include/uapi/asm-generic/errno.h`).
const EPIPE: i64 = 32;
const ECONNRESET: i64 = 104;
/// `MSG_PEEK` and `MSG_ERRQUEUE` (`include/linux/socket.h`): what such calls get is not taken from the stream.
const PEEK: u64 = 0x2 | 0x2000;
/// Where `r10`, the fourth argument, is in `struct pt_regs`.
const FOURTH_ARGUMENT: usize = 56;
/// Calls on a stream that are all looked at; of later ones one in [`LOOK_RARELY`].
const OFTEN_LOOKED_AT: u32 = 256;
const LOOK_RARELY: u32 = 16;
/// Parts of one call.
const MAX_PARTS: u32 = 16;

/// `sys_exit(registers, return value)`.
#[inline(always)]
pub(crate) fn returned(context: &RawTracePointContext) {
    let Some(Current { pid, tid, .. }) = targets::current() else { return };
    let moved: i64 = context.arg(1);
    let is_reset = moved == -ECONNRESET || moved == -EPIPE;
    if moved < 0 && !is_reset {
        return;
    }
    let registers: *const u8 = context.arg(0);
    // SAFETY: the helper checks the address.
    let Ok([count, buffer, descriptor, number]) =
        (unsafe { bpf_probe_read_kernel(registers.add(REGISTERS).cast::<[u64; 4]>()) })
    else {
        return;
    };
    let Some((buffers, is_write)) = call(number) else { return };
    if is_peek(registers, number, count) {
        return;
    }
    let Some((stream, is_socket)) = stream(descriptor) else { return };
    let Some(scratch) = WIRE_SCRATCH.get_ptr_mut(0) else { return };
    // SAFETY: the slot is this CPU's own while the program runs.
    let scratch = unsafe { &mut *scratch };
    if !set_buffers(&mut scratch.transfer, buffers, buffer, count) {
        return;
    }
    // The third argument of `recvmsg` is no length.
    let is_wanted = count > 0 || buffers == Buffers::Message;
    let is_ended = is_reset || (moved == 0 && !is_write && is_wanted);
    if moved <= 0 && !is_ended {
        return;
    }
    let Some(whole_bytes) = judge(stream, &scratch.transfer, is_ended) else { return };
    let moved = if is_ended { 0 } else { moved };
    scratch.transfer.total = moved as u64;
    scratch.transfer.whole_bytes = u64::from(whole_bytes);
    scratch.transfer.from = 0;
    scratch.transfer.is_unreadable = 0;
    scratch.event = WireEvent {
        header: header(EventKind::Wire, pid),
        stream,
        tid,
        total: moved as u32,
        offset: 0,
        length: 0,
        flags: u32::from(is_write) * WireFlag::Written as u32
            | u32::from(is_socket) * WireFlag::Socket as u32
            | u32::from(is_ended) * WireFlag::Ended as u32,
        descriptor: descriptor as u32,
    };
    let mut context = core::ptr::from_mut(scratch);
    // SAFETY: `part` has the signature of a loop callback, and the context outlives the call.
    unsafe {
        bpf_loop(MAX_PARTS, part as *mut c_void, core::ptr::from_mut(&mut context).cast(), 0);
    }
}

/// Whether a receiving call left in the stream what it got.
#[inline(always)]
fn is_peek(registers: *const u8, number: u64, third_argument: u64) -> bool {
    match number {
        // SAFETY: the helper checks the address.
        45 => unsafe { bpf_probe_read_kernel(registers.add(FOURTH_ARGUMENT).cast::<u64>()) }
            .is_ok_and(|flags| flags & PEEK != 0),
        47 => third_argument & PEEK != 0,
        _ => false,
    }
}

/// Inode number of the pipe or socket behind a descriptor of the current process, and whether it is a socket.
#[inline(always)]
fn stream(descriptor: u64) -> Option<(u64, bool)> {
    let offsets = KERNEL_OFFSETS.load();
    // SAFETY: the helper checks each address; the offsets are those of this kernel.
    unsafe {
        let task = bpf_get_current_task() as *const u8;
        let files = pointer(task, offsets.task_files)?;
        let table = pointer(files, offsets.files_table)?;
        let limit: u32 = bpf_probe_read_kernel(table.add(offsets.table_limit as usize).cast()).ok()?;
        if descriptor >= u64::from(limit) {
            return None;
        }
        let array = pointer(table, offsets.table_files)?;
        let file = pointer(array, (descriptor as u32) * size_of::<u64>() as u32)?;
        let inode = pointer(file, offsets.file_inode)?;
        let mode: u16 = bpf_probe_read_kernel(inode.add(offsets.inode_mode as usize).cast()).ok()?;
        let kind = mode & TYPE_MASK;
        if kind != IS_PIPE && kind != IS_SOCKET {
            return None;
        }
        let number: u64 = bpf_probe_read_kernel(inode.add(offsets.inode_number as usize).cast()).ok()?;
        Some((number, kind == IS_SOCKET))
    }
}

#[inline(always)]
unsafe fn pointer(base: *const u8, offset: u32) -> Option<*const u8> {
    // SAFETY: the helper checks the address.
    unsafe { bpf_probe_read_kernel(base.add(offset as usize).cast::<*const u8>()) }.ok()
}

#[inline(always)]
fn set_buffers(transfer: &mut Transfer, buffers: Buffers, address: u64, count: u64) -> bool {
    transfer.buffer = address;
    transfer.vectors = 0;
    transfer.vector_count = 1;
    match buffers {
        Buffers::Plain => return true,
        Buffers::Vectors => (transfer.vectors, transfer.vector_count) = (address, count),
        Buffers::Message => {
            // `struct user_msghdr`: a pointer and a length, then the vectors and how many there are.
            // SAFETY: the helper checks the address.
            match unsafe { read_user((address + 16) as *const [u64; 2]) } {
                Ok([vectors, count]) => (transfer.vectors, transfer.vector_count) = (vectors, count),
                Err(_) => return false,
            }
        }
    }
    // The first one, for a look at the start.
    // SAFETY: the helper checks the address.
    match unsafe { read_user(transfer.vectors as *const u64) } {
        Ok(first) => transfer.buffer = first,
        Err(_) => return false,
    }
    true
}

/// How much of a call on this stream is taken whole; `None` when the stream is of no interest. The end of a stream is, if
/// the stream was.
#[inline(always)]
fn judge(stream: u64, transfer: &Transfer, is_ended: bool) -> Option<u32> {
    let rule = STREAMS.get_ptr_mut(stream);
    if let Some(rule) = rule {
        // SAFETY: a live entry; calls on one stream that race may look at it once more or once less.
        let rule = unsafe { &mut *rule };
        if rule.verdict == StreamVerdict::Captured as u32 {
            return Some(rule.whole_bytes);
        }
        if rule.verdict == StreamVerdict::Ignored as u32 {
            return None;
        }
        if is_ended {
            return None;
        }
        rule.looked_at += 1;
        // Calls that are always full start with a message by chance only, so it is not given up altogether.
        if rule.looked_at > OFTEN_LOOKED_AT && rule.looked_at % LOOK_RARELY != 0 {
            return None;
        }
        if !looks_like_a_message(transfer.buffer) {
            return None;
        }
        rule.verdict = StreamVerdict::Captured as u32;
        return Some(rule.whole_bytes);
    }
    if is_ended {
        return None;
    }
    let is_message = looks_like_a_message(transfer.buffer);
    let verdict = if is_message { StreamVerdict::Captured } else { StreamVerdict::Unknown };
    let whole_bytes = 2 * MAX_WIRE_BYTES as u32;
    let _ = STREAMS.insert(
        stream,
        StreamRule { verdict: verdict as u32, looked_at: 1, whole_bytes, lost_read: 0, lost_written: 0 },
        0,
    );
    is_message.then_some(whole_bytes)
}

/// The start of JSON, of an HTTP request, or of an HTTP response. User space looks closer.
#[inline(always)]
fn looks_like_a_message(buffer: u64) -> bool {
    // SAFETY: the helper checks the address. A buffer may be shorter: what is behind it does no harm.
    let start = match unsafe { read_user(buffer as *const u32) } {
        Ok(start) => start.to_le_bytes(),
        Err(_) => return false,
    };
    matches!(start[0], b'{' | b'[') || matches!(&start, b"POST" | b"GET " | b"DELE" | b"HTTP" | b"OPTI")
}

/// One part of a call: copied and put out. Returns 1 behind the last.
unsafe extern "C" fn part(_index: u64, context: *mut *mut Scratch) -> i64 {
    // SAFETY: `bpf_loop` hands back the context that it was given: this CPU's slot.
    let scratch = unsafe { &mut **context };
    let transfer = &mut scratch.transfer;
    let is_cut = transfer.total > transfer.whole_bytes;
    let size = if is_cut { MAX_WIRE_BYTES as u64 / 2 } else { MAX_WIRE_BYTES as u64 };
    if is_cut && transfer.from > 0 {
        transfer.from = transfer.total - size;
    }
    let left = transfer.total.wrapping_sub(transfer.from);
    transfer.to = transfer.from + if left < size { left } else { size };
    transfer.position = 0;
    transfer.copied = 0;
    // SAFETY: `vector` has the signature of a loop callback, and the context outlives the call.
    unsafe {
        bpf_loop(MAX_VECTORS, vector as *mut c_void, context.cast(), 0);
    }
    // SAFETY: as above.
    let scratch = unsafe { &mut **context };
    let transfer = &mut scratch.transfer;
    let is_last = transfer.to >= transfer.total;
    let length = transfer.copied;
    if length != transfer.to - transfer.from {
        transfer.is_unreadable = 1;
    }
    scratch.event.offset = transfer.from as u32;
    scratch.event.length = length as u32;
    scratch.event.flags |= is_last as u32 * WireFlag::Last as u32
        | (transfer.is_unreadable != 0) as u32 * WireFlag::Unreadable as u32;
    transfer.from = transfer.to;
    if length > MAX_WIRE_BYTES as u64 {
        return 1; // tells the verifier
    }
    let lost = lost(&scratch.event);
    // SAFETY: a live entry of the map, or none; only calls in the same direction of the stream touch this field.
    if let Some(lost) = lost
        && unsafe { *lost } != 0
    {
        scratch.event.flags |= WireFlag::Lost as u32;
    }
    // SAFETY: the event and that many bytes behind it lie within the slot.
    let outcome = unsafe {
        bpf_ringbuf_output(
            core::ptr::addr_of!(MESSAGES).cast_mut().cast(),
            core::ptr::from_mut(&mut scratch.event).cast(),
            size_of::<WireEvent>() as u64 + length,
            NO_WAKEUP,
        )
    };
    if outcome != 0 {
        count(Failure::WireRingFull);
    }
    if let Some(lost) = lost {
        // SAFETY: as above.
        unsafe { *lost = u32::from(outcome != 0) };
    }
    scratch.event.flags &= !(WireFlag::Lost as u32);
    i64::from(is_last)
}

/// Whether something is missing before the next event of this direction of its stream.
#[inline(always)]
fn lost(event: &WireEvent) -> Option<*mut u32> {
    let rule = STREAMS.get_ptr_mut(event.stream)?;
    // SAFETY: a live entry.
    Some(unsafe {
        if event.flags & WireFlag::Written as u32 != 0 {
            &raw mut (*rule).lost_written
        } else {
            &raw mut (*rule).lost_read
        }
    })
}

/// Copies what the wanted part has in one buffer. Returns 1 behind the last one.
unsafe extern "C" fn vector(index: u64, context: *mut *mut Scratch) -> i64 {
    // SAFETY: the context of the loop around this one.
    let scratch = unsafe { &mut **context };
    let transfer = &mut scratch.transfer;
    if index >= transfer.vector_count || transfer.position >= transfer.to {
        return 1;
    }
    let (base, length) = if transfer.vectors == 0 {
        (transfer.buffer, transfer.total)
    } else {
        // SAFETY: the helper checks the address.
        match unsafe { read_user((transfer.vectors + index * 16) as *const [u64; 2]) } {
            Ok([base, length]) => (base, length),
            Err(_) => return 1,
        }
    };
    let start = transfer.position;
    let end = start.saturating_add(length);
    transfer.position = end;
    let from = if transfer.from > start { transfer.from } else { start };
    let to = if transfer.to < end { transfer.to } else { end };
    if from >= to {
        return 0;
    }
    let wanted = to - from;
    let at = transfer.copied;
    if at >= MAX_WIRE_BYTES as u64 || wanted > MAX_WIRE_BYTES as u64 {
        return 1; // tells the verifier
    }
    // SAFETY: `at` and `wanted` are each at most half of the slot's bytes; the helper checks the source.
    let outcome = unsafe {
        let target = scratch.bytes.as_mut_ptr().add(at as usize);
        bpf_probe_read_user(target.cast(), wanted as u32, (base + (from - start)) as *const c_void)
    };
    if outcome != 0 {
        return 1;
    }
    scratch.transfer.copied = at + wanted;
    0
}
