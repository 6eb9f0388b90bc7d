//! The streams of one process: which of them speak MCP, how, and what is said on them.

use std::collections::VecDeque;

use hashbrown::HashMap;

use super::calls::{Calls, Ended, ResponseTimes, Session, Side};
use super::contents::Capture;
use super::http::{Direction, Event, Half, Head, starts_chunk};
use super::queue::{ClientWrite, Look, Queue};
use super::stdio::Lines;
use super::{Id, Kind, Message, Piece, Received};

/// Streams of one process that are followed; the one that was silent for longest makes room.
const MAX_STREAMS: usize = 4096;
/// Lines, or HTTP bodies, without any message after which a stream is given up.
const MAX_SILENT: u64 = 256;
/// HTTP requests on a connection that wait for their responses; the oldest is forgotten.
const MAX_EXCHANGES: usize = 256;
/// Longest ID of a session that is kept, in bytes.
const MAX_SESSION_ID: usize = 256;
/// What a stream may hold when those of its process are told to give up what they hold, in bytes.
const FEW_BYTES: usize = 2048;
/// Streams of one process whose clients' writes are followed; one that was silent for longer than this makes room, in
/// nanoseconds.
const MAX_QUEUES: usize = 128;
const SILENCE_NS: u64 = 1_000_000_000;
/// All stdio streams of a process are one session: requests come by one pipe and responses go by another.
const STDIO: Session = 0;

/// What a process reads and writes.
#[derive(Clone, Debug, Default)]
pub struct Streams {
    streams: HashMap<u64, Stream>,
    /// Of streams whose clients are known.
    queues: HashMap<u64, Queue>,
    /// The calls that are made of it.
    pub calls: Calls,
    /// Counts of streams that were dropped.
    ended: Counts,
    /// Something was seen in plain that goes over the wire encrypted.
    pub has_plain: bool,
    /// Encrypted streams of clients.
    encrypted: u64,
    /// What of arguments and results is kept.
    capture: Capture,
}

/// What was seen besides calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// JSON-RPC messages.
    pub messages: u64,
    /// Lines between them that were none.
    pub skipped_lines: u64,
    /// HTTP heads and bodies that could not be understood.
    pub unreadable_http: u64,
    /// Messages too long to be taken whole, whose rest does not tell what they were.
    pub cut_messages: u64,
    /// Stretches of streams that were lost, each with nobody knows how many messages.
    pub lost_stretches: u64,
    /// JSON-RPC notifications, other than cancellations.
    pub notifications: u64,
    /// Responses to no request that was seen: those to requests from before the start are among them.
    pub unmatched_responses: u64,
    /// Requests with the ID of one that still waited.
    pub repeated_ids: u64,
    /// Requests that were not waited for any longer, as too many did.
    pub given_up: u64,
    /// Half-read messages that were dropped: all of them together took too much memory.
    pub dropped_messages: u64,
    /// Encrypted streams, of processes in which nothing of that is seen in plain.
    pub encrypted_streams: u64,
    /// Processes that have an `io_uring`, and of which no message is seen: what they move by it is not.
    pub io_uring_processes: u64,
    /// Requests whose arguments were not kept, though they were asked for, as too many waited.
    pub contents_dropped: u64,
}

#[derive(Clone, Debug)]
struct Stream {
    protocol: Protocol,
    last_ns: u64,
    messages: u64,
    /// HTTP bodies, with and without messages.
    bodies: u64,
    /// How much the process has read there.
    position: u64,
    /// What the process is there, as far as its messages tell.
    role: Option<Side>,
    /// IDs of sessions are kept.
    has_contents: bool,
    lost_stretches: u64,
    dropped_messages: u64,
    /// HTTP requests whose responses have not ended, the oldest first.
    exchanges: VecDeque<Exchange>,
    /// Of the HTTP response that is being written: its head, and an error in it that names no request.
    response: Option<Head>,
    error: Option<Ended>,
}

/// An HTTP request.
#[derive(Clone, Debug, Default)]
struct Exchange {
    /// Its response has no body.
    is_head: bool,
    /// Its `Mcp-Session-Id`, where that is kept.
    session_id: Option<Box<str>>,
    /// Of what it asks.
    ids: Vec<Id>,
}

#[derive(Clone, Debug)]
enum Protocol {
    /// A message a line, in both directions where it is a socket.
    Stdio { read: Box<Lines>, written: Box<Lines> },
    /// The process is the HTTP server.
    Http { requests: Box<Half>, responses: Box<Half> },
}

/// Where and when bytes were moved.
#[derive(Clone, Copy, Debug)]
pub struct Moved {
    /// The stream: inode number of its pipe or socket.
    pub stream: u64,
    /// The process wrote, else it read.
    pub is_written: bool,
    /// `CLOCK_MONOTONIC`, in nanoseconds.
    pub timestamp_ns: u64,
    /// The thread that did it.
    pub thread: u32,
}

/// Whether a stream is still of interest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// It is, or may become so.
    Yes,
    /// It does not speak MCP.
    No,
}

