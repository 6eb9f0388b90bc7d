//! `profile`: record, then report.

use std::path::PathBuf;

use anyhow::bail;
use clap::Args;

use super::Usage;
use super::record::{ENOUGH_CALLS, Plan, Recorded, SamplingArguments, TargetArguments, no_target, record};
use super::report::ReportOptions;
use super::terminal::note;
use crate::analysis::call_list::names;
use crate::output::units::{count, plural};
use crate::wire::calls::Side;

/// Options of `profile`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  sudo mcp-profiler profile --mcp filesystem --duration 60s
  sudo mcp-profiler profile --mcp my-mcp --operations \"read_file,write_file\" --samples 1000
  sudo mcp-profiler profile --pid 4711 --duration 30s --format json
  sudo mcp-profiler profile --duration 10s -- node server.js

The recording is kept: look at it again with `report`, `call-tree`, `flame-graph`
and `export`.")]
pub(super) struct Arguments {
    #[command(flatten)]
    target: TargetArguments,
    #[command(flatten)]
    sampling: SamplingArguments,
    /// Report on calls of these tools (prompts, resources, methods) only, separated by commas
    #[arg(long, value_name = "NAMES", value_delimiter = ',', help_heading = "Recording")]
    operations: Vec<String>,
    /// End after so many calls: of the operations, or of all when none are named
    #[arg(long, value_name = "CALLS", conflicts_with = "no_calls", value_parser = clap::value_parser!(u64).range(1..),
          help_heading = "Recording")]
    samples: Option<u64>,
    /// Where to keep the recording [default: NAME-PID-TIME.mcpprof in the current folder]
    #[arg(short = 'o', long, visible_alias = "output", value_name = "FILE", help_heading = "Recording")]
    recording: Option<PathBuf>,
    #[command(flatten)]
    options: ReportOptions,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let operations: Vec<String> = arguments
        .operations
        .iter()
        .map(|name| name.trim().to_owned())
        .filter(|name| !name.is_empty())
        .collect();
    if operations.is_empty() && !arguments.operations.is_empty() {
        return Err(Usage(
            "--operations names no tool: write it as --operations \"read_file,write_file\"".to_owned(),
        )
        .into());
    }
    if !operations.is_empty() && arguments.sampling.no_calls {
        return Err(Usage("--operations needs calls, and --no-calls leaves them out".to_owned()).into());
    }
    let request = arguments.target.request().ok_or_else(no_target)?;
    let plan = Plan {
        operations: operations.clone(),
        calls: arguments.samples,
        ..Plan::new(request, &arguments.sampling, arguments.recording.clone())
    };
    let recorded = record(&plan)?;
    tell_calls(&recorded, &operations, arguments.samples)?;
    arguments.options.print(&recorded.recording, &operations)
}

/// Says which calls were seen, where it is not what was asked for.
fn tell_calls(recorded: &Recorded, operations: &[String], samples: Option<u64>) -> anyhow::Result<()> {
    let recording = &recorded.recording;
    let calls =
        || recording.calls.iter().map(|recorded| &recorded.call).filter(|call| call.caller == Side::Client);
    let number_of =
        |names: &[String]| calls().filter(|call| names.is_empty() || call.is_of(names)).count() as u64;
    let seen = number_of(operations);
    if !operations.is_empty() && seen == 0 {
        let called = names(recording);
        let called = if called.is_empty() {
            "nothing was called".to_owned()
        } else {
            format!("what was called is {}", called.join(", "))
        };
        bail!(
            "no call of {} ended while it was recorded, {called}; the recording is kept: {}",
            operations.join(", "),
            recorded.path.display()
        );
    }
    for missing in operations.iter().filter(|name| number_of(std::slice::from_ref(*name)) == 0) {
        note(&format!("no call of {missing} ended while it was recorded"));
    }
    let Some(wanted) = samples else { return Ok(()) };
    let of = if operations.is_empty() { String::new() } else { format!(" of {}", operations.join(", ")) };
    let end = recording.meta.end_reason.as_deref();
    note(&if end == Some(ENOUGH_CALLS) {
        format!("{}{of} were recorded", plural(seen, "call", "calls"))
    } else {
        format!(
            "only {} of {} calls{of} were recorded: {}",
            count(seen),
            count(wanted),
            end.unwrap_or("the recording was interrupted")
        )
    });
    Ok(())
}
