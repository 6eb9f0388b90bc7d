//! Java virtual machines of the HotSpot kind: what one says of itself in its memory, and how it is asked for the names of
//! the code that it compiled.

mod attach;
mod vm;

pub(crate) use attach::{AttachError, remove_perf_map, request_perf_map};
pub(crate) use vm::{HotSpot, VmError};
