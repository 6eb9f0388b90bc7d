//! HTTP/1.1 as a server sees it: requests on what it reads, responses on what it writes. Bodies are JSON, or events.
//!
//! Heads are parsed by `httparse`. Bodies end by their length, by their last chunk, or with the connection
//! (RFC 9112, section 6). After bytes whose meaning nobody knows, it goes on at the next head that a system call starts with.

mod body;

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use self::body::Body;
use super::calls::Peer;
use super::contents::Capture;
use super::{Piece, Received};

/// Longest head that is waited for, in bytes.
const MAX_HEAD: usize = 32 << 10;
/// Most header fields that are read.
const MAX_FIELDS: usize = 96;
/// So many bytes tell for sure whether HTTP starts there.
pub(super) const START_BYTES: usize = 9;
/// Longest line with a chunk's size.
const MAX_SIZE_LINE: usize = 64;

/// Which direction of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the client to the server.
    Requests,
    /// From the server to the client.
    Responses,
}

/// What came on one direction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A head has been read.
    Head(Head),
    /// A message of its body.
    Message(Received),
    /// Its body is over.
    End {
        /// When its last byte was there.
        timestamp_ns: u64,
    },
}

/// What is kept of a request's or response's head.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// When its first byte was there.
    pub first_ns: u64,
    /// `POST`, `GET`... of a request.
    pub verb: Option<Box<str>>,
    /// Path of a request, without its query.
    pub path: Option<Box<str>>,
    /// Status of a response.
    pub status: Option<u16>,
    /// Whose request it is.
    pub peer: Option<Peer>,
    /// `Mcp-Session-Id`.
    pub session: Option<Box<str>>,
    /// `Mcp-Method`: the request's own method, also where its body can't be read.
    pub mcp_method: Option<Box<str>>,
    /// `Mcp-Name`: tool, prompt or resource.
    pub mcp_name: Option<Box<str>>,
    /// The body is a stream of events.
    pub is_event_stream: bool,
    /// The body is JSON.
    pub is_json: bool,
}

/// One direction of a connection.
#[derive(Clone, Debug, PartialEq)]
pub struct Half {
    direction: Direction,
    capture: Capture,
    state: State,
    head: Vec<u8>,
    first_ns: Option<u64>,
    /// Length of all that was seen.
    position: u64,
    body: Body,
    /// That a chunk of events began where it was joined is a guess: what looks like a head or a chunk is one.
    is_guess: bool,
    /// Bodies and heads that could not be understood.
    pub unreadable: u64,
    /// Messages that were too long to be taken whole, and whose rest does not tell what they were.
    pub cut: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Head,
    /// So many bytes of the body are left.
    Length(u64),
    /// Before or in a line with a chunk's size.
    Size,
    /// So many bytes of the chunk are left, and its line end.
    InChunk(u64),
    /// Behind the last chunk: fields, up to an empty line.
    Trailer,
    UntilClose,
    /// Until a system call starts with a head, or, of responses, with a chunk: it may be one of a stream of events.
    Lost,
}

impl Half {
    /// A direction that may be joined anywhere, of whose messages so much of arguments and results is kept.
    pub fn new(direction: Direction, capture: Capture) -> Self {
        Self {
            direction,
            capture,
            state: State::Lost,
            head: Vec::new(),
            first_ns: None,
            position: 0,
            body: Body::Other,
            is_guess: false,
            unreadable: 0,
            cut: 0,
        }
    }

    /// So much of it was seen already.
    pub(super) fn starts_at(&mut self, position: u64) {
        self.position = position;
    }

    /// Whether bytes look like the start of HTTP in this direction, or like the first of its bytes.
    pub fn starts(direction: Direction, bytes: &[u8]) -> bool {
        const VERBS: [&[u8]; 7] =
            [b"POST /", b"GET /", b"DELETE /", b"OPTIONS /", b"HEAD /", b"PUT /", b"PATCH /"];
        let is_start =
            |start: &[u8]| !bytes.is_empty() && start.iter().zip(bytes).all(|(one, other)| one == other);
        match direction {
            Direction::Requests => VERBS.into_iter().any(is_start),
            // The end of a request's first line is not one.
            Direction::Responses => [b"HTTP/1.1 ", b"HTTP/1.0 "].into_iter().any(|start| is_start(start)),
        }
    }

