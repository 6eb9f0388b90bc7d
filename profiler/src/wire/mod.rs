//! From bytes on the wire to JSON-RPC messages to calls: sans-io state machines with bounded memory.
//!
//! [`stdio`] and [`http`] know how messages are framed, [`json`] what a message says, [`calls`] which response answers
//! which request. All of them take bytes as they were read or written, in pieces, and some of them missing.

pub mod calls;
pub mod http;
pub mod json;
mod message;
pub mod sse;
pub mod stdio;

pub use message::{Id, Kind, Message, Received};

/// What one system call moved: its first bytes, and its last where those between were left out.
#[derive(Clone, Copy, Debug, Default)]
pub struct Chunk<'bytes> {
    /// When the call returned, `CLOCK_MONOTONIC` in nanoseconds.
    pub timestamp_ns: u64,
    /// All that was moved, in bytes.
    pub total: u64,
    /// Its first bytes.
    pub head: &'bytes [u8],
    /// Its last bytes, if some before them are missing; else empty.
    pub tail: &'bytes [u8],
}

/// A part of a [`Chunk`].
#[derive(Clone, Copy, Debug)]
pub(crate) enum Piece<'bytes> {
    Bytes(&'bytes [u8]),
    /// That many bytes are missing.
    Gap(u64),
}

impl<'bytes> Chunk<'bytes> {
    /// Bytes of which none is missing.
    pub fn whole(timestamp_ns: u64, bytes: &'bytes [u8]) -> Self {
        Self { timestamp_ns, total: bytes.len() as u64, head: bytes, tail: &[] }
    }

    pub(crate) fn pieces(self) -> impl Iterator<Item = Piece<'bytes>> {
        let missing = self.total.saturating_sub((self.head.len() + self.tail.len()) as u64);
        let gap = (missing > 0).then_some(Piece::Gap(missing));
        let bytes = |bytes: &'bytes [u8]| (!bytes.is_empty()).then_some(Piece::Bytes(bytes));
        bytes(self.head).into_iter().chain(gap).chain(bytes(self.tail))
    }
}
