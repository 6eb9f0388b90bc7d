//! Tests of the causes: recordings in which a few calls are slow for a known reason.

use super::*;
use crate::analysis::testing::Builder;
use crate::recording::{Sample, StackEnd};

const MS: u64 = 1_000_000;
const SECOND: u64 = 1_000 * MS;

/// 100 calls of 10 ms with 2 ms on a CPU each, one after the other; those of the given numbers take 200 ms.
fn recording(slow: &[u64], mut work: impl FnMut(&mut Builder, usize, u64)) -> Builder {
    let mut builder = Builder::new();
    builder.recording.meta.frequency_hz = 1000;
    let thread = builder.thread(0, 100, "main");
    for call in 0..100 {
        let start = (call + 1) * SECOND;
        let length = if slow.contains(&call) { 200 * MS } else { 10 * MS };
        builder.call(0, "mixed", start, start + length);
        let stack = builder.stack(&["main", "usual"]);
        for at in 1..3 {
            on_cpu(&mut builder, thread, start + at * MS, stack);
        }
        if slow.contains(&call) {
            work(&mut builder, thread, start);
        }
    }
    builder.recording.samples.sort_by_key(|sample| sample.timestamp_ns);
    builder.recording.calls.sort_by_key(|recorded| recorded.call.start_ns);
    builder
}

fn on_cpu(builder: &mut Builder, thread: usize, timestamp_ns: u64, stack: usize) {
    let stack_end = StackEnd::ChainEnd;
    builder.recording.samples.push(Sample {
        timestamp_ns,
        thread,
        stack: Some(stack),
        weight_ns: MS,
        stack_end,
    });
}

fn answer(builder: &Builder) -> SlowResponses {
    let recording = &builder.recording;
    let question = Question { tools: vec!["mixed".into()], percentile: 98.0, with_requests: true };
    SlowResponses::new(recording, &Attribution::new(recording), &question)
}

fn causes(tool: &SlowTool) -> Vec<(Cause, u64, u64)> {
    tool.findings
        .iter()
        .map(|finding| (finding.cause, finding.slow_ms as u64, finding.typical_ms as u64))
        .collect()
}

/// Calls that run longer: the functions that they run longer in are told.
#[test]
fn running() {
    let builder = recording(&[20, 60], |builder, thread, start| {
        let stack = builder.stack(&["main", "rare", "burn"]);
        (10..190).for_each(|at| on_cpu(builder, thread, start + at * MS, stack));
    });
    let answer = answer(&builder);
    let tool = &answer.tools[0];
    assert_eq!(causes(tool), [(Cause::OnCpu, 182, 2)]);
    assert_eq!(tool.findings[0].examples, [21, 61]);
    assert_eq!((tool.slow.calls, tool.slow.duration_ms, tool.typical.duration_ms), (2, 200.0, 10.0));
    assert_eq!(tool.stacks[0].path, ["main", "rare"]);
    assert_eq!((tool.stacks[0].more_ms, tool.stacks[0].below.join(">")), (180.0, "burn".to_owned()));
    assert!(tool.doubts.is_empty() && tool.notes.is_empty(), "{tool:?}");
}

/// Calls that are not on a CPU, and alone: they wait.
#[test]
fn waiting() {
    let builder = recording(&[20, 60], |_, _, _| {});
    let tool = &answer(&builder).tools[0];
    assert_eq!(causes(tool), [(Cause::Waiting, 198, 8)]);
    assert!(tool.stacks.is_empty());
}

/// Calls behind one of another tool, which burns: not their own time, and not their stacks.
#[test]
fn queued() {
    let builder = recording(&[20, 60], |builder, thread, start| {
        builder.call(0, "long", start - MS, start + 192 * MS);
        let stack = builder.stack(&["main", "long"]);
        (0..192).for_each(|at| on_cpu(builder, thread, start + at * MS, stack));
    });
    let answer = answer(&builder);
    let tool = &answer.tools[0];
    assert_eq!(tool.findings[0].cause, Cause::Queued, "{tool:#?}");
    assert_eq!((tool.findings[0].slow_ms, tool.findings[0].typical_ms), (192.0, 0.0));
    assert_eq!(tool.findings.len(), 1);
    let [behind] = &tool.findings[0].behind[..] else { panic!("{tool:?}") };
    assert_eq!((behind.name.as_str(), behind.calls), ("long", 2));
    let long = &builder.recording.calls[usize::try_from(behind.example).unwrap() - 1].call;
    assert_eq!(long.name.as_deref(), Some("long"));
    let timeline: Vec<_> =
        tool.requests[0].timeline.iter().map(|stretch| (stretch.what, stretch.to_ms)).collect();
    assert_eq!(timeline, [("queued", 192.0), ("working", 200.0)]);
    // Two samples of each call's own are in it.
    assert_eq!(tool.requests[0].timeline[0].on_cpu_ms, 194.0);
}

/// A response that goes out slowly, and a long one.
#[test]
fn sending() {
    let mut builder = recording(&[20, 60], |_, _, _| {});
    for recorded in &mut builder.recording.calls {
        let call = &mut recorded.call;
        if call.end_ns - call.start_ns > 100 * MS {
            call.response_ns = Some(call.start_ns + 10 * MS);
            call.response_bytes = 1_000_000;
        }
    }
    let tool = &answer(&builder).tools[0];
    assert_eq!(causes(tool), [(Cause::Sending, 190, 0)]);
    assert_eq!(tool.notes, ["their responses were 5000.0 times as long: 1000000 bytes against 200"]);
}

/// The first calls of a tool: warming up.
#[test]
fn warming_up() {
    let tool = &answer(&recording(&[0, 1], |_, _, _| {})).tools[0];
    assert_eq!(tool.notes, ["2 of the 2 slow calls are among the first 4 of the tool: warming up"]);
}

/// Without enough samples nobody says which it was; without enough calls nothing is said; calls that are hardly slower are none.
#[test]
fn knows_what_it_cannot_know() {
    let mut builder = recording(&[20], |_, _, _| {});
    builder.recording.meta.frequency_hz = 20;
    let tool = &answer(&builder).tools[0];
    assert_eq!(tool.findings[0].cause, Cause::OnCpuOrWaiting);
    assert_eq!((tool.slow.on_cpu_ms, tool.doubts.len()), (None, 1));
    builder.recording.calls.truncate(3);
    let few = answer(&builder);
    assert_eq!((few.tools.len(), few.too_few_calls["mixed"]), (0, 3));
    let even = answer(&recording(&[], |_, _, _| {}));
    assert!(even.tools[0].findings.is_empty() && even.tools[0].doubts.is_empty());
}
