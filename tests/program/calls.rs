//! Calls: what a client asked and what came of it, seen from outside, and whose CPU time it was.

use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tests::{
    Client, HttpClient, Process, Profiler, Report, demo_server, everything, everything_over_http, python,
    python_program, python_time, script, stress, tool_call, wait_until,
};

/// A recording of a process while something is done.
pub(super) struct Recorded<T> {
    pub(super) profiler: Profiler,
    pub(super) report: Report,
    pub(super) done: T,
}

pub(super) fn while_recording<T>(
    pid: u32,
    frequency: u32,
    work: impl FnOnce() -> Result<T>,
) -> Result<Recorded<T>> {
    while_looking(pid, frequency, |_| work())
}

/// The same, for what looks at the recording meanwhile.
pub(super) fn while_looking<T>(
    pid: u32,
    frequency: u32,
    work: impl FnOnce(&Profiler) -> Result<T>,
) -> Result<Recorded<T>> {
    let profiler = Profiler::new()?;
    let running = profiler.recording(pid, frequency)?;
    let done = work(&profiler)?;
    running.signal(Signal::SIGINT)?;
    let outcome = running.finish()?;
    ensure!(outcome.code == Some(0), "{outcome:#?}");
    let report = profiler.report("recording.mcpprof")?;
    Ok(Recorded { profiler, report, done })
}

/// The server of tests/workloads/mcp_server.py.
fn by_hand() -> Result<Client> {
    Client::start(Command::new(python_program()?).arg(script("mcp_server.py")))
}

/// The entry of a tool in the report.
pub(super) fn tool<'report>(report: &'report Report, name: &str) -> Result<&'report Value> {
    let tools = report.json["calls"]["tools"].as_array().context("no calls")?;
    tools.iter().find(|tool| tool["tool"] == name).with_context(|| format!("no {name} among {tools:#?}"))
}

/// So many calls of the tool, all of them answered, and nothing else of note.
fn assert_whole(report: &Report, name: &str, count: u64, errors: u64) -> Result<()> {
    let calls = &report.json["calls"];
    let tool = tool(report, name)?;
    assert_eq!((&tool["count"], &tool["errors"]), (&json!(count), &json!(errors)), "{calls:#}");
    assert_eq!(tool.get("unfinished"), None, "{calls:#}");
    assert_eq!(calls.get("incomplete"), None, "{calls:#}");
    for name in ["unmatched_responses", "repeated_ids", "skipped_lines", "unreadable_http"] {
        assert_eq!(calls["messages"].get(name), None, "{calls:#}");
    }
    assert_nothing_lost(report);
    Ok(())
}

/// Nothing of what was said.
pub(super) fn assert_nothing_lost(report: &Report) {
    let losses = &report.json["losses"]["by_cause"];
    for cause in ["wire_ring_full", "undecodable_records"] {
        assert_eq!(losses.get(cause), None, "{losses:#}");
    }
}

/// The calls that `calls` lists.
pub(super) fn listed<T>(recorded: &Recorded<T>, options: &[&str]) -> Result<Vec<Value>> {
    recorded.profiler.calls(options)
}

/// Node over stdio, one call at a time and many: each is seen and answered.
#[test]
fn node_over_stdio() -> Result<()> {
    let mut client = Client::start(&mut everything()?)?;
    let recorded = while_recording(client.pid(), 99, || {
        for in_flight in [1, 4, 16] {
            client.call_often(1000, in_flight, "echo", |number| json!({"message": number.to_string()}))?;
        }
        Ok(())
    })?;
    assert_whole(&recorded.report, "echo", 3000, 0)?;
    assert_eq!(recorded.report.json["calls"]["total"], 3000);
    let peak = recorded.report.json["calls"]["peak_in_flight"].as_u64().context("peak")?;
    assert!((4..=16).contains(&peak), "{peak} in flight");
    let calls = listed(&recorded, &[])?;
    assert_eq!(calls.len(), 3000);
    assert!(calls.iter().all(|call| call["outcome"] == "ok" && call["request_bytes"].as_u64() > Some(80)));
    Ok(())
}

