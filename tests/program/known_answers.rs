//! Workloads whose profile is known beforehand.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use tests::{Process, Profiler, Report, Workload, assert_share, tolerance};

use super::wire::end;

/// Of 10,000 samples a share of 0.75 is off by 0.4 points by chance alone (one standard deviation).
const SHARES_HZ: u32 = 1999;

/// Records a running workload and reports it.
fn profile(process: &Process, seconds: u32) -> Result<Report> {
    Profiler::new()?.record_enough(seconds, 199, &["--pid", &process.pid().to_string()], 100)
}

/// Three parts in `a` and one in `b` are reported as what the program measured itself.
#[test]
fn shares_are_true() -> Result<()> {
    let workload = Workload::compile("shares")?;
    let mut process = workload.start()?;
    let mut output = BufReader::new(process.child().stdout.take().context("stdout is a pipe")?).lines();
    assert_eq!(output.next().context("no line")??, "ready");
    let profiler = Profiler::new()?;
    let report = profiler.record_enough(8, SHARES_HZ, &["--pid", &process.pid().to_string()], 1000)?;
    process.signal(Signal::SIGTERM)?;
    process.wait(Duration::from_secs(10))?;
    let line = output.next().context("no result")??;
    let (a_ns, b_ns) = line.split_once(' ').context("two numbers")?;
    let (a_ns, b_ns): (f64, f64) = (a_ns.parse()?, b_ns.parse()?);
    let truth = a_ns / (a_ns + b_ns);
    assert!((truth - 0.75).abs() < 0.05, "the workload itself is off: {truth}");

    let (a, b, main) = (report.function("a")?, report.function("b")?, report.function("main")?);
    assert_eq!(report.lost(), 0);
    // Interrupts are the kernel's own time, below the function that they hit.
    let own = a.self_ratio + b.self_ratio;
    for (ratio, expected) in [
        (a.self_ratio / own, truth),
        (a.total_ratio, truth),
        (b.self_ratio / own, 1.0 - truth),
        (b.total_ratio, 1.0 - truth),
    ] {
        assert_share(&format!("{a:?} {b:?}"), ratio, expected, own * report.samples() as f64);
    }
    assert!(main.total_ratio > 0.97 && main.self_ratio < 0.03, "{main:?}");
    Ok(())
}

/// The same shares in Go, whose functions are named as Go names them.
#[test]
fn shares_of_go_are_true() -> Result<()> {
    let process = started(&Workload::compile_go("shares")?)?;
    let profiler = Profiler::new()?;
    let report = profiler.record_enough(6, SHARES_HZ, &["--pid", &process.pid().to_string()], 1000)?;
    assert_eq!(report.runtime(), "go");
    assert_eq!(report.lost(), 0);
    for (name, expected) in [("main.a", 0.75), ("main.b", 0.25)] {
        let function = report.function(name)?;
        assert_share(name, function.total_ratio, expected, report.samples() as f64);
    }
    Ok(())
}

/// C++ names are shown as they are written in the source.
#[test]
fn cpp_is_demangled() -> Result<()> {
    let process = started(&Workload::compile_cpp("namespaces")?)?;
    let report = Profiler::new()?.record_enough(4, SHARES_HZ, &["--pid", &process.pid().to_string()], 400)?;
    for prefix in ["shop::orders::settle(std::", "shop::Basket<int>::sum("] {
        let functions = report.functions();
        let function = functions.iter().find(|function| function.name.starts_with(prefix));
        let function = function.with_context(|| format!("no {prefix} among {functions:?}"))?;
        assert_share(prefix, function.total_ratio, 0.5, report.samples() as f64);
    }
    Ok(())
}

/// Samples add up to the CPU time that the process used, at two frequencies.
#[test]
fn cpu_time_is_true() -> Result<()> {
    let process = Workload::compile("spin")?.start()?;
    for frequency in [99, 999] {
        let before = process.cpu_seconds()?;
        let report =
            Profiler::new()?.record_and_report(4, frequency, &["--pid", &process.pid().to_string()])?;
        // The process also ran while the profiler started and ended: an upper bound.
        let most = process.cpu_seconds()? - before;
        let seconds = report.cpu_seconds();
        assert!(seconds <= most + 0.1, "{seconds} s reported of at most {most} s");
        let window = report.json["window"]["seconds"].as_f64().context("window.seconds")?;
        assert!(seconds <= window * 1.05, "one thread, {seconds} s of CPU in {window} s");
        let counted = report.samples() as f64 / f64::from(frequency);
        let sampled = report.json["cpu"]["sampled_seconds"].as_f64().context("cpu.sampled_seconds")?;
        assert!((counted - sampled).abs() <= sampled * 0.05, "{counted} s of samples, {sampled} s reported");
        let kernel = report.json["cpu"]["kernel_seconds"].as_f64().context("cpu.kernel_seconds")?;
        assert!((seconds - kernel).abs() <= kernel * 0.01, "{seconds} s, {kernel} s counted by the kernel");
    }
    Ok(())
}

