//! The release build of the profiler, and `perf` beside it: started, interrupted and waited for.

use std::fs::File;
use std::io::{Read, Seek};
use std::os::unix::fs::FileExt as _;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use mcp_profiler::recording::Recording;
use nix::sys::signal::{Signal, kill};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;
use serde_json::Value;

use crate::command::{cargo, find_in_path, output_of, run, workspace};

/// A program that takes longer than this to end after Ctrl-C hangs.
const END_LIMIT: Duration = Duration::from_secs(120);
/// One that takes longer to begin will not.
const START_LIMIT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(1);
const PY_SPY: &str = "py-spy==0.4.3";

/// The release build of mcp-profiler.
pub(super) struct Profiler {
    program: PathBuf,
}

impl Profiler {
    pub(super) fn build() -> Result<Self> {
        eprintln!("Building the release version of mcp-profiler");
        let messages = output_of(
            cargo()
                .args(["build", "--release", "--package", "mcp-profiler", "--bin", "mcp-profiler"])
                .arg("--message-format=json-render-diagnostics"),
        )?;
        let program = messages
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .filter(|message| message["reason"] == "compiler-artifact")
            .find_map(|message| message["executable"].as_str().map(PathBuf::from))
            .context("cargo does not say where it put mcp-profiler")?;
        Ok(Self { program })
    }

    /// `mcp-profiler record --no-calls` until it is interrupted, or for `seconds`: stacks alone.
    pub(super) fn record(
        &self,
        pid: u32,
        frequency: u32,
        seconds: Option<f64>,
        output: &Path,
    ) -> Result<Running> {
        let duration = seconds.map_or("10h".to_owned(), |seconds| format!("{:.0}ms", seconds * 1e3));
        self.start_record(pid, frequency, output, &["--no-calls", "--duration", &duration])
    }

    /// `mcp-profiler record` until it is interrupted: stacks and calls.
    pub(super) fn record_calls(&self, pid: u32, frequency: u32, output: &Path) -> Result<Running> {
        self.start_record(pid, frequency, output, &["--duration", "10h"])
    }

    fn start_record(&self, pid: u32, frequency: u32, output: &Path, options: &[&str]) -> Result<Running> {
        let mut command = Command::new(&self.program);
        command.args(["record", "--pid", &pid.to_string()]).args(options);
        command.args(["--frequency", &frequency.to_string(), "-o"]).arg(output);
        Running::start(&mut command)
    }

    /// `mcp-profiler flame-graph` of a process until it is interrupted.
    pub(super) fn flame_graph(&self, pid: u32, output: &Path) -> Result<Running> {
        let mut command = Command::new(&self.program);
        command.args(["flame-graph", "--pid", &pid.to_string(), "--duration", "10h", "--output"]).arg(output);
        Running::start(&mut command)
    }
}

pub(super) fn find_perf() -> Result<PathBuf> {
    find_in_path("perf").context("perf is missing. Run: apt-get install linux-perf")
}

/// `perf record -g` until it is interrupted.
pub(super) fn perf(pid: u32, frequency: u32, output: &Path) -> Result<Running> {
    let mut command = Command::new(find_perf()?);
    command.args(["record", "-g", "-F", &frequency.to_string(), "-p", &pid.to_string(), "-o"]).arg(output);
    Running::start(&mut command)
}

/// `perf record --call-graph dwarf` until it is interrupted: copies of stacks, which perf walks later.
pub(super) fn perf_dwarf(pid: u32, frequency: u32, output: &Path) -> Result<Running> {
    let mut command = Command::new(find_perf()?);
    command.args(["record", "--call-graph", "dwarf", "-F", &frequency.to_string()]);
    command.args(["-p", &pid.to_string(), "-o"]).arg(output);
    Running::start(&mut command)
}

/// py-spy, which is installed into a folder of its own if it is not there.
pub(super) fn find_py_spy() -> Result<PathBuf> {
    let folder = workspace().join("target/py-spy");
    let program = folder.join("bin/py-spy");
    if !program.is_file() {
        run(Command::new("python3").args(["-m", "venv"]).arg(&folder))?;
        run(Command::new(folder.join("bin/pip")).args(["install", "--quiet", PY_SPY]))?;
    }
    Ok(program)
}

/// `py-spy record` until it is interrupted.
pub(super) fn py_spy(pid: u32, frequency: u32, output: &Path) -> Result<Running> {
    let mut command = Command::new(find_py_spy()?);
    command.args(["record", "--rate", &frequency.to_string(), "--format", "raw"]);
    command.args(["--pid", &pid.to_string(), "--output"]).arg(output);
    Running::start(&mut command)
}

/// The number of samples in a file of `py-spy record --format raw`: a stack and its count on each line.
pub(super) fn py_spy_samples(raw: &str) -> u64 {
    raw.lines().filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok()).sum()
}

/// The number of samples that `perf record` says it wrote; it says none when there were none.
pub(super) fn perf_samples(messages: &str) -> u64 {
    let words: Vec<&str> = messages.split([' ', '(', ')']).collect();
    words.windows(2).find(|pair| pair[1] == "samples").and_then(|pair| pair[0].parse().ok()).unwrap_or(0)
}

