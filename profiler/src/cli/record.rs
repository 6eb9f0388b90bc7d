//! `record`: from a target to a recording. Every command that records first comes through here.

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, ChildStdout, ExitStatus};
use std::time::Duration;

use clap::Args;
use nix::sys::signal::Signal as Kill;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::Usage;
use super::background::StateFile;
use super::files::{default_name, give_to_caller};
use super::terminal::{ProgressLine, note};
use crate::analysis::completeness::Completeness;
use crate::analysis::functions::Functions;
use crate::capture::{FREQUENCY_RANGE_HZ, Options, Progress, Session, Summary, now_ns};
use crate::output::units::{count, duration, percent, plural};
use crate::recording::{Recording, files_of};
use crate::target::{Caller, Launched, Process, Request, Target, resolve, runtime};
use crate::wire::contents::Capture;

/// How often the ring is drained.
const TICK: Duration = Duration::from_millis(50);
/// How often progress is shown, and the targets are looked after.
const TICKS_PER_LOOK: u32 = 10;
/// How long a launched command may take to end after SIGTERM.
const TERMINATION_LIMIT: Duration = Duration::from_secs(3);

/// Why a recording ended that was to end after a number of calls.
pub(super) const ENOUGH_CALLS: &str = "enough calls";

/// Which server.
#[derive(Args, Clone, Debug)]
pub(crate) struct TargetArguments {
    /// Server of this name: from the configuration of your MCP client, or as `list` shows it
    #[arg(long, value_name = "NAME", help_heading = "Target")]
    pub(crate) mcp: Option<String>,
    /// Process with this ID, and its children
    #[arg(long, value_name = "PID", conflicts_with = "mcp", help_heading = "Target",
          value_parser = parse_pid)]
    pub(crate) pid: Option<u32>,
    /// Also read this client configuration (JSON, of any client's shape)
    #[arg(long, value_name = "FILE", requires = "mcp", help_heading = "Target")]
    pub(crate) config: Option<PathBuf>,
    /// Start the server if it is not running
    #[arg(long, requires = "mcp", help_heading = "Target")]
    pub(crate) launch: bool,
    /// Command to start and record, as the user who called sudo
    #[arg(last = true, value_name = "COMMAND", conflicts_with_all = ["mcp", "pid"])]
    pub(crate) command: Vec<OsString>,
}

impl TargetArguments {
    /// What is asked for; `None` when no target is named.
    pub(crate) fn request(&self) -> Option<Request> {
        if let Some(pid) = self.pid {
            return Some(Request::Pid(pid));
        }
        if let Some(name) = &self.mcp {
            let (name, config, launch) = (name.clone(), self.config.clone(), self.launch);
            return Some(Request::Name { name, config, launch });
        }
        (!self.command.is_empty()).then(|| Request::Command(self.command.clone()))
    }
}

/// How to record.
#[derive(Args, Clone, Debug)]
pub(crate) struct SamplingArguments {
    /// End after this time, such as 30s or 5m [default: at Ctrl-C, or when the server ends]
    #[arg(long, value_name = "TIME", value_parser = parse_duration, allow_hyphen_values = true, help_heading = "Recording")]
    pub(crate) duration: Option<Duration>,
    /// Samples a second of CPU time
    #[arg(long, value_name = "HZ", default_value_t = 99, help_heading = "Recording",
          allow_negative_numbers = true,
          value_parser = clap::value_parser!(u64).range(*FREQUENCY_RANGE_HZ.start()..=*FREQUENCY_RANGE_HZ.end()))]
    pub(crate) frequency: u64,
    /// Only watch: do not ask runtimes for names of methods. Java servers are asked by the JVM's attach mechanism (SIGQUIT, and files
    /// in their /tmp), .NET servers by their diagnostics socket
    #[arg(long, help_heading = "Recording")]
    pub(crate) passive: bool,
    /// Do not look at calls: nothing that the server reads and writes is read, and its system calls cost nothing
    #[arg(long, help_heading = "Recording")]
    pub(crate) no_calls: bool,
    /// Keep arguments, results and messages of errors, cut to so many bytes each, without what looks secret, and IDs of MCP sessions
    /// [default without a number: 1024]
    #[arg(long, value_name = "BYTES", conflicts_with = "no_calls", num_args = 0..=1, require_equals = true,
          default_missing_value = "1024", value_parser = clap::value_parser!(u32).range(16..=65536), help_heading = "Recording")]
    pub(crate) capture_arguments: Option<u32>,
}

