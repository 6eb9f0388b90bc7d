//! `demo`: the whole way on a bundled server under a bundled client's load.

use std::path::Path;
use std::time::Duration;

use clap::Args;

use super::flame_graph;
use super::record::{Recorder, parse_duration, shell_word};
use super::report::ReportOptions;
use super::terminal::note;
use crate::analysis::functions::Functions;
use crate::capture::Options;
use crate::demo::{run_load, serve as serve_demo, spawn_server};
use crate::output::units::count;
use crate::wire::contents::Capture;

/// The recording, in the current folder.
const RECORDING: &str = "mcp-profiler-demo.mcpprof";
/// The flame graph, in the current folder.
const FLAME_GRAPH: &str = "mcp-profiler-demo.svg";

/// Options of `demo`.
#[derive(Args, Debug)]
#[command(after_help = "\
Example:
  sudo mcp-profiler demo

Starts a small MCP server whose tools compute, sleep, write files and allocate,
calls them for ten seconds, prints the report and leaves in the current folder
  mcp-profiler-demo.mcpprof   the recording
  mcp-profiler-demo.svg       its flame graph: open it in a browser")]
pub(super) struct Arguments {
    /// How long to call the server
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse_duration)]
    duration: Duration,
    /// Samples a second of CPU time
    #[arg(long, value_name = "HZ", default_value_t = 99, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    frequency: u64,
    #[command(flatten)]
    options: ReportOptions,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let recorded = runtime.block_on(async {
        let mut server = spawn_server()?;
        let pid = server.id().ok_or_else(|| anyhow::anyhow!("the demo server ended at once"))?;
        let (from_server, to_server) = server
            .stdout
            .take()
            .zip(server.stdin.take())
            .ok_or_else(|| anyhow::anyhow!("the demo server has no pipes"))?;
        let options = Options {
            target_name: "demo-server".to_owned(),
            pid,
            pids: vec![pid],
            frequency_hz: arguments.frequency,
            is_asking: false,
            is_reading_calls: true,
            capture: Capture::default(),
            counted: Vec::new(),
            is_launched: false,
            programs: Vec::new(),
            output: RECORDING.into(),
            keep: None,
            is_followed: false,
        };
        let mut recorder = Recorder::start(&options, None, None)?;
        // The load is a task of its own: ending the recording early must not wait for it.
        let load = tokio::spawn(run_load(from_server, to_server, arguments.duration));
        match recorder.run(None, None, load).await? {
            Some(Ok(Ok(summary))) => note(&format!(
                "the client made {} calls, {} of them with errors",
                count(summary.calls),
                count(summary.errors)
            )),
            Some(Ok(Err(error))) => note(&format!("warning: {error}")),
            Some(Err(error)) => note(&format!("warning: the demo's load failed: {error}")),
            None => {}
        }
        recorder.finish()
    })?;
    arguments.options.print(&recorded.recording, &[])?;
    flame_graph::write(Path::new(FLAME_GRAPH), &recorded.recording, &Functions::new(&recorded.recording))?;
    note(&format!("flame graph: {FLAME_GRAPH} (open it in a browser)"));
    note(&format!("call tree:   mcp-profiler call-tree {}", shell_word(&recorded.path)));
    Ok(())
}

/// The hidden subcommand.
pub(super) fn serve() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(serve_demo())?;
    Ok(())
}
