//! The start-up of a server, from the command to its first replies, in phases.
//!
//! Where a phase ends is measured where something is said or made at that moment: a process, a request that is read, a reply that is
//! written. When an interpreter begins to run the server's own code, and when its imports are over, only samples tell: those ends are
//! estimates, right to about the time between two samples.

use serde::Serialize;

use super::call_tree::{CallTree, Filter, Grouping};
use super::functions::{Folding, Functions};
use super::milliseconds;
use super::report::ReportedRuntime;
use crate::recording::{Frame, FrameKind, ProcessIndex, Recording, Sample, StackEnd};
use crate::wire::calls::{Call, Side};

/// Packages that are told of a phase.
const PACKAGES: usize = 10;
/// When an interpreter began to run the server's code has to be known to this part of the time until the first request.
const MOST_UNKNOWN: u64 = 4;

/// A server's start-up.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Startup {
    /// Process ID of the server.
    pub pid: u32,
    /// Its command line.
    pub command: String,
    /// Its language runtime, when known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runtime: Option<ReportedRuntime>,
    /// From the command's start to the first reply, in milliseconds.
    pub ready_ms: f64,
    /// CPU time of all processes until then.
    pub ready_cpu_ms: f64,
    /// One after the other, without gaps; the last one ends with the list of tools.
    pub phases: Vec<Phase>,
}

/// What a server does first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PhaseKind {
    /// Something else runs, and makes the server's process at last: npx, uvx, a shell.
    Launcher,
    /// The interpreter starts, until the server's own code runs.
    Interpreter,
    /// That loads modules.
    Imports,
    /// It gets ready, until it reads its first request.
    SetUp,
    /// All from the process's start to its first request, where nothing tells these three apart.
    Start,
    /// From its first request, `initialize`, to the reply.
    FirstReply,
    /// From there to the list of its tools.
    ToolList,
}

impl PhaseKind {
    /// The name that reports use.
    pub fn name(self) -> &'static str {
        match self {
            Self::Launcher => "launcher",
            Self::Interpreter => "interpreter",
            Self::Imports => "imports",
            Self::SetUp => "set-up",
            Self::Start => "start",
            Self::FirstReply => "first reply",
            Self::ToolList => "tool list",
        }
    }
}

/// A part of a start-up.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Phase {
    /// What it is.
    pub phase: PhaseKind,
    /// When it begins, from the command's start on.
    pub start_ms: f64,
    /// How long it takes.
    pub wall_ms: f64,
    /// CPU time of all processes in it.
    pub cpu_ms: f64,
    /// Its start or its end is known from samples only.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub is_estimate: bool,
    /// Its samples.
    pub samples: u64,
    /// Where its CPU time went, with what was called from there: the most first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub packages: Vec<PhasePackage>,
    /// From when to when, `CLOCK_MONOTONIC` in nanoseconds.
    #[serde(skip)]
    pub span_ns: (u64, u64),
}

/// A package's part of a phase.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PhasePackage {
    /// Its name.
    pub package: String,
    /// CPU time in its functions.
    pub self_ms: f64,
    /// CPU time in its functions and in what they called.
    pub total_ms: f64,
}

impl Startup {
    /// The start-up in a recording of a command that was let go at `launched_ns` (`CLOCK_MONOTONIC`). `None` when no server in
    /// it answered `initialize`.
    pub fn new(recording: &Recording, launched_ns: u64) -> Option<Self> {
        let answered = |method: &str, process: Option<ProcessIndex>| {
            recording.calls.iter().find(|recorded| {
                let call: &Call = &recorded.call;
                call.caller == Side::Client
                    && &*call.method == method
                    && call.response_ns.is_some()
                    && process.is_none_or(|process| process == recorded.process)
            })
        };
        let first = answered("initialize", None)?;
        let index = first.process;
        let process = recording.processes.get(index)?;
        let (read_ns, replied_ns) = (first.call.start_ns, first.call.end_ns);
        let mut borders = Borders { phases: Vec::new(), last_ns: launched_ns };
        if index != 0 {
            borders.until(process.first_ns, PhaseKind::Launcher, false);
        }
        match code_and_imports(recording, index, borders.last_ns, read_ns) {
            Some((code_ns, imported_ns)) => {
                borders.until(code_ns, PhaseKind::Interpreter, true);
                borders.until(imported_ns, PhaseKind::Imports, true);
                borders.until(read_ns, PhaseKind::SetUp, true);
            }
            None => borders.until(read_ns, PhaseKind::Start, false),
        }
        borders.until(replied_ns, PhaseKind::FirstReply, false);
        if let Some(list) = answered("tools/list", Some(index)) {
            borders.until(list.call.end_ns, PhaseKind::ToolList, false);
        }
        let phases = borders.phases.into_iter().map(|(phase, is_estimate, span_ns)| {
            Phase::new(recording, phase, is_estimate, span_ns, launched_ns)
        });
        let runtime = &process.runtime;
        Some(Self {
            pid: process.pid,
            command: process.command.clone(),
            runtime: (!runtime.name.is_empty())
                .then(|| ReportedRuntime { name: runtime.name.clone(), version: runtime.version.clone() }),
            ready_ms: milliseconds(replied_ns.saturating_sub(launched_ns)),
            ready_cpu_ms: milliseconds(cpu_ns(&within(recording, (launched_ns, replied_ns)))),
            phases: phases.collect(),
        })
    }