/// A duration of at least a millisecond and at most ten years.
pub(super) fn parse_duration(text: &str) -> Result<Duration, String> {
    const LONGEST: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
    let duration =
        humantime::parse_duration(text).map_err(|error| format!("{error}; write it as 30s, 5m or 1h30m"))?;
    if duration < Duration::from_millis(1) || duration > LONGEST {
        return Err("it must be between 1ms and 10 years".to_owned());
    }
    Ok(duration)
}

/// Options of `record`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  sudo mcp-profiler record --mcp filesystem --duration 60s
  sudo mcp-profiler record --pid 4711 --frequency 999 -o before.mcpprof
  sudo mcp-profiler record -- node server.js

Children of the server are recorded too. Ctrl-C ends the recording and keeps it.
A command that was started by mcp-profiler has its standard streams as they
are, and is ended with the recording.")]
pub(super) struct Arguments {
    #[command(flatten)]
    target: TargetArguments,
    #[command(flatten)]
    sampling: SamplingArguments,
    /// File to write [default: NAME-PID-TIME.mcpprof in the current folder]
    #[arg(short, long, value_name = "FILE", help_heading = "Recording")]
    output: Option<PathBuf>,
    /// Tells `status` how far the recording is
    #[arg(long, hide = true, value_name = "FILE")]
    state: Option<PathBuf>,
}

/// Records, and says how to look at it.
pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let request = arguments.target.request().ok_or_else(no_target)?;
    let plan = Plan {
        state: arguments.state.clone(),
        ..Plan::new(request, &arguments.sampling, arguments.output.clone())
    };
    let Recorded { path, recording } = record(&plan)?;
    for advice in better_stacks(&recording) {
        note(&advice);
    }
    note(&format!("look at it with: mcp-profiler report {}", shell_word(&path)));
    Ok(())
}

fn parse_pid(text: &str) -> Result<u32, String> {
    text.parse().ok().filter(|pid| *pid > 0).ok_or_else(|| {
        "it must be the ID of a process, a number; `mcp-profiler list` shows those of MCP servers, and `--mcp` takes a name".to_owned()
    })
}

pub(super) fn no_target() -> anyhow::Error {
    let message = "no target is given: name a server with --mcp NAME, a process with --pid PID, or a command after --; \
                   `mcp-profiler list` shows what is running";
    Usage(message.to_owned()).into()
}

/// What to record.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) request: Request,
    pub(super) sampling: SamplingArguments,
    pub(super) output: Option<PathBuf>,
    pub(super) state: Option<PathBuf>,
    /// Tools or methods whose calls are counted; all, when it is empty.
    pub(super) operations: Vec<String>,
    /// End after so many of these calls.
    pub(super) calls: Option<u64>,
}

impl Plan {
    /// Records a target into a file, or into one of the default name.
    pub(super) fn new(request: Request, sampling: &SamplingArguments, output: Option<PathBuf>) -> Self {
        Self { request, sampling: sampling.clone(), output, state: None, operations: Vec::new(), calls: None }
    }
}

/// A recording that was just made.
#[derive(Debug)]
pub(super) struct Recorded {
    pub(super) path: PathBuf,
    pub(super) recording: Recording,
}

