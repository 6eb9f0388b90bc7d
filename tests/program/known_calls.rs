//! Calls with known answers: as many as a client made at full speed and as long as it saw them; CPU time as long as the server's own
//! clock says.

use std::collections::HashMap;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};
use tests::{Client, Profiler, call_of, everything, node, python, python_program, rmcp, script, tool_call};

use super::calls::{Recorded, assert_nothing_lost, assert_parts_add_up, listed, tool, while_recording};

/// What the client measured, in the order of the calls.
fn full_speed(client: &mut Client, count: usize, in_flight: usize) -> Result<Vec<Duration>> {
    let mut sent: HashMap<String, Instant> = HashMap::new();
    let (mut next, mut times) = (0, Vec::with_capacity(count));
    while times.len() < count {
        while next < count && sent.len() < in_flight {
            let id = format!("{in_flight}-{next}");
            let call = tool_call(&json!(id), "echo", &json!({"message": "hello"}));
            sent.insert(id, Instant::now());
            client.send(&call)?;
            next += 1;
        }
        let answer = client.receive()?;
        let id = answer["id"].as_str().context("an ID")?;
        times.push(sent.remove(id).context("an answer to a call")?.elapsed());
        ensure!(answer["result"]["content"].is_array(), "{answer}");
    }
    Ok(times)
}

/// How long it takes that a message comes back from a process that does nothing with it, in milliseconds.
fn transport() -> Result<Vec<f64>> {
    let mut client = Client::connect(&mut Command::new("cat"))?;
    let mut times = Vec::new();
    for id in 0..2000 {
        let start = Instant::now();
        client.send(
            &json!({"jsonrpc": "2.0", "id": id, "result": {"content": [{"type": "text", "text": "hello"}]}}),
        )?;
        ensure!(client.receive()?["id"] == id);
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    Ok(times)
}

/// Nearest rank, in milliseconds.
fn percentile(times: &[f64], percent: usize) -> f64 {
    let mut times = times.to_vec();
    times.sort_by(f64::total_cmp);
    times[(times.len() * percent).div_ceil(100).max(1) - 1]
}

/// 30,000 calls at full speed, by 1, 4 and 16 at a time: each is seen, none is without its answer, and they take no longer than their
/// client saw them take.
#[test]
fn as_many_and_as_long_as_the_client_says() -> Result<()> {
    const CALLS: usize = 10_000;
    let mut client = Client::start(&mut everything()?)?;
    let recorded = while_recording(client.pid(), 99, || {
        [1, 4, 16]
            .map(|in_flight| full_speed(&mut client, CALLS, in_flight))
            .into_iter()
            .collect::<Result<Vec<_>>>()
    })?;
    let calls = &recorded.report.json["calls"];
    assert_eq!((&calls["total"], &calls["errors"]), (&json!(3 * CALLS), &json!(0)), "{calls:#}");
    assert_eq!(tool(&recorded.report, "echo")?.get("unfinished"), None, "{calls:#}");
    for name in ["unmatched_responses", "repeated_ids", "skipped_lines", "cut_messages"] {
        assert_eq!(calls["messages"].get(name), None, "{calls:#}");
    }
    assert_eq!(calls.get("incomplete"), None, "{calls:#}");
    assert_nothing_lost(&recorded.report);
    assert_parts_add_up(&recorded.report)?;
    let listed = listed(&recorded, &["--in-order"])?;
    let ours: Vec<f64> = listed
        .iter()
        .map(|call| call["duration_ms"].as_f64().context("duration_ms"))
        .collect::<Result<_>>()?;
    let transport = transport()?;
    let figures = [50, 99].map(|percent| percentile(&transport, percent));
    println!("the way there and back: p50 and p99, in ms: {figures:.3?}");
    for (number, theirs) in recorded.done.iter().enumerate() {
        let ours = &ours[number * CALLS..(number + 1) * CALLS];
        let theirs: Vec<f64> = theirs.iter().map(|time| time.as_secs_f64() * 1e3).collect();
        let in_flight = [1, 4, 16][number];
        let figures = [50, 99].map(|percent| (percentile(ours, percent), percentile(&theirs, percent)));
        println!("{in_flight} in flight: p50 and p99, ours and the client's, in ms: {figures:.3?}");
        // A call's time at the server is a part of its time at the client, but that the client may have the answer before the
        // server's system call returns, on another CPU.
        if in_flight == 1 {
            let longer = ours.iter().zip(&theirs).filter(|(ours, theirs)| ours > theirs).count();
            assert!(longer * 20 < CALLS, "{longer} calls took longer than their client saw");
        }
        for (ours, theirs) in figures {
            assert!(ours <= theirs, "{ours} ms, not at most {theirs} ms with {in_flight} in flight");
        }
    }
    Ok(())
}

/// A server that notes, by the clock that the profiler goes by, when it had read the start of a request, when it was about to write the answer, and when
/// it had written it; its answers tell the first two, and the third of the call before.
const CLOCK_SERVER: &str = r#"
import json, os, time

now = lambda: time.clock_gettime_ns(time.CLOCK_MONOTONIC)
written = 0
while request := os.read(0, 1 << 16):
    read = now()
    while not request.endswith(b'\n'):
        request += os.read(0, 1 << 16)
    request = json.loads(request)
    time.sleep(request["params"]["arguments"]["milliseconds"] / 1000)
    answer = '{"jsonrpc":"2.0","id":%d,"result":{"content":[{"type":"text","text":"%d %d %d"}]}}\n'
    os.write(1, (answer % (request["id"], read, now(), written)).encode())
    written = now()
"#;

/// A call as its client and its server saw it, by one clock, in nanoseconds.
struct Clocked {
    /// The client was about to write the request.
    sent: u64,
    /// The server had read its start.
    read: u64,
    /// The server was about to write the answer.
    answered: u64,
    /// The server had written it.
    written: u64,
}

/// The clock of the profiler's timestamps.
fn monotonic_ns() -> Result<u64> {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC)?;
    Ok(time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64)
}

