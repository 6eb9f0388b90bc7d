//! Tests of the scanner.

use proptest::prelude::*;

use super::*;
use crate::wire::{Id, Kind};

fn read(text: &[u8]) -> Outcome {
    let mut scanner = Scanner::default();
    scanner.feed(text);
    scanner.finish()
}

fn one(text: &str) -> Message {
    match read(text.as_bytes()) {
        Outcome::Messages(messages) if messages.len() == 1 => messages[0].clone(),
        other => panic!("{text}: {other:?}"),
    }
}

const CALL: &str = r#"{"method":"tools/call","params":{"name":"read_file","arguments":{"name":"no","id":9,
    "path":"/a\"}{"},"_meta":{"progressToken":1,"traceparent":"00-ab-cd-01"}},"jsonrpc":"2.0","id":"7"}"#;
const FAILED: &str =
    r#"{"jsonrpc":"2.0","id":3,"error":{"code":-32602,"message":"bad \u00e4","data":{"code":1}}}"#;
const RESULT: &str = r#"{"result":{"content":[{"type":"text","text":"\"id\":4, }{\\"}],"isError":true},"jsonrpc":"2.0","id":3}"#;

/// Fields are found where the protocol has them, not where a tool's arguments have the same names.
#[test]
fn reads_messages() {
    let call = one(CALL);
    assert_eq!((call.kind, call.id), (Kind::Request, Some(Id::Text("7".into()))));
    assert_eq!((call.method.as_deref(), call.name.as_deref()), (Some("tools/call"), Some("read_file")));
    assert_eq!(call.trace_parent.as_deref(), Some("00-ab-cd-01"));
    let failed = one(FAILED);
    assert_eq!((failed.kind, failed.error_code), (Kind::Error, Some(-32602)));
    assert_eq!(failed.error_message.as_deref(), Some("bad <text>"));
    let result = one(RESULT);
    assert_eq!(
        (result.kind, result.id, result.is_tool_error),
        (Kind::Result, Some(Id::Number("3".into())), true)
    );
    let cancelled = r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":5}}"#;
    assert_eq!(one(cancelled).cancelled, Some(Id::Number("5".into())));
    assert_eq!(one(cancelled).kind, Kind::Notification);
}

