//! One message a line: the stdio transport of every protocol revision.

use super::contents::Capture;
use super::json::{Outcome, Scanner};
use super::{Piece, Received};

/// Bytes of a line that is no message, after which its stream is given up.
const MAX_FOREIGN_BYTES: u64 = 1 << 20;

/// One direction of a stream of lines.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Lines {
    scanner: Scanner,
    /// When the current line began, and where.
    first: Option<(u64, u64)>,
    /// Length of all that was seen.
    position: u64,
    bytes: u64,
    is_synchronized: bool,
    /// Up to the end of the line nothing is of use: its start was lost.
    is_skipping: bool,
    /// Whole lines that were no JSON-RPC message.
    pub skipped: u64,
    /// Messages that were too long to be taken whole, and whose rest does not tell what they were.
    pub cut: u64,
}

impl Lines {
    /// Lines of whose messages so much of arguments and results is kept.
    pub fn new(capture: Capture) -> Self {
        Self { scanner: Scanner::new(capture), ..Self::default() }
    }

    /// Takes what was read or written next, with its time on `CLOCK_MONOTONIC` in nanoseconds; returns the messages that
    /// it ended.
    pub fn feed(&mut self, timestamp_ns: u64, piece: Piece<'_>) -> Vec<Received> {
        let mut received = Vec::new();
        match piece {
            Piece::Bytes(bytes) => self.bytes(bytes, timestamp_ns, &mut received),
            Piece::Gap(missing) | Piece::WithinLine(missing) => {
                self.first.get_or_insert((timestamp_ns, self.position));
                self.bytes = self.bytes.saturating_add(missing);
                self.position = self.position.saturating_add(missing);
                self.scanner.gap();
            }
        }
        received
    }

    /// Nobody knows what was said before the next piece. `is_start`: a system call starts there, and with it a line most likely.
    pub fn lost(&mut self, is_start: bool) {
        self.scanner.reset();
        (self.first, self.bytes) = (None, 0);
        (self.is_synchronized, self.is_skipping) = (false, !is_start);
    }

    /// Whether messages may be hidden in what comes next, or in what is missing of it: where no line ends, those of a batch.
    pub(super) fn may_hide(&self, piece: Piece<'_>) -> bool {
        match piece {
            Piece::Bytes(_) => false,
            Piece::Gap(_) => true,
            Piece::WithinLine(_) => self.scanner.is_batch(),
        }
    }

    /// Whether a line of so many bytes is none of ours, although it has not ended yet.
    pub fn is_foreign(&self) -> bool {
        self.bytes > MAX_FOREIGN_BYTES && self.scanner.is_broken()
    }

    /// Whether a line has begun as a message does, and not ended.
    pub(crate) fn is_within(&self) -> bool {
        self.scanner.is_open() && !self.scanner.is_broken()
    }

    /// The memory that a line takes while it is read, in bytes.
    pub(crate) fn held_bytes(&self) -> usize {
        self.scanner.held_bytes()
    }

    fn bytes(&mut self, mut bytes: &[u8], timestamp_ns: u64, received: &mut Vec<Received>) {
        while let Some(end) = memchr::memchr(b'\n', bytes) {
            self.part(&bytes[..end], timestamp_ns);
            if std::mem::take(&mut self.is_skipping) {
                self.lost(true);
            }
            self.end_line(timestamp_ns, received);
            self.position += 1;
            bytes = &bytes[end + 1..];
        }
        self.part(bytes, timestamp_ns);
        // Some read values rather than lines, and may have answered before they read the end of the line.
        if !self.is_skipping && self.scanner.is_whole() {
            self.end_line(timestamp_ns, received);
        }
    }

    fn part(&mut self, bytes: &[u8], timestamp_ns: u64) {
        if !bytes.is_empty() {
            self.first.get_or_insert((timestamp_ns, self.position));
            self.bytes += bytes.len() as u64;
            self.position += bytes.len() as u64;
            self.scanner.feed(bytes);
        }
    }

