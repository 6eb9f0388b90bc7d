//! JSON-RPC messages out of bytes that come in pieces, some of them missing. A sans-io state machine with bounded memory:
//! it keeps the few fields of [`Message`] and forgets the rest as it goes.
//!
//! It does not validate: what is no JSON ends as [`Outcome::NotRpc`]. Only the outer levels are followed by their keys;
//! below them brackets are counted, so that nesting without end costs nothing.
//!
//! Where bytes are missing nobody knows what they held. The fields before stand, and those at the message's end are read
//! backwards from its last byte: some servers write `id` last.

use super::message::{Id, Kind, Message};

/// Longest key, string or number that is looked at, in bytes; longer ones are cut.
pub const MAX_VALUE_BYTES: usize = 512;
/// Most messages of one batch; JSON-RPC sets no limit.
const MAX_BATCH: usize = 1024;
/// Bytes kept behind a gap, for the fields at a message's end.
const MAX_TAIL_BYTES: usize = 4096;
/// Levels whose keys are followed: message, `params` or `result`, `_meta` or `task`.
const LEVELS: usize = 3;

/// What a text was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing but white space.
    Empty,
    /// No JSON-RPC message.
    NotRpc,
    /// A message, or those of a batch.
    Messages(Vec<Message>),
}

/// Reads one JSON text. Feed it, then [`finish`](Self::finish) it, and it is new.
#[derive(Clone, Debug, Default)]
pub struct Scanner {
    state: State,
    /// How many brackets are open.
    depth: u64,
    /// The text is an array of messages.
    is_batch: bool,
    /// Something stands outside the one value that a text is.
    is_broken: bool,
    has_started: bool,
    /// For each followed level: its key, and whether it has keys at all.
    levels: [Level; LEVELS],
    token: Token,
    draft: Draft,
    messages: Vec<Message>,
    /// Behind a gap: the last bytes.
    tail: Option<Vec<u8>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// Between tokens.
    #[default]
    Between,
    /// In a string.
    Text,
    /// In a string, behind a backslash.
    Escape,
    /// In a number or a literal.
    Scalar,
}

#[derive(Clone, Copy, Debug, Default)]
struct Level {
    key: Key,
    is_object: bool,
    /// A colon was seen since the last comma: a string is a value.
    is_value: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Key {
    #[default]
    Other,
    Version,
    Id,
    Method,
    Params,
    Result,
    Error,
    Name,
    Uri,
    RequestId,
    Code,
    Message,
    IsError,
    ResultType,
    RequestState,
    Meta,
    TraceParent,
    Task,
    TaskId,
}

impl Key {
    fn of(text: &[u8]) -> Self {
        match text {
            b"jsonrpc" => Self::Version,
            b"id" => Self::Id,
            b"method" => Self::Method,
            b"params" => Self::Params,
            b"result" => Self::Result,
            b"error" => Self::Error,
            b"name" => Self::Name,
            b"uri" => Self::Uri,
            b"requestId" => Self::RequestId,
            b"code" => Self::Code,
            b"message" => Self::Message,
            b"isError" => Self::IsError,
            b"resultType" => Self::ResultType,
            b"requestState" => Self::RequestState,
            b"_meta" => Self::Meta,
            b"traceparent" => Self::TraceParent,
            b"task" => Self::Task,
            b"taskId" => Self::TaskId,
            _ => Self::Other,
        }
    }
}

/// A key, string, number or literal, up to its bound.
#[derive(Clone, Debug, Default)]
struct Token {
    bytes: Vec<u8>,
    has_escapes: bool,
    is_text: bool,
}

impl Token {
    fn start(&mut self, is_text: bool) {
        self.bytes.clear();
        self.has_escapes = false;
        self.is_text = is_text;
    }

