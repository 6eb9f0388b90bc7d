//! From a recording to plain values: pure functions, no clock, no files, no root.
