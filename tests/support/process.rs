//! A child process that never outlives its test.

use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use tempfile::TempDir;

/// A process in a group of its own. Dropping it kills the group.
#[derive(Debug)]
pub struct Process {
    child: Child,
    folder: Option<Arc<TempDir>>,
}

impl Process {
    /// Starts it as the leader of a new process group.
    pub fn start(command: &mut Command) -> Result<Self> {
        Self::start_session(command.process_group(0))
    }

    /// Starts a command that makes itself the leader of a new session, and so of a group.
    pub(crate) fn start_session(command: &mut Command) -> Result<Self> {
        let program = command.get_program().display().to_string();
        let child = command.spawn().with_context(|| format!("cannot start {program}"))?;
        Ok(Self { child, folder: None })
    }

    /// Starts a shell whose children are interpreters that run a script each, and waits until they are there. They print
    /// nothing.
    pub fn start_scripts(scripts: &[(&Path, &Path)]) -> Result<Self> {
        let mut shell = Command::new("sh");
        shell.args(["-c", r#"while [ $# -gt 0 ]; do "$1" "$2" & shift 2; done; wait"#, "sh"]);
        scripts.iter().for_each(|(interpreter, script)| _ = shell.args([interpreter, script]));
        let process = Self::start(shell.stdin(Stdio::null()).stdout(Stdio::null()))?;
        let programs = scripts.iter().map(|(interpreter, _)| Ok(std::fs::canonicalize(interpreter)?));
        let programs = programs.collect::<Result<Vec<_>>>()?;
        wait_until("the interpreters run", Duration::from_secs(20), || {
            let children = process.children().ok()?;
            let run = children.iter().filter_map(|pid| std::fs::read_link(format!("/proc/{pid}/exe")).ok());
            let run: Vec<PathBuf> = run.collect();
            programs.iter().all(|program| run.contains(program)).then_some(())
        })?;
        Ok(process)
    }

    /// Waits until it says that it is ready: prints `ready`, to a pipe. What it prints after that is not read.
    pub fn ready(mut self) -> Result<Self> {
        let mut line = String::new();
        let output = self.child.stdout.take().context("its standard output is a pipe")?;
        BufReader::new(output).read_line(&mut line)?;
        ensure!(line.trim() == "ready", "it said {line:?}");
        Ok(self)
    }

    /// Keeps a folder until the process is dropped.
    pub(crate) fn keeping(mut self, folder: &Arc<TempDir>) -> Self {
        self.folder = Some(Arc::clone(folder));
        self
    }

    /// Process ID.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its standard streams, where they are pipes.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Sends a signal to the process alone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill(self.group(), signal).with_context(|| format!("cannot send {signal}"))
    }

    /// Waits until it ends. After `timeout` it is killed, which is an error.
    pub fn wait(&mut self, timeout: Duration) -> Result<ExitStatus> {
        let end = Instant::now() + timeout;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() > end {
                self.kill();
                bail!("process {} still runs after {timeout:?}", self.pid());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Whether it runs now.
    pub fn runs(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Whether any process of its group is left, once itself was waited for. One that has ended and waits for whoever inherited it is not.
    pub fn group_lives(&self) -> bool {
        let group = self.pid().to_string();
        let lives = |entry: std::fs::DirEntry| {
            let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
            // proc_pid_stat(5): a name in brackets, then the state, the parent and the group.
            let fields: Vec<&str> =
                stat.rsplit_once(") ").map_or_else(Vec::new, |(_, rest)| rest.split(' ').collect());
            matches!(fields[..], [state, _, own, ..] if own == group && !matches!(state, "Z" | "X"))
        };
        std::fs::read_dir("/proc").into_iter().flatten().flatten().any(lives)
    }

    /// CPU time of its children that have ended and were waited for, in seconds.
    pub fn children_seconds(&self) -> Result<f64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid()))?;
        // proc_pid_stat(5): `cutime` and `cstime` are fields 16 and 17, the name in brackets is the second.
        let fields = stat.rsplit_once(") ").context("no name")?.1.split(' ').skip(13).take(2);
        let ticks: u64 = fields.map(str::parse::<u64>).sum::<Result<u64, _>>()?;
        let per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)?.context("no clock ticks")?;
        Ok(ticks as f64 / per_second as f64)
    }

    /// Process IDs of its children.
    pub fn children(&self) -> Result<Vec<u32>> {
        let pid = self.pid();
        let list = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
        list.split_whitespace().map(|pid| Ok(pid.parse()?)).collect()
    }

    /// User and system time that it has used, as the kernel counts it.
    pub fn cpu_seconds(&self) -> Result<f64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid()))?;
        let fields = stat.rsplit_once(')').context("no name in stat")?.1;
        let ticks = |index: usize| -> Result<f64> {
            Ok(fields.split_whitespace().nth(index).context("short stat")?.parse()?)
        };
        // Fields 14 and 15 of proc(5), in ticks of 10 ms.
        Ok((ticks(11)? + ticks(12)?) / 100.0)
    }

    fn kill(&mut self) {
        // It may have ended already, and then there is nothing to kill.
        let _ = killpg(self.group(), Signal::SIGKILL);
        let _ = self.child.wait();
    }

    fn group(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Polls until `condition` gives a value; after `timeout` an error that says what was awaited.
pub fn wait_until<T>(what: &str, timeout: Duration, mut condition: impl FnMut() -> Option<T>) -> Result<T> {
    let end = Instant::now() + timeout;
    loop {
        if let Some(value) = condition() {
            return Ok(value);
        }
        if Instant::now() > end {
            bail!("{what}: not within {timeout:?}");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}
