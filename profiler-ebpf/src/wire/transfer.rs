//! What one call moved: gathered from the process's buffers, part by part, and put out.

use core::ffi::c_void;
use core::mem::size_of;

use aya_ebpf::bindings::BPF_RB_AVAIL_DATA;
use aya_ebpf::helpers::generated::{bpf_probe_read_kernel, bpf_probe_read_user, bpf_ringbuf_query};
use aya_ebpf::helpers::{bpf_loop, bpf_probe_read_user as read_user, bpf_ringbuf_output};
use profiler_common::{
    Failure, MAX_VECTORS, MAX_WIRE_BYTES, MAX_WIRE_PARTS, MESSAGES_BYTES, StreamRule, WireEvent, WireFlag,
};

use super::streams;
use crate::output::{MESSAGES, NO_WAKEUP, count};

/// What is taken of either end of a stretch.
const END_BYTES: u64 = MAX_WIRE_BYTES as u64 / 2;
/// What is taken of the end of a part within a long line: the next one may hold no more than the last byte of a message.
const LINE_END_BYTES: u64 = 1024;
/// How much a stream moves is halved after this time: 2^27 ns, 134 ms.
const WINDOW_BITS: u32 = 27;
/// What is much then: it leaves an eighth of the ring to others.
const MUCH_BYTES: u32 = 256 << 10;
/// More than user space can take: it leaves all but an eighth to others. A server that answers 28,000 calls a second moves 3 MiB.
const FLOOD_BYTES: u32 = 2 * MESSAGES_BYTES;
/// The ring is looked at each time that so much more was moved: 16 KiB.
const ASK_BITS: u32 = 14;
/// Words that are searched at a time for a line end.
const WORDS: usize = 16;
const WORDS_BYTES: u64 = (WORDS * size_of::<u64>()) as u64;

#[repr(C)]
pub(super) struct Scratch {
    pub(super) event: WireEvent,
    /// Twice as long as what is used, so that any copy from within the first half stays in it.
    bytes: [u8; 2 * MAX_WIRE_BYTES],
    pub(super) transfer: Transfer,
}

/// What one call moved, and which part of it is being copied. In a map, so that the verifier forgets its values.
#[repr(C)]
pub(super) struct Transfer {
    /// Where the buffers are: an array of `struct iovec`; zero for a single buffer.
    vectors: u64,
    vector_count: u64,
    /// The single buffer, or the first one.
    pub(super) buffer: u64,
    /// The length of the first one, where there are several; else zero.
    pub(super) first_length: u64,
    /// Bytes that were moved.
    total: u64,
    whole_bytes: u64,
    /// Of what is cut: the end of the stretch whose start was taken, and whether its end is to be.
    stretch_end: u64,
    is_in_stretch: u64,
    /// Where the last buffer ends that ends a line and that the part which starts a stretch reaches; zero without one.
    gathered_end: u64,
    /// The part that is wanted.
    from: u64,
    to: u64,
    /// Bytes of the buffers before the current one.
    position: u64,
    /// Bytes copied so far.
    copied: u64,
    is_unreadable: u64,
    has_line_end: u64,
}

/// How a call tells its buffers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Buffers {
    /// `(fd, buffer, length)`.
    Plain,
    /// `(fd, vectors, count)`.
    Vectors,
    /// `(fd, message header)`.
    Message,
}

impl Transfer {
    /// Takes the second and the third argument of a call. False when they can't be read.
    #[inline(always)]
    pub(super) fn set(&mut self, buffers: Buffers, address: u64, count: u64) -> bool {
        let (mut vectors, mut vector_count) = (address, count);
        match buffers {
            Buffers::Plain => {
                (self.buffer, self.vectors, self.vector_count) = (address, 0, 1);
                self.first_length = 0;
                return true;
            }
            Buffers::Vectors => {}
            Buffers::Message => {
                // `struct user_msghdr`: a pointer and a length, then the vectors and how many there are.
                // SAFETY: the helper checks the address.
                match unsafe { read_user((address + 16) as *const [u64; 2]) } {
                    Ok(told) => [vectors, vector_count] = told,
                    Err(_) => return false,
                }
            }
        }
        // The first one, for a look at the start.
        // SAFETY: the helper checks the address.
        match unsafe { read_user(vectors as *const [u64; 2]) } {
            Ok(first) => [self.buffer, self.first_length] = first,
            Err(_) => return false,
        }
        if vector_count == 1 {
            self.first_length = 0;
        }
        (self.vectors, self.vector_count) = if vector_count == 1 { (0, 1) } else { (vectors, vector_count) };
        true
    }
}

