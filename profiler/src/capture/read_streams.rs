//! The streams that watched processes read: those whose clients are still to be looked for, and until when the others are
//! remembered. A process that closes a stream by itself tells nobody. So it is asked whether it still has those that are
//! silent, the rarer the longer they are, and the oldest make room.

use hashbrown::HashMap;

const SECOND_NS: u64 = 1_000_000_000;
/// Streams that are remembered.
const MAX_STREAMS: usize = 4096;
/// How many of them are left when the oldest make room.
const KEPT_STREAMS: usize = MAX_STREAMS / 2;
/// Streams whose clients may wait to be looked for.
const MAX_NEW: usize = 256;
/// How long a stream is silent before it is asked whether its process still has it, and how long that rests at most.
const SILENCE_NS: u64 = SECOND_NS;
const LONGEST_REST_NS: u64 = 64 * SECOND_NS;
/// A client that was not found is looked for again when its stream is read after this time.
const SEARCH_AGAIN_NS: u64 = 10 * SECOND_NS;

/// A stream that a watched process reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Read {
    pub(super) stream: u64,
    pub(super) pid: u32,
    pub(super) descriptor: u32,
    pub(super) is_socket: bool,
}

impl Read {
    /// Whether the process still has it at the same descriptor.
    pub(super) fn is_open(&self) -> bool {
        let Self { stream, pid, descriptor, is_socket } = self;
        let kind = if *is_socket { "socket" } else { "pipe" };
        std::fs::read_link(format!("/proc/{pid}/fd/{descriptor}"))
            .is_ok_and(|link| link.to_str() == Some(&format!("{kind}:[{stream}]")))
    }
}

#[derive(Debug)]
struct Seen {
    read: Read,
    searched_ns: u64,
    last_ns: u64,
    next_check_ns: u64,
}

/// Streams that were read. All times are `CLOCK_MONOTONIC`, in nanoseconds.
#[derive(Debug, Default)]
pub(super) struct ReadStreams {
    streams: HashMap<u64, Seen>,
    new: Vec<u64>,
}

impl ReadStreams {
    /// A stream was read.
    pub(super) fn read(&mut self, read: Read, now_ns: u64) {
        if let Some(seen) = self.streams.get_mut(&read.stream) {
            (seen.read, seen.last_ns) = (read, now_ns);
        } else if self.new.len() < MAX_NEW && self.streams.len() < MAX_STREAMS {
            let next_check_ns = now_ns.saturating_add(SILENCE_NS);
            let seen = Seen { read, searched_ns: now_ns, last_ns: now_ns, next_check_ns };
            self.streams.insert(read.stream, seen);
            self.new.push(read.stream);
        }
    }

    /// Whether there are streams whose clients were not looked for yet.
    pub(super) fn has_new(&self) -> bool {
        !self.new.is_empty()
    }

    /// The streams whose clients are to be looked for now.
    pub(super) fn take_new(&mut self, now_ns: u64) -> Vec<Read> {
        let Self { streams, new } = self;
        let searched = new.drain(..).filter_map(|stream| {
            let seen = streams.get_mut(&stream)?;
            seen.searched_ns = now_ns;
            Some(seen.read)
        });
        searched.collect()
    }

    /// When a stream was read last; zero when that is not known.
    pub(super) fn last_ns(&self, stream: u64) -> u64 {
        self.streams.get(&stream).map_or(0, |seen| seen.last_ns)
    }

    /// Forgets a stream: when it is read again, it is a new one.
    pub(super) fn forget(&mut self, stream: u64) {
        self.streams.remove(&stream);
        self.new.retain(|new| *new != stream);
    }

    /// The streams that a process read last.
    pub(super) fn of_process(&self, pid: u32) -> Vec<u64> {
        self.streams.values().filter(|seen| seen.read.pid == pid).map(|seen| seen.read.stream).collect()
    }