impl Streams {
    /// Streams of whose messages so much of arguments and results is kept.
    pub fn new(capture: Capture) -> Self {
        Self { capture, ..Self::default() }
    }

    /// Takes what the process read from a stream or wrote to it.
    pub fn moved(&mut self, moved: Moved, piece: Piece<'_>) -> Interest {
        let Moved { stream, is_written, timestamp_ns, thread } = moved;
        if !self.streams.contains_key(&stream) {
            let Some(protocol) = Protocol::of(piece, is_written, self.capture) else { return Interest::No };
            self.make_room();
            let has_contents = self.capture.bytes > 0;
            self.streams
                .insert(stream, Stream { last_ns: timestamp_ns, has_contents, ..Stream::new(protocol) });
        }
        let Some(state) = self.streams.get_mut(&stream) else { return Interest::No };
        state.last_ns = timestamp_ns;
        let sender = if is_written { Side::Server } else { Side::Client };
        let mut queue = if is_written { None } else { self.queues.get_mut(&stream) };
        if !is_written {
            state.position = state.position.saturating_add(piece.length());
            queue.iter_mut().for_each(|queue| queue.read(timestamp_ns, state.position));
        }
        match &mut state.protocol {
            Protocol::Stdio { read, written } => {
                if matches!(piece, Piece::Gap(_)) {
                    self.calls.hidden(STDIO, sender, timestamp_ns);
                }
                let lines = if is_written { written } else { read };
                for received in lines.feed(timestamp_ns, piece) {
                    state.messages += 1;
                    if is_own(&mut state.role, sender, &received.message, &self.calls) {
                        let queue_ns = queue_ns(queue.as_deref_mut(), &received);
                        self.calls.message(STDIO, sender, Received { thread, queue_ns, ..received });
                    }
                }
            }
            Protocol::Http { requests, responses } => {
                let exchanges = &state.exchanges;
                let answers_head =
                    |behind: usize| exchanges.get(behind).is_some_and(|exchange| exchange.is_head);
                let events = if is_written {
                    responses.feed_answers(timestamp_ns, piece, answers_head)
                } else {
                    requests.feed(timestamp_ns, piece)
                };
                for mut event in events {
                    if let Event::Message(received) = &mut event {
                        received.queue_ns = queue_ns(queue.as_deref_mut(), received);
                    }
                    state.http(moved, sender, event, &mut self.calls);
                }
            }
        }
        if state.messages == 0 && state.silent() > MAX_SILENT {
            self.drop_stream(stream);
            return Interest::No;
        }
        Interest::Yes
    }

    /// A stream is encrypted; `moved` tells who sent what was seen first.
    pub fn encrypted(&mut self, moved: Moved) {
        // A process that speaks first is a client, of something else than MCP most likely.
        self.encrypted += u64::from(!moved.is_written);
    }

    /// The memory that messages take which are half read, and calls that have not ended, in bytes.
    pub fn held_bytes(&self) -> usize {
        self.streams.values().map(Stream::held_bytes).sum::<usize>() + self.calls.held_bytes()
    }

    /// Gives up most of that: it is too much.
    pub fn give_up(&mut self, now_ns: u64) {
        for (stream, state) in self.streams.iter_mut().filter(|(_, state)| state.held_bytes() > FEW_BYTES) {
            state.dropped_messages += 1;
            let session = match &mut state.protocol {
                Protocol::Stdio { read, written } => {
                    read.lost(false);
                    written.lost(false);
                    STDIO
                }
                Protocol::Http { requests, responses } => {
                    requests.lost();
                    responses.lost();
                    state.exchanges = VecDeque::new();
                    *stream
                }
            };
            for sender in [Side::Client, Side::Server] {
                self.calls.lost(Some(session), sender, now_ns);
            }
        }
        self.calls.give_up_half(now_ns);
    }

    /// Whether a stream is followed.
    pub fn knows(&self, stream: u64) -> bool {
        self.streams.contains_key(&stream)
    }

    /// Whether a stream has a message a line.
    pub fn has_lines(&self, stream: u64) -> bool {
        self.streams.get(&stream).is_some_and(|state| matches!(state.protocol, Protocol::Stdio { .. }))
    }

    /// The streams that are followed.
    pub fn known(&self) -> impl Iterator<Item = u64> {
        self.streams.keys().copied()
    }

    /// Follows from now on what a client writes to a stream, which is told by [`client_wrote`](Self::client_wrote) and
    /// [`looked`](Self::looked). False when there are too many that are in use.
    pub fn follow_client(&mut self, stream: u64) -> bool {
        let Some(state) = self.streams.get(&stream) else { return false };
        let queue = Queue::new(state.position);
        let before_ns = state.last_ns.saturating_sub(SILENCE_NS);
        if self.queues.len() >= MAX_QUEUES {
            let last_ns = |stream: &u64| self.streams.get(stream).map_or(0, |state| state.last_ns);
            let oldest = self.queues.keys().map(|stream| (last_ns(stream), *stream)).min();
            let Some((_, oldest)) = oldest.filter(|(last_ns, _)| *last_ns < before_ns) else { return false };
            self.queues.remove(&oldest);
        }
        self.queues.insert(stream, queue);
        true
    }

