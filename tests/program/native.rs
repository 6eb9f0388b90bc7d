//! Native code in every form that programs come in: whole stacks, of the right depth, with the right shares of CPU time.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};
use tests::{Process, Profiler, Report, Workload, require};

/// Enough samples for 2 points also on a busy machine, where the workload gets a part of a CPU only: of 6000 samples a
/// share of 0.5 is off by 0.65 points by chance alone (one standard deviation).
const FREQUENCY: u32 = 1999;
const SECONDS: u32 = 8;
/// 3 : 2 : 1.
const SPLIT: [(&str, f64); 3] = [("three", 0.5), ("two", 1.0 / 3.0), ("one", 1.0 / 6.0)];

/// What was recorded: the report, and each stack from the outermost frame on with its weight.
struct Recorded {
    report: Report,
    stacks: Vec<(Vec<String>, u64)>,
}

/// Records a process that runs already.
fn record(process: &Process) -> Result<Recorded> {
    let profiler = Profiler::new()?;
    let report = profiler.record_and_report(SECONDS, FREQUENCY, &["--pid", &process.pid().to_string()])?;
    assert_eq!(report.lost(), 0, "{:#}", report.json["losses"]);
    assert!(report.samples() > 1000, "{} samples", report.samples());
    report.assert_complete(0.995);
    let split = |stack: &str| stack.split(';').map(str::to_owned).collect();
    let folded = profiler.folded("recording.mcpprof")?;
    Ok(Recorded { report, stacks: folded.iter().map(|(stack, weight)| (split(stack), *weight)).collect() })
}

/// Starts what prints `ready`.
fn started(command: &mut Command) -> Result<Process> {
    let mut process = Process::start(command.stdout(Stdio::piped()))?;
    let mut line = String::new();
    BufReader::new(process.child().stdout.take().context("stdout is a pipe")?).read_line(&mut line)?;
    assert_eq!(line.trim(), "ready");
    Ok(process)
}

impl Recorded {
    /// Self and total shares of the three functions are 3 : 2 : 1 within 2 points. `prefix` stands before each name.
    fn assert_split(&self, prefix: &str) -> Result<()> {
        let functions = SPLIT.map(|(name, _)| self.report.function(&format!("{prefix}{name}")));
        let functions = functions.into_iter().collect::<Result<Vec<_>>>()?;
        // Interrupts are the kernel's own time, below the function that they hit.
        let own: f64 = functions.iter().map(|function| function.self_ratio).sum();
        let all: f64 = functions.iter().map(|function| function.total_ratio).sum();
        assert!(all > 0.95, "{functions:?}");
        for (function, (name, expected)) in functions.iter().zip(SPLIT) {
            let shares = [function.self_ratio / own, function.total_ratio / all];
            for share in shares {
                assert!(
                    (share - expected).abs() < 0.02,
                    "{name} has {shares:?}, not {expected}: {functions:?}"
                );
            }
        }
        Ok(())
    }

    /// Below each of the three functions are exactly 31 of `recurse`, and below these the `base`.
    fn assert_depth(&self, prefix: &str, base: &str, leaves: &[&str]) {
        let recurse = format!("{prefix}recurse");
        for (frames, weight) in &self.stacks {
            let is_leaf = |frame: &String| leaves.iter().any(|leaf| *frame == format!("{prefix}{leaf}"));
            let Some(leaf) = frames.iter().position(is_leaf) else { continue };
            let depth = frames[..leaf].iter().filter(|frame| **frame == recurse).count();
            assert_eq!(depth, 31, "{weight} samples: {frames:?}");
            let first = frames.iter().position(|frame| *frame == recurse).expect("counted just before");
            assert!(frames[..first].iter().any(|frame| frame == base), "no {base} below {frames:?}");
        }
    }

    fn assert_known(&self, prefix: &str, base: &str) -> Result<()> {
        self.assert_split(prefix)?;
        self.assert_depth(prefix, base, &SPLIT.map(|(name, _)| name));
        Ok(())
    }
}

