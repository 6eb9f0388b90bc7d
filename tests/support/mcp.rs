//! An MCP client over stdio: JSON-RPC, one message a line.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use crate::process::Process;

/// A server and the pipes to it. It must answer; a server that hangs is killed with the test's process.
#[derive(Debug)]
pub struct Client {
    process: Process,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    next_id: u64,
}

impl Client {
    /// Starts the server, and says nothing to it: since revision 2026-07-28 a session needs no beginning.
    pub fn connect(command: &mut Command) -> Result<Self> {
        let mut process =
            Process::start(command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()))?;
        let stdin = process.child().stdin.take().context("stdin is a pipe")?;
        let stdout = BufReader::new(process.child().stdout.take().context("stdout is a pipe")?);
        Ok(Self { process, stdin, stdout, next_id: 1 })
    }

    /// Starts the server and initializes the session.
    pub fn start(command: &mut Command) -> Result<Self> {
        let mut client = Self::connect(command)?;
        let parameters = json!({
            "protocolVersion": "2025-06-18",
            "capabilities": {},
            "clientInfo": {"name": "mcp-profiler-tests", "version": "1.0.0"},
        });
        client.request("initialize", &parameters)?;
        client.send(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"}))?;
        Ok(client)
    }

    /// The server's process ID.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Calls a tool and returns its result.
    pub fn call(&mut self, tool: &str, arguments: &Value) -> Result<Value> {
        self.request("tools/call", &json!({"name": tool, "arguments": arguments}))
    }

    /// Calls the tool again and again from a thread until the load is dropped.
    pub fn load(self, tool: &'static str, mut arguments: Value) -> Result<Load> {
        self.requests("tools/call", json!({"name": tool, "arguments": arguments.take()}))
    }

    /// Makes a request again and again from a thread until the load is dropped.
    pub fn requests(mut self, method: &'static str, parameters: Value) -> Result<Load> {
        self.request(method, &parameters).with_context(|| format!("{parameters} does not work"))?;
        let pid = self.pid();
        let (stop, calls) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let thread = std::thread::spawn({
            let (stop, calls) = (Arc::clone(&stop), Arc::clone(&calls));
            move || {
                while !stop.load(Ordering::Relaxed) && self.request(method, &parameters).is_ok() {
                    calls.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        Ok(Load { pid, stop, calls, thread: Some(thread) })
    }

    /// Calls a tool so many times with so many calls in flight; `arguments` are told the number of the call. Returns the
    /// answers in the order in which they come.
    pub fn call_often(
        &mut self,
        count: u64,
        in_flight: u64,
        tool: &str,
        arguments: impl Fn(u64) -> Value,
    ) -> Result<Vec<Value>> {
        let calls = (0..count).map(|number| (tool, arguments(number))).collect::<Vec<_>>();
        self.call_each(&calls, in_flight as usize)
    }

    /// The same for calls of several tools, with their arguments, in this order. Which call an answer is for is told by [`call_of`].
    pub fn call_each(&mut self, calls: &[(&str, Value)], in_flight: usize) -> Result<Vec<Value>> {
        let (mut sent, mut answers) = (0, Vec::new());
        while answers.len() < calls.len() {
            for (tool, arguments) in calls.iter().take(answers.len() + in_flight).skip(sent) {
                // Every other ID is a text: 7 and "7" are two.
                let id = if sent % 2 == 0 { json!(sent / 2) } else { json!((sent / 2).to_string()) };
                self.send(&tool_call(&id, tool, arguments))?;
                sent += 1;
            }
            answers.push(self.receive()?);
        }
        Ok(answers)
    }

    /// The next message that answers something, or several of them.
    pub fn receive(&mut self) -> Result<Value> {
        loop {
            let mut line = Vec::new();
            if self.stdout.read_until(b'\n', &mut line)? == 0 {
                bail!("the server ended");
            }
            // Some servers also print lines that are not JSON.
            let Ok(message) = serde_json::from_slice::<Value>(&line) else { continue };
            if message.get("method").is_some() {
                self.decline(&message)?;
            } else if message.get("id").is_some() || message.is_array() {
                return Ok(message);
            }
        }
    }

    fn request(&mut self, method: &str, parameters: &Value) -> Result<Value> {
        let id = self.next_id;
        self.next_id += 1;
        self.send(&json!({"jsonrpc": "2.0", "id": id, "method": method, "params": parameters}))?;
        loop {
            let mut line = String::new();
            if self.stdout.read_line(&mut line)? == 0 {
                bail!("the server ended without an answer to {method}");
            }
            // Some servers also print lines that are not JSON.
            let Ok(mut message) = serde_json::from_str::<Value>(&line) else { continue };
            if message.get("method").is_some() {
                self.decline(&message)?;
            } else if message["id"] == id {
                return match message.get_mut("result") {
                    Some(result) => Ok(result.take()),
                    None => bail!("{method}: {}", message["error"]),
                };
            }
        }
    }

    /// This client offers nothing that a server could ask for. Notifications need no answer.
    fn decline(&mut self, message: &Value) -> Result<()> {
        if message.get("id").is_none() {
            return Ok(());
        }
        let error = json!({"code": -32601, "message": "not offered"});
        self.send(&json!({"jsonrpc": "2.0", "id": message["id"], "error": error}))
    }

    /// Sends a message as it is.
    pub fn send(&mut self, message: &Value) -> Result<()> {
        writeln!(self.stdin, "{message}").context("the server reads no more")?;
        Ok(self.stdin.flush()?)
    }
}

/// The number of the call that an answer of [`Client::call_each`] is for.
pub fn call_of(answer: &Value) -> Option<usize> {
    let id = &answer["id"];
    let half = |id: u64| usize::try_from(2 * id).ok();
    match id.as_str() {
        Some(text) => half(text.parse().ok()?).map(|even| even + 1),
        None => half(id.as_u64()?),
    }
}

/// How a client sees that its call ended, in the words of the profiler: `ok`, `tool_error`, `error -32602`.
pub fn outcome_of(answer: &Value) -> String {
    match answer.get("error") {
        Some(error) => format!("error {}", error["code"]),
        None if answer["result"]["isError"] == true => "tool_error".to_owned(),
        None => "ok".to_owned(),
    }
}

/// What a request tells of itself since revision 2026-07-28.
pub fn with_metadata(mut request: Value) -> Value {
    request["params"]["_meta"] = json!({
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientInfo": {"name": "mcp-profiler-tests", "version": "1.0.0"},
        "io.modelcontextprotocol/clientCapabilities": {},
    });
    request
}

/// A request that calls a tool.
pub fn tool_call(id: &Value, tool: &str, arguments: &Value) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": {"name": tool, "arguments": arguments}})
}

/// A server that answers one call after the other.
#[derive(Debug)]
pub struct Load {
    pid: u32,
    stop: Arc<AtomicBool>,
    calls: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Load {
    /// The server's process ID.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Calls that it answered so far.
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // The thread owns the server, and kills it as it ends.
            let _ = thread.join();
        }
    }
}
