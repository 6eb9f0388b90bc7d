//! `start`, `status`, `stop`: recordings that outlive the terminal.
//!
//! `start` runs `record` in a session of its own. The two talk through a small state file: `record` writes how far
//! it is, `status` reads it, and `stop` sends SIGINT, which ends a recording early and keeps it.

use std::fs::{DirBuilder, File};
use std::io::Read;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use clap::Args;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::record::{SamplingArguments, TargetArguments, no_target, shell_word};
use super::terminal::{Format, note, print};
use crate::capture::{Options, Progress};
use crate::output::units::{count, duration};
use crate::target::{Caller, Process};

/// How long attaching may take before `start` gives up waiting for it.
const START_LIMIT: Duration = Duration::from_secs(30);
/// How long `stop` waits for names to be looked up and the file to be closed.
const STOP_LIMIT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);
/// The most of a state file or a log that is read, in bytes.
const READ_LIMIT: u64 = 64 << 10;

/// Options of `start`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  sudo mcp-profiler start --mcp my-custom-mcp --duration 60s
  sudo mcp-profiler start --pid 4711 -o night.mcpprof
  sudo mcp-profiler status
  sudo mcp-profiler stop

The recording goes on when this terminal is closed. `stop` ends it and keeps it.")]
pub(super) struct StartArguments {
    #[command(flatten)]
    target: TargetArguments,
    #[command(flatten)]
    sampling: SamplingArguments,
    /// File to write [default: NAME-PID-TIME.mcpprof in the current folder]
    #[arg(short, long, value_name = "FILE", help_heading = "Recording")]
    output: Option<PathBuf>,
}

/// Options of `status`.
#[derive(Args, Debug)]
#[command(after_help = "\
Example:
  sudo mcp-profiler status")]
pub(super) struct StatusArguments {
    /// How to print it
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    format: Format,
}

/// Options of `stop`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  sudo mcp-profiler stop                 the only recording that runs
  sudo mcp-profiler stop --mcp filesystem
  sudo mcp-profiler stop --all")]
pub(super) struct StopArguments {
    /// The recording of this server
    #[arg(long, value_name = "NAME")]
    mcp: Option<String>,
    /// The recording of this process
    #[arg(long, value_name = "PID", conflicts_with = "mcp")]
    pid: Option<u32>,
    /// All background recordings
    #[arg(long, conflicts_with_all = ["mcp", "pid"])]
    all: bool,
}

/// What a background recording says of itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct State {
    /// The profiler's own process, and when that started: a process ID alone can be someone else's later.
    profiler_pid: u32,
    profiler_start_ticks: u64,
    target_name: String,
    target_pid: u32,
    output: PathBuf,
    started_unix_ms: i64,
    samples: u64,
    lost: u64,
    /// Why it ended, once it has.
    ended: Option<String>,
}

/// The state file of this recording.
#[derive(Debug)]
pub(super) struct StateFile {
    path: PathBuf,
    state: State,
}

impl StateFile {
    pub(super) fn create(path: &Path, options: &Options) -> anyhow::Result<Self> {
        let pid = std::process::id();
        let state = State {
            profiler_pid: pid,
            profiler_start_ticks: Process::open(pid)?.stat()?.start_ticks,
            target_name: options.target_name.clone(),
            target_pid: options.pid,
            output: std::path::absolute(&options.output)?,
            started_unix_ms: jiff::Timestamp::now().as_millisecond(),
            samples: 0,
            lost: 0,
            ended: None,
        };
        let file = Self { path: path.to_owned(), state };
        file.write();
        Ok(file)
    }

    pub(super) fn update(&mut self, progress: &Progress) {
        self.state.samples = progress.samples;
        self.state.lost = progress.lost();
        self.write();
    }

    pub(super) fn end(&mut self, reason: &str, progress: &Progress) {
        self.state.ended = Some(reason.to_owned());
        self.update(progress);
    }

    /// Replaces the file as a whole, so that nobody reads half of it. A recording does not fail for its state.
    fn write(&self) {
        let temporary = self.path.with_extension("new");
        if let Ok(json) = serde_json::to_vec(&self.state)
            && std::fs::write(&temporary, json).is_ok()
        {
            let _ = std::fs::rename(&temporary, &self.path);
        }
    }
}

