//! Python functions in place of the interpreter's own frames, on every CPython that there is.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;
use tests::{Process, Profiler, Python, Report, Workload, assert_share, script, together, tolerance};

const FREQUENCY: u32 = 999;

/// Each stack of Python functions is one that the interpreter itself knows: recursion, callbacks from C, generators, classes,
/// code made while running, in several threads.
#[test]
fn stacks_are_what_the_interpreter_knows() -> Result<()> {
    for python in Python::all()? {
        let (known, recorded) = record(&mut python.workload("python_calls")?, 4, FREQUENCY)?;
        let known: HashSet<Vec<String>> =
            known.iter().map(|line| line.split('\t').map(str::to_owned).collect()).collect();
        recorded.report.assert_complete(0.995);
        let (mut right, mut wrong, mut total) = (0, BTreeMap::new(), 0);
        for (stack, weight) in &recorded.stacks {
            total += weight;
            let functions: Vec<String> =
                stack.iter().filter(|frame| frame.is_python).map(|frame| frame.name.clone()).collect();
            if known.contains(&functions) {
                right += weight;
            } else {
                *wrong.entry(functions).or_insert(0) += weight;
            }
        }
        let share = right as f64 / total as f64;
        assert!(share >= 0.995, "{python:?}: {share} of the stacks are right: {wrong:#?}");
        // What is between two functions of Python stays between them.
        let callbacks = recorded.stacks.iter().filter(|(stack, _)| has(stack, "compare"));
        let through_c = |stack: &[Frame]| {
            let position = |name: &str| stack.iter().position(|frame| frame.name == name);
            let (Some(caller), Some(callback)) = (position("run_qsort"), position("compare")) else {
                return false;
            };
            caller < callback && stack[caller..callback].iter().any(|frame| frame.file.contains("ffi"))
        };
        let (mut between, mut all) = (0, 0);
        for (stack, weight) in callbacks {
            all += weight;
            between += if through_c(stack) { *weight } else { 0 };
        }
        assert!(all > 0, "{python:?}: no callback");
        // Until 3.10 a sample at the start of a call shows functions one call too far inside.
        assert!(between as f64 >= 0.9 * all as f64, "{python:?}: {between} of {all} go through C");
    }
    Ok(())
}

/// CPU time in the ratio 3:2:1 is told as the program measured it itself, behind a recursion of exactly that depth, with the line that
/// runs.
#[test]
fn shares_and_depths_are_true() -> Result<()> {
    for python in Python::all()? {
        let mut process = Process::start(&mut python.workload("python_shares")?)?;
        let mut output = BufReader::new(process.child().stdout.take().context("stdout is a pipe")?).lines();
        assert_eq!(output.next().context("no line")??, "ready");
        let recorded = recorded(&Profiler::new()?, process.pid(), 5, 1999)?;
        process.signal(Signal::SIGTERM)?;
        let Recorded { report, stacks, .. } = &recorded;
        report.assert_complete(0.995);
        assert_eq!(report.lost_of_its_own(), 0, "{python:?}: {:#}", report.json["losses"]);
        let line = output.next().context("no result")??;
        let spent_ns = line.split(' ').map(str::parse).collect::<Result<Vec<f64>, _>>()?;
        let [three_ns, two_ns, one_ns, all_ns] = spent_ns[..] else { bail!("not four numbers: {line}") };
        let leaves_ns = three_ns + two_ns + one_ns;
        let leaves = [("three", three_ns, 3.0), ("two", two_ns, 2.0), ("one", one_ns, 1.0)];
        let own: f64 =
            leaves.iter().map(|(name, ..)| report.function(name).map_or(0.0, |f| f.self_ratio)).sum();
        let samples = report.samples() as f64;
        for (name, spent_ns, parts) in leaves {
            // The same work takes a CPU a little longer in one place than in another.
            assert!((spent_ns / leaves_ns - parts / 6.0).abs() < 0.1, "the workload itself is off: {line}");
            let function = report.function(name)?;
            let what = format!("{python:?}: {function:?} of {line}");
            assert_share(&what, function.total_ratio, spent_ns / all_ns, samples);
            assert_share(&what, function.self_ratio / own, spent_ns / leaves_ns, samples * own);
            let entry = report.json["cpu"]["functions"]
                .as_array()
                .and_then(|functions| functions.iter().find(|function| function["function"] == name))
                .context("no entry")?;
            let lines = line_of("python_shares", name)? + 2..=line_of("python_shares", name)? + 4;
            let line = entry["line"].as_u64().context("no line")?;
            assert!(lines.contains(&line), "{python:?}: {name} in line {line}, not in {lines:?}");
        }
        for (stack, _) in stacks.iter().filter(|(stack, _)| leaves.iter().any(|(leaf, ..)| has(stack, leaf)))
        {
            let count = |name: &str| stack.iter().filter(|frame| frame.name == name).count();
            assert_eq!((count("<module>"), count("recurse")), (1, 31), "{python:?}: {stack:?}");
        }
    }
    Ok(())
}

