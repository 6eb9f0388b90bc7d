//! Bytes that watched processes read and write on streams that speak MCP.

use crate::event::EventHeader;

/// Most bytes of one [`WireEvent`].
pub const MAX_WIRE_BYTES: usize = 8192;
/// Most parts of what one system call moved.
pub const MAX_WIRE_PARTS: u32 = 16;
/// What [`StreamRule::whole_bytes`] is at first.
pub const WHOLE_BYTES: u32 = 2 * MAX_WIRE_BYTES as u32;
/// Size of the ring buffer of messages. It holds more than half a second of a stdio server's messages at full speed.
pub const MESSAGES_BYTES: u32 = 8 << 20;
/// Streams that are known at once; the one that was not used for longest makes room.
pub const MAX_STREAMS: u32 = 16384;
/// Most buffers of one `readv`, `writev`, `sendmsg` or `recvmsg` that are looked at.
pub const MAX_VECTORS: u32 = 64;

/// A part of what one system call moved; its bytes follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[repr(C)]
pub struct WireEvent {
    /// Common start; the time is that of the call's return.
    pub header: EventHeader,
    /// Inode number of the pipe or socket.
    pub stream: u64,
    /// Thread ID in the initial PID namespace.
    pub tid: u32,
    /// All that the call moved, in bytes.
    pub total: u32,
    /// Where in that these bytes are.
    pub offset: u32,
    /// How many follow.
    pub length: u32,
    /// A [`WireFlag`] set.
    pub flags: u32,
    /// File descriptor that was used.
    pub descriptor: u32,
}

/// Bits of [`WireEvent::flags`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum WireFlag {
    /// It was written by the process, else read.
    Written = 1,
    /// The stream is a socket, else a pipe.
    Socket = 2,
    /// No more events come of this call.
    Last = 4,
    /// Some of its buffers could not be read, or were too many.
    Unreadable = 8,
    /// Nothing was moved: the peer has closed the stream.
    Ended = 16,
    /// Before this, in the same direction of the same stream, something did not fit into the ring buffer.
    Lost = 32,
    /// The stream is encrypted: nothing more comes of it, but maybe of a [`Plain`](Self::Plain) one.
    Encrypted = 64,
    /// What goes through a TLS library inside of the process: the stream is a connection of that.
    Plain = 128,
    /// No bytes at all: the process has an `io_uring`.
    IoUring = 256,
    /// The call had several buffers. Where it is cut, no part reaches over the end of one that ends a line, unless all of it is
    /// taken, or there are more than parts.
    Buffers = 512,
    /// What is missing before these bytes is within one line.
    WithinLine = 1024,
}

/// A client wrote to its end of a stream that a watched process reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[repr(C)]
pub struct ClientWriteEvent {
    /// Common start; the process is the client, the time is that of the call's start.
    pub header: EventHeader,
    /// The watched process's end: inode number of the pipe or socket.
    pub stream: u64,
    /// When the call returned.
    pub end_ns: u64,
    /// All that was written there since it is watched, this included, in bytes.
    pub written: u64,
    /// What this call wrote, in bytes.
    pub length: u64,
}

/// A client's end of a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[repr(C)]
pub struct ClientStream {
    /// The watched process's end.
    pub stream: u64,
    /// What was written since it is watched, in bytes.
    pub written: u64,
}

/// Most clients of watched processes on this host.
pub const MAX_CLIENTS: u32 = 1024;
/// Most streams of which their clients' ends are watched.
pub const MAX_CLIENT_STREAMS: u32 = 4096;

/// A function of a TLS library, as the cookie of the attachment tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum TlsFunction {
    /// `SSL_read`.
    Read = 1,
    /// `SSL_write`.
    Write = 2,
    /// `SSL_read_ex`.
    ReadExtended = 3,
    /// `SSL_write_ex`.
    WriteExtended = 4,
    /// `SSL_free`.
    Free = 5,
}

/// What is done with a stream: the value of its entry in the map of streams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[repr(C)]
pub struct StreamRule {
    /// A [`StreamVerdict`].
    pub verdict: u32,
    /// Calls that were looked at before the verdict.
    pub looked_at: u32,
    /// Calls that move up to so many bytes are taken whole; of longer ones the first and the last
    /// [`MAX_WIRE_BYTES`] / 2. Of a line that is longer than this, what calls that are taken whole go on with it is not taken
    /// but for their ends.
    pub whole_bytes: u32,
    /// Not zero when something that was read did not fit into the ring buffer, and nobody was told yet.
    pub lost_read: u32,
    /// The same for what was written.
    pub lost_written: u32,
    /// How long the line is that the last call which read ended within, as far as is known, in bytes; zero between lines. It may
    /// have begun before, but has not ended.
    pub line_read: u32,
    /// The same for what was written.
    pub line_written: u32,
    /// The stretch of time of the last call.
    pub window: u32,
    /// What was to be put out in it, half of that in the one before, and so on, in bytes.
    pub taken: u32,
    /// Not zero when that is much, and the ring buffer was nearly full.
    pub is_held_back: u32,
}

/// Whether a stream is of interest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u32)]
pub enum StreamVerdict {
    /// Not known yet.
    #[default]
    Unknown = 0,
    /// It speaks JSON-RPC or HTTP, as far as its first bytes tell.
    Captured = 1,
    /// It does not.
    Ignored = 2,
}

// SAFETY: `repr(C)`, ten `u32` and no padding: every bit pattern is valid.
#[cfg(feature = "user")]
unsafe impl aya::Pod for StreamRule {}

// SAFETY: `repr(C)`, two `u64` and no padding: every bit pattern is valid.
#[cfg(feature = "user")]
unsafe impl aya::Pod for ClientStream {}
