//! Why the slowest calls of a tool were slow: what they spent more of than its typical calls.
//!
//! The time of a call is what it waited behind others ([`serial`]), what its server was on a CPU for it, what its request took to come in
//! and its response to go out, and the rest: waiting for something else. A sample of the time in which several calls were in flight
//! is theirs whose turn it was.

mod hanging;
mod serial;

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;

use super::attribution::{Attribution, CallIndex, Charge};
use super::call_list::Selection;
use super::calls::{duration_ns, is_incomplete, scaled_period_ns};
use super::excess::{ExcessPath, Paid, excess};
use super::functions::Functions;
use super::{call_list, seconds};
use crate::recording::Recording;
use crate::wire::calls::{Call, Ended, Side};
pub use hanging::Hanging;
use hanging::hanging;
use serial::{Turn, turns};

/// Version of the shape of [`SlowResponses`].
pub const SCHEMA_VERSION: u32 = 1;
/// With fewer calls nothing is said of a tool.
const LEAST_CALLS: usize = 4;
/// With fewer calls the slowest may be slow by chance.
const FEW_CALLS: usize = 20;
/// Samples that slow calls must have had the time for, to tell running from waiting.
const FEW_SAMPLES: f64 = 10.0;
/// Slow calls take at least so many times as long as typical ones...
pub const LEAST_RATIO: f64 = 1.5;
/// ...and so many milliseconds longer.
pub const LEAST_EXCESS_MS: f64 = 1.0;
/// Share of what slow calls took longer, from which on it is told.
const LEAST_SHARE: f64 = 0.1;
/// The same of CPU time, which comes with its functions: on a busy machine, calls wait for a CPU for most of what they take longer.
const LEAST_CPU_SHARE: f64 = 0.02;
/// Calls that are named as examples.
const MAX_EXAMPLES: usize = 5;
/// Tools whose stacks are told: names are the client's, who may make up new ones each time.
const MAX_WITH_STACKS: usize = 32;
/// A message of at least this length more...
const LARGER_BYTES: f64 = 4096.0;

/// What is asked.
#[derive(Clone, Debug, PartialEq)]
pub struct Question {
    /// Only of these tools (prompts, resources, methods); of all when empty.
    pub tools: Vec<String>,
    /// Calls that took longer than so many per cent of their tool's are slow.
    pub percentile: f64,
    /// Tell each slow call by itself.
    pub with_requests: bool,
}

/// Why calls were slow, by tool.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SlowResponses {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// Calls that took longer than so many per cent of their tool's are slow.
    pub percentile: f64,
    /// Some calls may be missing, or their ends.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub incomplete: bool,
    /// By what the slow calls took longer together, the most first.
    pub tools: Vec<SlowTool>,
    /// Names of tools and methods with fewer calls than tell anything, and how many each had.
    pub too_few_calls: BTreeMap<String, u64>,
    /// Calls without an answer: they have no time to compare.
    pub unanswered: u64,
    /// Those of them that had not ended when the recording did, and took longer than any that was answered; the oldest first.
    pub hanging: Vec<Hanging>,
}

/// The slow calls of a tool.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SlowTool {
    /// `tools/call`...
    pub method: String,
    /// The tool, prompt or resource.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool: Option<String>,
    /// Calls that were answered.
    pub calls: u64,
    /// The slow ones.
    pub slow: Group,
    /// A fifth of the calls, around the median.
    pub typical: Group,
    /// What the slow ones spent more of, the most first. Empty when they were hardly slower.
    pub findings: Vec<Finding>,
    /// What else tells them apart, in words.
    pub notes: Vec<String>,
    /// Why the findings may be wrong, in words.
    pub doubts: Vec<String>,
    /// Where the slow ones spent more CPU time than all others; absent where they did not, and behind the first 32 tools where they did.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stacks: Vec<ExcessPath>,
    /// Each slow call, the slowest first; only where that was asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub requests: Vec<SlowRequest>,
}

