//! Real servers: Node, Python and Go.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::json;
use tests::{
    Client, Profiler, Report, demo_server, everything, everything_over_http, go_time, program, python_time,
    stress, under_load, wait_until,
};

/// At full speed, which has tests of its own, a profiler without optimizations may be too slow for all calls.
const NO_CALLS: &str = "--no-calls";

/// A recording of a server under load.
fn recorded(pid: u32) -> Result<Report> {
    Profiler::new()?.record_enough(4, 199, &["--pid", &pid.to_string(), NO_CALLS], 100)
}

/// A Node server under load: names of V8 and libuv, and nothing lost.
#[test]
fn node_by_pid() -> Result<()> {
    let load = under_load()?;
    let report = recorded(load.pid())?;
    report.assert_javascript_kept();
    assert_eq!(report.runtime(), "node");
    report.assert_complete(0.99);
    report.assert_names_any(&["v8::", "Builtins_", "node::"]);
    report.assert_names_any(&["uv_"]);
    assert!(load.calls() > 0);
    Ok(())
}

/// Child processes of the target are targets: mcp-stress with the server that it starts.
#[test]
fn node_below_a_load_generator() -> Result<()> {
    let process = stress(30, &everything()?)?;
    wait_until("mcp-stress starts the server", Duration::from_secs(10), || {
        process.children().ok()?.first().copied()
    })?;
    let options = ["--pid", &process.pid().to_string(), NO_CALLS];
    let report = Profiler::new()?.record_and_report(4, 199, &options)?;
    report.assert_names_any(&["v8::", "Builtins_", "node::"]);
    let pids = report.json["target"]["pids"].as_array().context("target.pids")?;
    assert!(pids.len() >= 2, "{pids:?}");
    report.assert_javascript_kept();
    Ok(())
}

/// A server over HTTP that does next to nothing is a good, nearly empty recording.
#[test]
fn idle_http_server() -> Result<()> {
    let server = everything_over_http()?;
    let profiler = Profiler::new()?;
    let report = profiler.record_and_report(2, 99, &["--pid", &server.pid().to_string()])?;
    assert!(report.cpu_seconds() < 1.0, "{} is idle: {} s", server.url(), report.cpu_seconds());
    profiler.succeed(&["report", "recording.mcpprof"])?;
    profiler.succeed(&["call-tree", "recording.mcpprof"])?;
    let drawn = profiler.run(&["flame-graph", "recording.mcpprof", "--output", "idle.svg"])?;
    match report.samples() {
        0 => drawn.assert_fails(1, &["no samples"]),
        _ => assert_eq!(drawn.code, Some(0), "{drawn:#?}"),
    }
    Ok(())
}

/// A Python server: the interpreter's functions have names.
#[test]
fn python_by_pid() -> Result<()> {
    let load = Client::start(&mut python_time()?)?.load("get_current_time", json!({"timezone": "UTC"}))?;
    let report = recorded(load.pid())?;
    assert_eq!(report.lost_of_its_own(), 0, "{:#}", report.json["losses"]);
    assert_eq!(report.runtime(), "python");
    report.assert_names_any(&["_PyEval_", "PyObject_", "_PyObject"]);
    report.assert_complete(0.99);
    Ok(())
}

/// A stripped Go server: all frames have a name, and stacks are whole.
#[test]
fn go_by_pid() -> Result<()> {
    let load = Client::start(&mut go_time()?)?
        .load("current_time", json!({"format": "%Y-%m-%d %H:%M:%S", "timezone": "UTC"}))?;
    let report = recorded(load.pid())?;
    assert_eq!(report.lost_of_its_own(), 0, "{:#}", report.json["losses"]);
    assert_eq!(report.runtime(), "go");
    let own: Vec<_> =
        report.functions().into_iter().filter(|function| function.module.ends_with("/mcp-time")).collect();
    assert!(!own.is_empty(), "{:?}", report.functions());
    for function in own {
        assert!(!function.name.contains("+0x"), "{function:?}");
    }
    report.assert_names_any(&["main.", "encoding/json."]);
    report.assert_complete(0.99);
    Ok(())
}

