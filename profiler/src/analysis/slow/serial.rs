//! Which calls stood behind others: servers that do one thing at a time answer a call only when the one before it is done.
//!
//! A call was **queued** behind the last one that came before it and was answered while it was in flight, when it was then
//! answered itself within the time that its tool takes. That is how calls look that wait for their turn, and not how those look that
//! sleep at the same time: they would end whenever they like. Calls that the server had not read yet are not seen
//! at all.

use std::collections::{BTreeSet, HashMap};

use super::is_answered;
use crate::analysis::attribution::{Attribution, CallIndex};
use crate::analysis::calls::duration_ns;
use crate::recording::{ProcessIndex, Recording};
use crate::wire::calls::{Call, Side};

/// What a call may take longer or shorter than its tool usually does and still have just had its turn. It may take longer by a tenth
/// of the time in which it was queued, too: who ends so close behind another one does so by chance one time in ten.
const SLACK_NS: u64 = 2_000_000;
/// Calls of a tool alone in flight that tell how long it takes.
const ENOUGH_ALONE: usize = 5;

/// Where a call stood among others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Turn {
    /// The call that it was queued behind.
    pub(super) behind: Option<CallIndex>,
    /// Time in which it was, in nanoseconds.
    pub(super) queued_ns: u64,
    /// Other calls in flight while it was: the sum of their times with it, in nanoseconds.
    pub(super) beside_ns: u64,
}

/// The turns of all calls of a recording.
pub(super) fn turns(recording: &Recording, attribution: &Attribution) -> Vec<Turn> {
    let mut processes: HashMap<ProcessIndex, Vec<CallIndex>> = HashMap::new();
    for (index, recorded) in recording.calls.iter().enumerate() {
        if recorded.call.caller == Side::Client {
            processes.entry(recorded.process).or_default().push(index);
        }
    }
    let busy = Busy::new(recording, attribution);
    let mut turns = vec![Turn::default(); recording.calls.len()];
    let mut alone = vec![false; recording.calls.len()];
    let mut before: Vec<Option<CallIndex>> = vec![None; recording.calls.len()];
    for calls in processes.values() {
        let call = |index: CallIndex| &recording.calls[index].call;
        let mut ends: BTreeSet<(u64, CallIndex)> = BTreeSet::new();
        let mut last_end = 0;
        for (position, index) in calls.iter().copied().enumerate() {
            let own = call(index);
            let earlier = ends.range(..(own.end_ns, 0)).next_back();
            before[index] = earlier.filter(|(end, _)| *end > own.start_ns).map(|(_, index)| *index);
            let is_next_later = calls.get(position + 1).is_none_or(|next| call(*next).start_ns >= own.end_ns);
            alone[index] = last_end <= own.start_ns && is_next_later;
            last_end = last_end.max(own.end_ns);
            if is_answered(own) {
                ends.insert((own.end_ns, index));
            }
        }
        for (index, beside_ns) in beside(recording, calls) {
            turns[index].beside_ns = beside_ns;
        }
    }
    let typical = typical(recording, &alone);
    for (index, earlier) in before.into_iter().enumerate() {
        let Some(earlier) = earlier else { continue };
        let (own, process) = (&recording.calls[index].call, recording.calls[index].process);
        let from_ns = recording.calls[earlier].call.end_ns;
        let (turn_ns, queued_ns) = (own.end_ns - from_ns, from_ns - own.start_ns);
        let Some(typical) = typical.get(&key(own)) else { continue };
        let is_in_time = turn_ns <= 2 * typical.duration_ns + SLACK_NS.max(queued_ns / 10);
        let is_queued = is_in_time
            && if typical.is_alone {
                turn_ns + SLACK_NS >= typical.duration_ns / 2
            } else {
                // Nobody knows how long it takes alone: the server must have been at work.
                busy.between(process, own.start_ns, from_ns) >= queued_ns / 2
            };
        if is_queued {
            (turns[index].behind, turns[index].queued_ns) = (Some(earlier), queued_ns);
        }
    }
    turns
}

/// How long others were in flight while each call was.
fn beside(recording: &Recording, calls: &[CallIndex]) -> Vec<(CallIndex, u64)> {
    let mut steps: Vec<(u64, i64)> = Vec::with_capacity(2 * calls.len());
    for index in calls {
        let call = &recording.calls[*index].call;
        steps.push((call.start_ns, 1));
        steps.push((call.end_ns.max(call.start_ns), -1));
    }
    steps.sort_unstable();
    // The sum of all times in flight until each moment at which something changes.
    let (mut sums, mut sum, mut count, mut last) = (Vec::with_capacity(steps.len()), 0_u128, 0_i64, 0_u64);
    for (time, change) in steps {
        sum += u128::from(time - last) * u128::from(count.unsigned_abs());
        sums.push((time, sum));
        (count, last) = (count + change, time);
    }
    let until = |time: u64| match sums.partition_point(|(at, _)| *at <= time) {
        0 => 0,
        behind => sums[behind - 1].1,
    };
    let of_call = |index: &CallIndex| {
        let call = &recording.calls[*index].call;
        let own = u128::from(call.end_ns.saturating_sub(call.start_ns));
        let all = until(call.end_ns) - until(call.start_ns);
        (*index, u64::try_from(all.saturating_sub(own)).unwrap_or(u64::MAX))
    };
    calls.iter().map(of_call).collect()
}

