//! Everything that starts and ends all the time, for long: no wrong name, and nothing that grows.
//!
//! `cargo xtask soak --minutes 10` runs it for longer than the tests do.

use std::io::{BufRead as _, BufReader};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use tests::{Process, Profiler, Workload};

/// What a part of the program may call, from the outside in: a name of ours in any other place is wrong.
const CALLS: [(&str, &str); 5] = [
    ("thread_work", "thread"),
    ("process_work", "processes"),
    ("one_work", "run_one"),
    ("two_work", "run_two"),
    ("short_work", "main"),
];
/// How much more memory the profiler may have at the end than after its first third.
const GROWTH_BYTES: u64 = 8 << 20;

/// 100 threads, 50 processes a second, libraries that come and go.
#[test]
fn nothing_grows_and_no_name_is_wrong() -> Result<()> {
    let seconds = std::env::var("MCP_PROFILER_SOAK_SECONDS").ok();
    let seconds: u64 = seconds.map_or(Ok(24), |text| text.parse()).context("MCP_PROFILER_SOAK_SECONDS")?;
    let workload = Workload::compile_optimized("soak")?;
    workload.add_program("short")?;
    workload.add_library("library", "lib_one.so", "FUNCTION=one_work")?;
    workload.add_library("library", "lib_two.so", "FUNCTION=two_work")?;
    let mut process = Process::start(&mut workload.command())?;
    let mut line = String::new();
    BufReader::new(process.child().stdout.take().context("stdout is a pipe")?).read_line(&mut line)?;
    assert_eq!(line.trim(), "ready");

    let profiler = Profiler::new()?;
    let (pid, duration) = (process.pid().to_string(), format!("{seconds}s"));
    let options =
        ["record", "--pid", &pid, "--duration", &duration, "--frequency", "499", "-o", "soak.mcpprof"];
    let running = profiler.start(&options)?;
    let begin = Instant::now();
    let wait_until = |share: f64| {
        let until = Duration::from_secs_f64(seconds as f64 * share);
        std::thread::sleep(until.saturating_sub(begin.elapsed()));
    };
    wait_until(0.35);
    let early = Use::of(running.pid())?;
    wait_until(0.95);
    let late = Use::of(running.pid())?;
    let outcome = running.finish()?;
    assert_eq!(outcome.code, Some(0), "{outcome:#?}");
    assert!(late.rss_bytes < early.rss_bytes + GROWTH_BYTES, "from {early:?} to {late:?}");
    assert!(late.map_bytes < early.map_bytes + GROWTH_BYTES, "from {early:?} to {late:?}");
    assert!(late.maps < early.maps + 20, "from {early:?} to {late:?}");

    let report = profiler.report("soak.mcpprof")?;
    assert_eq!(report.lost(), 0);
    let (mut right, mut shortened) = (0, 0);
    for (stack, weight) in profiler.folded("soak.mcpprof")? {
        let frames: Vec<&str> = stack.split(';').collect();
        for (name, caller) in CALLS {
            let Some(at) = frames.iter().position(|frame| *frame == name) else { continue };
            // Before its tables were loaded, a new program's stacks end early. What there is must be right.
            match frames[..at].contains(&caller) {
                true => right += weight,
                false => shortened += weight,
            }
            for (_, other) in CALLS.iter().filter(|(_, other)| *other != caller && *other != "main") {
                assert!(!frames[..at].contains(other), "{name} is not called by {other}: {stack}");
            }
        }
    }
    assert!(right > 0 && shortened * 5 < right, "{right} right, {shortened} without their callers");
    for (name, _) in CALLS {
        report.function(name)?;
    }
    Ok(())
}

/// What the profiler needs at a moment.
#[derive(Debug)]
struct Use {
    rss_bytes: u64,
    /// Memory of its kernel maps, and how many there are.
    map_bytes: u64,
    maps: usize,
}

impl Use {
    fn of(pid: u32) -> Result<Self> {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let field = |text: &str, name: &str| -> Option<u64> {
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().next()?.parse().ok()
        };
        let rss_bytes = field(&status, "VmRSS:").context("VmRSS")? * 1024;
        let (mut map_bytes, mut maps) = (0, 0);
        for entry in std::fs::read_dir(format!("/proc/{pid}/fdinfo"))? {
            // It may be closed by now.
            let Ok(text) = std::fs::read_to_string(entry?.path()) else { continue };
            if field(&text, "map_id:").is_some() {
                map_bytes += field(&text, "memlock:").unwrap_or(0);
                maps += 1;
            }
        }
        Ok(Self { rss_bytes, map_bytes, maps })
    }
}
