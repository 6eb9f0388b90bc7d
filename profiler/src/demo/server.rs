//! The bundled MCP server: four tools that spend time in four different ways.

use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rmcp::handler::server::wrapper::Parameters;
use rmcp::schemars::{self, JsonSchema};
use rmcp::service::ServerInitializeError;
use rmcp::transport::stdio_pipes;
use rmcp::{ServerHandler, ServiceExt, tool, tool_handler, tool_router};
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;

use super::work;

/// Calls that work at the same time; others wait for their turn. With the bounds of the arguments this limits
/// what a client can make the server use.
const WORKERS: usize = 4;
const MAX_ROUNDS: u32 = 10_000;
const MAX_SLEEP_MS: u32 = 60_000;
const MAX_FILES: u32 = 64;
const MAX_FILE_KIB: u32 = 1024;
const MAX_MEBIBYTES: u32 = 64;
/// Memory that calls may leave behind in one server, in MiB.
const MAX_RETAINED_MEBIBYTES: usize = 256;

/// What a tool says: an error reaches the client as a result with `isError`, as MCP asks for faults of a tool's
/// arguments, so that a model can read it.
type Answer = Result<String, String>;

/// Why the server could not do its work.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The client did not start the session the way MCP says.
    #[error("the client did not open an MCP session: {0}")]
    Initialize(#[source] Box<ServerInitializeError>),
    /// The session's task failed.
    #[error("the MCP session failed: {0}")]
    Session(#[from] tokio::task::JoinError),
}

/// Serves MCP on standard input and output until standard input ends.
///
/// # Errors
/// The client does not speak MCP, or the session failed.
///
/// # Panics
/// Outside of a Tokio runtime with I/O and time enabled.
pub async fn serve() -> Result<(), ServeError> {
    let (reader, writer) = stdio_pipes();
    serve_on(reader, writer).await
}

/// Serves MCP on a pair of streams until the reader ends.
pub(super) async fn serve_on<R, W>(reader: R, writer: W) -> Result<(), ServeError>
where
    R: AsyncRead + Send + Unpin + 'static,
    W: AsyncWrite + Send + Unpin + 'static,
{
    match DemoServer::new().serve((reader, writer)).await {
        Ok(session) => {
            session.waiting().await?;
            Ok(())
        }
        // A client that leaves without a word is no fault.
        Err(ServerInitializeError::ConnectionClosed(_)) => Ok(()),
        Err(error) => Err(ServeError::Initialize(Box::new(error))),
    }
}

#[derive(Clone)]
struct DemoServer {
    workers: Arc<Semaphore>,
    retained: Arc<Mutex<Vec<Vec<u8>>>>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ComputeArguments {
    /// How often the work is done; one round takes some hundred microseconds of CPU time.
    #[schemars(range(min = 1, max = 10_000))]
    rounds: u32,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct SleepArguments {
    /// How long to wait, in milliseconds.
    #[schemars(range(min = 0, max = 60_000))]
    milliseconds: u32,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct SyncFilesArguments {
    /// Number of files.
    #[schemars(range(min = 1, max = 64))]
    files: u32,
    /// Size of each file in KiB.
    #[schemars(range(min = 1, max = 1024))]
    kilobytes: u32,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct AllocateArguments {
    /// Memory to allocate, in MiB.
    #[schemars(range(min = 1, max = 64))]
    mebibytes: u32,
    /// Keep the memory after the call, as a leak would.
    #[serde(default)]
    retain: bool,
}

#[tool_router]
impl DemoServer {
    fn new() -> Self {
        Self { workers: Arc::new(Semaphore::new(WORKERS)), retained: Arc::default() }
    }

    #[tool(description = "Use CPU time: read a text and multiply matrices")]
    async fn compute(&self, Parameters(ComputeArguments { rounds }): Parameters<ComputeArguments>) -> Answer {
        check("rounds", rounds, 1..=MAX_ROUNDS)?;
        let result = self
            .work(move || (0..u64::from(rounds)).fold(0, |sum, round| sum ^ work::compute_round(round)))
            .await?;
        Ok(format!("{rounds} rounds: {result:016x}"))
    }

    #[tool(description = "Wait without using the CPU")]
    async fn sleep(&self, Parameters(SleepArguments { milliseconds }): Parameters<SleepArguments>) -> Answer {
        check("milliseconds", milliseconds, 0..=MAX_SLEEP_MS)?;
        tokio::time::sleep(Duration::from_millis(milliseconds.into())).await;
        Ok(format!("slept {milliseconds} ms"))
    }

    #[tool(description = "Write files to a temporary folder, wait for the disk, read them back, remove them")]
    async fn sync_files(
        &self,
        Parameters(SyncFilesArguments { files, kilobytes }): Parameters<SyncFilesArguments>,
    ) -> Answer {
        check("files", files, 1..=MAX_FILES)?;
        check("kilobytes", kilobytes, 1..=MAX_FILE_KIB)?;
        let bytes = self
            .work(move || work::sync_files(files, kilobytes))
            .await?
            .map_err(|error| format!("could not write files in the temporary folder: {error}"))?;
        Ok(format!("wrote, synced and read back {bytes} bytes in {files} files"))
    }

    #[tool(description = "Allocate memory and write to every page of it; free it unless told to retain it")]
    async fn allocate(
        &self,
        Parameters(AllocateArguments { mebibytes, retain }): Parameters<AllocateArguments>,
    ) -> Answer {
        check("mebibytes", mebibytes, 1..=MAX_MEBIBYTES)?;
        let retained = Arc::clone(&self.retained);
        let done = self
            .work(move || {
                let memory = work::allocate_and_touch(mebibytes);
                if !retain { Ok("freed") } else { keep(&retained, memory).map(|()| "retained") }
            })
            .await??;
        Ok(format!("allocated {mebibytes} MiB and {done} it"))
    }

    /// Runs `task` on a thread that may block, once fewer than [`WORKERS`] others do.
    async fn work<T: Send + 'static>(&self, task: impl FnOnce() -> T + Send + 'static) -> Result<T, String> {
        let permit = Arc::clone(&self.workers).acquire_owned().await.expect("the semaphore is never closed");
        tokio::task::spawn_blocking(move || {
            // Held by the thread: a call that the client cancels still counts until its work is done.
            let _permit = permit;
            task()
        })
        .await
        .map_err(|error| format!("the tool's worker failed: {error}"))
    }
}

#[tool_handler(
    name = "mcp-profiler-demo",
    instructions = "A server to profile: its tools compute, sleep, sync files and allocate memory."
)]
impl ServerHandler for DemoServer {}

fn check(name: &str, value: u32, allowed: RangeInclusive<u32>) -> Result<(), String> {
    if allowed.contains(&value) {
        return Ok(());
    }
    let (least, most) = allowed.into_inner();
    Err(format!("{name} must be from {least} to {most}, not {value}"))
}

fn keep(retained: &Mutex<Vec<Vec<u8>>>, memory: Vec<u8>) -> Result<(), String> {
    let mut retained = retained.lock().unwrap_or_else(PoisonError::into_inner);
    let kept: usize = retained.iter().map(Vec::len).sum();
    if kept + memory.len() > MAX_RETAINED_MEBIBYTES * 1024 * 1024 {
        return Err(format!(
            "this server retains at most {MAX_RETAINED_MEBIBYTES} MiB: start it again to go on"
        ));
    }
    retained.push(memory);
    Ok(())
}
