//! From a name, a process ID or a command line to the processes that are the server.

pub mod command;
pub mod config;
pub(crate) mod elf;
mod expand;
mod go_build;
pub mod launch;
pub(crate) mod listening;
mod memory;
pub mod process;
mod project;
pub mod resolve;
pub mod runtime;

pub use config::{Configurations, Surroundings};
pub use launch::{Caller, LaunchError, LaunchPlan, Launched};
pub(crate) use memory::TargetMemory;
pub use process::{Process, ProcessError, ProcessTable};
pub(crate) use project::project_folder;
pub use resolve::{Request, ResolveError, Server, Target, resolve};