/// Calls as long as their client saw them less the way there and back, which is how long the server itself saw them: half of them within
/// 3 % or 100 µs. What a busy machine adds is between two clocks, the server's before and behind its system calls: each call begins and
/// ends between them, so percentiles do.
#[test]
fn as_long_as_client_and_server_say() -> Result<()> {
    const CALLS: u64 = 300;
    let mut client = Client::connect(&mut python(CLOCK_SERVER)?)?;
    let recorded = while_recording(client.pid(), 99, || {
        let mut calls: Vec<Clocked> = Vec::new();
        for id in 0..=CALLS {
            // 1 to 20 ms.
            let milliseconds = 1 + id * 7 % 20;
            let call = tool_call(&json!(id), "nap", &json!({"milliseconds": milliseconds}));
            let sent = monotonic_ns()?;
            client.send(&call)?;
            let answer = client.receive()?;
            let text = answer["result"]["content"][0]["text"].as_str().context("a text")?;
            let times: Vec<u64> = text.split(' ').map(|time| Ok(time.parse()?)).collect::<Result<_>>()?;
            let [read, answered, before] = times[..] else { bail!("{text}") };
            if let Some(last) = calls.last_mut() {
                last.written = before;
            }
            calls.push(Clocked { sent, read, answered, written: 0 });
        }
        // Of the last one nobody told when it was written.
        calls.pop();
        Ok(calls)
    })?;
    let listed = listed(&recorded, &["--in-order"])?;
    ensure!(listed.len() as u64 == CALLS + 1, "{} calls", listed.len());
    let ms = |from: u64, to: u64| to.saturating_sub(from) as f64 / 1e6;
    let mut times: [Vec<f64>; 3] = Default::default();
    for (ours, theirs) in listed.iter().zip(&recorded.done) {
        let ours_ms = ours["duration_ms"].as_f64().context("duration_ms")?;
        let (least_ms, most_ms) = (ms(theirs.read, theirs.answered), ms(theirs.sent, theirs.written));
        assert!(least_ms <= ours_ms && ours_ms <= most_ms, "{ours_ms} ms, not {least_ms} to {most_ms}");
        // Nor did it wait longer than the client could have it wait.
        let queue_ms = ours["queue_ms"].as_f64().unwrap_or(0.0);
        assert!(queue_ms + ours_ms <= most_ms, "{queue_ms} and {ours_ms} ms, at most {most_ms}");
        times[0].push(least_ms);
        times[1].push(ours_ms);
        times[2].push(most_ms);
    }
    for percent in [50, 99] {
        let [least, ours, most] = [0, 1, 2].map(|which| percentile(&times[which], percent));
        println!("p{percent}: {ours:.3} ms, {least:.3} by the server, {most:.3} at most");
        let allowance = (0.03 * least).max(0.1);
        assert!(least <= ours && ours <= most, "{ours} ms, not {least} to {most} ms");
        if percent == 50 {
            assert!(ours <= least + allowance, "{ours} ms, not {least}");
        }
    }
    let latency = &tool(&recorded.report, "nap")?["latency_ms"];
    let all: Vec<f64> = listed.iter().filter_map(|call| call["duration_ms"].as_f64()).collect();
    for (name, percent) in [("p50", 50), ("p95", 95), ("p99", 99)] {
        assert_eq!(latency[name].as_f64(), Some(percentile(&all, percent)), "{latency:#}");
    }
    Ok(())
}

