//! What is known of streams, and what is done with them.

use aya_ebpf::helpers::bpf_probe_read_user as read_user;
use aya_ebpf::macros::map;
use aya_ebpf::maps::LruHashMap;
use profiler_common::{Failure, MAX_STREAMS, StreamRule, StreamVerdict, WHOLE_BYTES};

use super::IF_ABSENT;
use super::descriptor::{self, Descriptor};
use crate::output::count;

/// The kernel half puts streams in; user space may change its mind about them.
#[map]
static STREAMS: LruHashMap<u64, StreamRule> = LruHashMap::with_max_entries(MAX_STREAMS, 0);

/// Calls on a stream that are all looked at; of later ones one in [`LOOK_RARELY`]. Answers that were begun before the profiler came may
/// go out in thousands of pieces, and the first whole message behind them is not to be missed.
const OFTEN_LOOKED_AT: u32 = 1 << 14;
const LOOK_RARELY: u32 = 16;

/// What is done with what a call moved.
pub(super) enum Judgement {
    Take(*mut StreamRule),
    /// It is TLS: user space is told once.
    Encrypted,
    Leave,
}

/// A name in the map of streams for something that a process does, and not one of its streams. Inode numbers of pipes and
/// sockets are counted by 32 bits.
#[inline(always)]
pub(super) fn of_process(pid: u32) -> u64 {
    1 << 62 | u64::from(pid)
}

#[inline(always)]
pub(super) fn rule(stream: u64) -> Option<*mut StreamRule> {
    STREAMS.get_ptr_mut(stream)
}

/// Whether a stream is known to be of no interest. Its end is of interest only if the stream was.
#[inline(always)]
pub(super) fn is_ignored(rule: Option<*mut StreamRule>, is_ended: bool) -> bool {
    let Some(rule) = rule else { return is_ended };
    // SAFETY: a live entry.
    let verdict = unsafe { (*rule).verdict };
    verdict == StreamVerdict::Ignored as u32 || (is_ended && verdict != StreamVerdict::Captured as u32)
}

/// Where what was moved starts.
#[derive(Clone, Copy)]
pub(super) struct Start {
    pub(super) buffer: u64,
    /// How much of it lies in this buffer, where there are several; else zero.
    pub(super) length: u64,
    pub(super) is_written: bool,
}

/// Decides by the start of what was moved, where nothing is decided yet.
#[inline(always)]
pub(super) fn judge(stream: u64, rule: Option<*mut StreamRule>, start: Start) -> Judgement {
    let Some(rule) = rule else { return first_look(stream, start) };
    // SAFETY: a live entry; calls on one stream that race may look at it once more or once less.
    let known = unsafe { &mut *rule };
    if known.verdict == StreamVerdict::Captured as u32 {
        return Judgement::Take(rule);
    }
    known.looked_at += 1;
    // Calls that are always full start with a message by chance only, so it is not given up altogether.
    if known.looked_at > OFTEN_LOOKED_AT && known.looked_at % LOOK_RARELY != 0 {
        return Judgement::Leave;
    }
    match look(start) {
        Look::Message => {
            known.verdict = StreamVerdict::Captured as u32;
            Judgement::Take(rule)
        }
        Look::Encrypted => {
            known.verdict = StreamVerdict::Ignored as u32;
            Judgement::Encrypted
        }
        Look::Other => Judgement::Leave,
    }
}

#[inline(always)]
fn first_look(stream: u64, start: Start) -> Judgement {
    let look = look(start);
    let verdict = match look {
        Look::Message => StreamVerdict::Captured,
        Look::Encrypted => StreamVerdict::Ignored,
        Look::Other => StreamVerdict::Unknown,
    };
    insert(stream, verdict, 0);
    match look {
        Look::Message => rule(stream).map_or(Judgement::Leave, Judgement::Take),
        Look::Encrypted => Judgement::Encrypted,
        Look::Other => Judgement::Leave,
    }
}

#[inline(always)]
fn insert(stream: u64, verdict: StreamVerdict, flags: u64) -> bool {
    let verdict = verdict as u32;
    let rule = StreamRule {
        verdict,
        looked_at: 1,
        whole_bytes: WHOLE_BYTES,
        lost_read: 0,
        lost_written: 0,
        line_read: 0,
        line_written: 0,
        window: 0,
        taken: 0,
        is_held_back: 0,
    };
    STREAMS.insert(stream, rule, flags).is_ok()
}

/// Whether nobody asked for this name before.
#[inline(always)]
pub(super) fn is_first(name: u64) -> bool {
    insert(name, StreamVerdict::Ignored, IF_ABSENT)
}

/// Forgets a stream that has ended. Whether it was taken.
#[inline(always)]
pub(super) fn forget(stream: u64) -> bool {
    let Some(rule) = rule(stream) else { return false };
    // SAFETY: a live entry.
    let is_captured = unsafe { (*rule).verdict } == StreamVerdict::Captured as u32;
    STREAMS.remove(stream).is_ok() && is_captured
}

/// Something was moved that is not looked at.
#[inline(always)]
pub(super) fn skipped(descriptor: u64) {
    let Some(Descriptor { stream, .. }) = descriptor::look_up(descriptor) else { return };
    let Some(rule) = rule(stream) else { return };
    // SAFETY: a live entry.
    let rule = unsafe { &mut *rule };
    if rule.verdict == StreamVerdict::Captured as u32 {
        (rule.lost_read, rule.lost_written) = (1, 1);
        (rule.line_read, rule.line_written) = (0, 0);
        count(Failure::WireUnseen);
    }
}

enum Look {
    Message,
    Encrypted,
    Other,
}

/// The start of JSON, of an HTTP request or an HTTP response, of a chunk of the latter, or of a TLS record. User space looks
/// closer.
#[inline(always)]
fn look(Start { buffer, length, is_written }: Start) -> Look {
    // SAFETY: the helper checks the address. A buffer may be shorter: what is behind it does no harm.
    let start = match unsafe { read_user(buffer as *const u32) } {
        Ok(start) => start.to_le_bytes(),
        Err(_) => return Look::Other,
    };
    let is_http = matches!(&start, b"POST" | b"GET " | b"DELE" | b"HTTP" | b"OPTI");
    if is_http || matches!(start[0], b'{' | b'[') {
        return Look::Message;
    }
    // Connections on which servers send events may be older than the profiler, and nothing else starts on them.
    if is_written && is_chunk_size(start, length) {
        return Look::Message;
    }
    // A record of a handshake or of data, with the version that all have that are in use (RFC 8446, section 5.1).
    if matches!(start[0], 22 | 23) && start[1] == 3 && start[2] <= 3 { Look::Encrypted } else { Look::Other }
}

/// Up to four hexadecimal digits, which end with their line or with their buffer (RFC 9112, section 7.1).
#[inline(always)]
fn is_chunk_size(start: [u8; 4], length: u64) -> bool {
    let is_digit = |byte: u8| byte.is_ascii_hexdigit();
    let ends = |at: usize| start[at] == b'\r' || length == at as u64;
    is_digit(start[0])
        && (ends(1)
            || is_digit(start[1])
                && (ends(2) || is_digit(start[2]) && (ends(3) || is_digit(start[3]) && length == 4)))
}
