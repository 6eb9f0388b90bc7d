//! What recording costs processes that have nothing to do with it: a typed tracepoint runs at the end of every system call of
//! the host, and, where a recorded server has a client here, one at the start of each.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::getppid;

use super::profiler::{Profiler, Running};
use super::statistics::Estimate;
use super::table;

/// System calls that are timed together.
const CALLS: u32 = 20_000;
/// Stretches of so many calls in a slice, of which the quickest counts: the others were interrupted.
const STRETCHES: u32 = 25;
/// From the start of a recording to the measurement: its tables are loaded by then, and clients are known.
const SETTLE: Duration = Duration::from_secs(2);
const HERTZ: u32 = 99;

#[derive(Clone, Copy, PartialEq)]
enum Recorded {
    Nothing,
    WithoutClient,
    WithClient,
}

impl Recorded {
    const ALL: [Self; 3] = [Self::Nothing, Self::WithoutClient, Self::WithClient];

    fn name(self) -> &'static str {
        match self {
            Self::Nothing => "nothing is recorded",
            Self::WithoutClient => "a server is recorded",
            Self::WithClient => "its client is on this host",
        }
    }
}

pub(super) fn run(profiler: &Profiler, rounds: u32) -> Result<()> {
    let mut slices: [Vec<[f64; 2]>; 3] = Default::default();
    for round in 0..rounds as usize {
        for turn in 0..Recorded::ALL.len() {
            let index = (round + turn) % Recorded::ALL.len();
            slices[index].push(slice(Recorded::ALL[index], profiler)?);
        }
        eprintln!("round {} of {rounds}", round + 1);
    }
    let median = |slices: &[[f64; 2]], call: usize| {
        Estimate::of(&slices.iter().map(|slice| slice[call]).collect::<Vec<_>>()).median
    };
    let rows: Vec<_> = Recorded::ALL
        .iter()
        .zip(&slices)
        .map(|(recorded, own)| {
            let [getppid, read] = [0, 1].map(|call| median(own, call));
            let more = |call: usize| median(own, call) - median(&slices[0], call);
            [
                recorded.name().to_owned(),
                format!("{getppid:.0}"),
                format!("{:+.0}", more(0)),
                format!("{read:.0}"),
                format!("{:+.0}", more(1)),
            ]
        })
        .collect();
    table::print(["while", "getppid, ns", "more", "read, ns", "more"], &rows);
    println!("CPU time of a system call of another process, the median of {rounds} slices");
    Ok(())
}

/// CPU time of `getppid` and of `read` of one byte, in nanoseconds.
fn slice(recorded: Recorded, profiler: &Profiler) -> Result<[f64; 2]> {
    let folder = tempfile::tempdir()?;
    let mut server = Echo::start()?;
    let recording = || profiler.record_calls(server.process.id(), HERTZ, &folder.path().join("recording"));
    let running: Option<Running> = if recorded == Recorded::Nothing { None } else { Some(recording()?) };
    std::thread::sleep(SETTLE);
    if recorded == Recorded::WithClient {
        for _ in 0..20 {
            server.call()?;
            std::thread::sleep(SETTLE / 20);
        }
    }
    let mut zero = File::open("/dev/zero")?;
    let getppid = quickest(|| {
        std::hint::black_box(getppid());
        Ok(())
    })?;
    let read = quickest(|| Ok(zero.read_exact(&mut [0])?))?;
    running.map(Running::interrupt).transpose()?;
    Ok([getppid, read])
}

fn quickest(mut call: impl FnMut() -> Result<()>) -> Result<f64> {
    let now = || -> Result<f64> {
        Ok(Duration::from(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?).as_secs_f64() * 1e9)
    };
    let mut least = f64::INFINITY;
    for _ in 0..STRETCHES {
        let start = now()?;
        (0..CALLS).try_for_each(|_| call())?;
        least = least.min((now()? - start) / f64::from(CALLS));
    }
    Ok(least)
}

/// A process that says what it is told, line by line; killed when dropped.
struct Echo {
    process: Child,
    answers: BufReader<std::process::ChildStdout>,
}

impl Echo {
    fn start() -> Result<Self> {
        let mut process = Command::new("sed")
            .arg("--unbuffered")
            .arg("")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let answers = BufReader::new(process.stdout.take().context("stdout is a pipe")?);
        Ok(Self { process, answers })
    }

    fn call(&mut self) -> Result<()> {
        let stdin = self.process.stdin.as_mut().context("stdin is a pipe")?;
        stdin.write_all(b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\"}\n")?;
        self.answers.read_line(&mut String::new())?;
        Ok(())
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
