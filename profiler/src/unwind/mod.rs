//! From ELF files to unwind rows, and from there into the kernel half's tables.

mod frames;

pub use frames::{Table, read_table};
