//! From ELF files to unwind rows, and to where interpreters keep their frames.

mod builtins;
mod cache;
mod elf;
mod frames;
mod functions;
mod go;
mod instructions;
mod python;
mod table;
pub(crate) mod v8;

pub use cache::Cache;
pub use functions::function_starts;
use profiler_common::{CfaKind, Rule};
pub(crate) use python::{AsyncioOffsets, Layout, LineTableKind, PythonImage, Refusal, StringLayout};
pub use table::{Table, read_table, read_table_with};

/// Behind `push rbp; mov rbp, rsp`: for code that keeps frame pointers.
const FRAME_POINTER_CHAIN: Rule =
    Rule { cfa: CfaKind::FramePointer, cfa_offset: 16, frame_pointer_below_cfa: 16, register: 0 };