/// Resolves the target, launches it if it is to be launched, and records until the end.
pub(super) fn record(plan: &Plan) -> anyhow::Result<Recorded> {
    let (name, pid, pids, launched, programs) = match resolve(&plan.request)? {
        Target::Running(server) => (server.name, server.pid, server.pids, None, Vec::new()),
        Target::Launch(launch) => {
            let caller = Caller::from_sudo();
            // An older recording is replaced only for one that can begin.
            launch.check_program(caller.as_ref())?;
            let launched = Launched::spawn(&launch, caller.as_ref())?;
            let pid = launched.pid();
            (launch.name.clone(), pid, vec![pid], Some(launched), launch.programs())
        }
    };
    let output = plan.output.clone().unwrap_or_else(|| default_name(&name, pid, "mcpprof"));
    let options = Options {
        target_name: name,
        pid,
        pids,
        frequency_hz: plan.sampling.frequency,
        is_asking: !plan.sampling.passive,
        is_reading_calls: !plan.sampling.no_calls,
        capture: Capture { bytes: plan.sampling.capture_arguments.map_or(0, |bytes| bytes as usize) },
        counted: plan.operations.clone(),
        is_launched: launched.is_some(),
        programs,
        output: output.clone(),
        keep: None,
        is_followed: false,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut recorder = Recorder::start(&options, launched, plan.state.as_deref())?;
        recorder.run(plan.sampling.duration, plan.calls, std::future::pending::<()>()).await?;
        recorder.finish()
    })
}

/// A recording that goes on, with the command that it launched, if it did.
pub(super) struct Recorder {
    session: Session,
    launched: Option<Launched>,
    state: Option<StateFile>,
    output: PathBuf,
    pid: u32,
    end: &'static str,
    shows_progress: bool,
    signals: Signals,
    /// When a launched command was let go, `CLOCK_MONOTONIC` in nanoseconds.
    pub(super) released_ns: u64,
}

impl Recorder {
    /// Attaches, then lets a launched command go, and says so.
    pub(super) fn start(
        options: &Options,
        launched: Option<Launched>,
        state: Option<&Path>,
    ) -> anyhow::Result<Self> {
        let recorder = Self::begin(options, launched, state)?;
        note(&format!(
            "recording {} (process {}) at {} Hz into {}",
            options.target_name,
            options.pid,
            options.frequency_hz,
            options.output.display()
        ));
        if recorder.session.is_tls_late() {
            note(
                "warning: the server's TLS library is not attached to yet: first calls over TLS may be missing",
            );
        }
        Ok(Self { shows_progress: true, ..recorder })
    }

    /// Like [`Self::start`], and shows nothing as long as it records: the terminal is someone else's.
    pub(super) fn begin(
        options: &Options,
        mut launched: Option<Launched>,
        state: Option<&Path>,
    ) -> anyhow::Result<Self> {
        // Before it attaches: from here on they end what was begun in an orderly way.
        let signals = Signals::listen()?;
        let session = Session::start(options)?;
        for path in files_of(&options.output) {
            give_to_caller(&path);
        }
        let released_ns = now_ns();
        if let Some(launched) = &mut launched
            && let Err(error) = launched.release()
        {
            drop(session);
            for path in files_of(&options.output) {
                let _ = std::fs::remove_file(path);
            }
            return Err(error.into());
        }
        let state = state.map(|path| StateFile::create(path, options)).transpose()?;
        if options.is_asking {
            options.pids.iter().for_each(|pid| announce_asking(*pid));
        }
        let (output, pid) = (options.output.clone(), options.pid);
        Ok(Self {
            session,
            launched,
            state,
            output,
            pid,
            end: "",
            shows_progress: false,
            signals,
            released_ns,
        })
    }

    /// Our ends of a launched command's standard input and output, where these are pipes.
    pub(super) fn take_pipes(&mut self) -> Option<(ChildStdin, ChildStdout)> {
        self.launched.as_mut()?.take_pipes()
    }