    /// Follows a client no longer.
    pub fn leave_client(&mut self, stream: u64) {
        self.queues.remove(&stream);
    }

    /// A client wrote to a stream.
    pub fn client_wrote(&mut self, stream: u64, write: ClientWrite) {
        self.queues.get_mut(&stream).into_iter().for_each(|queue| queue.wrote(write));
    }

    /// Somebody looked at how much waits in a stream.
    pub fn looked(&mut self, stream: u64, look: Look) {
        self.queues.get_mut(&stream).into_iter().for_each(|queue| queue.looked(look));
    }

    /// Everything until this moment has been told.
    pub fn settle(&mut self, settled_ns: u64) {
        self.queues.values_mut().for_each(|queue| queue.settle(settled_ns));
    }

    /// Whether it is known which write of a client is which read; `None` when the client is not followed, or not any more.
    pub fn is_client_certain(&self, stream: u64) -> Option<bool> {
        self.queues.get(&stream).map(Queue::is_certain)
    }

    /// Nobody knows what was moved before the next piece. `is_start`: that one is the start of what a system call moved.
    pub fn lost(&mut self, moved: Moved, is_start: bool) {
        let sender = if moved.is_written { Side::Server } else { Side::Client };
        if !moved.is_written {
            self.queues.get_mut(&moved.stream).into_iter().for_each(Queue::lost);
        }
        let Some(state) = self.streams.get_mut(&moved.stream) else {
            // It may have been the first of its stream.
            self.ended.lost_stretches += 1;
            return self.calls.lost(None, sender, moved.timestamp_ns);
        };
        state.lost_stretches += 1;
        let session = match &mut state.protocol {
            Protocol::Stdio { read, written } => {
                (if moved.is_written { written } else { read }).lost(is_start);
                STDIO
            }
            Protocol::Http { requests, responses } => {
                (if moved.is_written { responses } else { requests }).lost();
                state.exchanges.clear();
                (state.response, state.error) = (None, None);
                moved.stream
            }
        };
        self.calls.lost(Some(session), sender, moved.timestamp_ns);
    }

    /// A stream has ended.
    pub fn closed(&mut self, stream: u64, timestamp_ns: u64) {
        self.queues.remove(&stream);
        if let Some(mut state) = self.streams.remove(&stream) {
            if let Protocol::Http { responses, .. } = &mut state.protocol {
                let moved = Moved { stream, is_written: true, timestamp_ns, thread: 0 };
                for event in responses.close(timestamp_ns) {
                    state.http(moved, Side::Server, event, &mut self.calls);
                }
                self.calls.close(stream, timestamp_ns);
            }
            self.ended.add(state.counts());
        }
    }

    /// What was seen besides calls so far.
    pub fn counts(&self) -> Counts {
        let mut counts = self.ended;
        self.streams.values().for_each(|stream| counts.add(stream.counts()));
        counts.notifications += self.calls.notifications;
        counts.unmatched_responses += self.calls.unexpected;
        counts.repeated_ids += self.calls.repeated_ids;
        counts.given_up += self.calls.given_up;
        counts.cut_messages += self.calls.hidden_answers;
        counts.encrypted_streams += if self.has_plain { 0 } else { self.encrypted };
        counts.contents_dropped += self.calls.contents_dropped;
        counts
    }

    fn drop_stream(&mut self, stream: u64) {
        self.queues.remove(&stream);
        self.calls.belongs(stream, None);
        if let Some(state) = self.streams.remove(&stream) {
            self.ended.add(state.counts());
        }
    }

    fn make_room(&mut self) {
        if self.streams.len() >= MAX_STREAMS
            && let Some((oldest, last_ns)) = self
                .streams
                .iter()
                .map(|(id, stream)| (*id, stream.last_ns))
                .min_by_key(|(_, last_ns)| *last_ns)
        {
            self.closed(oldest, last_ns);
        }
    }
}

impl Protocol {
    /// Told by a stream's first bytes; `None` when it is no MCP server's.
    fn of(piece: Piece<'_>, is_written: bool, capture: Capture) -> Option<Self> {
        let Piece::Bytes(bytes) = piece else { return Some(Self::stdio(capture)) };
        let requests = Half::starts(Direction::Requests, bytes);
        let responses = Half::starts(Direction::Responses, bytes);
        match (requests, responses, is_written) {
            (true, _, false) | (_, true, true) => Some(Self::Http {
                requests: Box::new(Half::new(Direction::Requests, capture)),
                responses: Box::new(Half::new(Direction::Responses, capture)),
            }),
            // The process is a client there: whom it asks counts the calls.
            (true, _, true) | (_, true, false) => None,
            // A connection for messages to a client may have lived for days.
            (false, false, true) if starts_chunk(bytes) => Some(Self::Http {
                requests: Box::new(Half::new(Direction::Requests, capture)),
                responses: Box::new(Half::within_events(capture)),
            }),
            (false, false, _) => Some(Self::stdio(capture)),
        }
    }

