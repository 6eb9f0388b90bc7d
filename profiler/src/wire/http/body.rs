//! What is in a body: one JSON text, or a stream of events.

use super::{Event, Head};
use crate::wire::contents::Capture;
use crate::wire::json::{Outcome, Scanner};
use crate::wire::sse::Events;
use crate::wire::{Message, Piece, Received};

/// The body of a request or response, as far as it was read.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Body {
    /// Also when and where it began.
    Json {
        scanner: Box<Scanner>,
        first: Option<(u64, u64)>,
        bytes: u64,
        cut: u64,
    },
    Events(Box<Events>),
    Other,
}

impl Body {
    pub(super) fn events(capture: Capture) -> Self {
        Self::Events(Box::new(Events::new(capture)))
    }

    pub(super) fn of(head: &Head, capture: Capture) -> Self {
        if head.is_event_stream {
            Self::events(capture)
        } else if head.is_json {
            Self::Json { scanner: Box::new(Scanner::new(capture)), first: None, bytes: 0, cut: 0 }
        } else {
            Self::Other
        }
    }

    pub(super) fn feed(&mut self, piece: Piece<'_>, now_ns: u64, position: u64, out: &mut Vec<Event>) {
        match self {
            Self::Json { scanner, first, bytes, .. } => {
                first.get_or_insert((now_ns, position));
                match piece {
                    Piece::Bytes(part) => {
                        *bytes += part.len() as u64;
                        scanner.feed(part);
                    }
                    Piece::Gap(missing) | Piece::WithinLine(missing) => {
                        *bytes = bytes.saturating_add(missing);
                        scanner.gap();
                    }
                }
            }
            Self::Events(events) => {
                events.feed(piece, now_ns, |messages, first_ns, length| {
                    push(messages, (first_ns, None), now_ns, length, out);
                });
            }
            Self::Other => {}
        }
    }

    pub(super) fn end(&mut self, now_ns: u64, out: &mut Vec<Event>) {
        if let Self::Json { scanner, first, bytes, cut } = self {
            let had_gap = scanner.has_gap();
            match scanner.finish() {
                Outcome::Messages(messages) => {
                    let first = first.map_or((now_ns, None), |(first_ns, offset)| (first_ns, Some(offset)));
                    push(messages, first, now_ns, *bytes, out);
                }
                Outcome::NotRpc => *cut += u64::from(had_gap),
                Outcome::Empty => {}
            }
        }
    }

    /// Messages of it that were cut, and can't be told.
    pub(super) fn cut(&self) -> u64 {
        match self {
            Self::Json { cut, .. } => *cut,
            Self::Events(events) => events.cut,
            Self::Other => 0,
        }
    }

    /// The memory that it takes while it is read, in bytes.
    pub(super) fn held_bytes(&self) -> usize {
        match self {
            Self::Json { scanner, .. } => scanner.held_bytes(),
            Self::Events(events) => events.held_bytes(),
            Self::Other => 0,
        }
    }
}

/// The length counts once, on the first message.
fn push(
    messages: Vec<Message>,
    (first_ns, offset): (u64, Option<u64>),
    last_ns: u64,
    mut bytes: u64,
    out: &mut Vec<Event>,
) {
    out.extend(messages.into_iter().map(|message| {
        let bytes = std::mem::take(&mut bytes);
        Event::Message(Received { message, first_ns, last_ns, thread: 0, offset, queue_ns: None, bytes })
    }));
}