    /// The medians of several start-ups of one command. A phase counts with the runs that have it, and is left out when fewer than
    /// half of them do. `None` without any.
    pub fn medians(runs: &[Self]) -> Option<Self> {
        let last = runs.last()?;
        let mut kinds: Vec<PhaseKind> =
            runs.iter().flat_map(|run| run.phases.iter().map(|phase| phase.phase)).collect();
        kinds.sort_unstable();
        kinds.dedup();
        let phases = kinds.into_iter().filter_map(|kind| {
            let of_kind: Vec<&Phase> =
                runs.iter().flat_map(|run| &run.phases).filter(|phase| phase.phase == kind).collect();
            let middle =
                |value: fn(&Phase) -> f64| median(of_kind.iter().map(|phase| value(phase)).collect());
            let newest = *of_kind.last()?;
            (2 * of_kind.len() >= runs.len()).then(|| Phase {
                start_ms: middle(|phase| phase.start_ms),
                wall_ms: middle(|phase| phase.wall_ms),
                cpu_ms: middle(|phase| phase.cpu_ms),
                ..newest.clone()
            })
        });
        Some(Self {
            ready_ms: median(runs.iter().map(|run| run.ready_ms).collect()),
            ready_cpu_ms: median(runs.iter().map(|run| run.ready_cpu_ms).collect()),
            phases: phases.collect(),
            ..last.clone()
        })
    }
}

/// The middle of the values, or the mean of the two in the middle.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() % 2 {
        0 if middle == 0 => 0.0,
        0 => f64::midpoint(values[middle - 1], values[middle]),
        _ => values[middle],
    }
}

/// Phases, one behind the other.
struct Borders {
    phases: Vec<(PhaseKind, bool, (u64, u64))>,
    last_ns: u64,
}

impl Borders {
    fn until(&mut self, end_ns: u64, phase: PhaseKind, is_estimate: bool) {
        let end_ns = end_ns.max(self.last_ns);
        self.phases.push((phase, is_estimate, (self.last_ns, end_ns)));
        self.last_ns = end_ns;
    }
}

impl Phase {
    fn new(
        recording: &Recording,
        phase: PhaseKind,
        is_estimate: bool,
        span_ns: (u64, u64),
        launched_ns: u64,
    ) -> Self {
        let own = within(recording, span_ns);
        let packages = Functions::folded(&own, Folding::Package);
        let tree = CallTree::new(&own, &packages, Filter::All, Grouping::None);
        let mut times = tree.functions(&packages);
        times.sort_by_key(|time| std::cmp::Reverse(time.total_ns));
        let packages = times.iter().take(PACKAGES).map(|time| PhasePackage {
            package: packages.get(time.function).name.to_string(),
            self_ms: milliseconds(time.self_ns),
            total_ms: milliseconds(time.total_ns),
        });
        Self {
            phase,
            start_ms: milliseconds(span_ns.0.saturating_sub(launched_ns)),
            wall_ms: milliseconds(span_ns.1 - span_ns.0),
            cpu_ms: milliseconds(cpu_ns(&own)),
            is_estimate,
            samples: own.samples.len() as u64,
            packages: packages.collect(),
            span_ns,
        }
    }
}

