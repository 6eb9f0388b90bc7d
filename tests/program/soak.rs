//! Everything that starts and ends all the time, for long: no wrong name, and nothing that grows.
//!
//! `cargo xtask soak --minutes 10` runs it for longer than the tests do.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde_json::Value;
use tests::{Footprint, Profiler, Running, Workload};

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
    workload.add_library("library", "lib_one.so", &["-DFUNCTION=one_work"])?;
    workload.add_library("library", "lib_two.so", &["-DFUNCTION=two_work"])?;
    let process = workload.start()?.ready()?;

    let profiler = Profiler::new()?;
    let (pid, duration) = (process.pid().to_string(), format!("{seconds}s"));
    let options =
        ["record", "--pid", &pid, "--duration", &duration, "--frequency", "499", "-o", "soak.mcpprof"];
    finish_without_growth(profiler.start(&options)?, seconds)?;

    let report = profiler.report("soak.mcpprof")?;
    assert_eq!(report.lost(), 0, "{:#}", report.json["losses"]);
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
    // A program that lives for some milliseconds may be over on a busy machine before its tables are there, and so may a library.
    let all = report.samples();
    println!(
        "{all} samples: {right} of known functions below their callers, {shortened} without their callers"
    );
    let told: u64 = report.json["stacks"]["incomplete"]
        .as_object()
        .context("causes of incomplete stacks")?
        .values()
        .filter_map(Value::as_u64)
        .sum();
    assert!(right > 0 && shortened <= told, "{right} right, {shortened} without their callers, {told} told");
    for (name, _) in CALLS {
        report.function(name)?;
    }
    Ok(())
}

/// Waits for the end of a recording of so many seconds, in which the profiler does not grow. What waits in it while the machine is
/// busy comes and goes: the least that it needed counts.
fn finish_without_growth(running: Running, seconds: u64) -> Result<()> {
    running.wait_for_start()?;
    let begin = Instant::now();
    let least_between = |from: u64, to: u64| -> Result<Footprint> {
        let mut least: Option<Footprint> = None;
        for percent in (from..=to).step_by(2) {
            let until = Duration::from_millis(seconds * 10 * percent);
            std::thread::sleep(until.saturating_sub(begin.elapsed()));
            let now = Footprint::of(running.pid())?;
            least = Some(least.map_or(now, |least| least.least(&now)));
        }
        least.context("a range is not empty")
    };
    let early = least_between(25, 45)?;
    let late = least_between(70, 90)?;
    let outcome = running.finish()?;
    assert_eq!(outcome.code, Some(0), "{outcome:#?}");
    println!("early in {seconds} s: {early:?}; late: {late:?}");
    assert!(late.rss_bytes < early.rss_bytes + GROWTH_BYTES, "from {early:?} to {late:?}");
    assert!(late.map_bytes < early.map_bytes + GROWTH_BYTES, "from {early:?} to {late:?}");
    assert!(late.maps < early.maps + 20, "from {early:?} to {late:?}");
    Ok(())
}

/// Code that more is added to all the time has its callers all along.
#[test]
fn code_that_grows_stays_known() -> Result<()> {
    let process = Workload::compile_optimized("grows")?.start()?.ready()?;
    let pid = process.pid().to_string();
    let report = Profiler::new()?.record_and_report(5, 499, &["--pid", &pid])?;
    report.assert_complete(0.99);
    let share = report.function("run_made")?.total_ratio;
    // What is left is the kernel's work for the pages.
    assert!(share > 0.8, "{share}");
    Ok(())
}

/// Code that takes the place of other code all the time, with nothing there in between: what is shown is what ran there then. What
/// was sampled before the profiler knew of it has no callers, and that is told.
#[test]
fn code_that_is_unmapped_lends_its_name_to_none() -> Result<()> {
    let workload = Workload::compile_optimized("remaps")?;
    workload.add_library("library", "lib_one.so", &["-DFUNCTION=one_work", "-fomit-frame-pointer"])?;
    workload.add_library(
        "library",
        "lib_two.so",
        &["-DFUNCTION=two_work", "-DPLANTED", "-fomit-frame-pointer"],
    )?;
    let process = workload.start()?.ready()?;
    let profiler = Profiler::new()?;
    let pid = process.pid().to_string();
    let options =
        ["record", "--pid", &pid, "--duration", "12s", "--frequency", "999", "-o", "remaps.mcpprof"];
    finish_without_growth(profiler.start(&options)?, 12)?;

    let report = profiler.report("remaps.mcpprof")?;
    let (mut named, mut cut, mut other) = ([0; 3], 0, 0);
    let callers = ["run_made", "run_one", "run_two"];
    for (stack, weight) in profiler.folded("remaps.mcpprof")? {
        assert!(!stack.contains("run_never"), "{weight} samples of {stack}");
        // Behind the names of the process and the thread.
        let user: Vec<&str> = stack.split(';').skip(2).filter(|frame| !frame.ends_with("_[k]")).collect();
        let leaf = user.last().copied().unwrap_or_default();
        let works = match leaf {
            "one_work" => 1,
            "two_work" => 2,
            _ if leaf.starts_with("[jit]") => 0,
            _ => {
                other += weight;
                continue;
            }
        };
        match user.iter().position(|frame| callers.contains(frame)) {
            Some(at) => {
                assert_eq!(user[at], callers[works], "{weight} samples of {stack}");
                named[works] += weight;
            }
            None => {
                assert_eq!(user, [leaf], "{weight} samples without their caller");
                cut += weight;
            }
        }
    }
    let stacks = &report.json["stacks"];
    assert!(named.iter().all(|samples| *samples > 0), "{named:?}, {cut} cut, {other} others: {stacks:#}");
    // All that is cut has a cause: the kernel half learns of new code some milliseconds later.
    let told: u64 = ["unknown_code", "no_unwind_row", "broken_frame_pointer"]
        .into_iter()
        .map(|cause| stacks["incomplete"][cause].as_u64().unwrap_or(0))
        .sum();
    let complete = stacks["complete"].as_u64().unwrap_or(0);
    assert!(told >= cut, "{named:?}, {cut} cut, {other} others: {stacks:#}");
    assert!((told + complete) * 1000 >= report.samples() * 995, "{stacks:#}");
    Ok(())
}
