//! One call: what it was, when it was on a CPU, and by which functions.

use std::collections::HashMap;

use serde::Serialize;

use super::attribution::{Attribution, CallIndex, Charge};
use super::call_list::{ListedCall, SCHEMA_VERSION};
use super::functions::Functions;
use crate::recording::{Recording, StackIndex};

/// A call with its samples.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Trace {
    /// Version of this object's shape.
    pub schema_version: u32,
    /// The call.
    #[serde(flatten)]
    pub call: ListedCall,
    /// When it was on a CPU, in the order of time.
    pub samples: Vec<TracedSample>,
    /// By which functions, the most time first.
    pub stacks: Vec<TracedStack>,
}

/// A sample that was charged to the call.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TracedSample {
    /// Since the call's start.
    pub at_ms: f64,
    /// CPU time that was charged to the call.
    pub cpu_ms: f64,
    /// Other calls were in flight, and it was split between them: an estimate.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub shared: bool,
    /// Thread ID.
    pub tid: u32,
    /// Process ID.
    pub pid: u32,
    /// Index in `stacks`.
    pub stack: usize,
}

/// A stack on which the call was sampled.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TracedStack {
    /// CPU time that was charged to the call.
    pub cpu_ms: f64,
    /// Names of its functions, outermost first; empty when no stack was had.
    pub frames: Vec<String>,
}

impl Trace {
    /// A call of a recording; `None` for an index that is not its.
    pub fn new(recording: &Recording, attribution: &Attribution, index: CallIndex) -> Option<Self> {
        let call = ListedCall::new(recording, attribution, index)?;
        let start_ns = recording.calls.get(index)?.call.start_ns;
        let functions = Functions::new(recording);
        let mut stacks: Vec<TracedStack> = Vec::new();
        let mut known: HashMap<Option<StackIndex>, usize> = HashMap::new();
        let mut samples = Vec::new();
        attribution.charges(recording, |position, charge| {
            let sample = &recording.samples[position];
            let own = charge.parts(sample.weight_ns).find(|(call, _)| *call == index);
            let Some((_, part_ns @ 1..)) = own else { return };
            let stack = *known.entry(sample.stack).or_insert_with(|| {
                stacks.push(TracedStack { cpu_ms: 0.0, frames: frames(recording, &functions, sample.stack) });
                stacks.len() - 1
            });
            let cpu_ms = part_ns as f64 / 1e6;
            stacks[stack].cpu_ms += cpu_ms;
            let thread = recording.threads.get(sample.thread);
            samples.push(TracedSample {
                at_ms: sample.timestamp_ns.saturating_sub(start_ns) as f64 / 1e6,
                cpu_ms,
                shared: matches!(charge, Charge::Shared(_)),
                tid: thread.map_or(0, |thread| thread.tid),
                pid: thread
                    .and_then(|thread| recording.processes.get(thread.process))
                    .map_or(0, |process| process.pid),
                stack,
            });
        });
        let mut order: Vec<usize> = (0..stacks.len()).collect();
        order
            .sort_by(|one, other| stacks[*other].cpu_ms.total_cmp(&stacks[*one].cpu_ms).then(one.cmp(other)));
        let mut place = vec![0; order.len()];
        for (to, from) in order.iter().enumerate() {
            place[*from] = to;
        }
        for sample in &mut samples {
            sample.stack = place[sample.stack];
        }
        let stacks = order.iter().map(|stack| stacks[*stack].clone()).collect();
        Some(Self { schema_version: SCHEMA_VERSION, call, samples, stacks })
    }
}

/// Names of the functions on a stack, outermost first.
pub(crate) fn frames(recording: &Recording, functions: &Functions, stack: Option<StackIndex>) -> Vec<String> {
    let mut frames = Vec::new();
    let mut next = stack;
    while let Some((index, node)) = next.and_then(|index| Some((index, recording.stacks.get(index)?))) {
        frames.extend(
            functions.of_frame(node.frame).iter().rev().map(|at| functions.get(at.function).name.to_string()),
        );
        next = node.parent.filter(|parent| *parent < index);
    }
    frames.reverse();
    frames
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::testing::Builder;
    use crate::recording::StackEnd;

    /// The samples of a call, with their parts of the time, and its stacks, the hottest first.
    #[test]
    fn known_answer() {
        const MS: u64 = 1_000_000;
        let mut builder = Builder::new();
        let thread = builder.thread(0, 101, "main");
        builder.call(0, "a", 100 * MS, 200 * MS);
        builder.call(0, "b", 150 * MS, 300 * MS);
        for (at, names) in [
            (90, ["main", "x"]),
            (110, ["main", "y"]),
            (120, ["main", "z|i"]),
            (130, ["main", "z|i"]),
            (160, ["main", "y"]),
        ] {
            let stack = Some(builder.stack(&names));
            let stack_end = StackEnd::ChainEnd;
            builder.recording.samples.push(crate::recording::Sample {
                timestamp_ns: at * MS,
                thread,
                stack,
                weight_ns: 10 * MS,
                stack_end,
            });
        }
        let trace = Trace::new(&builder.recording, &Attribution::new(&builder.recording), 0).unwrap();
        let samples: Vec<_> = trace
            .samples
            .iter()
            .map(|sample| (sample.at_ms, sample.cpu_ms, sample.shared, sample.stack))
            .collect();
        assert_eq!(
            samples,
            [(10.0, 10.0, false, 1), (20.0, 10.0, false, 0), (30.0, 10.0, false, 0), (60.0, 5.0, true, 1)]
        );
        let stacks: Vec<_> =
            trace.stacks.iter().map(|stack| (stack.cpu_ms, stack.frames.join(">"))).collect();
        assert_eq!(stacks, [(20.0, "main>z>i".to_owned()), (15.0, "main>y".to_owned())]);
        assert_eq!((trace.samples[0].tid, trace.samples[0].pid), (101, 100));
        assert!(Trace::new(&builder.recording, &Attribution::default(), 9).is_none());
    }
}
