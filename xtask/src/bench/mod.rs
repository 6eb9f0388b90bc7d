//! Benchmarks of what the profiler costs. `docs/benchmarks.md` says how each one measures, and what came out.

mod attach;
mod calls;
mod footprint;
mod kernel_time;
mod machine;
mod overhead;
mod profiler;
mod server;
mod statistics;
mod stop;
mod table;
mod tables;
mod unwind;
mod wire;

use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::{Args, Subcommand};

use crate::command::{cargo, run, workspace};
use profiler::Profiler;

/// Options of `cargo xtask bench`.
#[derive(Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    benchmark: Benchmark,
    /// Folder that holds the node_modules with the servers to load [default: target/servers]
    #[arg(long, global = true)]
    servers: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Benchmark {
    /// The server's calls a second while recorded, against the same server left alone, beside `perf record` and `py-spy record`.
    Overhead {
        /// What is loaded: server-everything on Node, or mcp-server-time on Python.
        #[arg(long, value_enum, default_value_t)]
        server: overhead::Language,
        /// Without the other profilers: more rounds in less time.
        #[arg(long)]
        alone: bool,
        /// Seconds that are measured of each slice; one profiler runs in a slice, or none.
        #[arg(long, default_value_t = 10.0, value_parser = seconds)]
        seconds: f64,
        /// Rounds; each one has a slice of every profiler. 20 give an interval that is good for 1%.
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
        rounds: u32,
    },
    /// The calls a second that mcp-stress gets while each call is recorded, beside `strace -c` and `perf trace -s`, and the
    /// kernel time of a message.
    Calls {
        /// Seconds that are measured of each slice; one tool runs in a slice, or none.
        #[arg(long, default_value_t = 4.0, value_parser = seconds)]
        seconds: f64,
        /// Rounds; each one has a slice of every tool.
        #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
        rounds: u32,
    },
    /// What a system call of another process costs more while a server is recorded.
    Wire {
        /// Rounds; each one has a slice without a recording, with one, and with one of a server whose client is known.
        #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
        rounds: u32,
    },
    /// Nanoseconds that each kernel program takes for an event, and all of them for a sample.
    KernelTime {
        /// Seconds to record.
        #[arg(long, default_value_t = 20.0, value_parser = seconds)]
        seconds: f64,
        /// Recordings.
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
        rounds: u32,
    },
    /// Kernel time and bytes of a sample, of stacks of C and of Python with a known depth.
    Unwind {
        /// Seconds that are measured of each recording.
        #[arg(long, default_value_t = 5.0, value_parser = seconds)]
        seconds: f64,
        /// Recordings of each program.
        #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u32).range(1..=1000))]
        rounds: u32,
    },
    /// Time until an unwind table is in the kernel, and the kernel memory of one, and of a recording of Node and Python.
    Tables {
        /// How often the table is loaded.
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
        rounds: u32,
    },
    /// Resident memory of the profiler while it records.
    Memory {
        /// Seconds to record.
        #[arg(long, default_value_t = 60.0, value_parser = seconds)]
        seconds: f64,
        /// Recordings.
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
        rounds: u32,
    },
    /// Time from the start of the profiler, and from attaching, to the first sample.
    Attach {
        /// Seconds to record each time.
        #[arg(long, default_value_t = 1.0, value_parser = seconds)]
        seconds: f64,
        /// Recordings.
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
        rounds: u32,
    },
    /// Time from Ctrl-C of a recording to a written flame graph.
    Stop {
        /// Seconds to record before Ctrl-C.
        #[arg(long, default_value_t = 60.0, value_parser = seconds)]
        seconds: f64,
        /// Recordings.
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
        rounds: u32,
    },
    /// Size of a recording.
    Size {
        /// Seconds to record.
        #[arg(long, default_value_t = 60.0, value_parser = seconds)]
        seconds: f64,
        /// Recordings.
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
        rounds: u32,
    },
}

/// Runs a benchmark and prints its table to standard output.
pub(crate) fn bench(options: &Options) -> Result<()> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "benchmarks attach to a process, so they need root: sudo --preserve-env=PATH cargo xtask bench ..."
    );
    let servers = options.servers.clone().unwrap_or_else(|| workspace().join("target/servers"));
    if let Benchmark::Tables { rounds } = options.benchmark
        && cfg!(debug_assertions)
    {
        // This very program makes the tables: it has to be optimized, as releases are.
        let mut command = cargo();
        command.args(["run", "--release", "--package", "xtask", "--", "bench", "--servers"]).arg(&servers);
        return run(command.args(["tables", "--rounds", &rounds.to_string()]));
    }
    let server = server::Server::node(&servers)?;
    let profiler = Profiler::build()?;
    machine::print()?;
    match options.benchmark {
        Benchmark::Overhead { server: language, alone, seconds, rounds } => {
            let server = match language {
                overhead::Language::Node => server,
                overhead::Language::Python => server::Server::python(&servers)?,
            };
            overhead::run(&profiler, &server, language, alone, seconds, rounds)
        }
        Benchmark::Calls { seconds, rounds } => calls::run(&profiler, &servers, &server, seconds, rounds),
        Benchmark::Wire { rounds } => wire::run(&profiler, rounds),
        Benchmark::KernelTime { seconds, rounds } => kernel_time::run(&profiler, &server, seconds, rounds),
        Benchmark::Unwind { seconds, rounds } => unwind::measure(&profiler, seconds, rounds),
        Benchmark::Tables { rounds } => tables::measure(&profiler, &servers, rounds),
        Benchmark::Memory { seconds, rounds } => footprint::memory(&profiler, &server, seconds, rounds),
        Benchmark::Attach { seconds, rounds } => attach::run(&profiler, &server, seconds, rounds),
        Benchmark::Stop { seconds, rounds } => stop::run(&profiler, &server, seconds, rounds),
        Benchmark::Size { seconds, rounds } => footprint::size(&profiler, &server, seconds, rounds),
    }
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds) if (0.1..=3600.0).contains(&seconds) => Ok(seconds),
        _ => Err("not a number of seconds from 0.1 to 3600".to_owned()),
    }
}
