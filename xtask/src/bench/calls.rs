//! What it costs to see every call: server-everything under mcp-stress, recorded with calls and CPU samples, beside the
//! tools that people use to look at system calls.
//!
//! Slices, neighbours and rotation are those of `overhead`. mcp-stress tells its figures only at its end, so calls are
//! counted by the server's writes: Node writes each response by one system call.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use aya::sys::{Stats, enable_stats};
use mcp_profiler::recording::{Recording, read};

use super::footprint::Memory;
use super::kernel_time::{Runs, programs_of};
use super::profiler::{Profiler, Running, ensure_samples, losses, now_ns};
use super::server::Server;
use super::statistics::Estimate;
use super::table;
use crate::command::find_in_path;

const STRESS: &str = "node_modules/@mcp-stress/linux-x64/bin/mcp-stress";
/// Calls in flight.
const CONCURRENCY: &str = "4";
/// V8 compiles the hot functions in the first seconds.
const WARM_UP: Duration = Duration::from_secs(5);
/// From the start of a tool, or the end of another, to the measurement.
const SETTLE: Duration = Duration::from_secs(1);
const HERTZ: u32 = 99;
/// The program that reads the wire, as the kernel calls it.
const PROGRAM: &str = "wire_exit";
/// The calls a second that the project promises, of those without a profiler.
const GOAL: f64 = 0.97;
/// The calls a second, without a profiler, of the server that this goal was set for. This machine's may be faster: the same time that
/// recording adds to a call is a larger share of a short one.
const GOAL_CALLS_PER_SECOND: f64 = 7700.0;
/// What the profiler itself may take meanwhile: of one CPU, and in MiB.
const CPU_GOAL: f64 = 0.10;
const MEMORY_GOAL_MIB: f64 = 64.0;
/// And the time in the kernel for a message, in nanoseconds.
const MESSAGE_GOAL_NS: f64 = 700.0;

#[derive(Clone, Copy, PartialEq)]
enum Tool {
    Nothing,
    McpProfiler,
    Strace,
    PerfTrace,
}

impl Tool {
    fn name(self) -> &'static str {
        match self {
            Self::Nothing => "nothing (control)",
            Self::McpProfiler => "mcp-profiler record",
            Self::Strace => "strace -f -c",
            Self::PerfTrace => "perf trace -s",
        }
    }

    fn start(self, profiler: &Profiler, pid: u32, output: &Path) -> Result<Option<Running>> {
        let command = |program: &str, options: &[&str]| {
            let mut command = Command::new(program);
            command.args(options).args(["-p", &pid.to_string(), "-o"]).arg(output);
            Running::start(&mut command).map(Some)
        };
        match self {
            Self::Nothing => Ok(None),
            Self::McpProfiler => profiler.record_calls(pid, HERTZ, output).map(Some),
            Self::Strace => command("strace", &["-f", "-c"]),
            Self::PerfTrace => command("perf", &["trace", "-s"]),
        }
    }
}

/// All slices of one tool.
#[derive(Default)]
struct Column {
    calls_per_second: Vec<f64>,
    ratios: Vec<f64>,
    /// What the tool adds to the time between two calls, in microseconds.
    added_us: Vec<f64>,
    /// CPU time of the profiler's own process, in seconds for each second, and the most memory that it had resident, in MiB.
    own_cpus: Vec<f64>,
    /// The same time for each call, in microseconds.
    own_us: Vec<f64>,
    peaks_mib: Vec<f64>,
    /// Calls that were written, and calls in the recording, of the same stretches.
    answered: u64,
    seen: u64,
    lost: u64,
}

