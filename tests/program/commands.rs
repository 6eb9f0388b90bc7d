//! Commands that need nothing prepared: the demo, the doctor, and views that record first.

use anyhow::{Context as _, Result};
use tests::{Profiler, Report, Workload};

/// The demo leaves a report, a flame graph and a recording in an empty folder.
#[test]
fn demo() -> Result<()> {
    let profiler = Profiler::new()?;
    let outcome = profiler.succeed(&["demo", "--duration", "2s"])?;
    outcome.assert_clean();
    assert!(outcome.stdout.contains("demo::work::"), "{outcome:#?}");
    let mut files: Vec<_> =
        std::fs::read_dir(profiler.folder())?.flatten().map(|entry| entry.file_name()).collect();
    files.sort();
    assert_eq!(files, ["mcp-profiler-demo.mcpprof", "mcp-profiler-demo.svg"]);
    let svg = std::fs::read_to_string(profiler.path("mcp-profiler-demo.svg"))?;
    assert!(svg.contains("<svg") && svg.contains("demo::work::compute_round"), "no flame graph of the demo");
    let report = profiler.report("mcp-profiler-demo.mcpprof")?;
    assert_eq!(report.lost(), 0);
    assert!(report.function("mcp_profiler::demo::work::compute_round")?.total_ratio > 0.2);
    Ok(())
}

/// The doctor finds no fault where these tests run, for people and for programs.
#[test]
fn doctor() -> Result<()> {
    let target = Workload::compile("spin")?.start()?;
    let pid = target.pid().to_string();
    let profiler = Profiler::new()?;
    for target in [[].as_slice(), &["--pid", &pid]] {
        let text = profiler.succeed(&[&["doctor"], target].concat())?.stdout;
        assert!(text.contains("This machine can profile"), "{text}");
        let json = profiler.succeed(&[&["doctor", "--format", "json"], target].concat())?.stdout;
        let json: serde_json::Value = serde_json::from_str(&json)?;
        assert_eq!((&json["schema_version"], &json["healthy"]), (&1.into(), &true.into()), "{json}");
        let checks = json["checks"].as_array().context("checks")?;
        assert!(checks.len() >= 5, "{json}");
        for check in checks {
            for field in ["name", "status", "finding"] {
                assert!(check[field].as_str().is_some_and(|text| !text.is_empty()), "{field} of {check}");
            }
            assert!(text.contains(check["name"].as_str().unwrap_or_default()), "{check} is not in {text}");
        }
    }
    Ok(())
}

/// Each view records first when it is given a target, shows what it recorded and keeps the recording.
#[test]
fn views_record_first() -> Result<()> {
    let target = Workload::compile("spin")?.start()?;
    let pid = target.pid().to_string();
    let options = ["--pid", &pid, "--duration", "1s", "--recording", "kept.mcpprof"];
    let views: [(&[&str], Option<&str>); 7] = [
        (&["profile"], None),
        (&["report"], None),
        (&["cpu"], None),
        (&["call-tree"], None),
        (&["flame-graph", "--output", "view.svg"], Some("view.svg")),
        (&["export", "--format", "folded", "--output", "view.folded"], Some("view.folded")),
        (&["export", "--format", "folded", "--output", "-"], None),
    ];
    for (view, file) in views {
        let profiler = Profiler::new()?;
        let outcome = profiler.succeed(&[view, &options].concat())?;
        outcome.assert_clean();
        let shown = match file {
            Some(file) => std::fs::read_to_string(profiler.path(file))?,
            None => outcome.stdout,
        };
        assert!(shown.contains("spin_work"), "{view:?}: {shown}");
        let report = profiler.report("kept.mcpprof")?;
        assert!(report.function("spin_work")?.total_ratio > 0.9, "{view:?}: {}", report.json);
    }
    Ok(())
}

/// `profile --format json` prints the report contract and nothing else on standard output.
#[test]
fn profile_for_programs() -> Result<()> {
    let target = Workload::compile("spin")?.start()?;
    let pid = target.pid().to_string();
    let profiler = Profiler::new()?;
    let arguments = ["profile", "--pid", &pid, "--duration", "2s", "--format", "json"];
    let report = Report::parse(&profiler.succeed(&arguments)?.stdout)?;
    assert!(report.function("spin_work")?.total_ratio > 0.9, "{}", report.json);
    for field in ["name", "command", "pids", "runtime"] {
        assert!(!report.json["target"][field].is_null(), "target.{field} in {}", report.json);
    }
    for (object, field) in [("window", "start"), ("window", "seconds"), ("stacks", "complete_ratio")] {
        assert!(!report.json[object][field].is_null(), "{object}.{field} in {}", report.json);
    }
    Ok(())
}