/// Starts a recording in the background and waits until it records.
pub(super) fn start(arguments: &StartArguments) -> anyhow::Result<()> {
    if arguments.target.request().is_none() {
        return Err(no_target());
    }
    let folder = state_folder()?;
    let own = Process::open(std::process::id())?.stat()?;
    let id = format!("{}-{}", std::process::id(), own.start_ticks);
    let (state, log) = (folder.join(format!("{id}.json")), folder.join(format!("{id}.log")));
    let log_file = File::create(&log)?;

    let mut command = Command::new(std::env::current_exe()?);
    command.arg("record").arg("--state").arg(&state);
    command.args(["--frequency", &arguments.sampling.frequency.to_string()]);
    if arguments.sampling.passive {
        command.arg("--passive");
    }
    if arguments.sampling.no_calls {
        command.arg("--no-calls");
    }
    if let Some(bytes) = arguments.sampling.capture_arguments {
        command.arg(format!("--capture-arguments={bytes}"));
    }
    if let Some(duration) = arguments.sampling.duration {
        command.args(["--duration", &format!("{}ms", duration.as_millis())]);
    }
    if let Some(output) = &arguments.output {
        command.arg("--output").arg(output);
    }
    let target = &arguments.target;
    if let Some(name) = &target.mcp {
        command.arg("--mcp").arg(name);
    }
    if let Some(pid) = target.pid {
        command.args(["--pid", &pid.to_string()]);
    }
    if let Some(file) = &target.config {
        command.arg("--config").arg(file);
    }
    if target.launch {
        command.arg("--launch");
    }
    if !target.command.is_empty() {
        command.arg("--").args(&target.command);
    }
    command.stdin(Stdio::null()).stdout(log_file.try_clone()?).stderr(log_file);
    // SAFETY: `setsid` is a system call without any effect on this process's memory, allowed after a fork.
    unsafe {
        command.pre_exec(|| nix::unistd::setsid().map(drop).map_err(Into::into));
    }
    let mut child = command.spawn()?;
    let begin = Instant::now();
    loop {
        if let Some(state) = read_state(&state) {
            note(&format!(
                "recording {} (process {}) in the background into {}",
                state.target_name,
                state.target_pid,
                state.output.display()
            ));
            let sudo = if Caller::from_sudo().is_some() { "sudo " } else { "" };
            note(&format!(
                "`{sudo}mcp-profiler status` shows how far it is, `{sudo}mcp-profiler stop` ends it"
            ));
            return Ok(());
        }
        if child.try_wait()?.is_some() || begin.elapsed() > START_LIMIT {
            let _ = child.kill();
            let said = read_limited(&log).unwrap_or_default();
            let _ = std::fs::remove_file(&log);
            let last = said.lines().last().unwrap_or("the recording did not start").to_owned();
            anyhow::bail!("{}", last.strip_prefix("error: ").unwrap_or(&last));
        }
        std::thread::sleep(POLL);
    }
}

#[derive(Serialize)]
struct StatusList<'rows> {
    schema_version: u32,
    recordings: &'rows [Status<'rows>],
}

#[derive(Serialize)]
struct Status<'state> {
    running: bool,
    seconds: f64,
    #[serde(flatten)]
    state: &'state State,
}

/// Shows all background recordings, those that ended too.
pub(super) fn status(arguments: &StatusArguments) -> anyhow::Result<()> {
    let states = states()?;
    let now_ms = jiff::Timestamp::now().as_millisecond();
    let rows: Vec<Status<'_>> = states
        .iter()
        .map(|(_, state)| Status {
            running: is_running(state),
            seconds: (now_ms - state.started_unix_ms).max(0) as f64 / 1e3,
            state,
        })
        .collect();
    print(|out| {
        if arguments.format == Format::Json {
            return crate::output::json::write_json(
                out,
                &StatusList { schema_version: 1, recordings: &rows },
            );
        }
        if rows.is_empty() {
            writeln!(out, "No background recordings. `mcp-profiler start --mcp NAME` starts one.")?;
            if !nix::unistd::Uid::effective().is_root() {
                writeln!(out, "Those that were started with sudo: `sudo mcp-profiler status`.")?;
            }
            return Ok(());
        }
        for Status { running, seconds, state } in &rows {
            let how = match (running, &state.ended) {
                (_, Some(reason)) => format!("ended ({reason})"),
                (true, None) => format!("recording since {}", duration(*seconds)),
                (false, None) => "was killed".to_owned(),
            };
            writeln!(out, "{} (process {}): {how}", state.target_name, state.target_pid)?;
            writeln!(out, "  {} samples, {} lost", count(state.samples), count(state.lost))?;
            writeln!(out, "  {}", state.output.display())?;
        }
        Ok(())
    })
}