    /// Takes what was read or written next, with its time on `CLOCK_MONOTONIC` in nanoseconds.
    pub fn feed(&mut self, timestamp_ns: u64, piece: Piece<'_>) -> Vec<Event> {
        self.feed_answers(timestamp_ns, piece, |_| false)
    }

    /// The same of responses: `answers_head` tells of the response behind so many that end in this piece whether it answers a `HEAD`
    /// request. Such a one has the length of a body, and no body (RFC 9112, section 6.3).
    pub fn feed_answers(
        &mut self,
        timestamp_ns: u64,
        piece: Piece<'_>,
        answers_head: impl Fn(usize) -> bool,
    ) -> Vec<Event> {
        let mut out = Vec::new();
        match piece {
            Piece::Bytes(bytes) => {
                let is_lost = self.state == State::Lost;
                let is_sure = self.position == 0 || bytes.len() >= START_BYTES;
                let is_response = self.direction == Direction::Responses;
                if (is_lost || self.is_guess) && is_sure && Self::starts(self.direction, bytes) {
                    (self.state, self.body, self.is_guess) = (State::Head, Body::Other, false);
                    self.head.clear();
                } else if (is_lost && is_response || self.is_guess && self.state != State::Size)
                    && starts_chunk(bytes)
                {
                    (self.state, self.body, self.is_guess) = (State::Size, Body::events(self.capture), true);
                    self.head.clear();
                }
                self.bytes(bytes, timestamp_ns, &answers_head, &mut out);
            }
            Piece::Gap(missing) | Piece::WithinLine(missing) => {
                self.gap(missing, timestamp_ns, &mut out);
                self.position = self.position.saturating_add(missing);
            }
        }
        out
    }

    /// Nobody knows what was moved before the next piece. Streams of events may live for long: they are taken up again.
    pub fn lost(&mut self) {
        self.head.clear();
        self.first_ns = None;
        self.cut += self.body.cut();
        self.body = match (self.state, &self.body) {
            (State::UntilClose, Body::Events(_)) => Body::events(self.capture),
            _ => {
                self.state = State::Lost;
                Body::Other
            }
        };
    }

    /// The memory that a head or a body takes while it is read, in bytes.
    pub(crate) fn held_bytes(&self) -> usize {
        self.head.capacity() + self.body.held_bytes()
    }

    /// The connection is closed.
    pub fn close(&mut self, timestamp_ns: u64) -> Vec<Event> {
        let mut out = Vec::new();
        if self.state == State::UntilClose {
            self.end(timestamp_ns, &mut out);
        }
        out
    }

    fn bytes(
        &mut self,
        mut bytes: &[u8],
        now_ns: u64,
        answers_head: impl Fn(usize) -> bool,
        out: &mut Vec<Event>,
    ) {
        let (mut ended, mut counted) = (0, 0);
        while !bytes.is_empty() {
            let rest = match self.state {
                State::Lost => &[],
                State::Head => {
                    let is_end = |event: &&Event| matches!(event, Event::End { .. });
                    ended += out[counted..].iter().filter(is_end).count();
                    counted = out.len();
                    self.head(bytes, now_ns, answers_head(ended), out)
                }
                State::Length(left) | State::InChunk(left) => {
                    let length = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                    let (part, rest) = bytes.split_at(length);
                    self.body.feed(Piece::Bytes(part), now_ns, self.position, out);
                    self.advance(length as u64, now_ns, out);
                    rest
                }
                State::Size | State::Trailer => self.line(bytes, now_ns, out),
                State::UntilClose => {
                    self.body.feed(Piece::Bytes(bytes), now_ns, self.position, out);
                    &[]
                }
            };
            self.position += (bytes.len() - rest.len()) as u64;
            bytes = rest;
        }
    }

