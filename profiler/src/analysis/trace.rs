//! One call: what it was, when it was on a CPU, and by which functions.

use std::collections::HashMap;

use serde::Serialize;

use super::attribution::{Attribution, CallIndex, Charge};
use super::call_list::{ListedCall, SCHEMA_VERSION};
use super::functions::Functions;
use super::milliseconds;
use crate::recording::{Process, ProcessIndex, RecordedCall, Recording, StackIndex};
use crate::wire::calls::{Call, Side};

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
    /// Until the last byte of its (first) request was there, since its first one.
    pub received_ms: f64,
    /// Processes that the server started meanwhile, the first [`MAX_CHILDREN`] in the order of their starts.
    pub children: Vec<TracedChild>,
    /// How many more of them there are.
    #[serde(skip_serializing_if = "is_zero")]
    pub more_children: u64,
    /// What the server asked its client meanwhile, on the same stream, in the order of time; cut as children are.
    pub asked: Vec<TracedRequest>,
}

/// Most processes that are told of a call, and most requests of the server.
pub const MAX_CHILDREN: usize = 256;

/// A process that the server, or what it started, started while a call was in flight.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TracedChild {
    /// Process ID.
    pub pid: u32,
    /// Command line of the last program that it ran.
    pub command: String,
    /// When it was made, since the call's start.
    pub from_ms: f64,
    /// When it ended, the same; absent when that is not known, or was behind the recording.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to_ms: Option<f64>,
    /// Its CPU time that was charged to the call.
    pub cpu_ms: f64,
    /// It may be another call's: one that was in flight for as long.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub shared: bool,
}

/// A request of the server to its client.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TracedRequest {
    /// Its own number.
    pub call: u64,
    /// `sampling/createMessage`...
    pub method: String,
    /// Since the call's start.
    pub from_ms: f64,
    /// When it was answered, the same.
    pub to_ms: f64,
    /// [`Ended::name`](crate::wire::calls::Ended::name).
    pub outcome: &'static str,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
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
        let recorded = recording.calls.get(index)?;
        let start_ns = recorded.call.start_ns;
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
        let mut cpu_ms: HashMap<u32, f64> = HashMap::new();
        samples.iter().for_each(|sample| *cpu_ms.entry(sample.pid).or_default() += sample.cpu_ms);
        let started = children(recording, recorded);
        let more_children = started.len().saturating_sub(MAX_CHILDREN) as u64;
        let since_start = |time_ns: u64| milliseconds(time_ns.saturating_sub(start_ns));
        let children = started.iter().take(MAX_CHILDREN).filter_map(|child| {
            let process = &recording.processes[*child];
            Some(TracedChild {
                pid: process.pid,
                command: process.command.clone(),
                from_ms: since_start(process.first_ns),
                to_ms: process.exit_ns.map(since_start),
                cpu_ms: cpu_ms.get(&process.pid).copied().unwrap_or(0.0),
                shared: is_shared(recording, index, process)?,
            })
        });
        Some(Self {
            schema_version: SCHEMA_VERSION,
            call,
            stacks,
            received_ms: since_start(recorded.call.request_end_ns),
            children: children.collect(),
            more_children,
            asked: asked(recording, recorded, since_start),
            samples,
        })
    }
}

/// The processes that were made by who answers a call, or by what that started, while the call was in flight.
fn children(recording: &Recording, recorded: &RecordedCall) -> Vec<ProcessIndex> {
    let RecordedCall { process: server, call } = recorded;
    let processes = &recording.processes;
    // Parents have smaller indices, so one pass finds all of them.
    let mut is_of_server = vec![false; processes.len()];
    let mut children = Vec::new();
    for (index, process) in processes.iter().enumerate() {
        let parent = process.parent.filter(|parent| *parent < index);
        is_of_server[index] = index == *server || parent.is_some_and(|parent| is_of_server[parent]);
        let is_meanwhile = (call.start_ns..=call.end_ns).contains(&process.first_ns);
        if index != *server && is_of_server[index] && is_meanwhile {
            children.push(index);
        }
    }
    children.sort_by_key(|child| processes[*child].first_ns);
    children
}

