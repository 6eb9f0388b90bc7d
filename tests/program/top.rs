//! `top`: what goes on now, on a terminal and as text.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tests::{
    Client, Process, Profiler, SmallDisk, Terminal, Workload, demo_server, python_program, script, tool_call,
    under_load,
};

/// `top` on a process, on a terminal that shows its figures.
fn on_terminal(pid: u32, profiler: &Profiler) -> Result<Terminal> {
    let terminal = Terminal::start(&["top", "--pid", &pid.to_string(), "--window", "5s"], profiler.folder())?;
    terminal.wait_for_text("samples")?;
    Ok(terminal)
}

/// Nothing lies where temporary files are.
fn assert_nothing_left(folder: &Path) -> Result<()> {
    let left: Vec<_> =
        std::fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?;
    assert!(left.is_empty(), "{left:?}");
    Ok(())
}

/// Calls a second of a tool, as the screen shows it in the column behind the tool.
fn rate_on(screen: &str, tool: &str) -> Option<f64> {
    let mut words = screen.lines().find_map(|line| line.trim().strip_prefix(tool))?.split_whitespace();
    words.next()?.replace(',', "").parse().ok()
}

/// The objects that `top --format json` printed.
fn tables(stdout: &str) -> Result<Vec<Value>> {
    stdout.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}

/// The entry of a tool.
fn tool<'table>(table: &'table Value, name: &str) -> Result<&'table Value> {
    let tools = table["tools"].as_array().context("no tools")?;
    tools.iter().find(|tool| tool["tool"] == name).with_context(|| format!("no {name} in {table:#}"))
}

/// A user looks at a busy server: rates, stacks of a tool, a filter, a pause; then quits.
#[test]
fn live() -> Result<()> {
    let load = under_load()?;
    let profiler = Profiler::new()?;
    let mut terminal = on_terminal(load.pid(), &profiler)?;
    let (calls, start) = (load.calls(), Instant::now());
    terminal.wait_for("calls of echo", |screen| rate_on(screen, "echo").filter(|rate| *rate > 0.0))?;
    // The window has to be one of this time.
    std::thread::sleep(Duration::from_secs(8));
    let rate = terminal.wait_for("calls of echo", |screen| rate_on(screen, "echo"))?;
    let clients = (load.calls() - calls) as f64 / start.elapsed().as_secs_f64();
    assert!(rate > clients / 5.0 && rate < clients * 5.0, "{rate} calls/s, the client made {clients}");

    terminal.type_keys("\r")?;
    terminal.wait_for("hot stacks", |screen| {
        ["Functions", "No sample was charged"].iter().any(|text| screen.contains(text)).then_some(())
    })?;
    terminal.type_keys("\x1b")?;
    terminal.wait_for_text("CALLS/S")?;
    terminal.type_keys("/nothing\r")?;
    terminal.wait_for_text("Nothing has this text")?;
    terminal.type_keys("\x1b")?;
    terminal.wait_for_text("echo")?;
    terminal.type_keys("p")?;
    terminal.wait_for_text("PAUSED")?;
    terminal.type_keys("h")?;
    terminal.wait_for_text("Any key goes back")?;
    terminal.type_keys("xq")?;
    let status = terminal.wait()?;
    assert_eq!(status.code(), Some(0), "{}", terminal.output());
    terminal.assert_restored()?;
    assert_nothing_left(profiler.folder())
}

/// Whatever signal ends it, the terminal is as it was, and the target too.
#[test]
fn signals_restore_the_terminal() -> Result<()> {
    let mut target = Workload::compile("spin")?.start()?;
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        let profiler = Profiler::new()?;
        let mut terminal = on_terminal(target.pid(), &profiler)?;
        terminal.signal(signal)?;
        let status = terminal.wait()?;
        assert_eq!(status.code(), Some(0), "{signal}: {}", terminal.output());
        terminal.assert_restored()?;
        assert_nothing_left(profiler.folder())?;
        assert!(target.runs(), "the target ended with the profiler");
    }
    Ok(())
}

