//! The built program, run as a user runs it.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::process::{Process, wait_until};
use crate::report::Report;

/// Longest run of a profiler in these tests, with room for a busy machine.
const TIMEOUT: Duration = Duration::from_secs(120);

/// Longest recording that makes up for a busy machine.
const MOST_SECONDS: f64 = 60.0;

/// A folder to run the profiler in.
#[derive(Debug)]
pub struct Profiler {
    folder: TempDir,
}

impl Profiler {
    /// With a new, empty current folder.
    pub fn new() -> Result<Self> {
        Ok(Self { folder: tempfile::tempdir()? })
    }

    /// Its current folder, removed at the end of the test.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A path in that folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder().join(name)
    }

    /// Runs to the end.
    pub fn run<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Result<Outcome> {
        self.start(arguments)?.finish()
    }

    /// Runs to the end, which must be a success.
    pub fn succeed<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Result<Outcome> {
        let outcome = self.run(arguments)?;
        ensure!(outcome.code == Some(0), "{outcome:#?}");
        Ok(outcome)
    }

    /// Starts it in the background.
    pub fn start<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Result<Running> {
        let program = program()?;
        let (stdout, stderr) = (tempfile::NamedTempFile::new()?, tempfile::NamedTempFile::new()?);
        let mut command = Command::new(program);
        command
            .args(arguments)
            .current_dir(self.folder())
            .env("RUST_BACKTRACE", "0")
            .stdin(Stdio::null())
            .stdout(File::create(stdout.path())?)
            .stderr(File::create(stderr.path())?);
        Ok(Running { process: Process::start(&mut command)?, stdout, stderr })
    }

    /// Starts a recording of a process that goes on until it is interrupted; returns once it has started.
    pub fn recording(&self, pid: u32, frequency: u32) -> Result<Running> {
        self.recording_with(pid, frequency, &[])
    }

    /// The same, with further options.
    pub fn recording_with(&self, pid: u32, frequency: u32, more: &[&str]) -> Result<Running> {
        let (pid, frequency) = (pid.to_string(), frequency.to_string());
        let options = ["record", "--pid", &pid, "--duration", "10m", "--frequency", &frequency];
        let running = self.start(&[&options[..], more, &["-o", "recording.mcpprof"]].concat())?;
        running.wait_for_start()?;
        Ok(running)
    }

    /// The calls that `calls` lists of the recording.
    pub fn calls(&self, options: &[&str]) -> Result<Vec<Value>> {
        let arguments = ["calls", "recording.mcpprof", "--limit", "100000", "--format", "json"];
        let outcome = self.succeed(&[&arguments, options].concat())?;
        let mut list: Value = serde_json::from_str(&outcome.stdout)?;
        let calls: Vec<Value> = serde_json::from_value(list["calls"].take())?;
        ensure!((&list["schema_version"], &list["total"]) == (&json!(1), &json!(calls.len())), "{list}");
        Ok(calls)
    }

    /// Waits until the calls that `calls` lists of a recording that goes on are as they should be.
    pub fn wait_for_calls(
        &self,
        what: &str,
        options: &[&str],
        is_wanted: impl Fn(&[Value]) -> bool,
    ) -> Result<()> {
        wait_until(what, Duration::from_secs(60), || {
            self.calls(options).ok().filter(|calls| is_wanted(calls)).map(drop)
        })
    }

    /// Records for some seconds what the arguments name, and reads the report of it.
    pub fn record_and_report(&self, seconds: u32, frequency: u32, target: &[&str]) -> Result<Report> {
        let (duration, frequency) = (format!("{seconds}s"), frequency.to_string());
        let options =
            ["record", "--duration", &duration, "--frequency", &frequency, "-o", "recording.mcpprof"];
        self.succeed(&[&options, target].concat())?;
        self.report("recording.mcpprof")
    }

    /// The same, again and for longer where a busy machine gave the target too little of a CPU for so many samples. Fails if
    /// even that is in vain.
    pub fn record_enough(
        &self,
        seconds: u32,
        frequency: u32,
        target: &[&str],
        samples: u64,
    ) -> Result<Report> {
        let mut report = self.record_and_report(seconds, frequency, target)?;
        if report.samples() < samples {
            let missing = samples as f64 / report.samples().max(1) as f64;
            let longer = (f64::from(seconds) * missing * 1.5).min(MOST_SECONDS) as u32;
            report = self.record_and_report(longer, frequency, target)?;
        }
        ensure!(report.samples() * 2 >= samples, "{} samples of {samples}", report.samples());
        Ok(report)
    }

    /// The report of a recording.
    pub fn report(&self, recording: &str) -> Result<Report> {
        let outcome = self.succeed(&["report", recording, "--format", "json"])?;
        Report::parse(&outcome.stdout)
    }

    /// The folded stacks of a recording: outermost first, separated by `;`, with their weight.
    pub fn folded(&self, recording: &str) -> Result<Vec<(String, u64)>> {
        self.folded_with(recording, &[])
    }

    /// The same, of asyncio's tasks below those who wait for them.
    pub fn folded_by_tasks(&self, recording: &str) -> Result<Vec<(String, u64)>> {
        self.folded_with(recording, &["--async-stacks"])
    }

    fn folded_with(&self, recording: &str, options: &[&str]) -> Result<Vec<(String, u64)>> {
        let command = ["export", recording, "--format", "folded", "--output", "stacks.folded"];
        self.succeed(&[&command, options].concat())?;
        let text = std::fs::read_to_string(self.path("stacks.folded"))?;
        let line = |line: &str| {
            let (stack, weight) = line.rsplit_once(' ').with_context(|| format!("no weight in {line:?}"))?;
            Ok((stack.to_owned(), weight.parse().with_context(|| format!("no number in {line:?}"))?))
        };
        text.lines().map(line).collect()
    }
}

