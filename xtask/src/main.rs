//! Development tasks: `cargo xtask --help`.

mod command;
mod ebpf;
mod packages;

use std::process::ExitCode;

use clap::Parser;

/// Development tasks of mcp-profiler.
#[derive(Parser)]
#[command(name = "cargo xtask")]
enum Task {
    /// Build the kernel object that the profiler embeds: profiler/ebpf/mcp-profiler.bpf.o.
    Ebpf(ebpf::Options),
    /// Install a toolchain that can build the kernel object (Debian, as root).
    SetupEbpf,
}

fn main() -> ExitCode {
    let done = match Task::parse() {
        Task::Ebpf(options) => ebpf::ebpf(&options),
        Task::SetupEbpf => ebpf::setup(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
