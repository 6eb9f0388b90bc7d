//! What a stack of known depth costs: time in the kernel, and bytes that leave it.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use aya::sys::{Stats, enable_stats};
use mcp_profiler::analysis::completeness::Completeness;
use mcp_profiler::analysis::functions::Functions;
use mcp_profiler::recording::{FrameKind, Recording, Sample, read};
use profiler_common::{FrameTag, SampleEvent};

use super::kernel_time::{Runs, programs_of};
use super::profiler::{Profiler, ensure_samples, find_perf, now_ns, perf_dwarf, perf_samples};
use super::statistics::Estimate;
use super::table;
use crate::command::{find_in_path, run, workspace};

const HERTZ: u32 = 999;
/// From the start of the profiler to the measurement.
const SETTLE: Duration = Duration::from_secs(1);
const SAMPLING_PROGRAM: &str = "cpu_sample";
/// The kernel's own length before each record (`BPF_RINGBUF_HDR_SZ` of `include/uapi/linux/bpf.h`).
const RING_HEADER_BYTES: usize = 8;
const BYTES_GOAL: f64 = 600.0;

/// A program whose stacks have a known depth.
struct Target {
    language: &'static str,
    /// User frames of nearly every sample.
    frames: usize,
    command: Command,
    goal_us: f64,
}

/// What was measured of a target.
#[derive(Default)]
struct Figures {
    /// Of each round: a watched sample.
    microseconds: Vec<f64>,
    /// Of each sample.
    frames: Vec<f64>,
    bytes: Vec<f64>,
    /// Of all samples and rounds: how many are complete, and how many there are.
    complete: (u64, u64),
    /// Of `perf record --call-graph dwarf`, a sample.
    perf_bytes: f64,
}

pub(super) fn measure(profiler: &Profiler, seconds: f64, rounds: u32) -> Result<()> {
    find_perf()?;
    let _statistics =
        enable_stats(Stats::RunTime).context("the kernel can't count the runs of BPF programs")?;
    let folder = tempfile::tempdir()?;
    let targets = [native(folder.path())?, mixed()?];
    let unwatched_ns = unwatched(profiler, seconds)?;
    let mut rows = Vec::new();
    let mut goals = Vec::new();
    for mut target in targets {
        let figures = target.measure(profiler, seconds, rounds, unwatched_ns)?;
        let [time, bytes, frames] =
            [&figures.microseconds, &figures.bytes, &figures.frames].map(|values| Estimate::of(values));
        rows.push([
            target.language.to_owned(),
            format!("{:.0}", frames.median),
            figures.frames.len().to_string(),
            format!("{:.2} %", figures.complete.0 as f64 / figures.complete.1 as f64 * 100.0),
            format!("{:.2}", time.median),
            format!("{:.2}..{:.2}", time.min, time.max),
            format!("{:.0}", bytes.median),
            format!("{:.0}", figures.perf_bytes),
        ]);
        // A part of a stack would be cheap.
        let is_whole = frames.median >= target.frames as f64;
        let goal = format!("{}, stacks of {} frames", target.language, target.frames);
        goals.push((
            format!("{goal}: at most {} us a sample", target.goal_us),
            is_whole && time.median <= target.goal_us,
        ));
        goals.push((
            format!("{goal}: median under {BYTES_GOAL} bytes a sample"),
            is_whole && bytes.median < BYTES_GOAL,
        ));
    }
    table::print(
        ["target", "frames", "samples", "complete", "us/sample", "min..max", "bytes", "perf dwarf bytes"],
        &rows,
    );
    println!(
        "frames: median of user frames. us/sample: run time of {SAMPLING_PROGRAM} over its watched samples, median"
    );
    println!(
        "of {rounds} rounds of {seconds} s at {HERTZ} Hz, less {unwatched_ns:.0} ns for each run that found another process."
    );
    println!("bytes: what a sample takes in the ring buffer, median; of perf, the file over its samples.");
    goals.iter().for_each(|(goal, met)| table::print_goal(goal, *met));
    Ok(())
}

/// 32 frames of C as it is usually compiled.
fn native(folder: &Path) -> Result<Target> {
    let program = folder.join("recursion");
    let options =
        ["-O2", "-fomit-frame-pointer", "-fno-optimize-sibling-calls", "-D_GNU_SOURCE", "-DDEPTH=25"];
    let source = workspace().join("tests/workloads/recursion.c");
    run(Command::new("cc").args(options).arg("-o").arg(&program).arg(source))?;
    Ok(Target { language: "C", frames: 32, command: Command::new(program), goal_us: 5.0 })
}

/// 40 frames of C and Python by turns.
fn mixed() -> Result<Target> {
    let mut command = Command::new(find_in_path("python3").context("python3 is missing")?);
    command.args(["-I", "-S"]).arg(workspace().join("tests/workloads/callbacks.py"));
    Ok(Target { language: "Python", frames: 40, command, goal_us: 12.0 })
}

