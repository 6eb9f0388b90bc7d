//! The report: what a recording says, as one value that scripts can rely on.
//!
//! Field names are a contract; new ones may be added. Times are in seconds, shares are 0 to 1.
//! What was not measured is absent, never zero.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::Serialize;

use super::attribution::Attribution;
use super::call_tree::{CallTree, Filter, Grouping};
use super::calls::Calls;
use super::completeness::Completeness;
use super::functions::{Folding, Functions};
use super::hot_paths::hot_paths;
use super::scaling::readings;
use super::seconds;
use crate::recording::{Process, ProcessIndex, Recording, Unwinding};

/// Version of the report's shape: it changes when a field goes away or changes its meaning.
pub const SCHEMA_VERSION: u32 = 1;

/// All that is known from a recording.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// Version of the profiler that made the recording.
    pub profiler_version: String,
    /// The server.
    pub target: Target,
    /// When it was recorded.
    pub window: Window,
    /// Why the recording ended; absent when it was interrupted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end_reason: Option<String>,
    /// True when the profiler was killed: the recording holds what was written before. Absent otherwise.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub interrupted: bool,
    /// The machine.
    pub host: Host,
    /// What could not be recorded.
    pub losses: Losses,
    /// How whole the stacks are.
    pub stacks: Stacks,
    /// Time on CPUs.
    pub cpu: Cpu,
    /// Tools, prompts, resources and methods whose calls this report is of; absent when it is of everything.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub operations: Vec<String>,
    /// Whether calls were looked for.
    pub calls_recorded: bool,
    /// Calls of the server; absent when none was seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub calls: Option<Calls>,
    /// Where most of the time goes, the hottest first.
    pub hot_paths: Vec<ReportedPath>,
    /// The share of the time that a hot path had to hold.
    pub hot_path_threshold: f64,
    /// Watched processes, the busiest first.
    pub processes: Vec<ReportedProcess>,
    /// Sampled threads, the busiest first.
    pub threads: Vec<ReportedThread>,
}

/// The server that was recorded.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Target {
    /// What the user asked for.
    pub name: String,
    /// Its command line; absent when no process was seen, or it ended before that could be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
    /// All its processes, the server itself first.
    pub pids: Vec<u32>,
    /// Language runtime of the server itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runtime: Option<ReportedRuntime>,
    /// How the stacks of the server itself were made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unwinding: Option<ReportedUnwinding>,
}

/// A language runtime.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ReportedRuntime {
    /// Lower-case name.
    pub name: String,
    /// Its version, where the binary tells it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
}

/// How the stacks of a process were made, in words for people.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ReportedUnwinding {
    /// Its machine code.
    pub native: String,
    /// The language's own frames; absent where the language is machine code.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub language: Option<String>,
    /// What to do for better stacks; absent when nothing is to be done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
}

/// When something was recorded.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Window {
    /// RFC 3339, in UTC; absent when the recording's start is not a date.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start: Option<String>,
    /// Length in seconds.
    pub seconds: f64,
}

/// The machine on which a recording was made.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Host {
    /// Kernel release.
    pub kernel: String,
    /// Online CPUs.
    pub cpus: u64,
}

/// What could not be recorded.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Losses {
    /// Number of events.
    pub total: u64,
    /// The same, by cause.
    pub by_cause: BTreeMap<String, u64>,
}

/// How whole the stacks are.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Stacks {
    /// Number of samples.
    pub samples: u64,
    /// Those whose stack reaches the start of its process or thread.
    pub complete: u64,
    /// The same as a share; absent without samples.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub complete_ratio: Option<f64>,
    /// The other samples, by cause.
    pub incomplete: BTreeMap<String, u64>,
}

/// Time on CPUs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Cpu {
    /// Time by the samples, scaled to the kernel's count where there is one.
    pub seconds: f64,
    /// The same as it was sampled, where it was scaled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sampled_seconds: Option<f64>,
    /// What the kernel counted for the same processes; absent when one of them was not asked twice, or ended before
    /// it could be asked a last time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel_seconds: Option<f64>,
    /// CPUs kept busy on average: `seconds` by the window's; absent for an empty window.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cores: Option<f64>,
    /// What drove samples: `cycles` or `cpu-clock`.
    pub event: String,
    /// Samples a second of CPU time.
    pub frequency_hz: u64,
    /// Time by function, by self time, the most first.
    pub functions: Vec<ReportedFunction>,
    /// Time by package, by self time, the most first.
    pub packages: Vec<ReportedPackage>,
}

/// The time of a package.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ReportedPackage {
    /// Its name.
    pub package: String,
    /// Time in its own functions.
    pub self_seconds: f64,
    /// Time in its own functions and in what they called.
    pub total_seconds: f64,
    /// `self_seconds` as a share of all.
    pub self_ratio: f64,
    /// `total_seconds` as a share of all.
    pub total_ratio: f64,
}