/// A server whose tool `start` starts a program that burns CPU time and answers for how many nanoseconds it was on a CPU.
const STARTING_SERVER: &str = r#"
import json, subprocess, sys

burn = "import time\nwhile time.process_time_ns() < 400_000_000: pass\nprint(time.process_time_ns())"
for request in sys.stdin:
    request = json.loads(request)
    text = "0"
    if request["params"]["name"] == "start":
        text = subprocess.run([sys.executable, "-S", "-c", burn], capture_output=True, text=True).stdout.strip()
    answer = {"jsonrpc": "2.0", "id": request["id"], "result": {"content": [{"type": "text", "text": text}]}}
    print(json.dumps(answer), flush=True)
"#;

/// What a program burns that a call started is that call's, for certain, and of no other one; its trace shows the program.
#[test]
fn children_are_their_calls() -> Result<()> {
    const CALLS: u64 = 4;
    let mut client = Client::connect(&mut python(STARTING_SERVER)?)?;
    let recorded = while_recording(client.pid(), 999, || {
        let mut burned = 0.0;
        for _ in 0..CALLS {
            burned += burn(&mut client, "start", 1, 1, 0)?.1;
            burn(&mut client, "other", 3, 1, 0)?;
        }
        Ok(burned)
    })?;
    let start = tool(&recorded.report, "start")?;
    let ours = start["cpu_ms"].as_f64().context("cpu_ms")?;
    println!("{ours:.1} ms were seen of {:.1}", recorded.done);
    // Who lives for less than a second is not counted by the kernel's clock but by samples, of which a busy machine takes some away.
    assert!((0.5 * recorded.done..1.5 * recorded.done).contains(&ours), "{ours} ms, not {}", recorded.done);
    assert_eq!((&start["count"], &start["exact_ratio"]), (&json!(CALLS), &json!(1.0)), "{start:#}");
    let other = tool(&recorded.report, "other")?["cpu_ms"].as_f64().context("cpu_ms")?;
    assert!(other < 0.1 * ours, "{other} ms");
    assert_parts_add_up(&recorded.report)?;
    for call in listed(&recorded, &["--tool", "start"])? {
        let number = call["call"].to_string();
        let trace =
            recorded.profiler.succeed(&["trace", &number, "recording.mcpprof", "--format", "json"])?;
        let trace: Value = serde_json::from_str(&trace.stdout)?;
        let [child] = &trace["children"].as_array().context("children")?[..] else { bail!("{trace:#}") };
        assert!(
            child["command"].as_str().is_some_and(|command| command.contains("process_time")),
            "{child:#}"
        );
        assert!(child["to_ms"].as_f64() <= trace["duration_ms"].as_f64(), "{child:#}");
        let cpu =
            (child["cpu_ms"].as_f64().context("cpu_ms")?, call["cpu_exact_ms"].as_f64().context("cpu")?);
        assert!(
            cpu.0 > 0.5 * cpu.1 && cpu.0 <= cpu.1 + 1e-6 && child.get("shared").is_none(),
            "{child:#} {call:#}"
        );
        let text = recorded.profiler.succeed(&["trace", &number, "recording.mcpprof"])?.stdout;
        let row = format!("process {}:", child["pid"]);
        assert!(text.contains(&row) && text.contains("response goes out"), "{text}");
    }
    Ok(())
}

