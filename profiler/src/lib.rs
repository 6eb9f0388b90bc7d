//! Attach to any MCP server on Linux and see where the time of every tool call went.
//!
//! Data goes one way: [`target`] finds the processes, [`capture`] writes a [`recording`] of them,
//! [`analysis`] turns a recording into plain values, [`output`] renders those.

#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
compile_error!("mcp-profiler runs on Linux on x86-64: its kernel half reads that machine's registers");

pub mod analysis;
mod asking;
pub mod capture;
pub mod cli;
pub mod demo;
pub mod doctor;
pub mod load;
mod memory;
pub mod output;
pub mod recording;
pub mod symbol;
pub mod target;
pub mod unwind;
pub mod wire;
