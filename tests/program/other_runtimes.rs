//! Runtimes whose functions are not read: what they give all the same, and that what is missing is said.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::Result;
use tests::{Process, Profiler, Report, node_package, require, script};

const SECONDS: u32 = 3;
const FREQUENCY: u32 = 999;

fn bin(package: &str) -> Result<PathBuf> {
    let folder = node_package(package)?.join("../.bin");
    Ok(folder.join(package))
}

/// Records what prints `ready`. Whatever it is, its stacks are whole.
fn record(command: &mut Command) -> Result<(Report, Vec<(String, u64)>)> {
    let process = Process::start(command.stdout(Stdio::piped()))?.ready()?;
    let profiler = Profiler::new()?;
    let report = profiler.record_and_report(SECONDS, FREQUENCY, &["--pid", &process.pid().to_string()])?;
    report.assert_complete(0.995);
    let stacks = profiler.folded("recording.mcpprof")?.into_iter().collect();
    std::fs::remove_file(format!("/tmp/perf-{}.map", process.pid())).ok();
    Ok((report, stacks))
}

/// What the report says of the process: its runtime, how its language was unwound, and what would be better.
fn described(report: &Report) -> (String, String, String) {
    let process = &report.json["processes"][0];
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let unwinding = &process["unwinding"];
    (text(&process["runtime"]["name"]), text(&unwinding["language"]), text(&unwinding["advice"]))
}

/// Of interpreters that are not read, the report says so, and has their machine code whole.
#[test]
fn interpreters_are_marked() -> Result<()> {
    for (runtime, language, file) in [("ruby", "Ruby", "spin.rb"), ("php", "PHP", "spin.php")] {
        let (report, stacks) = record(Command::new(require(runtime, runtime)?).arg(script(file)))?;
        let (name, unwinding, _) = described(&report);
        assert_eq!(name, runtime);
        assert!(unwinding.starts_with(&format!("{language} functions are not shown")), "{unwinding}");
        let evaluation = if runtime == "ruby" { "rb_vm_exec" } else { "execute_ex" };
        let whole: u64 = stacks.iter().filter(|(stack, _)| stack.contains(evaluation)).map(|(_, n)| n).sum();
        let all: u64 = stacks.iter().map(|(_, weight)| weight).sum();
        assert!(whole * 100 >= all * 95, "{whole} of {all} in {evaluation}: {stacks:?}");
    }
    Ok(())
}

/// Deno's functions have names, files and lines when it writes a perf map; without one the report says how to get it.
#[test]
fn deno_has_the_names_of_its_perf_map() -> Result<()> {
    let mut command = Command::new(bin("deno")?);
    let options = "--v8-flags=--perf-basic-prof,--interpreted-frames-native-stack";
    // V8 leaves a log there.
    let folder = tempfile::tempdir()?;
    command.current_dir(folder.path());
    command.env("DENO_NO_UPDATE_CHECK", "1").args(["run", "--allow-all", options]);
    let (report, stacks) = record(command.arg(script("recursion.js")))?;
    let (name, unwinding, _) = described(&report);
    assert_eq!(name, "deno");
    assert!(unwinding.contains("named by its perf map"), "{unwinding}");
    let path = script("recursion.js");
    let three = report.function("three")?;
    assert_eq!(three.file.as_deref(), path.to_str());
    assert!(three.total_ratio > report.function("two")?.total_ratio);
    let of_three: Vec<_> =
        stacks.iter().filter(|(stack, _)| stack.ends_with(";timed_[j];three_[j]")).collect();
    assert!(!of_three.is_empty(), "{stacks:?}");
    // How many of them depends on what V8 inlined: a perf map tells nothing of that.
    for (stack, _) in of_three {
        assert!(stack.contains(";round_[j];recurse_[j];"), "{stack}");
    }

    let mut command = Command::new(bin("deno")?);
    command.env("DENO_NO_UPDATE_CHECK", "1").args(["run", "--allow-all"]);
    let (report, _) = record(command.arg(script("recursion.js")))?;
    let (_, unwinding, advice) = described(&report);
    assert!(unwinding.contains("only if a perf map is there"), "{unwinding}");
    assert!(advice.contains("--perf-basic-prof"), "{advice}");
    assert!(report.function("three").is_err(), "a name from nowhere: {:?}", report.functions());
    Ok(())
}

/// Bun writes no perf map: the report says that its functions have no names, and none has one.
#[test]
fn bun_is_marked() -> Result<()> {
    let (report, _) = record(Command::new(bin("bun")?).arg(script("recursion.js")))?;
    let (name, unwinding, _) = described(&report);
    assert_eq!(name, "bun");
    assert!(unwinding.contains("not named"), "{unwinding}");
    assert!(report.function("three").is_err(), "a name from nowhere: {:?}", report.functions());
    Ok(())
}