/// An interpreter in a shared library that a program has loaded while it runs is read as one that is the program.
#[test]
fn embedded_interpreters_are_read() -> Result<()> {
    let workload = Workload::compile("embeds")?;
    let mut command = workload.command();
    let (_, recorded) = record(command.arg("-B").arg(script("python_shares.py")), 3, FREQUENCY)?;
    recorded.report.assert_complete(0.995);
    let three = recorded.report.function("three")?;
    assert_share("three", three.total_ratio, 0.5, recorded.report.samples() as f64);
    recorded.report.assert_names_any(&["Py_BytesMain"]);
    for (stack, _) in recorded.stacks.iter().filter(|(stack, _)| has(stack, "three")) {
        let count = |name: &str| stack.iter().filter(|frame| frame.name == name).count();
        assert_eq!((count("<module>"), count("recurse")), (1, 31), "{stack:?}");
    }
    Ok(())
}

/// A function that is gone by the time its name is read has no name rather than that of one in its place.
#[test]
fn functions_that_are_gone_have_no_wrong_names() -> Result<()> {
    for python in Python::all()? {
        let (_, recorded) = record(&mut python.workload("python_short_lived")?, 3, FREQUENCY)?;
        recorded.report.assert_complete(0.995);
        let mut burning = 0;
        for (stack, weight) in &recorded.stacks {
            for (burn, other) in [("burn_odd", "even_"), ("burn_even", "odd_")] {
                if has(stack, burn) {
                    burning += weight;
                    let is_wrong = stack.iter().any(|frame| frame.name.starts_with(other));
                    assert!(!is_wrong, "{python:?}: {stack:?}");
                }
            }
        }
        assert!(burning > 0, "{python:?}: {:?}", recorded.stacks);
    }
    Ok(())
}

/// Time in coroutines that a tool awaits is time of that tool.
#[test]
fn awaited_coroutines_stand_on_who_awaits_them() -> Result<()> {
    for python in Python::all()? {
        let mut process = Process::start(&mut python.workload("python_tasks")?)?;
        until_ready(&mut process)?;
        let profiler = Profiler::new()?;
        let recorded = recorded(&profiler, process.pid(), 3, FREQUENCY)?;
        recorded.report.assert_complete(0.995);
        let (mut burning, mut of_query, mut of_tool, mut of_other) = (0, 0, 0, 0);
        for (stack, weight) in recorded.stacks.iter().filter(|(stack, _)| has(stack, "burn")) {
            burning += weight;
            of_other += if has(stack, "other") { *weight } else { 0 };
            of_tool += if has(stack, "tool") { *weight } else { 0 };
            if has(stack, "query") {
                of_query += weight;
                let names = stack.iter().filter(|frame| frame.is_python).map(|frame| frame.name.as_str());
                let names: Vec<&str> = names.collect();
                assert!(names.ends_with(&["tool", "rows", "query", "burn"]), "{python:?}: {names:?}");
                assert!(
                    names.contains(&"BaseEventLoop._run_once") || names.contains(&"_run_once"),
                    "{names:?}"
                );
            }
        }
        assert!(of_query > 0, "{python:?}: {:?}", recorded.stacks);
        assert_eq!(of_tool + of_other, burning, "{python:?}: {of_tool} and {of_other} of {burning}");

        let tasks = profiler.folded_by_tasks("recording.mcpprof")?;
        // `main` has it in its stack too, while it makes the coroutine.
        let is_running = |stack: &&String| stack.contains(";tool;") && stack.contains(";burn");
        let of_tool: Vec<&String> = tasks.iter().map(|(stack, _)| stack).filter(is_running).collect();
        assert!(!of_tool.is_empty(), "{python:?}: {tasks:?}");
        for stack in of_tool {
            let is_whole = stack.contains("_run;main;tool;") && !stack.contains("run_forever");
            assert!(is_whole, "{python:?}: {stack}");
        }
        // Where CPU time goes, by tasks: none of theirs comes through the loop, and each function's own time is what it was.
        let cpu = |options: &[&str]| -> Result<Value> {
            let command = ["cpu", "recording.mcpprof", "--format", "json"];
            Ok(serde_json::from_str(&profiler.succeed(&[&command, options].concat())?.stdout)?)
        };
        let (plain, tasks) = (cpu(&[])?, cpu(&["--async-stacks"])?);
        let through_loop = |report: &Value| {
            let paths =
                report["hot_paths"].as_array().into_iter().flatten().map(|path| path["path"].to_string());
            paths.filter(|path| path.contains("run_forever") && path.contains("\"burn\"")).count()
        };
        assert!(through_loop(&plain) > 0 && through_loop(&tasks) == 0, "{:#}", tasks["hot_paths"]);
        let own = |report: &Value| -> Option<f64> {
            let functions = report["cpu"]["functions"].as_array()?;
            functions.iter().find(|function| function["function"] == "burn")?["self_seconds"].as_f64()
        };
        assert_eq!(own(&plain).context("no burn")?, own(&tasks).context("no burn")?);
    }
    Ok(())
}

