//! What is kept of a JSON-RPC message: enough to pair it, to name it and to say how it ended. Its contents only where they
//! were asked for.

use std::borrow::Cow;

/// A request's ID: `1` and `"1"` are different ones.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Id {
    /// As it was written, such as `7`.
    Number(Box<str>),
    /// Without its quotes.
    Text(Box<str>),
}

impl Id {
    /// It as JSON.
    pub fn json(&self) -> Cow<'_, str> {
        match self {
            Self::Number(number) => number.as_ref().into(),
            Self::Text(text) => serde_json::Value::from(&**text).to_string().into(),
        }
    }

    /// The ID that is so in JSON; `None` for what can't be one.
    pub fn from_json(json: &str) -> Option<Self> {
        match serde_json::from_str(json).ok()? {
            serde_json::Value::String(text) => Some(Self::Text(text.into())),
            serde_json::Value::Number(_) => Some(Self::Number(json.into())),
            _ => None,
        }
    }
}

/// What a message does in the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It has a method and an ID.
    Request,
    /// It has a method, and no ID.
    Notification,
    /// It has an ID, and a result.
    Result,
    /// It has an error; its ID is absent where the request could not be read.
    Error,
}

/// A JSON-RPC message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// What it does.
    pub kind: Kind,
    /// Absent in notifications, and where it was cut out.
    pub id: Option<Id>,
    /// `tools/call`, `resources/read`...: of requests and notifications.
    pub method: Option<Box<str>>,
    /// `params.name`, or `params.uri`: the tool, prompt or resource.
    pub name: Option<Box<str>>,
    /// `params.requestId` of `notifications/cancelled`: the request that nobody waits for any more.
    pub cancelled: Option<Id>,
    /// `error.code`.
    pub error_code: Option<i64>,
    /// `error.message`, or the first text of a result that says `isError`: its [shape](super::shape), or where contents are
    /// kept, itself, cut to [`MAX_VALUE_BYTES`](super::json::MAX_VALUE_BYTES) and without what looks secret.
    pub error_message: Option<Box<str>>,
    /// `result.isError`: the tool itself failed.
    pub is_tool_error: bool,
    /// `result.resultType`: `input_required` asks for a retry under another ID.
    pub result_type: Option<Box<str>>,
    /// `requestState` of a result that asks for input, and of the request that brings it.
    pub request_state: Option<Box<str>>,
    /// The task that a result started, or that a request asks for.
    pub task: Option<Box<str>>,
    /// `params._meta.traceparent`: the trace that a request belongs to (W3C Trace Context).
    pub trace_parent: Option<Box<str>>,
    /// `params.arguments` as JSON, without what looks secret; only where [contents](super::contents) are kept.
    pub arguments: Option<Box<str>>,
    /// `result`, the same.
    pub result: Option<Box<str>>,
}

impl Id {
    /// The memory that it takes besides its own value, in bytes.
    pub fn held_bytes(&self) -> usize {
        let (Self::Number(text) | Self::Text(text)) = self;
        text.len()
    }
}

impl Message {
    /// The memory that it takes, in bytes.
    pub fn held_bytes(&self) -> usize {
        let Self {
            id,
            method,
            name,
            cancelled,
            error_message,
            result_type,
            request_state,
            task,
            trace_parent,
            arguments,
            result,
            ..
        } = self;
        let contents = [arguments, result];
        let texts = [method, name, error_message, result_type, request_state, task, trace_parent];
        let ids = [id, cancelled].into_iter().flatten().map(Id::held_bytes);
        size_of::<Self>()
            + texts.into_iter().chain(contents).flatten().map(|text| text.len()).chain(ids).sum::<usize>()
    }
}

/// A message on a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// What it says.
    pub message: Message,
    /// When its first byte was there, `CLOCK_MONOTONIC` in nanoseconds.
    pub first_ns: u64,
    /// When its last byte was there.
    pub last_ns: u64,
    /// The thread that moved its last byte; zero when that is not known.
    pub thread: u32,
    /// Where its first byte stood, counted from the first one that was seen of its stream and direction; absent in streams
    /// of events, which are written by servers.
    pub offset: Option<u64>,
    /// How long it waited since its sender began to write it, in nanoseconds, where that is known.
    pub queue_ns: Option<u64>,
    /// Its length as it stood on the stream, without framing; of a batch, the whole batch's on its first message.
    pub bytes: u64,
}
