//! From ELF files to unwind rows, and from there into the kernel half's tables.

mod cache;
mod frames;
mod table;
mod v8;

pub use cache::Cache;
pub use table::{Table, read_table, read_table_with};
