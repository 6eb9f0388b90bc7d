//! JavaScript in Node 18 to 26: functions, files and lines, in all of V8's tiers.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Lines};
use std::process::{ChildStdout, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sys::signal::Signal;
use tests::{Process, Profiler, Report, assert_share, node, script, tolerance};

/// Of 4000 samples a share of a half is off by 0.8 points by chance alone (one standard deviation).
const FREQUENCY: u32 = 1999;

/// A test for each version that is known.
macro_rules! for_each_node {
    ($($test:ident: $name18:ident $name20:ident $name22:ident $name24:ident $name26:ident;)*) => {$(
        #[test]
        fn $name18() -> Result<()> { $test(18) }
        #[test]
        fn $name20() -> Result<()> { $test(20) }
        #[test]
        fn $name22() -> Result<()> { $test(22) }
        #[test]
        fn $name24() -> Result<()> { $test(24) }
        #[test]
        fn $name26() -> Result<()> { $test(26) }
    )*};
}

for_each_node! {
    recursion: recursion_18 recursion_20 recursion_22 recursion_24 recursion_26;
    callbacks: callbacks_18 callbacks_20 callbacks_22 callbacks_24 callbacks_26;
    inlining: inlining_18 inlining_20 inlining_22 inlining_24 inlining_26;
    modules: modules_18 modules_20 modules_22 modules_24 modules_26;
    churn: churn_18 churn_20 churn_22 churn_24 churn_26;
}

/// Recursion has its depth, and three functions have their parts of the time, whichever tier V8 runs them in.
fn recursion(major: u32) -> Result<()> {
    // A flag that a version does not know is an error.
    let no_maglev: &[&str] = if major > 18 { &["--no-maglev"] } else { &[] };
    let interpreted = [&["--no-opt", "--no-sparkplug"], no_maglev].concat();
    let baseline = [&["--no-opt", "--always-sparkplug"], no_maglev].concat();
    recursion_with(major, &interpreted, "10000")?;
    recursion_with(major, &baseline, "40000")?;
    if major > 18 {
        recursion_with(major, &["--maglev", "--no-turbofan"], "200000")?;
    }
    recursion_with(major, &[], "200000")
}

fn recursion_with(major: u32, options: &[&str], units: &str) -> Result<()> {
    let mut command = node(major)?;
    command.args(options).arg(script("recursion.js")).arg(units);
    let mut run = Run::start(&mut command)?;
    let (report, stacks) = run.record(5)?;
    report.assert_complete(0.995);
    let spent = run.end()?;
    let spent: Vec<f64> = spent.split(' ').map(|part| Ok(part.parse()?)).collect::<Result<_>>()?;
    let all: f64 = spent.iter().sum();

    let mut weights: HashMap<&str, u64> = HashMap::new();
    for (frames, weight) in &stacks {
        let Some(leaf) = ["three", "two", "one"].into_iter().find(|leaf| has(frames, leaf)) else { continue };
        let depth = frames.iter().filter(|frame| *frame == "recurse").count();
        assert_eq!(depth, 40, "{options:?}: {frames:?}");
        assert_order(frames, &["round", "recurse", "timed", leaf]);
        *weights.entry(leaf).or_default() += weight;
    }
    // What else there is, such as measuring the time, is no part of the truth.
    let leaves = ["three", "two", "one"];
    let functions = leaves.map(|leaf| report.function(leaf));
    let functions = functions.into_iter().collect::<Result<Vec<_>>>()?;
    let weighed: u64 = weights.values().sum();
    let all_total: f64 = functions.iter().map(|function| function.total_ratio).sum();
    let all_self: f64 = functions.iter().map(|function| function.self_ratio).sum();
    assert!(all_total > 0.8, "{functions:?}");
    for (function, (spent, part)) in functions.iter().zip(spent.iter().zip([3.0, 2.0, 1.0])) {
        let truth = spent / all;
        assert!(
            (truth - part / 6.0).abs() < 0.1,
            "{options:?}: the workload itself is off: {spent:?} of {all}"
        );
        assert!(function.module.ends_with("/recursion.js"), "{function:?}");
        let share = weights.get(&*function.name).copied().unwrap_or_default() as f64 / weighed as f64;
        let mut ratios = vec![
            (share, weighed as f64 / report.samples() as f64),
            (function.total_ratio / all_total, all_total),
        ];
        // In other tiers V8's bytecode handlers and builtins stand on the function that they work for.
        if options.is_empty() {
            ratios.push((function.self_ratio / all_self, all_self));
        }
        for (ratio, of) in ratios {
            let samples = of * report.samples() as f64;
            assert_share(&format!("{options:?}: {function:?}"), ratio, truth, samples);
        }
    }
    Ok(())
}

/// Functions that V8's builtins and C++ call back, methods, and names in any writing are shown where they are called from,
/// with the line that is hot.
fn callbacks(major: u32) -> Result<()> {
    let path = script("callbacks.js");
    let mut run = Run::start(node(major)?.arg(&path))?;
    let (report, stacks) = run.record(8)?;
    report.assert_complete(0.995);
    let source = std::fs::read_to_string(&path)?;
    let marked: Vec<(usize, &str)> = source
        .lines()
        .enumerate()
        .filter_map(|(index, line)| Some((index + 1, line.split_once("// LINE ")?.1)))
        .collect();
    assert_eq!(marked.len(), 16);
    for (line, name) in &marked {
        let (file, line) = match *name {
            // The third line of a script that is told to start at line 101.
            "inContext" => ("/srv/контекст.js".into(), 103),
            _ => (path.to_string_lossy(), *line),
        };
        // Functions without a name are known by the line where they start.
        let name =
            if *name == "(anonymous)" { format!("(anonymous:{})", line - 2) } else { (*name).to_owned() };
        let function = report.function(&name)?;
        assert_eq!(
            (function.file.as_deref(), function.line),
            (Some(&*file), Some(line as u64)),
            "{function:?}"
        );
        assert_eq!(function.module, file);
        let expected = 1.0 / marked.len() as f64;
        assert_share(&name, function.total_ratio, expected, report.samples() as f64);
    }
    for (caller, through, callee) in [
        ("bySort", "Builtins_ArrayPrototypeSort", "compare"),
        ("byMap", "mapper", "mapper"), // V8 inlines what there is between
        ("byReplace", "Builtins_", "replacer"),
        ("byParse", "Json", "reviver"),
        ("byEmitter", "emit", "listener"),
        ("byContext", "node::contextify", "inContext"),
        ("uv_run", "node::fs::AfterStat", "whenStat"),
    ] {
        let called: Vec<_> = stacks.iter().filter(|(frames, _)| has(frames, callee)).collect();
        assert!(!called.is_empty(), "no {callee}");
        for (frames, _) in called {
            assert_order(frames, &["_start", caller, callee]);
            let mut called = frames.iter().skip_while(|frame| *frame != caller);
            assert!(
                called.any(|frame| frame.contains(through)),
                "{callee} not through {through}: {frames:?}"
            );
        }
    }
    let internal = |function: &&tests::Function| {
        function.file.as_deref().is_some_and(|file| file.starts_with("node:internal/"))
    };
    assert!(report.functions().iter().find(internal).is_some(), "none of Node's own functions");
    assert_eq!(unread(&report), 0);
    Ok(())
}

/// Functions that were inlined have their own names and their own time.
fn inlining(major: u32) -> Result<()> {
    let mut run = Run::start(node(major)?.arg(script("inlining.js")))?;
    let (report, stacks) = run.record(5)?;
    report.assert_complete(0.995);
    // What Node does between two rounds, and its other threads, are no part of this.
    let weight = |name: &str| -> f64 {
        let in_caller = stacks.iter().filter(|(frames, _)| has(frames, "caller") && has(frames, name));
        in_caller.map(|(_, weight)| *weight).sum::<u64>() as f64
    };
    let (caller, heavy, light) = (weight("caller"), weight("heavy"), weight("light"));
    assert!(caller > 0.5 * report.samples() as f64, "{caller} of {} samples", report.samples());
    // Three in four steps are those of `heavy`, and two in four hundred `caller`'s own. How long a step takes is V8's affair,
    // and which of the neighbours has the instructions between two of its positions.
    assert!(heavy > 0.5 * caller && light > 0.01 * caller, "{heavy} and {light} of {caller}");
    assert!(heavy + light > 0.8 * caller, "{heavy} and {light} of {caller}");
    let of_heavy: Vec<_> = stacks.iter().filter(|(frames, _)| has(frames, "heavy")).collect();
    let (in_order, others): (Vec<_>, Vec<_>) =
        of_heavy.into_iter().partition(|(frames, _)| is_in_order(frames, &["round", "caller", "heavy"]));
    let sum = |stacks: &[&(Vec<String>, u64)]| stacks.iter().map(|(_, weight)| weight).sum::<u64>();
    // A function that is interrupted in its first instructions has no frame yet.
    assert!(sum(&others) <= 2 + sum(&in_order) / 200, "{} in order, but {others:#?}", sum(&in_order));
    Ok(())
}

/// Modules, WebAssembly, regular expressions and threads.
fn modules(major: u32) -> Result<()> {
    let path = script("module.mjs");
    let mut run = Run::start(node(major)?.arg(&path))?;
    let (report, stacks) = run.record(6)?;
    report.assert_complete(0.995);
    let function = report.function("inModule")?;
    assert_eq!(function.file.as_deref(), Some(&*path.to_string_lossy()), "{function:?}");
    let main = stacks.iter().filter(|(frames, _)| !has(frames, "inWorker"));
    let main: u64 = main.map(|(_, weight)| weight).sum();
    for (caller, leaf) in
        [("inModule", "inModule"), ("inWebAssembly", "[wasm]"), ("inExpression", "[regexp]")]
    {
        let in_leaf = stacks.iter().filter(|(frames, _)| has(frames, leaf));
        let in_leaf: Vec<_> = in_leaf.inspect(|(frames, _)| assert_order(frames, &[caller])).collect();
        let share = in_leaf.iter().map(|(_, weight)| weight).sum::<u64>() as f64 / main as f64;
        // A third each, but turns are measured with the other thread's time in it, which may be all of one.
        assert!((0.1..0.6).contains(&share), "{leaf} has {share} of the main thread");
    }
    let worker = report.function("inWorker")?;
    assert!(worker.total_ratio > 0.3, "{worker:?}");
    assert_eq!(worker.file, function.file);
    Ok(())
}

/// No function is taken for another one, though new ones take the place of old ones all the time.
fn churn(major: u32) -> Result<()> {
    let mut run = Run::start(node(major)?.arg(script("churn.js")))?;
    let (report, _) = run.record(5)?;
    report.assert_complete(0.99);
    let mut seen = 0;
    for function in report.functions() {
        let Some(number) = function.name.strip_prefix("made_") else { continue };
        // V8 puts two lines before the body of such a function.
        assert_eq!(function.line, Some(number.parse::<u64>()? + 3), "{function:?}");
        let most = 0.02 + tolerance(0.02, report.samples() as f64).max(0.03);
        assert!(function.total_ratio < most, "one of fifty: {function:?}");
        seen += 1;
    }
    // Few samples do not hit each.
    assert!(seen > 25, "{seen} functions");
    let unread = unread(&report);
    // On a busy machine functions are gone before they are read: they are counted, and never taken for others.
    assert!(unread * 2 < report.samples(), "{unread} of {} frames are unread", report.samples());
    Ok(())
}

/// What was started by the profiler is named too, and the report says how.
#[test]
fn a_node_that_was_started_is_named() -> Result<()> {
    let profiler = Profiler::new()?;
    let program = node(24)?;
    let script = script("inlining.js");
    let target =
        ["--", program.get_program().to_str().context("a path")?, script.to_str().context("a path")?];
    let report = profiler.record_and_report(6, 999, &target)?;
    // On a busy machine its start takes most of the time.
    report.function("caller")?;
    let text = report.json["processes"].to_string();
    assert!(text.contains("by the frames of V8 13.6"), "{text}");
    Ok(())
}

/// Of a V8 that is laid out in a way that is not known, or that does not tell its layout, the report says that JavaScript is not
/// read. Nothing is guessed, and machine code is whole. Here its symbols for debuggers have other names.
#[test]
fn unknown_layouts_are_not_guessed() -> Result<()> {
    without_symbols(b"v8dbg_class_JSFunction__shared", "has a layout that is not known", 1)?;
    without_symbols(b"v8dbg_", "named only if a perf map is there", 0)
}

fn without_symbols(symbol: &[u8], text: &str, unknown: u64) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let program = folder.path().join("node");
    let original = node(20)?;
    let mut bytes = std::fs::read(original.get_program())?;
    let (mut at, mut changed) = (0, 0);
    while let Some(next) = bytes[at..].windows(symbol.len()).position(|word| word == symbol) {
        at += next + symbol.len();
        bytes[at - 1] = b'~';
        changed += 1;
    }
    assert!(changed > 0);
    std::fs::write(&program, bytes)?;
    std::fs::set_permissions(&program, std::fs::metadata(original.get_program())?.permissions())?;

    let mut run = Run::start(Command::new(&program).arg(script("inlining.js")))?;
    let (report, stacks) = run.record(4)?;
    report.assert_complete(0.995);
    for name in ["heavy", "light", "caller", "round", "processImmediate"] {
        assert!(!stacks.iter().any(|(frames, _)| has(frames, name)), "{name} is a guess");
    }
    assert!(!stacks.iter().any(|(frames, _)| has(frames, "[unread JavaScript]")));
    let in_loop = report.function("uv_run")?;
    assert!(in_loop.total_ratio > 0.5, "{in_loop:?}");
    let unwinding = report.json["processes"][0]["unwinding"].to_string();
    assert!(unwinding.contains(text), "{unwinding}");
    assert_eq!(report.json["losses"]["by_cause"]["v8_unknown"].as_u64().unwrap_or(0), unknown);
    Ok(())
}