/// Means of some calls.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Group {
    /// How many.
    pub calls: u64,
    /// From the first byte of the request to the last of its response.
    pub duration_ms: f64,
    /// Until the first byte of the response.
    pub first_response_ms: f64,
    /// Behind calls that had come before.
    pub queued_ms: f64,
    /// On a CPU; absent where there were too few samples to tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_cpu_ms: Option<f64>,
    /// The request was coming in.
    pub receiving_ms: f64,
    /// The response was going out.
    pub sending_ms: f64,
    /// Not on a CPU, and nothing of the above; absent where there were too few samples to tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waiting_ms: Option<f64>,
    /// Other calls in flight.
    pub others_in_flight: f64,
    /// Length of the request.
    pub request_bytes: f64,
    /// Length of the response.
    pub response_bytes: f64,
}

/// What slow calls spent their time on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// Behind calls that had come before.
    Queued,
    /// On a CPU.
    OnCpu,
    /// Waiting for something else.
    Waiting,
    /// On a CPU or waiting: too few samples to tell.
    OnCpuOrWaiting,
    /// The request came in slowly.
    Receiving,
    /// The response went out slowly.
    Sending,
}

/// Something that slow calls spent more of.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Finding {
    /// What.
    pub cause: Cause,
    /// Share of what they took longer, 0 to 1.
    pub share: f64,
    /// Of a slow call.
    pub slow_ms: f64,
    /// Of a typical one.
    pub typical_ms: f64,
    /// Slow calls with the most of it, for `trace`.
    pub examples: Vec<u64>,
    /// Whom they stood behind, the most often first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub behind: Vec<Behind>,
}

/// Calls that slow calls stood behind.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Behind {
    /// Their tool, or method.
    pub name: String,
    /// Slow calls that stood behind one.
    pub calls: u64,
    /// One of those in front.
    pub example: u64,
}

/// A slow call over its time.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SlowRequest {
    /// Its number, for `trace`.
    pub call: u64,
    /// Since the recording's start.
    pub start_seconds: f64,
    /// Its time.
    pub duration_ms: f64,
    /// What happened, in the order of time.
    pub timeline: Vec<Stretch>,
}

/// A part of a call's time.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Stretch {
    /// What it is: `receiving`, `queued`, `working` or `sending`.
    pub what: &'static str,
    /// Since the call's start.
    pub from_ms: f64,
    /// Since the call's start.
    pub to_ms: f64,
    /// CPU time in it: of the server while it is queued, else its own.
    pub on_cpu_ms: f64,
    /// The call that it stood behind.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub behind: Option<u64>,
}

/// Whether a call has a response.
fn is_answered(call: &Call) -> bool {
    call.ended == Ended::Ok || call.ended.is_error()
}

impl SlowResponses {
    /// Answers the question for a recording.
    pub fn new(recording: &Recording, attribution: &Attribution, question: &Question) -> Self {
        let view = View::new(recording, attribution);
        let selection = Selection { tools: question.tools.clone(), ..Selection::default() };
        let mut groups: BTreeMap<(&str, Option<&str>), Vec<CallIndex>> = BTreeMap::new();
        let mut unanswered = 0;
        // The slowest first.
        for index in call_list::select(recording, &selection) {
            let call = &recording.calls[index].call;
            match call.caller {
                Side::Client if is_answered(call) => {
                    groups.entry((&call.method, call.name.as_deref())).or_default().push(index);
                }
                Side::Client => unanswered += 1,
                Side::Server => {}
            }
        }
        let mut too_few_calls = BTreeMap::new();
        let mut tools = Vec::new();
        for ((method, tool), calls) in groups {
            if calls.len() < LEAST_CALLS {
                *too_few_calls.entry(tool.unwrap_or(method).to_owned()).or_default() += calls.len() as u64;
            } else {
                tools.push((view.tool(method, tool, &calls, question), calls));
            }
        }
        let longer =
            |tool: &SlowTool| (tool.slow.duration_ms - tool.typical.duration_ms) * tool.slow.calls as f64;
        tools.sort_by(|(one, _), (other, _)| {
            let is_told = |tool: &SlowTool| !tool.findings.is_empty();
            is_told(other).cmp(&is_told(one)).then(longer(other).total_cmp(&longer(one)))
        });
        let tools = view.with_details(tools, question.with_requests);
        Self {
            schema_version: SCHEMA_VERSION,
            percentile: question.percentile,
            incomplete: is_incomplete(&recording.messages, &recording.losses),
            tools,
            too_few_calls,
            unanswered,
            hanging: hanging(recording, &question.tools),
        }
    }
}

