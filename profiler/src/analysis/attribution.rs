//! Whose CPU time it was: each sample is charged to the calls that were in flight when it was taken.
//!
//! A call is in flight from its first byte to its last. A sample of the process that answers, or of a process that it
//! started, is
//! - **exact** when one call alone was in flight, or the sampled thread was bound to one: it read that request and wrote
//!   that response, and had no other call between, in a process in which all calls are so; or when the process was made and ended
//!   within one call alone;
//! - **shared** when several were in flight: each gets an equal part, an estimate. Where the functions of one of their tools are on the
//!   stack, only its calls do. Of more than [`MAX_SHARING`], those that came last do. So is what only one was in flight for whose answer may
//!   have been lost;
//! - **background** when none was.
//!
//! The three add up to all samples.

use std::collections::HashMap;

use super::tool_functions::ToolFunctions;
use crate::recording::{ProcessIndex, Recording, Sample};
use crate::wire::calls::{Call, Ended, Side};

/// Index in [`Recording::calls`].
pub type CallIndex = usize;

/// Most calls that share a sample: those that came last. Calls that never end would make each sample cost more and more, and those that came
/// last are the likeliest to be worked on.
pub const MAX_SHARING: usize = 1024;

/// Whom a sample is charged to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Charge<'calls> {
    /// No call was in flight.
    Background,
    /// This call.
    Exact(CallIndex),
    /// An equal part to each of these: an estimate. A single one was told by its tool's functions.
    Shared(&'calls [CallIndex]),
}

impl Charge<'_> {
    /// The calls that pay for a sample of this weight, each with its part of it, in nanoseconds.
    pub fn parts(&self, weight_ns: u64) -> impl Iterator<Item = (CallIndex, u64)> {
        let calls = match self {
            Self::Background => &[][..],
            Self::Exact(call) => std::slice::from_ref(call),
            Self::Shared(calls) => calls,
        };
        // Equal parts that add up to the whole.
        let count = (calls.len() as u64).max(1);
        let (part, rest) = (weight_ns / count, weight_ns % count);
        calls.iter().zip(0_u64..).map(move |(call, position)| (*call, part + u64::from(position < rest)))
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
    /// For each call of the recording.
    pub costs: Vec<Cost>,
    /// Time that no call was in flight for, in nanoseconds.
    pub background_ns: u64,
    /// Of shared time, what the functions of tools told: it was split between fewer calls than were in flight.
    pub told_ns: u64,
    /// Of shared time, what so many calls were in flight for that only those that came last have a part of it.
    pub crowded_ns: u64,
    /// The most calls that were in flight at once in one process.
    pub peak_in_flight: usize,
    /// In the order of time.
    steps: Vec<(u64, Step)>,
    tools: ToolFunctions,
}

/// A moment at which something changes. At one time, calls and processes start before samples, and end behind them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Start(CallIndex),
    /// A process that works for another one, and the nearest one of its callers that answers calls.
    Made(ProcessIndex, ProcessIndex),
    Sample(usize),
    End(CallIndex),
    Gone(ProcessIndex),
}

impl Attribution {
    /// Charges each sample of a recording.
    pub fn new(recording: &Recording) -> Self {
        let mut this = Self {
            costs: vec![Cost::default(); recording.calls.len()],
            steps: steps(recording),
            tools: ToolFunctions::new(recording),
            ..Self::default()
        };
        let (mut costs, mut background_ns, mut told_ns, mut crowded_ns) =
            (std::mem::take(&mut this.costs), 0_u64, 0_u64, 0_u64);
        this.peak_in_flight = this.sweep(recording, |index, charge, estimate| {
            let weight_ns = recording.samples[index].weight_ns;
            match charge {
                Charge::Background => background_ns = background_ns.saturating_add(weight_ns),
                Charge::Exact(call) => costs[call].add(Cost { exact_ns: weight_ns, shared_ns: 0 }),
                Charge::Shared(_) => {
                    for (call, shared_ns) in charge.parts(weight_ns) {
                        costs[call].add(Cost { exact_ns: 0, shared_ns });
                    }
                }
            }
            told_ns = told_ns.saturating_add(weight_ns * u64::from(estimate.is_told));
            crowded_ns = crowded_ns.saturating_add(weight_ns * u64::from(estimate.is_crowded));
        });
        Self { costs, background_ns, told_ns, crowded_ns, ..this }
    }

