//! What a recording says, read into memory: plain values for `analysis`.

use std::collections::BTreeMap;
use std::sync::Arc;

pub use profiler_common::StackEnd;

use crate::wire::calls::Call;

/// Index of a [`Process`] in [`Recording::processes`].
pub type ProcessIndex = usize;
/// Index of a [`Frame`] in [`Recording::frames`].
pub type FrameIndex = usize;
/// Index of a [`StackNode`] in [`Recording::stacks`].
pub type StackIndex = usize;

/// One recording, whole.
#[derive(Clone, Debug, Default)]
pub struct Recording {
    /// How and when it was made.
    pub meta: Meta,
    /// Watched processes, in the order in which they were first seen. The first one is the server itself.
    pub processes: Vec<Process>,
    /// Threads that were sampled.
    pub threads: Vec<Thread>,
    /// Distinct code addresses.
    pub frames: Vec<Frame>,
    /// The trie of stacks: a node is a frame below the stack of its parent.
    pub stacks: Vec<StackNode>,
    /// Samples in the order of their timestamps.
    pub samples: Vec<Sample>,
    /// What was lost, by cause. Causes that did not happen are absent.
    pub losses: BTreeMap<String, u64>,
    /// JSON-RPC calls in the order of their starts.
    pub calls: Vec<RecordedCall>,
    /// What was seen of JSON-RPC besides calls, by the names of
    /// [`Counts::named`](crate::wire::streams::Counts::named). What did not happen is absent.
    pub messages: BTreeMap<String, u64>,
    /// CPU time and memory of each process over time, as the kernel counts them.
    pub gauges: Vec<Gauge>,
    /// For each process what was sampled, in nanoseconds, once the weights of [samples](Self::samples) were
    /// [scaled](crate::analysis::scaling::scale) to the kernel's count; empty as it is read from a file.
    pub sampled_ns: Vec<u64>,
}

/// How and when a recording was made.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Meta {
    /// Version of the profiler that wrote it.
    pub profiler_version: String,
    /// What the user asked for: a server's name, or the command's.
    pub target_name: String,
    /// Wall-clock start, in milliseconds since 1970.
    pub started_unix_ms: i64,
    /// Start on `CLOCK_MONOTONIC`, the clock of all timestamps, in nanoseconds.
    pub start_ns: u64,
    /// End on the same clock. After a crash: the last batch that was written.
    pub end_ns: u64,
    /// Why the recording ended; `None` when the profiler was killed before it could say.
    pub end_reason: Option<String>,
    /// What drives samples: `cycles` or `cpu-clock`.
    pub sampling_event: String,
    /// Samples a second of CPU time, and so a sample's weight of `1e9 / frequency_hz` nanoseconds.
    pub frequency_hz: u64,
    /// Kernel release of the host.
    pub kernel_release: String,
    /// Online CPUs of the host.
    pub cpus: u64,
    /// Whether calls were looked for.
    pub has_calls: bool,
}

/// A process that was watched.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Process {
    /// Process ID on the host.
    pub pid: u32,
    /// The process that made it, if that one was watched.
    pub parent: Option<ProcessIndex>,
    /// Its arguments, separated by spaces; the last program it ran.
    pub command: String,
    /// `node`, `python`, `go`, `rust`, `native`...
    pub runtime: Runtime,
    /// When it was first watched, `CLOCK_MONOTONIC` in nanoseconds.
    pub first_ns: u64,
    /// When it ended; `None` if it outlived the recording.
    pub exit_ns: Option<u64>,
    /// Folder of its own sources as it saw it, without a slash at the end; paths below it are shown without it.
    pub project: Option<String>,
    /// How its stacks were made; `None` when nothing is known of it.
    pub unwinding: Option<Unwinding>,
}