/// Sums over some calls, in nanoseconds and bytes.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    calls: f64,
    duration: f64,
    first_response: f64,
    queued: f64,
    on_cpu: f64,
    receiving: f64,
    sending: f64,
    waiting: f64,
    beside: f64,
    request_bytes: f64,
    response_bytes: f64,
    /// Number of samples that were charged.
    samples: f64,
}

struct View<'a> {
    recording: &'a Recording,
    attribution: &'a Attribution,
    turns: Vec<Turn>,
    /// CPU time of each call, in nanoseconds, and the number of samples that are of it.
    on_cpu: Vec<(u64, u64)>,
    period_ns: u64,
}

impl<'a> View<'a> {
    fn new(recording: &'a Recording, attribution: &'a Attribution) -> Self {
        let turns = turns(recording, attribution);
        let on_cpu = vec![(0, 0); recording.calls.len()];
        let mut this = Self { recording, attribution, turns, on_cpu, period_ns: scaled_period_ns(recording) };
        let mut on_cpu = std::mem::take(&mut this.on_cpu);
        this.payments(|_, call, part_ns| {
            let (sum_ns, samples) = &mut on_cpu[call];
            (*sum_ns, *samples) = (sum_ns.saturating_add(part_ns), *samples + 1);
        });
        Self { on_cpu, ..this }
    }

    /// Tells for each sample which calls pay how much of it, in nanoseconds: of those that were in flight, the ones that had their turn.
    fn payments(&self, mut visit: impl FnMut(usize, CallIndex, u64)) {
        let mut with_turn: Vec<CallIndex> = Vec::new();
        self.attribution.charges(self.recording, |index, charge| {
            let sample = &self.recording.samples[index];
            with_turn.clear();
            if let Charge::Shared(calls) = charge {
                let has_turn = |call: &CallIndex| {
                    let own_ns = self.call(*call).start_ns + self.turns[*call].queued_ns;
                    sample.timestamp_ns >= own_ns
                };
                with_turn.extend(calls.iter().copied().filter(has_turn));
            }
            let charge = if with_turn.is_empty() { charge } else { Charge::Shared(&with_turn) };
            charge.parts(sample.weight_ns).for_each(|(call, part_ns)| visit(index, call, part_ns));
        });
    }

