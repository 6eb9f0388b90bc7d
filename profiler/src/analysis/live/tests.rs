//! Tests of the window: increments whose figures are known.

use super::*;
use crate::analysis::testing::Builder;
use crate::recording::Gauge;

const MS: u64 = 1_000_000;
const SECOND: u64 = 1_000_000_000;

/// A second of a recording, from second `number` on, without a call.
fn second(number: u64) -> Builder {
    let mut builder = Builder::new();
    builder.recording.meta.start_ns = number * SECOND;
    builder.recording.meta.end_ns = (number + 1) * SECOND;
    builder.thread(0, 100, "main");
    builder
}

fn window(length_seconds: u64) -> Window {
    Window::new(vec!["everything".into()], length_seconds * SECOND)
}

/// Rates, percentiles, errors and CPU time are those of the window; what is older has no part in them.
#[test]
fn the_window_slides() {
    let mut window = window(2);
    for number in 1..=4 {
        let mut builder = second(number);
        for call in 0..10 * number {
            let start = number * SECOND + call * 10 * MS;
            builder.call(0, "echo", start, start + number * MS);
        }
        builder.recording.calls[0].call.ended = Ended::ToolError { message: None };
        builder.sample_at(number * SECOND + MS / 2, 0, 10 * MS);
        builder.sample_at(number * SECOND + 999 * MS, 0, 30 * MS);
        window.push(&builder.recording, 0, &[0]);
    }
    let snapshot = window.snapshot();
    assert_eq!((snapshot.window_seconds, snapshot.elapsed_seconds, snapshot.samples), (2.0, 4.0, 4));
    let [echo] = &snapshot.tools[..] else { panic!("{snapshot:?}") };
    assert_eq!((echo.calls, echo.calls_per_second, echo.errors, echo.in_flight), (70, 35.0, 2, 0));
    let latency = echo.latency_ms.unwrap();
    assert_eq!((latency.p50, latency.p99), (4.0, 4.0));
    assert_eq!(
        (echo.cpu_ratio, echo.cpu_ms_per_call, echo.exact_ratio),
        (0.01, Some(20.0 / 70.0), Some(1.0))
    );
    let [server] = &snapshot.servers[..] else { panic!("{snapshot:?}") };
    assert_eq!((server.calls_per_second, server.cpu_ratio, server.background_cpu_ratio), (35.0, 0.04, 0.03));
    assert_eq!(window.samples_of(&Owner::Tool(echo.key.clone())).len(), 2);
    assert_eq!(window.samples_of(&Owner::Background(0)).len(), 2);
    window.set_length(SECOND);
    assert_eq!(window.snapshot().tools[0].calls, 40);
}

/// CPU time is what the kernel counted in the window, of tools and of their stacks too, also where readings do not come with
/// increments; a server without readings keeps what was sampled.
#[test]
fn time_is_the_kernels() {
    let mut window = Window::new(vec!["counted".into(), "sampled".into()], 3 * SECOND);
    for number in 1..=6 {
        let mut builder = second(number);
        let other = builder.process(200, "other", "native", None);
        builder.thread(other, 200, "other");
        let start = number * SECOND;
        builder.call(0, "burn", start, start + 500 * MS);
        for sample in 0..20 {
            builder.sample_at(start + 1 + sample * 50 * MS, 0, 10 * MS);
            builder.sample_at(start + 2 + sample * 50 * MS, 1, 10 * MS);
        }
        // Half of the ticks were missed. The first reading comes before there is a second one.
        let (timestamp_ns, value) = (start + 300 * MS, 7 * SECOND + number * 400 * MS);
        let kind = GaugeKind::CpuTimeNs;
        builder.recording.gauges.push(Gauge { timestamp_ns, process: 0, kind, value });
        window.push(&builder.recording, 0, &[0, 1]);
        if number == 1 {
            let [counted, _] = &window.snapshot().servers[..] else { panic!("two servers") };
            assert_eq!((counted.cpu_ratio, counted.sampled_cpu_ratio), (0.2, None));
        }
    }
    let snapshot = window.snapshot();
    let [counted, sampled] = &snapshot.servers[..] else { panic!("{snapshot:?}") };
    assert_eq!((counted.cpu_ratio, counted.background_cpu_ratio), (0.4, 0.2));
    assert_eq!((counted.sampled_cpu_ratio, sampled.sampled_cpu_ratio), (Some(0.2), None));
    assert_eq!((sampled.cpu_ratio, sampled.background_cpu_ratio), (0.2, 0.2));
    let [burn] = &snapshot.tools[..] else { panic!("{snapshot:?}") };
    assert_eq!((burn.cpu_ratio, burn.cpu_ms_per_call), (0.2, Some(200.0)));
    let stacks = window.samples_of(&Owner::Tool(burn.key.clone()));
    assert_eq!(stacks.iter().map(|sample| sample.weight_ns).sum::<u64>(), 600 * MS);
}

