//! `call-tree`: who calls whom.

use std::io::{self, Write};

use clap::Args;

use super::recording::{FoldArguments, Source, folded, parse_share};
use super::terminal::{print, style};
use crate::analysis::call_tree::{CallTree, Filter, Grouping};
use crate::analysis::functions::Functions;
use crate::output::call_tree::{CallTreeOptions, write_call_tree};
use crate::recording::Recording;

/// Options of `call-tree`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  mcp-profiler call-tree server.mcpprof
  mcp-profiler call-tree server.mcpprof --min-share 0.002 --max-depth 40
  mcp-profiler call-tree server.mcpprof --fold-by package
  mcp-profiler call-tree server.mcpprof --async-stacks
  sudo mcp-profiler call-tree --pid 4711 --duration 30s")]
pub(super) struct Arguments {
    #[command(flatten)]
    source: Source,
    /// Leave out calls with less than this share of all time
    #[arg(long, value_name = "SHARE", default_value_t = CallTreeOptions::default().min_share, value_parser = parse_share)]
    min_share: f64,
    /// Leave out calls deeper than this
    #[arg(long, value_name = "N")]
    max_depth: Option<usize>,
    #[command(flatten)]
    fold: FoldArguments,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let recorded = arguments.source.open()?;
    let options = CallTreeOptions { max_depth: arguments.max_depth, min_share: arguments.min_share };
    let functions = folded(&recorded.recording, arguments.fold.folding());
    print(|out| write(out, &recorded.recording, &functions, options))
}

/// Writes the call tree of a recording.
pub(super) fn write(
    out: impl Write,
    recording: &Recording,
    functions: &Functions,
    options: CallTreeOptions,
) -> io::Result<()> {
    let tree = CallTree::new(recording, functions, Filter::All, Grouping::None);
    write_call_tree(out, &tree, functions, options, style())
}