/// A server whose tools do what they are told: `burn` answers for how many nanoseconds it was on a CPU.
struct Server {
    name: &'static str,
    start: fn() -> Result<Client>,
}

const NODE: Server = Server { name: "Node", start: || Client::start(node(24)?.arg(script("mcp_server.js"))) };
const PYTHON: Server = Server {
    name: "Python",
    start: || Client::start(Command::new(python_program()?).arg(script("mcp_server.py"))),
};
const PYTHON_ASYNC: Server = Server {
    name: "Python, async",
    start: || Client::start(Command::new(python_program()?).arg(script("mcp_server_async.py"))),
};
const RUST: Server = Server { name: "Rust", start: || Client::start(&mut rmcp()?) };

/// What the server says that its calls burned, by tool, in milliseconds.
type Burned = HashMap<&'static str, f64>;

/// Makes the calls and adds up what they burned.
fn burn(
    client: &mut Client,
    tool: &'static str,
    count: u64,
    in_flight: u64,
    milliseconds: u64,
) -> Result<(&'static str, f64)> {
    let answers = client.call_often(count, in_flight, tool, |_| json!({"milliseconds": milliseconds}))?;
    Ok((tool, answers.iter().map(burned).sum::<Result<f64>>()?))
}

/// What the server says that a call burned, in milliseconds.
fn burned(answer: &Value) -> Result<f64> {
    let text = answer["result"]["content"][0]["text"].as_str().with_context(|| answer.to_string())?;
    Ok(text.parse::<f64>()? / 1e6)
}

/// The CPU time of a tool's calls is what the server burned in them, within 5 %, or what chance allows. That of a tool that only sleeps is next to nothing.
fn assert_burned(server: &Server, recorded: &Recorded<Burned>) -> Result<()> {
    let all: f64 = recorded.done.values().sum();
    for (name, burned) in &recorded.done {
        let ours = tool(&recorded.report, name)?["cpu_ms"].as_f64().context("cpu_ms")?;
        println!("{}: {name} burned {burned:.1} ms, and {ours:.1} ms were seen", server.name);
        // Samples say how the kernel's count is split: four standard deviations of that, where it is more.
        let share = burned / all;
        let chance = 4.0 * all * (share * (1.0 - share) / recorded.report.samples() as f64).sqrt();
        let bound = (0.05 * if *burned > 0.0 { *burned } else { all }).max(chance);
        assert!((ours - burned).abs() < bound, "{}: {ours} ms of {name}, not {burned}", server.name);
    }
    assert_nothing_lost(&recorded.report);
    assert_parts_add_up(&recorded.report)?;
    assert_whole_count(recorded)
}

/// The CPU time of all calls and of none is what the kernel counted, within 1 %.
fn assert_whole_count<T>(recorded: &Recorded<T>) -> Result<()> {
    let cpu = &recorded.report.json["calls"]["cpu"];
    let parts = ["exact_seconds", "shared_seconds", "background_seconds"];
    let sum: f64 = parts.iter().map(|part| cpu[part].as_f64().context("a part")).sum::<Result<f64>>()?;
    let kernel = recorded.report.json["cpu"]["kernel_seconds"].as_f64().context("kernel_seconds")?;
    println!("{sum:.4} s of calls and background, {kernel:.4} s counted by the kernel");
    assert!(
        (sum - kernel).abs() <= 0.01 * kernel,
        "{sum} s, not {kernel} s: {:#}",
        recorded.report.json["cpu"]
    );
    Ok(())
}