pub(super) fn run(
    profiler: &Profiler,
    servers: &Path,
    server: &Server,
    seconds: f64,
    rounds: u32,
) -> Result<()> {
    let tools: Vec<Tool> = [Tool::Nothing, Tool::McpProfiler, Tool::Strace, Tool::PerfTrace]
        .into_iter()
        .filter(|tool| match tool {
            Tool::Strace => find_in_path("strace").is_some(),
            Tool::PerfTrace => find_in_path("perf").is_some(),
            _ => true,
        })
        .collect();
    println!("server    {}, mcp-stress with {CONCURRENCY} calls in flight", server.name);
    let mut columns: Vec<Column> = tools.iter().map(|_| Column::default()).collect();
    let mut unprofiled = Vec::new();
    for round in 0..rounds as usize {
        // It keeps the latency of each call, and has slowed down a hundredfold after ten minutes.
        let load = Stress::start(servers, server)?;
        unprofiled.push(load.alone(seconds)?);
        for turn in 0..tools.len() {
            let index = (round + turn) % tools.len();
            let rate = slice(tools[index], profiler, &load, seconds, &mut columns[index])?;
            let after = load.alone(seconds)?;
            let around = f64::midpoint(unprofiled[unprofiled.len() - 1], after);
            unprofiled.push(after);
            columns[index].calls_per_second.push(rate);
            columns[index].ratios.push(rate / around);
            columns[index].added_us.push(added_us(rate, around));
        }
        eprintln!("round {} of {rounds}", round + 1);
    }
    report(&unprofiled, &tools, &columns);
    kernel_time(profiler, &Stress::start(servers, server)?, seconds)
}

fn slice(tool: Tool, profiler: &Profiler, load: &Stress, seconds: f64, column: &mut Column) -> Result<f64> {
    let folder = tempfile::tempdir()?;
    let output = folder.path().join("output");
    let running = tool.start(profiler, load.server, &output)?;
    std::thread::sleep(SETTLE);
    let start_ns = now_ns()?;
    let (begin, own_before) = (Instant::now(), running.as_ref().map(Running::cpu_time).transpose()?);
    let (answered, rate) = load.measure(seconds)?;
    let end_ns = now_ns()?;
    let (Some(running), Some(own_before)) = (running, own_before) else { return Ok(rate) };
    let own = running.cpu_time()? - own_before;
    let own_cpus = own.as_secs_f64() / begin.elapsed().as_secs_f64();
    let memory = Memory::of(running.pid()).context("the tool ended")?;
    running.interrupt()?;
    if tool == Tool::McpProfiler {
        column.own_cpus.push(own_cpus);
        column.own_us.push(own_cpus / rate * 1e6);
        column.peaks_mib.push(memory.peak);
        let recording = read(&output)?;
        ensure_samples(&recording)?;
        column.answered += answered;
        column.seen += seen(&recording, start_ns, end_ns);
        column.lost += losses(&recording);
    }
    Ok(rate)
}

/// Calls that ended in a stretch of time.
fn seen(recording: &Recording, start_ns: u64, end_ns: u64) -> u64 {
    let ends = recording.calls.iter().map(|recorded| recorded.call.end_ns);
    ends.filter(|end| (start_ns..end_ns).contains(end)).count() as u64
}

