//! Which response answers which request: calls, from their first byte to their last.
//!
//! IDs are only good within one peer: they are kept apart by session, which is what the caller says it is (the two pipes
//! of a stdio server, an HTTP connection, or the pair of connections of the older HTTP transport).
//!
//! A call is logical: a request that is asked for more input and comes again under another ID is one call, and so is a
//! tool call whose result is fetched later as that of a task.

use std::collections::VecDeque;

use hashbrown::HashMap;

use super::message::{Id, Kind, Received};

/// Most requests of all sessions that may wait for their responses; the oldest is given up for a new one.
const MAX_PENDING: usize = 1 << 16;
/// Most calls that may wait for input or for their task's result.
const MAX_WAITING: usize = 4096;

/// Most calls that may wait with their arguments.
const MAX_CONTENTS: usize = 1024;
/// Most sessions that may wait for a response with the same ID from elsewhere; the oldest is forgotten.
const MAX_DETACHED_ALIKE: usize = 64;

/// Peers that share IDs.
pub type Session = u64;

/// Most requests that may wait when one is looked for that was answered before it was accepted.
const MAX_LOOKED_AT: usize = 1024;

/// Whose a connection over HTTP is: clients have several, and use the same IDs. Hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Peer {
    /// By the ID of a session.
    Session(u64),
    /// In the older transport: by the address that a client was given for its messages.
    Address(u64),
}

/// Who sent a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Side {
    /// The client: it calls tools.
    Client = 1,
    /// The server: it may ask the client for samples, roots or input.
    Server = 2,
}

impl Side {
    /// The side with this number.
    pub fn from_number(number: u8) -> Option<Self> {
        [Self::Client, Self::Server].into_iter().find(|side| *side as u8 == number)
    }

    fn other(self) -> Self {
        match self {
            Self::Client => Self::Server,
            Self::Server => Self::Client,
        }
    }
}

/// How a call ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// With a result.
    Ok,
    /// With a JSON-RPC error.
    Error {
        /// Its code; absent where it was cut out.
        code: Option<i64>,
        /// Its message; the [shape](super::shape) of it where contents are not kept.
        message: Option<Box<str>>,
    },
    /// With a result that says `isError`.
    ToolError {
        /// Its first text; the [shape](super::shape) of it where contents are not kept.
        message: Option<Box<str>>,
    },
    /// The caller cancelled it, and no answer came.
    Cancelled,
    /// No answer by the end, or before its ID was used again.
    Unanswered,
    /// Its stream ended first.
    CutOff,
    /// Not known: its answer may have been among what could not be recorded.
    Lost,
}

impl Ended {
    /// Its number in recordings.
    pub fn number(&self) -> u8 {
        match self {
            Self::Ok => 1,
            Self::Error { .. } => 2,
            Self::ToolError { .. } => 3,
            Self::Cancelled => 4,
            Self::Unanswered => 5,
            Self::CutOff => 6,
            Self::Lost => 7,
        }
    }

    /// The code and the message of an error, as far as they are known.
    pub fn error(&self) -> (Option<i64>, Option<&str>) {
        match self {
            Self::Error { code, message } => (*code, message.as_deref()),
            Self::ToolError { message } => (None, message.as_deref()),
            _ => (None, None),
        }
    }

    /// Whether it is an error, of JSON-RPC or of the tool.
    pub fn is_error(&self) -> bool {
        matches!(self, Self::Error { .. } | Self::ToolError { .. })
    }

    /// The end with this number; an error has its code and its message.
    pub fn from_number(number: u8, code: Option<i64>, message: Option<Box<str>>) -> Option<Self> {
        Some(match number {
            1 => Self::Ok,
            2 => Self::Error { code, message },
            3 => Self::ToolError { message },
            4 => Self::Cancelled,
            5 => Self::Unanswered,
            6 => Self::CutOff,
            7 => Self::Lost,
            _ => return None,
        })
    }

    /// The name that reports use.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Error { .. } => "error",
            Self::ToolError { .. } => "tool_error",
            Self::Cancelled => "cancelled",
            Self::Unanswered => "unanswered",
            Self::CutOff => "cut_off",
            Self::Lost => "lost",
        }
    }
}

