//! `cargo xtask soak`: the test of everything that starts and ends all the time, for as long as is asked for.

use anyhow::Result;

use crate::test;

/// Options of `cargo xtask soak`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// How long it runs.
    #[arg(long, default_value_t = 10)]
    minutes: u64,
    /// Test the optimized program.
    #[arg(long)]
    release: bool,
}

/// Runs the test.
pub(crate) fn soak(options: &Options) -> Result<()> {
    let seconds = (options.minutes * 60).to_string();
    let arguments = ["soak::", "--nocapture"].map(str::to_owned).to_vec();
    let options = test::Options { release: options.release, package: Some("tests".to_owned()), arguments };
    test::test_with(&options, &[("MCP_PROFILER_SOAK_SECONDS", &seconds)])
}
