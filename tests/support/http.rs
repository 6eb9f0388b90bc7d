//! An MCP client over streamable HTTP: one connection, one request at a time.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

/// A connection with a session of its own.
#[derive(Debug)]
pub struct HttpClient {
    stream: BufReader<TcpStream>,
    port: u16,
    session: Option<String>,
}

impl HttpClient {
    /// Connects to a port of this host, without a session: since revision 2026-07-28 there are none.
    pub fn connect_without_session(port: u16) -> Result<Self> {
        Ok(Self { stream: open(port)?, port, session: None })
    }

    /// Connects to a port of this host and initializes the session.
    pub fn connect(port: u16) -> Result<Self> {
        let mut client = Self::connect_without_session(port)?;
        let parameters = json!({
            "protocolVersion": "2025-06-18",
            "capabilities": {},
            "clientInfo": {"name": "mcp-profiler-tests", "version": "1.0.0"},
        });
        client.post(&json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": parameters}))?;
        client.post(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"}))?;
        Ok(client)
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
            "POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
             Accept: application/json, text/event-stream\r\n{own}Content-Length: {}\r\n\r\n",
            body.len()
        );
        Ok(self.stream.get_mut().write_all(format!("{head}{body}").as_bytes())?)
    }

    /// Sends a message; returns the first message of the answer's body, if there is any.
    pub fn post(&mut self, message: &Value) -> Result<Option<Value>> {
        // Servers close connections on which nothing was said for some seconds, which pass quickly on a busy machine.
        if self.send(message).is_err() || matches!(self.stream.fill_buf(), Ok([]) | Err(_)) {
            self.stream = open(self.port)?;
            self.send(message)?;
        }
        let body = self.response()?;
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
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            bail!("the server closed the connection");
        }
        Ok(line.trim_end().to_owned())
    }
}

fn open(port: u16) -> Result<BufReader<TcpStream>> {
    Ok(BufReader::new(TcpStream::connect(("127.0.0.1", port))?))
}