/// Python, which moves its streams to other descriptors and reads and writes in two threads; tool errors are errors.
#[test]
fn python_over_stdio() -> Result<()> {
    let mut client = Client::start(&mut python_time()?)?;
    let recorded = while_recording(client.pid(), 99, || {
        client.call_often(
            200,
            4,
            "get_current_time",
            |number| json!({"timezone": if number % 10 == 0 { "No/Where" } else { "UTC" }}),
        )
    })?;
    let errors = recorded.done.iter().filter(|answer| answer["result"]["isError"] == true).count() as u64;
    assert_eq!(errors, 20);
    assert_whole(&recorded.report, "get_current_time", 200, errors)?;
    let failed = listed(&recorded, &["--outcome", "error"])?;
    assert_eq!(failed.len(), 20);
    assert!(failed.iter().all(|call| call["outcome"] == "tool_error"), "{failed:#?}");
    Ok(())
}

/// Rust, where any thread may answer.
#[test]
fn rust_over_stdio() -> Result<()> {
    let mut client = Client::start(&mut demo_server()?)?;
    let recorded =
        while_recording(client.pid(), 99, || client.call_often(100, 4, "compute", |_| json!({"rounds": 1})))?;
    assert_whole(&recorded.report, "compute", 100, 0)
}

/// Connections whose IDs are the same; one that is closed cuts its call off, and a request of no session fails.
#[test]
fn node_over_http() -> Result<()> {
    let server = everything_over_http()?;
    let mut clients = (0..4).map(|_| HttpClient::connect(server.port())).collect::<Result<Vec<_>>>()?;
    let recorded = while_recording(server.pid(), 99, || {
        std::thread::scope(|scope| {
            let calls = |client: &mut HttpClient| -> Result<()> {
                for id in 1..=100 {
                    let answer = client.post(&tool_call(&json!(id), "echo", &json!({"message": "hello"})))?;
                    ensure!(answer.as_ref().is_some_and(|answer| answer["id"] == id), "{answer:?}");
                }
                Ok(())
            };
            let threads: Vec<_> =
                clients.iter_mut().map(|client| scope.spawn(move || calls(client))).collect();
            threads.into_iter().try_for_each(|thread| thread.join().expect("the thread does not panic"))
        })?;
        let long =
            tool_call(&json!(1), "trigger-long-running-operation", &json!({"duration": 60, "steps": 1}));
        let mut client = clients.pop().context("four clients")?;
        let mut stranger = clients.pop().context("four clients")?;
        stranger.set_session("no such session");
        stranger.post(&tool_call(&json!(1), "refused", &json!({})))?;
        // Node has read what was sent before on other connections when it has answered this.
        let other = clients.last_mut().context("four clients")?;
        let mut answered = || other.post(&json!({"jsonrpc": "2.0", "id": 0, "method": "ping"}));
        client.send(&long)?;
        answered()?;
        drop(client);
        answered()?;
        Ok(())
    })?;
    assert_whole(&recorded.report, "echo", 400, 0)?;
    let long = tool(&recorded.report, "trigger-long-running-operation")?;
    assert_eq!(long["unfinished"], json!({"cut_off": 1}), "{long:#}");
    let refused = listed(&recorded, &["--tool", "refused"])?;
    assert!(matches!(&refused[..], [call] if call["outcome"] == "error"), "{refused:#?}");
    Ok(())
}

