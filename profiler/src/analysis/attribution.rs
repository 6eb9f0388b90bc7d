//! Whose CPU time it was: each sample is charged to the calls that were in flight when it was taken.
//!
//! A call is in flight from its first byte to its last. A sample of the process that answers, or of a process that it
//! started, is
//! - **exact** when one call alone was in flight, or the sampled thread was bound to one: it read that request and wrote
//!   that response, and had no other call between; or when the process was made and ended within one call alone;
//! - **shared** when several were in flight: each gets an equal part, an estimate. Where the functions of one of their tools are on the
//!   stack, only its calls do;
//! - **background** when none was.
//!
//! The three add up to all samples.

use std::collections::HashMap;

use super::tool_functions::ToolFunctions;
use crate::recording::{ProcessIndex, Recording, Sample};
use crate::wire::calls::Side;

/// Index in [`Recording::calls`].
pub type CallIndex = usize;

/// Whom a sample is charged to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Charge {
    /// No call was in flight.
    Background,
    /// This call.
    Exact(CallIndex),
    /// An equal part to each of these: an estimate. A single one was told by its tool's functions.
    Shared(Box<[CallIndex]>),
}

impl Charge {
    /// What a call pays of a sample of this weight, in nanoseconds.
    pub fn cost(&self, call: CallIndex, weight_ns: u64) -> Cost {
        match self {
            Self::Exact(own) if *own == call => Cost { exact_ns: weight_ns, shared_ns: 0 },
            Self::Shared(calls) => {
                let mut paid = calls.iter().zip(parts(weight_ns, calls.len()));
                let shared_ns = paid.find(|(own, _)| **own == call).map_or(0, |(_, part)| part);
                Cost { exact_ns: 0, shared_ns }
            }
            _ => Cost::default(),
        }
    }
}

/// What a call costs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// CPU time that was certainly its own, in nanoseconds.
    pub exact_ns: u64,
    /// Its part of time that it shared with others, in nanoseconds.
    pub shared_ns: u64,
}

impl Cost {
    /// Both together, in nanoseconds.
    pub fn total_ns(self) -> u64 {
        self.exact_ns.saturating_add(self.shared_ns)
    }

    /// Adds that of another call.
    pub fn add(&mut self, other: Self) {
        self.exact_ns = self.exact_ns.saturating_add(other.exact_ns);
        self.shared_ns = self.shared_ns.saturating_add(other.shared_ns);
    }
}

/// Who pays for what.
#[derive(Clone, Debug, Default)]
pub struct Attribution {
    /// For each sample of the recording.
    pub charges: Vec<Charge>,
    /// For each call of the recording.
    pub costs: Vec<Cost>,
    /// Time that no call was in flight for, in nanoseconds.
    pub background_ns: u64,
    /// Of shared time, what the functions of tools told: it was split between fewer calls than were in flight.
    pub told_ns: u64,
    /// The most calls that were in flight at once in one process.
    pub peak_in_flight: usize,
}

/// A moment at which something changes. At one time, calls start before samples, and end behind them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Start(CallIndex),
    Sample(usize),
    End(CallIndex),
}

