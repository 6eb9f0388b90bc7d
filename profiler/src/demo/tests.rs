use std::collections::BTreeSet;

use rmcp::ServiceExt;
use rmcp::model::{CallToolRequestParams, CallToolResponse};
use rmcp::service::{RoleClient, RunningService, ServiceError};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use super::*;

type Client = RunningService<RoleClient, ()>;

/// A server, and the client's two halves of its connection.
fn start_server() -> (
    tokio::task::JoinHandle<Result<(), ServeError>>,
    tokio::io::ReadHalf<tokio::io::DuplexStream>,
    tokio::io::WriteHalf<tokio::io::DuplexStream>,
) {
    let (client_side, server_side) = tokio::io::duplex(4096);
    let (server_reader, server_writer) = tokio::io::split(server_side);
    let (reader, writer) = tokio::io::split(client_side);
    (tokio::spawn(server::serve_on(server_reader, server_writer)), reader, writer)
}

/// The text of the answer; an error if the server says that it is one.
async fn call(client: &Client, tool: &'static str, arguments: Value) -> Result<String, String> {
    let Value::Object(arguments) = arguments else { panic!("arguments are an object") };
    let request = CallToolRequestParams::new(tool).with_arguments(arguments);
    match client.call_tool_once(request).await {
        Ok(CallToolResponse::Complete(result)) => {
            let text = result.content[0].as_text().expect("tools answer with text").text.clone();
            if result.is_error == Some(true) { Err(text) } else { Ok(text) }
        }
        Ok(other) => panic!("not a complete result: {other:?}"),
        Err(ServiceError::McpError(error)) => Err(error.message.into_owned()),
        Err(error) => panic!("the session broke: {error}"),
    }
}

/// Each tool does what it was asked for, and says how much.
#[tokio::test]
async fn every_tool_answers() {
    let (server, reader, writer) = start_server();
    let client = ().serve((reader, writer)).await.unwrap();

    let tools = client.list_all_tools().await.unwrap();
    let names: BTreeSet<_> = tools.iter().map(|tool| tool.name.as_ref()).collect();
    assert_eq!(names, BTreeSet::from(["allocate", "compute", "sleep", "sync_files"]));

    let computed = call(&client, "compute", json!({ "rounds": 1 })).await.unwrap();
    assert!(computed.starts_with("1 rounds: "), "{computed}");
    assert_eq!(call(&client, "sleep", json!({ "milliseconds": 1 })).await.unwrap(), "slept 1 ms");
    assert_eq!(
        call(&client, "sync_files", json!({ "files": 2, "kilobytes": 4 })).await.unwrap(),
        "wrote, synced and read back 8192 bytes in 2 files"
    );
    assert_eq!(
        call(&client, "allocate", json!({ "mebibytes": 1 })).await.unwrap(),
        "allocated 1 MiB and freed it"
    );
    assert_eq!(
        call(&client, "allocate", json!({ "mebibytes": 1, "retain": true })).await.unwrap(),
        "allocated 1 MiB and retained it"
    );

    client.cancel().await.unwrap();
    server.await.unwrap().unwrap();
}

/// Arguments that are too big, of the wrong kind, unknown or missing get an error reply, and the session goes on.
#[tokio::test]
async fn bad_arguments_give_an_error_reply() {
    let (_server, reader, writer) = start_server();
    let client = ().serve((reader, writer)).await.unwrap();

    for (tool, arguments, message) in [
        ("compute", json!({ "rounds": 0 }), "rounds must be from 1 to 10000, not 0"),
        ("compute", json!({ "rounds": 10_001 }), "not 10001"),
        ("compute", json!({ "rounds": -1 }), "invalid value: integer `-1`, expected u32"),
        ("compute", json!({ "rounds": "many" }), "invalid type: string"),
        ("compute", json!({}), "missing field `rounds`"),
        ("compute", json!({ "rounds": 1, "files": 1 }), "unknown field `files`"),
        ("sleep", json!({ "milliseconds": 60_001 }), "milliseconds must be from 0 to 60000"),
        ("sleep", json!({ "milliseconds": 1e300 }), "invalid type: floating point"),
        ("sync_files", json!({ "files": 65, "kilobytes": 1 }), "files must be from 1 to 64"),
        ("sync_files", json!({ "files": 1, "kilobytes": 1025 }), "kilobytes must be from 1 to 1024"),
        ("allocate", json!({ "mebibytes": 65 }), "mebibytes must be from 1 to 64"),
        ("no_such_tool", json!({}), "tool not found"),
    ] {
        let error = call(&client, tool, arguments.clone()).await.expect_err(tool);
        assert!(error.contains(message), "{tool} {arguments}: {error}");
    }
    call(&client, "sleep", json!({ "milliseconds": 0 })).await.unwrap();
}

/// What calls leave behind is bounded, whatever the client asks for.
#[tokio::test]
async fn retained_memory_is_bounded() {
    let (_server, reader, writer) = start_server();
    let client = ().serve((reader, writer)).await.unwrap();
    for _ in 0..4 {
        call(&client, "allocate", json!({ "mebibytes": 64, "retain": true })).await.unwrap();
    }
    let error = call(&client, "allocate", json!({ "mebibytes": 1, "retain": true })).await.unwrap_err();
    assert!(error.contains("256 MiB"), "{error}");
    call(&client, "allocate", json!({ "mebibytes": 1 })).await.unwrap();
}

/// The server ends when its input does, also when the client never said a word.
#[tokio::test]
async fn server_ends_with_its_input() {
    let (server, reader, mut writer) = start_server();
    writer.shutdown().await.unwrap();
    drop((reader, writer));
    server.await.unwrap().unwrap();
}

/// The demo's own load calls each tool, without an error, and then lets the server end.
#[tokio::test]
async fn demo_load_calls_every_tool() {
    let (server, reader, writer) = start_server();
    let summary = run_load(reader, writer, Duration::from_millis(300)).await.unwrap();
    assert_eq!(summary.errors, 0);
    assert_eq!(summary.tools.len(), 4, "{summary:?}");
    assert_eq!(summary.calls, summary.tools.values().map(|tool| tool.calls).sum::<u64>());
    server.await.unwrap().unwrap();
}

/// Calls that the server refuses are counted, not hidden.
#[tokio::test]
async fn load_counts_errors() {
    let (_server, reader, writer) = start_server();
    let bad = ToolCall { tool: "compute".to_owned(), arguments: json!({ "rounds": 0 }), weight: 1 };
    let plan = Plan { calls: vec![bad], concurrency: 2, duration: Duration::from_millis(50) };
    let summary = load::run(reader, writer, plan).await.unwrap();
    assert!(summary.calls > 0);
    assert_eq!(summary.errors, summary.calls);
}

/// A server that is not there, or goes away, is an error and not an empty summary.
#[tokio::test]
async fn load_on_a_server_that_ended_fails() {
    let (client_side, server_side) = tokio::io::duplex(4096);
    drop(server_side);
    let (reader, writer) = tokio::io::split(client_side);
    let error = run_load(reader, writer, Duration::from_secs(1)).await.unwrap_err();
    assert!(matches!(error, load::Error::Initialize(_)), "{error}");

    let (server, reader, writer) = start_server();
    let load = tokio::spawn(run_load(reader, writer, Duration::from_secs(60)));
    tokio::time::sleep(Duration::from_millis(100)).await;
    server.abort();
    let error = load.await.unwrap().unwrap_err();
    assert!(matches!(error, load::Error::ServerEnded(_)), "{error}");
}
