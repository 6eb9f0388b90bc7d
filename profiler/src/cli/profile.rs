//! `profile`: record, then report.

use std::path::PathBuf;

use clap::Args;

use super::record::{Plan, SamplingArguments, TargetArguments, no_target, record};
use super::report::ReportOptions;

/// Options of `profile`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  sudo mcp-profiler profile --mcp filesystem --duration 60s
  sudo mcp-profiler profile --pid 4711 --duration 30s --format json
  sudo mcp-profiler profile --duration 10s -- node server.js

The recording is kept: look at it again with `report`, `call-tree`, `flame-graph`
and `export`.")]
pub(super) struct Arguments {
    #[command(flatten)]
    target: TargetArguments,
    #[command(flatten)]
    sampling: SamplingArguments,
    /// Where to keep the recording [default: NAME-PID-TIME.mcpprof in the current folder]
    #[arg(short = 'o', long, visible_alias = "output", value_name = "FILE", help_heading = "Recording")]
    recording: Option<PathBuf>,
    #[command(flatten)]
    options: ReportOptions,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let recorded = record(&Plan {
        request: arguments.target.request().ok_or_else(no_target)?,
        duration: arguments.sampling.duration,
        frequency_hz: arguments.sampling.frequency,
        is_asking: !arguments.sampling.passive,
        is_reading_calls: !arguments.sampling.no_calls,
        output: arguments.recording.clone(),
        state: None,
    })?;
    arguments.options.print(&recorded.recording)
}