/// When a response began and ended, and who wrote it.
#[derive(Clone, Copy, Debug)]
pub struct ResponseTimes {
    /// When its first byte was there.
    pub first_ns: u64,
    /// When its last byte was there.
    pub last_ns: u64,
    /// The thread that wrote that.
    pub thread: u32,
}

/// A request and what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// Where it was made.
    pub session: Session,
    /// Who asked.
    pub caller: Side,
    /// `tools/call`...
    pub method: Box<str>,
    /// The tool, prompt or resource.
    pub name: Option<Box<str>>,
    /// The ID of its (last) request.
    pub request_id: Option<Id>,
    /// The caller's trace (W3C Trace Context).
    pub trace_parent: Option<Box<str>>,
    /// Its arguments as JSON, cut and without what looks secret; only where [contents](super::contents) are kept.
    pub arguments: Option<Box<str>>,
    /// Its result, the same.
    pub result: Option<Box<str>>,
    /// When the request's first byte was there, `CLOCK_MONOTONIC` in nanoseconds.
    pub start_ns: u64,
    /// When its last byte was there.
    pub request_end_ns: u64,
    /// When the first byte of its response was there.
    pub response_ns: Option<u64>,
    /// When the last byte of its response was there, or when it was given up.
    pub end_ns: u64,
    /// The thread that read (or, where the server asks, wrote) its request's last byte; zero when that is not known.
    pub request_thread: u32,
    /// The same for its response.
    pub response_thread: u32,
    /// Length of its requests.
    pub request_bytes: u64,
    /// Length of its responses.
    pub response_bytes: u64,
    /// Requests that it took: more than one when it was asked for input.
    pub requests: u32,
    /// How long its first request waited since its caller began to write it, in nanoseconds; absent where that is not known.
    pub queue_ns: Option<u64>,
    /// Time in which it waited for input from its caller, in nanoseconds.
    pub input_wait_ns: u64,
    /// How it ended.
    pub ended: Ended,
}

fn held_bytes(call: &Call) -> usize {
    let Call { method, name, trace_parent, arguments, result, request_id, .. } = call;
    let texts = [Some(method), name.as_ref(), trace_parent.as_ref(), arguments.as_ref(), result.as_ref()];
    let id = request_id.as_ref().map_or(0, Id::held_bytes);
    size_of::<Open>() + texts.into_iter().flatten().map(|text| text.len()).sum::<usize>() + id
}

impl Call {
    /// Whether it is of one of these tools (prompts, resources), or of one of these methods.
    pub fn is_of(&self, names: &[String]) -> bool {
        names.iter().any(|name| self.name.as_deref() == Some(name) || *self.method == **name)
    }
}

/// A call that has not ended.
#[derive(Clone, Debug)]
struct Open {
    call: Call,
    /// The order of arrival.
    number: u64,
    is_cancelled: bool,
    /// When something was lost that may have been its response.
    lost_ns: Option<u64>,
    /// When bytes were left out that may have been its response.
    hidden_ns: Option<u64>,
    /// For `tasks/result`: the task that it asks for.
    task: Option<Box<str>>,
    /// The response comes by another connection.
    is_detached: bool,
    /// Whose it is.
    peer: Option<Peer>,
}

/// A call between two requests of its own.
#[derive(Clone, Debug)]
struct Waiting {
    call: Call,
    since_ns: u64,
    state: Option<Box<str>>,
}

/// Pairs messages.
#[derive(Clone, Debug, Default)]
pub struct Calls {
    open: HashMap<(Session, Side, Id), Open>,
    /// Sessions with a request of this ID whose response comes elsewhere, the oldest first.
    detached: HashMap<(Side, Id), VecDeque<Session>>,
    /// Whose connections are, as their last requests told.
    peers: HashMap<Session, Peer>,
    /// By which connection a peer was answered that had sent its request by another one.
    answered_by: HashMap<Peer, Session>,
    for_input: Vec<Waiting>,
    tasks: HashMap<(Session, Box<str>), Call>,
    next_number: u64,
    ended: Vec<Call>,
    /// Responses to no request that was seen: those from before the start are among them.
    pub unexpected: u64,
    /// Requests whose ID was that of one that waits: that one is given up as unanswered.
    pub repeated_ids: u64,
    /// Calls given up because too many wait.
    pub given_up: u64,
    /// Calls without an answer, which may have been among bytes that were left out.
    pub hidden_answers: u64,
    /// Notifications, other than cancellations.
    pub notifications: u64,
    /// Requests whose arguments were not kept because too many wait.
    pub contents_dropped: u64,
}

