//! Calls one by one: which are shown, in which order, and what each was doing over its time.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use super::attribution::{Attribution, CallIndex, Charge};
use super::calls::duration_ns;
use super::{milliseconds, seconds};
use crate::recording::Recording;
use crate::wire::Id;
use crate::wire::calls::{Call, Ended};

/// Which calls are listed.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Selection {
    /// Only of these tools (prompts, resources); or of these methods.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<String>,
    /// Only those that ended so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// Only those that took at least so long, in nanoseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at_least_ns: Option<u64>,
    /// Only those that were in flight after this time since the recording's start, in nanoseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from_ns: Option<u64>,
    /// Only those that started before this time since the recording's start, in nanoseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to_ns: Option<u64>,
    /// In the order of their starts, else the slowest first.
    pub in_order: bool,
}

/// How calls ended, as a user asks for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// With a result.
    Ok,
    /// With an error of any sort.
    Error,
    /// With an error of the tool.
    ToolError,
    /// Without an answer: any of those below.
    Unfinished,
    /// The caller cancelled it.
    Cancelled,
    /// There was no answer.
    Unanswered,
    /// Its stream ended first.
    CutOff,
    /// Not known.
    Lost,
    /// Not yet.
    InFlight,
}

/// A call in a list.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ListedCall {
    /// Its number in the recording, from 1, in the order of starts.
    pub call: u64,
    /// `tools/call`...
    pub method: String,
    /// The tool, prompt or resource.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool: Option<String>,
    /// Process ID of who answered.
    pub pid: u32,
    /// Since the start of the recording.
    pub start_seconds: f64,
    /// Before that: from its client's write to the server's read; absent where it is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue_ms: Option<f64>,
    /// From its request's first byte to its response's last, without its caller's time for input.
    pub duration_ms: f64,
    /// Until the first byte of its response; absent without one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_response_ms: Option<f64>,
    /// CPU time that was certainly its own.
    pub cpu_exact_ms: f64,
    /// Its part of CPU time shared with other calls: an estimate.
    pub cpu_shared_ms: f64,
    /// Length of its requests.
    pub request_bytes: u64,
    /// Length of its responses.
    pub response_bytes: u64,
    /// [`Ended::name`].
    pub outcome: &'static str,
    /// Code of its error.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_code: Option<i64>,
    /// Message of its error, or the shape of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_message: Option<String>,
    /// The caller's trace (W3C Trace Context).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace_parent: Option<String>,
    /// Its arguments, cut and without what looks secret; absent where they were not kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arguments: Option<Value>,
    /// Its result, the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result: Option<Value>,
    /// The same facts under the names of OpenTelemetry's semantic conventions for MCP.
    pub attributes: BTreeMap<&'static str, Value>,
}

/// A list of calls.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CallList {
    /// Version of this object's shape.
    pub schema_version: u32,
    /// Calls that were selected, also those that are not in the list.
    pub total: u64,
    /// What was selected by.
    pub filters: Selection,
    /// The calls.
    pub calls: Vec<ListedCall>,
}

/// Version of the shapes of lists of calls and of traces.
pub const SCHEMA_VERSION: u32 = 1;