/// A C program, linked as most are.
#[test]
fn c_is_known() -> Result<()> {
    let workload = Workload::compile_optimized("split")?;
    record(&started(&mut workload.command())?)?.assert_known("", "main")
}

/// All of a program and its C library in one file, at a fixed address or at any.
#[test]
fn static_programs_are_known() -> Result<()> {
    for option in ["-static", "-static-pie"] {
        let workload = Workload::compile_optimized_with("split", &[option])?;
        let recorded = record(&started(&mut workload.command())?)?;
        recorded.assert_known("", "main").context(option)?;
    }
    Ok(())
}

/// A program that says nothing of how to unwind it, but keeps frame pointers.
#[test]
fn programs_without_unwind_data_are_known() -> Result<()> {
    let workload = Workload::compile_without_unwind_data("split")?;
    let recorded = record(&started(&mut workload.command())?)?;
    recorded.assert_split("")?;
    // A function that was interrupted before its frame was there lacks its caller.
    let depth = |frames: &[String]| frames.iter().filter(|frame| *frame == "recurse").count();
    let (mut exact, mut total) = (0, 0);
    for (frames, weight) in
        recorded.stacks.iter().filter(|(frames, _)| frames.iter().any(|frame| frame == "three"))
    {
        exact += if depth(frames) == 31 { *weight } else { 0 };
        total += weight;
    }
    assert!(total > 0 && exact * 1000 >= total * 995, "{exact} of {total} have the right depth");
    Ok(())
}

/// A program whose file is deleted before the profiler comes.
#[test]
fn deleted_programs_are_known() -> Result<()> {
    let workload = Workload::compile_optimized("split")?;
    let process = started(&mut workload.command())?;
    std::fs::remove_file(workload.program())?;
    record(&process)?.assert_known("", "main")
}

/// Code of a library that the program loads while it runs.
#[test]
fn loaded_libraries_are_known() -> Result<()> {
    let workload = Workload::compile_optimized_with("split", &["-DHOST"])?;
    workload.add_optimized_library("split", "libsplit.so", "LIBRARY")?;
    let recorded = record(&started(&mut workload.command())?)?;
    recorded.assert_known("", "main")?;
    assert!(recorded.report.function("three")?.module.ends_with("/libsplit.so"));
    Ok(())
}

/// Exceptions: while they are thrown, in destructors while the stack is unwound, and in the handler.
#[test]
fn exceptions_are_known() -> Result<()> {
    let workload = Workload::compile_cpp_optimized("exceptions")?;
    let recorded = record(&started(&mut workload.command())?)?;
    // C++ shows parameters.
    for (frames, weight) in &recorded.stacks {
        for leaf in frames.iter().filter(|frame| frame.starts_with("one(")) {
            // Destructors run on top of the unwinder, which runs on top of what has thrown.
            let depth = frames.iter().filter(|frame| frame.starts_with("recurse(")).count();
            assert_eq!(depth, 31, "{weight} samples of {leaf}: {frames:?}");
        }
        if frames.iter().any(|frame| frame.starts_with("two(")) {
            assert!(!frames.iter().any(|frame| frame.starts_with("recurse(")), "{frames:?}");
            assert!(frames.iter().any(|frame| frame.starts_with("attempt(")), "{frames:?}");
        }
    }
    let functions = recorded.report.functions();
    let shares = SPLIT.map(|(name, _)| {
        let found = functions.iter().find(|function| function.name.starts_with(&format!("{name}(")));
        found.map_or(0.0, |function| function.total_ratio)
    });
    let all: f64 = shares.iter().sum();
    // The unwinder itself takes its part.
    assert!(all > 0.8, "{functions:?}");
    for (share, (name, expected)) in shares.iter().zip(SPLIT) {
        assert!((share / all - expected).abs() < 0.02, "{name} has {share} of {all}: {functions:?}");
    }
    Ok(())
}