impl Calls {
    /// Takes a message that `sender` sent in a session.
    pub fn message(&mut self, session: Session, sender: Side, received: Received) {
        match received.message.kind {
            Kind::Request => self.request(session, sender, received),
            Kind::Notification => match received.message.cancelled {
                Some(id) => {
                    if let Some(open) = self.open.get_mut(&(session, sender, id)) {
                        open.is_cancelled = true;
                        open.call.end_ns = received.last_ns;
                    }
                }
                None => self.notifications += 1,
            },
            Kind::Result | Kind::Error => self.response(session, sender.other(), received),
        }
    }

    /// A request told whose a connection is.
    pub fn belongs(&mut self, session: Session, peer: Option<Peer>) {
        match peer {
            Some(peer) => _ = self.peers.insert(session, peer),
            None => _ = self.peers.remove(&session),
        }
    }

    /// Whether what comes by a connection that nothing was asked on is certainly a peer's.
    fn is_of_peer(&self, session: Session, peer: Option<Peer>) -> bool {
        peer.is_some_and(|peer| {
            self.peers.get(&session) == Some(&peer) || self.answered_by.get(&peer) == Some(&session)
        })
    }

    /// The detached request that a response in a session may answer: its own peer's; else, where nothing tells whose the session
    /// is, the oldest one of a peer that is not answered elsewhere, or of any.
    fn detached(&mut self, session: Session, caller: Side, id: &Id) -> Option<Session> {
        let waiting = self.detached.get_mut(&(caller, id.clone()))?;
        let mut key = (session, caller, id.clone());
        // They may have been given up since.
        waiting.retain(|of| {
            key.0 = *of;
            self.open.get(&key).is_some_and(|open| open.is_detached)
        });
        let waiting = self.detached.get(&(caller, id.clone()))?;
        let mut peer_of = |of: Session| {
            key.0 = of;
            self.open.get(&key).and_then(|open| open.peer)
        };
        let rank = |peer: Option<Peer>| {
            let is_told = self.peers.contains_key(&session);
            match peer {
                _ if self.is_of_peer(session, peer) => Some(0),
                None => Some(1),
                Some(_) if is_told => None,
                Some(peer) => Some(if self.answered_by.contains_key(&peer) { 2 } else { 1 }),
            }
        };
        let ranked = waiting.iter().enumerate().filter_map(|(at, of)| Some((rank(peer_of(*of))?, at)));
        let chosen = ranked.min().map(|(_, at)| waiting[at]);
        let peer = chosen.and_then(peer_of);
        if waiting.is_empty() || (chosen.is_some() && waiting.len() == 1) {
            self.detached.remove(&(caller, id.clone()));
            if let Some(peer) = peer.filter(|_| self.answered_by.len() < MAX_WAITING) {
                self.answered_by.insert(peer, session);
            }
        }
        chosen
    }

    /// A client is answered by a connection on which it did not ask. Some servers do so before they accept its request.
    pub fn answered_elsewhere(&mut self, session: Session, id: &Id) {
        if self.open.len() > MAX_LOOKED_AT || self.is_open(session, Side::Client, id) {
            return;
        }
        let early = self.open.iter().filter(|((_, caller, of), open)| {
            *caller == Side::Client && of == id && matches!(open.peer, Some(Peer::Address(_)))
        });
        let early: Vec<Session> = early.map(|((of, ..), _)| *of).collect();
        early.into_iter().for_each(|of| self.detach(of, Side::Client, id.clone()));
    }

    /// What `sender` sent in a session until now was lost in part: it may have answered whatever is open there, or, with
    /// no session told, anywhere.
    pub fn lost(&mut self, session: Option<Session>, sender: Side, now_ns: u64) {
        let may_be_answered = |key: &(Session, Side, Id), open: &Open| {
            key.1 == sender.other() && (session.is_none_or(|session| session == key.0) || open.is_detached)
        };
        for (_, open) in self.open.iter_mut().filter(|(key, open)| may_be_answered(key, open)) {
            open.lost_ns.get_or_insert(now_ns);
        }
    }