/// Puts out what was moved: whole, or its start and its end. Programs that queue messages write several of them at once, each in
/// a buffer of its own: then the start and the end of each.
#[inline(always)]
pub(super) fn send(scratch: &mut Scratch, rule: *mut StreamRule, total: u64) {
    scratch.event.total = total as u32;
    scratch.event.flags |= (scratch.transfer.vectors != 0) as u32 * WireFlag::Buffers as u32;
    let is_in_first = scratch.transfer.vectors == 0 || total <= scratch.transfer.first_length;
    let mut context = core::ptr::from_mut(scratch);
    // SAFETY: it is this CPU's or this program's own.
    let scratch = unsafe { &mut *context };
    if is_in_first && total <= MAX_WIRE_BYTES as u64 {
        // The usual case, without a loop.
        scratch.transfer.total = total;
        scratch.event.length = total as u32;
        if total > 0 {
            // SAFETY: it was written just now. Older verifiers forget the bounds of what was put aside meanwhile.
            let length = unsafe { core::ptr::addr_of!(scratch.transfer.total).read_volatile() };
            if length > MAX_WIRE_BYTES as u64 {
                return;
            }
            // SAFETY: so many bytes are in the slot; the helper checks the source.
            let outcome = unsafe {
                let source = scratch.transfer.buffer as *const c_void;
                bpf_probe_read_user(scratch.bytes.as_mut_ptr().cast(), length as u32, source)
            };
            if outcome != 0 {
                scratch.event.length = 0;
                scratch.event.flags |= WireFlag::Unreadable as u32;
            }
        }
        scratch.event.flags |= WireFlag::Last as u32;
        follow_line(&raw mut context, rule);
        // SAFETY: as above.
        put(unsafe { &mut *context }, Some(rule));
        return;
    }
    scratch.transfer.total = total;
    // SAFETY: a live entry.
    scratch.transfer.whole_bytes = u64::from(unsafe { (*rule).whole_bytes });
    scratch.transfer.from = 0;
    scratch.transfer.is_in_stretch = 0;
    scratch.transfer.is_unreadable = 0;
    // SAFETY: `part` has the signature of a loop callback, and the context outlives the call.
    unsafe {
        bpf_loop(MAX_WIRE_PARTS, part as *mut c_void, (&raw mut context).cast(), 0);
    }
}

/// Puts out an event without bytes.
#[inline(always)]
pub(super) fn tell(event: &WireEvent) {
    if MESSAGES.output::<WireEvent>(event, NO_WAKEUP).is_err() {
        count(Failure::WireRingFull);
    }
}

/// One part of a call: copied and put out. Returns 1 behind the last.
unsafe extern "C" fn part(index: u64, context: *mut *mut Scratch) -> i64 {
    // SAFETY: `bpf_loop` hands back the context that it was given.
    let scratch = unsafe { &mut **context };
    let transfer = &mut scratch.transfer;
    let is_cut = transfer.total > transfer.whole_bytes;
    let size = if is_cut { END_BYTES } else { MAX_WIRE_BYTES as u64 };
    let mut end = transfer.total;
    if is_cut {
        if index + 1 == u64::from(MAX_WIRE_PARTS) {
            (transfer.stretch_end, transfer.is_in_stretch) = (transfer.total, 1);
        } else if transfer.is_in_stretch == 0 {
            transfer.stretch_end = transfer.total;
            transfer.gathered_end = 0;
            transfer.position = 0;
            if transfer.vectors != 0 && index + 2 < u64::from(MAX_WIRE_PARTS) {
                // SAFETY: `border` has the signature of a loop callback, and the context outlives the call.
                unsafe {
                    bpf_loop(MAX_VECTORS, border as *mut c_void, context.cast(), 0);
                }
            }
        }
    }
    // SAFETY: as above.
    let scratch = unsafe { &mut **context };
    let transfer = &mut scratch.transfer;
    if is_cut {
        // Whole buffers, before one that is cut: so the line ends that its part holds are its own.
        let is_gathered = transfer.gathered_end != 0 && transfer.is_in_stretch == 0;
        if is_gathered && transfer.stretch_end.wrapping_sub(transfer.from) > size {
            transfer.stretch_end = transfer.gathered_end;
        }
        end = transfer.stretch_end;
        if transfer.is_in_stretch != 0 && end.wrapping_sub(transfer.from) > size {
            transfer.from = end - size;
        }
    }
    let left = end.wrapping_sub(transfer.from);
    transfer.to = transfer.from + if left < size { left } else { size };
    transfer.is_in_stretch = u64::from(is_cut && transfer.to < end);
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
    let rule = streams::rule(scratch.event.stream);
    if let Some(rule) = rule {
        if is_cut {
            follow_cut(scratch, rule);
        } else {
            follow_line(context, rule);
        }
    }
    // SAFETY: as above.
    put(unsafe { &mut **context }, rule);
    i64::from(is_last)
}

