//! The records in the ring buffer. Each starts with an [`EventHeader`] and has its own length.

/// Length of a thread name in the kernel (`TASK_COMM_LEN`), with its final NUL.
pub const COMM_LEN: usize = 16;

/// What a record in the ring buffer is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum EventKind {
    /// A [`SampleEvent`], followed by its frames.
    Sample = 1,
    /// A [`ForkEvent`]: a watched process made a process, which is watched from now on.
    Fork = 2,
    /// An [`ExecEvent`], followed by arguments: a watched process now runs another program.
    Exec = 3,
    /// An [`EventHeader`] alone: the last thread of a watched process ended.
    Exit = 4,
    /// A [`WireEvent`](crate::WireEvent), followed by bytes that were read or written.
    Wire = 5,
    /// A [`ClientWriteEvent`](crate::ClientWriteEvent).
    ClientWrite = 6,
}

impl EventKind {
    /// The kind with this number.
    pub fn from_number(number: u32) -> Option<Self> {
        match number {
            1 => Some(Self::Sample),
            2 => Some(Self::Fork),
            3 => Some(Self::Exec),
            4 => Some(Self::Exit),
            5 => Some(Self::Wire),
            6 => Some(Self::ClientWrite),
            _ => None,
        }
    }
}

/// The start of each record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[repr(C)]
pub struct EventHeader {
    /// An [`EventKind`].
    pub kind: u32,
    /// Process ID in the initial PID namespace (the kernel's `tgid`).
    pub pid: u32,
    /// `CLOCK_MONOTONIC`, in nanoseconds.
    pub timestamp_ns: u64,
}

/// A process was made; `header.pid` is its parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[repr(C)]
pub struct ForkEvent {
    /// Common start; the process is the parent.
    pub header: EventHeader,
    /// Process ID of the child.
    pub child_pid: u32,
    /// Always zero.
    pub reserved: u32,
}

/// A process runs another program. Its arguments follow, each ended by NUL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[repr(C)]
pub struct ExecEvent {
    /// Common start.
    pub header: EventHeader,
    /// How many bytes follow: all arguments, or the first [`MAX_ARGUMENT_BYTES`].
    pub length: u32,
    /// Always zero.
    pub reserved: u32,
}

/// Most bytes of arguments that an [`ExecEvent`] tells.
pub const MAX_ARGUMENT_BYTES: usize = 1024;

/// A thread was seen on a CPU. `kernel_frames + user_words` words of 8 bytes follow:
/// addresses of kernel frames first, then user frames as [`FrameTag`](crate::FrameTag) tells, innermost first in both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
#[repr(C)]
pub struct SampleEvent {
    /// Common start.
    pub header: EventHeader,
    /// Name of the thread, ended by NUL.
    pub comm: [u8; COMM_LEN],
    /// Thread ID in the initial PID namespace.
    pub tid: u32,
    /// How many of the words are kernel frames.
    pub kernel_frames: u16,
    /// How many of the words are user frames.
    pub user_words: u16,
    /// A [`StackEnd`]: why the walk of the user stack ended.
    pub stack_end: u32,
    /// Always zero.
    pub reserved: u32,
    /// The last address that the walk could not read, as it is paged out or is none; zero when it could read all.
    pub unreadable: u64,
}

/// Why the walk of a user stack ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum StackEnd {
    /// The chain of frame pointers ended with a zero, as the ABI asks of the outermost frame.
    ChainEnd = 1,
    /// The walk led to memory that could not be read.
    Unreadable = 2,
    /// The walk did not lead towards the stack's base.
    NotAscending = 3,
    /// The stack is deeper than [`MAX_USER_FRAMES`](crate::MAX_USER_FRAMES).
    TooDeep = 4,
    /// The thread had no user stack: it was starting, ending, or starting another program.
    NoUserStack = 5,
    /// The outermost frame was reached: its unwind row says that its return address is undefined.
    Outermost = 6,
    /// An address belonged to no code that was known by then.
    NoMapping = 7,
    /// The file's unwind rows say nothing of an address.
    NoUnwindRow = 8,
    /// The walk reached the end, but Python functions on the way could not be told, or not all: the interpreter's own frames
    /// stand in their place.
    PythonFramesUnreadable = 9,
}

impl StackEnd {
    /// Every end, in the order of their numbers.
    pub const ALL: [Self; 9] = [
        Self::ChainEnd,
        Self::Unreadable,
        Self::NotAscending,
        Self::TooDeep,
        Self::NoUserStack,
        Self::Outermost,
        Self::NoMapping,
        Self::NoUnwindRow,
        Self::PythonFramesUnreadable,
    ];

    /// The end with this number.
    pub fn from_number(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|end| *end as u32 == number)
    }

    /// The name that reports use.
    pub fn name(self) -> &'static str {
        match self {
            Self::ChainEnd => "chain_end",
            Self::Unreadable => "unreadable_stack",
            Self::NotAscending => "broken_frame_pointer",
            Self::TooDeep => "too_deep",
            Self::NoUserStack => "no_user_stack",
            Self::Outermost => "outermost",
            Self::NoMapping => "unknown_code",
            Self::NoUnwindRow => "no_unwind_row",
            Self::PythonFramesUnreadable => "python_frames_unreadable",
        }
    }
}
