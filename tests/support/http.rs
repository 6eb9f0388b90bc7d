//! MCP clients over HTTP: one connection for requests, one at a time, and one on which the server sends what it wants.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};

/// A connection with a session of its own.
#[derive(Debug)]
pub struct HttpClient {
    stream: BufReader<TcpStream>,
    port: u16,
    /// Where requests go.
    path: String,
    session: Option<String>,
}

impl HttpClient {
    /// Connects to a port of this host, without a session: since revision 2026-07-28 there are none.
    pub fn connect_without_session(port: u16) -> Result<Self> {
        Self::connect_to(port, "/mcp")
    }

    fn connect_to(port: u16, path: &str) -> Result<Self> {
        Ok(Self { stream: open(port)?, port, path: path.to_owned(), session: None })
    }

    /// Connects to a port of this host and initializes the session.
    pub fn connect(port: u16) -> Result<Self> {
        let mut client = Self::connect_without_session(port)?;
        client.post(&initialize(&json!({})))?;
        client.post(&initialized())?;
        Ok(client)
    }

    /// The same, with capabilities for which the server may send requests, and the connection on which it does: open before the
    /// session is, so that nothing said there is missed.
    pub fn connect_listening(port: u16, capabilities: &Value) -> Result<(Self, EventStream)> {
        let mut client = Self::connect_without_session(port)?;
        client.post(&initialize(capabilities))?;
        let listener = EventStream::open(port, &client.path, client.session.as_deref())?;
        client.post(&initialized())?;
        Ok((client, listener))
    }

    /// Says from now on that its requests are of this session.
    pub fn set_session(&mut self, session: &str) {
        self.session = Some(session.to_owned());
    }

    /// Sends a request and does not wait for its answer.
    pub fn send(&mut self, message: &Value) -> Result<()> {
        let body = message.to_string();
        let own = match (&self.session, message["params"].get("_meta")) {
            (Some(id), _) => format!("Mcp-Session-Id: {id}\r\n"),
            // As of revision 2026-07-28.
            (None, Some(metadata)) => {
                let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                format!(
                    "MCP-Protocol-Version: {}\r\nMcp-Method: {}\r\nMcp-Name: {}\r\n",
                    text(&metadata["io.modelcontextprotocol/protocolVersion"]),
                    text(&message["method"]),
                    text(&message["params"]["name"])
                )
            }
            (None, None) => String::new(),
        };
        let head = format!(
            "POST {} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
             Accept: application/json, text/event-stream\r\n{own}Content-Length: {}\r\n\r\n",
            self.path,
            body.len()
        );
        Ok(self.stream.get_mut().write_all(format!("{head}{body}").as_bytes())?)
    }

    /// Sends a message and returns the answer's body.
    fn exchange(&mut self, message: &Value) -> Result<String> {
        // Servers close connections on which nothing was said for some seconds, which pass quickly on a busy machine.
        if self.send(message).is_err() || matches!(self.stream.fill_buf(), Ok([]) | Err(_)) {
            self.stream = open(self.port)?;
            self.send(message)?;
        }
        self.response()
    }

    /// Sends a message; returns the first message of the answer's body, if there is any.
    pub fn post(&mut self, message: &Value) -> Result<Option<Value>> {
        let body = self.exchange(message)?;
        let data =
            body.lines().filter_map(|line| line.strip_prefix("data:")).find(|data| !data.trim().is_empty());
        let text = data.unwrap_or(&body).trim();
        if text.is_empty() { Ok(None) } else { Ok(Some(serde_json::from_str(text).context(body.clone())?)) }
    }

    /// The body of the next response.
    pub fn response(&mut self) -> Result<String> {
        let (mut length, mut is_chunked) = (None, false);
        loop {
            let line = self.line()?;
            let Some((name, value)) = line.split_once(": ") else {
                if line.is_empty() {
                    break;
                }
                continue;
            };
            match name.to_ascii_lowercase().as_str() {
                "content-length" => length = Some(value.parse::<usize>()?),
                "transfer-encoding" => is_chunked = value == "chunked",
                "mcp-session-id" => self.session = Some(value.to_owned()),
                _ => {}
            }
        }
        let mut body = Vec::new();
        loop {
            let size =
                if is_chunked { usize::from_str_radix(&self.line()?, 16)? } else { length.unwrap_or(0) };
            let start = body.len();
            body.resize(start + size, 0);
            self.stream.read_exact(&mut body[start..])?;
            if is_chunked {
                self.line()?;
            }
            if !is_chunked || size == 0 {
                return Ok(String::from_utf8(body)?);
            }
        }
    }