    fn gap(&mut self, missing: u64, now_ns: u64, out: &mut Vec<Event>) {
        match self.state {
            State::Length(left) | State::InChunk(left) if missing <= left => {
                self.body.feed(Piece::Gap(missing), now_ns, self.position, out);
                self.advance(missing, now_ns, out);
            }
            State::UntilClose => self.body.feed(Piece::Gap(missing), now_ns, self.position, out),
            State::Lost => {}
            _ => self.lose(),
        }
    }

    /// That many bytes of the body or of the chunk are behind us.
    fn advance(&mut self, length: u64, now_ns: u64, out: &mut Vec<Event>) {
        match &mut self.state {
            State::Length(left) | State::InChunk(left) => *left -= length,
            _ => return,
        }
        match self.state {
            State::Length(0) => self.end(now_ns, out),
            State::InChunk(0) => self.state = State::Size,
            _ => {}
        }
    }

    fn lose(&mut self) {
        self.unreadable += 1;
        (self.state, self.body) = (State::Lost, Body::Other);
        self.head.clear();
        self.first_ns = None;
    }

    fn end(&mut self, now_ns: u64, out: &mut Vec<Event>) {
        self.body.end(now_ns, out);
        self.cut += self.body.cut();
        self.body = Body::Other;
        self.state = State::Head;
        self.is_guess = false;
        self.first_ns = None;
        out.push(Event::End { timestamp_ns: now_ns });
    }

    fn head<'bytes>(
        &mut self,
        bytes: &'bytes [u8],
        now_ns: u64,
        answers_head: bool,
        out: &mut Vec<Event>,
    ) -> &'bytes [u8] {
        self.first_ns.get_or_insert(now_ns);
        let before = self.head.len();
        let room = MAX_HEAD - before;
        self.head.extend_from_slice(&bytes[..bytes.len().min(room)]);
        let head = std::mem::take(&mut self.head);
        match parse(self.direction, &head) {
            Ok(Some((mut parsed, mut framing, length))) => {
                parsed.first_ns = self.first_ns.unwrap_or(now_ns);
                // An interim response is followed by the real one.
                let is_interim = parsed.status.is_some_and(|status| (100..200).contains(&status));
                if answers_head && !is_interim {
                    framing = State::Length(0);
                }
                self.body = Body::of(&parsed, self.capture);
                self.state = framing;
                if !is_interim {
                    out.push(Event::Head(parsed));
                }
                if framing == State::Length(0) {
                    self.body = Body::Other;
                    self.state = State::Head;
                    self.first_ns = None;
                    if !is_interim {
                        out.push(Event::End { timestamp_ns: now_ns });
                    }
                }
                &bytes[length.saturating_sub(before).min(bytes.len())..]
            }
            Ok(None) if head.len() < MAX_HEAD => {
                self.head = head;
                &[]
            }
            Ok(None) | Err(()) => {
                self.lose();
                &[]
            }
        }
    }

    /// A line of the chunked coding. The line end behind a chunk's data is an empty line here.
    fn line<'bytes>(&mut self, bytes: &'bytes [u8], now_ns: u64, out: &mut Vec<Event>) -> &'bytes [u8] {
        let Some(end) = memchr::memchr(b'\n', bytes) else {
            self.head.extend_from_slice(&bytes[..bytes.len().min(MAX_SIZE_LINE)]);
            if self.head.len() > MAX_HEAD {
                self.lose();
            }
            return &[];
        };
        self.head.extend_from_slice(&bytes[..end.min(MAX_SIZE_LINE)]);
        let line = std::mem::take(&mut self.head);
        let line = line.trim_ascii();
        if self.state == State::Trailer {
            if line.is_empty() {
                self.end(now_ns, out);
            }
        } else if !line.is_empty() {
            // A size may be followed by extensions.
            let digits = line.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
            let size =
                std::str::from_utf8(digits).ok().and_then(|digits| u64::from_str_radix(digits, 16).ok());
            match size {
                Some(0) => self.state = State::Trailer,
                Some(size) => self.state = State::InChunk(size),
                None => {
                    self.lose();
                    return &[];
                }
            }
        }
        &bytes[end + 1..]
    }
}

