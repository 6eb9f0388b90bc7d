//! Calls by tool: how many, how long they took, how they ended, what they cost.

use std::collections::BTreeMap;

use serde::Serialize;

use super::attribution::{Attribution, CallIndex, Cost};
use super::{milliseconds, ratio, seconds};
use crate::recording::Recording;
use crate::wire::calls::{Call, Ended, Side};

/// All calls of a recording.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Calls {
    /// Calls that the server answered, or should have.
    pub total: u64,
    /// Those that ended with an error: of JSON-RPC, or of the tool.
    pub errors: u64,
    /// Calls that started in the window, by its length; absent for an empty window.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub throughput_per_second: Option<f64>,
    /// The most calls that one process had in flight at once.
    pub peak_in_flight: u64,
    /// CPU time of all calls, and of none: the three add up to the sampled time.
    pub cpu: CallCpu,
    /// Some calls may be missing, or their ends: something of what was said could not be recorded.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub incomplete: bool,
    /// What was seen of JSON-RPC besides calls, by name; what did not happen is absent.
    pub messages: BTreeMap<String, u64>,
    /// By method and tool, the most CPU time first.
    pub tools: Vec<Tool>,
}

/// Whom CPU time is charged to.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CallCpu {
    /// Certainly a call's own.
    pub exact_seconds: f64,
    /// Split between calls that were in flight together: an estimate.
    pub shared_seconds: f64,
    /// The part of that which was split between fewer, because a function of their tool was on the stack. `None` for some tools only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub told_by_function_seconds: Option<f64>,
    /// The part of it while so many calls were in flight that only the 1,024 that came last have a share; absent without any, and for
    /// some tools only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub crowded_seconds: Option<f64>,
    /// While no call was in flight. `None` for some tools only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub background_seconds: Option<f64>,
}

/// The calls of one method, of one tool where it has any.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Tool {
    /// `tools/call`...
    pub method: String,
    /// The tool, prompt or resource.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool: Option<String>,
    /// Who asked, when it was the server.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub asked_by_server: bool,
    /// Number of calls.
    pub count: u64,
    /// Those that ended with an error.
    pub errors: u64,
    /// The others that have no result, by how they ended.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub unfinished: BTreeMap<&'static str, u64>,
    /// How long the oldest of those had been in flight when the recording ended; absent without any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub longest_in_flight_ms: Option<f64>,
    /// Length of all requests.
    pub request_bytes: u64,
    /// Length of all responses.
    pub response_bytes: u64,
    /// From the first byte of a request to the last of its response; absent when none has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency_ms: Option<Latency>,
    /// From the client's write of a request to the server's read of it, which is before its latency begins; absent when it is
    /// known of no call. Of calls whose client is on this host and was known by then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue_ms: Option<Queue>,
    /// Where the time of all calls went, in milliseconds; the parts add up to `total`.
    pub wall_ms: Wall,
    /// CPU time of all its calls, in milliseconds: more than their time where several threads worked for one.
    pub cpu_ms: f64,
    /// Share of that which is certainly theirs; absent without any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exact_ratio: Option<f64>,
}

/// How long calls took, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Latency {
    /// Mean.
    pub mean: f64,
    /// Half of them took no longer.
    pub p50: f64,
    /// 95 % of them took no longer.
    pub p95: f64,
    /// 99 % of them took no longer.
    pub p99: f64,
    /// The longest.
    pub max: f64,
}

/// How long requests waited before they were read, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Queue {
    /// Calls of which it is known.
    pub count: u64,
    /// Half of them waited no longer.
    pub p50: f64,
    /// 99 % of them waited no longer.
    pub p99: f64,
    /// The longest.
    pub max: f64,
}

/// Where the time of calls went, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Wall {
    /// From their first bytes to their last.
    pub total: f64,
    /// On a CPU.
    pub on_cpu: f64,
    /// What no probe tells.
    pub unattributed: f64,
}

/// Time of a call without what it waited for its caller's input, in nanoseconds.
pub fn duration_ns(call: &Call) -> u64 {
    call.end_ns.saturating_sub(call.start_ns).saturating_sub(call.input_wait_ns)
}

/// Whether calls may be missing, or their ends, by what was seen of messages and what was lost.
pub(super) fn is_incomplete(messages: &BTreeMap<String, u64>, losses: &BTreeMap<String, u64>) -> bool {
    ["lost_stretches", "cut_messages", "given_up", "dropped_messages"].iter().any(|name| has(messages, name))
        || ["wire_ring_full", "wire_unseen", "tls_unread", "messages_too_late"]
            .iter()
            .any(|cause| losses.contains_key(*cause))
}

fn has(messages: &BTreeMap<String, u64>, name: &str) -> bool {
    messages.get(name).is_some_and(|count| *count > 0)
}