/// Contents are kept only where they were asked for, whole or cut, in whatever pieces they come; then an error is told in its own words.
#[test]
fn keeps_contents_when_asked() {
    let plain = one(CALL);
    assert_eq!((plain.arguments, plain.result), (None, None));
    let read = |capture: usize, text: &str, piece: usize| {
        let mut scanner = Scanner::new(Capture { bytes: capture });
        text.as_bytes().chunks(piece).for_each(|piece| scanner.feed(piece));
        match scanner.finish() {
            Outcome::Messages(mut messages) => messages.remove(0),
            other => panic!("{other:?}"),
        }
    };
    for piece in [1, 7, 1000] {
        let arguments = read(1000, CALL, piece).arguments;
        assert_eq!(arguments.as_deref(), Some(r#"{"id":9,"name":"no","path":"/a\"}{"}"#));
        let result = read(1000, RESULT, piece);
        assert_eq!(
            result.result.as_deref(),
            Some(r#"{"content":[{"text":"\"id\":4, }{\\","type":"text"}],"isError":true}"#)
        );
        assert_eq!(result.error_message.as_deref(), Some(r#""id":4, }{\"#));
        assert_eq!(read(1000, FAILED, piece).error_message.as_deref(), Some("bad \u{e4}"));
        assert_eq!(read(11, CALL, piece).arguments.as_deref(), Some(r#"{"name":"no…"}"#));
    }
    assert_eq!(one(RESULT).error_message.as_deref(), Some("<text>"));
    let scalar = r#"{"jsonrpc":"2.0","id":1,"method":"m","params":{"arguments":17}}"#;
    assert_eq!(read(9, scalar, 3).arguments.as_deref(), Some("17"));
    // A gap within arguments: what was before it is kept.
    let mut scanner = Scanner::new(Capture { bytes: 100 });
    scanner.feed(&CALL.as_bytes()[..70]);
    scanner.gap();
    scanner.feed(br#"x"},"_meta":{}},"jsonrpc":"2.0","id":"7"}"#);
    let Outcome::Messages(messages) = scanner.finish() else { panic!() };
    assert_eq!(messages[0].arguments.as_deref(), Some(r#"{"name…":"…"}"#));
}

/// A batch is its messages.
#[test]
fn reads_batches() {
    let Outcome::Messages(messages) = read(format!(" [{CALL},\n{RESULT}] ").as_bytes()) else { panic!() };
    assert_eq!(messages, [one(CALL), one(RESULT)]);
}

/// Log lines, halves of messages and two messages at once are no message.
#[test]
fn refuses_what_is_no_message() {
    for text in [
        "Server started",
        "[INFO] started {}",
        r#"{"level":30,"id":1,"method":"GET"}"#,
        &CALL[1..],
        &CALL[..CALL.len() - 1],
        &format!("{CALL}{RESULT}"),
        "]",
        "7",
        "{}",
    ] {
        assert_eq!(read(text.as_bytes()), Outcome::NotRpc, "{text}");
    }
    assert_eq!(read(b" \r"), Outcome::Empty);
}

/// With its middle missing, a result keeps what stands at its end.
#[test]
fn reads_around_gaps() {
    let whole = one(RESULT);
    for (from, to) in [(11, 60), (1, 40), (30, RESULT.len() - 40)] {
        let mut scanner = Scanner::default();
        scanner.feed(&RESULT.as_bytes()[..from]);
        scanner.gap();
        scanner.feed(&RESULT.as_bytes()[to..]);
        let Outcome::Messages(messages) = scanner.finish() else { panic!("{from}..{to}") };
        // Its first text is there, or it is not.
        let error_message = messages[0].error_message.clone();
        assert_eq!(messages, [Message { error_message, ..whole.clone() }], "{from}..{to}");
    }
    let mut scanner = Scanner::default();
    scanner.feed(&CALL.as_bytes()[..70]);
    scanner.gap();
    scanner.feed(br#"x"},"_meta":{}},"jsonrpc":"2.0","id":"7"}"#);
    let Outcome::Messages(messages) = scanner.finish() else { panic!() };
    assert_eq!(messages[0].id, Some(Id::Text("7".into())));
    assert_eq!(messages[0].name.as_deref(), Some("read_file"));
    let mut scanner = Scanner::default();
    scanner.feed(br#"{"id":7,"jsonrpc":"2.0","method":"tools/call","params":{"arguments":{"text":"x"#);
    scanner.gap();
    scanner.feed(br#"x","name":"no"},"name":"write_file"}}"#);
    let Outcome::Messages(messages) = scanner.finish() else { panic!() };
    assert_eq!(messages[0].name.as_deref(), Some("write_file"));
}

/// Nesting without end and strings without end cost no memory.
#[test]
fn is_bounded() {
    let mut scanner = Scanner::default();
    scanner.feed(br#"{"a":"#);
    for _ in 0..1000 {
        scanner.feed(&[b'['; 1000]);
    }
    scanner.feed(b"\"");
    for _ in 0..1000 {
        scanner.feed(&[b'x'; 1000]);
    }
    assert!(scanner.token.bytes.capacity() <= 2 * MAX_VALUE_BYTES);
    scanner.gap();
    scanner.feed(&[b'x'; 100_000]);
    assert!(scanner.tail.as_ref().is_some_and(|tail| tail.len() == MAX_TAIL_BYTES));
}

proptest! {
    /// However a text is cut into pieces, it is the same message.
    #[test]
    fn pieces_do_not_matter(cuts in proptest::collection::vec(0..1000_usize, 0..20), text in 0..3_usize) {
        let text = [CALL, FAILED, RESULT][text];
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut % text.len()).collect();
        cuts.sort_unstable();
        let mut scanner = Scanner::default();
        let mut from = 0;
        for cut in cuts.into_iter().chain([text.len()]) {
            scanner.feed(&text.as_bytes()[from..cut]);
            from = cut;
        }
        prop_assert_eq!(scanner.finish(), Outcome::Messages(vec![one(text)]));
    }

    /// No bytes and no gaps make the scanner panic.
    #[test]
    fn survives_any_bytes(pieces in proptest::collection::vec("[\\[\\]{}:,\"\\\\a0 \n-]{0,40}", 0..8), gap in 0..8_usize) {
        let mut scanner = Scanner::default();
        for (number, piece) in pieces.iter().enumerate() {
            scanner.feed(piece.as_bytes());
            if number == gap {
                scanner.gap();
            }
        }
        let _ = scanner.finish();
    }
}
