//! What processes said on their streams: puts the kernel half's pieces together and hands them to the parsers.

use aya::maps::{HashMap as BpfHashMap, Map, MapData, MapError};
use hashbrown::{HashMap, HashSet};
use profiler_common::{
    ClientWriteEvent, MAX_WIRE_BYTES, StreamRule, StreamVerdict, WHOLE_BYTES, WireEvent, WireFlag,
};

use super::clients::Clients;
use super::long_calls::{Long, LongPart, MANY_WHOLE_BYTES};
use super::read_streams::Read;
use crate::wire::Piece;
use crate::wire::calls::{Call, Ended};
use crate::wire::contents::Capture;
use crate::wire::queue::ClientWrite;
use crate::wire::streams::{Counts, Interest, Moved, Streams};

/// What messages may take that are half read, and calls that have not ended, of all processes together, in bytes.
const MAX_HELD_BYTES: usize = 32 << 20;
/// Streams of which it is remembered whether their long system calls are of several messages.
const MAX_LONG_STREAMS: usize = 1024;
/// Calls of a process that may have ended before they are written.
const MAX_ENDED: usize = 4096;

/// Changes what is there and makes nothing new (`include/uapi/linux/bpf.h`).
const BPF_EXIST: u64 = 2;

/// The streams of all watched processes.
pub(super) struct Wire {
    rules: BpfHashMap<MapData, u64, StreamRule>,
    processes: HashMap<u32, Streams>,
    clients: Clients,
    /// Processes that said something since they were last asked what they hold, and what each held then.
    active: HashSet<u32>,
    held: HashMap<u32, usize>,
    /// Which process reads the streams whose clients are known.
    readers: HashMap<u64, u32>,
    /// Processes that have an `io_uring`.
    io_urings: HashSet<u32>,
    /// What of arguments and results is kept.
    capture: Capture,
    /// Processes that have ended.
    ended: Counts,
    /// The parts of the call that is being taken.
    last: Option<Part>,
    /// Streams with long system calls.
    long: HashMap<u64, Long>,
}

/// What of a call was taken until now.
#[derive(Clone, Copy)]
struct Part {
    tid: u32,
    timestamp_ns: u64,
    /// Where it ends.
    end: u32,
    /// Something was left out.
    is_cut: bool,
    has_line_end: bool,
}

impl Wire {
    pub(super) fn new(rules: Map, clients: Clients) -> Result<Self, MapError> {
        Ok(Self {
            rules: BpfHashMap::try_from(rules)?,
            processes: HashMap::new(),
            clients,
            active: HashSet::new(),
            held: HashMap::new(),
            readers: HashMap::new(),
            io_urings: HashSet::new(),
            capture: Capture::default(),
            ended: Counts::default(),
            last: None,
            long: HashMap::new(),
        })
    }

    /// The same, which keeps so much of arguments and results.
    pub(super) fn keeping(self, capture: Capture) -> Self {
        Self { capture, ..self }
    }

