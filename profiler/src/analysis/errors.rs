//! Errors by what they are: how often and when they happen, what came before them, and what the server did meanwhile.

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;

use super::attribution::{Attribution, CallIndex, Cost};
use super::calls::{duration_ns, is_incomplete, scaled_period_ns};
use super::excess::{ExcessPath, Paid, excess};
use super::functions::Functions;
use super::{ratio, seconds};
use crate::recording::{ProcessIndex, Recording};
use crate::wire::calls::{Call, Ended, Session, Side};
use crate::wire::shape::shape;

/// Version of the shape of [`Errors`].
pub const SCHEMA_VERSION: u32 = 1;
/// Most stretches of time in which errors are counted.
const MAX_BUCKETS: u64 = 60;
const NS_PER_SECOND: u64 = 1_000_000_000;
/// Calls that are named as examples.
const MAX_EXAMPLES: usize = 5;
/// What comes before an error is told when it did so often...
const LEAST_BEFORE: u64 = 3;
/// ...and so many standard deviations more often than before a success.
const LEAST_DEVIATIONS: f64 = 3.0;
/// Groups of errors that are compared with good calls: names and messages are the server's, who may make up new ones each time.
const MAX_ANALYSED: usize = 32;
/// Samples that calls must have had the time for, for their CPU time to be told.
const FEW_SAMPLES: u64 = 10;

/// The errors of a recording.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Errors {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// Some calls may be missing, or their ends.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub incomplete: bool,
    /// Calls that clients made.
    pub calls: u64,
    /// Those that ended with an error, of JSON-RPC or of the tool.
    pub errors: u64,
    /// Those that have no answer, by how they ended.
    pub unfinished: BTreeMap<&'static str, u64>,
    /// Length of the stretches of `over_time`.
    pub stretch_seconds: f64,
    /// By time since the recording's start.
    pub over_time: Vec<Stretch>,
    /// By tool, code and shape of the message, the most often first.
    pub groups: Vec<ErrorGroup>,
}

/// Calls that ended in a stretch of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Stretch {
    /// All.
    pub calls: u64,
    /// Those with an error.
    pub errors: u64,
}

/// Errors of one sort.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ErrorGroup {
    /// `tools/call`...
    pub method: String,
    /// The tool, prompt or resource.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool: Option<String>,
    /// `error` of JSON-RPC, or `tool_error`.
    pub outcome: &'static str,
    /// Code of the error.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_code: Option<i64>,
    /// [Shape](crate::wire::shape) of the message; absent without one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message_shape: Option<String>,
    /// How many.
    pub count: u64,
    /// Share of the calls of this tool, 0 to 1.
    pub ratio: f64,
    /// End of the first one since the recording's start.
    pub first_seconds: f64,
    /// End of the last one.
    pub last_seconds: f64,
    /// Numbers of some of them, for `trace`.
    pub examples: Vec<u64>,
    /// How many in each stretch of time.
    pub over_time: Vec<u64>,
    /// What they have in common; only where that was asked for, and of the 32 groups with the most errors.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub analysis: Option<ErrorAnalysis>,
}

/// How failing calls differ from good ones of the same tool.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ErrorAnalysis {
    /// Failing calls.
    pub failing: Means,
    /// Calls of the tool with a result; absent when there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub good: Option<Means>,
    /// Calls on the same stream that ended just before, far more often than before a good call.
    pub before: Vec<Before>,
    /// Where failing calls spend more CPU time.
    pub stacks: Vec<ExcessPath>,
}

/// Means of some calls.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Means {
    /// How many.
    pub calls: u64,
    /// Their time.
    pub duration_ms: f64,
    /// CPU time; absent where there were too few samples to tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_ms: Option<f64>,
    /// Length of the request.
    pub request_bytes: f64,
}

/// A sort of calls that come before errors.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Before {
    /// The tool, or method.
    pub name: String,
    /// How it ended.
    pub outcome: &'static str,
    /// Failing calls with such a one before them.
    pub failing: u64,
    /// Share of the failing calls, 0 to 1.
    pub failing_ratio: f64,
    /// Share of the good calls, 0 to 1.
    pub good_ratio: f64,
}

type Tool<'a> = (&'a str, Option<&'a str>);
/// Tool, outcome, code, and shape of the message.
type Sort<'a> = (Tool<'a>, &'static str, Option<i64>, Option<String>);