    /// Bytes that `sender` sent in a session were left out: not only what stands around them, but whole messages too may
    /// have been among them. Of a call that waits it is known only at its end that this was so.
    pub fn hidden(&mut self, session: Session, sender: Side, now_ns: u64) {
        for (_, open) in
            self.open.iter_mut().filter(|((of, caller, _), _)| (*of, *caller) == (session, sender.other()))
        {
            open.hidden_ns.get_or_insert(now_ns);
        }
    }

    /// Whether a request of `caller` with this ID waits in a session.
    pub fn is_open(&self, session: Session, caller: Side, id: &Id) -> bool {
        self.open.contains_key(&(session, caller, id.clone()))
    }

    /// The response to a request comes in another session: the older HTTP transport has a connection for requests and one
    /// for messages to the client, and clients answer servers by requests of their own.
    pub fn detach(&mut self, session: Session, caller: Side, id: Id) {
        match self.open.get_mut(&(session, caller, id.clone())) {
            Some(open) if !open.is_detached => open.is_detached = true,
            _ => return,
        }
        if self.detached.len() >= 2 * MAX_PENDING {
            // Most of them were given up.
            self.forget_detached();
        }
        let sessions = self.detached.entry((caller, id)).or_default();
        if sessions.len() >= MAX_DETACHED_ALIKE {
            sessions.pop_front();
        }
        sessions.push_back(session);
    }

    /// The HTTP response to a request is over, and had no message for it.
    pub fn response_over(&mut self, session: Session, id: Id, ended: Ended, times: ResponseTimes) {
        let key = (session, Side::Client, id);
        if self.open.get(&key).is_none_or(|open| open.is_detached) {
            return;
        }
        if let Some(open) = self.open.remove(&key) {
            let ResponseTimes { first_ns, last_ns, thread } = times;
            let response_ns = Some(open.call.response_ns.unwrap_or(first_ns));
            self.ended.push(Call {
                response_ns,
                end_ns: last_ns,
                response_thread: thread,
                ended,
                ..open.call
            });
        }
    }

    /// No more messages come in a session.
    pub fn close(&mut self, session: Session, now_ns: u64) {
        let is_gone = |key: &(Session, Side, Id), open: &mut Open| key.0 == session && !open.is_detached;
        let gone: Vec<_> = self.open.extract_if(is_gone).map(|(_, open)| open).collect();
        self.peers.remove(&session);
        self.answered_by.retain(|_, by| *by != session);
        for open in gone {
            self.give_up(open, now_ns, Ended::CutOff);
        }
    }

    /// Nothing more comes at all.
    pub fn finish(&mut self, now_ns: u64) {
        let mut gone: Vec<_> = self.open.drain().map(|(_, open)| open).collect();
        gone.sort_by_key(|open| open.number);
        for open in gone {
            self.give_up(open, now_ns, Ended::Unanswered);
        }
        let tasks = self.tasks.drain().map(|(_, call)| call);
        let calls = self.for_input.drain(..).map(|waiting| waiting.call).chain(tasks);
        self.ended.extend(calls.map(|call| Call {
            end_ns: now_ns.max(call.request_end_ns),
            ended: Ended::Unanswered,
            ..call
        }));
    }

    /// How many calls have ended since they were last taken.
    pub fn ended_count(&self) -> usize {
        self.ended.len()
    }

    /// The calls that have ended since the last time, in that order.
    pub fn take_ended(&mut self) -> Vec<Call> {
        std::mem::take(&mut self.ended)
    }

    /// The calls that wait for their responses and, as far as is known, are still worked on.
    pub fn open(&self) -> impl Iterator<Item = &Call> {
        let is_open = |open: &&Open| !open.is_cancelled && open.lost_ns.is_none();
        self.open.values().filter(is_open).map(|open| &open.call)
    }

    /// How many requests wait for their responses.
    pub fn in_flight(&self) -> usize {
        self.open.len()
    }

    /// The memory that calls take which have not ended, in bytes.
    pub fn held_bytes(&self) -> usize {
        let open = self.open.iter().map(|((_, _, id), open)| id.held_bytes() + held_bytes(&open.call));
        let detached = self.detached.iter().map(|((_, id), sessions)| {
            id.held_bytes()
                + size_of::<(Side, Id, VecDeque<Session>)>()
                + sessions.len() * size_of::<Session>()
        });
        let peers = self.peers.len() * size_of::<(Session, Peer)>()
            + self.answered_by.len() * size_of::<(Peer, Session)>();
        let waiting = self.for_input.iter().map(|waiting| held_bytes(&waiting.call));
        let tasks = self.tasks.iter().map(|((_, task), call)| task.len() + held_bytes(call));
        open.chain(detached).chain(waiting).chain(tasks).sum::<usize>() + peers
    }