    fn line(&mut self) -> Result<String> {
        line(&mut self.stream)
    }
}

/// A connection on which the server sends events as long as it is open.
#[derive(Debug)]
pub struct EventStream {
    stream: BufReader<TcpStream>,
    /// What is left of the last chunk.
    text: String,
}

impl EventStream {
    fn open(port: u16, path: &str, session: Option<&str>) -> Result<Self> {
        let mut stream = open(port)?;
        let session = session.map_or_else(String::new, |id| format!("Mcp-Session-Id: {id}\r\n"));
        let head =
            format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n{session}\r\n");
        stream.get_mut().write_all(head.as_bytes())?;
        let status = line(&mut stream)?;
        ensure!(status.contains(" 200 "), "{status}");
        let mut is_chunked = false;
        loop {
            let field = line(&mut stream)?.to_ascii_lowercase();
            is_chunked |= field == "transfer-encoding: chunked";
            if field.is_empty() {
                break;
            }
        }
        ensure!(is_chunked, "only chunks are read here");
        Ok(Self { stream, text: String::new() })
    }

    /// The data of the next event that has some.
    fn data(&mut self) -> Result<String> {
        loop {
            while let Some((event, rest)) = self.text.split_once("\n\n") {
                let data = event.lines().find_map(|line| line.strip_prefix("data:"));
                let data = data.map(|data| data.trim().to_owned());
                self.text = rest.to_owned();
                if let Some(data) = data.filter(|data| !data.is_empty()) {
                    return Ok(data);
                }
            }
            let mut chunk = vec![0; usize::from_str_radix(&line(&mut self.stream)?, 16)?];
            ensure!(!chunk.is_empty(), "the server ended the stream of events");
            self.stream.read_exact(&mut chunk)?;
            line(&mut self.stream)?;
            self.text.push_str(&String::from_utf8(chunk)?.replace("\r\n", "\n"));
        }
    }

    /// The next message.
    pub fn message(&mut self) -> Result<Value> {
        let data = self.data()?;
        serde_json::from_str(&data).context(data)
    }
}

/// A client over HTTP as revision 2024-11-05 has it: answers come by a connection of their own.
#[derive(Debug)]
pub struct SseClient {
    events: EventStream,
    requests: HttpClient,
}

impl SseClient {
    /// Connects to a port of this host and initializes the session.
    pub fn connect(port: u16) -> Result<Self> {
        let mut events = EventStream::open(port, "/sse", None)?;
        let requests = HttpClient::connect_to(port, &events.data()?)?;
        let mut client = Self { events, requests };
        client.send(&initialize(&json!({})))?;
        client.receive()?;
        client.send(&initialized())?;
        Ok(client)
    }

    /// Sends a message, which the server accepts.
    pub fn send(&mut self, message: &Value) -> Result<()> {
        let body = self.requests.exchange(message)?;
        ensure!(body == "Accepted", "{body}");
        Ok(())
    }

    /// The next message that answers something.
    pub fn receive(&mut self) -> Result<Value> {
        loop {
            let message = self.events.message()?;
            if message.get("method").is_none() {
                return Ok(message);
            }
        }
    }
}

fn initialize(capabilities: &Value) -> Value {
    let parameters = json!({
        "protocolVersion": "2025-06-18",
        "capabilities": capabilities,
        "clientInfo": {"name": "mcp-profiler-tests", "version": "1.0.0"},
    });
    json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": parameters})
}

fn initialized() -> Value {
    json!({"jsonrpc": "2.0", "method": "notifications/initialized"})
}

fn line(stream: &mut BufReader<TcpStream>) -> Result<String> {
    let mut line = String::new();
    if stream.read_line(&mut line)? == 0 {
        bail!("the server closed the connection");
    }
    Ok(line.trim_end().to_owned())
}

fn open(port: u16) -> Result<BufReader<TcpStream>> {
    Ok(BufReader::new(TcpStream::connect(("127.0.0.1", port))?))
}
