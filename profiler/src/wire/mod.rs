//! From bytes on the wire to JSON-RPC messages to calls: sans-io state machines with bounded memory.
//!
//! [`stdio`] and [`http`] know how messages are framed, [`json`] what a message says, [`calls`] which response answers
//! which request. All of them take bytes as they were read or written, in pieces, and some of them missing.

mod call;
pub mod calls;
pub mod contents;
#[cfg(test)]
mod conversations;
mod gaps;
pub mod http;
pub mod json;
mod message;
mod open;
pub mod queue;
pub mod shape;
pub mod sse;
pub mod stdio;
pub mod streams;

pub use message::{Id, Kind, Message, Received};

/// What came next on a stream.
#[derive(Clone, Copy, Debug)]
pub enum Piece<'bytes> {
    /// Bytes as they were moved.
    Bytes(&'bytes [u8]),
    /// That many bytes are missing.
    Gap(u64),
    /// That many bytes are missing, and no line ends in them.
    WithinLine(u64),
}

impl Piece<'_> {
    /// How long it is, in bytes.
    pub fn length(self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Gap(missing) | Self::WithinLine(missing) => missing,
        }
    }
}
