//! .NET servers: asked for the names of their methods while they run.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::json;
use tests::{Client, Load, Profiler, azure, wait_until};

/// Methods are named without a restart, stacks are whole, packages are assemblies, and nothing is left behind.
#[test]
fn methods_are_named_while_it_runs() -> Result<()> {
    let load = warm()?;
    let pid = load.pid().to_string();
    let report = Profiler::new()?.record_and_report(5, 299, &["--pid", &pid])?;
    assert_eq!(report.runtime(), "dotnet");
    report.assert_complete(0.99);
    report.assert_names_any(&["[System.Text.Json] System.Text.Json."]);
    let packages = report.json["cpu"]["packages"].as_array().context("cpu.packages")?;
    let json_package = packages.iter().find(|package| package["package"] == "System.Text.Json");
    let share =
        json_package.and_then(|package| package["self_ratio"].as_f64()).context("a package of .NET")?;
    assert!(share > 0.05, "{packages:?}");
    let unwinding = &report.json["target"]["unwinding"];
    assert!(
        unwinding["language"].as_str().is_some_and(|text| text.contains("methods named by")),
        "{unwinding}"
    );
    assert!(!Path::new("/tmp").join(format!("perf-{pid}.map")).exists());
    Ok(())
}

/// One that is only to be watched is not asked, and the report says so.
#[test]
fn only_watched() -> Result<()> {
    let load = warm()?;
    let target = ["--passive", "--pid", &load.pid().to_string()];
    let report = Profiler::new()?.record_and_report(3, 299, &target)?;
    report.assert_complete(0.99);
    assert!(!report.functions().iter().any(|function| function.name.contains("System.Text.Json")));
    let unwinding = &report.json["target"]["unwinding"];
    assert!(unwinding["advice"].as_str().is_some_and(|text| text.contains("--passive")), "{unwinding}");
    Ok(())
}

/// A server under load that has compiled most of what it will: memory for code is mapped while it warms up.
fn warm() -> Result<Load> {
    let load = Client::start(&mut azure()?)?.requests("tools/list", json!({}))?;
    let has_answered = || (load.calls() > 2_000).then_some(());
    wait_until("the server answers", Duration::from_secs(180), has_answered)?;
    Ok(load)
}