    fn end_line(&mut self, last_ns: u64, received: &mut Vec<Received>) {
        let (first_ns, offset) = self.first.take().unwrap_or((last_ns, self.position));
        let mut bytes = std::mem::take(&mut self.bytes);
        let was_cut = self.scanner.has_gap();
        match self.scanner.finish() {
            Outcome::Messages(messages) => {
                // One, most often: no room for more, which would take the allocator longer.
                if received.is_empty() {
                    received.reserve_exact(messages.len());
                }
                received.extend(messages.into_iter().map(|message| Received {
                    message,
                    first_ns,
                    last_ns,
                    thread: 0,
                    offset: Some(offset),
                    queue_ns: None,
                    bytes: std::mem::take(&mut bytes),
                }));
            }
            Outcome::NotRpc if was_cut => self.cut += u64::from(self.is_synchronized),
            // The first line may be the rest of one that began before we were there.
            Outcome::NotRpc => self.skipped += u64::from(self.is_synchronized),
            Outcome::Empty => {}
        }
        self.is_synchronized = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(received: &[Received]) -> Vec<String> {
        received.iter().map(|received| format!("{:?}", received.message.id.as_ref().unwrap())).collect()
    }

    const STREAM: &str = "rest of an earlier message\"}}\n{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\"}\nlistening\n\r\n\
        {\"jsonrpc\":\"2.0\",\"id\":2,\"method\":\"ping\"}\n";

    /// Cut at any byte, a stream gives the same messages; what is no message is counted, but for the first line.
    #[test]
    fn cuts_do_not_matter() {
        for cut in 0..STREAM.len() {
            let (first, second) = STREAM.as_bytes().split_at(cut);
            let mut lines = Lines::default();
            let mut received = lines.feed(1, Piece::Bytes(first));
            received.extend(lines.feed(2, Piece::Bytes(second)));
            assert_eq!(ids(&received), ["Number(\"1\")", "Number(\"2\")"], "cut at {cut}");
            assert_eq!(lines.skipped, 1);
            assert_eq!(received[0].bytes, 40);
        }
    }

    /// A message is there with its last byte, before its line ends; what ends the line belongs to no other one.
    #[test]
    fn messages_need_no_end_of_their_line() {
        let mut lines = Lines::default();
        let message = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
        assert_eq!(ids(&lines.feed(1, Piece::Bytes(message.as_bytes()))), ["Number(\"1\")"]);
        let received = lines.feed(2, Piece::Bytes(format!("\r\n{message}").as_bytes()));
        assert_eq!(ids(&received), ["Number(\"1\")"]);
        assert_eq!((received[0].first_ns, received[0].bytes, lines.skipped), (2, 40, 0));
    }

    /// After a loss the next whole message is read, and no half of two becomes one.
    #[test]
    fn goes_on_after_a_loss() {
        for (is_start, expected) in
            [(true, vec!["Number(\"2\")", "Number(\"3\")"]), (false, vec!["Number(\"3\")"])]
        {
            let mut lines = Lines::default();
            assert!(lines.feed(1, Piece::Bytes(b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":")).is_empty());
            lines.lost(is_start);
            let rest = b"{\"jsonrpc\":\"2.0\",\"id\":2,\"method\":\"ping\"}\n{\"jsonrpc\":\"2.0\",\"id\":3,\"method\":\"ping\"}\n";
            assert_eq!(ids(&lines.feed(2, Piece::Bytes(rest))), expected);
            assert_eq!((lines.skipped, lines.cut), (0, 0));
        }
    }

    /// A message has the time of its first byte and of its last, also when its middle was left out.
    #[test]
    fn times_and_lengths_are_kept() {
        let mut lines = Lines::default();
        let head = b"{\"result\":{\"content\":[{\"type\":\"text\",\"text\":\"aaaa";
        assert!(lines.feed(10, Piece::Bytes(head)).is_empty());
        assert!(lines.feed(10, Piece::Gap(2 * 65536 - head.len() as u64 - 4)).is_empty());
        assert!(lines.feed(20, Piece::Bytes(b"aaaa")).is_empty());
        let end = b"aa\"}]},\"jsonrpc\":\"2.0\",\"id\":9}\n{\"jsonrpc\"";
        let received = lines.feed(30, Piece::Bytes(end));
        assert_eq!(ids(&received), ["Number(\"9\")"]);
        assert_eq!((received[0].first_ns, received[0].last_ns), (10, 30));
        assert_eq!(received[0].bytes, 2 * 65536 + 30);
    }
}
