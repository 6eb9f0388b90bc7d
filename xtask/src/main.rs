//! Development tasks: `cargo xtask --help`.

mod bench;
mod command;

use std::process::ExitCode;

use clap::Parser;

/// Development tasks of mcp-profiler.
#[derive(Parser)]
#[command(name = "cargo xtask")]
enum Task {
    /// Measure what the profiler costs (as root, on a quiet machine).
    Bench(bench::Options),
}

fn main() -> ExitCode {
    let done = match Task::parse() {
        Task::Bench(options) => bench::bench(&options),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
