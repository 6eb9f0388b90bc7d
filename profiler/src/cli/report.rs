//! `report`: all that a recording says, as text or JSON. `profile` is the same after recording.

use clap::Args;

use super::recording::{Source, parse_share};
use super::terminal::{Format, print, style};
use crate::analysis::hot_paths::DEFAULT_THRESHOLD;
use crate::analysis::report::Report;
use crate::output::{json, text};
use crate::recording::Recording;

/// What a report shows, and how.
#[derive(Args, Debug)]
pub(super) struct ReportOptions {
    /// How to print the report
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    format: Format,
    /// Functions to show
    #[arg(long, value_name = "N", default_value_t = 15)]
    top_functions: usize,
    /// Share of the time that makes a call path hot
    #[arg(long, value_name = "SHARE", default_value_t = DEFAULT_THRESHOLD, value_parser = parse_share)]
    hot_path_threshold: f64,
}

impl ReportOptions {
    /// Prints the report of a recording, or of what was done there for calls of some tools.
    pub(super) fn print(&self, recording: &Recording, tools: &[String]) -> anyhow::Result<()> {
        let report = Report::of_tools(recording, tools, self.hot_path_threshold);
        print(|out| match self.format {
            Format::Json => json::write_json(out, &report),
            Format::Text => text::write_report(out, &report, self.top_functions, style()),
        })
    }
}

/// Options of `report`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  mcp-profiler report server.mcpprof
  mcp-profiler report server.mcpprof --format json | jq .cpu.functions[0]
  sudo mcp-profiler report --pid 4711 --duration 30s")]
pub(super) struct Arguments {
    #[command(flatten)]
    source: Source,
    #[command(flatten)]
    options: ReportOptions,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let recorded = arguments.source.open_whole()?;
    let tools = arguments.source.tools(&recorded.recording)?;
    arguments.options.print(&recorded.recording, &tools)
}