    /// Forgets streams that are over, and the oldest when they are too many. `is_followed`: the stream's client was found.
    pub(super) fn forget_old(
        &mut self,
        now_ns: u64,
        is_followed: impl Fn(u64) -> bool,
        is_open: impl Fn(&Read) -> bool,
    ) -> Vec<Read> {
        let mut gone = Vec::new();
        for (stream, seen) in &mut self.streams {
            let silence_ns = now_ns.saturating_sub(seen.last_ns);
            let is_over = if now_ns >= seen.next_check_ns && silence_ns >= SILENCE_NS {
                seen.next_check_ns = now_ns.saturating_add(silence_ns.min(LONGEST_REST_NS));
                !is_open(&seen.read)
            } else {
                false
            };
            let is_searched_again = now_ns.saturating_sub(seen.searched_ns) >= SEARCH_AGAIN_NS
                && !is_followed(*stream)
                && !self.new.contains(stream);
            if is_over || is_searched_again {
                gone.push(seen.read);
            }
        }
        gone.iter().for_each(|read| self.forget(read.stream));
        if self.streams.len() > MAX_STREAMS / 4 * 3 {
            let mut by_age: Vec<(u64, Read)> =
                self.streams.values().map(|seen| (seen.last_ns, seen.read)).collect();
            by_age.sort_unstable_by_key(|(last_ns, _)| *last_ns);
            let oldest = by_age.len() - KEPT_STREAMS;
            gone.extend(by_age.into_iter().take(oldest).map(|(_, read)| read));
            gone.iter().for_each(|read| self.forget(read.stream));
        }
        gone
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd as _;

    use super::*;

    fn read(stream: u64) -> Read {
        Read { stream, pid: 1, descriptor: 0, is_socket: true }
    }

    /// However many streams are closed by their servers, or stay open: there is always room for the next one.
    #[test]
    fn the_oldest_make_room() {
        for is_open in [false, true] {
            let mut streams = ReadStreams::default();
            for number in 0..10_000 {
                let now_ns = number * SECOND_NS / 200;
                streams.read(read(number), now_ns);
                assert_eq!(streams.take_new(now_ns), [read(number)], "{is_open}");
                if number % 200 == 0 {
                    streams.forget_old(now_ns, |_| true, |_| is_open);
                }
                assert!(streams.streams.len() <= MAX_STREAMS);
            }
            assert_eq!(streams.last_ns(9_999), 9_999 * SECOND_NS / 200);
        }
    }

    /// A stream that stays open is asked after ever more rarely; one that is read is not asked after.
    #[test]
    fn silent_streams_are_asked_after() {
        let mut streams = ReadStreams::default();
        (1..=2).for_each(|stream| streams.read(read(stream), 0));
        let asked = std::cell::RefCell::new(Vec::new());
        for second in 1..=100 {
            streams.read(read(2), second * SECOND_NS);
            let is_open = |read: &Read| {
                asked.borrow_mut().push((read.stream, second));
                true
            };
            assert_eq!(streams.forget_old(second * SECOND_NS, |_| true, is_open), []);
        }
        assert_eq!(*asked.borrow(), [1, 2, 4, 8, 16, 32, 64].map(|second| (1, second)));
    }

    /// A client that was not found is looked for again; one that was found is not.
    #[test]
    fn searches_again() {
        let mut streams = ReadStreams::default();
        (1..=2).for_each(|stream| streams.read(read(stream), 0));
        assert_eq!(streams.take_new(0).len(), 2);
        let gone = streams.forget_old(SEARCH_AGAIN_NS, |stream| stream == 1, |_| true);
        assert_eq!(gone, [read(2)]);
        (1..=2).for_each(|stream| streams.read(read(stream), SEARCH_AGAIN_NS));
        assert_eq!(streams.take_new(SEARCH_AGAIN_NS), [read(2)]);
    }

    /// What a process has closed, or has something else in place of, is not open.
    #[test]
    fn tells_what_is_open() {
        use std::os::unix::fs::MetadataExt as _;
        let (one, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        let descriptor = one.as_raw_fd().cast_unsigned();
        let stream = std::fs::metadata(format!("/proc/self/fd/{descriptor}")).unwrap().ino();
        let read = Read { stream, pid: std::process::id(), descriptor, is_socket: true };
        assert!(read.is_open());
        assert!(!Read { stream: stream + 1, ..read }.is_open());
        drop(one);
        assert!(!read.is_open());
    }
}
