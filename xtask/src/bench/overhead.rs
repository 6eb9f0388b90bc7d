//! What a profiler takes from the server it watches.
//!
//! One server and one client for the whole run, so that no ratio compares two processes with different memory
//! layouts or compiled code. Profilers run in slices of some seconds. A slice without one lies before and after
//! each of them, and its calls a second are compared with the mean of these two: a drift of the machine cancels.
//! The order of profilers rotates by round. One of them is none at all: how far its ratio is from 1 shows how far
//! the others can be trusted.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use mcp_profiler::recording::read;

use super::profiler::{
    Profiler, Running, ensure_samples, find_perf, find_py_spy, losses, perf, perf_dwarf, perf_samples,
    py_spy, py_spy_samples,
};
use super::server::{BusyServer, Server, Slice};
use super::statistics::Estimate;
use super::table;

/// From the moment when a profiler records, or from the end of another, to the measurement. What comes before and behind it is told apart
/// from it: a user attaches once, and for minutes.
const SETTLE: Duration = Duration::from_secs(3);
/// The calls a second at these rates that the project promises, of those without a profiler.
const GOALS: [(u32, f64); 2] = [(99, 0.99), (999, 0.95)];

/// What the server is written in.
#[derive(Clone, Copy, Debug, Default, PartialEq, clap::ValueEnum)]
pub(super) enum Language {
    #[default]
    Node,
    Python,
}

#[derive(Clone, Copy, PartialEq)]
enum Tool {
    Nothing,
    McpProfiler { hertz: u32 },
    Perf { hertz: u32 },
    PerfDwarf { hertz: u32 },
    PySpy { hertz: u32 },
}

const TOOLS: [Tool; 9] = [
    Tool::Nothing,
    Tool::McpProfiler { hertz: 99 },
    Tool::McpProfiler { hertz: 999 },
    Tool::Perf { hertz: 99 },
    Tool::Perf { hertz: 999 },
    Tool::PerfDwarf { hertz: 99 },
    Tool::PerfDwarf { hertz: 999 },
    Tool::PySpy { hertz: 99 },
    Tool::PySpy { hertz: 999 },
];

impl Tool {
    fn name(self) -> String {
        match self {
            Self::Nothing => "nothing (control)".to_owned(),
            Self::McpProfiler { hertz } => format!("mcp-profiler record, {hertz} Hz"),
            Self::Perf { hertz } => format!("perf record -g, {hertz} Hz"),
            Self::PerfDwarf { hertz } => format!("perf record --call-graph dwarf, {hertz} Hz"),
            Self::PySpy { hertz } => format!("py-spy record, {hertz} Hz"),
        }
    }

    fn start(self, profiler: &Profiler, pid: u32, output: &Path) -> Result<Option<Running>> {
        match self {
            Self::Nothing => Ok(None),
            Self::McpProfiler { hertz } => profiler.record(pid, hertz, None, output).map(Some),
            Self::Perf { hertz } => perf(pid, hertz, output).map(Some),
            Self::PerfDwarf { hertz } => perf_dwarf(pid, hertz, output).map(Some),
            Self::PySpy { hertz } => py_spy(pid, hertz, output).map(Some),
        }
    }
}

/// All slices of one tool.
#[derive(Default)]
struct Column {
    calls_per_second: Vec<f64>,
    ratios: Vec<f64>,
    cpu_ratios: Vec<f64>,
    /// CPU time of the profiler's own processes, in seconds for each second.
    own_cpus: Vec<f64>,
    /// Milliseconds of the server's work that were lost from the start of the profiler to the measurement, and from its interruption
    /// to its end.
    attach_ms: Vec<f64>,
    stop_ms: Vec<f64>,
    samples: u64,
    lost: u64,
}

