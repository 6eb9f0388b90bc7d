//! `flame-graph`: a picture of where time goes, or of how that changed.

use std::path::{Path, PathBuf};

use clap::Args;

use super::recording::{FoldArguments, Source, folded};
use super::terminal::note;
use super::{Usage, files};
use crate::analysis::call_tree::{CallTree, Filter, Grouping};
use crate::analysis::diff::Diff;
use crate::analysis::functions::Functions;
use crate::output::flame_graph::{write_diff_flame_graph, write_flame_graph};
use crate::recording::Recording;

/// Options of `flame-graph`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  mcp-profiler flame-graph server.mcpprof --output flame.svg
  sudo mcp-profiler flame-graph --mcp filesystem --duration 30s --output flame.svg
  mcp-profiler flame-graph server.mcpprof --fold-by package
  mcp-profiler flame-graph --baseline a.mcpprof --current b.mcpprof --diff --output d.svg

Open the file in a browser: click to zoom, Ctrl-F to search. In a difference, red
functions take a larger share of the time than before, blue ones a smaller.")]
pub(super) struct Arguments {
    #[command(flatten)]
    source: Source,
    /// SVG file to write [default: the recording's name with .svg]
    #[arg(short, long, value_name = "FILE.svg")]
    output: Option<PathBuf>,
    /// Draw the difference between --baseline and --current
    #[arg(long, requires_all = ["baseline", "current"], conflicts_with_all = ["file", "mcp", "pid"])]
    diff: bool,
    /// Recording to compare with
    #[arg(long, value_name = "RECORDING", requires = "diff")]
    baseline: Option<PathBuf>,
    /// Recording to compare
    #[arg(long, value_name = "RECORDING", requires = "diff")]
    current: Option<PathBuf>,
    #[command(flatten)]
    fold: FoldArguments,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let folding = arguments.fold.folding();
    if let (Some(baseline), Some(current)) = (&arguments.baseline, &arguments.current) {
        let output = arguments.output.clone().unwrap_or_else(|| current.with_extension("diff.svg"));
        let baseline = super::recording::read(baseline)?;
        let current = super::recording::read(current)?;
        files::write(&output, |out| {
            let before = folded(&baseline, folding);
            let after = folded(&current, folding);
            let diff = Diff::new((&tree(&baseline, &before), &before), (&tree(&current, &after), &after));
            write_diff_flame_graph(out, &diff, &baseline.meta, &current.meta)
        })?;
        note(&format!("flame graph: {}", output.display()));
        return Ok(());
    }
    if let (Some(output), true) = (&arguments.output, arguments.source.is_target()) {
        files::check_writable(output)?;
    }
    let recorded = arguments.source.open()?;
    let output = arguments.output.clone().unwrap_or_else(|| recorded.path.with_extension("svg"));
    if output == recorded.path {
        return Err(Usage(format!("{} is the recording itself: name another file", output.display())).into());
    }
    write(&output, &recorded.recording, &folded(&recorded.recording, folding))?;
    note(&format!("flame graph: {}", output.display()));
    Ok(())
}

/// Draws the flame graph of a recording.
pub(super) fn write(path: &Path, recording: &Recording, functions: &Functions) -> anyhow::Result<()> {
    files::write(path, |out| write_flame_graph(out, &tree(recording, functions), functions, &recording.meta))
}

fn tree(recording: &Recording, functions: &Functions) -> CallTree {
    CallTree::new(recording, functions, Filter::All, Grouping::ProcessAndThread)
}