    /// Takes a piece of what a process moved.
    pub(super) fn take(&mut self, event: &WireEvent, bytes: &[u8]) {
        if event.flags & WireFlag::IoUring as u32 != 0 {
            self.io_urings.insert(event.header.pid);
            return;
        }
        self.active.insert(event.header.pid);
        let streams = self.processes.entry(event.header.pid).or_insert_with(|| Streams::new(self.capture));
        let moved = Moved {
            stream: event.stream,
            is_written: event.flags & WireFlag::Written as u32 != 0,
            timestamp_ns: event.header.timestamp_ns,
            thread: event.tid,
        };
        if event.flags & WireFlag::Encrypted as u32 != 0 {
            return streams.encrypted(moved);
        }
        if event.flags & WireFlag::Lost as u32 != 0 {
            streams.lost(moved, event.offset == 0);
        }
        if event.flags & WireFlag::Ended as u32 != 0 {
            streams.closed(moved.stream, moved.timestamp_ns);
            self.readers.remove(&moved.stream);
            self.clients.closed(moved.stream);
            return;
        }
        if event.flags & WireFlag::Plain as u32 != 0 {
            streams.has_plain = true;
        } else if !moved.is_written {
            let read = Read {
                stream: event.stream,
                pid: event.header.pid,
                descriptor: event.descriptor,
                is_socket: event.flags & WireFlag::Socket as u32 != 0,
            };
            self.clients.read(read, moved.timestamp_ns);
        }
        // Parts of a call follow each other.
        let before =
            self.last.filter(|last| (last.tid, last.timestamp_ns) == (event.tid, moved.timestamp_ns));
        let start = before.map_or(0, |last| last.end);
        let end = event.offset.saturating_add(event.length);
        let is_last = event.flags & WireFlag::Last as u32 != 0;
        let missing = event.offset.saturating_sub(start);
        let behind = if is_last { event.total.saturating_sub(end) } else { 0 };
        let is_within_line = event.flags & WireFlag::WithinLine as u32 != 0;
        let before_bytes =
            if is_within_line { Piece::WithinLine(missing.into()) } else { Piece::Gap(missing.into()) };
        let missing = if is_within_line { 0 } else { missing };
        let pieces = [before_bytes, Piece::Bytes(bytes), Piece::Gap(behind.into())];
        let mut interest = Interest::Yes;
        for piece in pieces {
            if piece.length() > 0 {
                interest = streams.moved(moved, piece);
            }
        }
        let is_long = (WHOLE_BYTES + 1..=MANY_WHOLE_BYTES).contains(&event.total);
        let line_end = if is_long { memchr::memchr(b'\n', bytes) } else { None };
        // Parts of what is taken whole are full, but for the last.
        let is_short = !is_last && !is_within_line && event.length < MAX_WIRE_BYTES as u32;
        let part = Part {
            tid: event.tid,
            timestamp_ns: moved.timestamp_ns,
            end,
            is_cut: missing + behind > 0 || is_short || before.is_some_and(|last| last.is_cut),
            has_line_end: line_end.is_some() || before.is_some_and(|last| last.has_line_end),
        };
        self.last = (!is_last).then_some(part);
        if is_long && streams.has_lines(event.stream) {
            let is_end = bytes.ends_with(b"\n");
            // Where the kernel half knows that a buffer ends a line, its part ends there too, and nothing is hidden.
            let might_hide = if part.is_cut {
                missing + behind > 0 || (!is_last && !is_end)
            } else {
                event.flags & WireFlag::Buffers as u32 == 0
            };
            let long_part = LongPart {
                is_several: might_hide && line_end.is_some_and(|place| place + 1 < bytes.len()),
                is_last,
                is_written: moved.is_written,
                is_answer: moved.is_written && is_last && is_end && streams.calls.in_flight() > 0,
                is_cut: part.is_cut,
                unmatched: streams.calls.unexpected,
                has_line_end: part.has_line_end,
            };
            if self.long.len() >= MAX_LONG_STREAMS {
                self.long.clear();
            }
            let long = self.long.entry(event.stream).or_default();
            if let Some(whole_bytes) = long.next(long_part)
                && let Ok(rule) = self.rules.get(&event.stream, 0)
            {
                // Without it, what is taken stays as it is.
                // What the kernel half knows of the line may be of another one by now.
                let rule = StreamRule { whole_bytes, line_read: 0, line_written: 0, ..rule };
                let _ = self.rules.insert(event.stream, rule, BPF_EXIST);
            }
        }
        if moved.is_written
            && is_last
            && let Some(long) = self.long.get_mut(&event.stream)
        {
            long.is_within = !bytes.ends_with(b"\n");
        }
        if interest == Interest::No {
            let rule = StreamRule { verdict: StreamVerdict::Ignored as u32, ..StreamRule::default() };
            // The kernel half goes on without it: no harm but cost.
            let _ = self.rules.insert(event.stream, rule, 0);
        }
    }

    /// Takes a write of a client.
    pub(super) fn client_wrote(&mut self, event: &ClientWriteEvent) {
        let ClientWriteEvent { header, stream, end_ns, written, length } = *event;
        let write = ClientWrite { start_ns: header.timestamp_ns, end_ns, written, length };
        if let Some(streams) = self.readers.get(&stream).and_then(|pid| self.processes.get_mut(pid)) {
            streams.client_wrote(stream, write);
        }
    }

