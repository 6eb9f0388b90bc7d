//! An MCP server made with rmcp, whose tools do what they are told: over stdio, or over HTTP on the port that is its argument.

use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use nix::time::{ClockId, clock_gettime};
use rmcp::handler::server::wrapper::Parameters;
use rmcp::model::ErrorData;
use rmcp::schemars::{self, JsonSchema};
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp::transport::{StreamableHttpService, stdio_pipes};
use rmcp::{ServerHandler, ServiceExt as _, tool, tool_handler, tool_router};
use serde::Deserialize;
use tokio::net::TcpListener;

#[derive(Clone)]
struct Server;

#[derive(Deserialize, JsonSchema)]
struct Time {
    milliseconds: u64,
}

#[derive(Deserialize, JsonSchema)]
struct Text {
    text: String,
}

#[derive(Deserialize, JsonSchema)]
struct Code {
    code: i32,
}

#[tool_router]
impl Server {
    #[tool(description = "Be on a CPU for so long; the answer is for how many nanoseconds it was")]
    async fn burn(&self, Parameters(Time { milliseconds }): Parameters<Time>) -> String {
        burn(Duration::from_millis(milliseconds)).as_nanos().to_string()
    }

    #[tool(description = "Wait for so long")]
    async fn sleep(&self, Parameters(Time { milliseconds }): Parameters<Time>) -> String {
        tokio::time::sleep(Duration::from_millis(milliseconds)).await;
        "0".to_owned()
    }

    #[tool(description = "Be on a CPU for half of the time, and wait for the other half")]
    async fn mixed(&self, Parameters(Time { milliseconds }): Parameters<Time>) -> String {
        let half = Duration::from_millis(milliseconds) / 2;
        let burned = burn(half);
        tokio::time::sleep(half).await;
        burned.as_nanos().to_string()
    }

    #[tool(description = "Say it again")]
    async fn echo(&self, Parameters(Text { text }): Parameters<Text>) -> String {
        text
    }

    #[tool(description = "Answer with this JSON-RPC error")]
    async fn fail(&self, Parameters(Code { code }): Parameters<Code>) -> Result<String, ErrorData> {
        Err(ErrorData::new(rmcp::model::ErrorCode(code), "it was asked for", None))
    }

    #[tool(description = "Answer that the tool failed")]
    async fn refuse(&self) -> Result<String, String> {
        Err("it was asked for".to_owned())
    }
}

#[tool_handler(name = "rmcp-server")]
impl ServerHandler for Server {}

/// CPU time of this thread.
fn thread_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("every thread has a CPU clock").into()
}

/// On a CPU for so long, by this thread's own clock: how busy the machine is does not matter. Returns for how long it was.
#[inline(never)]
fn burn(time: Duration) -> Duration {
    let start = thread_time();
    loop {
        let burned = thread_time() - start;
        if burned >= time {
            return burned;
        }
        (0..1000_u64).for_each(|turn| {
            std::hint::black_box(turn);
        });
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let Some(port) = std::env::args().nth(1) else {
        let (reader, writer) = stdio_pipes();
        Server.serve((reader, writer)).await?.waiting().await?;
        return Ok(());
    };
    let sessions = Arc::new(LocalSessionManager::default());
    let service = StreamableHttpService::new(|| Ok(Server), sessions, Default::default());
    let listener = TcpListener::bind(("127.0.0.1", port.parse()?)).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        let service = TowerToHyperService::new(service.clone());
        tokio::spawn(async move {
            // A client that leaves is no fault.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}