/// A profiler at work; killed when dropped.
pub(super) struct Running {
    name: String,
    process: Child,
    messages: File,
    /// Just before it was started: `CLOCK_MONOTONIC` in nanoseconds.
    pub(super) started_ns: u64,
}

impl Running {
    pub(super) fn start(command: &mut Command) -> Result<Self> {
        let name = command.get_program().display().to_string();
        // A file and not a pipe: nobody reads while it runs.
        let messages = tempfile::tempfile()?;
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(messages.try_clone()?);
        let started_ns = now_ns()?;
        let process = command.spawn().with_context(|| format!("cannot run {name}"))?;
        Ok(Self { name, process, messages, started_ns })
    }

    pub(super) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Waits until it says that it records: it is attached then.
    pub(super) fn wait_for_recording(&mut self) -> Result<()> {
        let start = Instant::now();
        while start.elapsed() < START_LIMIT {
            self.check()?;
            // Its place in the file is shared with the program that writes it: it must not be moved.
            let mut said = vec![0; 64 << 10];
            let length = self.messages.read_at(&mut said, 0)?;
            if String::from_utf8_lossy(&said[..length]).contains("recording ") {
                return Ok(());
            }
            std::thread::sleep(POLL);
        }
        bail!("{} did not begin to record within {} s", self.name, START_LIMIT.as_secs())
    }

    /// CPU time so far, of all its threads.
    pub(super) fn cpu_time(&self) -> Result<Duration> {
        cpu_time(self.pid())
    }

    /// Fails if it has ended, with what it said.
    pub(super) fn check(&mut self) -> Result<()> {
        match self.process.try_wait()? {
            None => Ok(()),
            Some(status) => Err(self.failure(status)),
        }
    }

    /// `true` once it has ended well.
    pub(super) fn has_ended(&mut self) -> Result<bool> {
        match self.process.try_wait()? {
            None => Ok(false),
            Some(status) if status.success() => Ok(true),
            Some(status) => Err(self.failure(status)),
        }
    }

    /// Waits until it ends by itself.
    pub(super) fn wait(&mut self) -> Result<()> {
        let status = self.process.wait()?;
        if status.success() { Ok(()) } else { Err(self.failure(status)) }
    }

    /// Sends Ctrl-C, waits for the end, and returns how long that took and what the program said.
    pub(super) fn interrupt(mut self) -> Result<(Duration, String)> {
        self.check()?;
        let start = Instant::now();
        kill(Pid::from_raw(i32::try_from(self.pid()).expect("process IDs fit")), Signal::SIGINT)?;
        while start.elapsed() < END_LIMIT {
            if let Some(status) = self.process.try_wait()? {
                let took = start.elapsed();
                // perf puts its data in order and then ends by the signal it got.
                let ended_well = status.success() || status.signal() == Some(Signal::SIGINT as i32);
                return if ended_well { Ok((took, self.messages()?)) } else { Err(self.failure(status)) };
            }
            std::thread::sleep(POLL);
        }
        bail!("{} did not end within {} s after Ctrl-C", self.name, END_LIMIT.as_secs())
    }

    fn failure(&mut self, status: ExitStatus) -> anyhow::Error {
        let said = self.messages().unwrap_or_default();
        anyhow::anyhow!("{} ended too early or failed ({status}). It said:\n{}", self.name, said.trim())
    }

    fn messages(&mut self) -> Result<String> {
        let mut bytes = Vec::new();
        self.messages.rewind()?;
        self.messages.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It has ended in all cases but an error.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// CPU time of a process since its start.
pub(super) fn cpu_time(pid: u32) -> Result<Duration> {
    let pid = Pid::from_raw(i32::try_from(pid).expect("the kernel's process IDs fit"));
    let clock = ClockId::pid_cpu_clock_id(pid).context("the process ended")?;
    Ok(Duration::from(clock.now().context("the process ended")?))
}

/// `CLOCK_MONOTONIC`, the clock of all timestamps of a recording, in nanoseconds.
pub(super) fn now_ns() -> Result<u64> {
    let now = Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC)?);
    u64::try_from(now.as_nanos()).context("the clock is broken")
}

/// What a recording lost, of all causes.
pub(super) fn losses(recording: &Recording) -> u64 {
    recording.losses.values().sum()
}

/// Fails on a recording without samples: nothing was measured then.
pub(super) fn ensure_samples(recording: &Recording) -> Result<()> {
    ensure!(!recording.samples.is_empty(), "the recording of a busy server holds no sample");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every line counts, also one without a stack.
    #[test]
    fn py_spy_samples_are_counted() {
        assert_eq!(py_spy_samples("main (a b.py:3);f (a.py:1) 12\nmain (a.py:4) 3\n"), 15);
        assert_eq!(py_spy_samples(""), 0);
    }

    /// perf's last line, with and without samples.
    #[test]
    fn perf_says_how_many_samples_it_took() {
        let some = "[ perf record: Captured and wrote 0.123 MB perf.data (415 samples) ]";
        assert_eq!(perf_samples(some), 415);
        assert_eq!(perf_samples("[ perf record: Captured and wrote 0.001 MB perf.data ]"), 0);
    }
}
