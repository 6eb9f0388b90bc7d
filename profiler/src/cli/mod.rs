//! The command line: one file a command. clap's types end here; plain structs go on.

mod background;
mod call_tree;
mod calls;
mod cpu;
mod demo;
mod diagnose;
mod doctor;
mod export;
mod files;
mod flame_graph;
mod list;
mod profile;
mod record;
mod recording;
mod report;
mod startup;
mod terminal;
mod top;

use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Parser, Subcommand};

/// See where the time of an MCP server's tool calls goes: attach to any running server, in any language,
/// without a restart.
#[derive(Debug, Parser)]
#[command(
    name = "mcp-profiler",
    version,
    max_term_width = 100,
    after_help = "\
Examples:
  mcp-profiler list                                 what is configured, what runs
  sudo mcp-profiler profile --mcp NAME --duration 30s
  sudo mcp-profiler flame-graph --pid 4711 --duration 30s --output flame.svg
  sudo mcp-profiler demo                            try it on a bundled server

`mcp-profiler doctor` says whether this machine can be profiled on."
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Record a server into a file
    Record(record::Arguments),
    /// Record a server, then report
    Profile(profile::Arguments),
    /// Record in the background, also when this terminal is closed
    Start(background::StartArguments),
    /// Show background recordings
    Status(background::StatusArguments),
    /// End a background recording and keep what it has
    Stop(background::StopArguments),
    /// Show what goes on now: calls, times and CPU of each tool
    Top(top::Arguments),
    /// Show where CPU time goes: hot paths and top functions
    Cpu(cpu::Arguments),
    /// Report on a recording, or record first
    Report(report::Arguments),
    /// List calls one by one, the slowest first
    Calls(calls::Arguments),
    /// Show one call: its time, its CPU, its stacks
    Trace(calls::TraceArguments),
    /// Say why calls are slow, or why they fail
    Diagnose(diagnose::Arguments),
    /// Show who calls whom, with the time spent there
    CallTree(call_tree::Arguments),
    /// Start a server and show where the time to its first replies goes
    Startup(startup::Arguments),
    /// Draw a flame graph, or the difference of two
    FlameGraph(flame_graph::Arguments),
    /// Write a recording in the format of another tool
    Export(export::Arguments),
    /// Show configured and running MCP servers
    List(list::ListArguments),
    /// Say whether this machine can be profiled on, and what to do if not
    Doctor(doctor::DoctorArguments),
    /// Profile a bundled MCP server under load
    Demo(demo::Arguments),
    /// The server that `demo` profiles
    #[command(name = crate::demo::SERVER_SUBCOMMAND, hide = true)]
    DemoServer,
}

/// Exit code of wrong usage.
const WRONG_USAGE: u8 = 2;

/// The command line can't mean anything: exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Usage(pub(crate) String);

/// Runs the program.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage_error(&error),
    };
    match run(cli.command) {
        Ok(code) => code,
        Err(error) => {
            terminal::print_error(&error.to_string());
            if error.is::<Usage>() { ExitCode::from(WRONG_USAGE) } else { ExitCode::FAILURE }
        }
    }
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Record(arguments) => record::run(&arguments),
        Command::Profile(arguments) => profile::run(&arguments),
        Command::Start(arguments) => background::start(&arguments),
        Command::Status(arguments) => background::status(&arguments),
        Command::Stop(arguments) => background::stop(&arguments),
        Command::Top(arguments) => top::run(&arguments),
        Command::Cpu(arguments) => cpu::run(&arguments),
        Command::Report(arguments) => report::run(&arguments),
        Command::Calls(arguments) => calls::run(&arguments),
        Command::Trace(arguments) => calls::trace(&arguments),
        Command::Diagnose(arguments) => diagnose::run(&arguments),
        Command::CallTree(arguments) => call_tree::run(&arguments),
        Command::Startup(arguments) => startup::run(&arguments),
        Command::FlameGraph(arguments) => flame_graph::run(&arguments),
        Command::Export(arguments) => export::run(&arguments),
        Command::List(arguments) => list::run(&arguments),
        Command::Doctor(arguments) => return doctor::run(&arguments),
        Command::Demo(arguments) => demo::run(&arguments),
        Command::DemoServer => demo::serve(),
    }
    .map(|()| ExitCode::SUCCESS)
}

/// Help and version are answers; anything else is one line that says what is wrong and where to read on.
fn usage_error(error: &clap::Error) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            let _ = error.print();
            ExitCode::SUCCESS
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = error.print();
            ExitCode::from(WRONG_USAGE)
        }
        _ => {
            let text = error.render().to_string();
            let message: Vec<&str> =
                text.lines().take_while(|line| !line.is_empty()).map(str::trim).collect();
            let message = message.join(" ");
            let message = message.strip_prefix("error: ").unwrap_or(&message);
            let command = std::env::args().nth(1).filter(|name| is_command(name));
            let command = command.map_or_else(String::new, |name| format!("{name} "));
            terminal::print_error(&format!("{message}; `mcp-profiler {command}--help` shows how"));
            ExitCode::from(WRONG_USAGE)
        }
    }
}

fn is_command(name: &str) -> bool {
    use clap::CommandFactory;
    Cli::command().find_subcommand(name).is_some()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    /// clap finds no contradiction in any command, and each one shows an example.
    #[test]
    fn commands_are_sound() {
        Cli::command().debug_assert();
        let cli = Cli::command();
        let shown = cli.get_subcommands().filter(|command| !command.is_hide_set());
        for command in shown.flat_map(|command| std::iter::once(command).chain(command.get_subcommands())) {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("Example"), "{} has no example", command.get_name());
        }
    }
}
