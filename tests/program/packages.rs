//! Packages of real servers: in the report, and in place of functions.

use anyhow::{Context as _, Result};
use serde_json::json;
use tests::{Client, Load, Profiler, Report, python_time, under_load};

/// Python's installed packages and its standard library, in the report, the call tree, the flame graph and folded stacks.
#[test]
fn python_packages() -> Result<()> {
    let load = time_server()?;
    let profiler = Profiler::new()?;
    let report = profiler.record_and_report(5, 499, &["--pid", &load.pid().to_string()])?;
    assert_packages(&report, &["site-packages/mcp", "python3.11 stdlib", "libc.so.6"]);
    let function =
        report.functions().into_iter().find(|function| function.module.contains("/site-packages/mcp/"));
    assert!(function.is_some(), "no function of mcp");
    let places = report.json["cpu"]["functions"].as_array().context("cpu.functions")?;
    let is_short = |function: &serde_json::Value| {
        function["place"].as_str().is_some_and(|place| place.starts_with("site-packages/mcp/"))
    };
    assert!(places.iter().any(is_short), "no place from the package's name on");

    let folded = profiler.succeed(&["call-tree", "recording.mcpprof", "--fold-by", "package"])?;
    assert!(folded.stdout.contains(" site-packages/mcp\n"), "{}", folded.stdout);
    assert!(!folded.stdout.contains("PyEval"), "{}", folded.stdout);
    profiler.succeed(&["flame-graph", "recording.mcpprof", "--fold-by", "package", "-o", "flame.svg"])?;
    let picture = std::fs::read_to_string(profiler.path("flame.svg"))?;
    assert!(picture.contains("site-packages/mcp ("), "the picture has no such package");
    let options = ["--format", "folded", "--fold-by", "package", "-o", "-"];
    let lines = profiler.succeed(&[&["export", "recording.mcpprof"], options.as_slice()].concat())?.stdout;
    for line in lines.lines() {
        let (stack, _) = line.rsplit_once(' ').context("a count")?;
        let packages: Vec<&str> = stack.split(';').skip(2).collect();
        assert!(packages.windows(2).all(|pair| pair[0] != pair[1]), "{line}");
    }
    Ok(())
}

/// Node's installed packages and its standard library; a package stands for its functions.
#[test]
fn node_packages() -> Result<()> {
    let load = under_load()?;
    let profiler = Profiler::new()?;
    let report = profiler.record_and_report(5, 499, &["--pid", &load.pid().to_string()])?;
    assert_packages(
        &report,
        &["node_modules/@modelcontextprotocol/sdk", "node_modules/zod", "node:internal"],
    );
    let folded = profiler.succeed(&["call-tree", "recording.mcpprof", "--fold-by", "package"])?;
    assert!(folded.stdout.contains(" node_modules/@modelcontextprotocol/sdk\n"), "{}", folded.stdout);
    assert!(!folded.stdout.contains("Builtins_"), "{}", folded.stdout);
    Ok(())
}

/// A format that tells each address with its function can't be folded, and says so.
#[test]
fn other_exports_are_not_folded() -> Result<()> {
    let arguments = ["export", "any.mcpprof", "--format", "pprof", "--fold-by", "package"];
    Profiler::new()?.run(&arguments)?.assert_fails(2, &["--fold-by package", "folded"]);
    Ok(())
}

fn time_server() -> Result<Load> {
    let arguments = json!({"timezone": "Europe/Berlin"});
    Client::start(&mut python_time()?)?.load("get_current_time", arguments)
}

fn assert_packages(report: &Report, names: &[&str]) {
    let packages: Vec<&str> = report.json["cpu"]["packages"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|package| package["package"].as_str())
        .collect();
    for name in names {
        assert!(packages.contains(name), "no {name} among {packages:?}");
    }
}