    fn call(&self, index: CallIndex) -> &'a Call {
        &self.recording.calls[index].call
    }

    /// The calls of a tool, the slowest first.
    fn tool(&self, method: &str, tool: Option<&str>, calls: &[CallIndex], question: &Question) -> SlowTool {
        let share = (100.0 - question.percentile).clamp(0.0, 100.0) / 100.0;
        let count = ((calls.len() as f64 * share).ceil() as usize).clamp(1, calls.len() / 2);
        let slow = &calls[..count];
        // A fifth, around the median.
        let half = calls.len() / 10;
        let middle = calls.len() / 2;
        let typical = &calls[(middle - half).max(count)..(middle + half + 1).min(calls.len())];
        let (slow_sums, typical_sums) = (self.sums(slow), self.sums(typical));
        let is_sampled = (slow_sums.duration - slow_sums.queued) / self.period_ns as f64 >= FEW_SAMPLES;
        let excess_ns = slow_sums.mean(slow_sums.duration) - typical_sums.mean(typical_sums.duration);
        let is_slower = excess_ns >= LEAST_EXCESS_MS * 1e6
            && slow_sums.mean(slow_sums.duration) >= LEAST_RATIO * typical_sums.mean(typical_sums.duration);
        let findings =
            if is_slower { self.findings(slow, slow_sums, typical_sums, is_sampled) } else { Vec::new() };
        let mut doubts = Vec::new();
        if is_slower && calls.len() < FEW_CALLS {
            doubts.push(format!("only {} calls: the slowest may be slow by chance", calls.len()));
        }
        if findings.iter().any(|finding| finding.cause == Cause::OnCpuOrWaiting) {
            doubts.push(format!(
                "the slow calls lasted {:.1} ms together and a sample is taken every {:.1} ms: too few to tell running from \
                 waiting; record for longer, or with a higher --frequency",
                (slow_sums.duration - slow_sums.queued) / 1e6,
                self.period_ns as f64 / 1e6
            ));
        }
        SlowTool {
            method: method.to_owned(),
            tool: tool.map(str::to_owned),
            calls: calls.len() as u64,
            slow: slow_sums.group(is_sampled),
            typical: typical_sums.group(is_sampled),
            notes: if is_slower { self.notes(calls, slow, slow_sums, typical_sums) } else { Vec::new() },
            findings,
            doubts,
            stacks: Vec::new(),
            requests: Vec::new(),
        }
    }

    /// Adds what needs the samples of calls to tools, of which each comes with its calls, the slowest first.
    fn with_details(&self, mut tools: Vec<(SlowTool, Vec<CallIndex>)>, with_requests: bool) -> Vec<SlowTool> {
        // Of each tool with stacks what its slow calls paid, and what all others did.
        let mut paid: Vec<Paid> = Vec::new();
        let mut set_of: HashMap<CallIndex, usize> = HashMap::new();
        let mut paid_alone: HashMap<CallIndex, Paid> = HashMap::new();
        let has_stacks = |tool: &SlowTool| tool.findings.iter().any(|finding| finding.cause == Cause::OnCpu);
        for (tool, calls) in &tools {
            let (slow, others) = calls.split_at(tool.slow.calls as usize);
            if has_stacks(tool) && paid.len() < 2 * MAX_WITH_STACKS {
                for calls in [slow, others] {
                    set_of.extend(calls.iter().map(|call| (*call, paid.len())));
                    paid.push(Paid::default());
                }
            }
            if with_requests {
                let of_interest =
                    slow.iter().copied().chain(slow.iter().filter_map(|call| self.turns[*call].behind));
                paid_alone.extend(of_interest.map(|call| (call, Paid::default())));
            }
        }
        if !paid.is_empty() || !paid_alone.is_empty() {
            self.payments(|sample, call, part_ns| {
                if let Some(set) = set_of.get(&call) {
                    paid[*set].add(sample, part_ns);
                }
                if let Some(paid) = paid_alone.get_mut(&call) {
                    paid.add(sample, part_ns);
                }
            });
        }
        let functions = Functions::new(self.recording);
        let with_stacks = tools.iter_mut().filter(|(tool, _)| has_stacks(tool));
        for ((tool, calls), paid) in with_stacks.zip(paid.chunks(2)) {
            let count = tool.slow.calls as usize;
            tool.stacks =
                excess(self.recording, &functions, (&paid[0], count), (&paid[1], calls.len() - count));
        }
        let told = tools.into_iter().map(|(mut tool, calls)| {
            if with_requests {
                let slow = calls[..tool.slow.calls as usize].iter();
                tool.requests = slow.map(|call| self.request(*call, &paid_alone)).collect();
            }
            tool
        });
        told.collect()
    }

    fn sums(&self, calls: &[CallIndex]) -> Sums {
        let mut sums = Sums { calls: calls.len() as f64, ..Sums::default() };
        for index in calls {
            let (call, turn) = (self.call(*index), self.turns[*index]);
            let duration = duration_ns(call);
            let queued = turn.queued_ns.min(duration);
            let response_ns = call.response_ns.unwrap_or(call.end_ns);
            sums.duration += duration as f64;
            sums.queued += queued as f64;
            sums.first_response += response_ns.saturating_sub(call.start_ns) as f64;
            // One sample stands for many calls that are shorter than it.
            let (on_cpu_ns, samples) = self.on_cpu[*index];
            sums.on_cpu += on_cpu_ns.min((duration - queued).max(self.period_ns)) as f64;
            sums.samples += samples as f64;
            if turn.behind.is_none() {
                sums.receiving += call.request_end_ns.saturating_sub(call.start_ns) as f64;
            }
            sums.sending += call.end_ns.saturating_sub(response_ns) as f64;
            sums.beside += turn.beside_ns as f64;
            sums.request_bytes += call.request_bytes as f64;
            sums.response_bytes += call.response_bytes as f64;
        }
        sums.on_cpu = sums.on_cpu.min(sums.duration - sums.queued);
        let mut rest = sums.duration - sums.queued - sums.on_cpu;
        for part in [&mut sums.receiving, &mut sums.sending] {
            *part = part.min(rest);
            rest -= *part;
        }
        sums.waiting = rest;
        sums
    }

    fn findings(&self, slow: &[CallIndex], own: Sums, typical: Sums, is_sampled: bool) -> Vec<Finding> {
        let excess_ns = own.mean(own.duration) - typical.mean(typical.duration);
        // Chance in the number of samples: two standard deviations.
        let chance_ns = 2.0
            * self.period_ns as f64
            * (own.samples / own.calls.powi(2) + typical.samples / typical.calls.max(1.0).powi(2)).sqrt();
        let mut findings = Vec::new();
        for cause in [
            Cause::Queued,
            Cause::OnCpu,
            Cause::Waiting,
            Cause::OnCpuOrWaiting,
            Cause::Receiving,
            Cause::Sending,
        ] {
            let part: fn(&Sums) -> f64 = match cause {
                Cause::Queued => |sums| sums.queued,
                Cause::OnCpu if is_sampled => |sums| sums.on_cpu,
                Cause::Waiting if is_sampled => |sums| sums.waiting,
                Cause::OnCpuOrWaiting if !is_sampled => |sums| sums.on_cpu + sums.waiting,
                Cause::Receiving => |sums| sums.receiving,
                Cause::Sending => |sums| sums.sending,
                _ => continue,
            };
            let (slow_ns, typical_ns) = (own.mean(part(&own)), typical.mean(part(&typical)));
            let more_ns = slow_ns - typical_ns;
            let is_chance = matches!(cause, Cause::OnCpu | Cause::Waiting) && more_ns < chance_ns;
            let least = if cause == Cause::OnCpu { LEAST_CPU_SHARE } else { LEAST_SHARE };
            if more_ns < least * excess_ns || is_chance {
                continue;
            }
            findings.push(Finding {
                cause,
                share: (more_ns / excess_ns).min(1.0),
                slow_ms: slow_ns / 1e6,
                typical_ms: typical_ns / 1e6,
                examples: self.examples(slow, part),
                behind: if cause == Cause::Queued { self.behind(slow) } else { Vec::new() },
            });
        }
        findings.sort_by(|one, other| other.share.total_cmp(&one.share).then(one.cause.cmp(&other.cause)));
        findings
    }

    fn examples(&self, slow: &[CallIndex], part: fn(&Sums) -> f64) -> Vec<u64> {
        let mut calls: Vec<(f64, CallIndex)> =
            slow.iter().map(|index| (part(&self.sums(&[*index])), *index)).collect();
        calls.sort_by(|one, other| other.0.total_cmp(&one.0).then(one.1.cmp(&other.1)));
        calls.iter().take(MAX_EXAMPLES).map(|(_, index)| number(*index)).collect()
    }

    fn behind(&self, slow: &[CallIndex]) -> Vec<Behind> {
        let mut names: BTreeMap<&str, (u64, CallIndex)> = BTreeMap::new();
        for front in slow.iter().filter_map(|index| self.turns[*index].behind) {
            let call = self.call(front);
            names.entry(call.name.as_deref().unwrap_or(&call.method)).or_insert((0, front)).0 += 1;
        }
        let mut behind: Vec<Behind> = names
            .into_iter()
            .map(|(name, (calls, example))| Behind { name: name.to_owned(), calls, example: number(example) })
            .collect();
        behind.sort_by_key(|behind| std::cmp::Reverse(behind.calls));
        behind.truncate(MAX_EXAMPLES);
        behind
    }

    /// What tells slow calls apart without being their time.
    fn notes(&self, calls: &[CallIndex], slow: &[CallIndex], own: Sums, typical: Sums) -> Vec<String> {
        let mut notes = Vec::new();
        for (what, of_slow, of_typical) in [
            ("requests", own.mean(own.request_bytes), typical.mean(typical.request_bytes)),
            ("responses", own.mean(own.response_bytes), typical.mean(typical.response_bytes)),
        ] {
            if of_slow >= 2.0 * of_typical && of_slow >= of_typical + LARGER_BYTES {
                notes.push(format!(
                    "their {what} were {:.1} times as long: {of_slow:.0} bytes against {of_typical:.0}",
                    of_slow / of_typical.max(1.0)
                ));
            }
        }
        // In the order of starts, the first calls of the tool, twice as many as slow ones.
        let mut first = calls.to_vec();
        first.sort_unstable();
        first.truncate(2 * slow.len());
        let early = slow.iter().filter(|index| first.binary_search(index).is_ok()).count();
        if calls.len() >= FEW_CALLS && 2 * early > slow.len() {
            notes.push(format!(
                "{early} of the {} slow calls are among the first {} of the tool: warming up",
                slow.len(),
                first.len()
            ));
        }
        notes
    }

    fn request(&self, index: CallIndex, paid: &HashMap<CallIndex, Paid>) -> SlowRequest {
        let (call, turn) = (self.call(index), self.turns[index]);
        let start = call.start_ns;
        let turn_ns = start + turn.queued_ns;
        let response_ns =
            call.response_ns.unwrap_or(call.end_ns).clamp(turn_ns.min(call.end_ns), call.end_ns);
        let mut timeline = Vec::new();
        let mut stretch = |what, from: u64, to: u64| {
            if to <= from {
                return;
            }
            // Which samples of the server these are is known by who paid for them.
            let is_queued = what == "queued";
            let payers = if is_queued { turn.behind } else { Some(index) };
            let paid = payers.and_then(|call| paid.get(&call)).into_iter().flat_map(Paid::samples);
            let within = |(sample, _): &(usize, u64)| {
                (from..to).contains(&self.recording.samples[*sample].timestamp_ns)
            };
            let on_cpu_ns = paid.filter(within).fold(0, |sum: u64, (_, part)| sum.saturating_add(part));
            timeline.push(Stretch {
                what,
                from_ms: (from - start) as f64 / 1e6,
                to_ms: (to - start) as f64 / 1e6,
                on_cpu_ms: on_cpu_ns as f64 / 1e6,
                behind: if is_queued { turn.behind.map(number) } else { None },
            });
        };
        let received_ns =
            if turn.behind.is_some() { start } else { call.request_end_ns.clamp(start, response_ns) };
        stretch("receiving", start, received_ns);
        stretch("queued", start, turn_ns);
        stretch("working", received_ns.max(turn_ns), response_ns);
        stretch("sending", response_ns, call.end_ns);
        SlowRequest {
            call: number(index),
            start_seconds: seconds(start.saturating_sub(self.recording.meta.start_ns)),
            duration_ms: duration_ns(call) as f64 / 1e6,
            timeline,
        }
    }
}

/// The number by which a call is shown.
fn number(index: CallIndex) -> u64 {
    index as u64 + 1
}

impl Sums {
    fn mean(&self, sum: f64) -> f64 {
        sum / self.calls.max(1.0)
    }

    fn group(&self, is_sampled: bool) -> Group {
        let milliseconds = |sum: f64| self.mean(sum) / 1e6;
        Group {
            calls: self.calls as u64,
            duration_ms: milliseconds(self.duration),
            first_response_ms: milliseconds(self.first_response),
            queued_ms: milliseconds(self.queued),
            on_cpu_ms: is_sampled.then(|| milliseconds(self.on_cpu)),
            receiving_ms: milliseconds(self.receiving),
            sending_ms: milliseconds(self.sending),
            waiting_ms: is_sampled.then(|| milliseconds(self.waiting)),
            others_in_flight: self.beside / self.duration.max(1.0),
            request_bytes: self.mean(self.request_bytes),
            response_bytes: self.mean(self.response_bytes),
        }
    }
}

#[cfg(test)]
mod tests;