pub(super) fn run(
    profiler: &Profiler,
    server: &Server,
    language: Language,
    is_alone: bool,
    seconds: f64,
    rounds: u32,
) -> Result<()> {
    let is_compared = |tool: &Tool| match tool {
        Tool::Nothing | Tool::McpProfiler { .. } => true,
        Tool::Perf { .. } | Tool::PerfDwarf { .. } => !is_alone,
        Tool::PySpy { .. } => !is_alone && language == Language::Python,
    };
    let tools: Vec<Tool> = TOOLS.into_iter().filter(is_compared).collect();
    // Before minutes of work, not after: is everything there?
    if !is_alone {
        find_perf()?;
        if language == Language::Python {
            find_py_spy()?;
        }
    }
    println!("server    {}", server.name);
    let mut server = server.start()?;
    let mut columns: Vec<Column> = tools.iter().map(|_| Column::default()).collect();
    let mut unprofiled = vec![measure_unprofiled(&mut server, seconds)?];
    for round in 0..rounds as usize {
        for turn in 0..tools.len() {
            let index = (round + turn) % tools.len();
            let before = unprofiled[unprofiled.len() - 1];
            let column = &mut columns[index];
            let Measured { slice, attach, stop } =
                measure(tools[index], profiler, &mut server, seconds, column)?;
            let after = measure_unprofiled(&mut server, seconds)?;
            unprofiled.push(after);
            let around = |value: fn(&Slice) -> f64| f64::midpoint(value(&before), value(&after));
            let usual = around(|slice| slice.calls_per_second);
            column.attach_ms.extend(attach.map(|stretch| stretch.lost_ms(usual)));
            column.stop_ms.extend(stop.map(|stretch| stretch.lost_ms(usual)));
            column.calls_per_second.push(slice.calls_per_second);
            column.ratios.push(slice.calls_per_second / usual);
            column.cpu_ratios.push(slice.cpu_us_per_call / around(|slice| slice.cpu_us_per_call));
        }
        eprintln!("round {} of {rounds}", round + 1);
    }
    report(&unprofiled, &tools, &columns);
    Ok(())
}

fn measure_unprofiled(server: &mut BusyServer, seconds: f64) -> Result<Slice> {
    std::thread::sleep(SETTLE);
    server.measure(Duration::from_secs_f64(seconds))
}

/// A stretch of time that is not part of the measurement.
#[derive(Clone, Copy)]
struct Stretch {
    wall: Duration,
    calls: u64,
}

impl Stretch {
    fn since(start: Instant, calls: u64, server: &BusyServer) -> Self {
        Self { wall: start.elapsed(), calls: server.calls() - calls }
    }

    /// How much less the server did than it does in that time when it is left alone.
    fn lost_ms(self, calls_per_second: f64) -> f64 {
        (self.wall.as_secs_f64() - self.calls as f64 / calls_per_second) * 1e3
    }
}

/// What happened in a slice.
struct Measured {
    slice: Slice,
    /// Of a profiler, before the slice and behind it.
    attach: Option<Stretch>,
    stop: Option<Stretch>,
}

fn measure(
    tool: Tool,
    profiler: &Profiler,
    server: &mut BusyServer,
    seconds: f64,
    column: &mut Column,
) -> Result<Measured> {
    let folder = tempfile::tempdir()?;
    let output = folder.path().join("recording");
    let (start, calls) = (Instant::now(), server.calls());
    let running = tool.start(profiler, server.pid(), &output)?;
    let Some(mut running) = running else {
        let slice = measure_unprofiled(server, seconds)?;
        return Ok(Measured { slice, attach: None, stop: None });
    };
    if let Tool::McpProfiler { .. } = tool {
        running.wait_for_recording()?;
    }
    std::thread::sleep(SETTLE);
    let attach = Stretch::since(start, calls, server);
    let (begin, own_before) = (Instant::now(), running.cpu_time()?);
    let slice = server.measure(Duration::from_secs_f64(seconds))?;
    let own = running.cpu_time()? - own_before;
    column.own_cpus.push(own.as_secs_f64() / begin.elapsed().as_secs_f64());
    let (start, calls) = (Instant::now(), server.calls());
    let (_, messages) = running.interrupt()?;
    let stop = Stretch::since(start, calls, server);
    match tool {
        Tool::McpProfiler { .. } => {
            let recording = read(&output)?;
            ensure_samples(&recording)?;
            column.samples += recording.samples.len() as u64;
            column.lost += losses(&recording);
        }
        Tool::PySpy { .. } => {
            let samples = py_spy_samples(&std::fs::read_to_string(&output)?);
            ensure!(samples > 0, "py-spy took no sample of a busy server. It said:\n{messages}");
            column.samples += samples;
        }
        _ => {
            let samples = perf_samples(&messages);
            ensure!(samples > 0, "perf took no sample of a busy server. It said:\n{messages}");
            column.samples += samples;
        }
    }
    Ok(Measured { slice, attach: Some(attach), stop: Some(stop) })
}

