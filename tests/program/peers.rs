//! The same answers as other profilers give, of the same run of the same program.

use std::collections::HashMap;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use tests::{Process, Profiler, Workload, assert_share, require, together};

/// Of 8000 samples a share of 0.2 is off by 0.45 points by chance alone (one standard deviation); two profilers that
/// are off by it each differ by 0.6.
const FREQUENCY: u32 = 1999;
const SECONDS: u32 = 10;

/// The ten functions that take the most CPU time have the same share of it as with `perf record --call-graph dwarf` at
/// the same time.
#[test]
fn perf_agrees() -> Result<()> {
    let perf = require("perf", "linux-perf")?;
    let workload = Workload::compile_optimized("twelve")?;
    let process = workload.start()?.ready()?;

    let (profiler, pid, data) = (Profiler::new()?, process.pid().to_string(), workload.path("perf.data"));
    let mut command = Command::new(&perf);
    command.args(["record", "--event", "cpu-clock", "--freq", &FREQUENCY.to_string()]);
    command.args(["--call-graph", "dwarf,1024", "--pid", &pid, "--output"]).arg(&data);
    // Both end within the same moment: the profiler's window is the longer one by its start.
    command.args(["--", "sleep", &(SECONDS + 1).to_string()]);
    let mut peer = Process::start(command.stdout(Stdio::null()).stderr(Stdio::null()))?;
    let report = profiler.record_and_report(SECONDS, FREQUENCY, &["--pid", &pid])?;
    let status = peer.wait(std::time::Duration::from_secs(60))?;
    ensure!(status.success(), "perf record failed: {status}");
    report.assert_complete(0.995);

    let theirs = perf_shares(Command::new(&perf).args(["report", "--input"]).arg(&data))?;
    let mut ours: Vec<_> =
        report.functions().into_iter().map(|function| (function.self_ratio, function.name)).collect();
    ours.sort_by(|one, other| other.0.total_cmp(&one.0));
    assert!(ours.len() >= 10, "{ours:?}");
    for (share, name) in &ours[..10] {
        let their = theirs.get(name).with_context(|| format!("perf has no {name}: {theirs:?}"))?;
        // perf has about as many samples.
        let samples = together(report.samples() as f64, report.samples() as f64);
        assert_share(&format!("{name} of {ours:?}, with perf {theirs:?}"), *share, *their, samples);
    }
    Ok(())
}

/// Self share by function, as `perf report` prints it.
fn perf_shares(report: &mut Command) -> Result<HashMap<String, f64>> {
    report.args(["--stdio", "--no-children", "--call-graph", "none", "--fields", "overhead,symbol"]);
    let output = report.output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout);
    // `    15.38%  [.] work_12`; the kernel's are marked `[k]`.
    let line = |line: &str| -> Option<(String, f64)> {
        let (share, symbol) = line.trim().split_once('%')?;
        let name = symbol.trim().split_once("] ")?.1;
        Some((name.trim().to_owned(), share.parse::<f64>().ok()? / 100.0))
    };
    Ok(text.lines().filter(|line| !line.starts_with('#')).filter_map(line).collect())
}
