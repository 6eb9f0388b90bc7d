//! Server-sent events: the `data:` lines of an event are a message (WHATWG HTML, "Server-sent events").

use super::contents::Capture;
use super::json::{Outcome, Scanner};
use super::{Message, Piece};

/// The longest field name that matters: `data`.
const MAX_NAME: usize = 5;

/// A stream of events.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Events {
    scanner: Scanner,
    line: Line,
    /// Since the last event: when its first data came, and how much of it.
    data: Option<(u64, u64)>,
    /// The last byte was a carriage return, which a newline may follow as part of the same line end.
    was_return: bool,
    /// Events that were no JSON-RPC message.
    pub skipped: u64,
    /// Of these, those that were too long to be taken whole.
    pub cut: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Line {
    /// In a field's name: what it is so far.
    Name(Vec<u8>),
    /// Behind `data:`; a space may follow.
    BeforeData,
    Data,
    /// Any other field.
    Other,
}

impl Default for Line {
    fn default() -> Self {
        Self::Name(Vec::new())
    }
}

impl Events {
    /// Events of whose messages so much of arguments and results is kept.
    pub fn new(capture: Capture) -> Self {
        Self { scanner: Scanner::new(capture), ..Self::default() }
    }

    /// Takes what came next; calls `event` at the end of each event that is a message, with the time of its first byte
    /// and the length of its data.
    pub(crate) fn feed(
        &mut self,
        piece: Piece<'_>,
        now_ns: u64,
        mut event: impl FnMut(Vec<Message>, u64, u64),
    ) {
        let bytes = match piece {
            Piece::Bytes(bytes) => bytes,
            Piece::Gap(missing) | Piece::WithinLine(missing) => {
                // Long data, most likely.
                self.line = Line::Data;
                self.count(missing, now_ns);
                return self.scanner.gap();
            }
        };
        let mut from = 0;
        for end in memchr::memchr2_iter(b'\n', b'\r', bytes) {
            self.part(&bytes[from..end], now_ns);
            from = end + 1;
            let is_second = bytes[end] == b'\n' && self.was_return;
            self.was_return = bytes[end] == b'\r';
            if !is_second {
                self.end_line(&mut event);
            }
        }
        self.part(&bytes[from..], now_ns);
    }

    /// The memory that an event takes while it is read, in bytes.
    pub(crate) fn held_bytes(&self) -> usize {
        self.scanner.held_bytes()
    }

    fn count(&mut self, length: u64, now_ns: u64) {
        let (_, all) = self.data.get_or_insert((now_ns, 0));
        *all = all.saturating_add(length);
    }

    fn part(&mut self, mut bytes: &[u8], now_ns: u64) {
        if bytes.is_empty() {
            return;
        }
        self.was_return = false;
        if let Line::Name(name) = &mut self.line {
            let colon = memchr::memchr(b':', bytes);
            let part = &bytes[..colon.unwrap_or(bytes.len())];
            let room = MAX_NAME.saturating_sub(name.len());
            name.extend_from_slice(&part[..part.len().min(room)]);
            let Some(colon) = colon else { return };
            self.line = if name == b"data" { Line::BeforeData } else { Line::Other };
            bytes = &bytes[colon + 1..];
        }
        if self.line == Line::BeforeData && !bytes.is_empty() {
            bytes = bytes.strip_prefix(b" ").unwrap_or(bytes);
            self.line = Line::Data;
        }
        if self.line == Line::Data && !bytes.is_empty() {
            self.count(bytes.len() as u64, now_ns);
            self.scanner.feed(bytes);
        }
    }

    fn end_line(&mut self, event: &mut impl FnMut(Vec<Message>, u64, u64)) {
        match std::mem::take(&mut self.line) {
            // An empty line ends an event.
            Line::Name(name) if name.is_empty() => {
                if let Some((first_ns, length)) = self.data.take() {
                    let had_gap = self.scanner.has_gap();
                    match self.scanner.finish() {
                        Outcome::Messages(messages) => event(messages, first_ns, length),
                        Outcome::NotRpc => {
                            self.skipped += 1;
                            self.cut += u64::from(had_gap);
                        }
                        Outcome::Empty => {}
                    }
                }
            }
            Line::Data => self.scanner.feed(b"\n"),
            Line::Name(_) | Line::BeforeData | Line::Other => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &str = ": hello\r\n\r\nevent: message\nid: 4\ndata: {\"jsonrpc\":\"2.0\",\ndata:\"id\":1,\"result\":{}}\n\n\
        data\ndata: /messages?session=1\n\nretry: 5\n\ndata: {\"jsonrpc\":\"2.0\",\"id\":2,\"result\":{}}\r\n\r\n";

    /// A long event of which the middle is missing is known by its end.
    #[test]
    fn goes_on_behind_gaps() {
        let (mut events, mut ids) = (Events::default(), Vec::new());
        let end = b"aaa\"}]},\"jsonrpc\":\"2.0\",\"id\":9}\n\n";
        for piece in [
            Piece::Bytes(b"data: {\"result\":{\"content\":[{\"text\":\"aa"),
            Piece::Gap(9000),
            Piece::Bytes(end),
        ] {
            events.feed(piece, 1, |event, _, _| ids.extend(event.into_iter().map(|message| message.id)));
        }
        assert_eq!((ids, events.cut), (vec![Some(crate::wire::Id::Number("9".into()))], 0));
    }

    /// Cut at any byte, a stream gives the same events; events that are no messages are counted.
    #[test]
    fn cuts_do_not_matter() {
        for cut in 0..STREAM.len() {
            let (first, second) = STREAM.as_bytes().split_at(cut);
            let (mut events, mut messages) = (Events::default(), Vec::new());
            for part in [first, second] {
                events.feed(Piece::Bytes(part), 1, |event, _, length| {
                    messages.extend(event.into_iter().map(|message| (message, length)));
                });
            }
            let ids: Vec<_> =
                messages.iter().map(|(message, length)| (message.id.clone().unwrap(), *length)).collect();
            let id = |id: &str| crate::wire::Id::Number(id.into());
            assert_eq!(ids, [(id("1"), 36), (id("2"), 36)], "cut at {cut}");
            assert_eq!(events.skipped, 1);
        }
    }
}