/// Time in a task is time of whoever waits for that task, and of nobody else, with `--async-stacks` and not without; a task that nobody
/// waits for stands on nobody.
#[test]
fn tasks_stand_on_who_waits_for_them() -> Result<()> {
    for python in Python::all()? {
        let (_packages, path) = python.anyio()?;
        let mut process = Process::start(python.workload("python_waiting")?.env("PYTHONPATH", path))?;
        let tools = until_ready(&mut process)?;
        let profiler = Profiler::new()?;
        let recorded = recorded(&profiler, process.pid(), 6, FREQUENCY)?;
        recorded.report.assert_complete(0.995);
        // Without the option, only what was on the thread's stack.
        let burning = recorded.stacks.iter().filter(|(stack, _)| has(stack, "burn"));
        for (stack, _) in burning.filter(|(stack, _)| !has(stack, "leaf_limited")) {
            let tool = stack.iter().find(|frame| frame.name.starts_with("tool_"));
            assert!(tool.is_none(), "{python:?}: {stack:?}");
        }

        let mut seen: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
        let folded = profiler.folded_by_tasks("recording.mcpprof")?;
        for &(ref stack, count) in folded.iter().filter(|(stack, _)| stack.contains(";burn")) {
            let Some(start) = stack.find(";leaf_") else { continue };
            let (below, leaf) = (&stack[..start], &stack[start + 6..]);
            let leaf = leaf.split(';').next().unwrap_or_default();
            let below: Vec<&str> = below
                .split(';')
                .filter(|name| *name == "main" || name.starts_with("tool_") || *name == "middle")
                .collect();
            let tool = format!("tool_{leaf}");
            let is_right = match leaf {
                "forgotten" => below.is_empty(),
                "nested" | "other" | "deep" => below == ["main", &tool, "middle"],
                _ => below == ["main", &tool],
            };
            // Until 3.10 a sample at the start of a call takes functions for those of the call inside: then nobody is shown.
            assert!(is_right || below.is_empty(), "{python:?}: {stack}");
            let (right, all) = seen.entry(leaf).or_default();
            *all += count;
            *right += if is_right { count } else { 0 };
        }
        assert_eq!(seen.len(), tools.len(), "{python:?}: {seen:?} of {tools:?}");
        let (right, all) = seen.values().fold((0, 0), |sum, counts| (sum.0 + counts.0, sum.1 + counts.1));
        assert!(right as f64 >= 0.98 * all as f64, "{python:?}: {seen:?}");
        let lost = &recorded.report.json["losses"]["by_cause"]["python_tasks_unreadable"];
        assert!(lost.as_u64().unwrap_or(0) * 100 <= recorded.report.samples(), "{python:?}: {lost}");
    }
    Ok(())
}