impl Calls {
    /// The calls of a recording; `None` when no JSON-RPC was seen.
    pub fn new(recording: &Recording, attribution: &Attribution) -> Option<Self> {
        Self::select(recording, attribution, |_| true, true)
    }

    /// Those of some tools (prompts, resources, methods) only.
    pub fn of_tools(recording: &Recording, attribution: &Attribution, tools: &[String]) -> Option<Self> {
        Self::select(recording, attribution, |call| call.is_of(tools), false)
    }

    fn select(
        recording: &Recording,
        attribution: &Attribution,
        is_selected: impl Fn(&Call) -> bool,
        is_whole: bool,
    ) -> Option<Self> {
        let happened = recording.messages.iter().filter(|(_, count)| **count > 0);
        let messages: BTreeMap<String, u64> = happened.map(|(name, count)| (name.clone(), *count)).collect();
        let is_anything = ["messages", "encrypted_streams", "io_uring_processes"];
        if recording.calls.is_empty() && !is_anything.iter().any(|name| has(&messages, name)) {
            return None;
        }
        let mut groups: BTreeMap<(&str, Option<&str>, bool), Vec<CallIndex>> = BTreeMap::new();
        let selected =
            || recording.calls.iter().enumerate().filter(|(_, recorded)| is_selected(&recorded.call));
        for (index, recorded) in selected() {
            let call = &recorded.call;
            let by_server = call.caller == Side::Server;
            groups.entry((&call.method, call.name.as_deref(), by_server)).or_default().push(index);
        }
        let sample_ns = scaled_period_ns(recording);
        let answered = || selected().filter(|(_, recorded)| recorded.call.caller == Side::Client);
        let mut tools: Vec<Tool> = groups
            .into_iter()
            .map(|((method, tool, asked_by_server), indices)| {
                let calls: Vec<(&Call, Cost)> = indices
                    .iter()
                    .map(|index| {
                        let cost = attribution.costs.get(*index).copied().unwrap_or_default();
                        (&recording.calls[*index].call, cost)
                    })
                    .collect();
                Tool { asked_by_server, ..Tool::new(method, tool, &calls, sample_ns) }
            })
            .collect();
        tools.sort_by(|one, other| {
            other.cpu_ms.total_cmp(&one.cpu_ms).then(other.wall_ms.total.total_cmp(&one.wall_ms.total))
        });
        let mut all = Cost::default();
        selected().filter_map(|(index, _)| attribution.costs.get(index)).for_each(|cost| all.add(*cost));
        let window_seconds = seconds(recording.meta.end_ns.saturating_sub(recording.meta.start_ns));
        let total = answered().count() as u64;
        Some(Self {
            total,
            errors: answered().filter(|(_, recorded)| recorded.call.ended.is_error()).count() as u64,
            throughput_per_second: (window_seconds > 0.0).then(|| total as f64 / window_seconds),
            peak_in_flight: attribution.peak_in_flight as u64,
            cpu: CallCpu {
                exact_seconds: seconds(all.exact_ns),
                shared_seconds: seconds(all.shared_ns),
                told_by_function_seconds: is_whole.then(|| seconds(attribution.told_ns)),
                crowded_seconds: (is_whole && attribution.crowded_ns > 0)
                    .then(|| seconds(attribution.crowded_ns)),
                background_seconds: is_whole.then(|| seconds(attribution.background_ns)),
            },
            incomplete: is_incomplete(&recording.messages, &recording.losses),
            messages,
            tools,
        })
    }
}

impl Tool {
    fn new(method: &str, tool: Option<&str>, calls: &[(&Call, Cost)], sample_ns: u64) -> Self {
        let mut unfinished = BTreeMap::new();
        let mut durations = Vec::new();
        let mut in_flight_ns = None;
        let (mut wall_ns, mut on_cpu_ns) = (0_u64, 0_u64);
        let mut cost = Cost::default();
        for (call, own) in calls {
            let duration = duration_ns(call);
            match &call.ended {
                Ended::Ok | Ended::Error { .. } | Ended::ToolError { .. } => durations.push(duration),
                other => {
                    *unfinished.entry(other.name()).or_default() += 1;
                    if *other == Ended::InFlight {
                        in_flight_ns = in_flight_ns.max(Some(duration));
                    }
                }
            }
            wall_ns = wall_ns.saturating_add(duration);
            // By call: one call's many threads do not make up for another's waiting. But one sample stands for many calls
            // that are shorter than it.
            on_cpu_ns = on_cpu_ns.saturating_add(own.total_ns().min(duration.max(sample_ns)));
            cost.add(*own);
        }
        let on_cpu_ns = on_cpu_ns.min(wall_ns);
        let sum = |bytes: fn(&Call) -> u64| {
            calls.iter().fold(0, |sum: u64, (call, _)| sum.saturating_add(bytes(call)))
        };
        Self {
            method: method.to_owned(),
            tool: tool.map(str::to_owned),
            asked_by_server: false,
            count: calls.len() as u64,
            errors: calls.iter().filter(|(call, _)| call.ended.is_error()).count() as u64,
            unfinished,
            longest_in_flight_ms: in_flight_ns.map(milliseconds),
            request_bytes: sum(|call| call.request_bytes),
            response_bytes: sum(|call| call.response_bytes),
            latency_ms: Latency::new(durations),
            queue_ms: Queue::new(calls.iter().filter_map(|(call, _)| call.queue_ns).collect()),
            wall_ms: Wall {
                total: milliseconds(wall_ns),
                on_cpu: milliseconds(on_cpu_ns),
                unattributed: milliseconds(wall_ns - on_cpu_ns),
            },
            cpu_ms: milliseconds(cost.total_ns()),
            exact_ratio: (cost.total_ns() > 0).then(|| ratio(cost.exact_ns, cost.total_ns())),
        }
    }
}