impl Errors {
    /// The errors of a recording: of these tools (prompts, resources, methods), or of all when there are none.
    pub fn new(
        recording: &Recording,
        attribution: &Attribution,
        tools: &[String],
        with_analysis: bool,
    ) -> Self {
        let start_ns = recording.meta.start_ns;
        let window_ns = recording.meta.end_ns.saturating_sub(start_ns).max(1);
        let stretch_ns = window_ns.div_ceil(MAX_BUCKETS).div_ceil(NS_PER_SECOND).max(1) * NS_PER_SECOND;
        let stretches = usize::try_from(window_ns.div_ceil(stretch_ns)).unwrap_or(1).max(1);
        let stretch_of = |call: &Call| {
            let stretch = call.end_ns.saturating_sub(start_ns) / stretch_ns;
            usize::try_from(stretch).unwrap_or(usize::MAX).min(stretches - 1)
        };
        let mut this = Self {
            schema_version: SCHEMA_VERSION,
            incomplete: is_incomplete(&recording.messages, &recording.losses),
            calls: 0,
            errors: 0,
            unfinished: BTreeMap::new(),
            stretch_seconds: seconds(stretch_ns),
            over_time: vec![Stretch::default(); stretches],
            groups: Vec::new(),
        };
        let mut good: HashMap<Tool<'_>, Vec<CallIndex>> = HashMap::new();
        let mut of_tool: HashMap<Tool<'_>, u64> = HashMap::new();
        let mut failing: BTreeMap<Sort<'_>, Vec<CallIndex>> = BTreeMap::new();
        for (index, recorded) in recording.calls.iter().enumerate() {
            let call = &recorded.call;
            if call.caller != Side::Client || !(tools.is_empty() || call.is_of(tools)) {
                continue;
            }
            let tool = (&*call.method, call.name.as_deref());
            this.calls += 1;
            *of_tool.entry(tool).or_default() += 1;
            let stretch = &mut this.over_time[stretch_of(call)];
            stretch.calls += 1;
            if call.ended.is_error() {
                this.errors += 1;
                stretch.errors += 1;
                let (code, message) = call.ended.error();
                failing.entry((tool, call.ended.name(), code, message.map(shape))).or_default().push(index);
            } else if call.ended == Ended::Ok {
                good.entry(tool).or_default().push(index);
            } else {
                *this.unfinished.entry(call.ended.name()).or_default() += 1;
            }
        }
        let mut failing: Vec<_> = failing.into_iter().collect();
        failing.sort_by_key(|(_, calls)| std::cmp::Reverse(calls.len()));
        let compared = failing.iter().take(if with_analysis { MAX_ANALYSED } else { 0 });
        let compared: Vec<_> = compared
            .map(|((tool, ..), calls)| (&calls[..], good.get(tool).map_or(&[][..], Vec::as_slice)))
            .collect();
        let mut analyses = if compared.is_empty() {
            Vec::new()
        } else {
            Analyst::new(recording, attribution).compare(attribution, &compared)
        }
        .into_iter();
        drop(compared);
        for ((tool, outcome, error_code, message_shape), calls) in failing {
            let ends =
                || calls.iter().map(|index| recording.calls[*index].call.end_ns.saturating_sub(start_ns));
            let mut over_time = vec![0; stretches];
            calls.iter().for_each(|index| over_time[stretch_of(&recording.calls[*index].call)] += 1);
            this.groups.push(ErrorGroup {
                method: tool.0.to_owned(),
                tool: tool.1.map(str::to_owned),
                outcome,
                error_code,
                message_shape,
                count: calls.len() as u64,
                ratio: ratio(calls.len() as u64, of_tool.get(&tool).copied().unwrap_or(0)),
                first_seconds: seconds(ends().min().unwrap_or(0)),
                last_seconds: seconds(ends().max().unwrap_or(0)),
                examples: calls.iter().take(MAX_EXAMPLES).map(|index| *index as u64 + 1).collect(),
                over_time,
                analysis: analyses.next(),
            });
        }
        this
    }
}

/// Compares failing calls with good ones.
struct Analyst<'a> {
    recording: &'a Recording,
    functions: Functions,
    costs: &'a [Cost],
    period_ns: u64,
    /// Calls by their ends, on each stream.
    ended: HashMap<(ProcessIndex, Session), Vec<(u64, CallIndex)>>,
}

impl<'a> Analyst<'a> {
    fn new(recording: &'a Recording, attribution: &'a Attribution) -> Self {
        let mut ended: HashMap<(ProcessIndex, Session), Vec<(u64, CallIndex)>> = HashMap::new();
        for (index, recorded) in recording.calls.iter().enumerate() {
            if recorded.call.caller == Side::Client {
                let stream = (recorded.process, recorded.call.session);
                ended.entry(stream).or_default().push((recorded.call.end_ns, index));
            }
        }
        ended.values_mut().for_each(|calls| calls.sort_unstable());
        let (functions, period_ns) = (Functions::new(recording), scaled_period_ns(recording));
        Self { recording, functions, costs: &attribution.costs, period_ns, ended }
    }