    fn push(&mut self, bytes: &[u8]) {
        let room = MAX_VALUE_BYTES.saturating_sub(self.bytes.len());
        self.bytes.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    fn text(&self) -> Option<Box<str>> {
        self.is_text.then(|| text(&self.bytes, self.has_escapes))
    }

    fn id(&self) -> Option<Id> {
        if self.is_text {
            return Some(Id::Text(text(&self.bytes, self.has_escapes)));
        }
        let number = std::str::from_utf8(&self.bytes).ok()?;
        number
            .starts_with(|first: char| first == '-' || first.is_ascii_digit())
            .then(|| Id::Number(number.into()))
    }

    fn number(&self) -> Option<i64> {
        if self.is_text { None } else { std::str::from_utf8(&self.bytes).ok()?.parse().ok() }
    }
}

/// A JSON string's contents: with what can't be understood as it stands.
fn text(bytes: &[u8], has_escapes: bool) -> Box<str> {
    let unescaped = has_escapes.then(|| {
        let quoted = [b"\"".as_slice(), bytes, b"\"".as_slice()].concat();
        serde_json::from_slice::<String>(&quoted).ok()
    });
    match unescaped.flatten() {
        Some(text) => text.into(),
        None => String::from_utf8_lossy(bytes).into(),
    }
}

/// A message while it is read.
#[derive(Clone, Debug, Default)]
struct Draft {
    /// `jsonrpc` is "2.0": log lines are JSON too.
    has_version: bool,
    has_result: bool,
    has_error: bool,
    id: Option<Id>,
    method: Option<Box<str>>,
    name: Option<Box<str>>,
    uri: Option<Box<str>>,
    cancelled: Option<Id>,
    error_code: Option<i64>,
    error_message: Option<Box<str>>,
    is_tool_error: bool,
    result_type: Option<Box<str>>,
    request_state: Option<Box<str>>,
    task: Option<Box<str>>,
    trace_parent: Option<Box<str>>,
}

impl Draft {
    /// Takes a value by the keys that lead to it, outermost first.
    fn take(&mut self, path: &[Key], token: &Token) {
        match *path {
            [Key::Version] => self.has_version = token.is_text && token.bytes == b"2.0",
            [Key::Id] => self.id = token.id(),
            [Key::Method] => self.method = token.text(),
            [Key::Params, Key::Name] => self.name = token.text(),
            [Key::Params, Key::Uri] => self.uri = token.text(),
            [Key::Params, Key::RequestId] => self.cancelled = token.id(),
            [Key::Params, Key::Meta, Key::TraceParent] => self.trace_parent = token.text(),
            [Key::Params | Key::Result, Key::TaskId] | [Key::Result, Key::Task, Key::TaskId] => {
                self.task = token.text();
            }
            [Key::Params | Key::Result, Key::RequestState] => self.request_state = token.text(),
            [Key::Error, Key::Code] => self.error_code = token.number(),
            [Key::Error, Key::Message] => self.error_message = token.text(),
            [Key::Result, Key::IsError] => self.is_tool_error = !token.is_text && token.bytes == b"true",
            [Key::Result, Key::ResultType] => self.result_type = token.text(),
            _ => {}
        }
    }

    /// A value of whatever sort starts under a key of the message itself.
    fn note(&mut self, key: Key) {
        match key {
            Key::Result => self.has_result = true,
            Key::Error => self.has_error = true,
            _ => {}
        }
    }

    fn message(self) -> Option<Message> {
        if !self.has_version {
            return None;
        }
        let kind = match (&self.method, &self.id) {
            (Some(_), Some(_)) => Kind::Request,
            (Some(_), None) => Kind::Notification,
            (None, _) if self.has_error => Kind::Error,
            (None, Some(_)) if self.has_result => Kind::Result,
            _ => return None,
        };
        Some(Message {
            kind,
            id: self.id,
            method: self.method,
            name: self.name.or(self.uri),
            cancelled: self.cancelled,
            error_code: self.error_code,
            error_message: self.error_message,
            is_tool_error: self.is_tool_error,
            result_type: self.result_type,
            request_state: self.request_state,
            task: self.task,
            trace_parent: self.trace_parent,
        })
    }
}

impl Scanner {
    /// Takes the next bytes.
    pub fn feed(&mut self, mut bytes: &[u8]) {
        if let Some(tail) = &mut self.tail {
            keep_last(tail, bytes);
            return;
        }
        while let Some((&byte, rest)) = bytes.split_first() {
            bytes = match self.state {
                State::Between => {
                    self.between(byte);
                    rest
                }
                State::Escape => {
                    self.token.push(&[byte]);
                    self.state = State::Text;
                    rest
                }
                State::Text => self.in_text(bytes),
                State::Scalar if byte.is_ascii_alphanumeric() || b"+-.".contains(&byte) => {
                    self.token.push(&[byte]);
                    rest
                }
                State::Scalar => {
                    self.state = State::Between;
                    self.value();
                    bytes
                }
            };
        }
    }

    /// Some bytes are missing here.
    pub fn gap(&mut self) {
        self.has_started = true;
        self.tail = Some(Vec::new());
    }

    /// Whether a text has begun and its brackets are not all closed.
    pub fn is_open(&self) -> bool {
        self.depth > 0 || self.state != State::Between || self.tail.is_some()
    }