    /// All events until this moment have been taken. Looks after clients, and that not too much memory is held.
    pub(super) fn settle(&mut self, settled_ns: u64) {
        self.give_up(settled_ns);
        let processes = &self.processes;
        let turn = self
            .clients
            .turn(|read| processes.get(&read.pid).and_then(|streams| streams.is_client_certain(read.stream)));
        for Read { stream, pid, .. } in turn.left {
            self.readers.remove(&stream);
            self.processes.get_mut(&pid).into_iter().for_each(|streams| streams.leave_client(stream));
        }
        for Read { stream, pid, .. } in turn.followed {
            if self.processes.get_mut(&pid).is_some_and(|streams| streams.follow_client(stream)) {
                self.readers.insert(stream, pid);
            } else {
                self.clients.leave(stream);
            }
        }
        for (Read { stream, pid, .. }, look) in turn.looks {
            self.processes.get_mut(&pid).into_iter().for_each(|streams| streams.looked(stream, look));
        }
        let readers: HashSet<u32> = self.readers.values().copied().collect();
        for pid in readers {
            self.processes.get_mut(&pid).into_iter().for_each(|streams| streams.settle(settled_ns));
        }
    }

    /// Has whoever holds most give up what it holds, until it is little enough.
    fn give_up(&mut self, now_ns: u64) {
        for pid in self.active.drain() {
            let held_bytes = self.processes.get(&pid).map_or(0, Streams::held_bytes);
            self.held.insert(pid, held_bytes);
        }
        while self.held.values().sum::<usize>() > MAX_HELD_BYTES {
            let Some((pid, held_bytes)) = self.held.iter_mut().max_by_key(|(_, held_bytes)| **held_bytes)
            else {
                return;
            };
            let Some(streams) = self.processes.get_mut(pid) else { return };
            streams.give_up(now_ns);
            let left = streams.held_bytes();
            // What can't be given up is little; but nothing here may go on for ever.
            if left >= *held_bytes {
                return;
            }
            *held_bytes = left;
        }
    }

    /// The process was found to have an `io_uring`.
    pub(super) fn has_io_uring(&mut self, pid: u32) {
        self.io_urings.insert(pid);
    }

    /// The calls of a process that ended, if they are many.
    pub(super) fn take_many_calls(&mut self, pid: u32) -> Vec<Call> {
        match self.processes.get_mut(&pid) {
            Some(streams) if streams.calls.ended_count() >= MAX_ENDED => streams.calls.take_ended(),
            _ => Vec::new(),
        }
    }

    /// The calls that ended since the last time, by process.
    pub(super) fn take_calls(&mut self) -> Vec<(u32, Vec<Call>)> {
        let have_ended = self.processes.iter_mut().filter(|(_, streams)| streams.calls.ended_count() > 0);
        have_ended.map(|(pid, streams)| (*pid, streams.calls.take_ended())).collect()
    }

    /// The calls that have not ended, by process.
    pub(super) fn open_calls(&self) -> impl Iterator<Item = (u32, &Call)> {
        self.processes.iter().flat_map(|(pid, streams)| streams.calls.open().map(|call| (*pid, call)))
    }

    /// Nothing more comes from a process.
    pub(super) fn process_ended(&mut self, pid: u32, now_ns: u64) -> Vec<Call> {
        self.readers.retain(|stream, reader| {
            if *reader == pid {
                self.clients.closed(*stream);
            }
            *reader != pid
        });
        self.clients.process_ended(pid);
        self.held.remove(&pid);
        self.active.remove(&pid);
        let Some(mut streams) = self.processes.remove(&pid) else { return Vec::new() };
        // What was lost last in a stream was not told of yet.
        let known: Vec<u64> = streams.known().collect();
        for stream in known {
            if let Ok(rule) = self.rules.get(&stream, 0) {
                lost_at_end(stream, &rule, now_ns).for_each(|moved| streams.lost(moved, true));
            }
        }
        if streams.counts().messages > 0 {
            self.io_urings.remove(&pid);
        }
        streams.calls.finish(now_ns, &Ended::Unanswered);
        self.ended.add(streams.counts());
        streams.calls.take_ended()
    }

    /// Nothing more comes at all.
    pub(super) fn finish(&mut self, now_ns: u64) {
        // As above, also of streams that nobody knows yet.
        let lost: Vec<(u64, StreamRule)> = self.rules.iter().filter_map(Result::ok).collect();
        for (stream, rule) in lost {
            for moved in lost_at_end(stream, &rule, now_ns) {
                // A pipe may be of several processes. A stream of which nothing else is known may be of any.
                let is_known = self.processes.values().any(|streams| streams.knows(stream));
                let concerned =
                    self.processes.values_mut().filter(|streams| !is_known || streams.knows(stream));
                concerned.for_each(|streams| streams.lost(moved, true));
            }
        }
        self.processes.values_mut().for_each(|streams| streams.calls.finish(now_ns, &Ended::InFlight));
    }