    /// Compares each group of failing calls with the good calls of its tool.
    fn compare(
        &self,
        attribution: &Attribution,
        groups: &[(&[CallIndex], &[CallIndex])],
    ) -> Vec<ErrorAnalysis> {
        // Good calls are compared with several groups, each of which has the same ones.
        let mut sets: HashMap<&[CallIndex], usize> = HashMap::new();
        let mut set_of: HashMap<CallIndex, usize> = HashMap::new();
        for calls in groups.iter().flat_map(|(failing, good)| [*failing, *good]) {
            let next = sets.len();
            let set = *sets.entry(calls).or_insert(next);
            set_of.extend(calls.iter().map(|call| (*call, set)));
        }
        let mut paid = vec![Paid::default(); sets.len()];
        attribution.charges(self.recording, |sample, charge| {
            for (call, part_ns) in charge.parts(self.recording.samples[sample].weight_ns) {
                if let Some(set) = set_of.get(&call) {
                    paid[*set].add(sample, part_ns);
                }
            }
        });
        groups
            .iter()
            .map(|(failing, good)| self.analysis((failing, &paid[sets[failing]]), (good, &paid[sets[good]])))
            .collect()
    }

    fn analysis(
        &self,
        (failing, own_paid): (&[CallIndex], &Paid),
        (good, good_paid): (&[CallIndex], &Paid),
    ) -> ErrorAnalysis {
        let (own, others) = (self.means(failing), self.means(good));
        let is_sampled = own.cpu_ms.is_some() && own.cpu_ms > Some(0.0);
        let (own_paid, good_paid) = ((own_paid, failing.len()), (good_paid, good.len()));
        ErrorAnalysis {
            before: self.before(failing, good),
            stacks: if is_sampled {
                excess(self.recording, &self.functions, own_paid, good_paid)
            } else {
                Vec::new()
            },
            failing: own,
            good: (!good.is_empty()).then_some(others),
        }
    }

    fn means(&self, calls: &[CallIndex]) -> Means {
        let mean = |value: &dyn Fn(CallIndex) -> u64| {
            calls.iter().map(|index| value(*index) as f64).sum::<f64>() / calls.len().max(1) as f64
        };
        let call = |index: CallIndex| &self.recording.calls[index].call;
        let own_duration_ns = |index| duration_ns(call(index));
        let all_ns = calls.iter().fold(0, |sum: u64, index| sum.saturating_add(own_duration_ns(*index)));
        let cpu_ms = mean(&|index| self.costs.get(index).map_or(0, |cost| cost.total_ns())) / 1e6;
        Means {
            calls: calls.len() as u64,
            duration_ms: mean(&own_duration_ns) / 1e6,
            cpu_ms: (all_ns / self.period_ns.max(1) >= FEW_SAMPLES).then_some(cpu_ms),
            request_bytes: mean(&|index| call(index).request_bytes),
        }
    }

    /// What ended last on the same stream before a call started.
    fn predecessor(&self, index: CallIndex) -> Option<(&'a str, &'static str)> {
        let recorded = &self.recording.calls[index];
        let ended = self.ended.get(&(recorded.process, recorded.call.session))?;
        let behind = ended.partition_point(|(end, _)| *end <= recorded.call.start_ns);
        let before = ended[..behind].iter().rev().map(|(_, call)| *call).find(|call| *call != index)?;
        let call = &self.recording.calls[before].call;
        Some((call.name.as_deref().unwrap_or(&call.method), call.ended.name()))
    }

