//! How exact a share of samples can be.

/// Fewer samples say nothing of a share.
const FEWEST_SAMPLES: f64 = 50.0;

/// How far a share that was measured with so many samples may be from the truth: two points, or four standard deviations of
/// chance (one share in 16,000 is off by more) where a busy machine gave the workload too little of a CPU for that.
pub fn tolerance(share: f64, samples: f64) -> f64 {
    assert!(samples >= FEWEST_SAMPLES, "{samples} samples are too few");
    f64::max(0.02, 4.0 * (share * (1.0 - share) / samples).sqrt())
}

/// A share of so many samples is what it should be, as far as they can tell.
#[track_caller]
pub fn assert_share(what: &str, share: f64, expected: f64, samples: f64) {
    let tolerance = tolerance(expected, samples);
    assert!(
        (share - expected).abs() < tolerance,
        "{what}: {share} of {samples} samples, not {expected} ± {tolerance}"
    );
}

/// As many samples as have the chance of both, for the difference of what two profilers say.
pub fn together(samples: f64, of_other: f64) -> f64 {
    1.0 / (1.0 / samples + 1.0 / of_other)
}
