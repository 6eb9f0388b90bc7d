//! `export`: the formats of other tools.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::recording::{FoldArguments, Source, folded};
use super::terminal::note;
use super::{Usage, files};
use crate::analysis::call_tree::{CallTree, Filter, Grouping};
use crate::analysis::functions::Folding;
use crate::output::folded::write_folded;
use crate::output::pprof::write_pprof;
use crate::output::speedscope::write_speedscope;

/// A format of another tool.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    /// A line for each stack, for flamegraph.pl and alike
    Folded,
    /// For `go tool pprof` and alike
    Pprof,
    /// For <https://www.speedscope.app>
    Speedscope,
}

impl Format {
    fn extension(self) -> &'static str {
        match self {
            Self::Folded => "folded",
            Self::Pprof => "pb.gz",
            Self::Speedscope => "speedscope.json",
        }
    }
}

/// Options of `export`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  mcp-profiler export server.mcpprof --format pprof --output server.pb.gz
  go tool pprof -http :8080 server.pb.gz
  mcp-profiler export server.mcpprof --format speedscope
  mcp-profiler export server.mcpprof --format folded --output - | flamegraph.pl > f.svg")]
pub(super) struct Arguments {
    #[command(flatten)]
    source: Source,
    /// Format to write
    #[arg(long, value_enum, value_name = "FORMAT")]
    format: Format,
    /// File to write, or - for standard output [default: the recording's name with the format's ending]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    fold: FoldArguments,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let folding = arguments.fold.folding();
    if folding != Folding::Function && !matches!(arguments.format, Format::Folded) {
        let message = "--fold-by package and --async-stacks work on --format folded: other formats tell each address with its function";
        return Err(Usage(message.to_owned()).into());
    }
    let to_stdout = arguments.output.as_ref().is_some_and(|output| output.as_os_str() == "-");
    if let (Some(output), true, false) = (&arguments.output, arguments.source.is_target(), to_stdout) {
        files::check_writable(output)?;
    }
    let recorded = arguments.source.open()?;
    let recording = &recorded.recording;
    let functions = folded(recording, folding);
    let write = |out: &mut dyn std::io::Write| match arguments.format {
        Format::Folded => {
            let tree = CallTree::new(recording, &functions, Filter::All, Grouping::ProcessAndThread);
            write_folded(out, &tree, &functions)
        }
        Format::Pprof => write_pprof(out, recording, &functions),
        Format::Speedscope => write_speedscope(out, recording, &functions),
    };
    if to_stdout {
        return super::terminal::print(|out| write(out).map_err(std::io::Error::other));
    }
    let extension = arguments.format.extension();
    let output = arguments.output.clone().unwrap_or_else(|| recorded.path.with_extension(extension));
    if output == recorded.path {
        return Err(Usage(format!("{} is the recording itself: name another file", output.display())).into());
    }
    files::write(&output, write)?;
    note(&format!("wrote {}", output.display()));
    Ok(())
}