fn report(unprofiled: &[f64], tools: &[Tool], columns: &[Column]) {
    let calls = Estimate::of(unprofiled);
    println!(
        "unprofiled: {:.0} calls/s (median of {} slices, {:.0} to {:.0})",
        calls.median,
        unprofiled.len(),
        calls.min,
        calls.max
    );
    let rows: Vec<_> = tools.iter().zip(columns).map(|(tool, column)| row(*tool, column)).collect();
    table::print(
        [
            "tool",
            "calls/s",
            "ratio",
            "95% interval",
            "min..max",
            "added us",
            "95% interval",
            "answered",
            "seen",
            "lost",
        ],
        &rows,
    );
    println!("ratio: calls/s over those of the unprofiled slices on both sides, median of rounds");
    println!("added us: what a call takes longer, by the same slices: 1 / profiled - 1 / unprofiled calls/s");
    println!(
        "answered, seen: calls by the server's writes, and those of the recording, of the same stretches"
    );
    let ours = tools.iter().position(|tool| *tool == Tool::McpProfiler).expect("it is in the table");
    let ours = &columns[ours];
    let (added, own_cpus) = (Estimate::of(&ours.added_us), Estimate::of(&ours.own_cpus));
    let peak = Estimate::of(&ours.peaks_mib).max;
    println!(
        "computed, not measured: a server with {GOAL_CALLS_PER_SECOND} calls/s keeps {:.4} of them{}, if recording adds as much to each",
        kept(added.median),
        added.interval.map_or(String::new(), |(low, high)| format!(" ({:.4}..{:.4})", kept(high), kept(low)))
    );
    println!(
        "mcp-profiler's own process: {:.1}% of one CPU (median of rounds, {:.1} to {:.1}), {:.2} us a call, at most {peak:.1} MiB resident while it records",
        own_cpus.median * 100.0,
        own_cpus.min * 100.0,
        own_cpus.max * 100.0,
        Estimate::of(&ours.own_us).median
    );
    table::print_goal(
        &format!("at least {GOAL} of the calls, as measured"),
        Estimate::of(&ours.ratios).median >= GOAL,
    );
    table::print_goal("nothing lost", ours.lost == 0);
    table::print_goal(&format!("under {:.0}% of one CPU", CPU_GOAL * 100.0), own_cpus.median < CPU_GOAL);
    table::print_goal(&format!("under {MEMORY_GOAL_MIB} MiB"), peak < MEMORY_GOAL_MIB);
}

/// What is added to the time between two calls, in microseconds.
fn added_us(calls_per_second: f64, unprofiled: f64) -> f64 {
    (1.0 / calls_per_second - 1.0 / unprofiled) * 1e6
}

/// The share of its calls that the server of the goal keeps, when so many microseconds are added to each.
fn kept(added_us: f64) -> f64 {
    let call_us = 1e6 / GOAL_CALLS_PER_SECOND;
    call_us / (call_us + added_us)
}

fn row(tool: Tool, column: &Column) -> [String; 10] {
    let (ratio, added) = (Estimate::of(&column.ratios), Estimate::of(&column.added_us));
    let few = || "too few".to_owned();
    let ours = |count: u64| if tool == Tool::McpProfiler { count.to_string() } else { "-".to_owned() };
    [
        tool.name().to_owned(),
        format!("{:.0}", Estimate::of(&column.calls_per_second).median),
        format!("{:.4}", ratio.median),
        ratio.interval.map_or_else(few, |(low, high)| format!("{low:.4}..{high:.4}")),
        format!("{:.3}..{:.3}", ratio.min, ratio.max),
        format!("{:.2}", added.median),
        added.interval.map_or_else(few, |(low, high)| format!("{low:.2}..{high:.2}")),
        ours(column.answered),
        ours(column.seen),
        ours(column.lost),
    ]
}

/// The kernel time of a message. The program also runs for each system call of every other process: what that takes is
/// measured first, with a target that sleeps under the same load, and subtracted.
fn kernel_time(profiler: &Profiler, load: &Stress, seconds: f64) -> Result<()> {
    // Statistics go off with this descriptor, also when this process is killed.
    let _statistics =
        enable_stats(Stats::RunTime).context("the kernel can't count the runs of BPF programs")?;
    let mut sleeper = Sleeper(Command::new("sleep").arg("infinity").stdin(Stdio::null()).spawn()?);
    let (idle, _) = runs(profiler, sleeper.0.id(), load, seconds)?;
    sleeper.end();
    let (busy, answered) = runs(profiler, load.server, load, seconds)?;
    ensure!(idle.count > 0 && answered > 0, "the load has ended");
    let idle_ns = nanoseconds(idle) / idle.count as f64;
    // A request that is read and a response that is written.
    let messages = 2 * answered;
    let own_ns = (nanoseconds(busy) - idle_ns * busy.count as f64).max(0.0) / messages as f64 + idle_ns;
    println!();
    println!("{PROGRAM}: {idle_ns:.0} ns for a system call of a process that is not watched");
    println!("{PROGRAM}: {own_ns:.0} ns for a message of the server, the other system calls of it included");
    table::print_goal(&format!("at most {MESSAGE_GOAL_NS:.0} ns for a message"), own_ns <= MESSAGE_GOAL_NS);
    Ok(())
}