/// The time of a function.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ReportedFunction {
    /// Name, or `module+0xoffset`.
    pub function: String,
    /// Source file, when known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Its most sampled line, when known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<u32>,
    /// File of the code, or `[kernel]`, `[vdso]`, `[jit]`, `[unknown]`.
    pub module: String,
    /// The package that it belongs to.
    pub package: String,
    /// Its source file, or else its module, as people read it, with the line where it is known.
    pub place: String,
    /// Time in itself.
    pub self_seconds: f64,
    /// Time in itself and in what it called.
    pub total_seconds: f64,
    /// `self_seconds` as a share of all.
    pub self_ratio: f64,
    /// `total_seconds` as a share of all.
    pub total_ratio: f64,
}

/// A call path that holds much of the time.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ReportedPath {
    /// Names of its functions, outermost first.
    pub path: Vec<String>,
    /// Time on it that no longer hot path tells.
    pub seconds: f64,
    /// `seconds` as a share of all.
    pub ratio: f64,
    /// All time on it.
    pub total_seconds: f64,
    /// `total_seconds` as a share of all.
    pub total_ratio: f64,
}

/// A process of the server.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ReportedProcess {
    /// Process ID.
    pub pid: u32,
    /// Its command line.
    pub command: String,
    /// Its language runtime, when known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runtime: Option<ReportedRuntime>,
    /// How its stacks were made, when known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unwinding: Option<ReportedUnwinding>,
    /// Time by its samples, scaled to the kernel's count where there is one.
    pub seconds: f64,
    /// The same as it was sampled, where it was scaled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sampled_seconds: Option<f64>,
    /// What the kernel counted; absent when it was not asked twice.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel_seconds: Option<f64>,
}

/// A thread of the server.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ReportedThread {
    /// Thread ID.
    pub tid: u32,
    /// Its name.
    pub name: String,
    /// Its process; absent when it is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// Sampled time.
    pub seconds: f64,
}

impl Report {
    /// Reads the report off a recording. `hot_path_threshold` is the share of the time, 0 to 1, that
    /// [hot paths](super::hot_paths) hold.
    pub fn new(recording: &Recording, hot_path_threshold: f64) -> Self {
        Self::with_calls(recording, Calls::new(recording, &Attribution::new(recording)), hot_path_threshold)
    }

    /// The same of what was done for calls of some tools (prompts, resources, methods); of everything, when there are none.
    pub fn of_tools(recording: &Recording, tools: &[String], hot_path_threshold: f64) -> Self {
        if tools.is_empty() {
            return Self::new(recording, hot_path_threshold);
        }
        // What is shared is told by all calls.
        let attribution = Attribution::new(recording);
        let calls = Calls::of_tools(recording, &attribution, tools);
        let own = attribution.only(recording, |call| recording.calls[call].call.is_of(tools));
        Self { operations: tools.to_vec(), ..Self::with_calls(&own, calls, hot_path_threshold) }
    }

    /// The same with functions and hot paths by what frames stand for in these functions of its recording.
    pub fn folded(mut self, recording: &Recording, functions: &Functions) -> Self {
        let tree = CallTree::new(recording, functions, Filter::All, Grouping::None);
        self.cpu.functions = reported_functions(&tree, functions);
        self.hot_paths = reported_paths(&tree, functions, self.hot_path_threshold);
        self
    }

    fn with_calls(recording: &Recording, calls: Option<Calls>, hot_path_threshold: f64) -> Self {
        let meta = &recording.meta;
        let functions = Functions::new(recording);
        let tree = CallTree::new(recording, &functions, Filter::All, Grouping::None);
        let window = Window {
            start: jiff::Timestamp::from_millisecond(meta.started_unix_ms)
                .ok()
                .map(|start| start.to_string()),
            seconds: seconds(meta.end_ns.saturating_sub(meta.start_ns)),
        };
        let kernel_ns = kernel_cpu_time(recording);
        let processes = processes(recording, &kernel_ns);
        let cpu_seconds = seconds(tree.total_ns());
        let cpu = Cpu {
            seconds: cpu_seconds,
            sampled_seconds: (!recording.sampled_ns.is_empty()).then(|| {
                seconds(recording.sampled_ns.iter().fold(0, |sum: u64, time| sum.saturating_add(*time)))
            }),
            kernel_seconds: is_whole_count(recording, &kernel_ns)
                .then(|| seconds(kernel_ns.values().fold(0, |sum: u64, time| sum.saturating_add(*time)))),
            cores: (window.seconds > 0.0).then(|| cpu_seconds / window.seconds),
            event: meta.sampling_event.clone(),
            frequency_hz: meta.frequency_hz,
            functions: reported_functions(&tree, &functions),
            packages: reported_packages(recording),
        };
        Self {
            schema_version: SCHEMA_VERSION,
            profiler_version: meta.profiler_version.clone(),
            target: target(recording),
            window,
            end_reason: meta.end_reason.clone(),
            interrupted: meta.end_reason.is_none(),
            host: Host { kernel: meta.kernel_release.clone(), cpus: meta.cpus },
            losses: Losses {
                total: recording.losses.values().fold(0, |sum: u64, count| sum.saturating_add(*count)),
                by_cause: recording.losses.clone(),
            },
            stacks: stacks(recording, &functions),
            cpu,
            operations: Vec::new(),
            calls_recorded: meta.has_calls,
            calls,
            hot_paths: reported_paths(&tree, &functions, hot_path_threshold),
            hot_path_threshold,
            processes,
            threads: threads(recording),
        }
    }
}