type Stacks = Vec<(Vec<String>, u64)>;

/// A script that runs, and has said that it is ready.
struct Run {
    process: Process,
    output: Lines<BufReader<ChildStdout>>,
}

impl Run {
    fn start(command: &mut Command) -> Result<Self> {
        let mut process = Process::start(command.stdin(Stdio::null()).stdout(Stdio::piped()))?;
        let mut output = BufReader::new(process.child().stdout.take().context("stdout is a pipe")?).lines();
        assert_eq!(output.next().context("no line")??, "ready");
        // V8 optimizes what it has seen run for a while.
        std::thread::sleep(Duration::from_secs(1));
        Ok(Self { process, output })
    }

    /// The report, and each stack from the outermost frame on.
    fn record(&mut self, seconds: u32) -> Result<(Report, Stacks)> {
        let profiler = Profiler::new()?;
        let pid = self.process.pid().to_string();
        let report = profiler.record_enough(seconds, FREQUENCY, &["--pid", &pid], 1000)?;
        let stacks = profiler.folded("recording.mcpprof")?;
        // Functions that were only seen inlined have a mark.
        let plain = |frame: &str| frame.strip_suffix("_[i]").unwrap_or(frame).to_owned();
        let split = |stack: &str| stack.split(';').map(plain).collect();
        Ok((report, stacks.iter().map(|(stack, weight)| (split(stack), *weight)).collect()))
    }

    /// Ends it, and returns what it says then.
    fn end(mut self) -> Result<String> {
        self.process.signal(Signal::SIGTERM)?;
        self.process.wait(Duration::from_secs(10))?;
        Ok(self.output.next().context("no result")??)
    }
}

/// Frames of functions that could not be read any more.
fn unread(report: &Report) -> u64 {
    report.json["losses"]["by_cause"]["javascript_unread"].as_u64().unwrap_or(0)
}

fn has(frames: &[String], name: &str) -> bool {
    frames.iter().any(|frame| frame == name)
}

/// The stack has these frames, and each stands on the one before.
fn assert_order(frames: &[String], names: &[&str]) {
    assert!(is_in_order(frames, names), "{names:?} are not in this order in {frames:?}");
}

fn is_in_order(frames: &[String], names: &[&str]) -> bool {
    let mut rest = frames.iter();
    names.iter().all(|name| rest.any(|frame| frame == name))
}