/// Runs of the program that reads the wire while a process is recorded, and the calls that the server answered meanwhile.
fn runs(profiler: &Profiler, pid: u32, load: &Stress, seconds: f64) -> Result<(Runs, u64)> {
    let folder = tempfile::tempdir()?;
    let mut running = profiler.record_calls(pid, HERTZ, &folder.path().join("recording"))?;
    std::thread::sleep(SETTLE);
    running.check()?;
    let of_wire = || -> Result<Runs> {
        let programs = programs_of(running.pid())?;
        let found = programs.into_values().find(|(name, _)| name == PROGRAM);
        Ok(found.with_context(|| format!("the profiler has no program {PROGRAM}"))?.1)
    };
    let before = of_wire()?;
    let (answered, _) = load.measure(seconds)?;
    let after = of_wire()?;
    running.interrupt()?;
    Ok((Runs { count: after.count - before.count, time: after.time - before.time }, answered))
}

fn nanoseconds(runs: Runs) -> f64 {
    runs.time.as_secs_f64() * 1e9
}

/// A process that does nothing; killed when dropped.
struct Sleeper(Child);

impl Sleeper {
    fn end(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        self.end();
    }
}

/// mcp-stress and the server that it starts; killed when dropped.
struct Stress {
    process: Child,
    server: u32,
}

impl Stress {
    fn start(servers: &Path, server: &Server) -> Result<Self> {
        let program: PathBuf = servers.join(STRESS);
        ensure!(program.is_file(), "{} is missing. Run: cargo xtask servers", program.display());
        let process = Command::new(program)
            .args(["run", "-d", "86400", "-c", CONCURRENCY, "--tool", "echo", "--"])
            .args(server.command())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot start mcp-stress")?;
        let mut stress = Self { process, server: 0 };
        std::thread::sleep(WARM_UP);
        let pid = stress.process.id();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
        let first = children.split_whitespace().next().context("mcp-stress started no server")?;
        stress.server = first.parse()?;
        Ok(stress)
    }

    fn alone(&self, seconds: f64) -> Result<f64> {
        std::thread::sleep(SETTLE);
        Ok(self.measure(seconds)?.1)
    }

    /// Calls that the server answers in so many seconds, and for each second.
    fn measure(&self, seconds: f64) -> Result<(u64, f64)> {
        let (start, before) = (Instant::now(), self.writes()?);
        std::thread::sleep(Duration::from_secs_f64(seconds));
        let (wall, writes) = (start.elapsed(), self.writes()? - before);
        ensure!(writes > 0, "the server answered no call in {seconds} s");
        Ok((writes, writes as f64 / wall.as_secs_f64()))
    }

    /// System calls by which the server wrote something so far (`syscw` of proc_pid_io(5)).
    fn writes(&self) -> Result<u64> {
        let text = fs::read_to_string(format!("/proc/{}/io", self.server)).context("the server ended")?;
        let line = text.lines().find_map(|line| line.strip_prefix("syscw:")).context("no syscw")?;
        Ok(line.trim().parse()?)
    }
}

impl Drop for Stress {
    fn drop(&mut self) {
        // It may have ended by itself; the server ends with its client.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Time that is added to a call weighs less where calls are longer.
    #[test]
    fn added_time_is_told_of_another_server() {
        let added = added_us(25_000.0, 31_250.0);
        assert!((added - 8.0).abs() < 1e-9, "{added}");
        // 129.87 us of 137.87 us.
        assert!((kept(added) - 0.941_974).abs() < 1e-5, "{}", kept(added));
        assert_eq!(kept(0.0), 1.0);
    }
}