fn report(unprofiled: &[Slice], tools: &[Tool], columns: &[Column]) {
    let of = |value: fn(&Slice) -> f64| Estimate::of(&unprofiled.iter().map(value).collect::<Vec<_>>());
    let (calls, cpu, cpus) =
        (of(|slice| slice.calls_per_second), of(|slice| slice.cpu_us_per_call), of(|slice| slice.cpus));
    println!(
        "unprofiled: {:.0} calls/s (median of {} slices, {:.0} to {:.0}), {:.1} us CPU a call, {:.2} CPUs",
        calls.median,
        unprofiled.len(),
        calls.min,
        calls.max,
        cpu.median,
        cpus.median
    );
    let rows: Vec<_> = tools.iter().zip(columns).map(|(tool, column)| row(*tool, column)).collect();
    table::print(
        [
            "profiler",
            "calls/s",
            "ratio",
            "95% interval",
            "min..max",
            "CPU/call",
            "95% interval",
            "own CPU",
            "attach ms",
            "stop ms",
            "samples",
            "lost",
        ],
        &rows,
    );
    println!("ratio: calls/s over those of the unprofiled slices on both sides, median of rounds");
    println!("CPU/call: the same ratio of the server's CPU time for a call");
    println!("own CPU: CPU time of the profiler's own process meanwhile, of one CPU");
    println!(
        "attach ms, stop ms: what the server did less than usual, in milliseconds of its work, from the profiler's start until"
    );
    println!(
        "{} s after it records, and from its interruption to its end; medians, and not part of the ratio",
        SETTLE.as_secs()
    );
    for (hertz, goal) in GOALS {
        let ours = tools.iter().position(|tool| *tool == Tool::McpProfiler { hertz });
        let ratio = Estimate::of(&columns[ours.expect("it is in the table")].ratios);
        table::print_goal(&format!("at least {goal} at {hertz} Hz"), ratio.median >= goal);
    }
}

fn row(tool: Tool, column: &Column) -> [String; 12] {
    let (ratio, cpu_ratio) = (Estimate::of(&column.ratios), Estimate::of(&column.cpu_ratios));
    let interval = |estimate: Estimate| {
        estimate.interval.map_or("too few".to_owned(), |(low, high)| format!("{low:.4}..{high:.4}"))
    };
    let median = |values: &[f64], show: fn(f64) -> String| {
        if values.is_empty() { "-".to_owned() } else { show(Estimate::of(values).median) }
    };
    [
        tool.name(),
        format!("{:.0}", Estimate::of(&column.calls_per_second).median),
        format!("{:.4}", ratio.median),
        interval(ratio),
        format!("{:.3}..{:.3}", ratio.min, ratio.max),
        format!("{:.4}", cpu_ratio.median),
        interval(cpu_ratio),
        median(&column.own_cpus, |cpus| format!("{:.2}%", cpus * 100.0)),
        median(&column.attach_ms, |lost| format!("{lost:.0}")),
        median(&column.stop_ms, |lost| format!("{lost:.0}")),
        if tool == Tool::Nothing { "-".to_owned() } else { column.samples.to_string() },
        if matches!(tool, Tool::McpProfiler { .. }) { column.lost.to_string() } else { "-".to_owned() },
    ]
}
