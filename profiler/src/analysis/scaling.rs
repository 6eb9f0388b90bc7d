//! Sampled time brought to what the kernel counted.
//!
//! The kernel counts the CPU time of a process exactly, and knows nothing of functions and calls. Samples know those, and may come too
//! rarely: a CPU's timer misses ticks while a hypervisor has the CPU, and rings can be full. So the samples between two readings of
//! the kernel's count share what was counted there, in proportion to their weights. Sums are then the kernel's; how they are split
//! rests on the samples, and is an estimate as before.
//!
//! The file keeps weights as they were sampled.

use crate::recording::{GaugeKind, ProcessIndex, Recording};

/// Readings are put together until there are so many samples between them: with few, chance would say more than the count.
pub(super) const FEWEST_SAMPLES: usize = 25;

/// The samples of a process between two readings.
#[derive(Debug, Default)]
struct Stretch {
    /// Indices in [`Recording::samples`].
    samples: Vec<usize>,
    counted_ns: u64,
}

/// Scales the weights of a recording's samples, each process by itself, and notes what was sampled in
/// [`Recording::sampled_ns`]. What lies before a process's first reading or behind its last stays as it is, and so does a process
/// that was not read twice. A second time changes nothing.
pub fn scale(recording: &mut Recording) {
    if !recording.sampled_ns.is_empty() {
        return;
    }
    let count = recording.processes.len();
    let readings = readings(recording);
    let mut samples: Vec<Vec<usize>> = vec![Vec::new(); count];
    let mut sampled_ns = vec![0_u64; count];
    for (index, sample) in recording.samples.iter().enumerate() {
        if let Some(process) = process_of(recording, index) {
            samples[process].push(index);
            sampled_ns[process] = sampled_ns[process].saturating_add(sample.weight_ns);
        }
    }
    for (readings, samples) in readings.into_iter().zip(samples) {
        for stretch in stretches(recording, &readings, &samples) {
            share(recording, &stretch);
        }
    }
    recording.sampled_ns = sampled_ns;
}

/// For each process its CPU time as the kernel counted it, with the times of the readings, in order. A process that was made by a
/// watched one starts with none.
pub(crate) fn readings(recording: &Recording) -> Vec<Vec<(u64, u64)>> {
    let mut readings: Vec<Vec<(u64, u64)>> = vec![Vec::new(); recording.processes.len()];
    for gauge in recording.gauges.iter().filter(|gauge| gauge.kind == GaugeKind::CpuTimeNs) {
        if let Some(readings) = readings.get_mut(gauge.process) {
            readings.push((gauge.timestamp_ns, gauge.value));
        }
    }
    for (process, readings) in recording.processes.iter().zip(&mut readings) {
        readings.sort_unstable();
        let is_new = process.parent.is_some() && process.first_ns > recording.meta.start_ns;
        if is_new && readings.first().is_some_and(|(first, _)| *first > process.first_ns) {
            readings.insert(0, (process.first_ns, 0));
        }
    }
    readings
}

fn process_of(recording: &Recording, sample: usize) -> Option<ProcessIndex> {
    let thread = recording.threads.get(recording.samples[sample].thread)?;
    (thread.process < recording.processes.len()).then_some(thread.process)
}

/// The samples between readings, with what was counted there. Samples are in the order of their timestamps.
fn stretches(recording: &Recording, readings: &[(u64, u64)], samples: &[usize]) -> Vec<Stretch> {
    let until = |time: u64| samples.partition_point(|sample| recording.samples[*sample].timestamp_ns <= time);
    let mut stretches: Vec<Stretch> = Vec::new();
    let mut open = Stretch::default();
    for pair in readings.windows(2) {
        let [(from, before), (to, after)] = *pair else { continue };
        open.samples.extend(&samples[until(from)..until(to)]);
        open.counted_ns = open.counted_ns.saturating_add(after.saturating_sub(before));
        if open.samples.len() >= FEWEST_SAMPLES {
            stretches.push(std::mem::take(&mut open));
        }
    }
    // Too few for a stretch of their own.
    match stretches.last_mut() {
        Some(last) => {
            last.samples.append(&mut open.samples);
            last.counted_ns = last.counted_ns.saturating_add(open.counted_ns);
        }
        None => stretches.push(open),
    }
    stretches
}

