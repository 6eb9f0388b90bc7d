//! What the profiler takes of the machine's memory, and what a recording takes of its disk.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use mcp_profiler::recording::read;

use super::profiler::{Profiler, ensure_samples, losses};
use super::server::Server;
use super::statistics::Estimate;
use super::table;

const HERTZ: u32 = 99;
const POLL: Duration = Duration::from_millis(5);
const MEMORY_GOAL_MIB: f64 = 48.0;
const SIZE_GOAL_BYTES: u64 = 5_000_000;

/// Memory of a process in MiB, as `/proc/PID/status` has it (proc_pid_status(5)).
#[derive(Clone, Copy, Default)]
pub(super) struct Memory {
    /// Resident now.
    rss: f64,
    /// The most that was ever resident.
    pub(super) peak: f64,
    /// Of `rss`: its own data, without mapped files and memory that it shares with the kernel.
    anonymous: f64,
}

impl Memory {
    /// `None` once the process is ending: it has no memory then.
    pub(super) fn of(pid: u32) -> Option<Self> {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let mebibytes = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name))?;
            let kibibytes: f64 = line.split_whitespace().nth(1)?.parse().ok()?;
            Some(kibibytes / 1024.0)
        };
        Some(Self {
            rss: mebibytes("VmRSS:")?,
            peak: mebibytes("VmHWM:")?,
            anonymous: mebibytes("RssAnon:")?,
        })
    }
}

/// Resident memory at 99 Hz.
pub(super) fn memory(profiler: &Profiler, server: &Server, seconds: f64, rounds: u32) -> Result<()> {
    let mut server = server.start()?;
    let mut rows = Vec::new();
    let mut worst: f64 = 0.0;
    for round in 1..=rounds {
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("recording");
        let mut running = profiler.record(server.pid(), HERTZ, Some(seconds), &file)?;
        let start = Instant::now();
        let mut seen: Vec<(Duration, Memory)> = Vec::new();
        while !running.has_ended()? {
            seen.extend(Memory::of(running.pid()).map(|memory| (start.elapsed(), memory)));
            std::thread::sleep(POLL);
        }
        server.check()?;
        ensure_samples(&read(&file)?)?;
        // The names of addresses are looked up at the end, which takes memory of its own.
        let end = Duration::from_secs_f64(seconds);
        let last = seen.iter().rev().find(|(at, _)| *at < end).context("the profiler ended at once")?.1;
        let resident: Vec<f64> =
            seen.iter().filter(|(at, _)| *at < end).map(|(_, memory)| memory.rss).collect();
        let peak = seen.last().map_or(last.peak, |(_, memory)| memory.peak);
        worst = worst.max(last.peak);
        rows.push([
            round.to_string(),
            format!("{:.1}", Estimate::of(&resident).median),
            format!("{:.1}", last.rss),
            format!("{:.1}", last.anonymous),
            format!("{:.1}", last.peak),
            format!("{peak:.1}"),
        ]);
    }
    table::print(
        [
            "round, in MiB",
            "median RSS",
            "RSS at the end",
            "of it own data",
            "peak while recording",
            "peak in all",
        ],
        &rows,
    );
    table::print_goal(&format!("at most {MEMORY_GOAL_MIB} MiB while recording"), worst <= MEMORY_GOAL_MIB);
    Ok(())
}

/// Size of recordings at 99 Hz.
pub(super) fn size(profiler: &Profiler, server: &Server, seconds: f64, rounds: u32) -> Result<()> {
    let mut server = server.start()?;
    let mut rows = Vec::new();
    let mut worst = 0;
    for round in 1..=rounds {
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("recording");
        profiler.record(server.pid(), HERTZ, Some(seconds), &file)?.wait()?;
        server.check()?;
        // Before it is read, which may leave other files behind.
        let bytes = size_of_files(folder.path())?;
        let recording = read(&file)?;
        ensure_samples(&recording)?;
        worst = worst.max(bytes);
        rows.push([
            round.to_string(),
            bytes.to_string(),
            recording.samples.len().to_string(),
            format!("{:.0}", bytes as f64 / recording.samples.len() as f64),
            recording.stacks.len().to_string(),
            recording.frames.len().to_string(),
            losses(&recording).to_string(),
        ]);
    }
    table::print(["round", "bytes", "samples", "bytes/sample", "stack nodes", "frames", "lost"], &rows);
    table::print_goal("under 5 MB", worst < SIZE_GOAL_BYTES);
    Ok(())
}

/// The recording and what the database may have left beside it.
fn size_of_files(folder: &Path) -> Result<u64> {
    fs::read_dir(folder)?.map(|entry| Ok(entry?.metadata()?.len())).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every process has memory, and a peak that is at least what it has now.
    #[test]
    fn memory_of_this_process() {
        let memory = Memory::of(std::process::id()).unwrap();
        assert!(memory.anonymous > 0.0 && memory.anonymous <= memory.rss && memory.rss <= memory.peak);
        assert!(Memory::of(u32::MAX).is_none());
    }
}