    /// Why [`Self::run`] ended.
    pub(super) fn end_reason(&self) -> &'static str {
        self.end
    }

    /// Ends a recording that nobody wants.
    pub(super) fn discard(self) {
        drop(self.session);
        if let Some(mut launched) = self.launched {
            end_launched(&mut launched);
        }
    }

    /// Records until `duration` is over, so many counted calls have ended, the targets have ended, the user or `done` ends it.
    pub(super) async fn run<T>(
        &mut self,
        duration: Option<Duration>,
        calls: Option<u64>,
        done: impl Future<Output = T>,
    ) -> anyhow::Result<Option<T>> {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut wakeups = self.session.wakeups()?;
        let deadline = async {
            match duration {
                Some(duration) => tokio::time::sleep(duration).await,
                None => std::future::pending().await,
            }
        };
        let mut progress = ProgressLine::new();
        let mut ticks = 0_u32;
        let mut value = None;
        tokio::pin!(deadline, done);
        self.end = loop {
            tokio::select! {
                end = self.signals.next() => break end,
                () = &mut deadline => break "time is up",
                result = &mut done => {
                    value = Some(result);
                    break "done";
                }
                is_tick = async { tokio::select! { _ = tick.tick() => true, () = wakeups.next() => false } } => {
                    if let Err(error) = self.session.tick(!is_tick) {
                        progress.clear();
                        let last = self.session.progress();
                        give_up(&mut self.launched, &mut self.state, &error, &last);
                        return Err(error.into());
                    }
                    if !is_tick {
                        continue;
                    }
                    if calls.is_some_and(|calls| self.session.progress().calls >= calls) {
                        break ENOUGH_CALLS;
                    }
                    ticks = ticks.wrapping_add(1);
                    if ticks.is_multiple_of(TICKS_PER_LOOK) {
                        // Reaps a launched command that ended.
                        if let Some(launched) = &mut self.launched {
                            let _ = launched.try_wait();
                        }
                        if !self.session.targets_alive() {
                            break "target ended";
                        }
                        let now = self.session.progress();
                        if self.shows_progress {
                            progress.show(self.session.elapsed(), now.samples, now.lost());
                        }
                        if let Some(state) = &mut self.state {
                            state.update(&now);
                        }
                    }
                }
            }
        };
        progress.clear();
        Ok(value)
    }

    /// Ends the recording, and says what it holds.
    pub(super) fn finish(self) -> anyhow::Result<Recorded> {
        self.finish_before(|| (), true)
    }

    /// The same; `end` is called when all names were read, which need a living process, and before a launched command is ended.
    /// A recording that is not kept is not said to be anywhere.
    pub(super) fn finish_before(mut self, end: impl FnOnce(), is_kept: bool) -> anyhow::Result<Recorded> {
        let last = self.session.progress();
        let summary = match self.session.finish(self.end) {
            Ok(summary) => summary,
            Err(error) => {
                give_up(&mut self.launched, &mut self.state, &error, &last);
                return Err(error.into());
            }
        };
        end();
        // How it ended by itself, if it did.
        let status = self.launched.as_mut().and_then(|launched| launched.try_wait().ok().flatten());
        if let Some(launched) = &mut self.launched {
            end_launched(launched);
        }
        if let Some(state) = &mut self.state {
            state.end(self.end, &summary.progress);
        }
        let recording = super::recording::read(&self.output)?;
        let ended_early = self.end == "target ended";
        if ended_early {
            let time = duration(summary.duration.as_secs_f64());
            note(&format!(
                "process {} ended after {time}{}",
                self.pid,
                status.map(manner).unwrap_or_default()
            ));
        }
        let place = if is_kept { format!(": {}", self.output.display()) } else { String::new() };
        note(&format!("{}{place}", end_line(&recording, &summary)));
        Ok(Recorded { path: self.output, recording })
    }
}

/// Signals that end a recording and keep it. One that comes between two looks is not forgotten.
pub(super) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
}

impl Signals {
    /// Instead of ending the program, they wait to be asked for from here on.
    pub(super) fn listen() -> std::io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for the next one: the reason for a recording's end.
    pub(super) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "interrupted",
            _ = self.terminate.recv() => "terminated",
            _ = self.hang_up.recv() => "terminal closed",
        }
    }
}