    fn before(&self, failing: &[CallIndex], good: &[CallIndex]) -> Vec<Before> {
        if good.is_empty() {
            return Vec::new();
        }
        let mut counts: BTreeMap<(&str, &'static str), (u64, u64)> = BTreeMap::new();
        for (calls, is_failing) in [(failing, true), (good, false)] {
            for before in calls.iter().filter_map(|index| self.predecessor(*index)) {
                let (of_failing, of_good) = counts.entry(before).or_default();
                *(if is_failing { of_failing } else { of_good }) += 1;
            }
        }
        let (all_failing, all_good) = (failing.len() as u64, good.len() as u64);
        let mut before: Vec<Before> = counts
            .into_iter()
            .filter(|(_, (of_failing, of_good))| {
                // Two shares of one whole: is the difference chance?
                let (own, other) = (ratio(*of_failing, all_failing), ratio(*of_good, all_good));
                let all = ratio(of_failing + of_good, all_failing + all_good);
                let deviation =
                    (all * (1.0 - all) * (1.0 / all_failing as f64 + 1.0 / all_good as f64)).sqrt();
                *of_failing >= LEAST_BEFORE
                    && own - other > LEAST_DEVIATIONS * deviation
                    && own >= 2.0 * other
            })
            .map(|((name, outcome), (of_failing, of_good))| Before {
                name: name.to_owned(),
                outcome,
                failing: of_failing,
                failing_ratio: ratio(of_failing, all_failing),
                good_ratio: ratio(of_good, all_good),
            })
            .collect();
        before.sort_by_key(|before| std::cmp::Reverse(before.failing));
        before
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::testing::Builder;
    use crate::recording::{Sample, StackEnd};

    const MS: u64 = 1_000_000;

    /// 60 calls of `read`, of which each fails that follows a call of `lock`; and one of `write` that fails otherwise.
    fn recording() -> Builder {
        let mut builder = Builder::new();
        let thread = builder.thread(0, 100, "main");
        let start = builder.recording.meta.start_ns;
        let (good, bad) = (builder.stack(&["main", "read"]), builder.stack(&["main", "read", "throw"]));
        for number in 0..60 {
            let at = start + number * 100 * MS;
            let is_failing = number % 4 == 0;
            builder.call(0, if is_failing { "lock" } else { "list" }, at, at + 5 * MS);
            builder.call(0, "read", at + 10 * MS, at + 60 * MS);
            let call = &mut builder.recording.calls.last_mut().unwrap().call;
            if is_failing {
                let message = Some(format!("file {number} not found: '/home/{number}'").into());
                call.ended = Ended::Error { code: Some(-32602), message };
            }
            let stack = Some(if is_failing { bad } else { good });
            let stack_end = StackEnd::ChainEnd;
            for sample in 0..if is_failing { 4 } else { 1 } {
                let timestamp_ns = at + (15 + sample * 10) * MS;
                builder.recording.samples.push(Sample {
                    timestamp_ns,
                    thread,
                    stack,
                    weight_ns: 10 * MS,
                    stack_end,
                });
            }
        }
        builder.call(0, "write", start + 9000 * MS, start + 9001 * MS);
        builder.recording.calls.last_mut().unwrap().call.ended =
            Ended::ToolError { message: Some("disk full".into()) };
        builder.call(0, "write", start + 9500 * MS, start + 9501 * MS);
        builder.recording.calls.last_mut().unwrap().call.ended = Ended::Cancelled;
        builder
    }

    /// Errors of one sort are one group, whatever they name, with their times.
    #[test]
    fn groups_by_shape() {
        let builder = recording();
        let errors = Errors::new(&builder.recording, &Attribution::new(&builder.recording), &[], false);
        assert_eq!((errors.calls, errors.errors, errors.unfinished["cancelled"]), (122, 16, 1));
        let [read, write] = &errors.groups[..] else { panic!("{errors:#?}") };
        assert_eq!(
            (read.tool.as_deref(), read.outcome, read.error_code),
            (Some("read"), "error", Some(-32602))
        );
        assert_eq!(read.message_shape.as_deref(), Some("file <number> not found: <text>"));
        assert_eq!((read.count, read.ratio, read.first_seconds, read.last_seconds), (15, 0.25, 0.06, 5.66));
        assert_eq!(read.examples, [2, 10, 18, 26, 34]);
        assert_eq!(read.over_time, [3, 2, 3, 2, 3, 2, 0, 0, 0, 0]);
        assert_eq!((write.outcome, write.error_code, write.ratio), ("tool_error", None, 0.5));
        assert_eq!((errors.stretch_seconds, errors.over_time[9]), (1.0, Stretch { calls: 2, errors: 1 }));
        let only = Errors::new(&builder.recording, &Attribution::default(), &["write".to_owned()], false);
        assert_eq!((only.calls, only.groups.len()), (2, 1));
    }

    /// What came before, and where failing calls spend more CPU time.
    #[test]
    fn compares_with_good_calls() {
        let builder = recording();
        let errors = Errors::new(&builder.recording, &Attribution::new(&builder.recording), &[], true);
        let read = errors.groups[0].analysis.as_ref().unwrap();
        assert_eq!((read.failing.cpu_ms, read.good.and_then(|good| good.cpu_ms)), (Some(40.0), Some(10.0)));
        let [before] = &read.before[..] else { panic!("{read:#?}") };
        assert_eq!(
            (before.name.as_str(), before.failing, before.failing_ratio, before.good_ratio),
            ("lock", 15, 1.0, 0.0)
        );
        assert_eq!(
            (read.stacks[0].path.join(">"), read.stacks[0].more_ms),
            ("main>read>throw".to_owned(), 40.0)
        );
        let write = errors.groups[1].analysis.as_ref().unwrap();
        assert_eq!((write.failing.cpu_ms, write.good, write.before.len()), (None, None, 0));
    }
}