impl Attribution {
    /// Charges each sample of a recording.
    pub fn new(recording: &Recording) -> Self {
        let mut steps: Vec<(u64, Step)> = Vec::new();
        for (index, recorded) in recording.calls.iter().enumerate() {
            // What a server asks of its client costs the client.
            if recorded.call.caller == Side::Client {
                steps.push((recorded.call.start_ns, Step::Start(index)));
                steps.push((recorded.call.end_ns.max(recorded.call.start_ns), Step::End(index)));
            }
        }
        steps.extend(
            recording
                .samples
                .iter()
                .enumerate()
                .map(|(index, sample)| (sample.timestamp_ns, Step::Sample(index))),
        );
        steps.sort_unstable();
        let mut this = Self {
            charges: vec![Charge::Background; recording.samples.len()],
            costs: vec![Cost::default(); recording.calls.len()],
            ..Self::default()
        };
        let tools = ToolFunctions::new(recording);
        let within = enclosing_calls(recording);
        let mut in_flight: HashMap<ProcessIndex, Vec<CallIndex>> = HashMap::new();
        for (_, step) in steps {
            match step {
                Step::Start(call) => {
                    let calls = in_flight.entry(recording.calls[call].process).or_default();
                    calls.push(call);
                    this.peak_in_flight = this.peak_in_flight.max(calls.len());
                }
                Step::End(call) => {
                    if let Some(calls) = in_flight.get_mut(&recording.calls[call].process) {
                        calls.retain(|other| *other != call);
                    }
                }
                Step::Sample(index) => {
                    let sample = &recording.samples[index];
                    let mut charge = charge(recording, sample, &in_flight, &within);
                    if let Charge::Shared(calls) = &charge
                        && let Some(told) = tools.tell(sample.stack, calls)
                    {
                        this.told_ns = this.told_ns.saturating_add(sample.weight_ns);
                        charge = Charge::Shared(told.into());
                    }
                    this.pay(sample.weight_ns, &charge);
                    this.charges[index] = charge;
                }
            }
        }
        this
    }

    fn pay(&mut self, weight_ns: u64, charge: &Charge) {
        match charge {
            Charge::Background => self.background_ns = self.background_ns.saturating_add(weight_ns),
            Charge::Exact(call) => self.costs[*call].add(Cost { exact_ns: weight_ns, shared_ns: 0 }),
            Charge::Shared(calls) => {
                for (call, shared_ns) in calls.iter().zip(parts(weight_ns, calls.len())) {
                    self.costs[*call].add(Cost { exact_ns: 0, shared_ns });
                }
            }
        }
    }

    /// The recording with the samples of some calls only. Of a shared sample, their part of its weight stays.
    pub fn only(&self, recording: &Recording, is_wanted: impl Fn(CallIndex) -> bool) -> Recording {
        let mut samples = Vec::new();
        for (sample, charge) in recording.samples.iter().zip(&self.charges) {
            let weight_ns = match charge {
                Charge::Background => 0,
                Charge::Exact(call) => sample.weight_ns * u64::from(is_wanted(*call)),
                Charge::Shared(calls) => {
                    let parts = calls.iter().zip(parts(sample.weight_ns, calls.len()));
                    parts.filter(|(call, _)| is_wanted(**call)).map(|(_, part)| part).sum()
                }
            };
            if weight_ns > 0 {
                samples.push(Sample { weight_ns, ..*sample });
            }
        }
        // What the kernel counted, and what was sampled before it was scaled to that, are of processes and not of calls.
        Recording { samples, gauges: Vec::new(), sampled_ns: Vec::new(), ..recording.clone() }
    }
}

/// A recording with the samples of calls of some tools (prompts, resources, methods) only.
pub fn of_tools(recording: &Recording, tools: &[String]) -> Recording {
    Attribution::new(recording).only(recording, |call| recording.calls[call].call.is_of(tools))
}

/// Equal parts that add up to the whole.
pub(super) fn parts(whole: u64, count: usize) -> impl Iterator<Item = u64> {
    let count = (count as u64).max(1);
    let (part, rest) = (whole / count, whole % count);
    (0..count).map(move |index| part + u64::from(index < rest))
}