/// Coroutines and generators into which an exception is thrown stand on whoever throws it; where that can't be told (3.9), the stack
/// does not count as complete.
#[test]
fn exceptions_are_thrown_by_somebody() -> Result<()> {
    for python in Python::all()? {
        let (_, recorded) = record(&mut python.workload("python_throwing")?, 3, FREQUENCY)?;
        let weight = |is_wanted: &dyn Fn(&[Frame]) -> bool| -> u64 {
            recorded.stacks.iter().filter(|(stack, _)| is_wanted(stack)).map(|(_, weight)| weight).sum()
        };
        let all = weight(&|_| true);
        for name in ["inner", "cleanup", "generator", "asynchronous"] {
            assert!(weight(&|stack| has(stack, name) && has(stack, "burn")) > 0, "{python:?}: {name}");
        }
        let missing = weight(&|stack| has(stack, "burn") && !has(stack, "<module>"));
        let stacks = &recorded.report.json["stacks"];
        let unread = stacks["incomplete"]["python_frames_unreadable"].as_u64().unwrap_or(0);
        let share = unread as f64 / recorded.report.samples() as f64;
        assert!(
            share >= 0.95 * (missing as f64 / all as f64),
            "{python:?}: {missing} of {all}, and {stacks}"
        );
        let is_3_9 = python.program().ends_with("python3.9");
        assert!(is_3_9 || missing as f64 <= 0.005 * all as f64, "{python:?}: {missing} of {all}");
    }
    Ok(())
}

/// Where the search for those who wait for a task is given up, that is counted.
#[test]
fn searches_that_are_given_up_are_counted() -> Result<()> {
    for python in Python::all()? {
        let mut process = Process::start(&mut python.workload("python_searches")?)?;
        until_ready(&mut process)?;
        let profiler = Profiler::new()?;
        let recorded = recorded(&profiler, process.pid(), 3, FREQUENCY)?;
        let tasks = profiler.folded_by_tasks("recording.mcpprof")?;
        let weight = |name: &str| -> u64 {
            let burning = tasks.iter().filter(|(stack, _)| stack.contains(";burn") && stack.contains(name));
            burning.map(|(_, weight)| weight).sum()
        };
        let (nested, crowded) = (weight(";leaf_nested"), weight(";leaf_crowded"));
        let found = weight(";tool_");
        let missing = (nested + crowded - found) as f64 / weight("").max(1) as f64;
        assert!(nested > 0 && crowded > 0 && found < crowded + nested, "{python:?}: {tasks:?}");
        let lost =
            recorded.report.json["losses"]["by_cause"]["python_tasks_unreadable"].as_u64().unwrap_or(0);
        let burning = recorded.report.function("burn")?.total_ratio * recorded.report.samples() as f64;
        // Until 3.10 a sample at the start of a call takes functions for those of the call inside.
        assert!(lost as f64 >= 0.95 * missing * burning, "{python:?}: {lost} of {missing} of {burning}");
    }
    Ok(())
}

/// What the search for those who wait needs and the kernel finds paged out is brought in, and what was missed until then is counted.
#[test]
fn what_is_paged_out_is_brought_in() -> Result<()> {
    let python = Python::of_servers()?;
    // Pages that other processes have too are not taken out.
    let folder = TempDir::new()?;
    let asking =
        Command::new(python.program()).args(["-c", "print(__import__('_asyncio').__file__)"]).output()?;
    let library = PathBuf::from(String::from_utf8(asking.stdout)?.trim());
    std::fs::copy(&library, folder.path().join(library.file_name().context("no _asyncio")?))?;
    let mut workload = python.workload("python_paged_out")?;
    let mut process = Process::start(workload.env("PYTHONPATH", folder.path()))?;
    until_ready(&mut process)?;
    let profiler = Profiler::new()?;
    let recorded = recorded(&profiler, process.pid(), 3, FREQUENCY)?;
    let (mut all, mut found) = (0, 0);
    for (stack, count) in profiler.folded_by_tasks("recording.mcpprof")? {
        if stack.contains(";leaf;") {
            all += count;
            found += if stack.contains(";tool;") { count } else { 0 };
        }
    }
    let lost = recorded.report.json["losses"]["by_cause"]["python_tasks_unreadable"].as_u64().unwrap_or(0);
    assert!(found * 10 >= all * 8 && all > 0, "{found} of {all}, {lost} lost");
    assert!((found + lost) * 100 >= all * 98, "{found} of {all}, {lost} lost");
    Ok(())
}

