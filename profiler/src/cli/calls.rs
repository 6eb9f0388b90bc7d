//! `calls`: the calls of a recording, one by one. `trace`: one of them, with its time and its stacks.

use std::time::Duration;

use anyhow::bail;
use clap::{Args, ValueEnum};

use super::call_tree;
use super::record::parse_duration;
use super::recording::{CALLS_NOT_RECORDED, Source};
use super::terminal::{Format, print, style};
use crate::analysis::attribution::Attribution;
use crate::analysis::call_list::{
    CallList, ListedCall, Outcome, SCHEMA_VERSION, Selection, activity, select,
};
use crate::analysis::functions::Functions;
use crate::analysis::trace::Trace;
use crate::output::calls::{write_calls, write_no_calls};
use crate::output::json;
use crate::output::trace::write_trace;
use crate::recording::Recording;

/// Options of `calls`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  mcp-profiler calls server.mcpprof                         the slowest calls
  mcp-profiler calls server.mcpprof --tool read_file --outcome error
  mcp-profiler calls server.mcpprof --min-time 100ms --from 30s --to 40s --in-order
  sudo mcp-profiler calls --mcp filesystem --duration 30s

The number of a call in the first column is what `trace` asks for.")]
pub(super) struct Arguments {
    #[command(flatten)]
    source: Source,
    /// Only calls that ended so
    #[arg(long, value_enum, value_name = "OUTCOME")]
    outcome: Option<OutcomeArgument>,
    /// Only calls that took at least this long
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    min_time: Option<Duration>,
    /// Only calls that were in flight after this time since the recording's start
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    from: Option<Duration>,
    /// Only calls that started before this time since the recording's start
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    to: Option<Duration>,
    /// In the order of their starts, not the slowest first
    #[arg(long)]
    in_order: bool,
    /// Calls to show
    #[arg(long, value_name = "N", default_value_t = 30)]
    limit: usize,
    /// How to print them
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    format: Format,
}

/// How a call ended, in the words that are printed.
#[derive(Clone, Copy, Debug, ValueEnum)]
#[value(rename_all = "snake_case")]
enum OutcomeArgument {
    /// With a result
    Ok,
    /// With an error of JSON-RPC or of the tool
    Error,
    /// With an error of the tool
    ToolError,
    /// Without an answer: any of those below
    Unfinished,
    /// Its client cancelled it
    Cancelled,
    /// No answer came before its process ended, or its ID was used again
    Unanswered,
    /// Its connection was closed first
    CutOff,
    /// Not known: its answer could not be recorded
    Lost,
    /// It had not ended when the recording did
    InFlight,
}

impl From<OutcomeArgument> for Outcome {
    fn from(outcome: OutcomeArgument) -> Self {
        match outcome {
            OutcomeArgument::Ok => Self::Ok,
            OutcomeArgument::Error => Self::Error,
            OutcomeArgument::ToolError => Self::ToolError,
            OutcomeArgument::Unfinished => Self::Unfinished,
            OutcomeArgument::Cancelled => Self::Cancelled,
            OutcomeArgument::Unanswered => Self::Unanswered,
            OutcomeArgument::CutOff => Self::CutOff,
            OutcomeArgument::Lost => Self::Lost,
            OutcomeArgument::InFlight => Self::InFlight,
        }
    }
}

fn parse_call(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| {
        "it must be the number of a call, such as `mcp-profiler trace 4711 server.mcpprof`; \
         `mcp-profiler calls server.mcpprof` shows the numbers"
            .to_owned()
    })
}

/// Options of `trace`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  mcp-profiler calls server.mcpprof        shows which calls there are
  mcp-profiler trace 4711 server.mcpprof   shows one of them
  mcp-profiler trace 4711 server.mcpprof --format json | jq .stacks")]
pub(super) struct TraceArguments {
    /// The call's number, as `calls` shows it
    #[arg(value_name = "CALL", value_parser = parse_call)]
    call: u64,
    #[command(flatten)]
    source: Source,
    /// How to print it
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    format: Format,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let recorded = arguments.source.open_whole()?;
    let recording = &recorded.recording;
    has_calls(recording)?;
    let nanoseconds = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    let selection = Selection {
        tools: arguments.source.tools(recording)?,
        outcome: arguments.outcome.map(Outcome::from),
        at_least_ns: arguments.min_time.map(nanoseconds),
        from_ns: arguments.from.map(nanoseconds),
        to_ns: arguments.to.map(nanoseconds),
        in_order: arguments.in_order,
    };
    let attribution = Attribution::new(recording);
    let selected = select(recording, &selection);
    let shown = &selected[..selected.len().min(arguments.limit)];
    let calls: Vec<ListedCall> =
        shown.iter().filter_map(|index| ListedCall::new(recording, &attribution, *index)).collect();
    let total = selected.len() as u64;
    print(|out| match arguments.format {
        Format::Json => {
            let list = CallList { schema_version: SCHEMA_VERSION, total, filters: selection, calls };
            json::write_json(out, &list)
        }
        Format::Text if recording.calls.is_empty() => write_no_calls(out, style()),
        Format::Text => write_calls(out, &calls, selected.len() - shown.len(), style()),
    })
}

/// A recording without calls has none to show.
pub(super) fn has_calls(recording: &Recording) -> anyhow::Result<()> {
    if recording.meta.has_calls { Ok(()) } else { bail!("{CALLS_NOT_RECORDED}") }
}

pub(super) fn trace(arguments: &TraceArguments) -> anyhow::Result<()> {
    let recorded = arguments.source.open_whole()?;
    let recording = &recorded.recording;
    has_calls(recording)?;
    let attribution = Attribution::new(recording);
    let index = usize::try_from(arguments.call).unwrap_or(usize::MAX).wrapping_sub(1);
    let Some(trace) = Trace::new(recording, &attribution, index) else {
        if recording.calls.is_empty() {
            bail!("there is no call {}: {} has none", arguments.call, recorded.path.display());
        }
        bail!(
            "there is no call {}: {} has calls 1 to {}; `mcp-profiler calls` lists them",
            arguments.call,
            recorded.path.display(),
            recording.calls.len()
        );
    };
    print(|out| match arguments.format {
        Format::Json => json::write_json(out, &trace),
        Format::Text => {
            let style = style();
            write_trace(
                &mut *out,
                &trace,
                &activity(recording, &attribution, index, style.columns()),
                style,
            )?;
            if trace.samples.is_empty() {
                return writeln!(
                    out,
                    "\nNo sample was charged to it: it was on a CPU for less than the time between two."
                );
            }
            writeln!(out)?;
            let own = attribution.only(recording, |other| other == index);
            call_tree::write(out, &own, &Functions::new(&own), Default::default())
        }
    })
}
