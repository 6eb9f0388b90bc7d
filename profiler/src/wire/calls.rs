//! Which response answers which request: calls, from their first byte to their last.
//!
//! IDs are only good within one peer: they are kept apart by session, which is what the caller says it is (the two pipes
//! of a stdio server, an HTTP connection, or the pair of connections of the older HTTP transport).
//!
//! A call is logical: a request that is asked for more input and comes again under another ID is one call, and so is a
//! tool call whose result is fetched later as that of a task.

use std::collections::VecDeque;

use hashbrown::HashMap;

pub use super::call::{Call, Ended, ResponseTimes, Session, Side};
use super::gaps::Gaps;
use super::message::{Id, Kind, Received};
use super::open::{Open, OpenCalls};

/// Most requests of all sessions that may wait for their responses; the oldest is given up for a new one.
const MAX_PENDING: usize = 1 << 16;
/// Most calls that may wait for input or for their task's result.
const MAX_WAITING: usize = 4096;

/// Most calls that may wait with their arguments.
const MAX_CONTENTS: usize = 1024;
/// Most sessions that may wait for a response with the same ID from elsewhere; the oldest is forgotten.
const MAX_DETACHED_ALIKE: usize = 64;

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

/// A call between two requests of its own.
#[derive(Clone, Debug, PartialEq)]
struct Waiting {
    call: Call,
    since_ns: u64,
    state: Option<Box<str>>,
}

