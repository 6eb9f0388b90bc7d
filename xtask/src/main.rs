//! Development tasks: `cargo xtask --help`.

mod bench;
mod command;
mod ebpf;
mod fuzz;
mod kernels;
mod man;
mod packages;
mod servers;
mod soak;
mod test;

use std::process::ExitCode;

use clap::Parser;

/// Development tasks of mcp-profiler.
#[derive(Parser)]
#[command(name = "cargo xtask")]
enum Task {
    /// Measure what the profiler costs (as root, on a quiet machine).
    Bench(bench::Options),
    /// Build the kernel object that the profiler embeds: profiler/ebpf/mcp-profiler.bpf.o.
    Ebpf(ebpf::Options),
    /// Install a toolchain that can build the kernel object (Debian, as root).
    SetupEbpf,
    /// Try damaged files on every parser of what others write.
    Fuzz(fuzz::Options),
    /// Boot other kernels in qemu and check that the profiler works on them (Debian).
    Kernels(kernels::Options),
    /// Install the pinned servers that the tests talk to, into target/servers.
    Servers,
    /// Profile what starts and ends all the time, for long (as root).
    Soak(soak::Options),
    /// Run every test, whole-program tests included (as root).
    Test(test::Options),
    /// Write the manual page and the shell completions: docs/man.
    Man(man::Options),
}

fn main() -> ExitCode {
    let done = match Task::parse() {
        Task::Bench(options) => bench::bench(&options),
        Task::Ebpf(options) => ebpf::ebpf(&options),
        Task::SetupEbpf => ebpf::setup(),
        Task::Fuzz(options) => fuzz::fuzz(&options),
        Task::Kernels(options) => kernels::kernels(&options),
        Task::Servers => servers::servers(),
        Task::Soak(options) => soak::soak(&options),
        Task::Test(options) => test::test(&options),
        Task::Man(options) => man::man(&options),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