/// Threads and processes that start and end meanwhile are seen from their first samples.
#[test]
fn short_lives_are_seen() -> Result<()> {
    let process = Workload::compile("churn")?.start()?;
    let report = profile(&process, 4)?;
    let (thread, child) = (report.function("thread_work")?, report.function("process_work")?);
    for function in [&thread, &child] {
        assert!((function.total_ratio - 0.5).abs() < 0.15, "{function:?}");
    }
    assert!(thread.total_ratio + child.total_ratio > 0.85, "{thread:?} {child:?}");
    assert_eq!(report.lost(), 0);
    Ok(())
}

/// Two libraries that take turns at one address keep their own names.
#[test]
fn libraries_at_one_address_are_told_apart() -> Result<()> {
    let workload = Workload::compile("libraries")?;
    workload.add_library("library", "lib_one.so", &["-DFUNCTION=one_work"])?;
    workload.add_library("library", "lib_two.so", &["-DFUNCTION=two_work"])?;
    let mut process = workload.start()?;
    let mut line = String::new();
    BufReader::new(process.child().stdout.take().context("stdout is a pipe")?).read_line(&mut line)?;
    assert_eq!(line.trim(), "same address", "the loader put the libraries elsewhere");

    let profiler = Profiler::new()?;
    let report = profiler.record_enough(4, 999, &["--pid", &process.pid().to_string()], 400)?;
    for (name, library) in [("one_work", "lib_one.so"), ("two_work", "lib_two.so")] {
        let function = report.function(name)?;
        // To load and unload takes time too.
        let tolerance = tolerance(0.5, report.samples() as f64).max(0.1);
        assert!((function.total_ratio - 0.5).abs() < tolerance, "{function:?}");
        assert!(function.module.ends_with(library), "{function:?}");
    }
    for (stack, _) in profiler.folded("recording.mcpprof")? {
        assert!(!(stack.contains("run_one") && stack.contains("two_work")), "wrong name in {stack}");
        assert!(!(stack.contains("run_two") && stack.contains("one_work")), "wrong name in {stack}");
    }
    Ok(())
}

/// A child that becomes another program is named by that program.
#[test]
fn children_that_execute_are_followed() -> Result<()> {
    let workload = Workload::compile("executes")?;
    workload.add_program("other")?;
    let process = workload.start()?;
    let other = profile(&process, 3)?.function("other_work")?;
    assert!(other.total_ratio > 0.8, "{other:?}");
    assert!(other.module.ends_with("/other"), "{other:?}");
    Ok(())
}

/// Children that live for some milliseconds are known by the program that they run, and stacks of it are whole, although their fork
/// is not even settled meanwhile. On a busy machine it may come too late for many.
#[test]
fn children_that_live_shortly_are_followed() -> Result<()> {
    let workload = Workload::compile("executes")?;
    workload.add_program("other")?;
    let process = workload.start()?;
    let profiler = Profiler::new()?;
    let report = profiler.record_enough(4, 999, &["--pid", &process.pid().to_string()], 400)?;
    let (mut named, mut all) = (0.0, 0.0);
    for child in report.json["processes"].as_array().context("processes")? {
        if child["pid"] != process.pid() {
            let seconds = child["seconds"].as_f64().context("seconds")?;
            all += seconds;
            named += if child["command"] == "other" { seconds } else { 0.0 };
        }
    }
    assert!(all > 0.0 && named > 0.98 * all, "{named} of {all} s");
    let folded = profiler.folded("recording.mcpprof")?;
    let weight = |is_wanted: &dyn Fn(&str) -> bool| -> u64 {
        folded.iter().filter(|(stack, _)| is_wanted(stack)).map(|(_, weight)| weight).sum()
    };
    let working = weight(&|stack| stack.contains("other_work"));
    let whole = weight(&|stack| stack.contains("_start;") && stack.contains(";main;other_work"));
    // A child may be the first to run the program.
    assert!(working > 0 && whole * 10 > working * 9, "{whole} of {working}: {}", report.json["stacks"]);
    report.assert_complete(0.9);
    Ok(())
}

/// A file system of layers, as containers have, in a folder.
struct Layers<'folder>(&'folder Path);

impl<'folder> Layers<'folder> {
    /// Mounts it with what is in `lower`. Its own layer is in memory, as not every file system can have one.
    fn mount(folder: &'folder Path, lower: &Path) -> Result<Self> {
        let layers = Self(folder);
        mount(&["-t", "tmpfs", "tmpfs"], folder)?;
        ["upper", "work", "merged"]
            .into_iter()
            .try_for_each(|name| std::fs::create_dir(folder.join(name)))?;
        let (lower, folder) = (lower.display(), folder.display());
        let options = format!("lowerdir={lower},upperdir={folder}/upper,workdir={folder}/work");
        mount(&["-t", "overlay", "overlay", "-o", &options], &layers.merged())?;
        Ok(layers)
    }

    fn merged(&self) -> PathBuf {
        self.0.join("merged")
    }
}

impl Drop for Layers<'_> {
    fn drop(&mut self) {
        for mounted in [&self.merged(), self.0] {
            let _ = Command::new("umount").arg("--lazy").arg(mounted).stderr(Stdio::null()).status();
        }
    }
}

