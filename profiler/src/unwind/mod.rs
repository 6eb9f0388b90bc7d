//! From ELF files to unwind rows, and from there into the kernel half's tables.

mod frames;
pub(crate) mod v8;

pub use frames::{Table, read_table};