impl Queue {
    fn new(times_ns: Vec<u64>) -> Option<Self> {
        let count = times_ns.len() as u64;
        Latency::new(times_ns).map(|Latency { p50, p99, max, .. }| Self { count, p50, p99, max })
    }
}

impl Latency {
    /// Exact, from all durations in nanoseconds; `None` without any.
    pub fn new(mut durations_ns: Vec<u64>) -> Option<Self> {
        durations_ns.sort_unstable();
        let max = *durations_ns.last()?;
        let sum: f64 = durations_ns.iter().map(|duration| *duration as f64).sum();
        // Nearest rank: the smallest value that so many per cent do not exceed.
        let rank = |percent: usize| {
            milliseconds(durations_ns[(durations_ns.len() * percent).div_ceil(100).max(1) - 1])
        };
        Some(Self {
            mean: sum / durations_ns.len() as f64 / 1e6,
            p50: rank(50),
            p95: rank(95),
            p99: rank(99),
            max: milliseconds(max),
        })
    }
}

/// What a sample stands for in the mean, but at least the time between two.
pub(super) fn scaled_period_ns(recording: &Recording) -> u64 {
    let period_ns = 1_000_000_000 / recording.meta.frequency_hz.max(1);
    let scaled: u128 = recording.samples.iter().map(|sample| u128::from(sample.weight_ns)).sum();
    let sampled: u128 = recording.sampled_ns.iter().map(|time| u128::from(*time)).sum();
    let mean = (u128::from(period_ns) * scaled).checked_div(sampled).unwrap_or(0);
    period_ns.max(u64::try_from(mean).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::testing::Builder;

    const MS: u64 = 1_000_000;

    /// A sample stands for many calls that are shorter than the time between two.
    #[test]
    fn short_calls_have_their_time() {
        let mut builder = Builder::new();
        builder.recording.meta.frequency_hz = 100;
        let thread = builder.thread(0, 100, "main");
        (0..1000).for_each(|start| builder.call(0, "echo", start * MS, start * MS + MS / 2));
        (0..50).for_each(|sample| builder.sample_at(sample * 20 * MS + MS / 4, thread, 10 * MS));
        let calls = Calls::new(&builder.recording, &Attribution::new(&builder.recording)).unwrap();
        assert_eq!(calls.tools[0].wall_ms, Wall { total: 500.0, on_cpu: 500.0, unattributed: 0.0 });
    }

    /// Counts, latencies and costs by tool; the parts of the time add up.
    #[test]
    fn known_answer() {
        let mut builder = Builder::new();
        let thread = builder.thread(0, 100, "main");
        for start in 0..100 {
            builder.call(0, "echo", start * 10 * MS, (start * 10 + 1 + start % 4) * MS);
        }
        builder.call(0, "burn", 2000 * MS, 2050 * MS);
        builder.call(0, "burn", 3000 * MS, 3050 * MS);
        builder.recording.calls[101].call.ended = Ended::ToolError { message: None };
        builder.sample_at(2010 * MS, thread, 40 * MS);
        builder.sample_at(3010 * MS, thread, 80 * MS);
        builder.sample_at(5000 * MS, thread, MS);
        let calls = Calls::new(&builder.recording, &Attribution::new(&builder.recording)).unwrap();
        assert_eq!((calls.total, calls.errors, calls.throughput_per_second), (102, 1, Some(10.2)));
        let [burn, echo] = &calls.tools[..] else { panic!("{calls:?}") };
        assert_eq!((burn.tool.as_deref(), burn.count, burn.errors, burn.cpu_ms), (Some("burn"), 2, 1, 120.0));
        assert_eq!(burn.wall_ms, Wall { total: 100.0, on_cpu: 90.0, unattributed: 10.0 });
        let latency = Latency { mean: 2.5, p50: 2.0, p95: 4.0, p99: 4.0, max: 4.0 };
        assert_eq!((echo.latency_ms, echo.exact_ratio), (Some(latency), None));
        assert_eq!(calls.cpu.background_seconds, Some(0.001));
        assert_eq!(calls.cpu.exact_seconds, 0.12);
    }
}