    /// Gives up the older half of the calls that have not ended: they take too much memory.
    pub fn give_up_half(&mut self, now_ns: u64) {
        self.give_up_oldest(self.open.len().div_ceil(2), now_ns);
        let tasks: Vec<_> = self.tasks.drain().map(|(_, call)| call).collect();
        let waiting: Vec<_> = self.for_input.drain(..).map(|waiting| waiting.call).chain(tasks).collect();
        self.given_up += waiting.len() as u64;
        self.ended.extend(waiting.into_iter().map(|call| Call {
            end_ns: now_ns,
            ended: Ended::Unanswered,
            ..call
        }));
        self.forget_detached();
    }

    /// Forgets where the answers of requests may come that were given up.
    fn forget_detached(&mut self) {
        let open = &self.open;
        self.detached.retain(|(caller, id), sessions| {
            sessions.retain(|session| open.contains_key(&(*session, *caller, id.clone())));
            !sessions.is_empty()
        });
    }

    fn request(&mut self, session: Session, caller: Side, received: Received) {
        let Received { message, first_ns, last_ns, thread, bytes, queue_ns, .. } = received;
        let (Some(id), Some(method)) = (message.id, message.method) else { return };
        let has_arguments = message.arguments.is_some();
        let waiting = self.open.len() + self.for_input.len() + self.tasks.len();
        let arguments = message.arguments.filter(|_| waiting < MAX_CONTENTS);
        self.contents_dropped += u64::from(has_arguments && arguments.is_none());
        let continued = self.for_input.iter().position(|waiting| {
            let call = &waiting.call;
            call.caller == caller
                && call.method == method
                && call.name == message.name
                && waiting.state == message.request_state
                && (waiting.state.is_some() || call.session == session)
        });
        let call = match continued.map(|position| self.for_input.swap_remove(position)) {
            Some(Waiting { call, since_ns, .. }) => Call {
                session,
                request_id: Some(id.clone()),
                request_thread: thread,
                request_bytes: call.request_bytes + bytes,
                requests: call.requests + 1,
                input_wait_ns: call.input_wait_ns + first_ns.saturating_sub(since_ns),
                ..call
            },
            None => Call {
                session,
                caller,
                method,
                name: message.name,
                request_id: Some(id.clone()),
                trace_parent: message.trace_parent,
                arguments,
                result: None,
                start_ns: first_ns,
                request_end_ns: last_ns,
                response_ns: None,
                end_ns: last_ns,
                request_thread: thread,
                response_thread: 0,
                request_bytes: bytes,
                response_bytes: 0,
                requests: 1,
                queue_ns,
                input_wait_ns: 0,
                ended: Ended::Unanswered,
            },
        };
        self.make_room(last_ns);
        let task = (&*call.method == "tasks/result").then_some(message.task).flatten();
        let open = Open {
            call,
            number: self.next_number,
            is_cancelled: false,
            lost_ns: None,
            hidden_ns: None,
            task,
            is_detached: false,
            peer: self.peers.get(&session).copied(),
        };
        self.next_number += 1;
        if let Some(earlier) = self.open.insert((session, caller, id), open) {
            self.repeated_ids += 1;
            self.give_up(earlier, last_ns, Ended::Unanswered);
        }
    }