/// The recording with the samples of a time only: behind its start, until its end.
pub fn within(recording: &Recording, (from, to): (u64, u64)) -> Recording {
    let is_within = |sample: &&Sample| sample.timestamp_ns > from && sample.timestamp_ns <= to;
    let samples = recording.samples.iter().filter(is_within).copied().collect();
    Recording { samples, ..recording.clone() }
}

fn cpu_ns(recording: &Recording) -> u64 {
    recording.samples.iter().fold(0, |sum: u64, sample| sum.saturating_add(sample.weight_ns))
}

/// When a process's interpreter first ran its code, and when it last loaded a module before it read its first request. `None` when no
/// sample shows a module being loaded, or when the first of these is not known well enough: for its first milliseconds the stacks of
/// a new program lack their callers, and on a busy machine for longer.
fn code_and_imports(
    recording: &Recording,
    process: ProcessIndex,
    start_ns: u64,
    read_ns: u64,
) -> Option<(u64, u64)> {
    let roles: Vec<Role> = recording.frames.iter().map(Role::of).collect();
    // Of the stack that ends at each node. Parents have smaller indices.
    let mut stacks: Vec<Stack> = Vec::with_capacity(recording.stacks.len());
    for node in &recording.stacks {
        let outer = node.parent.and_then(|parent| stacks.get(parent)).copied().unwrap_or_default();
        stacks.push(outer.with(roles.get(node.frame).copied().unwrap_or_default()));
    }
    let own = recording.samples.iter().filter(|sample| {
        sample.timestamp_ns <= read_ns
            && recording.threads.get(sample.thread).is_some_and(|thread| thread.process == process)
    });
    let (mut code_ns, mut imported_ns) = (None, None);
    // The last moment at which it certainly did not run that code yet.
    let mut before_ns = start_ns;
    for sample in own {
        let stack = sample.stack.and_then(|stack| stacks.get(stack)).copied().unwrap_or_default();
        if stack.runs_code {
            code_ns.get_or_insert(sample.timestamp_ns);
            if stack.imports {
                imported_ns = Some(sample.timestamp_ns);
            }
        } else if code_ns.is_none()
            && !stack.is_nameless
            && matches!(sample.stack_end, StackEnd::ChainEnd | StackEnd::Outermost)
        {
            before_ns = sample.timestamp_ns;
        }
    }
    let unknown_ns = code_ns?.saturating_sub(before_ns);
    if unknown_ns > read_ns.saturating_sub(start_ns) / MOST_UNKNOWN {
        return None;
    }
    code_ns.zip(imported_ns)
}

/// What a frame says of its interpreter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Role {
    /// Nothing.
    #[default]
    None,
    /// Something that could not be read.
    Nameless,
    /// Python loads a module.
    PythonImport,
    /// Python runs the server's code.
    PythonCode,
    /// Node loads a module, for the server's code only.
    ScriptImport,
    /// Node runs the server's code.
    ScriptCode,
}

impl Role {
    fn of(frame: &Frame) -> Self {
        let Some(line) = frame.lines.first() else {
            let is_language = matches!(frame.kind, FrameKind::Python | FrameKind::JavaScript);
            return if is_language { Self::Nameless } else { Self::None };
        };
        let file = line.file.as_deref().unwrap_or_default();
        match frame.kind {
            // Lib/runpy.py runs `python -m MODULE`.
            FrameKind::Python if file == "<frozen runpy>" => Self::PythonCode,
            // Lib/importlib/_bootstrap.py and _bootstrap_external.py, and what else is frozen into every CPython.
            FrameKind::Python if file.starts_with("<frozen") => Self::PythonImport,
            FrameKind::Python => Self::PythonCode,
            // Both loaders are in lib/internal/modules.
            FrameKind::JavaScript if file.starts_with("node:internal/modules") => Self::ScriptImport,
            // lib/internal/main/run_main_module.js runs a script.
            FrameKind::JavaScript if file.starts_with("node:internal/main") || !file.starts_with("node:") => {
                Self::ScriptCode
            }
            _ => Self::None,
        }
    }
}

/// What the frames of a stack say together.
#[derive(Clone, Copy, Debug, Default)]
struct Stack {
    has_python: bool,
    runs_code: bool,
    imports: bool,
    /// Some function of the language has no name.
    is_nameless: bool,
}

