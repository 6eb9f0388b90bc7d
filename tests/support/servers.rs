//! The real servers of `cargo xtask servers`, and mcp-stress.

use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::json;

use crate::mcp::{Client, Load};
use crate::process::{Process, wait_until};
use crate::profiler::program;
use crate::tools::{node_package, node_program, servers_folder};
use crate::workload::script;

/// server-everything: Node, over stdio.
pub fn everything() -> Result<Command> {
    let mut command = Command::new(node_program()?);
    command.arg(node_package("@modelcontextprotocol/server-everything")?.join("dist/index.js"));
    Ok(command)
}

/// mcp-server-time: Python, over stdio.
pub fn python_time() -> Result<Command> {
    Ok(Command::new(servers_folder()?.join("python/bin/mcp-server-time")))
}

/// The Python of the servers.
pub fn python_program() -> Result<PathBuf> {
    Ok(servers_folder()?.join("python/bin/python3"))
}

/// Runs a script with the Python of the servers.
pub fn python(script: &str) -> Result<Command> {
    let mut command = Command::new(python_program()?);
    command.args(["-c", script]);
    Ok(command)
}

/// mcp-server-git: Python that starts git, over stdio.
pub fn python_git(repository: &Path) -> Result<Command> {
    let mut command = Command::new(servers_folder()?.join("python/bin/mcp-server-git"));
    command.arg("-r").arg(repository);
    Ok(command)
}

/// server-filesystem: Node, over stdio.
pub fn filesystem(folder: &Path) -> Result<Command> {
    let mut command = Command::new(node_program()?);
    command.arg(node_package("@modelcontextprotocol/server-filesystem")?.join("dist/index.js")).arg(folder);
    Ok(command)
}

/// mcp-cron: Go with its symbols, over stdio.
pub fn cron(folder: &Path) -> Result<Command> {
    let mut command = Command::new(node_package("mcp-cron-linux-amd64")?.join("bin/mcp-cron"));
    command.args(["--transport", "stdio", "--db-path"]).arg(folder.join("cron.db"));
    Ok(command)
}

/// toolbox: Go, over stdio, with the tools that a file describes. Its first line is no message.
pub fn toolbox(tools: &Path) -> Result<Command> {
    let mut command = Command::new(node_package("@toolbox-sdk/server-linux-x64")?.join("bin/toolbox"));
    command.arg("--tools-file").arg(tools).arg("--stdio");
    Ok(command)
}

/// The server of tests/rmcp_server: Rust, over stdio.
pub fn rmcp() -> Result<Command> {
    let program = std::env::var_os("MCP_PROFILER_RMCP_SERVER");
    let program =
        program.context("MCP_PROFILER_RMCP_SERVER is not set: run these tests with `cargo xtask test`")?;
    Ok(Command::new(program))
}

/// mcp-time: Go without symbols, over stdio.
pub fn go_time() -> Result<Command> {
    Ok(Command::new(node_package("mcp-time-linux-x64")?.join("bin/mcp-time")))
}

/// azmcp: .NET in a single file, over stdio.
pub fn azure() -> Result<Command> {
    let mut command = Command::new(node_package("@azure/mcp-linux-x64")?.join("dist/azmcp"));
    let settings = [("DOTNET_SYSTEM_GLOBALIZATION_INVARIANT", "1"), ("AZURE_MCP_COLLECT_TELEMETRY", "false")];
    command.args(["server", "start", "--mode", "namespace"]).envs(settings);
    Ok(command)
}

/// The server that `demo` profiles: Rust and rmcp, over stdio.
pub fn demo_server() -> Result<Command> {
    let mut command = Command::new(program()?);
    command.arg("demo-server");
    Ok(command)
}

/// server-everything that answers `echo` all the time.
pub fn under_load() -> Result<Load> {
    Client::start(&mut everything()?)?.load("echo", json!({"message": "hello"}))
}

/// A server over HTTP.
#[derive(Debug)]
pub struct HttpServer {
    process: Process,
    port: u16,
}

impl HttpServer {
    /// The server's process ID.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// The port that it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The address that clients connect to.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/mcp", self.port)
    }
}

/// server-everything over HTTP, ready for connections.
pub fn everything_over_http() -> Result<HttpServer> {
    everything_over("streamableHttp")
}

/// server-everything over HTTP as revision 2024-11-05 has it, ready for connections.
pub fn everything_over_sse() -> Result<HttpServer> {
    everything_over("sse")
}

fn everything_over(transport: &str) -> Result<HttpServer> {
    over_http(|port| {
        let mut command = everything()?;
        command.arg(transport).env("PORT", port.to_string());
        Ok(command)
    })
}

/// The server of tests/workloads/fastmcp_server.py: FastMCP over HTTP, ready for connections.
pub fn fastmcp_over_http() -> Result<HttpServer> {
    over_http(|port| {
        let mut command = Command::new(python_program()?);
        command.arg(script("fastmcp_server.py")).arg(port.to_string());
        Ok(command)
    })
}

/// The server of tests/rmcp_server over HTTP, ready for connections.
pub fn rmcp_over_http() -> Result<HttpServer> {
    over_http(|port| {
        let mut command = rmcp()?;
        command.arg(port.to_string());
        Ok(command)
    })
}

/// Starts a server on a port that is free, and waits until it listens there.
fn over_http(command: impl FnOnce(u16) -> Result<Command>) -> Result<HttpServer> {
    // The port is free once this listener is dropped, at the end of the statement.
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let mut command = command(port)?;
    let process = Process::start(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()))?;
    wait_until("the server listens", Duration::from_secs(60), || {
        TcpStream::connect(("127.0.0.1", port)).ok()
    })?;
    Ok(HttpServer { process, port })
}

/// mcp-stress, which starts the server and calls its tool `echo` as fast as it answers.
pub fn stress(seconds: u32, server: &Command) -> Result<Process> {
    let mut command = Command::new(node_package("@mcp-stress/linux-x64")?.join("bin/mcp-stress"));
    command.args(["run", "-d", &seconds.to_string(), "-c", "4", "--tool", "echo", "--"]);
    command.arg(server.get_program()).args(server.get_args());
    Process::start(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()))
        .context("mcp-stress does not start")
}
