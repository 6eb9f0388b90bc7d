//! Medians, and how far to trust them.

/// A median and an interval around it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Estimate {
    pub(super) median: f64,
    /// Holds the true median with 95% confidence, whatever the distribution; `None` of fewer than six values.
    pub(super) interval: Option<(f64, f64)>,
    pub(super) min: f64,
    pub(super) max: f64,
}

impl Estimate {
    /// Of at least one value, none of which is NaN.
    pub(super) fn of(values: &[f64]) -> Self {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let count = sorted.len();
        let median = f64::midpoint(sorted[(count - 1) / 2], sorted[count / 2]);
        let interval = outer_rank(count).map(|rank| (sorted[rank], sorted[count - 1 - rank]));
        Self { median, interval, min: sorted[0], max: sorted[count - 1] }
    }
}

/// The greatest rank (from 0) such that the values at this rank from both ends enclose the median with 95%.
///
/// The number of values below the median follows a binomial distribution with p = 1/2, so the interval misses it
/// with probability `2 * P(X <= rank)`.
fn outer_rank(count: usize) -> Option<usize> {
    let mut term = 0.5_f64.powi(i32::try_from(count).ok()?);
    let mut missed = 0.0;
    let mut best = None;
    for rank in 0..count / 2 {
        missed += 2.0 * term;
        if missed > 0.05 {
            break;
        }
        best = Some(rank);
        term *= (count - rank) as f64 / (rank + 1) as f64;
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ranks as tables of the sign test give them.
    #[test]
    fn ranks_are_those_of_the_sign_test() {
        assert_eq!(outer_rank(5), None);
        assert_eq!(outer_rank(6), Some(0));
        assert_eq!(outer_rank(9), Some(1));
        assert_eq!(outer_rank(20), Some(5));
        assert_eq!(outer_rank(40), Some(13));
    }

    /// The median of an even number of values lies between the middle two; order does not matter.
    #[test]
    fn median_is_the_middle() {
        assert_eq!(Estimate::of(&[3.0, 1.0, 2.0]).median, 2.0);
        let even = Estimate::of(&[4.0, 1.0, 2.0, 3.0]);
        assert_eq!((even.median, even.interval, even.min, even.max), (2.5, None, 1.0, 4.0));
        let six = Estimate::of(&[6.0, 5.0, 4.0, 3.0, 2.0, 1.0]);
        assert_eq!(six.interval, Some((1.0, 6.0)));
    }
}
