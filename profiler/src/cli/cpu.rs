//! `cpu`: where CPU time goes.

use std::path::PathBuf;

use clap::Args;

use super::recording::{Source, TASKS_HELP, folded, parse_share};
use super::terminal::{Format, note, print, style};
use super::{call_tree, files, flame_graph};
use crate::analysis::functions::{Folding, Functions};
use crate::analysis::hot_paths::DEFAULT_THRESHOLD;
use crate::analysis::report::Report;
use crate::output::{json, summary, text};

/// Options of `cpu`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  sudo mcp-profiler cpu --mcp filesystem --duration 30s --top-functions 10
  sudo mcp-profiler cpu --mcp filesystem --duration 30s --flame-graph --call-tree
  mcp-profiler cpu server.mcpprof --call-tree
  mcp-profiler cpu server.mcpprof --async-stacks")]
pub(super) struct Arguments {
    #[command(flatten)]
    source: Source,
    /// Functions to show
    #[arg(long, value_name = "N", default_value_t = 20)]
    top_functions: usize,
    /// Also show the call tree
    #[arg(long)]
    call_tree: bool,
    /// Also draw a flame graph [default file: the recording's name with .svg]
    #[arg(long, value_name = "FILE.svg", num_args = 0..=1, require_equals = true)]
    flame_graph: Option<Option<PathBuf>>,
    /// Share of the time that makes a call path hot
    #[arg(long, value_name = "SHARE", default_value_t = DEFAULT_THRESHOLD, value_parser = parse_share)]
    hot_path_threshold: f64,
    #[arg(long, help = TASKS_HELP)]
    async_stacks: bool,
    /// How to print it
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    format: Format,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    if let Some(Some(path)) = &arguments.flame_graph {
        files::check_writable(path)?;
    }
    let whole = arguments.source.open_whole()?;
    let tools = arguments.source.tools(&whole.recording)?;
    let report = Report::of_tools(&whole.recording, &tools, arguments.hot_path_threshold);
    let recorded = arguments.source.narrow(whole)?;
    let recording = &recorded.recording;
    let (functions, report) = if arguments.async_stacks {
        let functions = folded(recording, Folding::Task);
        let report = report.folded(recording, &functions);
        (functions, report)
    } else {
        (Functions::new(recording), report)
    };
    print(|out| match arguments.format {
        Format::Json => json::write_json(out, &report),
        Format::Text => {
            summary::write_summary(&mut *out, &report, style())?;
            if report.stacks.samples == 0 {
                return Ok(());
            }
            writeln!(out)?;
            text::write_hot_paths(&mut *out, &report, style())?;
            writeln!(out)?;
            text::write_functions(&mut *out, &report, arguments.top_functions, style())?;
            if arguments.call_tree {
                writeln!(out)?;
                call_tree::write(&mut *out, recording, &functions, Default::default())?;
            }
            Ok(())
        }
    })?;
    if let Some(path) = &arguments.flame_graph {
        let path = path.clone().unwrap_or_else(|| recorded.path.with_extension("svg"));
        flame_graph::write(&path, recording, &functions)?;
        note(&format!("flame graph: {}", path.display()));
    }
    Ok(())
}