/// Children that end before their names are read have those of their family.
#[test]
fn children_have_the_names_of_their_family() -> Result<()> {
    for python in Python::all()? {
        let (_, recorded) = record(&mut python.workload("python_children")?, 3, FREQUENCY)?;
        let burn = recorded.report.function("burn_in_child")?;
        assert!(burn.total_ratio > 0.6, "{python:?}: {burn:?}");
        let lost = &recorded.report.json["losses"]["by_cause"]["python_names_unreadable"];
        let lost = lost.as_u64().unwrap_or(0);
        assert!(lost * 100 <= recorded.report.samples(), "{python:?}: {lost} frames without a name");
    }
    Ok(())
}

/// The report says how the functions were had. Of a version that is not known it says that they are not shown, and there are no
/// guesses among the frames: here 3.11 claims to be 3.15.
#[test]
fn unknown_versions_are_not_guessed() -> Result<()> {
    let (_, recorded) = record(&mut Python::of_servers()?.workload("python_shares")?, 2, FREQUENCY)?;
    let of = |report: &Report| report.json["processes"][0]["unwinding"].to_string();
    assert!(of(&recorded.report).contains("functions, read in the kernel"), "{}", of(&recorded.report));

    let folder = tempfile::tempdir()?;
    let program = folder.path().join("python3");
    let original = std::fs::canonicalize(Python::of_servers()?.program())?;
    let mut bytes = std::fs::read(&original)?;
    let asked = Command::new(&original).args(["-c", "import sys; print(sys.hexversion)"]).output()?;
    let version: u64 = String::from_utf8(asked.stdout)?.trim().parse()?;
    // `const unsigned long Py_Version`.
    let places: Vec<usize> = bytes
        .windows(8)
        .enumerate()
        .filter(|(_, word)| *word == version.to_le_bytes())
        .map(|(at, _)| at)
        .collect();
    assert_eq!(places.len(), 1, "{version:#x}");
    bytes[places[0]..][..8].copy_from_slice(&0x030f_00f0_u64.to_le_bytes());
    std::fs::write(&program, bytes)?;
    std::fs::set_permissions(&program, std::fs::metadata(&original)?.permissions())?;
    let script = "print('ready', flush=True)\nwhile True: sum(range(1000))";
    let mut command = Command::new(&program);
    let prefix = original.ancestors().nth(2).context("no prefix")?;
    command.args(["-c", script]).env("PYTHONHOME", prefix).stdin(Stdio::null()).stdout(Stdio::piped());
    let (_, recorded) = record(&mut command, 3, FREQUENCY)?;
    let python = recorded.stacks.iter().flat_map(|(stack, _)| stack).find(|frame| frame.is_python);
    assert!(python.is_none(), "{python:?}");
    // All that is missing are Python's functions: machine code is whole down to where the program starts.
    let stacks = &recorded.report.json["stacks"];
    let count = |of: &Value| of.as_u64().unwrap_or(0);
    let unread = count(&stacks["incomplete"]["python_frames_unreadable"]);
    let walked = unread + count(&stacks["complete"]);
    assert!(unread > 0 && walked * 1000 >= count(&stacks["samples"]) * 995, "{stacks:#}");
    recorded.report.function("_PyEval_EvalFrameDefault")?;
    assert_start(&recorded.stacks);
    let causes = &recorded.report.json["losses"]["by_cause"];
    assert_eq!(causes, &serde_json::json!({"python_layout_unknown": 1}));
    assert!(of(&recorded.report).contains("laid out in a way that is not known"), "{}", of(&recorded.report));
    Ok(())
}

