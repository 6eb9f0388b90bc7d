//! Keys and plain values, as they stand in a text.

use super::super::message::Id;
use super::MAX_VALUE_BYTES;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Key {
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
    Arguments,
    Content,
    Text,
}

impl Key {
    pub(super) fn of(text: &[u8]) -> Self {
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
            b"arguments" => Self::Arguments,
            b"content" => Self::Content,
            b"text" => Self::Text,
            _ => Self::Other,
        }
    }
}

/// A key, string, number or literal, up to its bound.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Token {
    pub(super) bytes: Vec<u8>,
    pub(super) has_escapes: bool,
    pub(super) is_text: bool,
}

impl Token {
    /// One that is there as a whole.
    pub(super) fn of(bytes: &[u8], is_text: bool) -> Self {
        let mut token = Self::default();
        token.start(is_text);
        token.push(bytes);
        token.has_escapes = bytes.contains(&b'\\');
        token
    }

    pub(super) fn start(&mut self, is_text: bool) {
        self.bytes.clear();
        self.has_escapes = false;
        self.is_text = is_text;
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        let room = MAX_VALUE_BYTES.saturating_sub(self.bytes.len());
        self.bytes.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    pub(super) fn text(&self) -> Option<Box<str>> {
        self.is_text.then(|| text(&self.bytes, self.has_escapes))
    }

    pub(super) fn id(&self) -> Option<Id> {
        if self.is_text {
            return Some(Id::Text(text(&self.bytes, self.has_escapes)));
        }
        let number = std::str::from_utf8(&self.bytes).ok()?;
        number
            .starts_with(|first: char| first == '-' || first.is_ascii_digit())
            .then(|| Id::Number(number.into()))
    }

    pub(super) fn number(&self) -> Option<i64> {
        if self.is_text { None } else { std::str::from_utf8(&self.bytes).ok()?.parse().ok() }
    }
}

/// A JSON string's contents: with what can't be understood as it stands.
pub(in crate::wire) fn text(bytes: &[u8], has_escapes: bool) -> Box<str> {
    let unescaped = has_escapes.then(|| {
        let quoted = [b"\"".as_slice(), bytes, b"\"".as_slice()].concat();
        serde_json::from_slice::<String>(&quoted).ok()
    });
    match unescaped.flatten() {
        Some(text) => text.into(),
        None => String::from_utf8_lossy(bytes).into(),
    }
}