    fn stdio(capture: Capture) -> Self {
        let lines = || Box::new(Lines::new(capture));
        Self::Stdio { read: lines(), written: lines() }
    }
}

/// How long a message waited since its client began to write it.
fn queue_ns(queue: Option<&mut Queue>, received: &Received) -> Option<u64> {
    Some(received.first_ns.saturating_sub(queue?.written_ns(received.offset?)?))
}

/// Methods that only clients call, in every revision of the protocol so far.
const OF_CLIENTS: [&str; 14] = [
    "initialize",
    "server/discover",
    "tools/call",
    "tools/list",
    "prompts/get",
    "prompts/list",
    "resources/read",
    "resources/list",
    "resources/templates/list",
    "resources/subscribe",
    "resources/unsubscribe",
    "completion/complete",
    "logging/setLevel",
    "subscriptions/listen",
];
/// Methods that only servers call.
const OF_SERVERS: [&str; 3] = ["sampling/createMessage", "roots/list", "elicitation/create"];

/// Whether a message belongs to the calls of the process. A process may be the client of others too, over pipes to them:
/// those calls are theirs.
fn is_own(role: &mut Option<Side>, sender: Side, message: &Message, calls: &Calls) -> bool {
    // As a server, the process is whom clients' methods are sent to.
    let server = match message.method.as_deref() {
        Some(method) if OF_CLIENTS.contains(&method) => Some(sender == Side::Client),
        Some(method) if OF_SERVERS.contains(&method) => Some(sender == Side::Server),
        _ => None,
    };
    if let Some(is_server) = server {
        *role = Some(if is_server { Side::Server } else { Side::Client });
    }
    match *role {
        Some(Side::Server) => true,
        Some(Side::Client) => false,
        // What a client reads from its server: answers to what this process did not ask as a server.
        None if sender == Side::Client && matches!(message.kind, Kind::Result | Kind::Error) => {
            message.id.as_ref().is_some_and(|id| calls.is_open(STDIO, Side::Server, id))
        }
        None => true,
    }
}

impl Stream {
    fn new(protocol: Protocol) -> Self {
        Self {
            protocol,
            last_ns: 0,
            messages: 0,
            bodies: 0,
            position: 0,
            role: None,
            has_contents: false,
            lost_stretches: 0,
            dropped_messages: 0,
            exchanges: VecDeque::new(),
            response: None,
            error: None,
        }
    }

    fn http(&mut self, moved: Moved, sender: Side, event: Event, calls: &mut Calls) {
        match event {
            Event::Message(received) => {
                self.messages += 1;
                let message = &received.message;
                match (sender, message.kind, message.id.clone()) {
                    (Side::Client, Kind::Request, Some(id)) => {
                        self.exchanges
                            .back_mut()
                            .into_iter()
                            .for_each(|exchange| exchange.ids.push(id.clone()));
                    }
                    // No request of this connection waits for it.
                    (Side::Server, Kind::Result | Kind::Error, Some(id))
                        if self.exchanges.front().is_none_or(|exchange| exchange.ids.is_empty()) =>
                    {
                        calls.answered_elsewhere(moved.stream, &id);
                    }
                    (Side::Server, Kind::Error, None) => {
                        let (code, message) = (message.error_code, message.error_message.clone());
                        self.error = Some(Ended::Error { code, message });
                        return;
                    }
                    _ => {}
                }
                let asked = (message.kind == Kind::Request).then(|| message.id.clone()).flatten();
                calls.message(moved.stream, sender, Received { thread: moved.thread, ..received });
                let Some(id) = asked else { return };
                if sender == Side::Server {
                    // The client answers by a request of its own.
                    calls.detach(moved.stream, Side::Server, id);
                } else if let Some(session_id) =
                    self.exchanges.back().and_then(|own| own.session_id.as_deref())
                {
                    calls.in_session(moved.stream, Side::Client, id, session_id);
                }
            }
            Event::Head(head) if sender == Side::Client => {
                calls.belongs(moved.stream, head.peer);
                if self.exchanges.len() >= MAX_EXCHANGES {
                    self.exchanges.pop_front();
                }
                let is_head = head.verb.as_deref() == Some("HEAD");
                let session_id = head.session.filter(|id| self.has_contents && id.len() <= MAX_SESSION_ID);
                self.exchanges.push_back(Exchange { is_head, session_id, ids: Vec::new() });
            }
            Event::Head(head) => self.response = Some(head),
            Event::End { timestamp_ns } => {
                self.bodies += 1;
                if sender == Side::Server {
                    self.response_over(moved, timestamp_ns, calls);
                }
            }
        }
    }

