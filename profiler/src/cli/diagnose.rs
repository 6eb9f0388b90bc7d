//! `diagnose`: an answer to a complaint, with its evidence.

use clap::{Args, Subcommand};

use super::calls::has_calls;
use super::recording::Source;
use super::terminal::{Format, print, style};
use crate::analysis::attribution::Attribution;
use crate::analysis::errors::Errors;
use crate::analysis::slow::{Question, SlowResponses};
use crate::output::calls::write_no_calls;
use crate::output::diagnose::{write_errors, write_slow};
use crate::output::json;

/// Options of `diagnose`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  sudo mcp-profiler diagnose slow-response --mcp my-mcp --duration 60s --trace-requests
  mcp-profiler diagnose slow-response server.mcpprof
  mcp-profiler diagnose errors server.mcpprof --error-analysis")]
pub(super) struct Arguments {
    #[command(subcommand)]
    complaint: Complaint,
}

#[derive(Debug, Subcommand)]
enum Complaint {
    /// Why the slowest calls of a tool are slower than its typical ones
    SlowResponse(SlowArguments),
    /// Which errors there are, when, and what they have in common
    Errors(ErrorArguments),
}

/// Options of `diagnose slow-response`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  sudo mcp-profiler diagnose slow-response --mcp my-mcp --duration 60s --frequency 499
  mcp-profiler diagnose slow-response server.mcpprof --tool read_file --percentile 95
  mcp-profiler diagnose slow-response server.mcpprof --trace-requests

A call's time is what it stood behind other calls, what the server ran for it,
what its messages took to come and go, and the rest, in which it waited.")]
struct SlowArguments {
    #[command(flatten)]
    source: Source,
    /// Calls that took longer than this percentage of their tool's calls are slow; at least one is
    #[arg(long, value_name = "PERCENT", default_value_t = 99.0, value_parser = parse_percentile)]
    percentile: f64,
    /// Also show each slow call over its time
    #[arg(long)]
    trace_requests: bool,
    /// How to print it
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    format: Format,
}

/// Options of `diagnose errors`.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  sudo mcp-profiler diagnose errors --mcp my-mcp --duration 5m
  mcp-profiler diagnose errors server.mcpprof --error-analysis
  mcp-profiler diagnose errors server.mcpprof --tool read_file --format json

Messages are shown by their shape: with a mark in the place of names, numbers and
paths. `--capture-arguments` keeps them as they are; `trace` shows those.")]
struct ErrorArguments {
    #[command(flatten)]
    source: Source,
    /// Also compare failing calls with good ones: what came before them, their time, their CPU
    #[arg(long)]
    error_analysis: bool,
    /// How to print it
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    format: Format,
}

fn parse_percentile(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(percentile) if (50.0..100.0).contains(&percentile) => Ok(percentile),
        _ => Err("it must be a percentage from 50 to below 100, such as 99 or 99.9".to_owned()),
    }
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    match &arguments.complaint {
        Complaint::SlowResponse(arguments) => slow(arguments),
        Complaint::Errors(arguments) => errors(arguments),
    }
}

fn slow(arguments: &SlowArguments) -> anyhow::Result<()> {
    let recorded = arguments.source.open_whole()?;
    let recording = &recorded.recording;
    has_calls(recording)?;
    let question = Question {
        tools: arguments.source.tools(recording)?,
        percentile: arguments.percentile,
        with_requests: arguments.trace_requests,
    };
    let slow = SlowResponses::new(recording, &Attribution::new(recording), &question);
    print(|out| match arguments.format {
        Format::Json => json::write_json(out, &slow),
        Format::Text if recording.calls.is_empty() => write_no_calls(out, style()),
        Format::Text => write_slow(out, &slow, style()),
    })
}

fn errors(arguments: &ErrorArguments) -> anyhow::Result<()> {
    let recorded = arguments.source.open_whole()?;
    let recording = &recorded.recording;
    has_calls(recording)?;
    let tools = arguments.source.tools(recording)?;
    let errors = Errors::new(recording, &Attribution::new(recording), &tools, arguments.error_analysis);
    print(|out| match arguments.format {
        Format::Json => json::write_json(out, &errors),
        Format::Text if recording.calls.is_empty() => write_no_calls(out, style()),
        Format::Text => write_errors(out, &errors, style()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What can't be a percentile is refused.
    #[test]
    fn percentiles() {
        assert_eq!(parse_percentile("99.9"), Ok(99.9));
        for text in ["100", "49", "-1", "NaN", "x", "inf"] {
            assert!(parse_percentile(text).is_err(), "{text}");
        }
    }
}