/// A release build of Rust.
#[test]
fn rust_is_known() -> Result<()> {
    let workload = Workload::compile_rust("split")?;
    record(&started(&mut workload.command())?)?.assert_known("split::", "split::main")
}

/// Go, with symbols and stripped of all of them.
#[test]
fn go_is_known() -> Result<()> {
    for options in [&[][..], &["-ldflags=-s -w"], &["-buildmode=pie", "-ldflags=-s -w"]] {
        let workload = Workload::compile_go_with("split", options)?;
        let recorded = record(&started(&mut workload.command())?)?;
        recorded.assert_depth("main.", "main.run", &SPLIT.map(|(name, _)| name));
        // All three do what they do in a function that is inlined into them.
        let functions = recorded.report.functions();
        let work = recorded.report.function("main.work")?;
        assert!(work.self_ratio > 0.9, "{options:?}: {functions:?}");
        for (name, expected) in SPLIT {
            let share = recorded.report.function(&format!("main.{name}"))?.total_ratio / work.total_ratio;
            assert!((share - expected).abs() < 0.02, "{options:?}: {name} has {share}: {functions:?}");
        }
        let nameless: Vec<_> = functions.iter().filter(|function| function.name.contains("+0x")).collect();
        assert!(nameless.is_empty(), "{nameless:?}");
    }
    Ok(())
}

/// C on Go and Go on C, on different stacks: each stands on its caller, back to the start of the goroutine.
#[test]
fn go_and_c_stand_on_each_other() -> Result<()> {
    let recorded = record(&started(&mut Workload::compile_go("callbacks")?.command())?)?;
    let chains = [
        &["runtime.goexit", "main.main", "main.callsC", "runtime.asmcgocall", "c_work"][..],
        &[
            "runtime.goexit",
            "main.main",
            "main.callsBack",
            "runtime.asmcgocall",
            "c_calls_go",
            "crosscall2",
            "main.spin",
        ],
    ];
    for chain in chains {
        let leaf = chain.last().context("a chain has a leaf")?;
        let of_leaf: Vec<_> =
            recorded.stacks.iter().filter(|(frames, _)| frames.iter().any(|frame| frame == leaf)).collect();
        assert!(!of_leaf.is_empty(), "no {leaf}");
        for (frames, weight) in of_leaf {
            let mut rest = frames.iter();
            let is_in_order = chain.iter().all(|name| rest.any(|frame| frame == name));
            assert!(is_in_order, "{weight} samples are not {chain:?}: {frames:?}");
        }
    }
    Ok(())
}

/// The C library's fast paths have no frame; their callers are found all the same.
#[test]
fn leaf_functions_have_callers() -> Result<()> {
    let workload = Workload::compile_optimized("leaves")?;
    let recorded = record(&started(&mut workload.command())?)?;
    for caller in ["copies", "moves", "fills", "measures", "searches"] {
        let function = recorded.report.function(caller)?;
        assert!(function.total_ratio > 0.01 && function.self_ratio < 0.01, "{function:?}");
    }
    for (frames, weight) in &recorded.stacks {
        let Some(main) = frames.iter().position(|frame| frame == "main") else { continue };
        let next = frames.get(main + 1).map_or("", String::as_str);
        let is_ours = ["copies", "moves", "fills", "measures", "searches"].contains(&next);
        assert!(is_ours || *weight < 10, "{weight} samples of {frames:?}");
    }
    Ok(())
}

/// OpenSSL's hand-written assembly finds its registers in unusual places.
#[test]
fn openssl_is_whole() -> Result<()> {
    let openssl = require("openssl", "openssl")?;
    for algorithm in [&["sha256"][..], &["-evp", "aes-256-gcm"], &["ecdsap256"], &["rsa2048"]] {
        let mut command = Command::new(&openssl);
        command.args(["speed", "-seconds", "60", "-bytes", "8192"]).args(algorithm);
        let process = Process::start(command.stdout(Stdio::null()).stderr(Stdio::null()))?;
        record(&process).with_context(|| format!("{algorithm:?}"))?;
    }
    Ok(())
}
