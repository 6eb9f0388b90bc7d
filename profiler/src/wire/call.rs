//! A request and what became of it.

use super::message::Id;

/// Peers that share IDs.
pub type Session = u64;

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

    pub(super) fn other(self) -> Self {
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
    /// No answer by the end of its process, or before its ID was used again; or it was given up.
    Unanswered,
    /// Its stream ended first.
    CutOff,
    /// Not known: its answer may have been among what could not be recorded.
    Lost,
    /// Not yet: it was still worked on, or waited for its caller, when the recording ended.
    InFlight,
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
            Self::InFlight => 8,
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
            8 => Self::InFlight,
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
            Self::InFlight => "in_flight",
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
    /// What the HTTP header `Mcp-Session-Id` of its request says. Whoever has it can speak in the session: only where
    /// [contents](super::contents) are kept.
    pub session_id: Option<Box<str>>,
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

impl Call {
    /// Whether it is of one of these tools (prompts, resources), or of one of these methods.
    pub fn is_of(&self, names: &[String]) -> bool {
        names.iter().any(|name| self.name.as_deref() == Some(name) || *self.method == **name)
    }

    /// The memory that it takes, in bytes.
    pub(super) fn held_bytes(&self) -> usize {
        let Self { method, name, trace_parent, session_id, arguments, result, request_id, .. } = self;
        let texts = [
            Some(method),
            name.as_ref(),
            trace_parent.as_ref(),
            session_id.as_ref(),
            arguments.as_ref(),
            result.as_ref(),
        ];
        let id = request_id.as_ref().map_or(0, Id::held_bytes);
        size_of::<Self>() + texts.into_iter().flatten().map(|text| text.len()).sum::<usize>() + id
    }
}
