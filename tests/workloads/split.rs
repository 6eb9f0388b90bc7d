//! 31 frames of `recurse`, and from the innermost one 3 parts of CPU time in `three`, 2 in `two` and 1 in `one`.

use std::hint::black_box;
use std::io::Write;

/// Roughly; only proportions matter.
const MILLISECOND: u64 = 400_000;

#[inline(never)]
fn three(units: u64) {
    (0..3 * units).for_each(|step| _ = black_box(step));
}

#[inline(never)]
fn two(units: u64) {
    (0..2 * units).for_each(|step| _ = black_box(step));
}

#[inline(never)]
fn one(units: u64) {
    (0..units).for_each(|step| _ = black_box(step));
}

#[inline(never)]
fn recurse(left: u32, units: u64) -> u32 {
    if left > 0 {
        return black_box(recurse(black_box(left - 1), units)) + 1;
    }
    three(units);
    two(units);
    one(units);
    black_box(left)
}

fn main() {
    println!("ready");
    std::io::stdout().flush().unwrap();
    let mut random = 1_u64;
    loop {
        // Rounds of different lengths: none can beat in time with the sampling.
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        recurse(30, MILLISECOND / 2 + (random >> 33) % (4 * MILLISECOND));
    }
}