/// Nanoseconds of a run that finds a process that is not watched.
fn unwatched(profiler: &Profiler, seconds: f64) -> Result<f64> {
    let idle = Busy(Command::new("sleep").arg("1d").spawn().context("cannot run sleep")?);
    let folder = tempfile::tempdir()?;
    let (runs, ..) = record(profiler, idle.0.id(), seconds, &folder.path().join("recording"))?;
    ensure!(runs.count > 0, "the sampling program did not run");
    Ok(runs.time.as_secs_f64() * 1e9 / runs.count as f64)
}

impl Target {
    fn measure(
        &mut self,
        profiler: &Profiler,
        seconds: f64,
        rounds: u32,
        unwatched_ns: f64,
    ) -> Result<Figures> {
        let busy = Busy::start(&mut self.command)?;
        let folder = tempfile::tempdir()?;
        let mut figures = Figures::default();
        for _ in 0..rounds {
            let file = folder.path().join("recording");
            let (runs, start_ns, end_ns) = record(profiler, busy.0.id(), seconds, &file)?;
            let recording = read(&file)?;
            ensure_samples(&recording)?;
            let completeness = Completeness::new(&recording, &Functions::new(&recording));
            figures.complete.0 += completeness.complete;
            figures.complete.1 += completeness.samples;
            let in_window =
                recording.samples.iter().filter(|sample| (start_ns..end_ns).contains(&sample.timestamp_ns));
            let mut count = 0_u64;
            for sample in in_window {
                let (frames, bytes) = size(&recording, sample);
                figures.frames.push(frames as f64);
                figures.bytes.push(bytes as f64);
                count += 1;
            }
            ensure!(count > 0, "no sample was taken while the runs were counted");
            let others_ns = runs.count.saturating_sub(count) as f64 * unwatched_ns;
            figures.microseconds.push((runs.time.as_secs_f64() * 1e9 - others_ns) / count as f64 / 1e3);
            std::fs::remove_file(&file)?;
        }
        let file = folder.path().join("perf.data");
        let running = perf_dwarf(busy.0.id(), HERTZ, &file)?;
        std::thread::sleep(Duration::from_secs_f64(seconds));
        let (_, messages) = running.interrupt()?;
        let samples = perf_samples(&messages);
        ensure!(samples > 0, "perf took no sample of a busy program. It said:\n{messages}");
        figures.perf_bytes = std::fs::metadata(&file)?.len() as f64 / samples as f64;
        Ok(figures)
    }
}

/// Records a process. Returns the runs of the sampling program in a stretch of `seconds`, and where it started and ended.
fn record(profiler: &Profiler, pid: u32, seconds: f64, file: &Path) -> Result<(Runs, u64, u64)> {
    let mut running = profiler.record(pid, HERTZ, None, file)?;
    std::thread::sleep(SETTLE);
    running.check()?;
    let runs = |pid| {
        let programs = programs_of(pid)?;
        let sampling = programs.into_values().find(|(name, _)| name == SAMPLING_PROGRAM);
        Ok::<_, anyhow::Error>(sampling.context("the profiler holds no sampling program")?.1)
    };
    let (before, start_ns) = (runs(running.pid())?, now_ns()?);
    std::thread::sleep(Duration::from_secs_f64(seconds));
    let (after, end_ns) = (runs(running.pid())?, now_ns()?);
    running.interrupt()?;
    Ok((Runs { count: after.count - before.count, time: after.time - before.time }, start_ns, end_ns))
}

/// User frames of a sample, and the bytes of its record in the ring buffer.
fn size(recording: &Recording, sample: &Sample) -> (usize, usize) {
    let (mut frames, mut words) = (0, 0);
    let mut next = sample.stack;
    while let Some(index) = next {
        let node = recording.stacks[index];
        let kind = recording.frames[node.frame].kind;
        let tag = match kind {
            FrameKind::Native | FrameKind::Kernel | FrameKind::Jit => FrameTag::Native,
            FrameKind::Python => FrameTag::Python,
            FrameKind::JavaScript => FrameTag::JavaScript,
            FrameKind::PythonWaiting => FrameTag::Waiting,
        };
        words += tag.words();
        frames += usize::from(!matches!(kind, FrameKind::Kernel | FrameKind::PythonWaiting));
        next = node.parent;
    }
    (frames, RING_HEADER_BYTES + size_of::<SampleEvent>() + words * size_of::<u64>())
}

/// A process that is killed when dropped.
struct Busy(Child);

impl Busy {
    /// Starts a workload and waits until it says that it works.
    fn start(command: &mut Command) -> Result<Self> {
        let child =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("cannot start a target")?;
        let mut busy = Self(child);
        let output = busy.0.stdout.take().expect("it is piped");
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line)?;
        ensure!(line.trim() == "ready", "a target did not start");
        Ok(busy)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
