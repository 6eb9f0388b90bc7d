//! What the kernel half and the user half of mcp-profiler agree on: events, map values and limits.
//!
//! All types are `#[repr(C)]` without padding, in the byte order of the machine that runs both halves.

#![cfg_attr(not(feature = "user"), no_std)]

mod event;
mod failure;
mod frame;
mod offsets;
mod python;
mod unwind;
mod v8;
mod wire;

pub use event::{
    COMM_LEN, EventHeader, EventKind, ExecEvent, ForkEvent, MAX_ARGUMENT_BYTES, SampleEvent, StackEnd,
};
pub use failure::Failure;
pub use frame::{FrameTag, MAX_FRAME_WORDS};
pub use offsets::KernelOffsets;
pub use python::{
    InstanceValues, MAX_PYTHON_PROCESSES, PythonEntry, PythonLayout, TaskLayout, TaskSource, code_fingerprint,
};
pub use unwind::{
    CfaKind, CodeFile, CodeFileKey, CodeMapping, Interpreter, MAPPING_KEY_BITS, MAX_CODE_FILES, MAX_PAGES,
    MAX_TABLES, PageStarts, ROWS_PER_PAGE, RowPage, Rule, UnwindRow, mapping_key,
};
pub use v8::{SCRIPT_TO_FUNCTION_ID, V8Frame, V8Place, V8Process};

pub use wire::{
    ClientStream, ClientWriteEvent, MAX_CLIENT_STREAMS, MAX_CLIENTS, MAX_STREAMS, MAX_VECTORS,
    MAX_WIRE_BYTES, MAX_WIRE_PARTS, MESSAGES_BYTES, StreamRule, StreamVerdict, TlsFunction, WHOLE_BYTES,
    WireEvent, WireFlag,
};

/// Most user frames in one sample, innermost first.
pub const MAX_USER_FRAMES: usize = 512;
/// Room for user frames in one sample, in words.
pub const MAX_USER_WORDS: usize = MAX_USER_FRAMES * MAX_FRAME_WORDS;
/// Most kernel frames in one sample: the default of `kernel.perf_event_max_stack`.
pub const MAX_KERNEL_FRAMES: usize = 127;
/// Most processes that are watched at once.
pub const MAX_TARGETS: u32 = 8192;