fn charge(
    recording: &Recording,
    sample: &Sample,
    in_flight: &HashMap<ProcessIndex, Vec<CallIndex>>,
    within: &HashMap<ProcessIndex, Vec<CallIndex>>,
) -> Charge {
    let Some(thread) = recording.threads.get(sample.thread) else { return Charge::Background };
    if let Some(calls) = within.get(&thread.process) {
        return match calls[..] {
            [call] => Charge::Exact(call),
            _ => Charge::Shared(calls.as_slice().into()),
        };
    }
    // Its own calls; else those of whoever started it. Parents have smaller indices, so this ends.
    let mut process = Some(thread.process);
    while let Some(index) = process {
        if let Some(calls) = in_flight.get(&index).filter(|calls| !calls.is_empty()) {
            if let [call] = calls[..] {
                return Charge::Exact(call);
            }
            if index == thread.process
                && let Some(call) = bound(recording, calls, thread.tid)
            {
                return Charge::Exact(call);
            }
            return Charge::Shared(calls.as_slice().into());
        }
        let parent = recording.processes.get(index).and_then(|process| process.parent);
        process = parent.filter(|parent| *parent < index);
    }
    Charge::Background
}

/// For each process that lived within calls of whoever started it: those calls. A call that waits for the processes that it starts is
/// one of them; what was in flight for a part of that time only did not.
fn enclosing_calls(recording: &Recording) -> HashMap<ProcessIndex, Vec<CallIndex>> {
    let mut by_process: HashMap<ProcessIndex, Vec<CallIndex>> = HashMap::new();
    for (index, recorded) in recording.calls.iter().enumerate() {
        if recorded.call.caller == Side::Client {
            by_process.entry(recorded.process).or_default().push(index);
        }
    }
    // Those of a recording that grows come in the order of their ends.
    for calls in by_process.values_mut() {
        calls.sort_by_key(|call| recording.calls[*call].call.start_ns);
    }
    let mut within = HashMap::new();
    for (index, process) in recording.processes.iter().enumerate() {
        let Some(exit_ns) = process.exit_ns.filter(|_| !by_process.contains_key(&index)) else { continue };
        let mut ancestor = process.parent.filter(|parent| *parent < index);
        // The nearest one that answers calls. Parents have smaller indices, so this ends.
        while let Some(parent) = ancestor.filter(|parent| !by_process.contains_key(parent)) {
            ancestor = recording.processes[parent].parent.filter(|grandparent| *grandparent < parent);
        }
        let Some(calls) = ancestor.and_then(|ancestor| by_process.get(&ancestor)) else { continue };
        let started = calls.partition_point(|call| recording.calls[*call].call.start_ns <= process.first_ns);
        let encloses = |call: &CallIndex| recording.calls[*call].call.end_ns >= exit_ns;
        let enclosing: Vec<CallIndex> = calls[..started].iter().copied().filter(encloses).collect();
        if !enclosing.is_empty() {
            within.insert(index, enclosing);
        }
    }
    within
}