/// When the target ends, its last figures stay on the screen that the user gets back.
#[test]
fn the_target_ends() -> Result<()> {
    let target = Workload::compile("spin")?.start()?;
    let profiler = Profiler::new()?;
    let mut terminal = on_terminal(target.pid(), &profiler)?;
    target.signal(Signal::SIGKILL)?;
    drop(target);
    let status = terminal.wait()?;
    assert_eq!(status.code(), Some(0), "{}", terminal.output());
    terminal.assert_restored()?;
    let screen = terminal.screen();
    assert!(screen.contains("(background)") && screen.contains(" ended"), "{screen}");
    Ok(())
}

/// An error while recording is said on the screen that the user gets back.
#[test]
fn errors_restore_the_terminal() -> Result<()> {
    let profiler = Profiler::new()?;
    let small = SmallDisk::mount(&profiler.path("small"))?;
    let target = Workload::compile("churn")?.start()?;
    let (pid, output) = (target.pid().to_string(), small.path().join("recording.mcpprof"));
    let output = output.to_str().context("is UTF-8")?;
    let arguments = ["top", "--pid", &pid, "--frequency", "999", "-o", output];
    let mut terminal = Terminal::start(&arguments, profiler.folder())?;
    terminal.wait_for_text("samples")?;
    small.fill()?;
    let status = terminal.wait()?;
    assert_eq!(status.code(), Some(1), "{}", terminal.output());
    terminal.assert_restored()?;
    assert!(terminal.screen().contains("disk is full"), "{}", terminal.screen());
    Ok(())
}

/// Tables as JSON: as many as were asked for, with the client's rate and the report's names.
#[test]
fn tables_as_json() -> Result<()> {
    let load = under_load()?;
    let profiler = Profiler::new()?;
    let pid = load.pid().to_string();
    let arguments =
        ["top", "--pid", &pid, "--window", "3s", "-n", "2", "--format", "json", "-o", "kept.mcpprof"];
    let (calls, start) = (load.calls(), Instant::now());
    let outcome = profiler.succeed(&arguments)?;
    let clients = (load.calls() - calls) as f64 / start.elapsed().as_secs_f64();
    outcome.assert_clean();
    let tables = tables(&outcome.stdout)?;
    assert_eq!(tables.len(), 2, "{}", outcome.stdout);
    for table in &tables {
        let echo = tool(table, "echo")?;
        let rate = echo["calls_per_second"].as_f64().context("calls_per_second")?;
        assert!(rate > clients / 5.0 && rate < clients * 5.0, "{rate} calls/s, the client made {clients}");
        let calls = echo["calls"].as_f64().context("calls")?;
        let seconds = table["window_seconds"].as_f64().context("window_seconds")?;
        assert!((calls / seconds - rate).abs() < 0.01, "{table:#}");
        let latency = &echo["latency_ms"];
        assert!(latency["p50"].as_f64() <= latency["p99"].as_f64() && latency["p50"].as_f64() > Some(0.0));
        assert_eq!(echo["errors"], 0);
        // What is charged to tools and to none is all that there is.
        let server = &table["servers"][0];
        let cpu = |value: &Value, name: &str| value[name].as_f64().unwrap_or(0.0);
        let tools = table["tools"].as_array().context("tools")?;
        let sum: f64 = tools.iter().map(|tool| cpu(tool, "cpu_ratio")).sum();
        let (background, all) = (cpu(server, "background_cpu_ratio"), cpu(server, "cpu_ratio"));
        assert!((sum + background - all).abs() < 1e-9 && all > 0.0, "{table:#}");
    }
    // A recording that is kept is one like any other, with the same names.
    let report = profiler.report("kept.mcpprof")?;
    let tools = report.json["calls"]["tools"].as_array().context("no calls")?;
    assert!(tools.iter().any(|tool| tool["tool"] == "echo"), "{tools:#?}");
    let counted = report.json["calls"]["total"].as_f64().context("total")?;
    let shown: f64 = tables.iter().filter_map(|table| table["tools"][0]["calls"].as_f64()).sum();
    // Two windows that may overlap by half a second, and what came behind them.
    assert!(counted > shown / 2.0, "{counted} in the recording, {shown} in the tables");
    Ok(())
}

