//! What real servers read and wrote (README.md): however it is cut, and wherever one comes in, the calls are the same.

use insta::assert_snapshot;

use super::Piece;
use super::calls::{Call, Ended};
use super::streams::{Counts, Interest, Moved, Streams};

/// A system call.
struct Step<'bytes> {
    stream: u64,
    what: What<'bytes>,
}

enum What<'bytes> {
    Moved { is_written: bool, bytes: &'bytes [u8] },
    Ended,
}

macro_rules! conversations {
    ($($name:literal),* $(,)?) => {
        [$(($name, include_bytes!(concat!($name, ".conversation")).as_slice())),*]
    };
}

const CONVERSATIONS: [(&str, &[u8]); 14] = conversations![
    "everything-stdio",
    "everything-http",
    "everything-sse",
    "filesystem-stdio",
    "time-stdio",
    "git-stdio",
    "fastmcp-http",
    "fastmcp-http-session",
    "rmcp-stdio",
    "rmcp-stdio-modern",
    "rmcp-http",
    "rmcp-http-modern",
    "cron-stdio",
    "toolbox-stdio",
];

/// So many system calls are heard of those that come within one.
const SOON: usize = 4;

impl Step<'_> {
    fn length(&self) -> usize {
        match self.what {
            What::Moved { bytes, .. } => bytes.len(),
            What::Ended => 0,
        }
    }

    /// Whether the data of an event begins there. It looks like a line of a server over stdio, and no system call begins so.
    fn is_data(&self, start: usize) -> bool {
        match self.what {
            What::Moved { bytes, .. } => {
                [&b"data:"[..], b"data: "].iter().any(|name| bytes[..start].ends_with(name))
            }
            What::Ended => false,
        }
    }

    /// It without so many of its bytes.
    fn from(&self, start: usize) -> Step<'_> {
        let What::Moved { is_written, bytes } = self.what else { unreachable!("it has bytes") };
        Step { what: What::Moved { is_written, bytes: &bytes[start..] }, ..*self }
    }
}

fn steps(mut text: &[u8]) -> Vec<Step<'_>> {
    let mut steps = Vec::new();
    while let Some(end) = memchr::memchr(b'\n', text) {
        let words: Vec<&str> = std::str::from_utf8(&text[..end]).unwrap().split(' ').collect();
        text = &text[end + 1..];
        let stream = words[1].parse().unwrap();
        let what = match words[0] {
            "end" => What::Ended,
            verb => {
                let (bytes, rest) = text.split_at(words[2].parse().unwrap());
                text = rest.strip_prefix(b"\n").unwrap();
                What::Moved { is_written: verb == "write", bytes }
            }
        };
        steps.push(Step { stream, what });
    }
    assert!(text.is_empty());
    steps
}

/// Hears one step after the other; the time is the number of the step.
#[derive(Clone, Default, PartialEq)]
struct Listener {
    streams: Streams,
    time_ns: u64,
    /// Streams that do not speak MCP, it said.
    ignored: Vec<u64>,
}

impl Listener {
    /// The step's bytes come in pieces of these lengths, and what is left of it.
    fn step(&mut self, step: &Step<'_>, lengths: impl IntoIterator<Item = usize>) {
        self.time_ns += 1;
        match step.what {
            What::Ended => {
                self.streams.closed(step.stream, self.time_ns);
                self.ignored.retain(|stream| *stream != step.stream);
            }
            What::Moved { is_written, mut bytes } => {
                let moved = Moved { stream: step.stream, is_written, timestamp_ns: self.time_ns, thread: 1 };
                for length in lengths.into_iter().chain([usize::MAX]) {
                    let (piece, rest) = bytes.split_at(length.min(bytes.len()));
                    bytes = rest;
                    if !piece.is_empty()
                        && !self.ignored.contains(&step.stream)
                        && self.streams.moved(moved, Piece::Bytes(piece)) == Interest::No
                    {
                        self.ignored.push(step.stream);
                    }
                }
            }
        }
    }