/// Ends the launched command of a recording that failed, and tells `status` why it failed.
fn give_up(
    launched: &mut Option<Launched>,
    state: &mut Option<StateFile>,
    error: &crate::capture::Error,
    last: &Progress,
) {
    if let Some(launched) = launched {
        end_launched(launched);
    }
    if let Some(state) = state {
        state.end(&error.to_string(), last);
    }
}

/// How a launched command ended.
fn manner(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!(", with exit status {code}"),
        (None, Some(signal)) => {
            let name = Kill::try_from(signal)
                .map_or_else(|_| format!("signal {signal}"), |signal| signal.as_str().to_owned());
            format!(", killed by {name}{}", if status.core_dumped() { " (core dumped)" } else { "" })
        }
        (None, None) => String::new(),
    }
}

/// Samples, complete stacks and losses.
fn end_line(recording: &Recording, summary: &Summary) -> String {
    let completeness = Completeness::new(recording, &Functions::new(recording));
    let complete = completeness
        .complete_ratio()
        .map_or_else(String::new, |ratio| format!(", {} with complete stacks", percent(ratio)));
    let lost = summary.progress.lost();
    let causes: Vec<String> =
        summary.progress.losses.iter().map(|(cause, lost)| format!("{cause} {lost}")).collect();
    let causes = if causes.is_empty() { String::new() } else { format!(" ({})", causes.join(", ")) };
    format!(
        "{} in {}{complete}, {} lost{causes}",
        plural(summary.progress.samples, "sample", "samples"),
        duration(summary.duration.as_secs_f64()),
        count(lost)
    )
}

/// A command that we started does not outlive its recording.
fn end_launched(launched: &mut Launched) {
    let _ = launched.terminate(Kill::SIGTERM);
    let start = std::time::Instant::now();
    while start.elapsed() < TERMINATION_LIMIT {
        match launched.try_wait() {
            Ok(None) => std::thread::sleep(Duration::from_millis(5)),
            _ => return,
        }
    }
    let _ = launched.terminate(Kill::SIGKILL);
    let _ = launched.wait();
}

/// Says what is done to a server beyond watching it.
fn announce_asking(pid: u32) {
    let runtime = Process::open(pid).and_then(|process| runtime::detect(&process));
    let (name, way) = match runtime.as_ref().map(|runtime| runtime.name.as_str()) {
        Ok("java") => ("Java", "the JVM's attach mechanism: SIGQUIT, and files in its /tmp"),
        Ok("dotnet") => (".NET", "its diagnostics socket; it writes a file into its /tmp"),
        _ => return,
    };
    note(&format!(
        "process {pid} runs {name} and is asked for the names of its methods ({way}); --passive forbids that"
    ));
}

/// What would make the stacks of a recording better, once for each runtime.
fn better_stacks(recording: &Recording) -> Vec<String> {
    let mut texts = Vec::new();
    for process in &recording.processes {
        let advice = process.unwinding.as_ref().and_then(|unwinding| unwinding.advice.as_deref());
        let text = advice.map(|advice| format!("for better stacks of {}: {advice}", process.runtime.name));
        texts.extend(text.filter(|text| !texts.contains(text)));
    }
    texts
}

/// A path as a shell reads it.
pub(super) fn shell_word(path: &Path) -> String {
    let text = path.to_string_lossy();
    let is_plain = |character: char| character.is_ascii_alphanumeric() || "-_./+,:@%=".contains(character);
    if text.chars().all(is_plain) { text.into_owned() } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Durations are read as people write them; absurd ones are refused with a reason.
    #[test]
    fn durations() {
        assert_eq!(parse_duration("1m 30s"), Ok(Duration::from_secs(90)));
        for text in ["0s", "99y", "soon", "-3s", "99999999999999y", ""] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    /// A path with a quote survives a shell.
    #[test]
    fn shell_words() {
        assert_eq!(shell_word(Path::new("a/b-1.mcpprof")), "a/b-1.mcpprof");
        assert_eq!(shell_word(Path::new("it's here")), r"'it'\''s here'");
    }
}