type Key<'call> = (&'call str, Option<&'call str>);

fn key(call: &Call) -> Key<'_> {
    (&call.method, call.name.as_deref())
}

/// How long calls of a tool take.
struct Typical {
    duration_ns: u64,
    /// Without others in flight.
    is_alone: bool,
}

fn typical<'recording>(
    recording: &'recording Recording,
    alone: &[bool],
) -> HashMap<Key<'recording>, Typical> {
    let mut durations: HashMap<Key<'_>, (Vec<u64>, Vec<u64>)> = HashMap::new();
    for (recorded, alone) in recording.calls.iter().zip(alone) {
        if is_answered(&recorded.call) {
            let (all, of_alone) = durations.entry(key(&recorded.call)).or_default();
            all.push(duration_ns(&recorded.call));
            of_alone.extend(alone.then(|| duration_ns(&recorded.call)));
        }
    }
    let typical = durations.into_iter().map(|(key, (all, of_alone))| {
        let is_alone = of_alone.len() >= ENOUGH_ALONE;
        let mut durations = if is_alone { of_alone } else { all };
        let middle = durations.len() / 2;
        let (_, duration_ns, _) = durations.select_nth_unstable(middle);
        (key, Typical { duration_ns: *duration_ns, is_alone })
    });
    typical.collect()
}

/// CPU time for calls, by process and time.
struct Busy(HashMap<ProcessIndex, Vec<(u64, u64)>>);

impl Busy {
    fn new(recording: &Recording, attribution: &Attribution) -> Self {
        let mut processes: HashMap<ProcessIndex, Vec<(u64, u64)>> = HashMap::new();
        attribution.charges(recording, |sample, charge| {
            let sample = &recording.samples[sample];
            let Some((call, _)) = charge.parts(sample.weight_ns).next() else { return };
            let sums = processes.entry(recording.calls[call].process).or_default();
            let before = sums.last().map_or(0, |(_, sum)| *sum);
            sums.push((sample.timestamp_ns, before.saturating_add(sample.weight_ns)));
        });
        Self(processes)
    }

    fn between(&self, process: ProcessIndex, from_ns: u64, to_ns: u64) -> u64 {
        let Some(sums) = self.0.get(&process) else { return 0 };
        let until = |time: u64| match sums.partition_point(|(at, _)| *at < time) {
            0 => 0,
            behind => sums[behind - 1].1,
        };
        until(to_ns).saturating_sub(until(from_ns))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::testing::Builder;

    const MS: u64 = 1_000_000;

    /// A call that is answered right behind a long one was queued behind it; one that sleeps beside another was not.
    #[test]
    fn tells_queues_from_company() {
        let mut builder = Builder::new();
        for start in 0..6 {
            builder.call(0, "quick", start * 10 * MS, start * 10 * MS + 2 * MS);
            builder.call(0, "nap", 1000 * MS + start * 200 * MS, 1100 * MS + start * 200 * MS);
        }
        builder.call(0, "long", 5000 * MS, 5300 * MS);
        builder.call(0, "quick", 5010 * MS, 5303 * MS);
        builder.call(0, "nap", 6000 * MS, 6100 * MS);
        builder.call(0, "nap", 6005 * MS, 6105 * MS);
        let recording = &mut builder.recording;
        recording.calls.sort_by_key(|recorded| recorded.call.start_ns);
        let turns = turns(recording, &Attribution::new(recording));
        let of = |start: u64| {
            let index =
                recording.calls.iter().position(|recorded| recorded.call.start_ns == start * MS).unwrap();
            (turns[index].behind, turns[index].queued_ns / MS, turns[index].beside_ns / MS)
        };
        let long = recording.calls.iter().position(|recorded| recorded.call.start_ns == 5000 * MS);
        assert_eq!(of(5010), (long, 290, 290));
        assert_eq!(of(5000), (None, 0, 290));
        assert_eq!(of(6005), (None, 0, 95));
        assert_eq!(of(1000), (None, 0, 0));
    }

    /// Where calls are never alone, only time in which the server works makes a queue.
    #[test]
    fn always_in_company() {
        for is_busy in [true, false] {
            let mut builder = Builder::new();
            let thread = builder.thread(0, 100, "main");
            (0..50).for_each(|call| builder.call(0, "work", call * 10 * MS, (call * 10 + 40) * MS));
            if is_busy {
                (0..500).for_each(|time| builder.sample_at(time * MS, thread, MS));
            }
            let turns = turns(&builder.recording, &Attribution::new(&builder.recording));
            let queued = turns[10..40].iter().filter(|turn| turn.queued_ns == 30 * MS).count();
            assert_eq!(queued, if is_busy { 30 } else { 0 });
        }
    }
}
