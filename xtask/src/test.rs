//! `cargo xtask test`: every test of the workspace, with the servers that they talk to.

use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context as _, Result, bail};

use crate::command::{cargo, run};
use crate::{packages, servers};

/// Options of `cargo xtask test`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Test the optimized program.
    #[arg(long)]
    pub(crate) release: bool,
    /// Test this package only.
    #[arg(long, short)]
    pub(crate) package: Option<String>,
    /// What the test programs get: a filter, or options such as --nocapture.
    #[arg(last = true)]
    pub(crate) arguments: Vec<String>,
}

/// Installs the servers, builds the program and runs the tests.
pub(crate) fn test(options: &Options) -> Result<()> {
    test_with(options, &[])
}

/// The same, with variables in the environment of the tests.
pub(crate) fn test_with(options: &Options, variables: &[(&str, &str)]) -> Result<()> {
    // Other profilers, and programs, to compare with.
    packages::install(&["linux-perf", "openssl", "binutils", "libpython3.11", "musl-tools"])?;
    servers::servers()?;
    let program = build_profiler(options.release)?;
    let rmcp_server = build("rmcp-server", options.release)?;
    let mut command = cargo();
    command
        .arg("test")
        .env("MCP_PROFILER", program)
        .env("MCP_PROFILER_RMCP_SERVER", rmcp_server)
        .env("MCP_PROFILER_SERVERS", servers::folder())
        .env("MCP_PROFILER_ROOTS", servers::roots_folder());
    command.envs(variables.iter().copied());
    if options.release {
        command.arg("--release");
    }
    match &options.package {
        Some(package) => command.args(["--package", package]),
        // With the features of that server, all others would be compiled once more.
        None => command.args(["--workspace", "--exclude", "profiler-ebpf", "--exclude", "rmcp-server"]),
    };
    // One failing package does not hide the others.
    run(command.arg("--no-fail-fast").arg("--").args(&options.arguments))
}

/// Builds `mcp-profiler` as the tests are built, and returns its path.
pub(crate) fn build_profiler(release: bool) -> Result<PathBuf> {
    build("mcp-profiler", release)
}

/// Builds the program of a package, and returns its path.
fn build(package: &str, release: bool) -> Result<PathBuf> {
    let mut command = cargo();
    command.args(["build", "--package", package, "--message-format", "json-render-diagnostics"]);
    if release {
        command.arg("--release");
    }
    let output =
        command.stdin(Stdio::null()).stderr(Stdio::inherit()).output().context("cannot run cargo")?;
    if !output.status.success() {
        bail!("{package} does not build");
    }
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .with_context(|| format!("cargo names no executable of {package}"))
}
