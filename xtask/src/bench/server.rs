//! A real server under load: one of Node or of Python on stdio, and a client that keeps it busy.
//!
//! The client has its own loop instead of a load tester: it takes about a tenth of the CPU time that the server
//! does, so the server is what limits the calls a second, and what a profiler takes from it shows.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};

use super::profiler::cpu_time;
use crate::command::find_in_path;

const EVERYTHING: &str = "node_modules/@modelcontextprotocol/server-everything/dist/index.js";
const SERVER_TIME: &str = "python/bin/mcp-server-time";
/// Calls in flight.
const CONCURRENCY: usize = 16;
/// V8 compiles the hot functions in the first seconds.
const WARM_UP: Duration = Duration::from_secs(5);
const CHUNK_BYTES: usize = 65_536;

/// A server that is installed, and the call that keeps it busy.
pub(super) struct Server {
    pub(super) name: &'static str,
    program: PathBuf,
    arguments: Vec<PathBuf>,
    load: Load,
}

/// A tool call, and what its answer contains.
#[derive(Clone, Copy)]
struct Load {
    /// `params` of the request, as JSON.
    parameters: &'static str,
    answer: &'static str,
}

const ECHO: Load =
    Load { parameters: r#"{"name":"echo","arguments":{"message":"hello"}}"#, answer: "Echo: hello" };
const TIME: Load = Load {
    parameters: r#"{"name":"get_current_time","arguments":{"timezone":"UTC"}}"#,
    answer: r#""timezone":"UTC""#,
};

impl Server {
    /// server-everything, on Node. Fails with the command that installs what is missing.
    pub(super) fn node(servers: &Path) -> Result<Self> {
        let program = find_in_path("node").context("node is missing. Run: apt-get install nodejs")?;
        let arguments = vec![installed(servers.join(EVERYTHING))?, "stdio".into()];
        Ok(Self { name: "server-everything", program, arguments, load: ECHO })
    }

    /// mcp-server-time, on Python. Fails with the command that installs what is missing.
    pub(super) fn python(servers: &Path) -> Result<Self> {
        let program = installed(servers.join(SERVER_TIME))?;
        Ok(Self { name: "mcp-server-time", program, arguments: Vec::new(), load: TIME })
    }

    /// The words of the command that starts it.
    pub(super) fn command(&self) -> impl Iterator<Item = &OsStr> {
        std::iter::once(self.program.as_os_str()).chain(self.arguments.iter().map(|word| word.as_os_str()))
    }

    /// Starts it, and calls a tool of it without a pause. Returns when it is warm.
    pub(super) fn start(&self) -> Result<BusyServer> {
        let mut process = Command::new(&self.program)
            .args(&self.arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot start {}", self.name))?;
        let input = process.stdin.take().expect("it is piped");
        let output = process.stdout.take().expect("it is piped");
        let calls = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&calls);
        let load = self.load;
        let client = std::thread::spawn(move || keep_busy(input, output, load, &counter));
        let server = BusyServer { name: self.name, process, calls, client: Some(client) };
        std::thread::sleep(WARM_UP);
        ensure!(server.calls() > 0, "{} answered no call in {} s", self.name, WARM_UP.as_secs());
        Ok(server)
    }
}

fn installed(file: PathBuf) -> Result<PathBuf> {
    ensure!(file.is_file(), "{} is missing. Run: cargo xtask servers", file.display());
    Ok(file)
}

/// A server under load; killed when dropped.
pub(super) struct BusyServer {
    name: &'static str,
    process: Child,
    calls: Arc<AtomicU64>,
    client: Option<JoinHandle<Result<()>>>,
}

/// What a server did in a stretch of time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slice {
    pub(super) calls_per_second: f64,
    /// CPU time of the server for one call, in microseconds.
    pub(super) cpu_us_per_call: f64,
    /// CPU time of the server, in seconds for each second.
    pub(super) cpus: f64,
}

impl BusyServer {
    pub(super) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Calls answered so far.
    pub(super) fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    /// Waits for `duration` and says what the server did meanwhile.
    pub(super) fn measure(&mut self, duration: Duration) -> Result<Slice> {
        let (start, calls_before, cpu_before) = (Instant::now(), self.calls(), cpu_time(self.pid())?);
        std::thread::sleep(duration);
        let cpu = cpu_time(self.pid())? - cpu_before;
        let (wall, calls) = (start.elapsed(), self.calls() - calls_before);
        self.check()?;
        ensure!(calls > 0, "the server answered no call in {duration:?}");
        Ok(Slice {
            calls_per_second: calls as f64 / wall.as_secs_f64(),
            cpu_us_per_call: cpu.as_secs_f64() * 1e6 / calls as f64,
            cpus: cpu.as_secs_f64() / wall.as_secs_f64(),
        })
    }