/// Ends background recordings and waits until their files are complete.
pub(super) fn stop(arguments: &StopArguments) -> anyhow::Result<()> {
    let states = states()?;
    let is_meant = |state: &State| {
        arguments.mcp.as_ref().is_none_or(|name| *name == state.target_name)
            && arguments.pid.is_none_or(|pid| pid == state.target_pid || pid == state.profiler_pid)
    };
    let (running, over): (Vec<_>, Vec<_>) =
        states.into_iter().filter(|(_, state)| is_meant(state)).partition(|(_, state)| is_running(state));
    if running.len() > 1 && !arguments.all {
        let names: Vec<String> =
            running.iter().map(|(_, state)| format!("--pid {}", state.target_pid)).collect();
        anyhow::bail!("{} recordings run: choose one ({}), or --all", running.len(), names.join(", "));
    }
    if running.is_empty() && over.is_empty() {
        anyhow::bail!("no such background recording: `mcp-profiler status` shows those there are");
    }
    for (path, state) in &running {
        kill(Pid::from_raw(state.profiler_pid.cast_signed()), Signal::SIGINT)
            .map_err(|error| anyhow::anyhow!("cannot stop process {}: {error}", state.profiler_pid))?;
        let begin = Instant::now();
        while is_running(state) {
            if begin.elapsed() > STOP_LIMIT {
                anyhow::bail!(
                    "process {} does not end; what it recorded is in {}",
                    state.profiler_pid,
                    state.output.display()
                );
            }
            std::thread::sleep(POLL);
        }
        report_end(path);
    }
    // Those that had ended before are told once more, and then forgotten.
    over.iter().for_each(|(path, _)| report_end(path));
    Ok(())
}

/// Says where a recording that has ended is, and forgets it.
fn report_end(path: &Path) {
    let log = path.with_extension("log");
    if let Some(state) = read_state(path) {
        let said = read_limited(&log).unwrap_or_default();
        for line in
            said.lines().filter(|line| !line.starts_with("recording ") && !line.starts_with("look at it"))
        {
            note(line);
        }
        note(&format!("look at it with: mcp-profiler report {}", shell_word(&state.output)));
    }
    let _ = std::fs::remove_file(path);
    let _ = std::fs::remove_file(log);
}

/// Where background recordings keep their state: only this user can write there.
fn state_folder() -> anyhow::Result<PathBuf> {
    let base = if nix::unistd::Uid::effective().is_root() {
        PathBuf::from("/run")
    } else {
        std::env::var_os("XDG_RUNTIME_DIR")
            .map(PathBuf::from)
            .ok_or_else(|| anyhow::anyhow!("XDG_RUNTIME_DIR is not set: run mcp-profiler with sudo"))?
    };
    let folder = base.join("mcp-profiler");
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&folder)
        .map_err(|error| anyhow::anyhow!("cannot make {}: {error}", folder.display()))?;
    Ok(folder)
}

/// All background recordings that are known, the oldest first.
fn states() -> anyhow::Result<Vec<(PathBuf, State)>> {
    let mut states: Vec<(PathBuf, State)> = std::fs::read_dir(state_folder()?)?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        .filter_map(|path| read_state(&path).map(|state| (path, state)))
        .collect();
    states.sort_by_key(|(_, state)| state.started_unix_ms);
    Ok(states)
}

fn read_state(path: &Path) -> Option<State> {
    serde_json::from_str(&read_limited(path)?).ok()
}

fn read_limited(path: &Path) -> Option<String> {
    let mut text = String::new();
    File::open(path).ok()?.take(READ_LIMIT).read_to_string(&mut text).ok()?;
    Some(text)
}

fn is_running(state: &State) -> bool {
    Process::open(state.profiler_pid)
        .and_then(|process| process.stat())
        .is_ok_and(|stat| !stat.ended() && stat.start_ticks == state.profiler_start_ticks)
}