/// Where it is counted how long the line is that the last call in the same direction ended within.
#[inline(always)]
fn line_of(scratch: &Scratch, rule: *mut StreamRule) -> *mut u32 {
    // SAFETY: a live entry.
    unsafe {
        if scratch.event.flags & WireFlag::Written as u32 != 0 {
            &raw mut (*rule).line_written
        } else {
            &raw mut (*rule).line_read
        }
    }
}

/// The last byte of what was copied; `None` without any.
#[inline(always)]
fn last_byte(scratch: &Scratch, length: u64) -> Option<u8> {
    if length == 0 || length > MAX_WIRE_BYTES as u64 {
        return None;
    }
    // SAFETY: it lies within the slot.
    Some(unsafe { *scratch.bytes.as_ptr().add(length as usize - 1) })
}

/// Follows a line through a part of a call that is cut.
#[inline(always)]
fn follow_cut(scratch: &mut Scratch, rule: *mut StreamRule) {
    if scratch.event.flags & WireFlag::Last as u32 == 0 {
        return;
    }
    // SAFETY: a live entry; only calls in the same direction of the stream touch this field.
    let line = unsafe { &mut *line_of(scratch, rule) };
    *line = match last_byte(scratch, scratch.transfer.copied) {
        None | Some(b'\n') => 0,
        Some(_) => line.saturating_add(scratch.event.total),
    };
}

/// Follows a line through what was copied. Of what is within a long one only the end is put out: bodies of messages that go out in
/// small pieces would fill the ring. That hides nothing: where a line ends, or a message might start, all is put out.
#[inline(always)]
fn follow_line(context: *mut *mut Scratch, rule: *mut StreamRule) {
    // SAFETY: the caller's, as it says.
    let scratch = unsafe { &mut **context };
    // SAFETY: the field was written before. Older verifiers forget its bounds.
    let length = u64::from(unsafe { core::ptr::addr_of!(scratch.event.length).read_volatile() });
    // SAFETY: a live entry; only calls in the same direction of the stream touch this field.
    let line = unsafe { &mut *line_of(scratch, rule) };
    let before = *line;
    if matches!(last_byte(scratch, length), None | Some(b'\n')) {
        if before != 0 {
            *line = 0;
        }
        return;
    }
    *line = before.saturating_add(length as u32);
    // SAFETY: a live entry.
    let is_long = before >= unsafe { (*rule).whole_bytes };
    if !is_long || length < 2 * LINE_END_BYTES || matches!(scratch.bytes[0], b'{' | b'[') {
        return;
    }
    scratch.transfer.has_line_end = 0;
    // SAFETY: `search` has the signature of a loop callback, and the context outlives the call.
    unsafe {
        bpf_loop((length / WORDS_BYTES) as u32, search as *mut c_void, context.cast(), 0);
    }
    // SAFETY: as above.
    let scratch = unsafe { &mut **context };
    if scratch.transfer.has_line_end != 0 {
        *line = 0;
        return;
    }
    let left_out = length - LINE_END_BYTES;
    // SAFETY: so many bytes are in the slot; the helper checks the source, which is behind them.
    unsafe {
        let bytes = scratch.bytes.as_mut_ptr();
        bpf_probe_read_kernel(bytes.cast(), LINE_END_BYTES as u32, bytes.add(left_out as usize).cast());
    }
    scratch.event.offset += left_out as u32;
    scratch.event.length = LINE_END_BYTES as u32;
    scratch.event.flags |= WireFlag::WithinLine as u32;
}

/// Looks for a line end among some words of what was copied. Returns 1 when it is found.
unsafe extern "C" fn search(index: u64, context: *mut *mut Scratch) -> i64 {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const LINE_ENDS: u64 = ONES * b'\n' as u64;
    // SAFETY: `bpf_loop` hands back the context that it was given.
    let scratch = unsafe { &mut **context };
    if index >= MAX_WIRE_BYTES as u64 / WORDS_BYTES {
        return 1; // tells the verifier
    }
    // SAFETY: the words lie within the slot, whose bytes are aligned as its event is.
    let words: &[u64; WORDS] = unsafe { &*scratch.bytes.as_ptr().add((index * WORDS_BYTES) as usize).cast() };
    // A byte is zero where one is borrowed for it that it did not have.
    let found = words.iter().fold(0, |found, word| {
        let word = word ^ LINE_ENDS;
        found | (word.wrapping_sub(ONES) & !word)
    });
    if found & (ONES << 7) == 0 {
        return 0;
    }
    scratch.transfer.has_line_end = 1;
    1
}

