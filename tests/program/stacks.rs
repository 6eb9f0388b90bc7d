//! Whole stacks of code that keeps no frame pointers.

use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};
use tests::{Process, Profiler, Report, Workload, assert_share, python};

/// Of 4000 samples a share of 0.75 is off by 0.7 points by chance alone (one standard deviation).
const FREQUENCY: u32 = 999;

/// Recursion to a known depth is shown at that depth, with the right shares above it.
#[test]
fn recursion_has_its_depth() -> Result<()> {
    let (report, stacks) = record(&mut Workload::compile_optimized("recursion")?.command(), 5)?;
    report.assert_complete(0.995);
    let leaves = [("three", 0.75), ("one", 0.25)];
    let (mut weights, mut total) = ([0; 2], 0);
    for (frames, weight) in &stacks {
        let Some(leaf) = leaves.iter().position(|(name, _)| has(frames, name)) else { continue };
        let recursion = frames.iter().filter(|frame| *frame == "recurse").count();
        assert_eq!(recursion, 31, "{frames:?}");
        assert_order(frames, &["main", "aligned", "recurse", leaves[leaf].0]);
        weights[leaf] += weight;
        total += weight;
    }
    for ((name, expected), weight) in leaves.into_iter().zip(weights) {
        let share = weight as f64 / total as f64;
        assert_share(name, share, expected, total as f64);
        let function = report.function(name)?;
        assert_share(name, function.total_ratio, expected, report.samples() as f64);
    }
    Ok(())
}

/// Below a signal handler is what it interrupted, also when the handler has a stack of its own.
#[test]
fn signal_handlers_stand_on_what_they_interrupt() -> Result<()> {
    let (report, stacks) = record(&mut Workload::compile_optimized("signals")?.command(), 5)?;
    report.assert_complete(0.995);
    for handler in ["on_same_stack", "on_other_stack"] {
        let handled: Vec<_> = stacks.iter().filter(|(frames, _)| has(frames, handler)).collect();
        assert!(!handled.is_empty(), "no {handler} among {stacks:?}");
        // A signal comes nearly always while the steps are done, and at times just between two rounds of them.
        let weight = |frame: &str| -> u64 {
            handled.iter().filter(|(frames, _)| has(frames, frame)).map(|(_, weight)| weight).sum()
        };
        assert_eq!(weight("main"), weight(handler), "{handled:?}");
        // On a busy machine there are few samples: two of them are not one in a hundred of many.
        assert!((weight("interrupted") + 2) * 100 > weight(handler) * 99, "{handled:?}");
        for (frames, _) in handled.iter().filter(|(frames, _)| has(frames, "interrupted")) {
            assert_order(frames, &["main", "interrupted", handler]);
        }
    }
    Ok(())
}

/// A function that the C library calls back stands on the library's function and its caller.
#[test]
fn callbacks_of_the_c_library_are_whole() -> Result<()> {
    let (report, stacks) = record(&mut Workload::compile_optimized("callback")?.command(), 3)?;
    report.assert_complete(0.995);
    let compare = report.function("compare")?;
    assert!(compare.total_ratio > 0.9, "{compare:?}");
    for (frames, _) in stacks.iter().filter(|(frames, _)| has(frames, "compare")) {
        // `qsort` may have jumped to `qsort_r`, and the library's debug information has more names for it.
        let library = frames.iter().find(|frame| frame.contains("qsort"));
        let library = library.with_context(|| format!("no qsort in {frames:?}"))?;
        assert_order(frames, &["main", library, "compare"]);
    }
    Ok(())
}

/// The interpreter's own frames reach from the evaluation loop to the start of the program.
#[test]
fn python_is_whole() -> Result<()> {
    let script = "
def recurse(left):
    return recurse(left - 1) if left else sorted(map(str, range(2000)), key=lambda text: text[::-1])
print('ready', flush=True)
while True:
    recurse(30)
";
    let (report, stacks) = record(&mut python(script)?, 4)?;
    report.assert_complete(0.99);
    let total: u64 = stacks.iter().map(|(_, weight)| weight).sum();
    let from_main: u64 =
        stacks.iter().filter(|(frames, _)| has(frames, "Py_BytesMain")).map(|(_, weight)| weight).sum();
    assert!(from_main as f64 >= 0.99 * total as f64, "{from_main} of {total} come from Py_BytesMain");
    Ok(())
}

type Stacks = Vec<(Vec<String>, u64)>;

/// Records what the command starts once it has printed `ready`: the report, and each stack from the outermost frame on.
fn record(command: &mut Command, seconds: u32) -> Result<(Report, Stacks)> {
    let process = Process::start(command.stdout(Stdio::piped()))?.ready()?;
    let profiler = Profiler::new()?;
    let report = profiler.record_enough(seconds, FREQUENCY, &["--pid", &process.pid().to_string()], 500)?;
    assert_eq!(report.lost(), 0);
    let stacks = profiler.folded("recording.mcpprof")?;
    let split = |stack: &str| stack.split(';').map(str::to_owned).collect();
    Ok((report, stacks.iter().map(|(stack, weight)| (split(stack), *weight)).collect()))
}

fn has(frames: &[String], name: &str) -> bool {
    frames.iter().any(|frame| frame == name)
}

/// The stack has these frames, and each stands on the one before.
fn assert_order(frames: &[String], names: &[&str]) {
    let mut rest = frames.iter();
    for name in names {
        assert!(rest.any(|frame| frame == name), "{names:?} are not in this order in {frames:?}");
    }
}
