//! What the kernel half takes: the kernel counts the runs and the time of each program while statistics are on.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use aya::programs::loaded_programs;
use aya::sys::{Stats, enable_stats};
use mcp_profiler::recording::read;

use super::profiler::{Profiler, ensure_samples, now_ns};
use super::server::Server;
use super::table;

const HERTZ: u32 = 999;
/// From the start of the profiler to the measurement.
const SETTLE: Duration = Duration::from_secs(1);

/// Runs of a kernel program.
#[derive(Clone, Copy, Default)]
pub(super) struct Runs {
    pub(super) count: u64,
    pub(super) time: Duration,
}

pub(super) fn run(profiler: &Profiler, server: &Server, seconds: f64, rounds: u32) -> Result<()> {
    // Statistics go off with this descriptor, also when this process is killed; `kernel.bpf_stats_enabled` stays as
    // it was.
    let _statistics =
        enable_stats(Stats::RunTime).context("the kernel can't count the runs of BPF programs")?;
    let mut server = server.start()?;
    // In the order in which the profiler loads them, which their IDs keep. The kernel cuts names off after 15 bytes, so
    // two may have the same.
    let mut programs: Vec<(String, Runs)> = Vec::new();
    let mut samples = 0;
    for _ in 0..rounds {
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("recording");
        let mut running = profiler.record(server.pid(), HERTZ, None, &file)?;
        std::thread::sleep(SETTLE);
        running.check()?;

        let (before, start_ns) = (programs_of(running.pid())?, now_ns()?);
        std::thread::sleep(Duration::from_secs_f64(seconds));
        let (after, end_ns) = (programs_of(running.pid())?, now_ns()?);
        server.check()?;
        running.interrupt()?;

        ensure!(before.keys().eq(after.keys()), "the profiler loaded or dropped a program while it recorded");
        programs.resize_with(after.len(), Default::default);
        for ((sum, (name, end)), (_, start)) in
            programs.iter_mut().zip(after.into_values()).zip(before.values())
        {
            sum.0 = name;
            sum.1.count += end.count - start.count;
            sum.1.time += end.time - start.time;
        }
        let recording = read(&file)?;
        ensure_samples(&recording)?;
        let in_window =
            recording.samples.iter().filter(|sample| (start_ns..end_ns).contains(&sample.timestamp_ns));
        samples += in_window.count();
    }
    ensure!(samples > 0, "no sample was taken while the runs were counted");
    report(&programs, samples, seconds * f64::from(rounds));
    Ok(())
}

fn report(programs: &[(String, Runs)], samples: usize, seconds: f64) {
    let cells = |name: &str, runs: Runs| {
        let run_ns = if runs.count == 0 {
            "-".to_owned()
        } else {
            format!("{:.0}", nanoseconds(runs) / runs.count as f64)
        };
        [
            name.to_owned(),
            runs.count.to_string(),
            run_ns,
            format!("{:.0}", nanoseconds(runs) / samples as f64),
            format!("{:.4}%", nanoseconds(runs) / (seconds * 1e9) * 100.0),
        ]
    };
    let mut rows: Vec<_> = programs.iter().map(|(name, runs)| cells(name, *runs)).collect();
    let all = programs.iter().fold(Runs::default(), |sum, (_, runs)| Runs {
        count: sum.count + runs.count,
        time: sum.time + runs.time,
    });
    rows.push(cells("all", all));
    table::print(["program", "runs", "ns/run", "ns/sample", "of one CPU"], &rows);
    println!("{samples} samples of a server under load at {HERTZ} Hz in {seconds:.0} s");
    println!("ns/run is the mean of all runs, also of those that end at once as the process is not watched.");
    println!("ns/sample is all time of the program over the samples in the recording. Both hold the cost of");
    println!("the kernel's own time-keeping; nothing is subtracted.");
}

fn nanoseconds(runs: Runs) -> f64 {
    runs.time.as_secs_f64() * 1e9
}

/// The kernel programs that a process holds: name and runs so far by ID.
pub(super) fn programs_of(pid: u32) -> Result<BTreeMap<u32, (String, Runs)>> {
    let ids = program_ids(pid)?;
    ensure!(!ids.is_empty(), "the profiler holds no kernel program");
    let mut programs = BTreeMap::new();
    for info in loaded_programs() {
        // Programs of others come and go while they are listed.
        let Ok(info) = info else { continue };
        if ids.contains(&info.id()) {
            let name = info.name_as_str().unwrap_or("unnamed").to_owned();
            programs.insert(info.id(), (name, Runs { count: info.run_count(), time: info.run_time() }));
        }
    }
    ensure!(programs.len() == ids.len(), "some of the profiler's kernel programs can't be read");
    Ok(programs)
}

/// The kernel says which program a descriptor is for in `/proc/PID/fdinfo` (bpf_prog_show_fdinfo and
/// bpf_link_show_fdinfo in kernel/bpf/syscall.c).
fn program_ids(pid: u32) -> Result<BTreeSet<u32>> {
    let folder = format!("/proc/{pid}/fdinfo");
    let mut ids = BTreeSet::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("cannot read {folder}"))? {
        // Descriptors may close while they are listed.
        let Ok(text) = fs::read_to_string(entry?.path()) else { continue };
        let id: Option<u32> =
            text.lines().find_map(|line| line.strip_prefix("prog_id:")).and_then(|id| id.trim().parse().ok());
        ids.extend(id);
    }
    Ok(ids)
}
