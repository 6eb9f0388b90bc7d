//! Outputs, read back by programs of others.

use anyhow::{Context as _, Result, ensure};
use tests::{Profiler, Report, Workload, assert_share, go, speedscope_import};

/// A recording of 3 parts `a` and 1 part `b`, and its report.
fn recorded(profiler: &Profiler) -> Result<Report> {
    let target = Workload::compile("shares")?.start()?;
    profiler.record_and_report(4, 499, &["--pid", &target.pid().to_string()])
}

/// What has no asyncio task says so when it is asked for tasks, and shows what it shows without.
#[test]
fn views_by_tasks_need_tasks() -> Result<()> {
    let profiler = Profiler::new()?;
    recorded(&profiler)?;
    let plain = profiler.succeed(&["call-tree", "recording.mcpprof"])?;
    let by_tasks = profiler.succeed(&["call-tree", "recording.mcpprof", "--async-stacks"])?;
    assert_eq!(by_tasks.stdout, plain.stdout);
    let said: Vec<&str> = by_tasks.stderr.lines().collect();
    assert!(matches!(said[..], [line] if line.contains("--async-stacks changes nothing here")), "{said:?}");
    let plain = profiler.succeed(&["cpu", "recording.mcpprof", "--call-tree"])?;
    let by_tasks = profiler.succeed(&["cpu", "recording.mcpprof", "--call-tree", "--async-stacks"])?;
    assert_eq!((by_tasks.stdout, by_tasks.stderr.lines().count()), (plain.stdout, 1));
    Ok(())
}

/// `go tool pprof` reads the same shares as the report.
#[test]
fn pprof() -> Result<()> {
    let profiler = Profiler::new()?;
    let report = recorded(&profiler)?;
    for name in ["a", "b"] {
        let columns = pprof_columns(&profiler, "cpu", name)?;
        let columns: Vec<&str> = columns.iter().map(String::as_str).collect();
        let expected = report.function(name)?;
        for (column, ratio) in [(columns[1], expected.self_ratio), (columns[4], expected.total_ratio)] {
            let percent: f64 = column.trim_end_matches('%').parse()?;
            assert!((percent / 100.0 - ratio).abs() < 0.001, "{columns:?} instead of {expected:?}");
        }
    }
    Ok(())
}

/// What `go tool pprof` shows of a function: flat, flat%, sum%, cum, cum%, name.
fn pprof_columns(profiler: &Profiler, value: &str, name: &str) -> Result<Vec<String>> {
    profiler.succeed(&["export", "recording.mcpprof", "--format", "pprof", "--output", "cpu.pb.gz"])?;
    let output = go(profiler.folder())?
        .args(["tool", "pprof", "-top", "-nodefraction=0", "-symbolize=none"])
        .arg(format!("-sample_index={value}"))
        .arg(profiler.path("cpu.pb.gz"))
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let columns = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let found = text.lines().map(columns).find(|columns| columns.len() == 6 && columns[5] == name);
    found.with_context(|| format!("no {name} in {text}"))
}

/// speedscope's own importer reads the same shares as the report.
#[test]
fn speedscope() -> Result<()> {
    let profiler = Profiler::new()?;
    let report = recorded(&profiler)?;
    let file = "cpu.speedscope.json";
    profiler.succeed(&["export", "recording.mcpprof", "--format", "speedscope", "--output", file])?;
    let imported = speedscope_import(&profiler.path(file))?;
    let profiles = imported["profiles"].as_array().context("profiles")?;
    let number = |value: &serde_json::Value| value.as_f64().expect("a weight");
    let total: f64 = profiles.iter().map(|profile| number(&profile["total"])).sum();
    for name in ["a", "b"] {
        let frames = profiles.iter().flat_map(|profile| profile["frames"].as_array().expect("frames"));
        let own: f64 = frames.filter(|frame| frame["name"] == name).map(|frame| number(&frame["self"])).sum();
        let expected = report.function(name)?;
        assert!(
            (own / total - expected.self_ratio).abs() < 0.001,
            "{own} of {total} instead of {expected:?}"
        );
    }
    for profile in profiles {
        let (unit, seconds) = (profile["unit"].as_str().context("unit")?, number(&profile["total"]));
        assert!(
            ["nanoseconds", "microseconds", "milliseconds", "seconds"].contains(&unit),
            "{unit}: {seconds}"
        );
    }
    Ok(())
}