/// One call at a time. Half of the calls of a tool, at least, are within 5 % of what each burned: some hundred samples are of one, taken in
/// equal distances, so chance is of few of them. Of a single call nobody knows how often it lost its CPU, or the machine its own.
fn alone(server: &Server) -> Result<()> {
    let mut client = (server.start)()?;
    let mut each: HashMap<&str, Vec<f64>> = HashMap::new();
    let recorded = while_recording(client.pid(), 2999, || {
        let mut burned = Burned::new();
        // In turns, so that a slow second is no tool's own.
        for _ in 0..10 {
            for tool in ["burn", "sleep", "mixed"] {
                let (tool, milliseconds) = burn(&mut client, tool, 1, 1, 200)?;
                *burned.entry(tool).or_default() += milliseconds;
                each.entry(tool).or_default().push(milliseconds);
            }
        }
        Ok(burned)
    })?;
    assert_burned(server, &recorded)?;
    for name in ["burn", "sleep", "mixed"] {
        let entry = tool(&recorded.report, name)?;
        assert_eq!(entry["count"], 10, "{entry:#}");
        assert!(entry.get("exact_ratio").is_none_or(|ratio| ratio == 1.0), "{entry:#}");
    }
    for name in ["burn", "mixed"] {
        let calls = listed(&recorded, &["--in-order", "--tool", name])?;
        let ours = calls.iter().map(|call| call["cpu_exact_ms"].as_f64().context("cpu_exact_ms"));
        let errors: Vec<f64> = each[name]
            .iter()
            .zip(ours)
            .map(|(burned, ours)| Ok((ours? / burned - 1.0).abs()))
            .collect::<Result<_>>()?;
        println!("{}: calls of {name} are off by {errors:.3?} of what they burned", server.name);
        let median = percentile(&errors, 50);
        assert!(median < 0.05, "{}: half of the calls of {name} are off by more than {median}", server.name);
    }
    // Whoever sleeps so long takes so long, and the machine may only add to it.
    let shortest = listed(&recorded, &["--tool", "sleep"])?
        .iter()
        .filter_map(|call| call["duration_ms"].as_f64())
        .fold(f64::MAX, f64::min);
    assert!(shortest >= 199.0, "{}: {shortest} ms asleep", server.name);
    // Nothing of it is shared, so no sample of one tool is another's.
    let asleep = folded(&recorded.profiler, "sleep")?;
    assert!(!has(&asleep, "burn"), "{}: {asleep}", server.name);
    let burning = folded(&recorded.profiler, "burn")?;
    assert!(has(&burning, "burn") && !has(&burning, "mixed"), "{}: {burning}", server.name);
    Ok(())
}

/// Whether a tool's function is in some stack. The server in Rust lists its tools for each call by `burn_tool_attr` and the like.
fn has(folded: &str, tool: &str) -> bool {
    folded.match_indices(tool).any(|(at, name)| !folded[at + name.len()..].starts_with("_tool"))
}

fn folded(profiler: &Profiler, tool: &str) -> Result<String> {
    let file = format!("{tool}.folded");
    let export = ["export", "recording.mcpprof", "--format", "folded", "--tool", tool, "--output", &file];
    let outcome = profiler.run(&export)?;
    if outcome.code != Some(0) {
        // A tool that only sleeps may have no sample at all.
        ensure!(outcome.stderr.contains("no samples"), "{outcome:#?}");
        return Ok(String::new());
    }
    Ok(std::fs::read_to_string(profiler.path(&file))?)
}

