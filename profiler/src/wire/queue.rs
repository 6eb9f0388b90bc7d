//! How long what a client wrote waited until its server read it.
//!
//! Both sides count bytes: the client from when its writes are watched, the server from the first read that was seen. What
//! lies between the two counts is found by looks at how much waits in the stream. Two looks must agree, and a look counts
//! only if nobody wrote or read meanwhile. Where anything contradicts the counts, they are not believed any more: then
//! the time is not known.

use std::collections::VecDeque;

/// Writes that are remembered; of older ones nothing is known.
const MAX_WRITES: usize = 2048;
const MAX_LOOKS: usize = 4;
/// A read is told when its system call returns, so much later than it took its bytes, at most, in nanoseconds.
const MARGIN_NS: u64 = 50_000;

/// A write of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientWrite {
    /// When it began, `CLOCK_MONOTONIC` in nanoseconds.
    pub start_ns: u64,
    /// When it returned.
    pub end_ns: u64,
    /// What the client has written since it is watched, this included, in bytes.
    pub written: u64,
    /// What it wrote, in bytes.
    pub length: u64,
}

/// How much waited in a stream at a moment between two times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// Before it was looked, `CLOCK_MONOTONIC` in nanoseconds.
    pub from_ns: u64,
    /// After it was looked.
    pub to_ns: u64,
    /// Bytes that were written and not yet read.
    pub bytes: u64,
}

/// One direction of one stream: from a client to a server.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Queue {
    writes: VecDeque<ClientWrite>,
    /// The last one that is remembered no more.
    forgotten: Option<ClientWrite>,
    /// When the server last read, and how much it had read then.
    last_read: Option<(u64, u64)>,
    looks: VecDeque<OpenLook>,
    /// The client's count less the server's, once it is certain.
    ahead: Option<i64>,
    /// What the last look said.
    candidate: Option<i64>,
    /// A read that went beyond what was written by then, and up to where, by the client's count.
    outrun: Option<(u64, i64)>,
}

/// A look that waits until everything around it has been told. It takes what it needs while that passes: at full speed thousands of
/// messages do.
#[derive(Clone, Copy, Debug, PartialEq)]
struct OpenLook {
    look: Look,
    /// What the client had written by then, and the server read.
    written: Option<u64>,
    read: Option<u64>,
    /// Somebody wrote or read at the same time.
    is_disturbed: bool,
}

impl OpenLook {
    fn wrote(&mut self, write: &ClientWrite) {
        if write.end_ns < self.look.from_ns {
            self.written = self.written.max(Some(write.written));
        } else if write.start_ns <= self.look.to_ns {
            self.is_disturbed = true;
        } else {
            self.written.get_or_insert(write.written.saturating_sub(write.length));
        }
    }

    fn read(&mut self, timestamp_ns: u64, position: u64) {
        if timestamp_ns < self.look.from_ns {
            self.read = Some(position);
        } else if timestamp_ns <= self.look.to_ns.saturating_add(MARGIN_NS) {
            self.is_disturbed = true;
        }
    }

    /// The client's count less the server's; `None` when it says nothing.
    fn ahead(&self) -> Option<i64> {
        let (written, read) = (self.written?, self.read?);
        let waiting = signed(written).saturating_sub(signed(read));
        (!self.is_disturbed).then(|| waiting.saturating_sub(signed(self.look.bytes)))
    }
}

impl Queue {
    /// A queue whose server has read so many bytes until now.
    pub fn new(position: u64) -> Self {
        Self { last_read: Some((0, position)), ..Self::default() }
    }

    /// The client wrote.
    pub fn wrote(&mut self, write: ClientWrite) {
        if let Some((read_ns, needed)) = self.outrun
            && signed(write.written).saturating_sub(signed(write.length)) < needed
        {
            if write.start_ns > read_ns {
                self.doubt();
            }
            self.outrun = None;
        }
        self.looks.iter_mut().for_each(|look| look.wrote(&write));
        if self.writes.len() >= MAX_WRITES {
            self.forgotten = self.writes.pop_front();
        }
        // Writes are told in the order in which they began: few have to go before others.
        let later = self.writes.iter().rev().take_while(|other| other.written > write.written).count();
        self.writes.insert(self.writes.len() - later, write);
    }

    /// The server has now read so much in all.
    pub fn read(&mut self, timestamp_ns: u64, position: u64) {
        self.looks.iter_mut().for_each(|look| look.read(timestamp_ns, position));
        self.last_read = Some((timestamp_ns, position));
        if let Some(ahead) = self.ahead {
            let (read, written) = (signed(position).saturating_add(ahead), self.written());
            if read > written {
                self.outrun = Some((timestamp_ns, read));
            }
        }
    }

    /// Somebody looked at how much waits.
    pub fn looked(&mut self, look: Look) {
        if self.looks.len() >= MAX_LOOKS {
            return;
        }
        let mut open = OpenLook { look, written: None, read: None, is_disturbed: false };
        self.forgotten.iter().chain(&self.writes).for_each(|write| open.wrote(write));
        if let Some((timestamp_ns, position)) = self.last_read {
            open.read(timestamp_ns, position);
        }
        self.looks.push_back(open);
    }

    /// Everything until this moment has been told.
    pub fn settle(&mut self, settled_ns: u64) {
        while let Some(look) =
            self.looks.pop_front_if(|open| open.look.to_ns.saturating_add(MARGIN_NS) < settled_ns)
        {
            let Some(ahead) = look.ahead() else { continue };
            if self.ahead.is_some_and(|known| known != ahead) {
                self.doubt();
            } else if self.candidate == Some(ahead) {
                self.ahead = Some(ahead);
            }
            self.candidate = Some(ahead);
        }
    }