fn target(recording: &Recording) -> Target {
    let server = recording.processes.first();
    let mut seen = BTreeSet::new();
    Target {
        name: recording.meta.target_name.clone(),
        command: server.map(|process| process.command.clone()).filter(|command| !command.is_empty()),
        pids: recording.processes.iter().map(|process| process.pid).filter(|pid| seen.insert(*pid)).collect(),
        runtime: server.and_then(runtime),
        unwinding: server.and_then(unwinding),
    }
}

fn runtime(process: &Process) -> Option<ReportedRuntime> {
    let runtime = &process.runtime;
    (!runtime.name.is_empty())
        .then(|| ReportedRuntime { name: runtime.name.clone(), version: runtime.version.clone() })
}

fn unwinding(process: &Process) -> Option<ReportedUnwinding> {
    let Unwinding { native, language, advice } = process.unwinding.clone()?;
    Some(ReportedUnwinding { native, language, advice })
}

fn stacks(recording: &Recording, functions: &Functions) -> Stacks {
    let completeness = Completeness::new(recording, functions);
    Stacks {
        samples: completeness.samples,
        complete: completeness.complete,
        complete_ratio: completeness.complete_ratio(),
        incomplete: completeness.incomplete,
    }
}

/// CPU time by process between its first and its last reading, in nanoseconds, as the kernel counted it.
fn kernel_cpu_time(recording: &Recording) -> HashMap<ProcessIndex, u64> {
    let times = readings(recording).into_iter().enumerate().filter_map(|(process, readings)| {
        let (first, last) = (readings.first()?, readings.last()?);
        (first.0 < last.0).then(|| (process, last.1.saturating_sub(first.1)))
    });
    times.collect()
}

fn processes(recording: &Recording, kernel_ns: &HashMap<ProcessIndex, u64>) -> Vec<ReportedProcess> {
    let mut sampled = vec![0_u64; recording.processes.len()];
    for sample in &recording.samples {
        let thread = recording.threads.get(sample.thread);
        if let Some(sum) = thread.and_then(|thread| sampled.get_mut(thread.process)) {
            *sum = sum.saturating_add(sample.weight_ns);
        }
    }
    let mut processes: Vec<_> = recording.processes.iter().enumerate().collect();
    processes.sort_by_key(|(index, _)| (std::cmp::Reverse(sampled[*index]), *index));
    let reported = processes.into_iter().map(|(index, process)| ReportedProcess {
        pid: process.pid,
        command: process.command.clone(),
        runtime: runtime(process),
        unwinding: unwinding(process),
        seconds: seconds(sampled[index]),
        sampled_seconds: recording.sampled_ns.get(index).copied().map(seconds),
        kernel_seconds: kernel_ns.get(&index).copied().map(seconds),
    });
    reported.collect()
}

/// Whether the kernel's figures cover all processes until their ends.
fn is_whole_count(recording: &Recording, kernel_ns: &HashMap<ProcessIndex, u64>) -> bool {
    let covered =
        |(index, process): (usize, &Process)| kernel_ns.contains_key(&index) && process.exit_ns.is_none();
    !recording.processes.is_empty() && recording.processes.iter().enumerate().all(covered)
}

fn threads(recording: &Recording) -> Vec<ReportedThread> {
    let mut sampled = vec![0_u64; recording.threads.len()];
    for sample in &recording.samples {
        if let Some(sum) = sampled.get_mut(sample.thread) {
            *sum = sum.saturating_add(sample.weight_ns);
        }
    }
    let mut threads: Vec<_> = recording.threads.iter().zip(sampled).collect();
    threads.sort_by_key(|(thread, sampled)| (std::cmp::Reverse(*sampled), thread.tid));
    let reported = threads.into_iter().map(|(thread, sampled)| ReportedThread {
        tid: thread.tid,
        name: thread.name.clone(),
        pid: recording.processes.get(thread.process).map(|process| process.pid),
        seconds: seconds(sampled),
    });
    reported.collect()
}

