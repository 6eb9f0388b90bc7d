//! From the start of the profiler to its first sample.

use anyhow::{Context as _, Result};
use mcp_profiler::recording::read;

use super::profiler::{Profiler, ensure_samples};
use super::server::Server;
use super::statistics::Estimate;
use super::table;

const HERTZ: u32 = 99;
const GOAL_MS: f64 = 300.0;

pub(super) fn run(profiler: &Profiler, server: &Server, seconds: f64, rounds: u32) -> Result<()> {
    let mut server = server.start()?;
    let (mut to_recording, mut to_sample, mut in_all) = (Vec::new(), Vec::new(), Vec::new());
    let mut cpu = Vec::new();
    for _ in 0..rounds {
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("recording");
        let mut running = profiler.record(server.pid(), HERTZ, Some(seconds), &file)?;
        running.wait_for_recording()?;
        cpu.push(running.cpu_time()?.as_secs_f64() * 1e3);
        running.wait()?;
        server.check()?;
        let recording = read(&file)?;
        ensure_samples(&recording)?;
        let first = recording.samples.iter().map(|sample| sample.timestamp_ns).min().unwrap_or(0);
        to_recording.push(milliseconds(running.started_ns, recording.meta.start_ns)?);
        to_sample.push(milliseconds(recording.meta.start_ns, first)?);
        in_all.push(milliseconds(running.started_ns, first)?);
    }
    table::print(
        ["of a busy server, at 99 Hz, in ms", "median", "min", "max"],
        &[
            row("start of the process to start of the recording", &to_recording),
            row("start of the recording to first sample", &to_sample),
            row("start of the process to first sample", &in_all),
            row("CPU time of the profiler until the recording starts", &cpu),
        ],
    );
    let worst = Estimate::of(&to_sample).max;
    table::print_goal(&format!("first sample at most {GOAL_MS} ms after attaching"), worst <= GOAL_MS);
    Ok(())
}

fn milliseconds(from_ns: u64, to_ns: u64) -> Result<f64> {
    let elapsed_ns = to_ns.checked_sub(from_ns).context("the recording starts before the profiler did")?;
    Ok(elapsed_ns as f64 / 1e6)
}

fn row(name: &str, values: &[f64]) -> [String; 4] {
    let estimate = Estimate::of(values);
    [
        name.to_owned(),
        format!("{:.1}", estimate.median),
        format!("{:.1}", estimate.min),
        format!("{:.1}", estimate.max),
    ]
}
