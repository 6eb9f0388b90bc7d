//! Recordings that end in another way than by their duration.

use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sys::signal::Signal;
use tests::{Process, Profiler, Workload, wait_until};

/// A profiler that has recorded for a while, and its target.
fn recording(duration: &str) -> Result<(Profiler, tests::Running, Process)> {
    let target = Workload::compile("spin")?.start()?;
    let profiler = Profiler::new()?;
    let pid = target.pid().to_string();
    let running =
        profiler.start(&["record", "--pid", &pid, "--duration", duration, "-o", "recording.mcpprof"])?;
    // By what is in the recording: on a busy machine attaching alone takes seconds.
    wait_until("the recording has samples and names", Duration::from_secs(60), || {
        let report = profiler.report("recording.mcpprof").ok()?;
        (report.samples() > 100 && report.function("spin_work").is_ok()).then_some(())
    })?;
    Ok((profiler, running, target))
}

/// A killed profiler leaves a file that can be read, and the target as it was.
#[test]
fn killed() -> Result<()> {
    let (profiler, running, mut target) = recording("10m")?;
    running.signal(Signal::SIGKILL)?;
    let outcome = running.finish()?;
    assert_eq!(outcome.signal, Some(9));
    outcome.assert_clean();
    let report = profiler.report("recording.mcpprof")?;
    assert!(report.samples() > 100, "{} samples", report.samples());
    assert!(report.function("spin_work")?.total_ratio > 0.9);
    assert!(target.runs(), "the target ended with the profiler");
    Ok(())
}

/// Ctrl-C, or a service manager's signal, ends the recording early and keeps it.
#[test]
fn interrupted() -> Result<()> {
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let (profiler, running, mut target) = recording("10m")?;
        running.signal(signal)?;
        let outcome = running.finish()?;
        assert_eq!(outcome.code, Some(0), "{outcome:#?}");
        outcome.assert_clean();
        assert!(outcome.stderr.contains("recording.mcpprof"), "where it is: {}", outcome.stderr);
        let report = profiler.report("recording.mcpprof")?;
        let seconds = report.json["window"]["seconds"].as_f64().context("window.seconds")?;
        assert!((0.5..300.0).contains(&seconds), "{seconds} s");
        assert!(report.samples() > 100, "{} samples", report.samples());
        assert!(target.runs(), "the target ended with the profiler");
    }
    Ok(())
}

/// Ctrl-C while it still attaches ends it in the same way: with a whole recording, and no file beside it.
#[test]
fn interrupted_while_it_attaches() -> Result<()> {
    let target = Workload::compile("spin")?.start()?;
    let profiler = Profiler::new()?;
    let pid = target.pid().to_string();
    let running = profiler.start(&["record", "--pid", &pid, "--duration", "10m", "-o", "early.mcpprof"])?;
    let file = profiler.path("early.mcpprof");
    wait_until("the recording is begun", Duration::from_secs(60), || file.exists().then_some(()))?;
    running.signal(Signal::SIGINT)?;
    let outcome = running.finish()?;
    assert_eq!((outcome.code, outcome.signal), (Some(0), None), "{outcome:#?}");
    outcome.assert_clean();
    assert_eq!(profiler.report("early.mcpprof")?.json["end_reason"], "interrupted");
    assert!(!profiler.path("early.mcpprof-wal").exists(), "it was not closed");
    Ok(())
}

/// A target that ends while it is recorded gives a good recording of what there was.
#[test]
fn the_target_ends() -> Result<()> {
    let (profiler, running, target) = recording("10m")?;
    target.signal(Signal::SIGKILL)?;
    drop(target);
    let outcome = running.finish()?;
    assert_eq!(outcome.code, Some(0), "{outcome:#?}");
    outcome.assert_clean();
    let report = profiler.report("recording.mcpprof")?;
    assert!(report.function("spin_work")?.total_ratio > 0.9, "names outlive the process");
    assert_eq!(report.lost(), 0);
    Ok(())
}

/// A command that ends at once: its end is said, with or without a sample of it.
#[test]
fn the_target_ends_at_once() -> Result<()> {
    let profiler = Profiler::new()?;
    let outcome = profiler.run(&["record", "-o", "recording.mcpprof", "--duration", "30s", "--", "true"])?;
    outcome.assert_clean();
    assert_eq!(outcome.code, Some(0), "{outcome:#?}");
    assert!(outcome.stderr.contains("ended after"), "{outcome:#?}");
    assert!(outcome.stderr.contains(", with exit status 0\n"), "{outcome:#?}");
    for (script, manner) in [("exit 3", "with exit status 3"), ("kill -9 $$", "killed by SIGKILL")] {
        let outcome = profiler.succeed(&["record", "-o", "other.mcpprof", "--", "sh", "-c", script])?;
        assert!(outcome.stderr.contains(&format!(", {manner}\n")), "{outcome:#?}");
    }
    assert!(profiler.report("recording.mcpprof")?.samples() < 10);
    let text = profiler.succeed(&["report", "recording.mcpprof"])?.stdout;
    assert!(!text.contains("[unnamed]"), "{text}");
    Ok(())
}

/// A recording in the background outlives what started it; `stop` ends it and keeps it.
#[test]
fn start_status_stop() -> Result<()> {
    let target = Workload::compile("spin")?.start()?;
    let profiler = Profiler::new()?;
    let pid = target.pid().to_string();
    profiler.succeed(&["start", "--pid", &pid, "-o", "background.mcpprof"])?;
    // Whatever goes wrong from here, it has to be stopped.
    let state = wait_until("samples in the status", Duration::from_secs(60), || {
        let status = profiler.succeed(&["status", "--format", "json"]).ok()?;
        let json: serde_json::Value = serde_json::from_str(&status.stdout).ok()?;
        let own = |state: &&serde_json::Value| state["target_pid"] == target.pid();
        let state = json["recordings"].as_array()?.iter().find(own)?;
        (state["samples"].as_u64() > Some(0)).then(|| state.clone())
    });
    let status = profiler.succeed(&["status"]);
    let stopped = profiler.succeed(&["stop", "--pid", &pid]);
    let (state, status, stopped) = (state?, status?, stopped?);
    assert!(status.stdout.contains(&format!("(process {pid}): recording since ")), "{status:#?}");
    assert_eq!(state["running"], true, "{state}");
    assert!(stopped.stderr.contains("background.mcpprof"), "{stopped:#?}");
    profiler.run(&["stop", "--pid", &pid])?.assert_fails(1, &["no such background recording"]);
    let report = profiler.report("background.mcpprof")?;
    assert!(report.function("spin_work")?.total_ratio > 0.9);
    Ok(())
}