/// A call that goes on is in flight, is charged, and has no latency; its CPU time a call is not known before the window has
/// a whole one.
#[test]
fn calls_in_flight_are_charged() {
    let mut window = window(2);
    for number in 1..=5 {
        let mut builder = second(number);
        builder.sample_at(number * SECOND + 500 * MS, 0, 800 * MS);
        if number < 5 {
            builder.call(0, "burn", SECOND, (number + 1) * SECOND);
        } else {
            builder.call(0, "burn", SECOND, number * SECOND + 900 * MS);
        }
        window.push(&builder.recording, usize::from(number < 5), &[0]);
        let snapshot = window.snapshot();
        let [burn] = &snapshot.tools[..] else { panic!("{snapshot:?}") };
        assert_eq!((burn.cpu_ratio, burn.cpu_ms_per_call), (0.8, None), "{number}");
        let expected = if number < 5 { (1, 0, false) } else { (0, 1, true) };
        assert_eq!((burn.in_flight, burn.calls, burn.latency_ms.is_some()), expected);
    }
}

/// Time that calls of two tools share is split between their owners, and the sum stays what it was.
#[test]
fn shared_samples_are_split() {
    let mut window = window(1);
    let mut builder = second(1);
    for tool in ["a", "a", "b"] {
        builder.call(0, tool, SECOND, SECOND + 100 * MS);
    }
    builder.sample_at(SECOND + MS, 0, 9 * MS);
    window.push(&builder.recording, 0, &[0]);
    let snapshot = window.snapshot();
    let cpu: Vec<_> = snapshot.tools.iter().map(|tool| (tool.tool.as_deref(), tool.cpu_ratio)).collect();
    assert_eq!(cpu, [(Some("a"), 0.006), (Some("b"), 0.003)]);
    assert_eq!(snapshot.tools[0].exact_ratio, Some(0.0));
    let weights = window.samples_of(&Owner::Tool(snapshot.tools[1].key.clone()));
    assert_eq!(weights.iter().map(|sample| sample.weight_ns).collect::<Vec<_>>(), [3 * MS]);
}

/// Servers are told apart, what belongs to none is shown as such, and one whose processes are gone has ended.
#[test]
fn servers() {
    let mut window = Window::new(vec!["one".into(), "two".into()], SECOND);
    let mut builder = second(1);
    let two = builder.process(200, "two", "python", None);
    let stranger = builder.process(300, "sh", "native", None);
    builder.recording.processes[0].exit_ns = Some(2 * SECOND);
    builder.thread(stranger, 300, "sh");
    builder.call(0, "echo", SECOND, SECOND + MS);
    builder.call(two, "echo", SECOND, SECOND + MS);
    builder.sample_at(SECOND + 5 * MS, 1, MS);
    window.push(&builder.recording, 0, &[0, 1, 2]);
    let snapshot = window.snapshot();
    let servers: Vec<_> = snapshot.servers.iter().map(|row| (row.server.as_str(), row.ended)).collect();
    assert_eq!(servers, [("one", true), ("two", false), ("[unknown]", false)]);
    let tools: Vec<_> = snapshot.tools.iter().map(|row| row.server.as_str()).collect();
    assert_eq!(tools, ["one", "two"]);
}

/// A client that makes up names costs rows to a limit, and no call.
#[test]
fn made_up_names_are_bounded() {
    let mut window = window(1);
    let mut builder = second(1);
    for number in 0..2000 {
        builder.call(0, &format!("tool-{number}"), SECOND, SECOND + MS);
    }
    window.push(&builder.recording, 0, &[0]);
    let snapshot = window.snapshot();
    assert_eq!(snapshot.tools.len(), MAX_TOOLS + 1);
    assert_eq!(snapshot.tools.iter().map(|tool| tool.calls).sum::<u64>(), 2000);
}

/// Nothing is nothing: no division by an empty window.
#[test]
fn an_empty_window() {
    let snapshot = window(10).snapshot();
    assert_eq!((snapshot.time, snapshot.window_seconds, snapshot.tools.len()), (None, 0.0, 0));
}