    /// Fails if the load has stopped: what is measured after that is not a busy server.
    pub(super) fn check(&mut self) -> Result<()> {
        if !self.client.as_ref().is_none_or(JoinHandle::is_finished) {
            return Ok(());
        }
        match self.client.take().map(JoinHandle::join) {
            Some(Ok(Err(error))) => Err(error.context(format!("the load on {} broke off", self.name))),
            _ => bail!("the load on {} broke off", self.name),
        }
    }
}

impl Drop for BusyServer {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
        if let Some(client) = self.client.take() {
            let _ = client.join();
        }
    }
}

/// Opens a session, then answers each reply with the next call. Ends only with an error, or with the server.
fn keep_busy(
    mut to_server: ChildStdin,
    from_server: ChildStdout,
    load: Load,
    calls: &AtomicU64,
) -> Result<()> {
    let mut replies = BufReader::with_capacity(CHUNK_BYTES, from_server);
    open_session(&mut to_server, &mut replies)?;
    let mut id = 0_u64;
    let mut batch = Vec::new();
    for _ in 0..CONCURRENCY {
        push_call(&mut batch, load, &mut id);
    }
    to_server.write_all(&batch)?;
    let mut line = Vec::new();
    loop {
        batch.clear();
        // Every reply that is there already is answered in one write.
        loop {
            line.clear();
            if replies.read_until(b'\n', &mut line)? == 0 {
                bail!("the server closed its output");
            }
            if is_good_reply(&line, load)? {
                calls.fetch_add(1, Ordering::Relaxed);
                push_call(&mut batch, load, &mut id);
            }
            if !replies.buffer().contains(&b'\n') {
                break;
            }
        }
        to_server.write_all(&batch)?;
    }
}

fn open_session(to_server: &mut impl Write, replies: &mut BufReader<impl Read>) -> Result<()> {
    let initialize = json!({
        "jsonrpc": "2.0",
        "id": "initialize",
        "method": "initialize",
        "params": {
            "protocolVersion": "2025-06-18",
            "capabilities": {},
            "clientInfo": { "name": "mcp-profiler-bench", "version": env!("CARGO_PKG_VERSION") },
        },
    });
    writeln!(to_server, "{initialize}")?;
    let mut line = String::new();
    loop {
        line.clear();
        ensure!(replies.read_line(&mut line)? > 0, "the server ended before it opened a session");
        let reply: Value = serde_json::from_str(&line).context("the server does not speak MCP")?;
        if reply["id"] == "initialize" {
            ensure!(reply["result"].is_object(), "the server refused to open a session: {line}");
            break;
        }
    }
    writeln!(to_server, r#"{{"jsonrpc":"2.0","method":"notifications/initialized"}}"#)?;
    Ok(())
}

fn push_call(batch: &mut Vec<u8>, load: Load, id: &mut u64) {
    let parameters = load.parameters;
    let call = format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{parameters}}}"#);
    batch.extend_from_slice(call.as_bytes());
    batch.push(b'\n');
    *id += 1;
}

/// Whether a line is the answer that the tool should give; other messages of the server are `false`, errors fail.
///
/// Looks for text instead of parsing: this client should take as little of the machine as it can.
fn is_good_reply(line: &[u8], load: Load) -> Result<bool> {
    let text = std::str::from_utf8(line).context("the server does not speak MCP")?;
    if text.contains(r#""method":"#) {
        return Ok(false);
    }
    ensure!(text.contains(load.answer), "the server answered a call with: {}", text.trim());
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Only answers of the tool count as calls; an error is not passed over.
    #[test]
    fn replies_are_told_from_other_messages() {
        let good = br#"{"result":{"content":[{"type":"text","text":"Echo: hello"}]},"jsonrpc":"2.0","id":3}"#;
        assert!(is_good_reply(good, ECHO).unwrap());
        let log = br#"{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info"}}"#;
        assert!(!is_good_reply(log, ECHO).unwrap());
        let error = br#"{"jsonrpc":"2.0","id":3,"error":{"code":-32603,"message":"no"}}"#;
        assert!(is_good_reply(error, ECHO).is_err());
    }

    /// Calls are lines of JSON with ids that count up.
    #[test]
    fn calls_are_json_lines() {
        let (mut batch, mut id) = (Vec::new(), 7);
        push_call(&mut batch, ECHO, &mut id);
        push_call(&mut batch, TIME, &mut id);
        let text = String::from_utf8(batch).unwrap();
        let calls: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!((calls.len(), &calls[0]["id"], &calls[1]["id"]), (2, &json!(7), &json!(8)));
        assert_eq!(calls[0]["params"]["name"], "echo");
        assert_eq!(calls[1]["params"]["arguments"]["timezone"], "UTC");
    }
}