/// Pairs messages.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Calls {
    open: OpenCalls,
    /// Sessions with a request of this ID whose response comes elsewhere, the oldest first.
    detached: HashMap<(Side, Id), VecDeque<Session>>,
    /// Whose connections are, as their last requests told.
    peers: HashMap<Session, Peer>,
    /// By which connection a peer was answered that had sent its request by another one.
    answered_by: HashMap<Peer, Session>,
    for_input: Vec<Waiting>,
    /// Also the number of what happened next.
    tasks: HashMap<(Session, Box<str>), (Call, u64)>,
    gaps: Gaps,
    /// Orders what happens: requests, and what is known of them.
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
            self.open.get(&key).is_some_and(|open| open.detached.is_some())
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
        self.gaps.lost(session, sender.other(), (self.next_number, now_ns));
        self.forget_gaps();
    }

    /// Bytes that `sender` sent in a session were left out: not only what stands around them, but whole messages too may
    /// have been among them. Of a call that waits it is known only at its end that this was so.
    pub fn hidden(&mut self, session: Session, sender: Side, now_ns: u64) {
        self.gaps.hidden(session, sender.other(), (self.next_number, now_ns));
        self.forget_gaps();
    }

    /// Forgets the gaps of sessions in which nothing waits, when there are many.
    fn forget_gaps(&mut self) {
        if self.gaps.are_many() {
            self.gaps.retain(|session| self.open.has(session));
        }
    }

    /// When something was lost that may have been a call's response.
    fn lost_ns(&self, open: &Open) -> Option<u64> {
        let Call { session, caller, .. } = open.call;
        open.lost_ns.or_else(|| self.gaps.lost_ns(session, caller, open.number, open.detached))
    }

    /// Whether a request of `caller` with this ID waits in a session.
    pub fn is_open(&self, session: Session, caller: Side, id: &Id) -> bool {
        self.open.get(&(session, caller, id.clone())).is_some()
    }

    /// A request was made in an MCP session of this ID.
    pub fn in_session(&mut self, session: Session, caller: Side, id: Id, session_id: &str) {
        if let Some(open) = self.open.get_mut(&(session, caller, id)) {
            open.call.session_id = Some(session_id.into());
        }
    }

    /// A request turns out to be of another session than it was taken for.
    pub fn reassign(&mut self, session: Session, other: Session, caller: Side, id: &Id) {
        if let Some(mut open) = self.open.remove(&(session, caller, id.clone())) {
            open.call.session = other;
            self.open.insert((other, caller, id.clone()), open);
        }
    }

    /// The response to a request comes in another session: the older HTTP transport has a connection for requests and one
    /// for messages to the client, and clients answer servers by requests of their own.
    pub fn detach(&mut self, session: Session, caller: Side, id: Id) {
        match self.open.get_mut(&(session, caller, id.clone())) {
            Some(open) if open.detached.is_none() => open.detached = Some(self.next_number),
            _ => return,
        }
        self.next_number += 1;
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
        if self.open.get(&key).is_none_or(|open| open.detached.is_some()) {
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
        let gone = self.open.take_of(session, |open| open.detached.is_none());
        self.peers.remove(&session);
        self.answered_by.retain(|_, by| *by != session);
        for open in gone {
            self.give_up(*open, now_ns, Ended::CutOff);
        }
        if self.gaps.has(session) {
            // Those whose responses come elsewhere still wait.
            for open in self.open.of_mut(session) {
                let Call { caller, .. } = open.call;
                let lost_ns = || self.gaps.lost_ns(session, caller, open.number, open.detached);
                open.lost_ns = open.lost_ns.or_else(lost_ns);
            }
            self.gaps.forget(session);
        }
    }

    /// Nothing more comes at all; `ended` is how it ends for calls that wait.
    pub fn finish(&mut self, now_ns: u64, ended: &Ended) {
        for open in self.open.take(|_| true) {
            self.give_up(*open, now_ns, ended.clone());
        }
        let for_input = self.for_input.drain(..).map(|waiting| (waiting.call, None));
        let gaps = &self.gaps;
        let tasks = self.tasks.drain().map(|(_, (call, number))| {
            // What fetched its result may have been lost as well as the result.
            let lost =
                [Side::Client, Side::Server].map(|side| gaps.lost_ns(call.session, side, number, None));
            (call, lost.into_iter().flatten().min())
        });
        self.ended.extend(for_input.chain(tasks).map(|(call, lost_ns)| Call {
            end_ns: lost_ns.unwrap_or(now_ns).max(call.request_end_ns),
            ended: if lost_ns.is_some() { Ended::Lost } else { ended.clone() },
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
        let is_open = |open: &&Open| !open.is_cancelled && self.lost_ns(open).is_none();
        self.open.iter().map(|(_, open)| open).filter(is_open).map(|open| &open.call)
    }

    /// How many requests wait for their responses.
    pub fn in_flight(&self) -> usize {
        self.open.len()
    }

    /// The memory that calls take which have not ended, in bytes.
    pub fn held_bytes(&self) -> usize {
        let open = self
            .open
            .iter()
            .map(|((_, _, id), open)| id.held_bytes() + size_of::<Open>() + open.call.held_bytes());
        let detached = self.detached.iter().map(|((_, id), sessions)| {
            id.held_bytes()
                + size_of::<(Side, Id, VecDeque<Session>)>()
                + sessions.len() * size_of::<Session>()
        });
        let peers = self.peers.len() * size_of::<(Session, Peer)>()
            + self.answered_by.len() * size_of::<(Peer, Session)>();
        let waiting = self.for_input.iter().map(|waiting| waiting.call.held_bytes());
        let tasks = self.tasks.iter().map(|((_, task), (call, _))| task.len() + call.held_bytes());
        let calls = open.chain(detached).chain(waiting).chain(tasks).sum::<usize>();
        calls + self.open.table_bytes() + self.gaps.held_bytes() + peers
    }

    /// Gives up the older half of the calls that have not ended: they take too much memory.
    pub fn give_up_half(&mut self, now_ns: u64) {
        self.give_up_oldest(self.open.len().div_ceil(2), now_ns);
        let tasks: Vec<_> = self.tasks.drain().map(|(_, (call, _))| call).collect();
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
            sessions.retain(|session| open.get(&(*session, *caller, id.clone())).is_some());
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
                session_id: None,
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
                ended: Ended::InFlight,
            },
        };
        self.make_room(last_ns);
        let task = (&*call.method == "tasks/result").then_some(message.task).flatten();
        let open = Open {
            call,
            number: self.next_number,
            is_cancelled: false,
            lost_ns: None,
            task,
            detached: None,
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
        if let Some((started, _)) = asked_for.and_then(|task| self.tasks.remove(&(session, task))) {
            let response_bytes = started.response_bytes + bytes;
            let (ended, result) = (call.ended.clone(), message.result.clone());
            self.ended.push(Call { end_ns: last_ns, ended, result, response_bytes, ..started });
        } else if &*call.method == "tools/call"
            && let Some(task) = message.task
            && self.tasks.len() < MAX_WAITING
        {
            self.tasks.insert((session, task), (call, self.next_number));
            self.next_number += 1;
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
        let mut numbers: Vec<u64> = self.open.iter().map(|(_, open)| open.number).collect();
        let Some(last) = count.checked_sub(1).filter(|last| *last < numbers.len()) else { return };
        let (_, last, _) = numbers.select_nth_unstable(last);
        let last = *last;
        let gone = self.open.take(|open| open.number <= last);
        self.given_up += gone.len() as u64;
        for open in gone {
            self.give_up(*open, now_ns, Ended::Unanswered);
        }
    }

    fn give_up(&mut self, open: Open, now_ns: u64, ended: Ended) {
        let call = if open.is_cancelled {
            Call { ended: Ended::Cancelled, ..open.call }
        } else if let Some(end_ns) = self.lost_ns(&open) {
            Call { end_ns, ended: Ended::Lost, ..open.call }
        } else if let Some(end_ns) = self.gaps.hidden_ns(open.call.session, open.call.caller, open.number) {
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
        calls.finish(9000, &Ended::Unanswered);
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
        calls.finish(9000, &Ended::Unanswered);
        let expected =
            [("b", 3000, Ended::Ok), ("a", 3000, Ended::Lost), ("roots/list", 6000, Ended::Unanswered)];
        assert_eq!(ends(&mut calls), expected.map(|(name, time, ended)| (name.to_owned(), time, ended)));
    }

    /// Gaps cost the same however many calls wait, and each call ends with the first one behind its start.
    #[test]
    fn gaps_cost_no_walk() {
        let mut calls = Calls::default();
        let ask = |calls: &mut Calls, session: Session, id: u64, now_ns: u64| {
            let line = format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"method\":\"m\"}}\n");
            let received = Lines::default().feed(now_ns, Piece::Bytes(line.as_bytes())).remove(0);
            calls.message(session, Client, received);
        };
        for id in 0..50_000 {
            ask(&mut calls, 1, id, id);
        }
        // To look at each call for each gap would be 50 billion steps.
        for gap in 0..1_000_000 {
            calls.hidden(1, Server, 100_000 + gap);
        }
        ask(&mut calls, 1, 50_000, 2_000_000);
        ask(&mut calls, 2, 1, 2_000_000);
        calls.hidden(1, Server, 2_000_001);
        calls.hidden(1, Client, 2_000_002);
        ask(&mut calls, 1, 50_001, 2_000_003);
        calls.finish(3_000_000, &Ended::Unanswered);
        let ended = calls.take_ended();
        let of = |id: usize| (ended[id].end_ns, &ended[id].ended);
        assert_eq!((of(0), of(49_999)), ((100_000, &Ended::Lost), (100_000, &Ended::Lost)));
        assert_eq!(of(50_000), (2_000_001, &Ended::Lost));
        assert_eq!(
            (of(50_001), of(50_002)),
            ((3_000_000, &Ended::Unanswered), (3_000_000, &Ended::Unanswered))
        );
        // Nor do sessions that come and go take memory for ever, or walk over what waits in others.
        let mut calls = Calls::default();
        for id in 0..20_000 {
            ask(&mut calls, u64::MAX, id, id);
        }
        let before = calls.held_bytes();
        for session in 0..50_000 {
            ask(&mut calls, session, 1, session);
            calls.lost(Some(session), Server, session);
            calls.close(session, session);
            calls.lost(Some(session), Server, session);
        }
        assert!(calls.held_bytes() < before + (4 << 20), "{}", calls.held_bytes());
        assert!(calls.take_ended().iter().all(|call| call.ended == Ended::Lost));
    }

    /// An answer that comes by another connection may have been in what was lost of any one since that was known.
    #[test]
    fn losses_elsewhere() {
        for (order, expected) in [(["lose", "detach"], Ended::Unanswered), (["detach", "lose"], Ended::Lost)]
        {
            let mut calls = play(&[(Client, r#""id":1,"method":"a""#)]);
            let id = Id::Number("1".into());
            for step in order {
                match step {
                    "lose" => calls.lost(Some(7), Server, 5000),
                    _ => calls.detach(1, Client, id.clone()),
                }
            }
            calls.close(1, 6000);
            calls.finish(9000, &Ended::Unanswered);
            assert_eq!(calls.take_ended()[0].ended, expected);
        }
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
        // Tables double, and have both their sizes while they do: they hold little more than what is looked for.
        assert!(calls.open.table_bytes() < 8 << 20, "{}", calls.open.table_bytes());
        assert!(calls.held_bytes() > calls.open.table_bytes() + calls.in_flight() * size_of::<Open>());
        assert_eq!(calls.take_ended().len() as u64, calls.given_up);
        assert_eq!(calls.given_up + calls.in_flight() as u64, 100_000);
    }
}
