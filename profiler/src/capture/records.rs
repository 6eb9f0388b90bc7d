//! What the rings gave: copied side by side, in order of time, and decoded only where it is used. The thread that drains must never
//! be late, so it does no more than this.

use super::event::{Event, timestamp_ns};

/// Records of the kernel half.
#[derive(Debug, Default)]
pub(super) struct Records {
    bytes: Vec<u8>,
    places: Vec<Place>,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    timestamp_ns: u64,
    start: usize,
    length: usize,
}

impl Records {
    /// Takes one; false when it is none.
    pub(super) fn push(&mut self, record: &[u8]) -> bool {
        let Some(timestamp_ns) = timestamp_ns(record) else { return false };
        self.places.push(Place { timestamp_ns, start: self.bytes.len(), length: record.len() });
        self.bytes.extend_from_slice(record);
        true
    }

    pub(super) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// What they take, in bytes.
    pub(super) fn size(&self) -> u64 {
        (self.bytes.len() + self.places.len() * size_of::<Place>()) as u64
    }

    /// Puts them in order of time, and takes out those after a moment. Those of the same time stay as they came.
    pub(super) fn split_after(&mut self, moment_ns: u64) -> Self {
        self.places.sort_by_key(|place| place.timestamp_ns);
        let settled = self.places.partition_point(|place| place.timestamp_ns <= moment_ns);
        if settled == 0 {
            return std::mem::take(self);
        }
        let mut later = Self::default();
        for place in self.places.drain(settled..) {
            later.push(&self.bytes[place.start..place.start + place.length]);
        }
        later
    }

    /// In their order, each with its time; `None` for what is no record of this version of the kernel half.
    pub(super) fn events(&self) -> impl Iterator<Item = (u64, Option<Event<'_>>)> {
        self.places.iter().map(|place| {
            let record = &self.bytes[place.start..place.start + place.length];
            (place.timestamp_ns, Event::decode(record))
        })
    }
}

#[cfg(test)]
mod tests {
    use bytemuck::Zeroable;
    use profiler_common::{EventHeader, EventKind};

    use super::*;

    fn exit(pid: u32, timestamp_ns: u64) -> Vec<u8> {
        let header = EventHeader { kind: EventKind::Exit as u32, pid, timestamp_ns };
        bytemuck::bytes_of(&header).to_vec()
    }

    /// Records of two rings come out by their times; those of the same time in the order in which they came.
    #[test]
    fn are_put_in_order() {
        let mut records = Records::default();
        for record in [exit(1, 30), exit(2, 10), exit(3, 50), exit(4, 10)] {
            assert!(records.push(&record));
        }
        assert!(!records.push(&[0; 3]));
        let pids = |records: &Records| -> Vec<u32> {
            let events = records.events().map(|(_, event)| match event {
                Some(Event::Exit { pid, .. }) => pid,
                _ => 0,
            });
            events.collect()
        };
        let later = records.split_after(30);
        assert_eq!((pids(&records), pids(&later)), (vec![2, 4, 1], vec![3]));
    }

    /// What is no record keeps its place, and is told as such.
    #[test]
    fn tells_what_is_no_record() {
        let mut records = Records::default();
        let header = EventHeader { kind: u32::MAX, timestamp_ns: 7, ..EventHeader::zeroed() };
        assert!(records.push(bytemuck::bytes_of(&header)));
        assert!(matches!(records.events().next(), Some((7, None))));
    }
}