/// Eight calls at once.
fn together(server: &Server) -> Result<()> {
    let mut client = (server.start)()?;
    let recorded = while_recording(client.pid(), 2999, || {
        ["burn", "mixed", "sleep"]
            .iter()
            .map(|tool| burn(&mut client, tool, 16, 8, 80))
            .collect::<Result<Burned>>()
    })?;
    assert_burned(server, &recorded)?;
    let peak = recorded.report.json["calls"]["peak_in_flight"].as_u64().context("peak_in_flight")?;
    assert!(peak <= 8, "{peak} in flight");
    Ok(())
}

/// Eight calls at once, of all three tools. Whose turn it is, only the names of functions tell: the sums by tool are right, and no stack
/// of one tool is another's, for certain or as a part.
fn mingled(server: &Server) -> Result<()> {
    const TOOLS: [&str; 3] = ["burn", "sleep", "mixed"];
    let mut client = (server.start)()?;
    // Lengths that no two calls side by side have in common.
    let calls: Vec<(&str, Value)> =
        (0..60).map(|number| (TOOLS[number % 3], json!({"milliseconds": 40 + number * 22 % 80}))).collect();
    let recorded = while_recording(client.pid(), 2999, || {
        let mut all = Burned::new();
        for answer in client.call_each(&calls, 8)? {
            let (tool, _) = call_of(&answer).and_then(|call| calls.get(call)).context("a call of ours")?;
            *all.entry(tool).or_default() += burned(&answer)?;
        }
        Ok(all)
    })?;
    assert_burned(server, &recorded)?;
    let cpu = &recorded.report.json["calls"]["cpu"];
    println!("{}: {cpu}", server.name);
    for (name, others) in [("sleep", &["burn", "mixed"][..]), ("burn", &["mixed"])] {
        let stacks = folded(&recorded.profiler, name)?;
        for other in others {
            assert!(!has(&stacks, other), "{}: {other} in {name}: {stacks}", server.name);
        }
    }
    // Nor is more of a call certain than it burned, and what its messages cost.
    for call in listed(&recorded, &["--tool", "sleep"])? {
        let exact = call["cpu_exact_ms"].as_f64().unwrap_or(0.0);
        assert!(exact < 20.0, "{}: {call:#}", server.name);
    }
    Ok(())
}

/// Node, one call at a time.
#[test]
fn node_burns_alone() -> Result<()> {
    alone(&NODE)
}

/// Node, eight calls at once.
#[test]
fn node_burns_together() -> Result<()> {
    together(&NODE)
}

/// Python whose tools are functions, one call at a time.
#[test]
fn python_burns_alone() -> Result<()> {
    alone(&PYTHON)
}

/// Python whose tools are functions, eight calls at once.
#[test]
fn python_burns_together() -> Result<()> {
    together(&PYTHON)
}

/// Python whose tools are coroutines, one call at a time.
#[test]
fn python_coroutines_burn_alone() -> Result<()> {
    alone(&PYTHON_ASYNC)
}

/// Python whose tools are coroutines, eight calls at once.
#[test]
fn python_coroutines_burn_together() -> Result<()> {
    together(&PYTHON_ASYNC)
}

/// Rust, one call at a time.
#[test]
fn rust_burns_alone() -> Result<()> {
    alone(&RUST)
}

/// Rust, eight calls at once on any thread.
#[test]
fn rust_burns_together() -> Result<()> {
    together(&RUST)
}

/// Node, eight calls of all tools at once.
#[test]
fn node_burns_mingled() -> Result<()> {
    mingled(&NODE)
}

/// Python whose tools are functions, eight calls of all tools at once.
#[test]
fn python_burns_mingled() -> Result<()> {
    mingled(&PYTHON)
}

/// Python whose tools are coroutines, eight calls of all tools at once.
#[test]
fn python_coroutines_burn_mingled() -> Result<()> {
    mingled(&PYTHON_ASYNC)
}

/// Rust, eight calls of all tools at once on any thread.
#[test]
fn rust_burns_mingled() -> Result<()> {
    mingled(&RUST)
}
