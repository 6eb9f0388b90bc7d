//! The streams of one process: which of them speak MCP, how, and what is said on them.

mod counts;

use std::collections::VecDeque;

use hashbrown::HashMap;

use super::calls::{Calls, Ended, ResponseTimes, Session, Side};
use super::contents::Capture;
use super::http::{Direction, Event, Half, Head, START_BYTES, starts_chunk};
use super::queue::{ClientWrite, Look, Queue};
use super::stdio::Lines;
use super::{Id, Kind, Message, Piece, Received};

pub use counts::Counts;

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
#[derive(Clone, Debug, Default, PartialEq)]
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

#[derive(Clone, Debug, PartialEq)]
struct Stream {
    protocol: Protocol,
    last_ns: u64,
    messages: u64,
    /// Lines came one after the other: it is no body of HTTP.
    is_certain: bool,
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
    /// HTTP requests whose responses have not ended, the oldest first. Where that is not known yet, it may have begun with one.
    exchanges: VecDeque<Exchange>,
    /// Of the HTTP response that is being written: its head, and an error in it that names no request.
    response: Option<Head>,
    error: Option<Ended>,
}

/// An HTTP request.
#[derive(Clone, Debug, Default, PartialEq)]
struct Exchange {
    /// Its response has no body.
    is_head: bool,
    /// Its `Mcp-Session-Id`, where that is kept.
    session_id: Option<Box<str>>,
    /// Of what it asks.
    ids: Vec<Id>,
}

#[derive(Clone, Debug, PartialEq)]
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
        if state.may_become_http(piece, is_written)
            && let Some(protocol @ Protocol::Http { .. }) = Protocol::of(piece, is_written, self.capture)
        {
            state.become_http(stream, protocol, &mut self.calls);
        }
        state.last_ns = timestamp_ns;
        let sender = if is_written { Side::Server } else { Side::Client };
        let mut queue = if is_written { None } else { self.queues.get_mut(&stream) };
        if !is_written {
            state.position = state.position.saturating_add(piece.length());
            queue.iter_mut().for_each(|queue| queue.read(timestamp_ns, state.position));
        }
        match &mut state.protocol {
            Protocol::Stdio { read, written } => {
                let lines = if is_written { written } else { read };
                if lines.may_hide(piece) {
                    self.calls.hidden(STDIO, sender, timestamp_ns);
                }
                let all_received = lines.feed(timestamp_ns, piece);
                let is_first = state.messages == 0;
                state.is_certain |= !is_first && !all_received.is_empty();
                if is_first {
                    state.exchanges = body_of(sender, &all_received);
                }
                for received in all_received {
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
            (true, _, false) | (_, true, true) => Some(Self::http(capture)),
            // The process is a client there: whom it asks counts the calls.
            (true, _, true) | (_, true, false) => None,
            // A connection for messages to a client may have lived for days.
            (false, false, true) if starts_chunk(bytes) => Some(Self::http(capture)),
            (false, false, _) => Some(Self::stdio(capture)),
        }
    }

    fn http(capture: Capture) -> Self {
        let half = |direction| Box::new(Half::new(direction, capture));
        Self::Http { requests: half(Direction::Requests), responses: half(Direction::Responses) }
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

/// What an HTTP request asks if these messages are its body.
fn body_of(sender: Side, messages: &[Received]) -> VecDeque<Exchange> {
    let is_request = |received: &&Received| sender == Side::Client && received.message.kind == Kind::Request;
    let ids: Vec<Id> =
        messages.iter().filter(is_request).filter_map(|received| received.message.id.clone()).collect();
    if ids.is_empty() { VecDeque::new() } else { [Exchange { ids, ..Exchange::default() }].into() }
}

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
            is_certain: false,
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

    /// Whether a piece may be HTTP though the stream began with something else: who comes between a head and its body sees the
    /// body first.
    fn may_become_http(&self, piece: Piece<'_>, is_written: bool) -> bool {
        let Protocol::Stdio { read, written } = &self.protocol else { return false };
        let lines = if is_written { written } else { read };
        !self.is_certain && piece.length() >= START_BYTES as u64 && !lines.is_within()
    }

    /// It is HTTP. What was read before is the body of a request, which is not answered yet.
    fn become_http(&mut self, stream: u64, mut protocol: Protocol, calls: &mut Calls) {
        if let Protocol::Http { requests, .. } = &mut protocol {
            requests.starts_at(self.position);
        }
        self.protocol = protocol;
        for id in self.exchanges.iter().flat_map(|exchange| &exchange.ids) {
            calls.reassign(STDIO, stream, Side::Client, id);
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

#[cfg(test)]
mod tests;