    /// What was seen besides calls, by name.
    pub(super) fn counts(&self) -> impl Iterator<Item = (&'static str, u64)> + use<> {
        let mut counts = self.ended;
        self.processes.values().for_each(|streams| counts.add(streams.counts()));
        // Runtimes use it for other things too. Where messages are seen, they go another way.
        let is_silent =
            |pid: &&u32| self.processes.get(*pid).is_none_or(|streams| streams.counts().messages == 0);
        counts.io_uring_processes = self.io_urings.iter().filter(is_silent).count() as u64;
        counts.named().into_iter().chain([("clients_unseen", u64::from(self.clients.are_unseen()))])
    }
}

/// What was lost of a stream, and nobody was told yet.
fn lost_at_end(stream: u64, rule: &StreamRule, now_ns: u64) -> impl Iterator<Item = Moved> + use<> {
    let lost = [(false, rule.lost_read), (true, rule.lost_written)];
    lost.into_iter().filter(|(_, lost)| *lost != 0).map(move |(is_written, _)| Moved {
        stream,
        is_written,
        timestamp_ns: now_ns,
        thread: 0,
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use aya::EbpfLoader;
    use profiler_common::{EventHeader, EventKind};

    use super::*;
    use crate::capture::kernel::OBJECT;
    use crate::capture::long_calls::{BODIES, LONG_LOOKS};

    fn wire() -> Wire {
        let mut object = EbpfLoader::new().load(OBJECT).unwrap();
        let [rules, clients, streams] =
            ["STREAMS", "CLIENTS", "CLIENT_STREAMS"].map(|name| object.take_map(name).unwrap());
        Wire::new(rules, Clients::new(clients, streams, Arc::default()).unwrap()).unwrap()
    }

    /// The first part of a write of `total` bytes, of which these come.
    fn written(pid: u32, stream: u64, total: u32, bytes: &[u8]) -> WireEvent {
        let is_whole = total as usize == bytes.len();
        WireEvent {
            header: EventHeader { kind: EventKind::Wire as u32, pid, timestamp_ns: 10 },
            stream,
            tid: pid,
            total,
            offset: 0,
            length: bytes.len() as u32,
            flags: WireFlag::Written as u32 | (u32::from(is_whole) * WireFlag::Last as u32),
            descriptor: 1,
        }
    }

    const ASK: &[u8] =
        b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/call\",\"params\":{\"name\":\"echo\"}}\n";

    /// Where a long write is more than one message, such writes are taken whole from then on (needs root).
    #[test]
    fn several_messages_in_one_write() {
        let verdict = StreamVerdict::Captured as u32;
        let before = StreamRule { verdict, whole_bytes: 16384, ..StreamRule::default() };
        let cases: [(u32, &[u8], u32); 3] = [
            (40_000, b"{\"a\":1}\n{\"b\":", MANY_WHOLE_BYTES),
            (40_000, b"{\"a\":1", 16384),
            (MANY_WHOLE_BYTES + 1, b"{\"a\":1}\n{\"b\":", 16384),
        ];
        for (total, head, expected) in cases {
            let mut wire = wire();
            wire.rules.insert(21, before, 0).unwrap();
            wire.take(&written(7, 21, total, head), head);
            let tail = b":2}\n";
            let (offset, flags) = (total - 4, WireFlag::Written as u32 | WireFlag::Last as u32);
            wire.take(&WireEvent { offset, flags, ..written(7, 21, total, tail) }, tail);
            assert_eq!(wire.rules.get(&21, 0).unwrap().whole_bytes, expected, "{total}");
        }
    }

    /// The body of a long answer that goes out in pieces is not taken. Where each write is an answer, some are taken whole, to see whether
    /// they are of several (needs root).
    #[test]
    fn long_answers() {
        for (end, expected) in [("text", 0), ("\n", LONG_LOOKS as usize)] {
            let mut wire = wire();
            let verdict = StreamVerdict::Captured as u32;
            let before = StreamRule { verdict, whole_bytes: WHOLE_BYTES, ..StreamRule::default() };
            wire.rules.insert(21, before, 0).unwrap();
            wire.take(
                &WireEvent { flags: WireFlag::Last as u32, ..written(7, 20, ASK.len() as u32, ASK) },
                ASK,
            );
            let log = b"{\"jsonrpc\":\"2.0\",\"method\":\"notifications/message\"}\n";
            wire.take(&written(7, 21, log.len() as u32, log), log);
            let whole_bytes = |wire: &Wire| wire.rules.get(&21, 0).unwrap().whole_bytes;
            let mut whole = 0;
            for _ in 0..LONG_LOOKS * 2 {
                let answer = [b"{\"result\":\"".as_slice(), &[b'x'; 50_000], end.as_bytes()].concat();
                let length = answer.len();
                let parts = if whole_bytes(&wire) == WHOLE_BYTES {
                    vec![(0, 4096), (length - 4096, length)]
                } else {
                    whole += 1;
                    let starts = (0..length).step_by(MAX_WIRE_BYTES);
                    starts.map(|start| (start, (start + MAX_WIRE_BYTES).min(length))).collect()
                };
                for (from, to) in parts {
                    let bytes = &answer[from..to];
                    let flags = WireFlag::Written as u32 | (u32::from(to == length) * WireFlag::Last as u32);
                    let event = written(7, 21, length as u32, bytes);
                    wire.take(
                        &WireEvent { offset: from as u32, length: bytes.len() as u32, flags, ..event },
                        bytes,
                    );
                }
            }
            assert_eq!((whole, whole_bytes(&wire)), (expected, WHOLE_BYTES), "{end:?}");
            // One behind the end of another: they are of several after all.
            let bytes = b"\"}\n{\"jsonrpc\":";
            wire.take(&written(7, 21, 40_000, bytes), bytes);
            assert_eq!(whole_bytes(&wire), MANY_WHOLE_BYTES);
        }
    }

    /// Takes a long write, whole or the ends of each of its stretches.
    fn take_long(wire: &mut Wire, flags: u32, answer: &[u8], parts: &[std::ops::Range<usize>]) {
        for part in parts {
            let bytes = &answer[part.clone()];
            let last = u32::from(part.end == answer.len()) * WireFlag::Last as u32;
            let event = WireEvent {
                offset: part.start as u32,
                flags: WireFlag::Written as u32 | flags | last,
                ..written(7, 21, answer.len() as u32, bytes)
            };
            wire.take(&event, bytes);
        }
    }

    /// Where messages of several pieces follow each other without an end of a write between them, their bodies are not taken for ever,
    /// and not at all where each has a buffer of its own (needs root).
    #[test]
    fn bodies_of_long_answers() {
        let verdict = StreamVerdict::Captured as u32;
        let before = StreamRule { verdict, whole_bytes: WHOLE_BYTES, ..StreamRule::default() };
        let log = b"{\"jsonrpc\":\"2.0\",\"method\":\"notifications/message\"}\n";
        let body = vec![b'x'; 65_536];
        for (flags, border, expected) in [
            (0, 1000, MANY_WHOLE_BYTES),
            (0, 64_000, MANY_WHOLE_BYTES),
            (0, 30_000, WHOLE_BYTES),
            (WireFlag::Buffers as u32, 1000, WHOLE_BYTES),
            (WireFlag::Buffers as u32, 30_000, WHOLE_BYTES),
        ] {
            let mut wire = wire();
            wire.take(&written(7, 21, log.len() as u32, log), log);
            wire.rules.insert(21, before, 0).unwrap();
            let whole_bytes = |wire: &Wire| wire.rules.get(&21, 0).unwrap().whole_bytes;
            // The end of a message, and the start of the next one.
            let mut both = body.clone();
            both[border - 1] = b'\n';
            both[border] = b'{';
            let ends = [0..4096, 61_440..65_536];
            match (flags, border) {
                (0, _) => take_long(&mut wire, flags, &both, &ends),
                (_, 1000) => take_long(&mut wire, flags, &both, &[0..1000, 1000..5096, 61_440..65_536]),
                _ => take_long(
                    &mut wire,
                    flags,
                    &both,
                    &[0..4096, border - 4096..border, border..border + 4096, 61_440..65_536],
                ),
            }
            assert_eq!(whole_bytes(&wire), expected, "{flags} {border}");
            let parts: Vec<_> =
                (0..8).map(|part| part * MAX_WIRE_BYTES..(part + 1) * MAX_WIRE_BYTES).collect();
            for _ in 0..BODIES {
                assert_eq!(whole_bytes(&wire), expected, "{flags} {border}");
                take_long(&mut wire, 0, &body, if expected == WHOLE_BYTES { &ends } else { &parts });
            }
            assert_eq!(whole_bytes(&wire), WHOLE_BYTES, "{flags} {border}");
        }
    }

    /// What was taken whole to see whether it is of several messages does not tell that, where each had a buffer of its own (needs
    /// root).
    #[test]
    fn messages_in_buffers_of_their_own() {
        for (flags, expected) in [(0, MANY_WHOLE_BYTES), (WireFlag::Buffers as u32, WHOLE_BYTES)] {
            let mut wire = wire();
            let verdict = StreamVerdict::Captured as u32;
            let before = StreamRule { verdict, whole_bytes: MANY_WHOLE_BYTES, ..StreamRule::default() };
            wire.rules.insert(21, before, 0).unwrap();
            let log = b"{\"jsonrpc\":\"2.0\",\"method\":\"notifications/message\"}\n";
            wire.take(&written(7, 21, log.len() as u32, log), log);
            let mut both = vec![b'x'; 20_000];
            both[10_000] = b'\n';
            both[19_999] = b'\n';
            for _ in 0..=LONG_LOOKS {
                take_long(&mut wire, flags, &both, &[0..8192, 8192..16_384, 16_384..20_000]);
            }
            assert_eq!(wire.rules.get(&21, 0).unwrap().whole_bytes, expected, "{flags}");
        }
    }

    /// Long requests that follow each other are told by responses to what nobody saw, and read whole from then on; what was answered
    /// before tells nothing (needs root).
    #[test]
    fn long_requests() {
        let mut wire = wire();
        let verdict = StreamVerdict::Captured as u32;
        let before = StreamRule { verdict, whole_bytes: WHOLE_BYTES, ..StreamRule::default() };
        wire.rules.insert(20, before, 0).unwrap();
        let read = |wire: &mut Wire, start: &[u8]| {
            let bytes = [start, &vec![b'x'; 65_536 - start.len()]].concat();
            let event = WireEvent { flags: 0, ..written(7, 20, 65_536, &bytes[..4096]) };
            wire.take(&event, &bytes[..4096]);
            let event = WireEvent { offset: 61_440, flags: WireFlag::Last as u32, ..event };
            wire.take(&event, &bytes[61_440..]);
            wire.rules.get(&20, 0).unwrap().whole_bytes
        };
        let answer = |wire: &mut Wire| {
            let answer = b"{\"jsonrpc\":\"2.0\",\"id\":9,\"result\":{}}\n";
            wire.take(&written(7, 21, answer.len() as u32, answer), answer);
        };
        answer(&mut wire);
        for _ in 0..20 {
            assert_eq!(read(&mut wire, &ASK[..40]), WHOLE_BYTES);
        }
        answer(&mut wire);
        for _ in 0..20 {
            assert_eq!(read(&mut wire, b"xxx"), MANY_WHOLE_BYTES);
        }
    }

    /// What was lost just before a process ended may have been its answer (needs root).
    #[test]
    fn losses_before_the_end_of_a_process() {
        for (lost_written, expected) in [(0, Ended::Unanswered), (1, Ended::Lost)] {
            let mut wire = wire();
            let read = WireEvent { flags: WireFlag::Last as u32, ..written(7, 20, ASK.len() as u32, ASK) };
            wire.take(&read, ASK);
            let log = b"{\"jsonrpc\":\"2.0\",\"method\":\"notifications/message\"}\n";
            wire.take(&written(7, 21, log.len() as u32, log), log);
            let verdict = StreamVerdict::Captured as u32;
            let rule = StreamRule { verdict, lost_written, ..StreamRule::default() };
            wire.rules.insert(21, rule, 0).unwrap();
            let ended: Vec<Ended> = wire.process_ended(7, 50).into_iter().map(|call| call.ended).collect();
            assert_eq!(ended, [expected]);
        }
    }

    /// A call that has no answer yet when the recording ends is in flight: its process may still answer it (needs root).
    #[test]
    fn calls_at_the_end_of_a_recording() {
        let mut wire = wire();
        wire.take(&WireEvent { flags: WireFlag::Last as u32, ..written(7, 20, ASK.len() as u32, ASK) }, ASK);
        wire.finish(50);
        let ended: Vec<(u64, Ended)> = wire
            .take_calls()
            .into_iter()
            .flat_map(|(_, calls)| calls)
            .map(|call| (call.end_ns, call.ended))
            .collect();
        assert_eq!(ended, [(50, Ended::InFlight)]);
    }
}