/// Gives the samples what was counted, in proportion to their weights and to the last nanosecond.
fn share(recording: &mut Recording, stretch: &Stretch) {
    let weight = |sample: &usize| u128::from(recording.samples[*sample].weight_ns);
    let whole: u128 = stretch.samples.iter().map(weight).sum();
    if whole == 0 || stretch.counted_ns == 0 {
        return;
    }
    let (mut sampled, mut given) = (0_u128, 0_u64);
    for sample in &stretch.samples {
        let sample = &mut recording.samples[*sample];
        sampled += u128::from(sample.weight_ns);
        // At most what was counted, which is a `u64`.
        let until = (u128::from(stretch.counted_ns) * sampled / whole) as u64;
        sample.weight_ns = until - given;
        given = until;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::analysis::testing::{Builder, PERIOD_NS};
    use crate::recording::Gauge;

    const SECOND: u64 = 1_000_000_000;

    fn reading(builder: &mut Builder, timestamp_ns: u64, value: u64) {
        let gauge = Gauge { timestamp_ns, process: 0, kind: GaugeKind::CpuTimeNs, value };
        builder.recording.gauges.push(gauge);
    }

    fn weights(recording: &Recording) -> Vec<u64> {
        recording.samples.iter().map(|sample| sample.weight_ns).collect()
    }

    /// Each second has what was counted in it; what no two readings enclose stays, and a second time changes nothing.
    #[test]
    fn seconds_have_their_count() {
        let mut builder = Builder::new();
        let thread = builder.thread(0, 100, "main");
        // Half of the ticks of the first second were missed, and none of the second one.
        for (second, count) in [(0, 50), (1, 100), (2, 1)] {
            (0..count).for_each(|tick| {
                builder.sample_at(second * SECOND + 1 + tick * (SECOND / count), thread, PERIOD_NS);
            });
        }
        for (time, value) in [(0, 7), (1, 7 + SECOND), (2, 7 + 2 * SECOND)] {
            reading(&mut builder, time * SECOND, value);
        }
        let mut recording = builder.recording;
        scale(&mut recording);
        let expected = [vec![2 * PERIOD_NS; 50], vec![PERIOD_NS; 100], vec![PERIOD_NS]].concat();
        assert_eq!(weights(&recording), expected);
        assert_eq!(recording.sampled_ns, [151 * PERIOD_NS]);
        let once = recording.clone();
        scale(&mut recording);
        assert_eq!(weights(&recording), weights(&once));
    }

    /// A process that was read once keeps what was sampled.
    #[test]
    fn without_a_count() {
        let mut builder = Builder::new();
        let thread = builder.thread(0, 100, "main");
        builder.sample_at(5, thread, 3);
        reading(&mut builder, 0, 1000);
        scale(&mut builder.recording);
        assert_eq!((weights(&builder.recording), &builder.recording.sampled_ns[..]), (vec![3], &[3][..]));
    }

    proptest! {
        /// Whatever was sampled when: what lies between the readings adds up to the count.
        #[test]
        fn sums_are_the_kernels(
            times in prop::collection::vec((0..10_000_u64, 1..1_000_000_u64), 1..200),
            counts in prop::collection::vec(1..1_000_000_000_u64, 1..20),
        ) {
            let mut builder = Builder::new();
            let thread = builder.thread(0, 100, "main");
            let mut times = times;
            times.sort_unstable();
            times.iter().for_each(|(time, weight)| builder.sample_at(1 + time % 10_000, thread, *weight));
            let mut value = 0;
            reading(&mut builder, 0, value);
            for (index, count) in counts.iter().enumerate() {
                value += count;
                reading(&mut builder, (index as u64 + 1) * 10_000, value);
            }
            scale(&mut builder.recording);
            prop_assert_eq!(weights(&builder.recording).iter().sum::<u64>(), value);
        }
    }
}