/// The functions of 1,024 processes are read at one time. Of those above that the report says that they are not shown, and why;
/// their machine code is.
#[test]
fn processes_without_room_are_told() -> Result<()> {
    let mut process = Process::start(&mut Python::of_servers()?.workload("python_many")?)?;
    until_ready(&mut process)?;
    let recorded = recorded(&Profiler::new()?, process.pid(), 4, FREQUENCY)?;
    let causes = &recorded.report.json["losses"]["by_cause"];
    // 1,101 processes: which of them found room is the affair of the profiler.
    assert_eq!(causes["python_processes_full"], 1101 - 1024, "{causes}");
    assert_eq!(causes["python_layout_unknown"], Value::Null, "{causes}");
    let processes = recorded.report.json["processes"].as_array().context("processes")?;
    let text = |process: &&Value| process["unwinding"].to_string();
    let not_shown = processes.iter().filter(|process| text(process).contains("are not shown: those of 1024"));
    assert_eq!(not_shown.count(), 1101 - 1024);
    let shown = processes.iter().filter(|process| text(process).contains("functions, read in the kernel"));
    assert_eq!(shown.count(), 1024);
    assert_start(&recorded.stacks);
    Ok(())
}

/// Nearly all stacks start where the program does.
fn assert_start(stacks: &[(Vec<Frame>, u64)]) {
    let weight = |stacks: &mut dyn Iterator<Item = &(Vec<Frame>, u64)>| -> u64 {
        stacks.map(|(_, weight)| weight).sum()
    };
    let from_start = |(stack, _): &&(Vec<Frame>, u64)| stack.iter().any(|frame| frame.name == "_start");
    let (whole, all) = (weight(&mut stacks.iter().filter(from_start)), weight(&mut stacks.iter()));
    assert!(whole * 1000 >= all * 995, "{whole} of {all} come from _start");
}

/// The ten functions that take most time are those of py-spy, with the same shares. When it looks is up to the machine: on a busy one
/// it is not at random. So it has three looks, in one of which the two have to agree in all.
#[test]
fn py_spy_agrees() -> Result<()> {
    let python = Python::of_servers()?;
    let mut process = Process::start(python.workload("python_calls")?.arg("alone"))?;
    let known = until_ready(&mut process)?;
    assert!(!known.is_empty());
    let mut differences = Vec::new();
    for _ in 0..3 {
        differences = differences_to_py_spy(&process)?;
        if differences.is_empty() {
            return Ok(());
        }
        eprintln!("{differences:?}");
    }
    panic!("{differences:?}");
}

/// What py-spy and the profiler say differently of a process, more than chance allows.
fn differences_to_py_spy(process: &Process) -> Result<Vec<String>> {
    let pid = process.pid().to_string();
    let profiler = Profiler::new()?;
    let raw = profiler.path("py-spy.txt");
    // One after the other: py-spy stops the process to look at it.
    let (before, start) = (process.cpu_seconds()?, Instant::now());
    let spy = Command::new(Python::py_spy()?)
        .args(["record", "--pid", &pid, "--duration", "10", "--rate", "200", "--format", "raw"])
        .args(["--function", "--output"])
        .arg(&raw)
        .output()?;
    ensure!(spy.status.success(), "{spy:?}");
    let running = ((process.cpu_seconds()? - before) / start.elapsed().as_secs_f64()).min(1.0);
    let recorded = recorded(&profiler, process.pid(), 10, FREQUENCY)?;

    let mut theirs = Shares::default();
    for line in std::fs::read_to_string(&raw)?.lines() {
        let (stack, count) = line.rsplit_once(' ').context("no count")?;
        // `burn (python_calls.py)`
        let names = stack.split(';').map(|frame| short(frame.split(" (").next().unwrap_or(frame)));
        theirs.add(names.collect(), count.parse()?);
    }
    let mut ours = Shares::default();
    for (stack, weight) in &recorded.stacks {
        let python = stack.iter().filter(|frame| frame.is_python);
        ours.add(python.map(|frame| short(&frame.name)).collect(), *weight);
    }
    // py-spy looks at a clock on the wall. On a busy machine it finds the process waiting, again and again where it was
    // before: those say nothing new.
    let samples = together(theirs.all as f64 * running, ours.all as f64);
    let mut top: Vec<(&String, f64)> = theirs.own.keys().map(|name| (name, theirs.own(name))).collect();
    top.sort_by(|one, other| other.1.total_cmp(&one.1));
    assert!(top.len() >= 10, "{top:?}");
    let mut differences = Vec::new();
    for (name, share) in &top[..10] {
        let pairs = [("own", ours.own(name), *share), ("all", ours.total(name), theirs.total(name))];
        for (what, ours, theirs) in pairs {
            if (ours - theirs).abs() >= tolerance(theirs, samples) {
                differences
                    .push(format!("{what} time of {name}: {ours}, py-spy {theirs}, {samples} samples"));
            }
        }
    }
    Ok(differences)
}