/// Puts out the event and its bytes.
#[inline(always)]
fn put(scratch: &mut Scratch, rule: Option<*mut StreamRule>) {
    let is_written = scratch.event.flags & WireFlag::Written as u32 != 0;
    // Whether something is missing before this event, in its direction of the stream.
    let lost = rule.map(|rule| {
        // SAFETY: a live entry; only calls in the same direction of the stream touch this field.
        unsafe { if is_written { &raw mut (*rule).lost_written } else { &raw mut (*rule).lost_read } }
    });
    // SAFETY: as above.
    if lost.is_some_and(|lost| unsafe { *lost } != 0) {
        scratch.event.flags |= WireFlag::Lost as u32;
    }
    // SAFETY: the field was written before.
    let length = u64::from(unsafe { core::ptr::addr_of!(scratch.event.length).read_volatile() });
    if length > MAX_WIRE_BYTES as u64 {
        return; // tells the verifier
    }
    let timestamp_ns = scratch.event.header.timestamp_ns;
    // SAFETY: a live entry; calls that race may count a little less.
    let is_held_back = rule.is_some_and(|rule| is_held_back(unsafe { &mut *rule }, timestamp_ns, length));
    let outcome = if is_held_back {
        -1
    } else {
        // SAFETY: the event and that many bytes behind it lie within the slot.
        unsafe {
            bpf_ringbuf_output(
                core::ptr::addr_of!(MESSAGES).cast_mut().cast(),
                core::ptr::from_mut(&mut scratch.event).cast(),
                size_of::<WireEvent>() as u64 + length,
                NO_WAKEUP,
            )
        }
    };
    if outcome != 0 {
        count(Failure::WireRingFull);
    }
    if let Some(lost) = lost
        && (outcome != 0 || scratch.event.flags & WireFlag::Lost as u32 != 0)
    {
        // SAFETY: as above.
        unsafe { *lost = u32::from(outcome != 0) };
    }
    scratch.event.flags &= !(WireFlag::Lost as u32 | WireFlag::WithinLine as u32);
}

/// Whether a stream that moves much is to leave the rest of the ring to others: one that floods must harm itself alone.
#[inline(always)]
fn is_held_back(rule: &mut StreamRule, timestamp_ns: u64, length: u64) -> bool {
    let window = (timestamp_ns >> WINDOW_BITS) as u32;
    if rule.window != window {
        let windows = window.wrapping_sub(rule.window);
        rule.taken = if windows < u32::BITS { rule.taken >> windows } else { 0 };
        (rule.window, rule.is_held_back) = (window, 0);
    }
    let before = rule.taken;
    rule.taken = before.saturating_add(length as u32 + size_of::<WireEvent>() as u32);
    // Not each time: to ask costs as much as a look-up.
    if rule.taken > MUCH_BYTES && before >> ASK_BITS != rule.taken >> ASK_BITS {
        // SAFETY: a ring buffer.
        let held = unsafe {
            bpf_ringbuf_query(core::ptr::addr_of!(MESSAGES).cast_mut().cast(), u64::from(BPF_RB_AVAIL_DATA))
        };
        let allowed = if rule.taken > FLOOD_BYTES { MESSAGES_BYTES / 8 } else { MESSAGES_BYTES / 8 * 7 };
        rule.is_held_back = u32::from(held > u64::from(allowed));
    }
    rule.is_held_back != 0
}

/// Looks for the first buffer that ends in a line end which the part that starts a stretch does not reach: the stretch ends there, or
/// at the last one that it reaches. Returns 1 when it is found.
unsafe extern "C" fn border(index: u64, context: *mut *mut Scratch) -> i64 {
    // SAFETY: the context of the loop around this one.
    let transfer = unsafe { &mut (**context).transfer };
    if index >= transfer.vector_count || transfer.position >= transfer.total {
        return 1;
    }
    // SAFETY: the helper checks the address.
    let Ok([base, length]) = (unsafe { read_user((transfer.vectors + index * 16) as *const [u64; 2]) })
    else {
        return 1;
    };
    transfer.position = transfer.position.saturating_add(length);
    let end = transfer.position;
    if length == 0 || end >= transfer.total || end <= transfer.from {
        return 0;
    }
    // SAFETY: as above.
    if unsafe { read_user((base + length - 1) as *const u8) } != Ok(b'\n') {
        return 0;
    }
    if end <= transfer.from + END_BYTES {
        transfer.gathered_end = end;
        return 0;
    }
    transfer.stretch_end = end;
    1
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
