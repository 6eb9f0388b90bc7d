//! The bundled MCP server that `mcp-profiler demo` profiles, and the load that it gets.

mod server;
mod work;

use std::io;
use std::process::Stdio;
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::process::{Child, Command};

use crate::load::{self, Plan, ToolCall};
use crate::target::Caller;

pub use server::{ServeError, serve};

/// The hidden subcommand of this program that runs [`serve`].
pub const SERVER_SUBCOMMAND: &str = "demo-server";

/// Calls that are in flight at the same time: more than the server has workers for CPU time, disk and memory
/// would only measure its queue.
const CONCURRENCY: usize = 4;

/// Starts this very program as the demo server, with pipes for its standard input and output, and as the user who
/// called sudo.
///
/// It ends when its standard input does, and is killed when the handle is dropped before that.
///
/// # Errors
/// The program's own file is not there any more, or the process limit is reached.
pub fn spawn_server() -> io::Result<Child> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg(SERVER_SUBCOMMAND).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
    if let Some(caller) = Caller::from_sudo() {
        command.uid(caller.uid).gid(caller.gid);
    }
    command.spawn()
}

/// Runs the demo's mix of tool calls on a demo server for `duration`, then closes both streams, which ends the
/// server. `from_server` is the server's standard output, `to_server` its standard input.
///
/// # Errors
/// The server did not answer, or ended before its time.
pub async fn run_load<R, W>(
    from_server: R,
    to_server: W,
    duration: Duration,
) -> Result<load::Summary, load::Error>
where
    R: AsyncRead + Send + Unpin + 'static,
    W: AsyncWrite + Send + Unpin + 'static,
{
    load::run(from_server, to_server, plan(duration)).await
}

/// Mostly computing, as a flame graph shows CPU time; enough of the rest to have something of each.
fn plan(duration: Duration) -> Plan {
    let call = |tool: &str, arguments, weight| ToolCall { tool: tool.to_owned(), arguments, weight };
    Plan {
        calls: vec![
            call("compute", json!({ "rounds": 8 }), 6),
            call("sleep", json!({ "milliseconds": 10 }), 3),
            call("sync_files", json!({ "files": 4, "kilobytes": 64 }), 2),
            call("allocate", json!({ "mebibytes": 8 }), 2),
        ],
        concurrency: CONCURRENCY,
        duration,
    }
}

#[cfg(test)]
mod tests;