fn mount(options: &[&str], place: &Path) -> Result<()> {
    let status = Command::new("mount").args(options).arg(place).status()?;
    ensure!(status.success(), "cannot mount {options:?}: this needs root and overlayfs");
    Ok(())
}

/// Short-lived children of a server in a container are walked too: what they map is the file below, and not the one that the container
/// shows.
#[test]
fn children_in_layers_are_followed() -> Result<()> {
    let workload = Workload::compile("executes")?;
    workload.add_program("other")?;
    let folder = tempfile::tempdir()?;
    let layers = Layers::mount(folder.path(), workload.program().parent().context("no folder")?)?;
    let mut command = Command::new(layers.merged().join("executes"));
    let process = Process::start(command.current_dir(layers.merged()).stdout(Stdio::null()))?;
    let profiler = Profiler::new()?;
    let report = profiler.record_enough(4, 999, &["--pid", &process.pid().to_string()], 400)?;
    assert!(report.function("other_work")?.total_ratio > 0.1, "{:#}", report.json["cpu"]);
    report.assert_complete(0.9);
    Ok(())
}

/// What short-lived children take is what the kernel counts for them: also what they take to start their program, and to give up their
/// memory when they end.
#[test]
fn children_are_counted_to_their_end() -> Result<()> {
    let workload = Workload::compile("executes")?;
    workload.add_program("other")?;
    let mut process = Process::start(workload.command().arg("400"))?;
    let mut output = BufReader::new(process.child().stdout.take().context("stdout is a pipe")?).lines();
    assert_eq!(output.next().context("no line")??, "ready");
    let profiler = Profiler::new()?;
    let running = profiler.recording(process.pid(), SHARES_HZ)?;
    process.signal(Signal::SIGUSR1)?;
    assert_eq!(output.next().context("no line")??, "done");
    let report = end(&profiler, running)?;
    let children = report.json["processes"].as_array().context("processes")?.iter();
    let children = children.filter(|child| child["pid"] != process.pid());
    let sampled: f64 = children.filter_map(|child| child["sampled_seconds"].as_f64()).sum();
    let counted = process.children_seconds()?;
    let share = sampled / counted;
    println!("{sampled} of {counted} s");
    assert!((0.97..1.03).contains(&share), "{sampled} of {counted} s: {:#}", report.json["losses"]);
    Ok(())
}

/// A binary that is deleted while it runs still gives names.
#[test]
fn a_deleted_binary_is_named() -> Result<()> {
    let workload = Workload::compile("spin")?;
    let process = started(&workload)?;
    std::fs::remove_file(workload.program())?;
    let function = profile(&process, 2)?.function("spin_work")?;
    assert!(function.total_ratio > 0.9, "{function:?}");
    Ok(())
}

/// A binary that is replaced while it runs is named by what runs, not by what took its place.
#[test]
fn a_replaced_binary_is_named() -> Result<()> {
    let (workload, other) = (Workload::compile("spin")?, Workload::compile("shares")?);
    let process = started(&workload)?;
    std::fs::remove_file(workload.program())?;
    std::fs::copy(other.program(), workload.program())?;
    let function = profile(&process, 2)?.function("spin_work")?;
    assert!(function.total_ratio > 0.9, "{function:?}");
    Ok(())
}

/// Code that a runtime made while running is named by its perf map file.
#[test]
fn a_perf_map_names_code_made_while_running() -> Result<()> {
    let workload = Workload::compile("perf_map")?;
    let process = started(&workload)?;
    let report = profile(&process, 2);
    std::fs::remove_file(format!("/tmp/perf-{}.map", process.pid()))?;
    let function = report?.function("jitted_spin")?;
    assert!(function.total_ratio > 0.9, "{function:?}");
    Ok(())
}

/// The code that the kernel maps into each process has names.
#[test]
fn the_vdso_is_named() -> Result<()> {
    let workload = Workload::compile("vdso")?;
    let process = started(&workload)?;
    let report = profile(&process, 2)?;
    let vdso: Vec<_> =
        report.functions().into_iter().filter(|function| function.module == "[vdso]").collect();
    assert!(vdso.iter().any(|function| function.name.contains("clock_gettime")), "{:?}", report.functions());
    report.functions().iter().for_each(|function| assert_ne!(function.name, "[unknown]"));
    Ok(())
}

/// A command that the profiler starts is seen from its beginning, and ends the recording as it ends.
#[test]
fn a_command_is_recorded_to_its_end() -> Result<()> {
    let workload = Workload::compile("spin")?;
    let program = workload.program().to_str().context("path is UTF-8")?;
    let report = Profiler::new()?.record_and_report(60, 199, &["--", program, "500"])?;
    let function = report.function("spin_work")?;
    assert!(function.total_ratio > 0.9, "{function:?}");
    let seconds = report.json["window"]["seconds"].as_f64().context("window.seconds")?;
    assert!(seconds < 55.0, "the recording went on for {seconds} s");
    Ok(())
}

/// Starts a workload and waits until it says that it is ready.
fn started(workload: &Workload) -> Result<Process> {
    workload.start()?.ready()
}