/// Whether a process that was made while a call was in flight may as well be another one's; `None` when it is certainly that one's, as this
/// one did not wait for it.
fn is_shared(recording: &Recording, index: CallIndex, process: &Process) -> Option<bool> {
    let this = &recording.calls[index];
    let is_within = |call: &Call| {
        (call.start_ns..=call.end_ns).contains(&process.first_ns)
            && process.exit_ns.is_none_or(|exit_ns| exit_ns <= call.end_ns)
    };
    let is_of_others = recording.calls.iter().enumerate().any(|(other, recorded)| {
        other != index
            && recorded.process == this.process
            && recorded.call.caller == Side::Client
            && is_within(&recorded.call)
    });
    (is_within(&this.call) || !is_of_others).then_some(is_of_others)
}

/// What a server asked its client while a call was in flight.
fn asked(
    recording: &Recording,
    recorded: &RecordedCall,
    since_start: impl Fn(u64) -> f64,
) -> Vec<TracedRequest> {
    let RecordedCall { process, call } = recorded;
    let is_meanwhile = |asked: &Call| {
        asked.caller == Side::Server
            && asked.session == call.session
            && (call.start_ns..=call.end_ns).contains(&asked.start_ns)
    };
    let requests = recording.calls.iter().enumerate();
    let requests = requests.filter(|(_, other)| other.process == *process && is_meanwhile(&other.call));
    let traced = requests.map(|(number, RecordedCall { call: asked, .. })| TracedRequest {
        call: number as u64 + 1,
        method: asked.method.to_string(),
        from_ms: since_start(asked.start_ns),
        to_ms: since_start(asked.end_ns),
        outcome: asked.ended.name(),
    });
    if call.caller == Side::Server { Vec::new() } else { traced.take(MAX_CHILDREN).collect() }
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

    /// What a call started and asked for meanwhile, and what of that may be another call's.
    #[test]
    fn children_and_requests_of_a_call() {
        const MS: u64 = 1_000_000;
        let mut builder = Builder::new();
        for (tool, from, to) in [("a", 100, 200), ("b", 150, 300), ("c", 400, 500)] {
            builder.call(0, tool, from * MS, to * MS);
        }
        builder.call(0, "roots", 120 * MS, 130 * MS);
        let asked = &mut builder.recording.calls[3].call;
        (asked.caller, asked.method) = (Side::Server, "roots/list".into());
        // Before the call; of it; of one of two; of the other one, which alone waits for it; and what outlives all of them.
        let lives = [(90, Some(110)), (110, Some(120)), (155, Some(180)), (160, Some(250)), (170, None)];
        for (number, (from, to)) in lives.into_iter().enumerate() {
            let pid = 200 + number as u32;
            let child = builder.process(pid, "git log", "native", None);
            let process = &mut builder.recording.processes[child];
            (process.parent, process.first_ns, process.exit_ns) =
                (Some(0), from * MS, to.map(|time: u64| time * MS));
            let thread = builder.thread(child, pid, "git");
            builder.sample_at(from * MS + 1, thread, MS);
        }
        let attribution = Attribution::new(&builder.recording);
        let trace = Trace::new(&builder.recording, &attribution, 0).unwrap();
        let children: Vec<_> = trace
            .children
            .iter()
            .map(|child| (child.pid, child.from_ms, child.to_ms, child.cpu_ms, child.shared))
            .collect();
        let expected = [
            (201, 10.0, Some(20.0), 1.0, false),
            (202, 55.0, Some(80.0), 0.5, true),
            (204, 70.0, None, 0.5, true),
        ];
        assert_eq!(children, expected);
        let [asked] = &trace.asked[..] else { panic!("{:?}", trace.asked) };
        assert_eq!((asked.call, asked.from_ms, asked.to_ms, asked.outcome), (4, 20.0, 30.0, "ok"));
        assert!(Trace::new(&builder.recording, &attribution, 2).unwrap().children.is_empty());
    }
}
