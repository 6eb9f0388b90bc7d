//! Whether the kernel tells us where its functions are.

use std::io::{BufRead, BufReader};

/// The symbols of the running kernel.
const KALLSYMS: &str = "/proc/kallsyms";
/// The first symbols may be at zero in any case (per-CPU data).
const LINES: usize = 20_000;

/// False when `kernel.kptr_restrict` or missing privileges turn all addresses of `/proc/kallsyms` into zeros:
/// any name would then be a wrong one.
pub(super) fn addresses_are_visible() -> bool {
    let Ok(file) = std::fs::File::open(KALLSYMS) else { return false };
    BufReader::new(file)
        .lines()
        .take(LINES)
        .map_while(Result::ok)
        .any(|line| line.split(' ').next().is_some_and(|address| address.bytes().any(|digit| digit != b'0')))
}