    /// Tells whom each sample is charged to, in the order of time. The recording is the one that this was made of: lists of calls for
    /// each sample would take far more memory than making them once more takes time.
    pub fn charges(&self, recording: &Recording, mut visit: impl FnMut(usize, Charge<'_>)) {
        self.sweep(recording, |sample, charge, _| visit(sample, charge));
    }

    /// The same, with how shared time was split. Returns the most calls that were in flight at once.
    fn sweep(&self, recording: &Recording, mut visit: impl FnMut(usize, Charge<'_>, Estimate)) -> usize {
        let mut now = Now { hands_over: handing_over(recording), ..Now::default() };
        let mut peak_in_flight = 0;
        for (_, step) in &self.steps {
            match *step {
                Step::Start(call) => {
                    peak_in_flight = peak_in_flight.max(now.start(recording, call));
                }
                Step::End(call) => now.end(recording, call),
                Step::Made(process, caller) => now.made(recording, process, caller),
                Step::Gone(process) => {
                    now.within.remove(&process);
                }
                Step::Sample(index) => {
                    let sample = &recording.samples[index];
                    let (charge, is_crowded) = now.charge(recording, sample);
                    let told = match charge {
                        Charge::Shared(calls) => self.tools.tell(sample.stack, calls),
                        _ => None,
                    };
                    let is_told = told.is_some();
                    let charge = told.as_deref().map_or(charge, Charge::Shared);
                    visit(index, charge, Estimate { is_told, is_crowded });
                }
            }
        }
        peak_in_flight
    }

    /// The recording with the samples of some calls only. Of a shared sample, their part of its weight stays.
    pub fn only(&self, recording: &Recording, is_wanted: impl Fn(CallIndex) -> bool) -> Recording {
        let mut wanted_ns = vec![0; recording.samples.len()];
        self.charges(recording, |index, charge| {
            let parts = charge.parts(recording.samples[index].weight_ns);
            wanted_ns[index] = parts.filter(|(call, _)| is_wanted(*call)).map(|(_, part)| part).sum();
        });
        let samples = recording.samples.iter().zip(wanted_ns).filter(|(_, weight_ns)| *weight_ns > 0);
        let samples = samples.map(|(sample, weight_ns)| Sample { weight_ns, ..*sample }).collect();
        // What the kernel counted, and what was sampled before it was scaled to that, are of processes and not of calls.
        Recording { samples, gauges: Vec::new(), sampled_ns: Vec::new(), ..recording.clone() }
    }
}

/// A recording with the samples of calls of some tools (prompts, resources, methods) only.
pub fn of_tools(recording: &Recording, tools: &[String]) -> Recording {
    Attribution::new(recording).only(recording, |call| recording.calls[call].call.is_of(tools))
}

/// How a sample was split.
#[derive(Clone, Copy, Debug)]
struct Estimate {
    /// By the functions of a tool.
    is_told: bool,
    /// More than [`MAX_SHARING`] calls were in flight.
    is_crowded: bool,
}

fn steps(recording: &Recording) -> Vec<(u64, Step)> {
    let mut steps: Vec<(u64, Step)> = Vec::new();
    let mut answers = vec![false; recording.processes.len()];
    for (index, recorded) in recording.calls.iter().enumerate() {
        // What a server asks of its client costs the client.
        if recorded.call.caller == Side::Client {
            steps.push((recorded.call.start_ns, Step::Start(index)));
            steps.push((recorded.call.end_ns.max(recorded.call.start_ns), Step::End(index)));
            if let Some(answers) = answers.get_mut(recorded.process) {
                *answers = true;
            }
        }
    }
    for (index, process) in recording.processes.iter().enumerate() {
        let Some(exit_ns) = process.exit_ns.filter(|_| !answers[index]) else { continue };
        let mut caller = process.parent.filter(|parent| *parent < index);
        // Parents have smaller indices, so this ends.
        while let Some(parent) = caller.filter(|parent| !answers[*parent]) {
            caller = recording.processes[parent].parent.filter(|grandparent| *grandparent < parent);
        }
        if let Some(caller) = caller {
            steps.push((process.first_ns, Step::Made(index, caller)));
            steps.push((exit_ns.max(process.first_ns), Step::Gone(index)));
        }
    }
    let samples = recording.samples.iter().enumerate();
    steps.extend(samples.map(|(index, sample)| (sample.timestamp_ns, Step::Sample(index))));
    steps.sort_unstable();
    steps
}

/// Of each process whether some of its calls were answered by another thread than the one that read them. Where threads take work from
/// each other, as tokio's and Go's do, one that reads and answers a call may have worked for another one between.
fn handing_over(recording: &Recording) -> Vec<bool> {
    let mut hands_over = vec![false; recording.processes.len()];
    for recorded in &recording.calls {
        let Call { request_thread, response_thread, caller, .. } = recorded.call;
        // Of what was not answered there is no such thread.
        let is_known = caller == Side::Client && response_thread != 0;
        if is_known
            && request_thread != response_thread
            && let Some(hands_over) = hands_over.get_mut(recorded.process)
        {
            *hands_over = true;
        }
    }
    hands_over
}

/// What is in flight at a moment. Lists of calls are in the order of their starts.
#[derive(Debug, Default)]
struct Now {
    /// See [`handing_over`].
    hands_over: Vec<bool>,
    in_flight: HashMap<ProcessIndex, Vec<CallIndex>>,
    /// Those that a thread read or answers.
    of_thread: HashMap<(ProcessIndex, u32), Vec<CallIndex>>,
    /// For each process that lives within calls of whoever started it: those calls. A call that waits for the processes that it starts
    /// is one of them; what is in flight for a part of that time only did not.
    within: HashMap<ProcessIndex, Vec<CallIndex>>,
}

impl Now {
    /// Returns how many are in flight in its process now.
    fn start(&mut self, recording: &Recording, call: CallIndex) -> usize {
        for thread in threads(recording, call) {
            self.of_thread.entry(thread).or_default().push(call);
        }
        let calls = self.in_flight.entry(recording.calls[call].process).or_default();
        calls.push(call);
        calls.len()
    }

    fn end(&mut self, recording: &Recording, call: CallIndex) {
        for thread in threads(recording, call) {
            if let Some(calls) = self.of_thread.get_mut(&thread) {
                remove(recording, calls, call);
                if calls.is_empty() {
                    self.of_thread.remove(&thread);
                }
            }
        }
        if let Some(calls) = self.in_flight.get_mut(&recording.calls[call].process) {
            remove(recording, calls, call);
        }
    }

    fn made(&mut self, recording: &Recording, process: ProcessIndex, caller: ProcessIndex) {
        let Some(exit_ns) = recording.processes[process].exit_ns else { return };
        let in_flight = self.in_flight.get(&caller).into_iter().flatten();
        let mut within: Vec<CallIndex> =
            in_flight.copied().filter(|call| recording.calls[*call].call.end_ns >= exit_ns).collect();
        // One more tells that there were more.
        within.drain(..within.len().saturating_sub(MAX_SHARING + 1));
        if !within.is_empty() {
            self.within.insert(process, within);
        }
    }

    /// Whom a sample is charged to, and whether there were more calls than can share it.
    fn charge(&self, recording: &Recording, sample: &Sample) -> (Charge<'_>, bool) {
        let nobody = (Charge::Background, false);
        let Some(thread) = recording.threads.get(sample.thread) else { return nobody };
        if let Some(calls) = self.within.get(&thread.process) {
            return shared(recording, calls);
        }
        // Its own calls; else those of whoever started it. Parents have smaller indices, so this ends.
        let mut process = Some(thread.process);
        while let Some(index) = process {
            if let Some(calls) = self.in_flight.get(&index).filter(|calls| !calls.is_empty()) {
                let bound = (index == thread.process && calls.len() > 1)
                    .then(|| self.bound(recording, (index, thread.tid)))
                    .flatten();
                return bound.map_or_else(|| shared(recording, calls), |call| (Charge::Exact(call), false));
            }
            let parent = recording.processes.get(index).and_then(|process| process.parent);
            process = parent.filter(|parent| *parent < index);
        }
        nobody
    }

    /// The call that a thread is bound to, if there is exactly one.
    fn bound(&self, recording: &Recording, thread: (ProcessIndex, u32)) -> Option<CallIndex> {
        let [candidate] = self.of_thread.get(&thread)?[..] else { return None };
        let call = &recording.calls[candidate].call;
        let is_own = call.request_thread == call.response_thread && !self.hands_over[thread.0];
        is_own.then_some(candidate)
    }
}

fn shared<'calls>(recording: &Recording, calls: &'calls [CallIndex]) -> (Charge<'calls>, bool) {
    match calls {
        // Of one whose answer may have been lost nobody knows whether it still was in flight.
        [call] if recording.calls[*call].call.ended != Ended::Lost => (Charge::Exact(*call), false),
        _ => {
            let latest = &calls[calls.len().saturating_sub(MAX_SHARING)..];
            (Charge::Shared(latest), latest.len() < calls.len())
        }
    }
}

/// The threads that read and answered a call.
fn threads(recording: &Recording, call: CallIndex) -> impl Iterator<Item = (ProcessIndex, u32)> {
    let process = recording.calls[call].process;
    let call = &recording.calls[call].call;
    let (one, other) = (call.request_thread, call.response_thread);
    let threads = [Some(one), (other != one).then_some(other)];
    threads.into_iter().flatten().map(move |thread| (process, thread))
}

/// Removes a call from a list in the order of starts.
fn remove(recording: &Recording, calls: &mut Vec<CallIndex>, call: CallIndex) {
    let order = |call: CallIndex| (recording.calls[call].call.start_ns, call);
    if let Ok(position) = calls.binary_search_by_key(&order(call), |other| order(*other)) {
        calls.remove(position);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::testing::Builder;

    const MS: u64 = 1_000_000;

    /// Of each sample: whether its charge is exact, and to which calls.
    fn charges(recording: &Recording) -> Vec<(bool, Vec<CallIndex>)> {
        let mut charges = vec![(false, Vec::new()); recording.samples.len()];
        Attribution::new(recording).charges(recording, |index, charge| {
            charges[index] =
                (matches!(charge, Charge::Exact(_)), charge.parts(0).map(|(call, _)| call).collect());
        });
        charges
    }

    /// Thousands of calls that never end cost neither memory nor work for each sample: those that came last share it, the sums stay
    /// what they were, and it is told.
    #[test]
    fn calls_without_end_are_bounded() {
        let mut builder = Builder::new();
        let thread = builder.thread(0, 100, "main");
        (0..5000).for_each(|call| builder.call(0, "hang", call, 100_000 * MS));
        // Between any two samples a call comes and goes.
        for sample in 1..=20_000 {
            builder.call(0, "echo", sample * MS, sample * MS + MS / 2);
            builder.sample_at(sample * MS, thread, 5000);
        }
        let attribution = Attribution::new(&builder.recording);
        let whole = attribution.costs.iter().map(|cost| cost.total_ns()).sum::<u64>();
        assert_eq!(
            (whole, attribution.crowded_ns, attribution.peak_in_flight),
            (100_000_000, 100_000_000, 5001)
        );
        // What stays of it is of the size of the recording.
        assert!(attribution.steps.len() == 3 * 20_000 + 2 * 5000);
        assert_eq!((attribution.costs[0].total_ns(), attribution.costs[5000].shared_ns), (0, 4));
        let mut most = 0;
        attribution.charges(&builder.recording, |_, charge| most = most.max(charge.parts(1).count()));
        assert_eq!(most, MAX_SHARING);
    }

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
        assert_eq!(charges(&builder.recording), [(true, vec![0]), (false, vec![0, 1, 2])]);
    }

    /// Where one call was answered by another thread than the one that read it, a thread that reads and answers one may have worked for
    /// others between: none is bound.
    #[test]
    fn threads_that_hand_calls_over_are_not_bound() {
        for (answered_by, is_exact) in [(7, true), (0, true), (8, false)] {
            let mut builder = Builder::new();
            let one = builder.thread(0, 7, "one");
            let threads = [("sleep", 7, 7), ("burn", 8, 8), ("early", 7, answered_by)];
            for (number, (name, read_by, answered_by)) in (0..).zip(threads) {
                let start = if number == 2 { 1 } else { 10 };
                builder.call(0, name, start * MS, start * 4 * MS);
                let call = &mut builder.recording.calls.last_mut().unwrap().call;
                (call.request_thread, call.response_thread) = (read_by, answered_by);
            }
            // It took over what another one had read.
            let burning = builder.stack(&["main", "burn"]);
            builder.sample_at(20 * MS, one, 10);
            builder.recording.samples.last_mut().unwrap().stack = Some(burning);
            let expected = if is_exact { (true, vec![0]) } else { (false, vec![1]) };
            assert_eq!(charges(&builder.recording), [expected], "{answered_by}");
        }
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
        let expected = [(true, vec![0]), (false, vec![0, 2]), (false, vec![0, 1, 2])];
        assert_eq!(charges(&builder.recording), expected);
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
        assert_eq!(charges(&builder.recording), [(false, vec![0]), (false, vec![0, 1])]);
        let cost = |shared_ns| Cost { exact_ns: 0, shared_ns };
        assert_eq!((attribution.costs, attribution.told_ns), (vec![cost(12), cost(4)], 8));
    }

    /// Nobody knows when a call ended whose answer may have been lost: what it has is an estimate, also where it was alone.
    #[test]
    fn calls_without_a_known_end_have_nothing_for_certain() {
        let mut builder = Builder::new();
        let thread = builder.thread(0, 100, "main");
        builder.call(0, "a", 10 * MS, 40 * MS);
        builder.call(0, "b", 50 * MS, 60 * MS);
        builder.recording.calls[0].call.ended = Ended::Lost;
        [20, 55].into_iter().for_each(|time| builder.sample_at(time * MS, thread, 1));
        assert_eq!(charges(&builder.recording), [(false, vec![0]), (true, vec![1])]);
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
        assert_eq!(charges(&builder.recording), [(true, vec![0]), (true, vec![1])]);
    }
}
