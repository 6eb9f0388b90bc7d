//! The command line: one file a command. clap's types end here; plain structs go on.

pub mod doctor;
pub mod list;

use clap::Parser;

/// The command line, as clap sees it.
#[derive(Debug, Parser)]
#[command(name = "mcp-profiler", version)]
pub struct Cli {}
