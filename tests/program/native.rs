//! Native code in every form that programs come in: whole stacks, of the right depth, with the right shares of CPU time.

use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};
use tests::{Process, Profiler, Report, Workload, assert_share, require};

/// Enough samples for 2 points where the workload gets most of a CPU: of 10,000 samples a share of 0.5 is off by half a point
/// by chance alone (one standard deviation).
const FREQUENCY: u32 = 1999;
const SECONDS: u32 = 8;
/// 3 : 2 : 1.
const SPLIT: [(&str, f64); 3] = [("three", 0.5), ("two", 1.0 / 3.0), ("one", 1.0 / 6.0)];

/// What was recorded: the report, and each stack from the outermost frame on with its weight.
struct Recorded {
    report: Report,
    stacks: Vec<(Vec<String>, u64)>,
}

/// Records a process that runs already. Its stacks are whole.
fn record(process: &Process) -> Result<Recorded> {
    let recorded = record_any(process, SECONDS)?;
    recorded.report.assert_complete(0.995);
    Ok(recorded)
}

/// The same; its stacks may be cut.
fn record_any(process: &Process, seconds: u32) -> Result<Recorded> {
    let profiler = Profiler::new()?;
    let report = profiler.record_enough(seconds, FREQUENCY, &["--pid", &process.pid().to_string()], 1000)?;
    assert_eq!(report.lost_of_its_own(), 0, "{:#}", report.json["losses"]);
    let split = |stack: &str| stack.split(';').map(str::to_owned).collect();
    let folded = profiler.folded("recording.mcpprof")?;
    Ok(Recorded { report, stacks: folded.iter().map(|(stack, weight)| (split(stack), *weight)).collect() })
}

/// Starts what prints `ready`.
fn started(command: &mut Command) -> Result<Process> {
    Process::start(command.stdout(Stdio::piped()))?.ready()
}