const TRACE_PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// Each outcome is seen as what it was; long messages, and what is no message, do no harm.
#[test]
fn outcomes() -> Result<()> {
    let mut client = by_hand()?;
    let recorded = while_recording(client.pid(), 99, || {
        for code in [-32602, -32000, 7] {
            let answer = &client.call_often(1, 1, "fail", |_| json!({"code": code}))?[0];
            ensure!(answer["error"]["code"] == code, "{answer}");
        }
        client.call_often(1, 1, "no-such-tool", |_| json!({}))?;
        client.call_often(2, 1, "large", |_| json!({"size": 1_000_000}))?;
        client.call_often(2, 1, "echo", |_| json!({"text": "long ".repeat(100_000)}))?;
        client.call_often(2, 1, "chatter", |_| json!({}))?;
        client.send(&tool_call(&json!("never"), "silent", &json!({})))?;
        client.send(&tool_call(&json!(99), "silent", &json!({})))?;
        let cancel =
            json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 99}});
        client.send(&cancel)?;
        let mut last = tool_call(&json!("last"), "echo", &json!({"text": "the last"}));
        last["params"]["_meta"] = json!({"progressToken": 1, "traceparent": TRACE_PARENT});
        client.send(&last)?;
        client.receive()
    })?;
    let traced = listed(&recorded, &["--tool", "echo", "--in-order"])?.pop().context("no calls")?;
    assert_eq!(
        (&traced["tool"], &traced["trace_parent"]),
        (&json!("echo"), &json!(TRACE_PARENT)),
        "{traced:#}"
    );
    let report = &recorded.report;
    let calls = &report.json["calls"];
    assert_eq!((&calls["total"], &calls["errors"]), (&json!(13), &json!(4)), "{calls:#}");
    assert_eq!(tool(report, "silent")?["unfinished"], json!({"in_flight": 1, "cancelled": 1}));
    let waits = tool(report, "silent")?["longest_in_flight_ms"].as_f64();
    let in_flight = listed(&recorded, &["--outcome", "in_flight"])?;
    ensure!(in_flight.len() == 1 && in_flight[0]["tool"] == "silent", "{in_flight:#?}");
    assert_eq!(waits, in_flight[0]["duration_ms"].as_f64());
    assert_eq!(in_flight[0]["attributes"].get("error.type"), None, "{in_flight:#?}");
    let text = recorded.profiler.succeed(&["report", "recording.mcpprof"])?.stdout;
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(text.contains("1 cancelled by the client; 1 in flight at the end, for "), "{text}");
    assert_eq!(calls["messages"]["skipped_lines"], 4, "{calls:#}");
    for name in ["unmatched_responses", "repeated_ids", "cut_messages", "lost_stretches"] {
        assert_eq!(calls["messages"].get(name), None, "{calls:#}");
    }
    assert_eq!(calls.get("incomplete"), None, "{calls:#}");
    assert_nothing_lost(report);
    let large = tool(report, "large")?["response_bytes"].as_u64().context("response_bytes")?;
    assert!((2_000_000..2_001_000).contains(&large), "{large} bytes");
    let echo = tool(report, "echo")?["request_bytes"].as_u64().context("request_bytes")?;
    assert!((1_000_000..1_001_000).contains(&echo), "{echo} bytes");
    let codes: Vec<_> = listed(&recorded, &["--tool", "fail", "--in-order"])?
        .iter()
        .map(|call| call["error_code"].clone())
        .collect();
    assert_eq!(codes, [-32602, -32000, 7]);
    Ok(())
}

/// Calls that take several requests, and requests that come together: a call that is asked for input and comes again under another
/// ID is one, and of a batch each is.
#[test]
fn input_and_batches() -> Result<()> {
    const ROUNDS: u64 = 10;
    let mut client = by_hand()?;
    let recorded = while_recording(client.pid(), 99, || {
        for round in 0..ROUNDS {
            // Two that are asked for input at the same time are told apart by their state.
            let ask = |id: String, text: &str| tool_call(&json!(id), "ask", &json!({"text": text}));
            let mut states = Vec::new();
            for text in ["short", "long"] {
                client.send(&ask(format!("{text}-{round}"), text))?;
                let answer = client.receive()?;
                ensure!(answer["result"]["resultType"] == "input_required", "{answer}");
                states.push((text, answer["result"]["requestState"].clone()));
            }
            for (text, state) in states.into_iter().rev() {
                let mut again = ask(format!("{text}-{round}-again"), text);
                again["params"]["requestState"] = state;
                again["params"]["inputResponses"] = json!({"name": {"value": "x".repeat(text.len() * 100)}});
                client.send(&again)?;
                let answer = client.receive()?;
                ensure!(answer["result"]["content"][0]["text"] == text, "{answer}");
            }
            let batch: Vec<Value> = (0..4)
                .map(|number| {
                    let (tool, arguments) = if number % 2 == 0 {
                        ("echo", json!({"text": "together"}))
                    } else {
                        ("burn", json!({"milliseconds": 1}))
                    };
                    tool_call(&json!(100 * round + number), tool, &arguments)
                })
                .collect();
            client.send(&json!(batch))?;
            let answers = client.receive()?;
            ensure!(answers.as_array().is_some_and(|answers| answers.len() == 4), "{answers}");
        }
        Ok(())
    })?;
    let report = &recorded.report;
    for (name, count) in [("ask", 2 * ROUNDS), ("echo", 2 * ROUNDS), ("burn", 2 * ROUNDS)] {
        assert_whole(report, name, count, 0)?;
    }
    assert_eq!(report.json["calls"]["total"], 6 * ROUNDS, "{:#}", report.json["calls"]);
    // Both requests of a call count, and which two they are: one that is longer belongs to the longer text.
    let asked = listed(&recorded, &["--tool", "ask", "--in-order"])?;
    let (mut short, mut long): (Vec<u64>, Vec<u64>) = (Vec::new(), Vec::new());
    for call in &asked {
        let bytes = call["request_bytes"].as_u64().context("request_bytes")?;
        let id = call["attributes"]["jsonrpc.request.id"].as_str().context("an ID")?;
        ensure!(id.ends_with("-again"), "{call:#}");
        if id.starts_with("short") { &mut short } else { &mut long }.push(bytes);
    }
    assert_eq!((short.len() as u64, long.len() as u64), (ROUNDS, ROUNDS));
    assert!(short.iter().all(|bytes| (600..1000).contains(bytes)), "{short:?}");
    assert!(long.iter().all(|bytes| (500..900).contains(bytes)), "{long:?}");
    Ok(())
}

