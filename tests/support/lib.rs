//! What the whole-program tests share: the profiler as a user runs it, servers, load and workloads.

mod http;
mod mcp;
mod process;
mod profiler;
mod pythons;
mod report;
mod servers;
mod terminal;
mod tools;
mod workload;

pub use http::HttpClient;
pub use mcp::{Client, Load, tool_call};
pub use process::{Process, wait_until};
pub use profiler::{Outcome, Profiler, Running, program};
pub use pythons::Python;
pub use report::{Function, Report};
pub use servers::{
    HttpServer, azure, demo_server, everything, everything_over_http, go_time, python, python_program,
    python_time, stress, under_load,
};
pub use terminal::Terminal;
pub use tools::{SmallDisk, go, node, node_package, node_program, require, require_root, speedscope_import};
pub use workload::{Workload, script};
