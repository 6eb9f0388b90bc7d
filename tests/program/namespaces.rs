//! Targets in containers: other mount and PID namespaces.

use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};
use tests::{Process, Profiler, Workload, require, wait_until};

/// The process below `unshare` that does the work, once it does.
fn working_child(process: &Process) -> Result<u32> {
    wait_until("the workload starts", Duration::from_secs(10), || {
        let child = *process.children().ok()?.first()?;
        let name = std::fs::read_to_string(format!("/proc/{child}/comm")).ok()?;
        (name.trim() == "spin").then_some(child)
    })
}

/// A program on a file system that only its own mount namespace has.
#[test]
fn another_mount_namespace() -> Result<()> {
    let workload = Workload::compile("spin")?;
    let (program, hidden) = (workload.program().display().to_string(), workload.path("hidden"));
    std::fs::create_dir(&hidden)?;
    let script = r#"mount -t tmpfs none "$1" && cp "$2" "$1/spin" && exec "$1/spin""#;
    let process = Process::start(
        Command::new(require("unshare", "util-linux")?)
            .args(["--mount", "sh", "-c", script, "sh"])
            .arg(&hidden)
            .arg(&program)
            .stdout(Stdio::null()),
    )?;
    wait_until("the workload starts", Duration::from_secs(10), || {
        let name = std::fs::read_to_string(format!("/proc/{}/comm", process.pid())).ok()?;
        (name.trim() == "spin").then_some(())
    })?;
    assert!(!hidden.join("spin").exists(), "the program is visible from here");
    let report = Profiler::new()?.record_and_report(2, 199, &["--pid", &process.pid().to_string()])?;
    let function = report.function("spin_work")?;
    assert!(function.total_ratio > 0.9, "{function:?}");
    Ok(())
}

/// A program that is process 1 of its own PID namespace.
#[test]
fn another_pid_namespace() -> Result<()> {
    let workload = Workload::compile("spin")?;
    let process = Process::start(
        Command::new(require("unshare", "util-linux")?)
            .args(["--pid", "--fork", "--mount-proc"])
            .arg(workload.program())
            .stdout(Stdio::null()),
    )?;
    let pid = working_child(&process)?;
    let report = Profiler::new()?.record_and_report(2, 199, &["--pid", &pid.to_string()])?;
    let function = report.function("spin_work")?;
    assert!(function.total_ratio > 0.9, "{function:?}");
    let pids = report.json["target"]["pids"].as_array().context("target.pids")?;
    assert_eq!(pids, &[serde_json::Value::from(pid)], "process IDs are the host's");
    Ok(())
}