/// A session that has long begun: calls are seen from the next message on.
#[test]
fn attached_in_the_middle() -> Result<()> {
    // No more than there is room for, however busy the machine is.
    let load = by_hand()?.load("burn", json!({"milliseconds": 1}))?;
    let before = load.calls();
    let recorded = while_recording(load.pid(), 99, || {
        // What is in flight when the profiler comes is not seen whole. The call behind it is.
        let first = load.calls();
        wait_until("a call ends", Duration::from_secs(10), || (load.calls() > first).then_some(()))?;
        let start = load.calls();
        std::thread::sleep(Duration::from_secs(2));
        Ok(load.calls() - start)
    })?;
    let after = load.calls();
    let report = &recorded.report;
    let burn = tool(report, "burn")?;
    let count = burn["count"].as_u64().context("count")?;
    let unmatched = report.json["calls"]["messages"]["unmatched_responses"].as_u64().unwrap_or(0);
    assert!((recorded.done..=after - before + 1).contains(&count), "{count} calls, not {}", recorded.done);
    assert_eq!(burn["errors"], 0);
    // One call may be in flight at the start, and one at the end.
    let in_flight = burn["unfinished"]["in_flight"].as_u64().unwrap_or(0);
    assert!(
        unmatched <= 1 && in_flight <= 1 && burn["unfinished"].get("unanswered").is_none(),
        "{:#}",
        report.json["calls"]
    );
    assert_nothing_lost(report);
    Ok(())
}

/// A call counts once, on the server that answers it, also when its client is watched too.
#[test]
fn client_and_server_watched() -> Result<()> {
    let load = stress(60, &everything()?)?;
    wait_until("mcp-stress starts the server", Duration::from_secs(10), || {
        load.children().ok()?.first().copied()
    })?;
    let server = load.children()?[0];
    let recorded = while_looking(load.pid(), 99, |profiler| {
        profiler.wait_for_calls("calls of the load", &["--tool", "echo"], |calls| calls.len() > 10)
    })?;
    let tools = recorded.report.json["calls"]["tools"].as_array().context("no calls")?;
    assert!(tools.iter().all(|tool| tool.get("asked_by_server").is_none()), "{tools:#?}");
    let calls = listed(&recorded, &["--tool", "echo"])?;
    assert!(calls.len() > 10, "{} calls", calls.len());
    assert!(calls.iter().all(|call| call["pid"] == server), "not all of {server}");
    Ok(())
}

