//! What came of a load: counts and latencies by tool.

use std::collections::BTreeMap;
use std::time::Duration;

/// What came of a load.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Summary {
    /// Calls that were made, those with errors too.
    pub calls: u64,
    /// Calls without a good result: answered with an error, or not in time.
    pub errors: u64,
    /// From the first call to the last answer.
    pub wall: Duration,
    /// The same by tool. A tool that was not called is absent.
    pub tools: BTreeMap<String, ToolSummary>,
}

/// What came of the calls of one tool.
#[derive(Clone, Debug, PartialEq)]
pub struct ToolSummary {
    /// Calls that were made, those with errors too.
    pub calls: u64,
    /// Calls without a good result.
    pub errors: u64,
    /// From request to answer as the client saw it, of all calls.
    pub latency: Latency,
}

/// A distribution of latencies. Percentiles are latencies that did occur (nearest rank).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Latency {
    /// The shortest.
    pub min: Duration,
    /// The arithmetic mean.
    pub mean: Duration,
    /// Half of all calls took at most this.
    pub p50: Duration,
    /// 99 of 100 calls took at most this.
    pub p99: Duration,
    /// The longest.
    pub max: Duration,
}

impl Latency {
    /// Of at least one call; sorts them.
    fn of(latencies: &mut [Duration]) -> Option<Self> {
        latencies.sort_unstable();
        let (&min, &max) = (latencies.first()?, latencies.last()?);
        let count = latencies.len();
        let mean_ns = latencies.iter().map(Duration::as_nanos).sum::<u128>() / count as u128;
        let percentile = |percent: usize| latencies[(count * percent).div_ceil(100) - 1];
        Some(Self {
            min,
            mean: Duration::from_nanos(u64::try_from(mean_ns).unwrap_or(u64::MAX)),
            p50: percentile(50),
            p99: percentile(99),
            max,
        })
    }
}

/// Calls while they are made. Keeps 16 bytes of each.
#[derive(Debug, Default)]
pub(super) struct Tally {
    tools: BTreeMap<String, ToolTally>,
}

#[derive(Debug, Default)]
struct ToolTally {
    latencies: Vec<Duration>,
    errors: u64,
}

impl Tally {
    pub(super) fn record(&mut self, tool: &str, latency: Duration, succeeded: bool) {
        if !self.tools.contains_key(tool) {
            self.tools.insert(tool.to_owned(), ToolTally::default());
        }
        let tally = self.tools.get_mut(tool).expect("it was just inserted");
        tally.latencies.push(latency);
        tally.errors += u64::from(!succeeded);
    }

    pub(super) fn add(&mut self, other: Self) {
        for (tool, tally) in other.tools {
            let own = self.tools.entry(tool).or_default();
            own.latencies.extend(tally.latencies);
            own.errors += tally.errors;
        }
    }

    pub(super) fn summarise(self, wall: Duration) -> Summary {
        let mut summary = Summary { wall, ..Summary::default() };
        for (tool, mut tally) in self.tools {
            let Some(latency) = Latency::of(&mut tally.latencies) else { continue };
            let calls = tally.latencies.len() as u64;
            summary.calls += calls;
            summary.errors += tally.errors;
            summary.tools.insert(tool, ToolSummary { calls, errors: tally.errors, latency });
        }
        summary
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Percentiles are the nearest rank, and a single call is its own distribution.
    #[test]
    fn latencies_are_nearest_rank() {
        let ms = Duration::from_millis;
        let mut hundred: Vec<_> = (1..=100).rev().map(ms).collect();
        let latency = Latency::of(&mut hundred).unwrap();
        assert_eq!(
            latency,
            Latency {
                min: ms(1),
                mean: Duration::from_micros(50_500),
                p50: ms(50),
                p99: ms(99),
                max: ms(100)
            }
        );
        let one = Latency::of(&mut [ms(7)]).unwrap();
        assert_eq!((one.min, one.mean, one.p50, one.p99, one.max), (ms(7), ms(7), ms(7), ms(7), ms(7)));
        assert_eq!(Latency::of(&mut []), None);
    }

    /// What several workers did adds up, by tool and in all.
    #[test]
    fn tallies_add_up() {
        let mut first = Tally::default();
        first.record("a", Duration::from_millis(1), true);
        first.record("b", Duration::from_millis(2), false);
        let mut second = Tally::default();
        second.record("a", Duration::from_millis(3), true);
        first.add(second);
        let summary = first.summarise(Duration::from_secs(1));
        assert_eq!((summary.calls, summary.errors), (3, 1));
        assert_eq!(summary.tools["a"].calls, 2);
        assert_eq!(summary.tools["a"].latency.max, Duration::from_millis(3));
        assert_eq!(summary.tools["b"].errors, 1);
    }
}