/// The call that a thread is bound to, if there is exactly one.
fn bound(recording: &Recording, calls: &[CallIndex], tid: u32) -> Option<CallIndex> {
    let mut candidates = calls.iter().filter(|call| {
        let call = &recording.calls[**call].call;
        call.request_thread == tid || call.response_thread == tid
    });
    let candidate = *candidates.next()?;
    let call = &recording.calls[candidate].call;
    let is_bound = call.request_thread == tid && call.response_thread == tid && candidates.next().is_none();
    is_bound.then_some(candidate)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::testing::Builder;

    const MS: u64 = 1_000_000;

    /// One call alone is exact, two are shared by halves, none is background; the three add up.
    #[test]
    fn charges_by_what_is_in_flight() {
        let mut builder = Builder::new();
        let thread = builder.thread(0, 100, "main");
        builder.call(0, "a", 10 * MS, 40 * MS);
        builder.call(0, "b", 30 * MS, 60 * MS);
        for (time, weight) in [(5, 1), (20, 2), (35, 5), (50, 8), (70, 16)] {
            builder.sample_at(time * MS, thread, weight);
        }
        let attribution = Attribution::new(&builder.recording);
        let cost = |exact_ns, shared_ns| Cost { exact_ns, shared_ns };
        assert_eq!(attribution.costs, [cost(2, 3), cost(8, 2)]);
        assert_eq!((attribution.background_ns, attribution.peak_in_flight), (17, 2));
        let only = attribution.only(&builder.recording, |call| call == 1);
        assert_eq!(only.samples.iter().map(|sample| sample.weight_ns).collect::<Vec<_>>(), [2, 8]);
    }

    /// A thread that reads and answers a call of its own is bound to it; one that has several is not.
    #[test]
    fn threads_are_bound() {
        let mut builder = Builder::new();
        let (one, two) = (builder.thread(0, 7, "one"), builder.thread(0, 8, "two"));
        for (name, tid) in [("a", 7), ("b", 8), ("c", 8)] {
            builder.call(0, name, 10 * MS, 40 * MS);
            let call = &mut builder.recording.calls.last_mut().unwrap().call;
            (call.request_thread, call.response_thread) = (tid, tid);
        }
        builder.sample_at(20 * MS, one, 10);
        builder.sample_at(20 * MS, two, 9);
        let attribution = Attribution::new(&builder.recording);
        assert_eq!(attribution.charges, [Charge::Exact(0), Charge::Shared([0, 1, 2].into())]);
    }

    /// A child that lived within one call only is that call's, also while others are in flight; one within two calls is of these two.
    #[test]
    fn children_within_calls() {
        let mut builder = Builder::new();
        for (tool, from, to) in [("a", 10, 60), ("b", 20, 40), ("c", 25, 90)] {
            builder.call(0, tool, from * MS, to * MS);
        }
        for (pid, from, to) in [(200, 15, 50), (300, 30, 50), (400, 30, 99)] {
            let child = builder.process(pid, "git log", "native", None);
            let process = &mut builder.recording.processes[child];
            (process.parent, process.first_ns, process.exit_ns) = (Some(0), from * MS, Some(to * MS));
            let thread = builder.thread(child, pid, "git");
            builder.sample_at(35 * MS, thread, 1);
        }
        let attribution = Attribution::new(&builder.recording);
        let expected = [Charge::Exact(0), Charge::Shared([0, 2].into()), Charge::Shared([0, 1, 2].into())];
        assert_eq!(attribution.charges, expected);
    }

    /// Of several calls in flight, those of the tool whose function runs are charged, as an estimate.
    #[test]
    fn functions_of_tools_tell() {
        let mut builder = Builder::new();
        let thread = builder.thread(0, 100, "main");
        builder.call(0, "burn", 10 * MS, 40 * MS);
        builder.call(0, "sleep", 10 * MS, 40 * MS);
        let (burning, other) = (builder.stack(&["main", "burn"]), builder.stack(&["main", "parse"]));
        for stack in [burning, other] {
            builder.sample_at(20 * MS, thread, 8);
            builder.recording.samples.last_mut().unwrap().stack = Some(stack);
        }
        let attribution = Attribution::new(&builder.recording);
        assert_eq!(attribution.charges, [Charge::Shared([0].into()), Charge::Shared([0, 1].into())]);
        let cost = |shared_ns| Cost { exact_ns: 0, shared_ns };
        assert_eq!((attribution.costs, attribution.told_ns), (vec![cost(12), cost(4)], 8));
    }

    /// A child process works for the call that its parent has in flight, unless it answers calls itself.
    #[test]
    fn children_work_for_their_parents() {
        let mut builder = Builder::new();
        let child = builder.process(200, "git log", "native", None);
        builder.recording.processes[child].parent = Some(0);
        let thread = builder.thread(child, 200, "git");
        builder.call(0, "log", 10 * MS, 40 * MS);
        builder.call(child, "own", 20 * MS, 30 * MS);
        builder.sample_at(15 * MS, thread, 1);
        builder.sample_at(25 * MS, thread, 1);
        let attribution = Attribution::new(&builder.recording);
        assert_eq!(attribution.charges, [Charge::Exact(0), Charge::Exact(1)]);
    }
}