    /// The memory that a text takes while it is read, in bytes. Of the message that is open now it is a guess.
    pub fn held_bytes(&self) -> usize {
        let open = if self.is_open() { size_of::<Self>() } else { 0 };
        let tail = self.tail.as_ref().map_or(0, Vec::capacity);
        let messages = self.messages.iter().map(Message::held_bytes).sum::<usize>();
        open + self.token.bytes.capacity() + tail + messages
    }

    /// Whether some of the text was missing.
    pub fn has_gap(&self) -> bool {
        self.tail.is_some()
    }

    /// Whether the text can be no message, whatever follows.
    pub fn is_broken(&self) -> bool {
        self.is_broken && self.tail.is_none()
    }

    /// The text ends here.
    pub fn finish(&mut self) -> Outcome {
        let mut this = std::mem::take(self);
        if this.state == State::Scalar {
            this.value();
        }
        if !this.has_started {
            return Outcome::Empty;
        }
        if let Some(tail) = this.tail.take() {
            this.draft_from_end(&tail);
            this.messages.extend(this.draft.message());
        } else if this.depth > 0 || this.is_broken {
            return Outcome::NotRpc;
        }
        if this.messages.is_empty() { Outcome::NotRpc } else { Outcome::Messages(this.messages) }
    }

    fn in_text<'bytes>(&mut self, bytes: &'bytes [u8]) -> &'bytes [u8] {
        let Some(end) = memchr::memchr2(b'"', b'\\', bytes) else {
            self.token.push(bytes);
            return &[];
        };
        self.token.push(&bytes[..end]);
        if bytes[end] == b'\\' {
            self.token.has_escapes = true;
            self.token.push(b"\\");
            self.state = State::Escape;
        } else {
            self.state = State::Between;
            self.text();
        }
        &bytes[end + 1..]
    }

    fn between(&mut self, byte: u8) {
        match byte {
            b' ' | b'\t' | b'\r' | b'\n' => return,
            b'{' | b'[' => self.open(byte == b'{'),
            b'}' | b']' => self.close(),
            b'"' => {
                self.state = State::Text;
                self.token.start(true);
            }
            b':' => self.with_level(|level| level.is_value = true),
            b',' => self.with_level(|level| (level.is_value, level.key) = (false, Key::Other)),
            _ => {
                self.state = State::Scalar;
                self.token.start(false);
                self.token.push(&[byte]);
            }
        }
        self.is_broken |= self.depth == 0 && !matches!(byte, b'}' | b']');
        self.has_started = true;
    }

    /// The level that is open, if its keys are followed: 0 is the message's own.
    fn level(&self) -> Option<usize> {
        let level = self.depth.checked_sub(1 + u64::from(self.is_batch))?;
        usize::try_from(level).ok().filter(|level| *level < LEVELS)
    }

    fn with_level(&mut self, change: impl FnOnce(&mut Level)) {
        if let Some(level) = self.level() {
            change(&mut self.levels[level]);
        }
    }

    fn open(&mut self, is_object: bool) {
        if self.depth == 0 {
            // A second value in one text.
            self.is_broken |= self.has_started;
            self.is_batch = !is_object;
        } else if self.level() == Some(0) {
            self.draft.note(self.levels[0].key);
        }
        self.depth += 1;
        self.with_level(|level| *level = Level { is_object, ..Level::default() });
    }

    fn close(&mut self) {
        let was_message = self.level() == Some(0);
        let Some(depth) = self.depth.checked_sub(1) else {
            self.is_broken = true;
            return;
        };
        self.depth = depth;
        if was_message && self.messages.len() < MAX_BATCH {
            self.messages.extend(std::mem::take(&mut self.draft).message());
        }
    }

    /// A string has ended: a key or a value.
    fn text(&mut self) {
        let Some(level) = self.level() else { return };
        let level = &mut self.levels[level];
        if level.is_object && !level.is_value {
            level.key = Key::of(&self.token.bytes);
        } else {
            self.value();
        }
    }

    /// A value without brackets has ended.
    fn value(&mut self) {
        let Some(innermost) = self.level() else { return };
        let path = self.levels.map(|level| if level.is_object { level.key } else { Key::Other });
        if innermost == 0 {
            self.draft.note(path[0]);
        }
        self.draft.take(&path[..=innermost], &self.token);
    }