    /// What was asked by the oldest request is answered, or never will be on this connection.
    fn response_over(&mut self, moved: Moved, last_ns: u64, calls: &mut Calls) {
        let Exchange { ids, .. } = self.exchanges.pop_front().unwrap_or_default();
        let (response, error) = (self.response.take(), self.error.take());
        let Some(response) = response else { return };
        let times = ResponseTimes { first_ns: response.first_ns, last_ns, thread: moved.thread };
        for id in ids {
            let ended = match (&error, response.status) {
                (Some(error), _) => error.clone(),
                (None, Some(status @ 400..)) => {
                    Ended::Error { code: None, message: Some(format!("HTTP status {status}").into()) }
                }
                // "Accepted": if there is an answer, it comes by the connection for messages to the client. So does one whose
                // stream of events has ended before it.
                (None, Some(202)) => {
                    calls.detach(moved.stream, Side::Client, id);
                    continue;
                }
                _ if response.is_event_stream => {
                    calls.detach(moved.stream, Side::Client, id);
                    continue;
                }
                // Compressed, or something else that can't be read.
                _ => Ended::Lost,
            };
            calls.response_over(moved.stream, id, ended, times);
        }
    }

    fn held_bytes(&self) -> usize {
        let (one, other) = match &self.protocol {
            Protocol::Stdio { read, written } => (read.held_bytes(), written.held_bytes()),
            Protocol::Http { requests, responses } => (requests.held_bytes(), responses.held_bytes()),
        };
        let ids = self.exchanges.iter().flat_map(|exchange| &exchange.ids);
        let sessions = self.exchanges.iter().filter_map(|exchange| exchange.session_id.as_deref());
        let ids = ids.map(|id| size_of::<Id>() + id.held_bytes()).sum::<usize>();
        one + other + ids + sessions.map(str::len).sum::<usize>()
    }

    fn silent(&self) -> u64 {
        let foreign = match &self.protocol {
            Protocol::Stdio { read, written } if read.is_foreign() || written.is_foreign() => MAX_SILENT + 1,
            _ => 0,
        };
        self.bodies + self.skipped_lines() + foreign
    }

    fn counts(&self) -> Counts {
        let mut counts = Counts {
            messages: self.messages,
            lost_stretches: self.lost_stretches,
            dropped_messages: self.dropped_messages,
            ..Counts::default()
        };
        // Streams of something else have lines too.
        if self.messages == 0 {
            return counts;
        }
        counts.skipped_lines = self.skipped_lines();
        match &self.protocol {
            Protocol::Stdio { read, written } => counts.cut_messages = read.cut + written.cut,
            Protocol::Http { requests, responses } => {
                counts.unreadable_http = requests.unreadable + responses.unreadable;
                counts.cut_messages = requests.cut + responses.cut;
            }
        }
        counts
    }

    fn skipped_lines(&self) -> u64 {
        match &self.protocol {
            Protocol::Stdio { read, written } => read.skipped + written.skipped,
            Protocol::Http { .. } => 0,
        }
    }
}

impl Counts {
    /// Adds those of another.
    pub fn add(&mut self, other: Self) {
        let Self {
            messages,
            skipped_lines,
            unreadable_http,
            cut_messages,
            lost_stretches,
            notifications,
            unmatched_responses,
            repeated_ids,
            given_up,
            dropped_messages,
            encrypted_streams,
            io_uring_processes,
            contents_dropped,
        } = self;
        *messages += other.messages;
        *skipped_lines += other.skipped_lines;
        *unreadable_http += other.unreadable_http;
        *cut_messages += other.cut_messages;
        *lost_stretches += other.lost_stretches;
        *notifications += other.notifications;
        *unmatched_responses += other.unmatched_responses;
        *repeated_ids += other.repeated_ids;
        *given_up += other.given_up;
        *dropped_messages += other.dropped_messages;
        *encrypted_streams += other.encrypted_streams;
        *io_uring_processes += other.io_uring_processes;
        *contents_dropped += other.contents_dropped;
    }