/// Several servers, one of which hangs in a call. A file gets text without being asked for.
#[test]
fn several_servers() -> Result<()> {
    let mut hanging = Client::start(Command::new(python_program()?).arg(script("mcp_server.py")))?;
    let busy = Client::start(&mut demo_server()?)?.load("compute", json!({"rounds": 1}))?;
    let profiler = Profiler::new()?;
    let (one, two) = (hanging.pid().to_string(), busy.pid().to_string());
    let running =
        profiler.start(&["top", "--pid", &one, "--pid", &two, "--window", "2s", "--format", "json"])?;
    let mut tables_so_far = Vec::new();
    tests::wait_until("a table", Duration::from_secs(60), || {
        (running.stdout().ok()?.lines().count() > 0).then_some(())
    })?;
    hanging.send(&tool_call(&json!("never"), "silent", &json!({})))?;
    tests::wait_until("a call that hangs", Duration::from_secs(60), || {
        // The last line may not be whole yet.
        let stdout = running.stdout().ok()?;
        tables_so_far = stdout.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let last = tables_so_far.last()?;
        (tool(last, "silent").ok()?["in_flight"] == 1).then_some(())
    })?;
    running.signal(Signal::SIGINT)?;
    let outcome = running.finish()?;
    ensure!(outcome.code == Some(0), "{outcome:#?}");
    outcome.assert_clean();
    let last = tables_so_far.last().context("a table")?;
    assert_eq!(last["servers"].as_array().map(Vec::len), Some(2), "{last:#}");
    let silent = tool(last, "silent")?;
    assert_eq!((&silent["calls"], silent.get("latency_ms")), (&json!(0), None), "{silent:#}");
    let servers: Vec<&Value> = ["silent", "compute"]
        .into_iter()
        .map(|name| Ok(&tool(last, name)?["server"]))
        .collect::<Result<_>>()?;
    assert_ne!(servers[0], servers[1], "{last:#}");

    let outcome = profiler.succeed(&["top", "--pid", &two, "--once", "--window", "2s"])?;
    assert!(outcome.stdout.contains("CALLS/S") && outcome.stdout.contains("compute"), "{outcome:#?}");
    assert!(!outcome.stdout.contains('\x1b'), "{outcome:#?}");
    Ok(())
}

/// A command that is launched for it does not speak on the terminal, and ends with it.
#[test]
fn launched() -> Result<()> {
    let profiler = Profiler::new()?;
    let spin = Workload::compile("spin")?;
    let program = spin.program().to_str().context("is UTF-8")?;
    let outcome = profiler.succeed(&["top", "--once", "--window", "2s", "--", program])?;
    outcome.assert_clean();
    assert!(!outcome.stdout.contains("ready"), "{outcome:#?}");
    assert!(outcome.stdout.contains("(background)"), "{outcome:#?}");
    Ok(())
}

/// Who ends it before a window is full gets what there is; and is told when that is nothing.
#[test]
fn ends_before_its_window() -> Result<()> {
    let load = under_load()?;
    let profiler = Profiler::new()?;
    let pid = load.pid().to_string();
    let arguments = ["top", "--pid", &pid, "--duration", "4s", "--format", "json"];
    let outcome = profiler.succeed(&arguments)?;
    outcome.assert_clean();
    let tables = tables(&outcome.stdout)?;
    ensure!(tables.len() == 1, "{outcome:#?}");
    assert!(tool(&tables[0], "echo")?["calls"].as_u64() > Some(0), "{outcome:#?}");
    let outcome = profiler.succeed(&["top", "--pid", &pid, "--duration", "1ms", "--batch"])?;
    assert!(
        outcome.stdout.is_empty() && outcome.stderr.contains("before there were any figures"),
        "{outcome:#?}"
    );
    Ok(())
}

/// What can't be meant is refused in one line.
#[test]
fn wrong_usage() -> Result<()> {
    let profiler = Profiler::new()?;
    let target: Process = Workload::compile("spin")?.start()?;
    let pid = target.pid().to_string();
    profiler.run(&["top", "--pid", &pid, "--window", "2m"])?.assert_fails(2, &["between 1s and 60s"]);
    profiler.run(&["top", "--pid", &pid, "--once", "-n", "3"])?.assert_fails(2, &["--once"]);
    profiler.run(&["top", "--pid", &pid, "--", "true"])?.assert_fails(2, &["cannot be used with"]);
    profiler.run(&["top", "--mcp", "no-such-server"])?.assert_fails(1, &["no-such-server"]);
    Ok(())
}