/// CPU time goes to the call that took it: near the known time, and never to one that slept.
#[test]
fn cpu_time_of_calls() -> Result<()> {
    let mut client = by_hand()?;
    let recorded = while_recording(client.pid(), 499, || {
        for _ in 0..20 {
            client.call_often(1, 1, "burn", |_| json!({"milliseconds": 100}))?;
            client.call_often(1, 1, "sleep", |_| json!({"milliseconds": 50}))?;
        }
        Ok(())
    })?;
    let report = &recorded.report;
    assert_whole(report, "burn", 20, 0)?;
    assert_whole(report, "sleep", 20, 0)?;
    let burn = tool(report, "burn")?;
    // 2 s at 499 Hz are 998 samples: four standard deviations of their number are less than 13 %.
    let cpu_ms = burn["cpu_ms"].as_f64().context("cpu_ms")?;
    assert!((1740.0..2260.0).contains(&cpu_ms), "{cpu_ms} ms, not 2000");
    assert_eq!(burn["exact_ratio"], 1.0);
    let slept = tool(report, "sleep")?["cpu_ms"].as_f64().context("cpu_ms")?;
    assert!(slept < 100.0, "{slept} ms on a CPU");
    assert_parts_add_up(report)?;

    let export = ["export", "recording.mcpprof", "--format", "folded", "--output", "sleep.folded", "--tool"];
    let exported = recorded.profiler.run(&[&export[..], &["sleep"]].concat())?;
    if exported.code == Some(0) {
        let stacks = std::fs::read_to_string(recorded.profiler.path("sleep.folded"))?;
        assert!(!stacks.contains(";burn"), "{stacks}");
    } else {
        // They take so little that none of them may have been sampled.
        assert!(exported.stderr.contains("no samples"), "{exported:#?}");
    }
    let tree = recorded.profiler.succeed(&["call-tree", "recording.mcpprof", "--tool", "burn"])?;
    assert!(tree.stdout.contains("burn"), "{}", tree.stdout);
    let trace = recorded.profiler.succeed(&["trace", "2", "recording.mcpprof"])?;
    assert!(trace.stdout.starts_with("Call 2: sleep"), "{}", trace.stdout);
    recorded
        .profiler
        .run(&["cpu", "recording.mcpprof", "--tool", "bern"])?
        .assert_fails(2, &["bern", "burn, sleep"]);
    Ok(())
}

/// With several calls in flight the parts still add up to all CPU time, and what is shared is said to be.
#[test]
fn cpu_time_of_calls_together() -> Result<()> {
    let mut client = by_hand()?;
    let recorded = while_recording(client.pid(), 499, || {
        for _ in 0..10 {
            client.send(&tool_call(&json!("nap"), "sleep", &json!({"milliseconds": 150})))?;
            client.send(&tool_call(&json!("work"), "burn", &json!({"milliseconds": 100})))?;
            client.receive()?;
            client.receive()?;
        }
        Ok(())
    })?;
    let report = &recorded.report;
    assert_whole(report, "burn", 10, 0)?;
    assert_whole(report, "sleep", 10, 0)?;
    assert!(report.json["calls"]["cpu"]["shared_seconds"].as_f64() > Some(0.0), "{:#}", report.json["calls"]);
    assert_parts_add_up(report)
}

pub(super) fn assert_parts_add_up(report: &Report) -> Result<()> {
    let cpu = &report.json["calls"]["cpu"];
    let parts = ["exact_seconds", "shared_seconds", "background_seconds"];
    let sum: f64 = parts.iter().map(|part| cpu[part].as_f64().context("a part")).sum::<Result<f64>>()?;
    let whole = report.cpu_seconds();
    assert!((sum - whole).abs() < 1e-6 * whole.max(1.0), "{cpu} is not {whole} s");
    Ok(())
}

/// Waits until the profiler has taken all that was said before: a call of this tool that is made now is seen.
pub(super) fn until_taken(profiler: &Profiler, client: &mut Client, tool: &str) -> Result<()> {
    wait_until("the profiler keeps up", Duration::from_secs(60), || {
        client.call_often(1, 1, tool, |_| json!({})).ok()?;
        std::thread::sleep(Duration::from_millis(200));
        profiler.calls(&["--tool", tool]).ok().filter(|calls| !calls.is_empty()).map(drop)
    })
}

