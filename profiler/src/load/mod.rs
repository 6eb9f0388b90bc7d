//! The MCP client: load on a server.

mod handshake;
mod summary;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rmcp::model::{CallToolRequestParams, CallToolResponse, ClientConfig, Implementation, JsonObject};
use rmcp::service::{ClientInitializeError, Peer, RoleClient, ServiceError};
use rmcp::{ClientHandler, ServiceExt};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;

pub use handshake::{HandshakeError, Introduction, introduce};
use summary::Tally;
pub use summary::{Latency, Summary, ToolSummary};

/// How long a server may take to open the session, and to answer a call.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);
/// The order of calls is written out once, so their weights may not add up to more than this.
const MAX_TOTAL_WEIGHT: usize = 10_000;

/// A tool call of a [`Plan`].
#[derive(Clone, Debug, PartialEq)]
pub struct ToolCall {
    /// Name of the tool.
    pub tool: String,
    /// Its arguments: a JSON object.
    pub arguments: Value,
    /// How many of all calls are this one, relative to the weights of the others.
    pub weight: u32,
}

/// What to call, how many at a time, and for how long.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The mix of calls. They are made in a fixed order that spreads each one evenly.
    pub calls: Vec<ToolCall>,
    /// Calls in flight at the same time.
    pub concurrency: usize,
    /// New calls start until this time is over; those in flight are then waited for.
    pub duration: Duration,
}

/// Why load could not be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The plan can't be run.
    #[error("the load can't be made: {0}")]
    Plan(&'static str),
    /// The server does not speak MCP, or ended at once.
    #[error("the server did not open an MCP session: {0}")]
    Initialize(#[source] Box<ClientInitializeError>),
    /// The server is silent.
    #[error("the server did not open an MCP session within {} s", ANSWER_LIMIT.as_secs())]
    Silent,
    /// The server closed its output while calls were made.
    #[error("the server ended while it was called: {0}")]
    ServerEnded(#[source] ServiceError),
}

/// Opens an MCP session on a pair of streams, makes the calls of `plan`, and closes the session.
///
/// A call that the server answers with an error, or not within a minute, is counted in the summary.
///
/// # Errors
/// The plan holds no call, or one whose arguments are not an object; the server opens no session; the server
/// ends before the load does.
pub async fn run<R, W>(from_server: R, to_server: W, plan: Plan) -> Result<Summary, Error>
where
    R: AsyncRead + Send + Unpin + 'static,
    W: AsyncWrite + Send + Unpin + 'static,
{
    let schedule = Arc::new(Schedule::new(&plan)?);
    let session = tokio::time::timeout(ANSWER_LIMIT, Client.serve((from_server, to_server)))
        .await
        .map_err(|_| Error::Silent)?
        .map_err(|error| Error::Initialize(Box::new(error)))?;

    let start = Instant::now();
    let mut workers = JoinSet::new();
    for _ in 0..plan.concurrency {
        workers.spawn(work(session.peer().clone(), Arc::clone(&schedule), start + plan.duration));
    }
    let mut tally = Tally::default();
    let mut ended = None;
    while let Some(result) = workers.join_next().await {
        match result.expect("workers are not aborted and do not panic") {
            Ok(done) => tally.add(done),
            Err(error) => ended = Some(error),
        }
    }
    let wall = start.elapsed();
    // The session is over in any case: a failure to close it says nothing about the load.
    let _ = session.cancel().await;
    match ended {
        Some(error) => Err(Error::ServerEnded(error)),
        None => Ok(tally.summarise(wall)),
    }
}

/// Makes one call after the other until `end`.
async fn work(peer: Peer<RoleClient>, schedule: Arc<Schedule>, end: Instant) -> Result<Tally, ServiceError> {
    let mut tally = Tally::default();
    while Instant::now() < end {
        let request = schedule.next();
        let tool = request.name.clone();
        let start = Instant::now();
        let answer = tokio::time::timeout(ANSWER_LIMIT, peer.call_tool_once(request)).await;
        let succeeded = match answer {
            Ok(Ok(CallToolResponse::Complete(result))) => result.is_error != Some(true),
            Ok(Err(error @ (ServiceError::TransportClosed | ServiceError::TransportSend(_)))) => {
                return Err(error);
            }
            _ => false,
        };
        tally.record(&tool, start.elapsed(), succeeded);
    }
    Ok(tally)
}

/// The calls of a plan in the order in which they are made, again and again.
struct Schedule {
    requests: Vec<CallToolRequestParams>,
    order: Vec<usize>,
    made: AtomicUsize,
}

impl Schedule {
    fn new(plan: &Plan) -> Result<Self, Error> {
        if plan.concurrency == 0 {
            return Err(Error::Plan("its concurrency is zero"));
        }
        let requests = plan.calls.iter().map(request).collect::<Result<_, _>>()?;
        let weights: Vec<u32> = plan.calls.iter().map(|call| call.weight).collect();
        Ok(Self { requests, order: spread(&weights)?, made: AtomicUsize::new(0) })
    }

    fn next(&self) -> CallToolRequestParams {
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        self.requests[self.order[number % self.order.len()]].clone()
    }
}

fn request(call: &ToolCall) -> Result<CallToolRequestParams, Error> {
    let arguments: &JsonObject =
        call.arguments.as_object().ok_or(Error::Plan("the arguments of a call are not a JSON object"))?;
    Ok(CallToolRequestParams::new(call.tool.clone()).with_arguments(arguments.clone()))
}

/// Indices of `weights`, each as often as its weight says and spread evenly: smooth weighted round-robin, as nginx
/// does it.
fn spread(weights: &[u32]) -> Result<Vec<usize>, Error> {
    let total: i64 = weights.iter().map(|&weight| i64::from(weight)).sum();
    if total == 0 {
        return Err(Error::Plan("it holds no call"));
    }
    if total > MAX_TOTAL_WEIGHT as i64 {
        return Err(Error::Plan("its weights add up to more than 10000"));
    }
    let mut credits = vec![0_i64; weights.len()];
    let order = (0..total).map(|_| {
        for (credit, &weight) in credits.iter_mut().zip(weights) {
            *credit += i64::from(weight);
        }
        let richest =
            (0..credits.len()).max_by_key(|&index| credits[index]).expect("a positive total has a weight");
        credits[richest] -= total;
        richest
    });
    Ok(order.collect())
}

struct Client;

impl ClientHandler for Client {
    fn get_info(&self) -> ClientConfig {
        ClientConfig::new(Default::default(), Implementation::new("mcp-profiler", env!("CARGO_PKG_VERSION")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every call comes as often as its weight says, and heavy ones do not come in one block.
    #[test]
    fn calls_are_spread_by_weight() {
        assert_eq!(spread(&[4, 1, 1]).unwrap(), [0, 2, 0, 1, 0, 0]);
        assert_eq!(spread(&[0, 2]).unwrap(), [1, 1]);
    }

    /// A plan that makes no call is refused, not run for nothing.
    #[test]
    fn empty_and_absurd_plans_are_refused() {
        assert!(matches!(spread(&[]), Err(Error::Plan(_))));
        assert!(matches!(spread(&[0, 0]), Err(Error::Plan(_))));
        assert!(matches!(spread(&[u32::MAX, u32::MAX]), Err(Error::Plan(_))));
    }
}