fn reported_functions(tree: &CallTree, functions: &Functions) -> Vec<ReportedFunction> {
    let reported = tree.functions(functions).into_iter().map(|time| {
        let function = functions.get(time.function);
        ReportedFunction {
            function: function.name.to_string(),
            file: function.file.as_deref().map(str::to_owned),
            line: function.line,
            module: function.module.to_string(),
            package: function.package.to_string(),
            place: match (&function.file, function.line) {
                (Some(_), Some(line)) => format!("{}:{line}", function.place),
                _ => function.place.to_string(),
            },
            self_seconds: seconds(time.self_ns),
            total_seconds: seconds(time.total_ns),
            self_ratio: time.self_ratio,
            total_ratio: time.total_ratio,
        }
    });
    reported.collect()
}

fn reported_packages(recording: &Recording) -> Vec<ReportedPackage> {
    let packages = Functions::folded(recording, Folding::Package);
    let tree = CallTree::new(recording, &packages, Filter::All, Grouping::None);
    let reported = tree.functions(&packages).into_iter().map(|time| ReportedPackage {
        package: packages.get(time.function).name.to_string(),
        self_seconds: seconds(time.self_ns),
        total_seconds: seconds(time.total_ns),
        self_ratio: time.self_ratio,
        total_ratio: time.total_ratio,
    });
    reported.collect()
}

fn reported_paths(tree: &CallTree, functions: &Functions, threshold: f64) -> Vec<ReportedPath> {
    let reported = hot_paths(tree, threshold).into_iter().map(|path| ReportedPath {
        path: path.functions.iter().map(|function| functions.get(*function).name.to_string()).collect(),
        seconds: seconds(path.held_ns),
        ratio: path.held_ratio,
        total_seconds: seconds(path.total_ns),
        total_ratio: path.total_ratio,
    });
    reported.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::testing::{Builder, example};

    /// Sums, shares and the kernel's own count of a known recording.
    #[test]
    fn known_answer() {
        let report = Report::new(&example(), 0.05);
        assert_eq!(report.target.name, "everything");
        assert_eq!(report.target.command.as_deref(), Some("/usr/bin/node server.js"));
        assert_eq!(report.target.pids, [100, 200]);
        assert_eq!(report.window.start.as_deref(), Some("2026-02-02T02:40:00Z"));
        assert_eq!((report.window.seconds, report.cpu.seconds, report.cpu.cores), (10.0, 5.0, Some(0.5)));
        assert_eq!(report.cpu.kernel_seconds, Some(5.06));
        let top = &report.cpu.functions[0];
        assert_eq!((top.function.as_str(), top.self_seconds, top.self_ratio), ("a", 3.0, 0.6));
        assert_eq!(report.stacks.complete_ratio, Some(1.0));
        let processes: Vec<_> = report.processes.iter().map(|row| row.seconds).collect();
        let threads: Vec<_> = report.threads.iter().map(|row| row.seconds).collect();
        assert_eq!((processes, threads), (vec![4.9, 0.1], vec![4.5, 0.4, 0.1]));
        assert_eq!(report.hot_paths[0].path, ["_start", "main", "a"]);
    }

    /// What was not measured is absent from the JSON; an interrupted recording says so.
    #[test]
    fn what_was_not_measured_is_absent() {
        let mut builder = Builder::new();
        builder.recording.meta.end_reason = None;
        builder.recording.meta.started_unix_ms = i64::MAX;
        builder.recording.meta.end_ns = 0;
        builder.cpu_gauge(0, 5);
        let json = serde_json::to_value(Report::new(&builder.recording, 0.05)).unwrap();
        assert_eq!(json["interrupted"], true);
        for (object, field) in [
            (&json, "end_reason"),
            (&json, "calls"),
            (&json, "memory"),
            (&json["window"], "start"),
            (&json["stacks"], "complete_ratio"),
            (&json["cpu"], "kernel_seconds"),
            (&json["cpu"], "cores"),
        ] {
            assert!(object.get(field).is_none(), "{field}");
        }
        let whole = serde_json::to_value(Report::new(&example(), 0.05)).unwrap();
        assert!(whole.get("interrupted").is_none());
    }

    /// Indices that lead nowhere do not panic.
    #[test]
    fn foreign_indices_are_harmless() {
        let mut builder = Builder::new();
        let thread = builder.thread(9, 1, "stray");
        builder.samples(thread, None, 1);
        builder.samples(77, Some(5), 1);
        builder.cpu_gauge(50, 1);
        let report = Report::new(&builder.recording, 0.05);
        assert_eq!((report.stacks.samples, report.threads[0].pid), (2, None));
        Report::new(&Recording::default(), f64::NAN);
    }
}