    /// The fields that a message's last bytes tell, as far as they are there.
    fn draft_from_end(&mut self, tail: &[u8]) {
        if self.is_batch {
            return;
        }
        for (depth, key, token) in fields_from_end(tail) {
            match (depth, key) {
                (1, key) => {
                    self.draft.note(key);
                    self.draft.take(&[key], &token);
                }
                // Of the fields within, this one stands at the end of results, and nowhere else.
                (2, Key::IsError) => self.draft.take(&[Key::Result, key], &token),
                _ => {}
            }
        }
        // What is gone held a result, if it held no method and no error: it was long. It may have held the version.
        self.draft.has_result |= self.draft.method.is_none() && !self.draft.has_error;
        self.draft.has_version |= self.draft.id.is_some();
    }
}

fn keep_last(tail: &mut Vec<u8>, bytes: &[u8]) {
    tail.extend_from_slice(&bytes[bytes.len().saturating_sub(MAX_TAIL_BYTES)..]);
    let surplus = tail.len().saturating_sub(MAX_TAIL_BYTES);
    tail.drain(..surplus);
}

/// Keys with plain values, read from the end of an object backwards, each with its depth: 1 is the object's own level.
fn fields_from_end(tail: &[u8]) -> Vec<(usize, Key, Token)> {
    let mut fields = Vec::new();
    let mut depth = 0_usize;
    // What stands to the right of here on the same level: a value waits for its key.
    let mut value: Option<Token> = None;
    let mut is_key = false;
    // Events end with a line end that is part of their data.
    let mut end = tail.trim_ascii_end().len();
    while end > 0 {
        let byte = tail[end - 1];
        match byte {
            b'}' | b']' => {
                depth += 1;
                (value, is_key) = (None, false);
            }
            b'{' | b'[' => {
                let Some(outer) = depth.checked_sub(1) else { break };
                depth = outer;
                // The value that ends here has brackets: only its key is of interest.
                value = Some(Token::default());
                is_key = false;
            }
            b':' => is_key = true,
            b',' => (value, is_key) = (None, false),
            b'"' => {
                let Some(start) = text_start(tail, end - 1) else { break };
                let bytes = &tail[start + 1..end - 1];
                if is_key {
                    fields.push((depth, Key::of(bytes), value.take().unwrap_or_default()));
                    is_key = false;
                } else {
                    value = Some(token(bytes, true));
                }
                end = start;
                continue;
            }
            byte if byte.is_ascii_whitespace() => {}
            _ => {
                let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || b"+-.".contains(byte);
                let length = tail[..end].iter().rev().take_while(|byte| is_part(byte)).count();
                if length == 0 || length == end {
                    break;
                }
                value = Some(token(&tail[end - length..end], false));
                end -= length;
                continue;
            }
        }
        if depth == 0 && byte != b'}' {
            break;
        }
        end -= 1;
    }
    fields
}

fn token(bytes: &[u8], is_text: bool) -> Token {
    let mut token = Token::default();
    token.start(is_text);
    token.push(bytes);
    token.has_escapes = bytes.contains(&b'\\');
    token
}

/// Where the string starts whose closing quote is at `end`.
fn text_start(tail: &[u8], end: usize) -> Option<usize> {
    memchr::memrchr_iter(b'"', &tail[..end]).find(|&start| {
        let escapes = tail[..start].iter().rev().take_while(|byte| **byte == b'\\').count();
        // Where backslashes reach the start of what is there, nobody knows.
        escapes % 2 == 0 && escapes < start
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

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
        assert_eq!(failed.error_message.as_deref(), Some("bad \u{e4}"));
        let result = one(RESULT);
        assert_eq!(
            (result.kind, result.id, result.is_tool_error),
            (Kind::Result, Some(Id::Number("3".into())), true)
        );
        let cancelled = r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":5}}"#;
        assert_eq!(one(cancelled).cancelled, Some(Id::Number("5".into())));
        assert_eq!(one(cancelled).kind, Kind::Notification);
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
            assert_eq!(scanner.finish(), Outcome::Messages(vec![whole.clone()]), "{from}..{to}");
        }
        let mut scanner = Scanner::default();
        scanner.feed(&CALL.as_bytes()[..70]);
        scanner.gap();
        scanner.feed(br#"x"},"_meta":{}},"jsonrpc":"2.0","id":"7"}"#);
        let Outcome::Messages(messages) = scanner.finish() else { panic!() };
        assert_eq!(messages[0].id, Some(Id::Text("7".into())));
        assert_eq!(messages[0].name.as_deref(), Some("read_file"));
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
}
