//! From a recording to plain values: pure functions, no clock, no files, no root.

pub mod attribution;
pub mod call_list;
pub mod call_tree;
pub mod calls;
pub mod completeness;
mod counted;
pub mod diff;
pub mod errors;
pub mod excess;
pub mod functions;
pub mod hot_paths;
pub mod live;
mod package;
pub mod report;
pub mod scaling;
pub mod slow;
pub mod startup;
#[cfg(test)]
pub(crate) mod testing;
mod tool_functions;
pub mod trace;

/// `part / whole`, and 0 where there is no whole.
pub(crate) fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

/// Nanoseconds as seconds.
pub(crate) fn seconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e9
}

/// Nanoseconds as milliseconds.
pub(crate) fn milliseconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e6
}