/// A profiler that can't keep up says so, blames nobody for it, and goes on when it can.
#[test]
fn more_than_can_be_taken() -> Result<()> {
    let mut client = by_hand()?;
    let profiler = Profiler::new()?;
    let running = profiler.recording(client.pid(), 99)?;
    let text = json!({"text": "much ".repeat(3000)});
    client.call_often(50, 4, "echo", |_| text.clone())?;
    // Nobody empties the ring.
    running.signal(Signal::SIGSTOP)?;
    client.call_often(2000, 4, "echo", |_| text.clone())?;
    running.signal(Signal::SIGCONT)?;
    until_taken(&profiler, &mut client, "now")?;
    client.call_often(100, 4, "burn", |_| json!({"milliseconds": 1}))?;
    running.signal(Signal::SIGINT)?;
    let outcome = running.finish()?;
    ensure!(outcome.code == Some(0), "{outcome:#?}");
    let report = profiler.report("recording.mcpprof")?;
    let calls = &report.json["calls"];
    assert!(
        report.json["losses"]["by_cause"]["wire_ring_full"].as_u64() > Some(0),
        "{:#}",
        report.json["losses"]
    );
    assert_eq!(calls["incomplete"], true, "{calls:#}");
    assert!(calls["messages"]["lost_stretches"].as_u64() >= Some(1), "{calls:#}");
    let echo = tool(&report, "echo")?;
    assert!((50..2050).contains(&echo["count"].as_u64().context("count")?), "{echo:#}");
    for never in ["unanswered", "in_flight"] {
        assert_eq!(echo["unfinished"].get(never), None, "{echo:#}");
    }
    let burn = tool(&report, "burn")?;
    assert_eq!((&burn["count"], burn.get("unfinished")), (&json!(100), None), "{calls:#}");
    let text = profiler.succeed(&["report", "recording.mcpprof"])?.stdout;
    assert!(text.contains("could not be recorded"), "{text}");
    Ok(())
}

/// Messages without end, nesting, and bytes that are no text: bounded memory, and the next call is seen.
#[test]
fn hostile_output() -> Result<()> {
    let mut client = by_hand()?;
    let profiler = Profiler::new()?;
    let running = profiler.recording(client.pid(), 99)?;
    client.send(&tool_call(&json!("hostile"), "hostile", &json!({"size": 1 << 28})))?;
    let answer = client.receive()?;
    ensure!(answer["id"] == "hostile", "{answer}");
    client.call_often(100, 4, "echo", |_| json!({"text": "after"}))?;
    let peak_kib = running.peak_kib()?;
    running.signal(Signal::SIGINT)?;
    let outcome = running.finish()?;
    outcome.assert_clean();
    ensure!(outcome.code == Some(0), "{outcome:#?}");
    assert!(peak_kib < 256 << 10, "{peak_kib} KiB");
    let report = profiler.report("recording.mcpprof")?;
    assert_eq!(tool(&report, "echo")?["count"], 100);
    assert_eq!(tool(&report, "echo")?.get("unfinished"), None);
    Ok(())
}

/// More lines than can be read in time: what waits is bounded, and the rest is counted.
#[test]
fn flood() -> Result<()> {
    let script = "
import os
line = b'{\"jsonrpc\":\"2.0\",\"method\":\"notifications/x\",\"params\":{\"text\":\"' + b'x' * 16000 + b'\"}}\\n'
while True:
    os.write(1, line)
";
    let mut drain = Command::new("cat");
    let mut drain = drain.stdin(Stdio::piped()).stdout(Stdio::null()).spawn()?;
    let pipe = drain.stdin.take().context("stdin is a pipe")?;
    let target = Process::start(python(script)?.stdout(pipe))?;
    let profiler = Profiler::new()?;
    let running = profiler.recording(target.pid(), 99)?;
    std::thread::sleep(Duration::from_secs(4));
    let peak_kib = running.peak_kib()?;
    running.signal(Signal::SIGINT)?;
    let outcome = running.finish()?;
    ensure!(outcome.code == Some(0), "{outcome:#?}");
    drop(target);
    drain.wait()?;
    assert!(peak_kib < 256 << 10, "{peak_kib} KiB");
    let report = profiler.report("recording.mcpprof")?;
    assert!(report.json["calls"]["total"].as_u64() == Some(0), "{:#}", report.json["calls"]);
    Ok(())
}

/// A process that speaks no MCP has no calls; that is told, so that nobody looks for a table.
#[test]
fn no_calls_at_all() -> Result<()> {
    let target = tests::Workload::compile("spin")?.start()?;
    let profiler = Profiler::new()?;
    let report = profiler.record_and_report(1, 99, &["--pid", &target.pid().to_string()])?;
    assert_eq!(report.json.get("calls"), None);
    let text = profiler.succeed(&["report", "recording.mcpprof"])?.stdout;
    assert!(text.contains("Calls: none seen"), "{text}");
    assert!(!text.contains("Whose CPU time"), "{text}");
    Ok(())
}