/// A Rust server, made with rmcp: its functions have their demangled names.
#[test]
fn rust_by_pid() -> Result<()> {
    let load = Client::start(&mut demo_server()?)?.load("compute", json!({"rounds": 8}))?;
    let report = recorded(load.pid())?;
    assert_eq!(report.lost_of_its_own(), 0, "{:#}", report.json["losses"]);
    report.assert_names_any(&["mcp_profiler::demo::work::"]);
    let round = report.function("mcp_profiler::demo::work::compute_round")?;
    assert!(round.total_ratio > 0.5, "{round:?}");
    report.assert_complete(0.99);
    Ok(())
}

/// A name from a client's configuration finds the running server.
#[test]
fn by_name() -> Result<()> {
    let profiler = Profiler::new()?;
    let load = Client::start(&mut configured(&profiler)?)?.load("echo", json!({"message": "hello"}))?;
    let record = ["record", "--duration", "2s", "-o", "named.mcpprof"];
    profiler
        .succeed(&[record.as_slice(), &["--mcp", "everything-here", "--config", "client.json"]].concat())?;
    let report = profiler.report("named.mcpprof")?;
    assert_eq!(report.json["target"]["name"], "everything-here");
    let pids = report.json["target"]["pids"].as_array().context("target.pids")?;
    assert!(pids.contains(&load.pid().into()), "{} is not among {pids:?}", load.pid());
    assert!(report.samples() > 0);

    let list = profiler.succeed(&["list", "--config", "client.json", "--format", "json"])?;
    assert!(
        list.stdout.contains("everything-here") && list.stdout.contains(&load.pid().to_string()),
        "{}",
        list.stdout
    );
    Ok(())
}

/// A configured server that is not running is started when asked for, and only then.
#[test]
fn by_name_with_launch() -> Result<()> {
    let profiler = Profiler::new()?;
    configured(&profiler)?;
    let record = ["record", "--duration", "2s", "-o", "launched.mcpprof"];
    let target = ["--mcp", "everything-here", "--config", "client.json"];
    profiler.run(&[record.as_slice(), &target].concat())?.assert_fails(1, &["everything-here", "--launch"]);
    let outcome = profiler.succeed(&[record.as_slice(), &target, &["--launch"]].concat())?;
    outcome.assert_clean();
    let report = profiler.report("launched.mcpprof")?;
    report.assert_names_any(&["v8::", "Builtins_", "node::"]);
    Ok(())
}

/// Writes `client.json`, which has a server that no other test runs, and returns its command.
fn configured(profiler: &Profiler) -> Result<Command> {
    let mut command = everything()?;
    // The server ignores the last argument.
    command.arg("stdio").arg(profiler.folder());
    let arguments: Vec<_> = command.get_args().map(|argument| argument.to_string_lossy()).collect();
    let server = json!({"command": command.get_program().to_string_lossy(), "args": arguments});
    std::fs::write(
        profiler.path("client.json"),
        json!({"mcpServers": {"everything-here": server}}).to_string(),
    )?;
    Ok(command)
}

/// A client that starts `mcp-profiler record -- SERVER` instead of the server still talks to the server.
#[test]
fn a_command_keeps_its_pipes() -> Result<()> {
    let profiler = Profiler::new()?;
    let server = everything()?;
    let mut command = Command::new(program()?);
    command
        .args(["record", "--duration", "60s", "-o", "wrapped.mcpprof", "--"])
        .current_dir(profiler.folder());
    command.arg(server.get_program()).args(server.get_args());
    let mut client = Client::start(&mut command)?;
    let answer = client.call("echo", &json!({"message": "through the profiler"}))?;
    assert!(answer.to_string().contains("through the profiler"), "{answer}");
    Ok(())
}
