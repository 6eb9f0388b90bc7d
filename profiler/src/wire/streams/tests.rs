//! Streams of every kind, as servers and clients have them.

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
    streams.moved(at(11, true, 8), Piece::Bytes(format!("{}\n", ANSWER.replace(":1,", ":5,")).as_bytes()));
    assert_eq!((streams.calls.take_ended().len(), streams.counts().cut_messages), (3, 0));
    streams.calls.finish(9, &Ended::Unanswered);
    let ended: Vec<_> =
        streams.calls.take_ended().into_iter().map(|call| (call.end_ns, call.ended)).collect();
    assert_eq!(ended, [(6, Ended::Lost), (6, Ended::Lost), (9, Ended::Unanswered)]);
    assert_eq!(streams.counts().cut_messages, 2);
}

/// What is missing within a line hides no message but those of a batch.
#[test]
fn what_is_missing_within_a_line() {
    let text = r#"{"jsonrpc":"2.0","result":{"content":[{"type":"text","text":"aaa"#;
    for (start, expected) in [("", Ended::InFlight), ("[", Ended::Lost)] {
        let mut streams = Streams::default();
        for id in 1..=2 {
            let ask = ASK.replace("\"id\":1", &format!("\"id\":{id}"));
            streams.moved(at(10, false, id), Piece::Bytes(format!("{ask}\n").as_bytes()));
        }
        streams.moved(at(11, true, 6), Piece::Bytes(format!("{start}{text}").as_bytes()));
        streams.moved(at(11, true, 7), Piece::WithinLine(9000));
        streams.moved(at(11, true, 7), Piece::Bytes(b"aaa\"}]},\"id\":2}"));
        streams.moved(at(11, true, 8), Piece::Bytes(if start.is_empty() { b"\n" } else { b"]\n" }));
        streams.calls.finish(9, &Ended::InFlight);
        let ended: Vec<_> = streams.calls.take_ended().into_iter().map(|call| call.ended).collect();
        let answered = if start.is_empty() { Ended::Ok } else { Ended::Lost };
        assert_eq!(ended, [answered, expected]);
    }
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
    let times: Vec<u64> = streams.calls.take_ended().iter().map(|call| call.end_ns - call.start_ns).collect();
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
        calls.iter().map(|call| (call.name.clone().unwrap().into(), call.end_ns - call.start_ns)).collect()
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
        streams.calls.finish(1000, &Ended::Unanswered);
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
        assert_eq!((calls.len(), calls[0].start_ns, calls[0].end_ns, &calls[0].ended), (1, 1, 5, &expected));
        assert_eq!((streams.calls.in_flight(), streams.calls.unexpected), (1, 0));
    }
}

/// Who comes between the head of a request and its body hears what it is answered, and what is asked next. A long line is not taken for
/// HTTP, whatever its parts start with.
#[test]
fn heads_that_were_not_seen() {
    let mut streams = Streams::default();
    let [both_asked, both_answered] =
        [ASK, ANSWER].map(|one| format!("[{one},{}]", one.replace("\"id\":1", "\"id\":2")));
    streams.moved(at(40, false, 1), Piece::Bytes(both_asked.as_bytes()));
    streams.moved(at(40, true, 2), Piece::Bytes(http("HTTP/1.1 200 OK", &both_answered).as_bytes()));
    streams.moved(at(40, false, 3), Piece::Bytes(http("POST /mcp HTTP/1.1", ASK).as_bytes()));
    streams.moved(at(40, true, 4), Piece::Bytes(http("HTTP/1.1 200 OK", ANSWER).as_bytes()));
    // Between the head and the body of an answer.
    streams.moved(at(41, true, 5), Piece::Bytes(ANSWER.as_bytes()));
    streams.moved(at(41, false, 6), Piece::Bytes(http("POST /mcp HTTP/1.1", ASK).as_bytes()));
    streams.moved(at(41, true, 7), Piece::Bytes(http("HTTP/1.1 200 OK", ANSWER).as_bytes()));
    streams.moved(at(10, false, 8), Piece::Bytes(format!("{ASK}\n").as_bytes()));
    for part in [r#"{"jsonrpc":"2.0","id":1,"result":{"text":""#, "HTTP/1.1 200 OK\"}}", "\n"] {
        streams.moved(at(11, true, 9), Piece::Bytes(part.as_bytes()));
    }
    let calls: Vec<_> = streams.calls.take_ended();
    let calls: Vec<_> = calls.iter().map(|call| (call.session, call.start_ns, call.end_ns)).collect();
    assert_eq!(calls, [(40, 1, 2), (40, 1, 2), (40, 3, 4), (41, 6, 7), (STDIO, 8, 9)]);
    assert_eq!((streams.calls.in_flight(), streams.counts().unmatched_responses), (0, 1));
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
    assert_eq!(calls.iter().map(|call| (call.end_ns, &call.ended)).collect::<Vec<_>>(), [(9, &Ended::Ok)]);
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
    streams
        .moved(at(40, true, 1), Piece::Bytes(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"));
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