    /// Each count with the name that recordings and reports use.
    pub fn named(self) -> [(&'static str, u64); 13] {
        [
            ("messages", self.messages),
            ("notifications", self.notifications),
            ("skipped_lines", self.skipped_lines),
            ("unreadable_http", self.unreadable_http),
            ("cut_messages", self.cut_messages),
            ("lost_stretches", self.lost_stretches),
            ("unmatched_responses", self.unmatched_responses),
            ("repeated_ids", self.repeated_ids),
            ("given_up", self.given_up),
            ("dropped_messages", self.dropped_messages),
            ("encrypted_streams", self.encrypted_streams),
            ("io_uring_processes", self.io_uring_processes),
            ("contents_dropped", self.contents_dropped),
        ]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::calls::Ended;

    fn at(stream: u64, is_written: bool, timestamp_ns: u64) -> Moved {
        Moved { stream, is_written, timestamp_ns, thread: 1 }
    }

    fn http(head: &str, body: &str) -> String {
        format!("{head}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len())
    }

    const ASK: &str = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo"}}"#;
    const ANSWER: &str = r#"{"jsonrpc":"2.0","id":1,"result":{}}"#;

    /// The two pipes of a stdio server are one session; standard error with other text is given up.
    #[test]
    fn stdio_is_two_pipes() {
        let mut streams = Streams::default();
        streams.moved(at(10, false, 1), Piece::Bytes(format!("{ASK}\n").as_bytes()));
        streams.moved(at(11, true, 5), Piece::Bytes(format!("{ANSWER}\n").as_bytes()));
        let log = "[a log line]\n".repeat(300);
        assert_eq!(streams.moved(at(12, true, 6), Piece::Bytes(log.as_bytes())), Interest::No);
        let calls = streams.calls.take_ended();
        assert_eq!((calls.len(), calls[0].end_ns - calls[0].start_ns, &calls[0].ended), (1, 4, &Ended::Ok));
        assert_eq!(streams.counts().messages, 2);
    }

    /// What a process asks another one as its client is a call of that one.
    #[test]
    fn calls_of_others_are_not_its_own() {
        let mut streams = Streams::default();
        let (ask, answer) = (format!("{ASK}\n"), format!("{ANSWER}\n"));
        streams.moved(at(10, false, 1), Piece::Bytes(ask.as_bytes()));
        for child in [20, 30] {
            streams.moved(at(child, true, 2), Piece::Bytes(ask.as_bytes()));
            streams.moved(at(child + 1, false, 3), Piece::Bytes(answer.as_bytes()));
        }
        streams.moved(at(11, true, 9), Piece::Bytes(answer.as_bytes()));
        let calls = streams.calls.take_ended();
        assert_eq!(calls.iter().map(|call| (call.start_ns, call.end_ns)).collect::<Vec<_>>(), [(1, 9)]);
        assert_eq!((streams.calls.in_flight(), streams.counts().unmatched_responses), (0, 0));
    }

    /// Several messages in one long write, of which only the start and the end were taken: a new message behind the gap is
    /// read, and answers that may have been within it are counted.
    #[test]
    fn messages_within_a_gap_are_counted() {
        let mut streams = Streams::default();
        for id in 1..=5 {
            let ask = ASK.replace("\"id\":1", &format!("\"id\":{id}"));
            streams.moved(at(10, false, id), Piece::Bytes(format!("{ask}\n").as_bytes()));
        }
        let head = r#"{"jsonrpc":"2.0","result":{"content":[{"type":"text","text":"aaa"#;
        let tail = format!("aaa\"}}]}},\"id\":3}}\n{}\n", ANSWER.replace("\"id\":1", "\"id\":4"));
        streams.moved(at(11, true, 6), Piece::Bytes(head.as_bytes()));
        streams.moved(at(11, true, 6), Piece::Gap(3 << 20));
        streams.moved(at(11, true, 6), Piece::Bytes(tail.as_bytes()));
        // This one can't have been answered before it came.
        let ask = ASK.replace("\"id\":1", "\"id\":6");
        streams.moved(at(10, false, 7), Piece::Bytes(format!("{ask}\n").as_bytes()));
        // And this one was not.
        streams
            .moved(at(11, true, 8), Piece::Bytes(format!("{}\n", ANSWER.replace(":1,", ":5,")).as_bytes()));
        assert_eq!((streams.calls.take_ended().len(), streams.counts().cut_messages), (3, 0));
        streams.calls.finish(9);
        let ended: Vec<_> =
            streams.calls.take_ended().into_iter().map(|call| (call.end_ns, call.ended)).collect();
        assert_eq!(ended, [(6, Ended::Lost), (6, Ended::Lost), (9, Ended::Unanswered)]);
        assert_eq!(streams.counts().cut_messages, 2);
    }

    /// A line without an end that is no message does not cost for ever; nor is anything said of calls then.
    #[test]
    fn foreign_lines_are_given_up() {
        let mut streams = Streams::default();
        let part = "{\"a\":1}".repeat(1 << 14);
        let interests: Vec<Interest> =
            (0..20).map(|time| streams.moved(at(10, true, time), Piece::Bytes(part.as_bytes()))).collect();
        assert!(interests.contains(&Interest::No));
    }

    /// However many connections end without a word, the next one's client is followed; those in use are not given up.
    #[test]
    fn silent_clients_make_room() {
        let mut streams = Streams::default();
        for stream in 0..3_000 {
            streams.moved(at(stream, false, stream * SILENCE_NS), Piece::Bytes(ASK.as_bytes()));
            assert!(streams.follow_client(stream), "{stream}");
        }
        assert_eq!((streams.queues.len(), streams.is_client_certain(2_999)), (MAX_QUEUES, Some(false)));
        let now_ns = 3_000 * SILENCE_NS;
        let room = (3_000..4_000).filter(|stream| {
            streams.moved(at(*stream, false, now_ns), Piece::Bytes(ASK.as_bytes()));
            streams.follow_client(*stream)
        });
        assert_eq!(room.count(), MAX_QUEUES - 1, "the youngest is no older than a second");
        streams.leave_client(2_999);
        assert!(streams.follow_client(3_999));
    }

    /// Each HTTP connection has its own IDs; what the process asks others as a client is not its own.
    #[test]
    fn connections_have_own_ids() {
        let mut streams = Streams::default();
        let (ask, answer) = (http("POST /mcp HTTP/1.1", ASK), http("HTTP/1.1 200 OK", ANSWER));
        for stream in [20, 21] {
            streams.moved(at(stream, false, stream), Piece::Bytes(ask.as_bytes()));
        }
        for stream in [20, 21] {
            streams.moved(at(stream, true, stream + 100), Piece::Bytes(answer.as_bytes()));
        }
        assert_eq!(streams.moved(at(30, true, 1), Piece::Bytes(ask.as_bytes())), Interest::No);
        let times: Vec<u64> =
            streams.calls.take_ended().iter().map(|call| call.end_ns - call.start_ns).collect();
        assert_eq!(times, [100, 100]);
    }

    const STREAM: &[u8] =
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";

    fn chunk(id: u64) -> String {
        let event = format!("event: message\ndata: {}\n\n", ANSWER.replace(":1,", &format!(":{id},")));
        format!("{:x}\r\n{event}\r\n", event.len())
    }

    /// What happens between a server and clients of the older transport, who have the same IDs: each is told by the query of the address
    /// that it sends its messages to, and by which connection it is answered is learned where it is certain.
    struct Clients(Streams, u64);

    impl Clients {
        fn moved(&mut self, stream: u64, is_written: bool, text: &str) {
            self.1 += 1;
            self.0.moved(at(stream, is_written, self.1), Piece::Bytes(text.as_bytes()));
        }

        fn asks(&mut self, stream: u64, client: &str, id: u64, tool: &str) {
            let head = format!("POST /message?sessionId={client} HTTP/1.1");
            let ask = ASK.replace(":1,", &format!(":{id},")).replace("echo", tool);
            self.moved(stream, false, &http(&head, &ask));
        }

        fn accepted(&mut self, stream: u64) {
            self.moved(stream, true, "HTTP/1.1 202 Accepted\r\nContent-Length: 8\r\n\r\nAccepted");
        }

        fn ended(&mut self) -> Vec<(String, u64)> {
            let calls = self.0.calls.take_ended();
            assert!(calls.iter().all(|call| call.ended == Ended::Ok), "{calls:?}");
            calls
                .iter()
                .map(|call| (call.name.clone().unwrap().into(), call.end_ns - call.start_ns))
                .collect()
        }
    }

    /// The connections for answers are older than the profiler, and the clients' IDs are the same.
    #[test]
    fn clients_of_the_older_transport_are_told_apart() {
        let mut clients = Clients(Streams::default(), 0);
        for (post, answers, client) in [(50, 60, "a"), (51, 61, "b")] {
            clients.asks(post, client, 7, client);
            clients.accepted(post);
            clients.moved(answers, true, &chunk(7));
            assert_eq!(clients.ended(), [(client.to_owned(), 2)]);
        }
        for id in 8..20 {
            clients.asks(50, "a", id, "slow");
            clients.asks(51, "b", id, "quick");
            clients.accepted(50);
            clients.accepted(51);
            clients.moved(61, true, &chunk(id));
            clients.moved(60, true, &chunk(id));
            assert_eq!(clients.ended(), [("quick".to_owned(), 3), ("slow".to_owned(), 5)]);
        }
        assert_eq!((clients.0.calls.in_flight(), clients.0.counts().unmatched_responses), (0, 0));
    }

    /// Servers whose answer comes before they say that they accept the request (Java's SDK does so) are understood.
    #[test]
    fn answers_come_before_requests_are_accepted() {
        let mut clients = Clients(Streams::default(), 0);
        clients.0.moved(at(60, true, 0), Piece::Bytes(STREAM));
        for id in 1..5 {
            clients.asks(50, "a", id, "echo");
            clients.moved(60, true, &chunk(id));
            clients.moved(50, true, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
            assert_eq!(clients.ended(), [("echo".to_owned(), 1)]);
        }
        // An answer by the newer transport belongs to the connection of its request.
        clients.moved(70, false, &http("POST /mcp HTTP/1.1\r\nMcp-Session-Id: c", ASK));
        clients.moved(60, true, &chunk(1));
        assert_eq!((clients.ended(), clients.0.counts().unmatched_responses), (vec![], 1));
        clients.moved(70, true, &http("HTTP/1.1 200 OK", ANSWER));
        assert_eq!(clients.ended(), [("echo".to_owned(), 2)]);
    }

    proptest! {
        /// Whatever comes in whatever order, nothing panics, and each request is a call once.
        #[test]
        fn survives_anything(steps in proptest::collection::vec((0..4_u64, any::<bool>(), 0..9_usize, 0..80_usize), 0..60)) {
            let (ask, answer) = (http("POST /mcp HTTP/1.1", ASK), http("HTTP/1.1 200 OK", ANSWER));
            let texts = [ask, answer, format!("{ASK}\n"), format!("{ANSWER}\n"), "data: {\n\n".into(), "4\r\n".into()];
            let (mut streams, mut ended) = (Streams::default(), 0);
            for (time, (stream, is_written, what, cut)) in steps.into_iter().enumerate() {
                let moved = at(stream, is_written, time as u64);
                match texts.get(what) {
                    Some(text) => {
                        streams.moved(moved, Piece::Bytes(&text.as_bytes()[text.len().min(cut) / 4..]));
                    }
                    None if what == 6 => {
                        streams.moved(moved, Piece::Gap(cut as u64));
                    }
                    None if what == 7 => streams.lost(moved, cut > 40),
                    None => streams.closed(stream, time as u64),
                }
                ended += streams.calls.take_ended().len();
            }
            let open = streams.calls.in_flight();
            streams.calls.finish(1000);
            ended += streams.calls.take_ended().len();
            prop_assert!(open <= ended && ended as u64 <= streams.counts().messages);
            prop_assert_eq!(streams.calls.in_flight(), 0);
        }
    }

    /// An HTTP response without an answer is one: refusals are errors, and what can't be read is not made up.
    #[test]
    fn responses_without_an_answer() {
        let unknown = r#"{"jsonrpc":"2.0","error":{"code":-32000,"message":"no session"},"id":null}"#;
        let plain =
            "HTTP/1.1 500 Internal Server Error\r\nContent-Type: text/plain\r\nContent-Length: 4\r\n\r\noops";
        let zipped = "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc";
        let error = |code, message: &str| Ended::Error { code, message: Some(message.into()) };
        for (answer, expected) in [
            (http("HTTP/1.1 404 Not Found", unknown), error(Some(-32000), "no session")),
            (plain.to_owned(), error(None, "HTTP status 500")),
            (zipped.to_owned(), Ended::Lost),
        ] {
            let mut streams = Streams::default();
            let ask = http("POST /mcp HTTP/1.1", ASK);
            streams.moved(at(50, false, 1), Piece::Bytes(ask.as_bytes()));
            // Another one follows without waiting.
            streams.moved(at(50, false, 2), Piece::Bytes(ask.replace("\"id\":1", "\"id\":2").as_bytes()));
            streams.moved(at(50, true, 5), Piece::Bytes(answer.as_bytes()));
            let calls = streams.calls.take_ended();
            assert_eq!(
                (calls.len(), calls[0].start_ns, calls[0].end_ns, &calls[0].ended),
                (1, 1, 5, &expected)
            );
            assert_eq!((streams.calls.in_flight(), streams.calls.unexpected), (1, 0));
        }
    }

    /// A HEAD request, as of a health check, does not take the next response for its body.
    #[test]
    fn head_requests() {
        let mut streams = Streams::default();
        let asks = format!("HEAD /mcp HTTP/1.1\r\n\r\n{}", http("POST /mcp HTTP/1.1", ASK));
        let health = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            ANSWER.len()
        );
        streams.moved(at(60, false, 1), Piece::Bytes(asks.as_bytes()));
        streams.moved(at(60, true, 2), Piece::Bytes(health.as_bytes()));
        streams.moved(at(60, true, 9), Piece::Bytes(http("HTTP/1.1 200 OK", ANSWER).as_bytes()));
        let calls = streams.calls.take_ended();
        assert_eq!(
            calls.iter().map(|call| (call.end_ns, &call.ended)).collect::<Vec<_>>(),
            [(9, &Ended::Ok)]
        );
        assert_eq!(streams.counts().unreadable_http, 0);
    }

    /// The ID of a session is kept with the calls in it, where contents are and when it is no longer than one should be.
    #[test]
    fn session_ids() {
        let long = "x".repeat(MAX_SESSION_ID + 1);
        for (bytes, id, expected) in [(100, "s-1", Some("s-1")), (100, &long, None), (0, "s-1", None)] {
            let mut streams = Streams::new(Capture { bytes });
            let ask = http(&format!("POST /mcp HTTP/1.1\r\nMcp-Session-Id: {id}"), ASK);
            streams.moved(at(50, false, 1), Piece::Bytes(ask.as_bytes()));
            streams.moved(at(50, true, 5), Piece::Bytes(http("HTTP/1.1 200 OK", ANSWER).as_bytes()));
            assert_eq!(streams.calls.take_ended()[0].session_id.as_deref(), expected);
        }
    }

    /// In the older transport, the answer comes by another connection; a connection that ends cuts its calls off.
    #[test]
    fn answers_by_another_connection() {
        let mut streams = Streams::default();
        streams.moved(
            at(40, true, 1),
            Piece::Bytes(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"),
        );
        streams.moved(at(41, false, 2), Piece::Bytes(http("POST /messages HTTP/1.1", ASK).as_bytes()));
        streams.moved(at(41, true, 3), Piece::Bytes(b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n"));
        streams.closed(41, 4);
        streams.moved(at(40, true, 9), Piece::Bytes(format!("data: {ANSWER}\n\n").as_bytes()));
        let calls = streams.calls.take_ended();
        assert_eq!((calls.len(), calls[0].end_ns, &calls[0].ended), (1, 9, &Ended::Ok));
        streams.moved(at(42, false, 2), Piece::Bytes(http("POST /messages HTTP/1.1", ASK).as_bytes()));
        streams.closed(42, 4);
        assert_eq!(streams.calls.take_ended()[0].ended, Ended::CutOff);
    }
}