/// The weights of the folded stacks add up to the samples of the report, are those of pprof, and give the report's shares.
#[test]
fn folded() -> Result<()> {
    let profiler = Profiler::new()?;
    let report = recorded(&profiler)?;
    let stacks = profiler.folded("recording.mcpprof")?;
    let total: u64 = stacks.iter().map(|(_, weight)| weight).sum();
    assert_eq!(total, report.samples(), "a weight is a number of samples");
    let own = |name: &str| -> u64 {
        let ends = |stack: &str| stack.rsplit(';').next() == Some(name);
        stacks.iter().filter(|(stack, _)| ends(stack)).map(|(_, weight)| weight).sum()
    };
    for name in ["a", "b"] {
        let expected = report.function(name)?;
        assert_eq!(pprof_columns(&profiler, "samples", name)?[0], own(name).to_string());
        let ratio = own(name) as f64 / total as f64;
        // The report scales samples, here and there differently on a busy machine, to what the kernel counted.
        assert_share(name, ratio, expected.self_ratio, total as f64);
    }
    Ok(())
}

/// A recording tells the same elsewhere, when the program that it shows is gone.
#[test]
fn copied_recording() -> Result<()> {
    let profiler = Profiler::new()?;
    let report = recorded(&profiler)?;
    let text = profiler.succeed(&["report", "recording.mcpprof"])?.stdout;
    let elsewhere = Profiler::new()?;
    std::fs::copy(profiler.path("recording.mcpprof"), elsewhere.path("recording.mcpprof"))?;
    assert_eq!(elsewhere.report("recording.mcpprof")?, report);
    assert_eq!(elsewhere.succeed(&["report", "recording.mcpprof"])?.stdout, text);
    Ok(())
}

/// Flame graphs are SVG with the functions in them; two recordings give a difference.
#[test]
fn flame_graphs() -> Result<()> {
    let profiler = Profiler::new()?;
    recorded(&profiler)?;
    std::fs::copy(profiler.path("recording.mcpprof"), profiler.path("before.mcpprof"))?;
    recorded(&profiler)?;
    profiler.succeed(&["flame-graph", "recording.mcpprof", "--output", "cpu.svg"])?;
    let difference = [
        "flame-graph",
        "--baseline",
        "before.mcpprof",
        "--current",
        "recording.mcpprof",
        "--diff",
        "--output",
    ];
    profiler.succeed(&[difference.as_slice(), &["difference.svg"]].concat())?;
    for file in ["cpu.svg", "difference.svg"] {
        let svg = std::fs::read_to_string(profiler.path(file))?;
        assert!(svg.contains("<svg") && svg.trim_end().ends_with("</svg>"), "{file} is no SVG");
        assert!(svg.contains("<title>a (") && svg.contains("<title>b ("), "{file} has no functions");
    }
    Ok(())
}

/// A text report fits 80 columns and has no colour when it is not for a terminal.
#[test]
fn text_report() -> Result<()> {
    let profiler = Profiler::new()?;
    recorded(&profiler)?;
    for arguments in
        [["report", "recording.mcpprof"], ["call-tree", "recording.mcpprof"], ["cpu", "recording.mcpprof"]]
    {
        let text = profiler.succeed(&arguments)?.stdout;
        assert!(text.contains("main") || text.contains('a'), "{text}");
        assert!(!text.contains('\u{1b}'), "colour in {text}");
        let long: Vec<&str> = text.lines().filter(|line| line.chars().count() > 80).collect();
        assert!(long.is_empty(), "{arguments:?}: {long:#?}");
    }
    Ok(())
}