/// A name without its class: whether that is told depends on the version of py-spy.
fn short(name: &str) -> String {
    name.rsplit('.').next().unwrap_or(name).to_owned()
}

/// Weights by function.
#[derive(Default)]
struct Shares {
    own: HashMap<String, u64>,
    total: HashMap<String, u64>,
    all: u64,
}

impl Shares {
    fn add(&mut self, names: Vec<String>, weight: u64) {
        let Some(leaf) = names.last() else { return };
        *self.own.entry(leaf.clone()).or_default() += weight;
        for name in names.into_iter().collect::<HashSet<_>>() {
            *self.total.entry(name).or_default() += weight;
        }
        self.all += weight;
    }

    fn own(&self, name: &str) -> f64 {
        self.own.get(name).copied().unwrap_or(0) as f64 / self.all as f64
    }

    fn total(&self, name: &str) -> f64 {
        self.total.get(name).copied().unwrap_or(0) as f64 / self.all as f64
    }
}

/// A frame of a recorded stack.
#[derive(Clone, Debug)]
struct Frame {
    name: String,
    file: String,
    is_python: bool,
}

/// What was recorded of a workload. Stacks start with the outermost frame.
struct Recorded {
    report: Report,
    stacks: Vec<(Vec<Frame>, u64)>,
}

/// Records what the command starts once it has printed `ready`; the lines that it printed before, and what was recorded.
fn record(command: &mut Command, seconds: u32, frequency: u32) -> Result<(Vec<String>, Recorded)> {
    let mut process = Process::start(command)?;
    let lines = until_ready(&mut process)?;
    Ok((lines, recorded(&Profiler::new()?, process.pid(), seconds, frequency)?))
}

fn until_ready(process: &mut Process) -> Result<Vec<String>> {
    let output = BufReader::new(process.child().stdout.take().context("stdout is a pipe")?);
    let mut lines = Vec::new();
    for line in output.lines() {
        match line?.as_str() {
            "ready" => return Ok(lines),
            line => lines.push(line.to_owned()),
        }
    }
    bail!("the workload ended: {lines:?}")
}

fn recorded(profiler: &Profiler, pid: u32, seconds: u32, frequency: u32) -> Result<Recorded> {
    let report = profiler.record_enough(seconds, frequency, &["--pid", &pid.to_string()], 200)?;
    // This format tells the file of each frame.
    profiler.succeed(&[
        "export",
        "recording.mcpprof",
        "--format",
        "speedscope",
        "--output",
        "stacks.json",
    ])?;
    let json: Value = serde_json::from_slice(&std::fs::read(profiler.path("stacks.json"))?)?;
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let frames: Vec<Frame> = list(&json["shared"]["frames"])
        .iter()
        .map(|frame| {
            let file = frame["file"].as_str().unwrap_or_default().to_owned();
            let is_python = file.ends_with(".py") || file.starts_with('<');
            Frame { name: frame["name"].as_str().unwrap_or_default().to_owned(), file, is_python }
        })
        .collect();
    let mut stacks = Vec::new();
    for profile in list(&json["profiles"]) {
        for (sample, weight) in list(&profile["samples"]).iter().zip(list(&profile["weights"])) {
            let index = |index: &Value| frames.get(index.as_u64()? as usize).cloned();
            let stack: Vec<Frame> = list(sample).iter().filter_map(index).collect();
            stacks.push((stack, weight.as_f64().context("no weight")?.round() as u64));
        }
    }
    Ok(Recorded { report, stacks })
}

fn has(stack: &[Frame], name: &str) -> bool {
    stack.iter().any(|frame| frame.is_python && frame.name == name)
}

/// The line of a function's `def` in a workload.
fn line_of(workload: &str, function: &str) -> Result<u64> {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("workloads").join(workload);
    let text = std::fs::read_to_string(path.with_extension("py"))?;
    let line = text.lines().position(|line| line.starts_with(&format!("def {function}(")));
    Ok(line.context("no such function")? as u64 + 1)
}