impl Recorded {
    /// Self and total shares of the three functions are 3 : 2 : 1. `prefix` stands before each name.
    fn assert_split(&self, prefix: &str) -> Result<()> {
        let functions = SPLIT.map(|(name, _)| self.report.function(&format!("{prefix}{name}")));
        let functions = functions.into_iter().collect::<Result<Vec<_>>>()?;
        // Interrupts are the kernel's own time, below the function that they hit.
        let own: f64 = functions.iter().map(|function| function.self_ratio).sum();
        let all: f64 = functions.iter().map(|function| function.total_ratio).sum();
        assert!(all > 0.95, "{functions:?}");
        for (function, (name, expected)) in functions.iter().zip(SPLIT) {
            for (ratio, of) in [(function.self_ratio, own), (function.total_ratio, all)] {
                let samples = of * self.report.samples() as f64;
                assert_share(&format!("{name} of {functions:?}"), ratio / of, expected, samples);
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

    /// `[plt]` and `callee` stand on `calls`.
    fn assert_linkage(&self, is_bound: bool) -> Result<()> {
        if is_bound {
            self.report.assert_complete(0.995);
        }
        let (mut stubs, mut resolving) = (0, 0);
        for (frames, weight) in &self.stacks {
            let user: Vec<&str> =
                frames[2..].iter().map(String::as_str).filter(|frame| !frame.ends_with("_[k]")).collect();
            assert!(!user.contains(&"_init"), "{frames:?}");
            if let ["_dl_runtime_resolve_xsavec" | "_dl_runtime_resolve_xsave", _, ..] = *user {
                // Where its caller is, is in a register that what it calls has saved: the walk ends there, and says so.
                resolving += weight;
                continue;
            }
            let Some(calls) = user.iter().position(|frame| *frame == "calls") else { continue };
            assert!(user[..calls].ends_with(&["main"]) && user[..calls].contains(&"_start"), "{frames:?}");
            if user.contains(&"[plt]") {
                assert_eq!(user[calls + 1..], ["[plt]"], "{frames:?}");
                stubs += weight;
            }
            if user.contains(&"callee") {
                assert_eq!(user[calls + 1..], ["callee"], "{frames:?}");
            }
        }
        anyhow::ensure!(stubs > 0, "no sample in a stub: {:?}", self.stacks);
        let stacks = &self.report.json["stacks"];
        let told = stacks["complete"].as_u64().unwrap_or(0)
            + stacks["incomplete"]["no_unwind_row"].as_u64().unwrap_or(0);
        assert!(told * 1000 >= self.report.samples() * 995, "{stacks:#}");
        let incomplete = stacks["incomplete"]["no_unwind_row"].as_u64().unwrap_or(0);
        assert!(incomplete <= resolving + self.report.samples() / 200, "{resolving} resolving: {stacks:#}");
        Ok(())
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

/// A program that is described by `.debug_frame` alone, without frame pointers.
#[test]
fn programs_with_debug_frames_are_known() -> Result<()> {
    let options = ["-fno-asynchronous-unwind-tables", "-fno-unwind-tables"];
    let workload = Workload::compile_optimized_with("split", &options)?;
    let sections = Command::new(require("readelf", "binutils")?)
        .args(["--debug-dump=frames", "--wide"])
        .arg(workload.program())
        .output()?;
    let sections = String::from_utf8(sections.stdout)?;
    let (of_eh_frame, of_debug_frame) =
        sections.split_once("Contents of the .debug_frame section").context("no .debug_frame")?;
    // What the C library adds to each program: `_start` and the linkage table.
    assert!(of_eh_frame.matches(" FDE ").count() < 6, "{of_eh_frame}");
    assert!(of_debug_frame.matches(" FDE ").count() >= 5, "{of_debug_frame}");
    record(&started(&mut workload.command())?)?.assert_known("", "main")
}

/// Outer frames that are paged out are brought in, some pages at a time: the first samples only lack them, which counts.
#[test]
fn stacks_that_are_paged_out_are_brought_in() -> Result<()> {
    // Frames that save the frame pointer are read in another way than those that do not.
    for workload in [Workload::compile("paged_out")?, Workload::compile_optimized("paged_out")?] {
        let process = started(workload.command().arg(workload.path("stack")))?;
        let recorded = record_any(&process, 3)?;
        let stacks = &recorded.report.json["stacks"];
        recorded.report.assert_complete(0.5);
        let (missing, unreadable) = (
            recorded.report.samples() - stacks["complete"].as_u64().context("no complete")?,
            stacks["incomplete"]["unreadable_stack"].as_u64().unwrap_or(0),
        );
        assert!(missing - unreadable <= recorded.report.samples() / 100, "{stacks}");
        let whole: Vec<_> =
            recorded.stacks.iter().filter(|(frames, _)| frames.contains(&"outermost".to_owned())).collect();
        assert!(!whole.is_empty(), "{:?}", recorded.stacks);
        for (frames, _) in whole {
            assert_eq!(frames.iter().filter(|frame| *frame == "recurse").count(), 61, "{frames:?}");
        }
    }
    Ok(())
}

/// A recursion that is deeper than what is kept is cut at 512 frames; these are the innermost ones, and the cause is told.
#[test]
fn deep_stacks_are_cut() -> Result<()> {
    let workload = Workload::compile_optimized_with("recursion", &["-DDEPTH=600"])?;
    let recorded = record_any(&started(&mut workload.command())?, SECONDS)?;
    let (mut deep, mut shallow) = (0, 0);
    for (frames, weight) in &recorded.stacks {
        // Without the names of the process and the thread.
        let user: Vec<&str> =
            frames[2..].iter().map(String::as_str).filter(|frame| !frame.ends_with("_[k]")).collect();
        let Some((leaf, callers)) = user.split_last().filter(|(leaf, _)| ["three", "one"].contains(leaf))
        else {
            shallow += weight;
            continue;
        };
        assert_eq!(callers.len(), 511, "{leaf}: {user:?}");
        assert!(callers.iter().all(|caller| *caller == "recurse"), "{leaf}: {user:?}");
        deep += weight;
    }
    let stacks = &recorded.report.json["stacks"];
    let cut = stacks["incomplete"]["too_deep"].as_u64().unwrap_or(0);
    // On the way down and up some are in the recursion itself, with as many frames.
    assert!(deep > 0 && cut >= deep && cut <= deep + shallow, "{deep} and {shallow}: {stacks:#}");
    assert!(deep * 100 > recorded.report.samples() * 90, "{deep} and {shallow}: {stacks:#}");
    // Whatever is not too deep is whole.
    let whole = stacks["complete"].as_u64().unwrap_or(0) + cut;
    assert!(whole * 1000 >= recorded.report.samples() * 995, "{stacks:#}");
    Ok(())
}

/// A stub of the linkage table stands on the function that goes through it, in all forms of such tables; while the dynamic
/// linker looks for the function that it is to lead to, too.
#[test]
fn linkage_stubs_have_callers() -> Result<()> {
    let forms = [
        &["-Wl,-z,lazy"][..],
        &["-Wl,-z,now"],
        &["-no-pie", "-Wl,-z,lazy"],
        &["-fcf-protection", "-Wl,-z,lazy,-z,ibtplt"],
    ];
    for form in forms {
        let library = Workload::compile_optimized_with("callee", &["-shared", "-fPIC"])?;
        let file = library.program().to_str().context("a path")?;
        let workload = Workload::compile_optimized_with("plt", &[form, &[file]].concat())?;
        let is_lazy = !form.contains(&"-Wl,-z,now");
        for is_bound in [true, false].into_iter().filter(|is_bound| *is_bound || is_lazy) {
            let mut command = workload.command();
            if !is_bound {
                // Each call is as the first one is.
                command.env("LD_BIND_NOT", "1");
            }
            let recorded = record_any(&started(&mut command)?, 4)?;
            recorded.assert_linkage(is_bound).with_context(|| format!("{form:?}, bound: {is_bound}"))?;
        }
    }
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
        let samples = all * recorded.report.samples() as f64;
        assert_share(&format!("{name} of {functions:?}"), share / all, expected, samples);
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
            let samples = work.total_ratio * recorded.report.samples() as f64;
            assert_share(&format!("{options:?}: {name} of {functions:?}"), share, expected, samples);
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
        // Between two calls there is next to nothing.
        let is_rare = *weight < 10 || weight * 500 < recorded.report.samples();
        assert!(is_ours || is_rare, "{weight} samples of {frames:?}");
    }
    Ok(())
}

/// musl says nothing about its code, and Alpine's images are made with it: its functions have their callers all the same, in threads
/// too, and recursion has its depth, with the library beside the program and in it.
#[test]
fn musl_is_whole() -> Result<()> {
    let callers = ["sorts", "copies", "prints", "allocates", "writes"];
    for options in [&[][..], &["-static"]] {
        record(&started(&mut Workload::compile_with_musl("split", options)?.command())?)?
            .assert_known("", "main")?;
        let workload = Workload::compile_with_musl("library_calls", options)?;
        let recorded = record(&started(&mut workload.command())?)?;
        for caller in callers {
            let function = recorded.report.function(caller)?;
            assert!(function.total_ratio > 0.01, "{function:?}");
        }
        for (frames, weight) in &recorded.stacks {
            let Some(works) = frames.iter().position(|frame| frame == "works") else { continue };
            let next = frames.get(works + 1).map_or("", String::as_str);
            // Between two calls there is next to nothing.
            let is_rare = *weight < 10 || weight * 500 < recorded.report.samples();
            assert!(callers.contains(&next) || is_rare, "{weight} samples of {frames:?}");
            let is_called_back = frames.iter().any(|frame| frame == "compare");
            assert!(!is_called_back || next == "sorts", "{weight} samples of {frames:?}");
        }
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