/// The names by which the calls of a recording can be asked for, each once, in order.
pub fn names(recording: &Recording) -> Vec<&str> {
    let calls = recording.calls.iter().map(|recorded| &recorded.call);
    let mut names: Vec<&str> = calls.map(|call| call.name.as_deref().unwrap_or(&call.method)).collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// The calls of a recording that are selected, in the order that is.
pub fn select(recording: &Recording, selection: &Selection) -> Vec<CallIndex> {
    let start_ns = recording.meta.start_ns;
    let is_selected = |call: &Call| {
        (selection.tools.is_empty() || call.is_of(&selection.tools))
            && selection.outcome.is_none_or(|outcome| outcome.matches(&call.ended))
            && selection.at_least_ns.is_none_or(|least| duration_ns(call) >= least)
            && selection.from_ns.is_none_or(|from| call.end_ns.saturating_sub(start_ns) >= from)
            && selection.to_ns.is_none_or(|to| call.start_ns.saturating_sub(start_ns) < to)
    };
    let mut calls: Vec<CallIndex> =
        (0..recording.calls.len()).filter(|index| is_selected(&recording.calls[*index].call)).collect();
    if !selection.in_order {
        calls.sort_by_key(|index| (std::cmp::Reverse(duration_ns(&recording.calls[*index].call)), *index));
    }
    calls
}

impl Outcome {
    fn matches(self, ended: &Ended) -> bool {
        match self {
            Self::Ok => *ended == Ended::Ok,
            Self::Error => ended.is_error(),
            Self::ToolError => matches!(ended, Ended::ToolError { .. }),
            Self::Unfinished => *ended != Ended::Ok && !ended.is_error(),
            Self::Cancelled => *ended == Ended::Cancelled,
            Self::Unanswered => *ended == Ended::Unanswered,
            Self::CutOff => *ended == Ended::CutOff,
            Self::Lost => *ended == Ended::Lost,
            Self::InFlight => *ended == Ended::InFlight,
        }
    }
}

impl ListedCall {
    /// A call of a recording; `None` for an index that is not its.
    pub fn new(recording: &Recording, attribution: &Attribution, index: CallIndex) -> Option<Self> {
        let recorded = recording.calls.get(index)?;
        let call = &recorded.call;
        let cost = attribution.costs.get(index).copied().unwrap_or_default();
        let (error_code, error_message) = call.ended.error();
        Some(Self {
            call: index as u64 + 1,
            method: call.method.to_string(),
            tool: call.name.as_deref().map(str::to_owned),
            pid: recording.processes.get(recorded.process).map_or(0, |process| process.pid),
            start_seconds: seconds(call.start_ns.saturating_sub(recording.meta.start_ns)),
            queue_ms: call.queue_ns.map(milliseconds),
            duration_ms: milliseconds(duration_ns(call)),
            first_response_ms: call.response_ns.map(|time| milliseconds(time.saturating_sub(call.start_ns))),
            cpu_exact_ms: milliseconds(cost.exact_ns),
            cpu_shared_ms: milliseconds(cost.shared_ns),
            request_bytes: call.request_bytes,
            response_bytes: call.response_bytes,
            outcome: call.ended.name(),
            error_code,
            error_message: error_message.map(str::to_owned),
            trace_parent: call.trace_parent.as_deref().map(str::to_owned),
            arguments: contents(call.arguments.as_deref()),
            result: contents(call.result.as_deref()),
            attributes: attributes(call),
        })
    }
}

/// What was kept of arguments or a result. Nested without end it is a text.
fn contents(json: Option<&str>) -> Option<Value> {
    json.map(|json| serde_json::from_str(json).unwrap_or_else(|_| json.into()))
}

/// A call's attributes by the conventions for MCP (`docs/gen-ai/mcp.md` of open-telemetry/semantic-conventions-genai; in
/// development).
fn attributes(call: &Call) -> BTreeMap<&'static str, Value> {
    let mut attributes = BTreeMap::from([("mcp.method.name", Value::from(&*call.method))]);
    let mut set = |name, value: Option<Value>| attributes.extend(value.map(|value| (name, value)));
    let name = call.name.as_deref().map(Value::from);
    match &*call.method {
        "tools/call" => {
            set("gen_ai.tool.name", name);
            set("gen_ai.operation.name", Some("execute_tool".into()));
        }
        "prompts/get" => set("gen_ai.prompt.name", name),
        "resources/read" | "resources/subscribe" | "resources/unsubscribe" => set("mcp.resource.uri", name),
        _ => {}
    }
    // A string, by the conventions, whatever it is in JSON.
    set(
        "jsonrpc.request.id",
        call.request_id.as_ref().map(|id| match id {
            Id::Number(id) | Id::Text(id) => Value::from(&**id),
        }),
    );
    set("mcp.session.id", call.session_id.as_deref().map(Value::from));
    let code = call.ended.error().0.map(|code| Value::from(code.to_string()));
    set("rpc.response.status_code", code.clone());
    let kind = match &call.ended {
        Ended::Ok | Ended::InFlight => None,
        Ended::Error { .. } => Some(code.unwrap_or_else(|| "_OTHER".into())),
        other => Some(other.name().into()),
    };
    set("error.type", kind);
    attributes
}