impl Stack {
    /// With one more frame inside. Python imports modules of its own before it runs the server's code: there the outermost frame
    /// decides.
    fn with(self, role: Role) -> Self {
        let is_python = matches!(role, Role::PythonImport | Role::PythonCode);
        let is_code = match role {
            Role::PythonCode => !self.has_python,
            Role::ScriptImport | Role::ScriptCode => true,
            Role::None | Role::Nameless | Role::PythonImport => false,
        };
        Self {
            has_python: self.has_python || is_python,
            runs_code: self.runs_code || is_code,
            imports: self.imports || matches!(role, Role::PythonImport | Role::ScriptImport),
            is_nameless: self.is_nameless || role == Role::Nameless,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::testing::{Builder, line};

    const MS: u64 = 1_000_000;

    /// A launcher, an interpreter's own start, imports of which some come late, set-up and two replies: each has its time.
    #[test]
    fn known_answer() {
        let mut builder = Builder::new();
        let start = builder.recording.meta.start_ns;
        let server = builder.process(200, "python3 server.py", "python", Some("3.11.2"));
        builder.recording.processes[server].first_ns = start + 300 * MS;
        let (npx, main) = (builder.thread(0, 100, "node"), builder.thread(server, 200, "python3"));
        let mut python = |function: &str, file: &str| {
            builder.frame(FrameKind::Python, "/usr/bin/python3.11", 0, vec![line(function, Some(file), None)])
        };
        let import = python("_find_and_load", "<frozen importlib._bootstrap>");
        let module = python("<module>", "server.py");
        let library = python("<module>", "/usr/lib/python3.11/json/__init__.py");
        let own = [import, library];
        let mut stack =
            |frames: &[usize]| frames.iter().fold(None, |parent, frame| Some(builder.node(parent, *frame)));
        let (own, outer, imports) = (stack(&own), stack(&[module]), stack(&[module, import, library]));
        let samples = [
            (100, npx, None),
            (200, npx, None),
            (350, main, own),
            (400, main, outer),
            (450, main, imports),
            (600, main, imports),
            (650, main, outer),
            (800, main, imports),
        ];
        for (time, thread, stack) in samples {
            builder.sample_at(start + time * MS, thread, 10 * MS);
            let sample = builder.recording.samples.last_mut().unwrap();
            (sample.stack, sample.stack_end) = (stack, StackEnd::Outermost);
        }
        for (method, from, to) in [("initialize", 700, 820), ("tools/list", 830, 900)] {
            builder.call(server, "", start + from * MS, start + to * MS);
            let call = &mut builder.recording.calls.last_mut().unwrap().call;
            (call.method, call.name) = (method.into(), None);
        }
        let startup = Startup::new(&builder.recording, start + 50 * MS).unwrap();
        let phases: Vec<_> = startup
            .phases
            .iter()
            .map(|phase| (phase.phase.name(), phase.wall_ms, phase.cpu_ms, phase.is_estimate))
            .collect();
        let expected = [
            ("launcher", 250.0, 20.0, false),
            ("interpreter", 100.0, 20.0, true),
            ("imports", 200.0, 20.0, true),
            ("set-up", 100.0, 10.0, true),
            ("first reply", 120.0, 10.0, false),
            ("tool list", 80.0, 0.0, false),
        ];
        assert_eq!(phases, expected);
        assert_eq!((startup.pid, startup.ready_ms, startup.ready_cpu_ms), (200, 770.0, 80.0));
        let medians = Startup::medians(&[startup.clone(), startup.clone()]).unwrap();
        assert_eq!(medians, startup);
    }

    /// A program without an interpreter has one phase until its first request; one that never answers has no start-up.
    #[test]
    fn native_and_silent() {
        let mut builder = Builder::new();
        let start = builder.recording.meta.start_ns;
        assert_eq!(Startup::new(&builder.recording, start), None);
        builder.call(0, "", start + 10 * MS, start + 12 * MS);
        builder.recording.calls[0].call.method = "initialize".into();
        let startup = Startup::new(&builder.recording, start).unwrap();
        let phases: Vec<_> = startup.phases.iter().map(|phase| (phase.phase.name(), phase.wall_ms)).collect();
        assert_eq!(phases, [("start", 10.0), ("first reply", 2.0)]);
        assert_eq!(Startup::medians(&[]), None);
    }

    /// The middle one of an odd number, the mean of two of an even one.
    #[test]
    fn medians() {
        assert_eq!((median(vec![3.0, 1.0, 2.0]), median(vec![4.0, 1.0, 2.0, 3.0])), (2.0, 2.5));
    }
}
