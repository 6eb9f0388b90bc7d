//! From ELF files to unwind rows, and to where interpreters keep their frames.

mod frames;
mod python;

pub use frames::{Table, read_table};
pub(crate) use python::{Layout, LineTableKind, PythonImage, Refusal, StringLayout};
