//! What processes said on their streams: puts the kernel half's pieces together and hands them to the parsers.

use std::collections::HashMap;

use aya::maps::{HashMap as BpfHashMap, Map, MapData, MapError};
use profiler_common::{StreamRule, StreamVerdict, WireEvent, WireFlag};

use crate::wire::Piece;
use crate::wire::calls::Call;
use crate::wire::contents::Capture;
use crate::wire::streams::{Counts, Interest, Moved, Streams};

/// The streams of all watched processes.
pub(super) struct Wire {
    rules: BpfHashMap<MapData, u64, StreamRule>,
    processes: HashMap<u32, Streams>,
    /// What of arguments and results is kept.
    capture: Capture,
    /// Processes that have ended.
    ended: Counts,
    /// How far the parts of the last call that was taken reach.
    last: Option<Part>,
}

/// Where a part of a call ends.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Part {
    tid: u32,
    timestamp_ns: u64,
    end: u32,
}

impl Wire {
    pub(super) fn new(rules: Map) -> Result<Self, MapError> {
        Ok(Self {
            rules: BpfHashMap::try_from(rules)?,
            processes: HashMap::new(),
            capture: Capture::default(),
            ended: Counts::default(),
            last: None,
        })
    }

    /// The same, which keeps so much of arguments and results.
    pub(super) fn keeping(self, capture: Capture) -> Self {
        Self { capture, ..self }
    }

    /// Takes a piece of what a process moved.
    pub(super) fn take(&mut self, event: &WireEvent, bytes: &[u8]) {
        let streams = self.processes.entry(event.header.pid).or_insert_with(|| Streams::new(self.capture));
        let moved = Moved {
            stream: event.stream,
            is_written: event.flags & WireFlag::Written as u32 != 0,
            timestamp_ns: event.header.timestamp_ns,
            thread: event.tid,
        };
        if event.flags & WireFlag::Lost as u32 != 0 {
            streams.lost(moved, event.offset == 0);
        }
        if event.flags & WireFlag::Ended as u32 != 0 {
            streams.closed(moved.stream, moved.timestamp_ns);
            return;
        }
        // Parts of a call follow each other.
        let start = match self.last {
            Some(last) if (last.tid, last.timestamp_ns) == (event.tid, moved.timestamp_ns) => last.end,
            _ => 0,
        };
        let end = event.offset.saturating_add(event.length);
        self.last = Some(Part { tid: event.tid, timestamp_ns: moved.timestamp_ns, end });
        let is_last = event.flags & WireFlag::Last as u32 != 0;
        let before = event.offset.saturating_sub(start);
        let behind = if is_last { event.total.saturating_sub(end) } else { 0 };
        let pieces = [Piece::Gap(before.into()), Piece::Bytes(bytes), Piece::Gap(behind.into())];
        let mut interest = Interest::Yes;
        for piece in pieces {
            if !matches!(piece, Piece::Gap(0) | Piece::Bytes(&[])) {
                interest = streams.moved(moved, piece);
            }
        }
        if interest == Interest::No {
            let rule = StreamRule { verdict: StreamVerdict::Ignored as u32, ..StreamRule::default() };
            // The kernel half goes on without it: no harm but cost.
            let _ = self.rules.insert(event.stream, rule, 0);
        }
    }

    /// The calls that ended since the last time, by process.
    pub(super) fn take_calls(&mut self) -> Vec<(u32, Call)> {
        let ended = self
            .processes
            .iter_mut()
            .flat_map(|(pid, streams)| streams.calls.take_ended().into_iter().map(|call| (*pid, call)));
        ended.collect()
    }

    /// The calls that have not ended, by process.
    pub(super) fn open_calls(&self) -> impl Iterator<Item = (u32, &Call)> {
        self.processes.iter().flat_map(|(pid, streams)| streams.calls.open().map(|call| (*pid, call)))
    }

    /// Nothing more comes from a process.
    pub(super) fn process_ended(&mut self, pid: u32, now_ns: u64) -> Vec<Call> {
        let Some(mut streams) = self.processes.remove(&pid) else { return Vec::new() };
        streams.calls.finish(now_ns);
        self.ended.add(streams.counts());
        streams.calls.take_ended()
    }

    /// Nothing more comes at all.
    pub(super) fn finish(&mut self, now_ns: u64) {
        // What was lost last in its stream was not told of yet.
        let lost: Vec<(u64, StreamRule)> = self.rules.iter().filter_map(Result::ok).collect();
        for (stream, rule) in lost {
            for (is_written, lost) in [(false, rule.lost_read), (true, rule.lost_written)] {
                let moved = Moved { stream, is_written, timestamp_ns: now_ns, thread: 0 };
                if lost == 0 {
                    continue;
                }
                // A pipe may be of several processes. A stream of which nothing else is known may be of any.
                let is_known = self.processes.values().any(|streams| streams.knows(stream));
                let concerned =
                    self.processes.values_mut().filter(|streams| !is_known || streams.knows(stream));
                concerned.for_each(|streams| streams.lost(moved, true));
            }
        }
        self.processes.values_mut().for_each(|streams| streams.calls.finish(now_ns));
    }

    /// What was seen besides calls, by name.
    pub(super) fn counts(&self) -> impl Iterator<Item = (&'static str, u64)> + use<> {
        let mut counts = self.ended;
        self.processes.values().for_each(|streams| counts.add(streams.counts()));
        counts.named().into_iter()
    }
}