    /// The calls when these steps have followed and the server has ended, in the order in which they began; and what was counted.
    fn rest(mut self, steps: &[Step<'_>]) -> (Vec<Call>, Counts) {
        steps.iter().for_each(|step| self.step(step, []));
        self.streams.calls.finish(self.time_ns, &Ended::InFlight);
        let mut calls = self.streams.calls.take_ended();
        calls.sort_by_key(|call| call.start_ns);
        (calls, self.streams.counts())
    }
}

/// What a call asks, and when.
fn request(call: &Call) -> impl PartialEq {
    (call.session, call.start_ns, call.request_id.clone(), call.method.clone(), call.name.clone())
}

/// Each call once, as what it was and how it ended.
#[test]
fn calls_as_they_were_moved() {
    let mut text = String::new();
    for (name, conversation) in CONVERSATIONS {
        let (calls, counts) = Listener::default().rest(&steps(conversation));
        let counts = counts.named().into_iter().filter(|(_, count)| *count > 0);
        let counts: Vec<_> = counts.map(|(name, count)| format!("{count} {name}")).collect();
        text += &format!("{name}: {}\n", counts.join(", "));
        for Call { caller, method, name, request_id, ended, .. } in &calls {
            let id = request_id.as_ref().unwrap().json();
            let code = ended.error().0.map(|code| code.to_string());
            let words = [Some(&**method), name.as_deref(), Some(ended.name()), code.as_deref()];
            let words: Vec<_> = words.into_iter().flatten().collect();
            text += &format!("  {caller:?} {id} {}\n", words.join(" "));
        }
    }
    assert_snapshot!(text, @r#"
    everything-stdio: 51 messages, 14 notifications
      Client 0 initialize ok
      Server 0 roots/list ok
      Client 2 tools/call echo ok
      Client "2" tools/call get-sum ok
      Client 5 no/such/method error -32601
      Client 4 tools/call no-such-tool tool_error
      Client 3 tools/call echo tool_error
      Client 6 prompts/get no-such-prompt error -32602
      Client 7 tools/call trigger-long-running-operation ok
      Client 9 tools/call trigger-sampling-request ok
      Client 8 tools/call trigger-long-running-operation cancelled
      Server 1 sampling/createMessage ok
      Client 10 tools/call trigger-elicitation-request ok
      Server 2 elicitation/create ok
      Client 11 tools/call simulate-research-query ok
      Client 12 tasks/get ok
      Client 13 tasks/result ok
      Client 14 resources/read demo://resource/static/document/no-such.md error -32602
      Client 15 tools/call trigger-long-running-operation in_flight
    everything-http: 26 messages, 6 notifications
      Client 0 initialize ok
      Server 0 roots/list ok
      Client 1 tools/call echo ok
      Client 2 tools/call echo ok
      Client 3 tools/call echo tool_error
      Client 4 no/such/method error -32601
      Client 5 tools/call trigger-long-running-operation ok
      Client 6 tools/call echo error -32000
      Client 7 tools/call get-sum ok
      Client 8 tools/call trigger-long-running-operation ok
    everything-sse: 14 messages, 2 notifications
      Client 0 initialize ok
      Client 1 tools/call echo ok
      Client 2 tools/call echo tool_error
      Client 3 no/such/method error -32601
      Client 4 tools/call trigger-long-running-operation ok
      Client 5 tools/call get-sum ok
    filesystem-stdio: 11 messages, 1 notifications
      Client 0 initialize ok
      Client 1 tools/call read_text_file ok
      Client 2 tools/call read_text_file tool_error
      Client 3 tools/call write_file ok
      Client 4 tools/call list_directory ok
    time-stdio: 13 messages, 1 notifications
      Client 0 initialize ok
      Client 1 tools/list ok
      Client 3 tools/call get_current_time tool_error
      Client 2 tools/call get_current_time ok
      Client 4 tools/call no-such-tool error -32602
      Client 5 no/such/method error -32601
    git-stdio: 11 messages, 1 notifications
      Client 0 initialize ok
      Client 1 tools/call git_status ok
      Client 2 tools/call git_show tool_error
      Client 3 tools/call git_log tool_error
      Client 4 tools/call git_log ok
    fastmcp-http: 14 messages
      Client 1 server/discover ok
      Client 2 tools/list ok
      Client 3 tools/call echo ok
      Client 4 tools/call refuse tool_error
      Client 5 tools/call echo tool_error
      Client 6 tools/call sleep ok
      Client 7 tools/call sleep ok
    fastmcp-http-session: 11 messages, 1 notifications
      Client 0 initialize ok
      Client 1 tools/call echo ok
      Client 2 tools/call refuse tool_error
      Client 3 no/such/method error -32601
      Client 4 tools/call sleep ok
    rmcp-stdio: 19 messages, 1 notifications
      Client 0 initialize ok
      Client 1 tools/list ok
      Client 2 tools/call echo ok
      Client 3 tools/call refuse tool_error
      Client 4 tools/call fail error -32000
      Client 5 tools/call no-such-tool error -32602
      Client 12 tools/call echo ok
      Client 11 tools/call sleep ok
      Client 10 tools/call sleep cancelled
    rmcp-stdio-modern: 10 messages
      Client 1 server/discover ok
      Client 2 tools/call echo ok
      Client 3 tools/call refuse tool_error
      Client 4 tools/call fail error -32000
      Client 5 tools/call no-such-tool error -32602
    rmcp-http: 13 messages, 1 notifications
      Client 0 initialize ok
      Client 1 tools/list ok
      Client 2 tools/call echo ok
      Client 3 tools/call refuse tool_error
      Client 4 tools/call fail error -32000
      Client 5 tools/call no-such-tool error -32602
    rmcp-http-modern: 10 messages
      Client 1 server/discover ok
      Client 2 tools/call echo ok
      Client 3 tools/call refuse tool_error
      Client 4 tools/call fail error -32000
      Client 5 tools/call no-such-tool error -32602
    cron-stdio: 13 messages, 1 notifications
      Client 0 initialize ok
      Client 1 tools/call list_tasks ok
      Client 2 tools/call get_task error 0
      Client 3 tools/call no-such-tool error -32602
      Client 4 tools/call list_tasks ok
      Client 5 tools/call no-such-tool error -32602
    toolbox-stdio: 11 messages, 1 notifications
      Client 0 initialize ok
      Client 1 tools/list ok
      Client 2 tools/call add ok
      Client 3 tools/call add tool_error
      Client 4 tools/call no-such-tool error -32602
    "#);
}

/// Each piece in two, at each of its bytes; and all of them byte by byte.
#[test]
fn cuts_do_not_matter() {
    for (name, conversation) in CONVERSATIONS {
        let steps = steps(conversation);
        let expected = Listener::default().rest(&steps);
        let mut before = Listener::default();
        for (number, step) in steps.iter().enumerate() {
            let mut behind = before.clone();
            behind.step(step, []);
            for cut in 1..step.length() {
                let mut listener = before.clone();
                listener.step(step, [cut]);
                // What is the same now remains so.
                if listener != behind {
                    let calls = listener.rest(&steps[number + 1..]);
                    assert_eq!(calls, expected, "{name}: step {}, cut at {cut}", number + 1);
                }
            }
            before = behind;
        }
        let mut listener = Listener::default();
        steps.iter().for_each(|step| listener.step(step, std::iter::repeat_n(1, step.length())));
        assert_eq!(listener.rest(&[]), expected, "{name}: byte by byte");
    }
}

/// Who comes in the middle, at any byte, hears no call that was not made, and each one that begins with the next system call or
/// later. It is heard to the end where it begins with a system call.
#[test]
fn comes_in_anywhere() {
    for (name, conversation) in CONVERSATIONS {
        let steps = steps(conversation);
        let mut before = Listener::default();
        for (number, step) in steps.iter().enumerate() {
            let [all, soon] =
                [usize::MAX, SOON].map(|count| &steps[number + 1..][..count.min(steps.len() - number - 1)]);
            before.step(step, []);
            let expected = [all, soon].map(|rest| before.clone().rest(rest).0);
            for from in 0..step.length() {
                if step.is_data(from) {
                    continue;
                }
                let mut listener = Listener { time_ns: number as u64, ..Listener::default() };
                listener.step(&step.from(from), []);
                let (rest, expected) = if from == 0 { (all, &expected[0]) } else { (soon, &expected[1]) };
                let (calls, _) = listener.rest(rest);
                let whole_ns = number as u64 + 1 + u64::from(from > 0);
                let is_missing = |call: &&Call| call.start_ns >= whole_ns && !calls.contains(call);
                let missing: Vec<_> = expected.iter().filter(is_missing).collect();
                let wrong: Vec<_> = calls.iter().filter(|call| !expected.contains(call)).collect();
                assert!(
                    missing.is_empty() && wrong.is_empty(),
                    "{name}: from byte {from} of step {} on: wrong {wrong:#?}, missing {missing:#?}",
                    number + 1
                );
            }
        }
    }
}

/// Whatever system call is lost: no call is made up or ends as it did not, and those are right that are over before, or begin when the
/// loss is known.
#[test]
fn losses_are_told() {
    for (name, conversation) in CONVERSATIONS {
        let steps = steps(conversation);
        let (expected, _) = Listener::default().rest(&steps);
        for (number, lost) in steps.iter().enumerate() {
            let What::Moved { is_written, .. } = lost.what else { continue };
            // The kernel half tells it with what comes next there, in the same direction or as the stream ends.
            let is_next = |step: &Step<'_>| {
                let is_same =
                    matches!(step.what, What::Moved { is_written: other, .. } if other == is_written);
                step.stream == lost.stream && (is_same || matches!(step.what, What::Ended))
            };
            let rest = &steps[number + 1..];
            let (before_told, behind) = rest.split_at(rest.iter().position(is_next).unwrap_or(rest.len()));
            let mut listener = Listener::default();
            steps[..number].iter().for_each(|step| listener.step(step, []));
            listener.time_ns += 1;
            before_told.iter().for_each(|step| listener.step(step, []));
            let told_ns = listener.time_ns + 1;
            let moved = Moved { stream: lost.stream, is_written, timestamp_ns: told_ns, thread: 1 };
            listener.streams.lost(moved, true);
            let (calls, _) = listener.rest(behind);
            let is_right = |call: &&Call| {
                let is_of = |other: &Call| call.ended == Ended::Lost && request(call) == request(other);
                expected.iter().any(|other| *call == other || is_of(other))
            };
            let lost_ns = number as u64 + 1;
            let is_missing =
                |call: &&Call| (call.end_ns < lost_ns || call.start_ns > told_ns) && !calls.contains(call);
            let wrong: Vec<_> = calls.iter().filter(|call| !is_right(call)).collect();
            let missing: Vec<_> = expected.iter().filter(is_missing).collect();
            assert!(
                missing.is_empty() && wrong.is_empty(),
                "{name}: without step {lost_ns}: wrong {wrong:#?}, missing {missing:#?}"
            );
        }
    }
}