/// A profiler in the background.
#[derive(Debug)]
pub struct Running {
    process: Process,
    stdout: tempfile::NamedTempFile,
    stderr: tempfile::NamedTempFile,
}

impl Running {
    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.process.signal(signal)
    }

    /// Its process ID.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// The most memory that it has had, in KiB.
    pub fn peak_kib(&self) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
        Ok(peak.trim().trim_end_matches(" kB").parse()?)
    }

    /// Waits until a recording has started.
    pub fn wait_for_start(&self) -> Result<()> {
        // The tables of a program of some hundred megabytes take the unoptimized profiler a while.
        wait_until("the recording starts", Duration::from_secs(180), || {
            self.stderr().ok()?.contains("recording ").then_some(())
        })
    }

    /// What it printed on standard output so far.
    pub fn stdout(&self) -> Result<String> {
        Ok(String::from_utf8_lossy(&std::fs::read(self.stdout.path())?).into_owned())
    }

    /// What it printed on standard error so far.
    pub fn stderr(&self) -> Result<String> {
        Ok(String::from_utf8_lossy(&std::fs::read(self.stderr.path())?).into_owned())
    }

    /// Waits for its end.
    pub fn finish(mut self) -> Result<Outcome> {
        let status = self.process.wait(TIMEOUT).with_context(|| self.stderr().unwrap_or_default())?;
        Ok(Outcome {
            code: status.code(),
            signal: status.signal(),
            stdout: std::fs::read_to_string(self.stdout.path()).context("stdout is not UTF-8")?,
            stderr: self.stderr()?,
            left_behind: self.process.group_lives(),
        })
    }
}

/// How a run ended.
#[derive(Debug)]
pub struct Outcome {
    /// Exit code, if it ended by itself.
    pub code: Option<i32>,
    /// Signal, if one ended it.
    pub signal: Option<i32>,
    /// All of standard output.
    pub stdout: String,
    /// All of standard error.
    pub stderr: String,
    /// Whether a process that it started still ran after its end.
    pub left_behind: bool,
}

impl Outcome {
    /// It failed as it should: this code, one line on standard error with each of these words, no trace of a panic,
    /// no result and nothing left.
    pub fn assert_fails(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code, Some(code), "{self:#?}");
        assert_eq!(self.stderr.lines().count(), 1, "one line on stderr: {self:#?}");
        for word in words {
            assert!(
                self.stderr.to_lowercase().contains(&word.to_lowercase()),
                "`{word}` is missing: {self:#?}"
            );
        }
        self.assert_clean();
        assert_eq!(self.stdout, "", "no result: {self:#?}");
    }

    /// No panic, no process and no pinned program left. Without these the kernel drops every program and map.
    pub fn assert_clean(&self) {
        assert!(!self.stderr.contains("panicked"), "{self:#?}");
        assert!(!self.left_behind, "a process is left: {self:#?}");
        let pinned: Vec<_> = std::fs::read_dir("/sys/fs/bpf")
            .into_iter()
            .flatten()
            .flatten()
            .filter(|entry| entry.file_name().to_string_lossy().contains("mcp"))
            .collect();
        assert!(pinned.is_empty(), "{pinned:?}");
    }
}

/// The built program.
pub fn program() -> Result<PathBuf> {
    crate::tools::require_root()?;
    let program = std::env::var_os("MCP_PROFILER").map(PathBuf::from);
    program.context("MCP_PROFILER is not set: run these tests with `cargo xtask test`")
}
