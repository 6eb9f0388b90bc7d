//! The `mcp-profiler` binary: everything is in the library.

fn main() -> std::process::ExitCode {
    mcp_profiler::cli::main()
}