/// Whether bytes look like a chunk: a line with its size.
pub(super) fn starts_chunk(bytes: &[u8]) -> bool {
    let line = bytes.iter().position(|byte| *byte == b'\r').filter(|end| (1..=16).contains(end));
    line.is_some_and(|end| {
        bytes[..end].iter().all(u8::is_ascii_hexdigit) && bytes.get(end + 1).is_none_or(|byte| *byte == b'\n')
    })
}

fn hash(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

/// A head, how its body is framed, and its length; `None` while it is not whole.
fn parse(direction: Direction, bytes: &[u8]) -> Result<Option<(Head, State, usize)>, ()> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut head = Head::default();
    let status = match direction {
        Direction::Requests => {
            let mut request = httparse::Request::new(&mut fields);
            let status = request.parse(bytes).map_err(|_| ())?;
            head.verb = request.method.map(Into::into);
            let (path, query) = request.path.map_or((None, None), |path| match path.split_once('?') {
                Some((path, query)) => (Some(path), Some(query)),
                None => (Some(path), None),
            });
            head.path = path.map(Into::into);
            // `?sessionId=` of the TypeScript, Java and C# SDKs, `?session_id=` of Python's, `?sessionid=` of Go's.
            let query = query.filter(|query| query.to_ascii_lowercase().contains("session"));
            head.peer = query.map(|query| Peer::Address(hash(query)));
            status
        }
        Direction::Responses => {
            let mut response = httparse::Response::new(&mut fields);
            let status = response.parse(bytes).map_err(|_| ())?;
            head.status = response.code;
            status
        }
    };
    let httparse::Status::Complete(length) = status else { return Ok(None) };
    let is_request = direction == Direction::Requests;
    let has_no_body = head.status.is_some_and(|status| status < 200 || status == 204 || status == 304);
    let mut is_encoded = false;
    let mut framing = if is_request { State::Length(0) } else { State::UntilClose };
    for field in fields.iter().filter(|field| !field.name.is_empty()) {
        let value = std::str::from_utf8(field.value).unwrap_or_default().trim();
        let is = |name: &str| field.name.eq_ignore_ascii_case(name);
        if is("content-length") && framing != State::Size {
            framing = State::Length(value.parse().map_err(|_| ())?);
        } else if is("transfer-encoding") && value.to_ascii_lowercase().ends_with("chunked") {
            framing = State::Size;
        } else if is("content-type") {
            let media = value.split(';').next().unwrap_or_default().trim();
            head.is_event_stream = media.eq_ignore_ascii_case("text/event-stream");
            head.is_json = media.eq_ignore_ascii_case("application/json");
        } else if is("content-encoding") {
            is_encoded = !value.eq_ignore_ascii_case("identity");
        } else if is("mcp-session-id") {
            head.session = Some(value.into());
            head.peer = Some(Peer::Session(hash(value)));
        } else if is("mcp-method") {
            head.mcp_method = Some(value.into());
        } else if is("mcp-name") {
            head.mcp_name = Some(value.into());
        }
    }
    if is_encoded {
        // Compressed: nobody reads it.
        (head.is_event_stream, head.is_json) = (false, false);
    }
    Ok(Some((head, if has_no_body { State::Length(0) } else { framing }, length)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::{Id, Message};

    const REQUESTS: &str = "POST /mcp?x=1 HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nMcp-Name: echo\r\n\
        Content-Length: 41\r\n\r\n{\"jsonrpc\":\"2.0\",\"id\":1,\n\"method\":\"ping\"}GET /mcp HTTP/1.1\r\n\
        Accept: text/event-stream\r\n\r\nPOST /mcp HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Type: application/json; charset=utf-8\r\n\r\n\
        10;x=y\r\n{\"jsonrpc\":\"2.0\"\r\n1a\r\n,\"id\":2,\"method\":\"tools/x\"\r\n1\r\n}\r\n0\r\nT: u\r\n\r\n";
    const RESPONSES: &str = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\
        Mcp-Session-Id: s\r\n\r\n2d\r\nevent: message\ndata: {\"jsonrpc\":\"2.0\",\"id\":1,\r\n20\r\n\"result\":{\"isError\":true}}\n\ndata\r\n0\r\n\r\n\
        HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n\
        {\"jsonrpc\":\"2.0\",\"id\":2,\"result\":{}}";

    fn all(direction: Direction, pieces: &[&[u8]]) -> Vec<Event> {
        let mut half = Half::new(direction, Capture::default());
        let mut events: Vec<Event> = Vec::new();
        for piece in pieces {
            events.extend(half.feed(5, Piece::Bytes(piece)));
        }
        events.extend(half.close(5));
        assert_eq!(half.unreadable, 0);
        events
    }

    fn message(event: &Event) -> &Message {
        match event {
            Event::Message(received) => &received.message,
            other => panic!("{other:?}"),
        }
    }

    /// Requests that follow each other on a connection are told apart.
    #[test]
    fn reads_requests() {
        let events = all(Direction::Requests, &[REQUESTS.as_bytes()]);
        let [
            Event::Head(post),
            first,
            Event::End { .. },
            Event::Head(get),
            Event::End { .. },
            Event::Head(_),
            second,
            Event::End { .. },
        ] = &events[..]
        else {
            panic!("{events:?}")
        };
        assert_eq!((post.path.as_deref(), post.mcp_name.as_deref()), (Some("/mcp"), Some("echo")));
        assert_eq!(get.verb.as_deref(), Some("GET"));
        assert_eq!(message(first).method.as_deref(), Some("ping"));
        assert_eq!(message(second).method.as_deref(), Some("tools/x"));
    }

    /// Events, empty answers and JSON up to the end of the connection.
    #[test]
    fn reads_responses() {
        let events = all(Direction::Responses, &[RESPONSES.as_bytes()]);
        let [
            Event::Head(first),
            one,
            Event::End { .. },
            Event::Head(empty),
            Event::End { .. },
            Event::Head(_),
            two,
            Event::End { .. },
        ] = &events[..]
        else {
            panic!("{events:?}")
        };
        assert!(first.is_event_stream && first.session.as_deref() == Some("s"));
        assert!(message(one).is_tool_error);
        assert_eq!(empty.status, Some(202));
        assert_eq!(message(two).id, Some(Id::Number("2".into())));
    }

    /// Cut at any byte, a connection gives the same events.
    #[test]
    fn cuts_do_not_matter() {
        for (direction, text) in [(Direction::Requests, REQUESTS), (Direction::Responses, RESPONSES)] {
            let expected = all(direction, &[text.as_bytes()]);
            for cut in 1..text.len() {
                let (first, second) = text.as_bytes().split_at(cut);
                assert_eq!(all(direction, &[first, second]), expected, "cut at {cut}");
            }
        }
    }

    /// The response to a HEAD request has no body, whatever its head says; what follows is the next response. Wherever it is cut.
    #[test]
    fn answers_to_head_have_no_body() {
        let text = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n\
            HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 36\r\n\r\n\
            HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
            HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 36\r\n\r\n{\"jsonrpc\":\"2.0\",\"id\":7,\"result\":{}}";
        let is_end = |event: &&Event| matches!(event, Event::End { .. });
        for cut in 1..text.len() {
            let (mut half, mut events) = (Half::new(Direction::Responses, Capture::default()), Vec::new());
            for piece in [&text[..cut], &text[cut..]] {
                let ended = events.iter().filter(is_end).count();
                // The second and the third request were HEAD.
                let answers_head = |behind: usize| (1..3).contains(&(ended + behind));
                events.extend(half.feed_answers(5, Piece::Bytes(piece.as_bytes()), answers_head));
            }
            assert_eq!((events.iter().filter(is_end).count(), half.unreadable), (4, 0), "cut at {cut}");
            assert_eq!(message(&events[events.len() - 2]).id, Some(Id::Number("7".into())), "cut at {cut}");
        }
    }

    /// A gap within a body is bridged; one that hides a head costs what is before the next head.
    #[test]
    fn goes_on_behind_gaps() {
        let mut half = Half::new(Direction::Responses, Capture::default());
        let head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{\"result\":{\"a\":\"";
        let tail = b"\"},\"jsonrpc\":\"2.0\",\"id\":4}";
        let mut events = half.feed(1, Piece::Bytes(head));
        events.extend(half.feed(1, Piece::Gap(1000 - 16 - tail.len() as u64)));
        events.extend(half.feed(1, Piece::Bytes(tail)));
        assert!(matches!(&events[..], [Event::Head(_), Event::Message(_), Event::End { .. }]), "{events:?}");
        half.feed(1, Piece::Bytes(b"HTTP/1.1 200 OK\r\n"));
        half.feed(1, Piece::Gap(100));
        assert!(half.feed(2, Piece::Bytes(b"rest")).is_empty());
        let events = half.feed(3, Piece::Bytes(b"HTTP/1.1 204 No Content\r\n\r\n"));
        assert!(matches!(&events[..], [Event::Head(_), Event::End { .. }]));
        assert_eq!(half.unreadable, 1);
    }

    /// After a loss, the next head that a system call starts with is read; a stream of events is taken up at its next chunk.
    #[test]
    fn goes_on_after_a_loss() {
        let mut half = Half::new(Direction::Responses, Capture::default());
        let feed = |half: &mut Half, text: &str| half.feed(5, Piece::Bytes(text.as_bytes()));
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
        feed(&mut half, head);
        feed(&mut half, "28\r\ndata: {\"jsonrpc\":\"2.0\",\"id\":1,");
        half.lost();
        assert!(feed(&mut half, "\"result\":{}}\n\n\r\n").is_empty());
        let events = feed(&mut half, "2d\r\ndata: {\"jsonrpc\":\"2.0\",\"id\":2,\"result\":{}}\n\n\r\n");
        assert_eq!(message(&events[0]).id, Some(Id::Number("2".into())));
        feed(&mut half, "28\r\ndata: {");
        half.lost();
        assert!(matches!(feed(&mut half, head)[..], [Event::Head(_)]));
        let mut half = Half::new(Direction::Responses, Capture::default());
        feed(&mut half, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{");
        half.lost();
        assert!(feed(&mut half, "\"id\":3}").is_empty());
        assert!(matches!(feed(&mut half, head)[..], [Event::Head(_)]));
    }

    /// What was taken for the start of a chunk, and is none, costs what is before the next chunk or head.
    #[test]
    fn goes_on_after_a_wrong_guess() {
        let data = "data: {\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{}}\n\n\r\n";
        let chunk = format!("2d\r\n{data}");
        let head = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
        // The size is cut, or it is the end of a field of a head.
        for wrong in [format!("d\r\n{data}"), "ed\r\ndate: now\r\n\r\n".to_owned()] {
            let mut half = Half::new(Direction::Responses, Capture::default());
            assert!(half.feed(1, Piece::Bytes(wrong.as_bytes())).is_empty(), "{wrong}");
            // Nor is this a head.
            assert!(half.feed(1, Piece::Bytes(b"H")).is_empty(), "{wrong}");
            let events = half.feed(2, Piece::Bytes(chunk.as_bytes()));
            assert_eq!(message(&events[0]).id, Some(Id::Number("1".into())), "{wrong}");
            assert!(half.feed(3, Piece::Bytes(wrong.as_bytes())).is_empty(), "{wrong}");
            assert!(
                matches!(half.feed(4, Piece::Bytes(head.as_bytes()))[..], [Event::Head(_), _]),
                "{wrong}"
            );
        }
    }

    proptest! {
        /// No bytes make the parser panic.
        #[test]
        fn survives_any_bytes(text in "(POST / HTTP/1.1\r\n|HTTP/1.1 200 OK\r\n)?(Content-Length: [0-9]{1,20}\r\n|Transfer-Encoding: chunked\r\n)?(\r\n)?[0-9a-f]{0,18}\r\n.{0,40}", gap in any::<u64>()) {
            for direction in [Direction::Requests, Direction::Responses] {
                let mut half = Half::new(direction, Capture::default());
                half.feed(0, Piece::Bytes(text.as_bytes()));
                half.feed(0, Piece::Gap(gap));
                half.feed(0, Piece::Bytes(text.as_bytes()));
            }
        }
    }
}
