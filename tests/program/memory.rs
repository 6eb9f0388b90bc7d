//! What recordings need of the kernel's memory.

use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sys::signal::Signal;
use tests::{Footprint, Process, Profiler, node, python_program, script, wait_until};

const MEBIBYTE: u64 = 1 << 20;

/// The unwind table of Node 20, the largest of those that servers have, and all kernel memory of a recording of a Node and a
/// Python server.
#[test]
fn tables_are_small() -> Result<()> {
    let (node, python) = (node(20)?, python_program()?);
    let process = Process::start_scripts(&[
        (node.get_program().as_ref(), &script("inlining.js")),
        (&python, &script("python_shares.py")),
    ])?;
    let profiler = Profiler::new()?;
    let running = profiler.recording_with(process.pid(), 99, &["--no-calls"])?;
    // Samples come once all tables are there.
    wait_until("the recording begins", Duration::from_secs(60), || {
        profiler.report("recording.mcpprof").ok().filter(|report| report.samples() > 0)
    })?;
    let footprint = Footprint::of(running.pid())?;
    running.signal(Signal::SIGINT)?;
    assert_eq!(running.finish()?.code, Some(0));
    let report = profiler.report("recording.mcpprof")?;
    assert_eq!(report.json["losses"]["by_cause"]["code_tables_full"], serde_json::Value::Null);
    report.function("caller").context("of Node")?;
    report.function("recurse").context("of Python")?;
    // At least 370,000 rows before neighbours are merged, and each is 8 bytes.
    assert!((MEBIBYTE..=4 * MEBIBYTE).contains(&footprint.largest_table_bytes), "{footprint:?}");
    assert!(footprint.map_bytes < 16 * MEBIBYTE, "{footprint:?}");
    Ok(())
}
