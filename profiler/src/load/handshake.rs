//! The first words between a client and a server over stdio: `initialize` and the list of tools.

use serde_json::{Value, json};
use tokio::io::{
    AsyncBufRead, AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _,
    BufReader,
};

/// Longest message that is read; a list of tools is far shorter.
const MAX_LINE_BYTES: u64 = 64 << 20;
/// The newest revision that begins with `initialize`.
const PROTOCOL_VERSION: &str = "2025-11-25";

/// What a server said of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Introduction {
    /// Its name and version.
    pub server: Option<String>,
    /// The revision that it chose.
    pub protocol_version: Option<String>,
    /// How many tools it has; `None` when it has no list of them.
    pub tools: Option<usize>,
}

/// Why a server did not introduce itself.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// It closed its output, or ended.
    #[error("the server ended, or closed its standard output, before it answered `{0}`")]
    Closed(&'static str),
    /// It said no.
    #[error("the server answered `{0}` with an error: {1}")]
    Refused(&'static str, String),
    /// Its streams can't be used.
    #[error("cannot talk to the server: {0}")]
    Io(#[from] std::io::Error),
}

/// Introduces a client to a server, at once: what it sends waits until the server reads.
///
/// # Errors
/// The server ended, refused `initialize`, or its streams failed. It may also never answer: give it a time.
pub async fn introduce<R, W>(from_server: R, to_server: &mut W) -> Result<Introduction, HandshakeError>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut reader = BufReader::new(from_server);
    let client = json!({"name": "mcp-profiler", "version": env!("CARGO_PKG_VERSION")});
    let parameters = json!({"protocolVersion": PROTOCOL_VERSION, "capabilities": {}, "clientInfo": client});
    let answer = request(&mut reader, to_server, 1, "initialize", &parameters).await?;
    if let Some(error) = answer.get("error") {
        let message = error["message"].as_str().unwrap_or_default();
        return Err(HandshakeError::Refused("initialize", message.to_owned()));
    }
    let result = &answer["result"];
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let server = text(&result["serverInfo"]["name"]).map(|name| {
        text(&result["serverInfo"]["version"]).map_or(name.clone(), |version| format!("{name} {version}"))
    });
    send(to_server, "tools/list", &json!({"jsonrpc": "2.0", "method": "notifications/initialized"})).await?;
    let list = request(&mut reader, to_server, 2, "tools/list", &json!({})).await?;
    Ok(Introduction {
        server,
        protocol_version: text(&result["protocolVersion"]),
        tools: list["result"]["tools"].as_array().map(Vec::len),
    })
}

async fn request(
    reader: &mut (impl AsyncBufRead + Unpin),
    writer: &mut (impl AsyncWrite + Unpin),
    id: u64,
    method: &'static str,
    parameters: &Value,
) -> Result<Value, HandshakeError> {
    let message = json!({"jsonrpc": "2.0", "id": id, "method": method, "params": parameters});
    send(writer, method, &message).await?;
    loop {
        let mut line = Vec::new();
        if (&mut *reader).take(MAX_LINE_BYTES).read_until(b'\n', &mut line).await? == 0 {
            return Err(HandshakeError::Closed(method));
        }
        // Some servers also print lines that are not JSON.
        let Ok(message) = serde_json::from_slice::<Value>(&line) else { continue };
        if message.get("method").is_none() && message["id"] == id {
            return Ok(message);
        }
        // This client offers nothing that a server could ask for.
        if let (Some(_), Some(asked)) = (message.get("method"), message.get("id")) {
            let error = json!({"code": -32601, "message": "not offered"});
            send(writer, method, &json!({"jsonrpc": "2.0", "id": asked, "error": error})).await?;
        }
    }
}

/// Sends a message, while the answer to `method` is waited for.
async fn send(
    writer: &mut (impl AsyncWrite + Unpin),
    method: &'static str,
    message: &Value,
) -> Result<(), HandshakeError> {
    writer.write_all(format!("{message}\n").as_bytes()).await.map_err(|error| match error.kind() {
        std::io::ErrorKind::BrokenPipe => HandshakeError::Closed(method),
        _ => HandshakeError::Io(error),
    })?;
    Ok(writer.flush().await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(lines: &str) -> Result<Introduction, HandshakeError> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(introduce(lines.as_bytes(), &mut Vec::new()))
    }

    /// A server is understood among lines that are no answers; one that refuses or leaves is told from that.
    #[test]
    fn understands_servers() {
        let first = r#"{"jsonrpc":"2.0","id":1,"result":{"protocolVersion":"2025-06-18","serverInfo":{"name":"a","version":"2"}}}"#;
        let list = r#"{"jsonrpc":"2.0","id":2,"result":{"tools":[{"name":"x"},{"name":"y"}]}}"#;
        let asks = r#"{"jsonrpc":"2.0","id":1,"method":"roots/list"}"#;
        let introduction = answered(&format!("listening\n{asks}\n{first}\n{list}\n")).unwrap();
        let expected = Introduction {
            server: Some("a 2".into()),
            protocol_version: Some("2025-06-18".into()),
            tools: Some(2),
        };
        assert_eq!(introduction, expected);
        assert!(matches!(answered(&format!("{first}\n")), Err(HandshakeError::Closed("tools/list"))));
        let refused = r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32602,"message":"no"}}"#;
        assert!(matches!(answered(refused), Err(HandshakeError::Refused("initialize", _))));
        assert!(matches!(answered("text"), Err(HandshakeError::Closed("initialize"))));
    }
}