    fn response(&mut self, session: Session, caller: Side, received: Received) {
        let Received { message, first_ns, last_ns, thread, bytes, .. } = received;
        let open = message.id.and_then(|id| {
            let key = (session, caller, id);
            self.open.remove(&key).or_else(|| {
                let (_, caller, id) = key;
                let session = self.detached(session, caller, &id)?;
                self.open.remove(&(session, caller, id))
            })
        });
        let Some(Open { mut call, task: asked_for, .. }) = open else {
            self.unexpected += 1;
            return;
        };
        call.response_ns.get_or_insert(first_ns);
        call.end_ns = last_ns;
        call.response_thread = thread;
        call.response_bytes += bytes;
        call.ended = match message.kind {
            Kind::Error => Ended::Error { code: message.error_code, message: message.error_message },
            _ if message.is_tool_error => Ended::ToolError { message: message.error_message },
            _ => Ended::Ok,
        };
        if message.result_type.as_deref() == Some("input_required") && self.for_input.len() < MAX_WAITING {
            self.for_input.push(Waiting { call, since_ns: last_ns, state: message.request_state });
            return;
        }
        if let Some(started) = asked_for.and_then(|task| self.tasks.remove(&(session, task))) {
            let response_bytes = started.response_bytes + bytes;
            let (ended, result) = (call.ended.clone(), message.result.clone());
            self.ended.push(Call { end_ns: last_ns, ended, result, response_bytes, ..started });
        } else if &*call.method == "tools/call"
            && let Some(task) = message.task
            && self.tasks.len() < MAX_WAITING
        {
            self.tasks.insert((session, task), call);
            return;
        }
        call.result = message.result;
        self.ended.push(call);
    }

    fn make_room(&mut self, now_ns: u64) {
        if self.open.len() < MAX_PENDING {
            return;
        }
        // An eighth at once: looking for the oldest each time would be slow for whoever never answers.
        self.give_up_oldest(MAX_PENDING / 8, now_ns);
    }

    fn give_up_oldest(&mut self, count: usize, now_ns: u64) {
        let mut numbers: Vec<u64> = self.open.values().map(|open| open.number).collect();
        let Some(last) = count.checked_sub(1).filter(|last| *last < numbers.len()) else { return };
        let (_, last, _) = numbers.select_nth_unstable(last);
        let last = *last;
        let gone: Vec<_> =
            self.open.extract_if(|_, open| open.number <= last).map(|(_, open)| open).collect();
        self.given_up += gone.len() as u64;
        for open in gone {
            self.give_up(open, now_ns, Ended::Unanswered);
        }
    }