/// How the stacks of a process were made, in words for people: plain sentences or parts of one, without a dot at the end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unwinding {
    /// Its machine code: `by unwind information, else by frame pointers`.
    pub native: String,
    /// The language's own frames, how they were had or that they are not shown: `CPython 3.11 frames, read in the kernel`.
    /// `None` where the language is machine code.
    pub language: Option<String>,
    /// What to do for better stacks, when something can be done.
    pub advice: Option<String>,
}

/// The language runtime of a process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Runtime {
    /// Lower-case name; empty when not known.
    pub name: String,
    /// Version, when the binary tells it.
    pub version: Option<String>,
}

/// A thread that was sampled.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Thread {
    /// The process it belongs to.
    pub process: ProcessIndex,
    /// Thread ID on the host.
    pub tid: u32,
    /// Its name when it was first sampled.
    pub name: String,
}

/// What sort of code a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum FrameKind {
    /// Machine code from a file, or the vDSO.
    Native = 1,
    /// Kernel code.
    Kernel = 2,
    /// Machine code that a runtime made while running.
    Jit = 3,
    /// A function of CPython.
    Python = 4,
    /// A function of V8.
    JavaScript = 5,
    /// A coroutine of CPython that waits for the asyncio task whose frames stand on it. It was not on the thread's stack: only views by
    /// tasks show it.
    PythonWaiting = 6,
}

impl FrameKind {
    /// The kind with this number.
    pub fn from_number(number: u8) -> Option<Self> {
        [Self::Native, Self::Kernel, Self::Jit, Self::Python, Self::JavaScript, Self::PythonWaiting]
            .into_iter()
            .find(|kind| *kind as u8 == number)
    }
}

/// A distinct code address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// What sort of code it is.
    pub kind: FrameKind,
    /// Path of the file it comes from as the process saw it, or `[kernel]`, `[vdso]`, `[jit]`, `[unknown]`.
    pub module: Arc<str>,
    /// Virtual address within the module's own file, or the address itself where there is no file.
    pub offset: u64,
    /// Functions at this address, outermost first: more than one when calls were inlined.
    /// Empty when it could not be named.
    pub lines: Vec<Line>,
}

/// A function at an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Demangled name.
    pub function: Arc<str>,
    /// Source file, when known.
    pub file: Option<Arc<str>>,
    /// Line in that file, when known.
    pub line: Option<u32>,
}

/// A node of the stack trie. Its parent always has a smaller index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StackNode {
    /// The caller's node; `None` for an outermost frame.
    pub parent: Option<StackIndex>,
    /// The frame.
    pub frame: FrameIndex,
}

/// A thread was seen on a CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// `CLOCK_MONOTONIC`, in nanoseconds.
    pub timestamp_ns: u64,
    /// Index in [`Recording::threads`].
    pub thread: usize,
    /// Innermost node of its stack; `None` when not one frame was found.
    pub stack: Option<StackIndex>,
    /// CPU time it stands for, in nanoseconds.
    pub weight_ns: u64,
    /// Why the walk of its user stack ended.
    pub stack_end: StackEnd,
}

/// A call, and whose it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordedCall {
    /// The process that answered it, or that asked its client.
    pub process: ProcessIndex,
    /// The call.
    pub call: Call,
}

/// What a [`Gauge`] measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum GaugeKind {
    /// CPU time of the process since its start, in nanoseconds (`CLOCK_PROCESS_CPUTIME_ID` of that process).
    CpuTimeNs = 1,
    /// Resident memory, in bytes.
    RssBytes = 2,
}

impl GaugeKind {
    /// The kind with this number.
    pub fn from_number(number: u8) -> Option<Self> {
        [Self::CpuTimeNs, Self::RssBytes].into_iter().find(|kind| *kind as u8 == number)
    }
}

/// A figure that the kernel keeps for a process, at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gauge {
    /// `CLOCK_MONOTONIC`, in nanoseconds.
    pub timestamp_ns: u64,
    /// The process.
    pub process: ProcessIndex,
    /// What is measured.
    pub kind: GaugeKind,
    /// The figure, in the unit that its kind names.
    pub value: u64,
}
