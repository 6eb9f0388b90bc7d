//! What processes said on their streams: puts the kernel half's pieces together and hands them to the parsers.

use std::collections::HashMap;

use aya::maps::{HashMap as BpfHashMap, Map, MapData, MapError};
use profiler_common::{MAX_WIRE_BYTES, StreamRule, StreamVerdict, WireEvent, WireFlag};

use crate::wire::Piece;
use crate::wire::calls::Call;
use crate::wire::streams::{Counts, Interest, Moved, Streams};

/// The streams of all watched processes.
pub(super) struct Wire {
    rules: BpfHashMap<MapData, u64, StreamRule>,
    processes: HashMap<u32, Streams>,
    /// Processes that have ended.
    ended: Counts,
    /// Calls and messages that could not be told for what was dropped on the way.
    pub(super) losses: Losses,
}

/// What could not be told.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Losses {
    /// Bytes that the kernel half left out or could not read.
    pub(super) missing_bytes: u64,
}

impl Wire {
    pub(super) fn new(rules: Map) -> Result<Self, MapError> {
        Ok(Self {
            rules: BpfHashMap::try_from(rules)?,
            processes: HashMap::new(),
            ended: Counts::default(),
            losses: Losses::default(),
        })
    }

    /// Takes a piece of what a process moved.
    pub(super) fn take(&mut self, event: &WireEvent, bytes: &[u8]) {
        let streams = self.processes.entry(event.header.pid).or_default();
        let moved = Moved {
            stream: event.stream,
            is_written: event.flags & WireFlag::Written as u32 != 0,
            timestamp_ns: event.header.timestamp_ns,
            thread: event.tid,
        };
        if event.total == 0 {
            streams.closed(moved.stream, moved.timestamp_ns);
            return;
        }
        let whole = MAX_WIRE_BYTES as u32;
        // Parts of a call follow each other: what is not here lies before the last one, or was not readable.
        let is_last = event.flags & WireFlag::Last as u32 != 0;
        let before =
            if event.offset > 0 && is_last && event.total > 2 * whole { event.offset - whole / 2 } else { 0 };
        let end = event.offset.saturating_add(event.length);
        let behind = if is_last { event.total.saturating_sub(end) } else { 0 };
        let pieces = [Piece::Gap(before.into()), Piece::Bytes(bytes), Piece::Gap(behind.into())];
        self.losses.missing_bytes += u64::from(before) + u64::from(behind);
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

    /// Nothing more comes from a process.
    pub(super) fn process_ended(&mut self, pid: u32, now_ns: u64) -> Vec<Call> {
        let Some(mut streams) = self.processes.remove(&pid) else { return Vec::new() };
        streams.calls.finish(now_ns);
        self.ended.add(streams.counts());
        streams.calls.take_ended()
    }

    /// Nothing more comes at all.
    pub(super) fn finish(&mut self, now_ns: u64) {
        self.processes.values_mut().for_each(|streams| streams.calls.finish(now_ns));
    }
}