    /// Whether the two counts are known to belong together.
    pub fn is_certain(&self) -> bool {
        self.ahead.is_some()
    }

    /// Some of what the server read was lost.
    pub fn lost(&mut self) {
        self.doubt();
        self.last_read = None;
        self.looks.clear();
    }

    /// When the client began to write the byte at this place of what the server read.
    pub fn written_ns(&mut self, position: u64) -> Option<u64> {
        let place = u64::try_from(signed(position).saturating_add(self.ahead?)).ok()?;
        // Nobody asks for what is before it any more.
        while let Some(write) = self.writes.pop_front_if(|write| write.written <= place) {
            self.forgotten = Some(write);
        }
        self.writes
            .front()
            .filter(|write| write.written.saturating_sub(write.length) <= place)
            .map(|write| write.start_ns)
    }

    fn written(&self) -> i64 {
        self.writes.back().map_or(i64::MAX, |write| signed(write.written))
    }

    fn doubt(&mut self) {
        (self.ahead, self.candidate, self.outrun) = (None, None, None);
    }
}

fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const US: u64 = 1000;

    fn look(at_us: u64, bytes: u64) -> Look {
        Look { from_ns: at_us * US, to_ns: at_us * US + 10, bytes }
    }

    fn write(start_us: u64, written: u64, length: u64) -> ClientWrite {
        ClientWrite { start_ns: start_us * US, end_ns: (start_us + 2) * US, written, length }
    }

    /// Nothing is known before two looks agree; then each byte has the time of its write, also where much waits.
    #[test]
    fn finds_the_write_of_a_byte() {
        // 700 bytes were read before, and 30 waited when the client's writes began to be counted.
        let mut queue = Queue::new(700);
        queue.wrote(write(100, 10, 10));
        queue.looked(look(200, 40));
        queue.settle(1000 * US);
        assert_eq!((queue.is_certain(), queue.written_ns(730)), (false, None));
        queue.wrote(write(1100, 25, 15));
        queue.looked(look(1200, 55));
        queue.settle(2000 * US);
        assert!(queue.is_certain());
        queue.read(2100 * US, 755);
        assert_eq!(queue.written_ns(729), None);
        assert_eq!(queue.written_ns(730), Some(100 * US));
        assert_eq!(queue.written_ns(740), Some(1100 * US));
        assert_eq!(queue.written_ns(755), None);
        // One whose record was lost: what it wrote is not known, what follows is.
        queue.wrote(write(2200, 125, 50));
        assert_eq!((queue.written_ns(760), queue.written_ns(805)), (None, Some(2200 * US)));
    }

    /// A look at the time of a write or of a read says nothing.
    #[test]
    fn disturbed_looks_do_not_count() {
        let mut queue = Queue::new(0);
        queue.wrote(write(100, 10, 10));
        queue.looked(look(101, 10));
        queue.looked(look(200, 10));
        queue.read(230 * US, 10);
        queue.settle(1000 * US);
        assert_eq!((queue.candidate, queue.is_certain()), (None, false));
    }

    /// A server that reads what its client has not written yet: the counts are wrong.
    #[test]
    fn contradictions_end_it() {
        let certain = || Queue { ahead: Some(0), writes: VecDeque::from([write(10, 5, 5)]), ..Queue::new(0) };
        let mut queue = certain();
        queue.read(100 * US, 8);
        // It had begun before, and returns after.
        queue.wrote(ClientWrite { end_ns: 120 * US, ..write(90, 9, 4) });
        assert!(queue.is_certain());
        let mut queue = certain();
        queue.read(100 * US, 8);
        queue.wrote(write(110, 9, 4));
        assert!(!queue.is_certain());
        let mut queue = certain();
        queue.looked(look(100, 3));
        queue.settle(1000 * US);
        assert!(!queue.is_certain(), "five bytes wait, not three");
    }

    /// At full speed thousands of messages are written and read from a look until it is known what was before it. Looks say the
    /// same all the same, and what they say is believed on.
    #[test]
    fn thousands_of_messages_pass_meanwhile() {
        // A message of ten bytes each 200 us, read 8 us after its write began; 700 bytes were read before.
        let mut queue = Queue::new(700);
        let mut known = 0;
        for batch in 0..8_u64 {
            for message in batch * 5000 + 1..=(batch + 1) * 5000 {
                let at_us = message * 200;
                queue.wrote(write(at_us, message * 10, 10));
                queue.read((at_us + 8) * US, 700 + message * 10);
                known += u64::from(queue.written_ns(700 + message * 10 - 1) == Some(at_us * US));
            }
            let end_us = (batch + 1) * 5000 * 200 + 50;
            queue.settle(end_us * US);
            // The look is of a moment at which nothing waits, after all that was told.
            queue.looked(look(end_us + 10, 0));
        }
        assert!(queue.is_certain());
        assert!(known >= 5 * 5000, "{known}");
    }

    proptest! {
        /// Whatever is told, nothing panics or grows without end.
        #[test]
        fn survives_anything(steps in proptest::collection::vec((0..4_u8, any::<u64>(), any::<u64>(), any::<u64>()), 0..60)) {
            let mut queue = Queue::new(5);
            for (what, one, two, three) in steps {
                match what {
                    0 => queue.wrote(ClientWrite { start_ns: one, end_ns: two, written: three, length: one }),
                    1 => queue.read(one, two),
                    2 => queue.looked(Look { from_ns: one, to_ns: two, bytes: three }),
                    _ => queue.settle(one),
                }
                queue.written_ns(two);
            }
        }
    }
}
