//! What the whole-program tests share: the profiler as a user runs it, servers, load and workloads.

mod footprint;
mod http;
mod mcp;
mod process;
mod profiler;
mod pythons;
mod report;
mod servers;
mod shares;
mod terminal;
mod tools;
mod workload;

pub use footprint::{Footprint, map_bytes};
pub use http::{EventStream, HttpClient, SseClient};
pub use mcp::{Client, Load, call_of, outcome_of, tool_call, with_metadata};
pub use process::{Process, wait_until};
pub use profiler::{Outcome, Profiler, Running, program};
pub use pythons::Python;
pub use report::{Function, Report};
pub use servers::{
    HttpServer, azure, cron, demo_server, everything, everything_over_http, everything_over_sse,
    fastmcp_over_http, filesystem, go_time, python, python_git, python_program, python_time, rmcp,
    rmcp_over_http, stress, toolbox, under_load,
};
pub use shares::{assert_share, together, tolerance};
pub use terminal::Terminal;
pub use tools::{SmallDisk, go, node, node_package, node_program, require, require_root, speedscope_import};
pub use workload::{Workload, script};