    fn give_up(&mut self, open: Open, now_ns: u64, ended: Ended) {
        let call = if open.is_cancelled {
            Call { ended: Ended::Cancelled, ..open.call }
        } else if let Some(end_ns) = open.lost_ns {
            Call { end_ns, ended: Ended::Lost, ..open.call }
        } else if let Some(end_ns) = open.hidden_ns {
            self.hidden_answers += 1;
            Call { end_ns, ended: Ended::Lost, ..open.call }
        } else {
            Call { end_ns: now_ns, ended, ..open.call }
        };
        // What is given up at the end may have been said a moment behind it.
        self.ended.push(Call { end_ns: call.end_ns.max(call.request_end_ns), ..call });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Piece;
    use crate::wire::stdio::Lines;

    /// What happens in a session: who sends which line, each a millisecond after the one before.
    fn play(lines: &[(Side, &str)]) -> Calls {
        let mut calls = Calls::default();
        for (number, (side, line)) in lines.iter().enumerate() {
            let line = format!("{{\"jsonrpc\":\"2.0\",{line}}}\n");
            let received = Lines::default().feed((number as u64 + 1) * 1000, Piece::Bytes(line.as_bytes()));
            assert_eq!(received.len(), 1, "{line}");
            received.into_iter().for_each(|received| calls.message(1, *side, received));
        }
        calls
    }

    fn ends(calls: &mut Calls) -> Vec<(String, u64, Ended)> {
        let named = |call: &Call| call.name.clone().unwrap_or_else(|| call.method.clone());
        calls
            .take_ended()
            .iter()
            .map(|call| (named(call).into(), call.end_ns - call.start_ns, call.ended.clone()))
            .collect()
    }

    use Side::{Client, Server};

    /// Responses in any order find their requests, in both directions, and `1` is not `"1"`.
    #[test]
    fn pairs_by_id() {
        let mut calls = play(&[
            (Client, r#""id":1,"method":"tools/call","params":{"name":"slow"}"#),
            (Client, r#""id":"1","method":"tools/call","params":{"name":"quick"}"#),
            (Server, r#""id":1,"method":"roots/list""#),
            (Server, r#""id":"1","result":{}"#),
            (Client, r#""id":1,"result":{}"#),
            (Server, r#""id":9,"result":{}"#),
            (Server, r#""id":1,"error":{"code":-5,"message":"no"}"#),
        ]);
        let error = Ended::Error { code: Some(-5), message: Some("no".into()) };
        let expected = [("quick", 2000, Ended::Ok), ("roots/list", 2000, Ended::Ok), ("slow", 6000, error)];
        assert_eq!(ends(&mut calls), expected.map(|(name, time, ended)| (name.to_owned(), time, ended)));
        assert_eq!((calls.unexpected, calls.in_flight()), (1, 0));
    }

    /// A request that is asked for input and comes again is one call, with the time that the caller took.
    #[test]
    fn joins_retries_with_input() {
        let mut calls = play(&[
            (Client, r#""id":1,"method":"tools/call","params":{"name":"ask"}"#),
            (Server, r#""id":1,"result":{"resultType":"input_required","requestState":"s"}"#),
            (Client, r#""id":2,"method":"tools/call","params":{"name":"ask","requestState":"s"}"#),
            (Server, r#""id":2,"result":{"isError":true}"#),
        ]);
        let call = calls.take_ended().remove(0);
        assert_eq!((call.requests, call.input_wait_ns, call.end_ns - call.start_ns), (2, 1000, 3000));
        assert_eq!(call.ended, Ended::ToolError { message: None });
    }

    /// A tool call that became a task ends with the task's result.
    #[test]
    fn follows_tasks() {
        let mut calls = play(&[
            (Client, r#""id":1,"method":"tools/call","params":{"name":"long","task":{}}"#),
            (Server, r#""id":1,"result":{"task":{"taskId":"t"}}"#),
            (Client, r#""id":2,"method":"tasks/result","params":{"taskId":"t"}"#),
            (Server, r#""id":2,"result":{"content":[]}"#),
        ]);
        let expected = [("long", 3000, Ended::Ok), ("tasks/result", 1000, Ended::Ok)];
        assert_eq!(ends(&mut calls), expected.map(|(name, time, ended)| (name.to_owned(), time, ended)));
    }

    /// What has no answer says why.
    #[test]
    fn tells_why_there_is_no_answer() {
        let mut calls = play(&[
            (Client, r#""id":1,"method":"a""#),
            (Client, r#""id":2,"method":"b""#),
            (Client, r#""method":"notifications/cancelled","params":{"requestId":1}"#),
            (Client, r#""id":2,"method":"c""#),
        ]);
        calls.finish(9000);
        let expected =
            [("b", 2000, Ended::Unanswered), ("a", 2000, Ended::Cancelled), ("c", 5000, Ended::Unanswered)];
        assert_eq!(ends(&mut calls), expected.map(|(name, time, ended)| (name.to_owned(), time, ended)));
        assert_eq!(calls.repeated_ids, 1);
        let mut calls = play(&[(Client, r#""id":1,"method":"a""#)]);
        calls.close(1, 5000);
        assert_eq!(ends(&mut calls), [("a".to_owned(), 4000, Ended::CutOff)]);
    }

    /// A call whose answer may have been lost is not said to be unanswered; one that is answered later is whole.
    #[test]
    fn tells_what_a_loss_costs() {
        let mut calls = play(&[
            (Client, r#""id":1,"method":"a""#),
            (Client, r#""id":2,"method":"b""#),
            (Server, r#""id":1,"method":"roots/list""#),
        ]);
        calls.lost(Some(2), Server, 3500);
        calls.lost(Some(1), Server, 4000);
        let line = b"{\"jsonrpc\":\"2.0\",\"id\":2,\"result\":{}}\n";
        let received = Lines::default().feed(5000, Piece::Bytes(line)).remove(0);
        calls.message(1, Server, received);
        calls.finish(9000);
        let expected =
            [("b", 3000, Ended::Ok), ("a", 3000, Ended::Lost), ("roots/list", 6000, Ended::Unanswered)];
        assert_eq!(ends(&mut calls), expected.map(|(name, time, ended)| (name.to_owned(), time, ended)));
    }

    /// Requests that are never answered do not pile up.
    #[test]
    fn is_bounded() {
        let mut calls = Calls::default();
        for id in 0..100_000_u64 {
            let line = format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"method\":\"m\"}}\n");
            for received in Lines::default().feed(id, Piece::Bytes(line.as_bytes())) {
                calls.message(1, Client, received);
            }
        }
        assert!(calls.in_flight() <= MAX_PENDING);
        assert_eq!(calls.take_ended().len() as u64, calls.given_up);
        assert_eq!(calls.given_up + calls.in_flight() as u64, 100_000);
    }
}