/// What a call was doing in a stretch of its time, as far as samples tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Activity {
    /// No sample was charged to it.
    Unknown,
    /// On a CPU together with other calls in flight.
    Shared,
    /// On a CPU for it alone.
    OnCpu,
}

/// A call's time in `parts` equal stretches.
pub fn activity(
    recording: &Recording,
    attribution: &Attribution,
    index: CallIndex,
    parts: usize,
) -> Vec<Activity> {
    let mut activity = vec![Activity::Unknown; parts];
    let Some(recorded) = recording.calls.get(index) else { return activity };
    let (start, length) =
        (recorded.call.start_ns, recorded.call.end_ns.saturating_sub(recorded.call.start_ns));
    attribution.charges(recording, |sample, charge| {
        let sample = &recording.samples[sample];
        let kind = match charge {
            Charge::Exact(call) if call == index => Activity::OnCpu,
            Charge::Shared(calls) if calls.contains(&index) => Activity::Shared,
            _ => return,
        };
        let position =
            u128::from(sample.timestamp_ns.saturating_sub(start)) * parts as u128 / u128::from(length.max(1));
        if let Some(part) = activity.get_mut((position as usize).min(parts.saturating_sub(1))) {
            *part = (*part).max(kind);
        }
    });
    activity
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::testing::Builder;

    const MS: u64 = 1_000_000;

    /// The slowest come first, and filters leave out the rest.
    #[test]
    fn selects_calls() {
        let mut builder = Builder::new();
        let start = builder.recording.meta.start_ns;
        for (tool, from, to) in [("a", 0, 10), ("b", 20, 80), ("a", 90, 120), ("a", 200, 205)] {
            builder.call(0, tool, start + from * MS, start + to * MS);
        }
        builder.recording.calls[2].call.ended = Ended::Error { code: Some(-1), message: None };
        builder.recording.calls[3].call.ended = Ended::Cancelled;
        let select = |selection: Selection| select(&builder.recording, &selection);
        assert_eq!(select(Selection::default()), [1, 2, 0, 3]);
        assert_eq!(select(Selection { in_order: true, ..Selection::default() }), [0, 1, 2, 3]);
        assert_eq!(select(Selection { tools: vec!["a".into()], ..Selection::default() }), [2, 0, 3]);
        assert_eq!(select(Selection { outcome: Some(Outcome::Error), ..Selection::default() }), [2]);
        assert_eq!(select(Selection { outcome: Some(Outcome::Unfinished), ..Selection::default() }), [3]);
        assert_eq!(select(Selection { at_least_ns: Some(30 * MS), ..Selection::default() }), [1, 2]);
        let window = Selection { from_ns: Some(50 * MS), to_ns: Some(100 * MS), ..Selection::default() };
        assert_eq!(select(window), [1, 2]);
        assert_eq!(names(&builder.recording), ["a", "b"]);
    }

    /// A call's time shows where it was sampled.
    #[test]
    fn activity_follows_samples() {
        let mut builder = Builder::new();
        let thread = builder.thread(0, 100, "main");
        builder.call(0, "a", 100 * MS, 200 * MS);
        builder.call(0, "b", 150 * MS, 300 * MS);
        builder.sample_at(110 * MS, thread, 1);
        builder.sample_at(199 * MS, thread, 1);
        let attribution = Attribution::new(&builder.recording);
        let expected = [Activity::OnCpu, Activity::Unknown, Activity::Unknown, Activity::Shared];
        assert_eq!(activity(&builder.recording, &attribution, 0, 4), expected);
        assert!(
            activity(&builder.recording, &attribution, 9, 4).iter().all(|part| *part == Activity::Unknown)
        );
    }
}
