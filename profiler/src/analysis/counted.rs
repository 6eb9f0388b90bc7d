//! What the kernel counted of servers' CPU time while a recording grows: the measure that a window's samples are brought to, as
//! [`super::scaling`] does with those of a whole recording.

use std::collections::HashMap;

use super::live::ServerIndex;
use super::scaling::{FEWEST_SAMPLES, readings};
use crate::recording::{ProcessIndex, Recording};

/// The CPU time of a server between readings of the kernel's count.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counted {
    counted_ns: u64,
    sampled_ns: u64,
    samples: u64,
}

/// Of each process of the last increment, what the next one goes on from. An ID can be given again, at another time.
#[derive(Debug, Default)]
pub(super) struct Counters(HashMap<(u32, u64), Counter>);

#[derive(Clone, Copy, Debug, Default)]
struct Counter {
    /// Time and value.
    last: Option<(u64, u64)>,
    /// Sampled since then.
    open: Counted,
}

impl Counted {
    pub(super) fn add(&mut self, other: Self) {
        self.counted_ns = self.counted_ns.saturating_add(other.counted_ns);
        self.sampled_ns = self.sampled_ns.saturating_add(other.sampled_ns);
        self.samples += other.samples;
    }

    /// What sampled time is multiplied with; `None` where there is nothing to tell it by.
    pub(super) fn factor(self) -> Option<f64> {
        let is_known = self.samples >= FEWEST_SAMPLES as u64 && self.counted_ns > 0 && self.sampled_ns > 0;
        is_known.then(|| self.counted_ns as f64 / self.sampled_ns as f64)
    }
}

impl Counters {
    /// What was counted, and sampled meanwhile, since the increment before, of each server. `server_of` has the server of each
    /// process; those of none have the number `servers`.
    pub(super) fn increment(
        &mut self,
        recording: &Recording,
        server_of: &[ServerIndex],
        servers: usize,
    ) -> HashMap<ServerIndex, Counted> {
        let mut samples: HashMap<ProcessIndex, Vec<(u64, u64)>> = HashMap::new();
        for sample in &recording.samples {
            if let Some(thread) = recording.threads.get(sample.thread) {
                samples.entry(thread.process).or_default().push((sample.timestamp_ns, sample.weight_ns));
            }
        }
        let mut all: HashMap<ServerIndex, Counted> = HashMap::new();
        let mut before = std::mem::take(&mut self.0);
        for (index, (process, readings)) in recording.processes.iter().zip(readings(recording)).enumerate() {
            let key = (process.pid, process.first_ns);
            let Counter { last, mut open } = before.remove(&key).unwrap_or_default();
            let (first, latest) = (last.or_else(|| readings.first().copied()), readings.last().copied());
            let mut next = Counter { last: latest.or(last), ..Counter::default() };
            for (time, weight_ns) in samples.remove(&index).into_iter().flatten() {
                let of = Counted { counted_ns: 0, sampled_ns: weight_ns, samples: 1 };
                match (first, latest) {
                    // Nobody knows what was counted before the first reading.
                    (Some((first, _)), _) if time <= first => {}
                    (Some(_), Some((latest, _))) if time <= latest => open.add(of),
                    (Some(_), _) => next.open.add(of),
                    (None, _) => {}
                }
            }
            match (first, latest) {
                (Some((_, from)), Some((_, to))) => {
                    open.counted_ns = to.saturating_sub(from);
                    let server = server_of.get(index).copied().unwrap_or(servers);
                    all.entry(server).or_default().add(open);
                }
                _ => next.open.add(open),
            }
            self.0.insert(key, next);
        }
        all
    }
}
