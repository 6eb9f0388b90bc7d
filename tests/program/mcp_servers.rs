//! Real servers of four languages, over both transports: each call is counted, under its tool, and every outcome is seen as what
//! the client saw.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};
use tests::{
    Client, EventStream, HttpClient, HttpServer, SseClient, cron, everything, everything_over_http,
    everything_over_sse, fastmcp_over_http, filesystem, outcome_of, python_git, python_time, rmcp,
    rmcp_over_http, tool_call, toolbox, with_metadata,
};

use super::calls::{
    Recorded, assert_nothing_lost, assert_parts_add_up, listed, while_looking, while_recording,
};

/// Calls by tool and outcome.
type Tally = BTreeMap<(String, String), u64>;

/// Calls of one tool.
#[derive(Clone)]
struct Plan {
    tool: &'static str,
    arguments: Value,
    count: u64,
    in_flight: u64,
    /// What the server makes of them.
    outcome: &'static str,
}

fn plan(tool: &'static str, arguments: Value, outcome: &'static str, count: u64) -> Plan {
    Plan { tool, arguments, count, in_flight: 4, outcome }
}

/// What the client was answered, which must be what the plans say.
fn tally(plans: &[Plan], answered: &[Vec<Value>]) -> Result<Tally> {
    let mut tally = Tally::new();
    for (plan, answers) in plans.iter().zip(answered) {
        for answer in answers {
            let outcome = outcome_of(answer);
            ensure!(outcome == plan.outcome, "{} was answered {answer}, not {}", plan.tool, plan.outcome);
            *tally.entry((plan.tool.to_owned(), outcome)).or_default() += 1;
        }
        ensure!(answers.len() as u64 == plan.count, "{} of {}", answers.len(), plan.tool);
    }
    Ok(tally)
}

/// The list of calls and the report say what the client was answered, and nothing else.
fn assert_seen<T>(recorded: &Recorded<T>, expected: &Tally) -> Result<()> {
    let mut seen = Tally::new();
    for call in listed(recorded, &[])? {
        let name = call.get("tool").unwrap_or(&call["method"]).as_str().context("a name")?.to_owned();
        let outcome = call["outcome"].as_str().context("an outcome")?;
        let outcome = call.get("error_code").map_or(outcome.to_owned(), |code| format!("{outcome} {code}"));
        *seen.entry((name, outcome)).or_default() += 1;
    }
    let messages = &recorded.report.json["calls"]["messages"];
    assert_eq!(seen, *expected, "{messages:#}");
    let calls = &recorded.report.json["calls"];
    let count = |is_wanted: fn(&str) -> bool| -> u64 {
        // What servers ask of clients is listed, and is in no total.
        let wanted =
            expected.iter().filter(|((name, outcome), _)| name != "roots/list" && is_wanted(outcome));
        wanted.map(|(_, count)| count).sum()
    };
    assert_eq!(calls["total"], count(|_| true), "{calls:#}");
    assert_eq!(calls["errors"], count(|outcome| outcome.contains("error")), "{calls:#}");
    assert_eq!(calls.get("incomplete"), None, "{calls:#}");
    for name in ["unmatched_responses", "repeated_ids", "unreadable_http", "cut_messages", "lost_stretches"] {
        assert_eq!(calls["messages"].get(name), None, "{calls:#}");
    }
    assert_nothing_lost(&recorded.report);
    assert_parts_add_up(&recorded.report)
}

/// Makes the calls over stdio while the server is recorded, and compares.
fn over_stdio(command: &mut Command, plans: &[Plan]) -> Result<Recorded<Tally>> {
    let mut client = Client::start(command)?;
    let recorded = while_recording(client.pid(), 99, || {
        let calls = |plan: &Plan| {
            client.call_often(plan.count, plan.in_flight, plan.tool, |_| plan.arguments.clone())
        };
        tally(plans, &plans.iter().map(calls).collect::<Result<Vec<_>>>()?)
    })?;
    assert_seen(&recorded, &recorded.done)?;
    Ok(recorded)
}

/// The same over HTTP, one call at a time.
fn over_http(server: &HttpServer, mut client: HttpClient, plans: &[Plan], is_modern: bool) -> Result<()> {
    let recorded = while_recording(server.pid(), 99, || {
        let mut calls = |plan: &Plan| {
            let call = |id| {
                let call = tool_call(&json!(id), plan.tool, &plan.arguments);
                let call = if is_modern { with_metadata(call) } else { call };
                client.post(&call)?.context("an answer")
            };
            (0..plan.count).map(call).collect()
        };
        tally(plans, &plans.iter().map(&mut calls).collect::<Result<Vec<_>>>()?)
    })?;
    assert_seen(&recorded, &recorded.done)
}

/// server-everything says of all that is wrong with a call that the tool failed.
fn everything_plans() -> Vec<Plan> {
    vec![
        plan("echo", json!({"message": "hello"}), "ok", 50),
        plan("echo", json!({}), "tool_error", 5),
        plan("no-such-tool", json!({}), "tool_error", 3),
        plan("get-sum", json!({"a": 1, "b": 2}), "ok", 20),
    ]
}

/// Node over stdio; also errors of JSON-RPC, one call that is cancelled and one that has no answer when the recording ends.
#[test]
fn server_everything_over_stdio() -> Result<()> {
    let mut client = Client::start(&mut everything()?)?;
    let plans = everything_plans();
    let recorded = while_recording(client.pid(), 99, || {
        let calls = |plan: &Plan| {
            client.call_often(plan.count, plan.in_flight, plan.tool, |_| plan.arguments.clone())
        };
        let mut expected = tally(&plans, &plans.iter().map(calls).collect::<Result<Vec<_>>>()?)?;
        let mut expect =
            |name: &str, outcome: &str| expected.insert((name.to_owned(), outcome.to_owned()), 1);
        client.send(&json!({"jsonrpc": "2.0", "id": "a", "method": "no/such/method"}))?;
        expect("no/such/method", &outcome_of(&client.receive()?));
        let unknown = json!({"name": "no-such-prompt"});
        client.send(&json!({"jsonrpc": "2.0", "id": "b", "method": "prompts/get", "params": unknown}))?;
        expect("no-such-prompt", &outcome_of(&client.receive()?));
        let long = json!({"duration": 600, "steps": 1});
        for id in ["c", "d"] {
            client.send(&tool_call(&json!(id), "trigger-long-running-operation", &long))?;
        }
        let cancelled = json!({"requestId": "c"});
        client.send(&json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": cancelled}))?;
        expect("trigger-long-running-operation", "cancelled");
        expect("trigger-long-running-operation", "in_flight");
        // All that was sent before has been read when this is answered.
        client.send(&json!({"jsonrpc": "2.0", "id": "e", "method": "ping"}))?;
        expect("ping", &outcome_of(&client.receive()?));
        Ok(expected)
    })?;
    assert_eq!(recorded.done[&("no/such/method".to_owned(), "error -32601".to_owned())], 1);
    assert_seen(&recorded, &recorded.done)
}

/// What takes long: a call that tells its progress is one call however often it does, one that is cancelled ends as such, and one that
/// becomes a task ends when its result is there.
#[test]
fn progress_cancellation_and_tasks() -> Result<()> {
    const LONG: &str = "trigger-long-running-operation";
    let mut client = Client::start(&mut everything()?)?;
    // All that the server says at its start has been said.
    client.call("echo", &json!({"message": "hello"}))?;
    let recorded = while_recording(client.pid(), 99, || {
        let mut expected = Tally::new();
        let mut expect = |name: &str, outcome: &str, count| {
            expected.insert((name.to_owned(), outcome.to_owned()), count);
        };
        let operation = |id: &str, seconds: f64| {
            let mut call = tool_call(&json!(id), LONG, &json!({"duration": seconds, "steps": 3}));
            call["params"]["_meta"] = json!({"progressToken": id});
            call
        };
        for id in ["a", "b"] {
            client.send(&operation(id, 0.3))?;
            let answer = client.receive()?;
            ensure!(answer["id"] == id && answer["result"]["content"].is_array(), "{answer}");
        }
        expect(LONG, "ok", 2);
        client.send(&operation("c", 1000.0))?;
        let cancelled = json!({"requestId": "c", "reason": "nobody waits"});
        client.send(&json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": cancelled}))?;
        expect(LONG, "cancelled", 1);

        let mut task = tool_call(&json!("d"), "simulate-research-query", &json!({"topic": "time"}));
        task["params"]["task"] = json!({"ttl": 300_000});
        client.send(&task)?;
        let answer = client.receive()?;
        let task =
            answer["result"]["task"]["taskId"].as_str().with_context(|| answer.to_string())?.to_owned();
        expect("simulate-research-query", "ok", 1);
        let mut looks = 0;
        loop {
            let parameters = json!({"taskId": task});
            client
                .send(&json!({"jsonrpc": "2.0", "id": looks, "method": "tasks/get", "params": parameters}))?;
            looks += 1;
            let answer = client.receive()?;
            match answer["result"]["status"].as_str().with_context(|| answer.to_string())? {
                "working" => std::thread::sleep(Duration::from_millis(200)),
                "completed" => break,
                _ => bail!("{answer}"),
            }
        }
        expect("tasks/get", "ok", looks);
        let parameters = json!({"taskId": task});
        client.send(&json!({"jsonrpc": "2.0", "id": "e", "method": "tasks/result", "params": parameters}))?;
        let answer = client.receive()?;
        ensure!(answer["result"]["content"].is_array(), "{answer}");
        expect("tasks/result", "ok", 1);
        Ok(expected)
    })?;
    assert_seen(&recorded, &recorded.done)?;
    let messages = &recorded.report.json["calls"]["messages"];
    // Three steps of two calls, and five states of the task; a cancellation counts with its call.
    assert_eq!(messages["notifications"], 11, "{messages:#}");
    for call in listed(&recorded, &["--outcome", "ok"])? {
        // By the server's own timers.
        let least_ms = match call["tool"].as_str() {
            Some(LONG) => 300.0,
            Some(_) => 4000.0,
            None => 0.0,
        };
        let duration_ms = call["duration_ms"].as_f64().context("duration_ms")?;
        assert!(duration_ms >= least_ms - 3.0, "{call:#}");
    }
    Ok(())
}

/// Node over HTTP.
#[test]
fn server_everything_over_http() -> Result<()> {
    let server = everything_over_http()?;
    over_http(&server, HttpClient::connect(server.port())?, &everything_plans(), false)
}

/// Node over the older HTTP transport: requests come by one connection, answers go by another. The clients were there before the
/// profiler, and one comes while it records; both use the same IDs.
#[test]
fn server_everything_over_sse() -> Result<()> {
    let server = everything_over_sse()?;
    let mut earlier = SseClient::connect(server.port())?;
    let plans = everything_plans();
    let recorded = while_recording(server.pid(), 99, || {
        let one_after_the_other = |client: &mut SseClient| -> Result<Vec<Vec<Value>>> {
            let mut call = |plan: &Plan, id: u64| {
                client.send(&tool_call(&json!(id), plan.tool, &plan.arguments))?;
                client.receive()
            };
            plans.iter().map(|plan| (0..plan.count).map(|id| call(plan, id)).collect()).collect()
        };
        let mut expected = tally(&plans, &one_after_the_other(&mut earlier)?)?;
        let mut later = SseClient::connect(server.port())?;
        for (key, count) in tally(&plans, &one_after_the_other(&mut later)?)? {
            *expected.entry(key).or_default() += count;
        }
        expected.insert(("initialize".to_owned(), "ok".to_owned()), 1);
        // Calls with the same ID, the shorter one within the longer one.
        let (long, short) = (json!({"duration": LONG_SECONDS, "steps": 1}), json!({"message": "within"}));
        for id in 1000..1000 + WITHIN {
            let calls = [("trigger-long-running-operation", &long), ("echo", &short)];
            for (client, (tool, arguments)) in [&mut earlier, &mut later].into_iter().zip(calls) {
                client.send(&tool_call(&json!(id), tool, arguments))?;
            }
            for client in [&mut later, &mut earlier] {
                ensure!(client.receive()?["id"] == id);
            }
        }
        *expected.entry(("echo".to_owned(), "ok".to_owned())).or_default() += WITHIN;
        expected.insert(("trigger-long-running-operation".to_owned(), "ok".to_owned()), WITHIN);
        Ok(expected)
    })?;
    assert_seen(&recorded, &recorded.done)?;
    let durations_ms = |tool: &str| -> Result<Vec<f64>> {
        let calls = listed(&recorded, &["--tool", tool, "--in-order"])?;
        calls.iter().map(|call| call["duration_ms"].as_f64().context("duration_ms")).collect()
    };
    let (long, echo) = (durations_ms("trigger-long-running-operation")?, durations_ms("echo")?);
    for (long_ms, short_ms) in long.iter().zip(&echo[echo.len() - WITHIN as usize..]) {
        // The server's own timer, and the order in which the answers came.
        assert!(*long_ms >= LONG_SECONDS * 1e3 - 1.0, "{long:?}");
        assert!(short_ms < long_ms, "{long:?}, {echo:?}");
    }
    Ok(())
}

/// How long the server takes, and how often.
const LONG_SECONDS: f64 = 0.4;
const WITHIN: u64 = 5;

/// Node over HTTP, with a client that listens to the server while it calls tools: what the server says and asks there belongs to no
/// call of the client, and what it asks is answered by a request of the client's own.
#[test]
fn server_everything_over_http_with_a_listener() -> Result<()> {
    let server = everything_over_http()?;
    // Before the recording begins, and while it goes on.
    for is_before in [true, false] {
        let connect =
            || HttpClient::connect_listening(server.port(), &json!({"roots": {"listChanged": true}}));
        let mut connected = if is_before { Some(connect()?) } else { None };
        let asked = |listener: &mut EventStream, method: &str| -> Result<Value> {
            loop {
                let message = listener.message()?;
                if message["method"] == method {
                    return Ok(message);
                }
            }
        };
        if let Some((client, listener)) = &mut connected {
            let request = asked(listener, "roots/list")?;
            client.post(&roots(&request))?;
            asked(listener, "notifications/message")?;
        }
        let recorded = while_recording(server.pid(), 99, || {
            let mut expected = Tally::new();
            let (mut client, mut listener) = match connected.take() {
                Some(connected) => connected,
                None => {
                    let (mut client, mut listener) = connect()?;
                    let request = asked(&mut listener, "roots/list")?;
                    client.post(&roots(&request))?;
                    asked(&mut listener, "notifications/message")?;
                    expected.insert(("initialize".to_owned(), "ok".to_owned()), 1);
                    expected.insert(("roots/list".to_owned(), "ok".to_owned()), 1);
                    (client, listener)
                }
            };
            for id in 0..20 {
                client.post(&json!({"jsonrpc": "2.0", "method": "notifications/roots/list_changed"}))?;
                // While that is asked, a call is made that has the ID of another request.
                let request = asked(&mut listener, "roots/list")?;
                let call = tool_call(&json!(id), "echo", &json!({"message": "hello"}));
                let answer = client.post(&call)?.context("an answer")?;
                ensure!(answer["id"] == id && answer["result"]["content"].is_array(), "{answer}");
                client.post(&roots(&request))?;
                asked(&mut listener, "notifications/message")?;
            }
            expected.insert(("echo".to_owned(), "ok".to_owned()), 20);
            *expected.entry(("roots/list".to_owned(), "ok".to_owned())).or_default() += 20;
            Ok(expected)
        })?;
        assert_seen(&recorded, &recorded.done)?;
        let tools = recorded.report.json["calls"]["tools"].as_array().context("no calls")?;
        let is_right = |tool: &&Value| (tool["method"] == "roots/list") == (tool["asked_by_server"] == true);
        assert!(tools.iter().all(|tool| is_right(&tool)), "{tools:#?}");
    }
    Ok(())
}

/// The answer of a client that has no roots.
fn roots(request: &Value) -> Value {
    json!({"jsonrpc": "2.0", "id": request["id"], "result": {"roots": []}})
}

/// Node, whose answers are of 2 MB, in many system calls.
#[test]
fn server_filesystem() -> Result<()> {
    const LARGE_READS: usize = 20;
    let folder = tempfile::tempdir()?;
    let file = |name: &str| json!({"path": folder.path().join(name)});
    std::fs::write(folder.path().join("large.txt"), "large ".repeat(180_000))?;
    let mut plans =
        vec![Plan { in_flight: 1, ..plan("read_text_file", file("large.txt"), "ok", 2) }; LARGE_READS / 2];
    plans.push(plan("read_text_file", file("missing.txt"), "tool_error", 5));
    let content = "x".repeat(500_000);
    plans.push(plan("write_file", json!({"path": folder.path().join("new"), "content": content}), "ok", 5));
    let mut client = Client::start(&mut filesystem(folder.path())?)?;
    let recorded = while_looking(client.pid(), 99, |profiler| {
        let (mut made, mut answers) = (0, Vec::new());
        for plan in &plans {
            answers
                .push(client.call_often(plan.count, plan.in_flight, plan.tool, |_| plan.arguments.clone())?);
            made += answers.last().map_or(0, Vec::len);
            // No more at a time than there is room for, however busy the machine is.
            profiler.wait_for_calls("the calls so far", &[], |calls| calls.len() == made)?;
        }
        tally(&plans, &answers)
    })?;
    assert_seen(&recorded, &recorded.done)?;
    let read: Vec<Value> = listed(&recorded, &["--tool", "read_text_file", "--outcome", "ok"])?;
    // The text is there twice, and what frames it is short.
    let is_right =
        |call: &Value| (2_160_000..2_161_000).contains(&call["response_bytes"].as_u64().unwrap_or(0));
    assert!(read.iter().all(is_right), "{:#?}", read.first());
    let written = listed(&recorded, &["--tool", "write_file"])?;
    let is_right = |call: &Value| (500_000..501_000).contains(&call["request_bytes"].as_u64().unwrap_or(0));
    assert!(written.iter().all(is_right), "{:#?}", written.first());
    Ok(())
}

/// Python, whose streams are descriptors 6 and 7.
#[test]
fn server_time() -> Result<()> {
    over_stdio(
        &mut python_time()?,
        &[
            plan("get_current_time", json!({"timezone": "UTC"}), "ok", 50),
            plan("get_current_time", json!({"timezone": "No/Where"}), "tool_error", 5),
            plan("no-such-tool", json!({}), "error -32602", 5),
        ],
    )?;
    Ok(())
}

/// Python that starts other programs, which are watched too.
#[test]
fn server_git() -> Result<()> {
    let folder = repository()?;
    let here = json!({"repo_path": folder.path()});
    let revision = json!({"repo_path": folder.path(), "revision": "no-such-revision"});
    over_stdio(
        &mut python_git(folder.path())?,
        &[
            plan("git_status", here.clone(), "ok", 10),
            plan("git_log", here, "ok", 10),
            plan("git_show", revision, "tool_error", 5),
            plan("git_status", json!({"repo_path": "/no/such/folder"}), "tool_error", 5),
            plan("no-such-tool", json!({}), "error -32602", 5),
        ],
    )?;
    Ok(())
}

/// A repository of git with one commit.
fn repository() -> Result<tempfile::TempDir> {
    let folder = tempfile::tempdir()?;
    let git = |arguments: &[&str]| -> Result<()> {
        let mut command = Command::new(tests::require("git", "git")?);
        command.args(["-c", "user.name=nobody", "-c", "user.email=nobody@localhost"]).args(arguments);
        let output = command.current_dir(folder.path()).output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    };
    git(&["init", "--quiet"])?;
    git(&["commit", "--quiet", "--allow-empty", "--message", "first"])?;
    Ok(folder)
}

/// Python over HTTP: FastMCP.
#[test]
fn fastmcp() -> Result<()> {
    let server = fastmcp_over_http()?;
    over_http(
        &server,
        HttpClient::connect(server.port())?,
        &[
            plan("echo", json!({"text": "hello"}), "ok", 30),
            plan("echo", json!({}), "tool_error", 5),
            plan("refuse", json!({}), "tool_error", 5),
            plan("sleep", json!({"milliseconds": 20}), "ok", 5),
        ],
        false,
    )
}

fn rmcp_plans() -> Vec<Plan> {
    vec![
        plan("echo", json!({"text": "hello"}), "ok", 50),
        plan("echo", json!({}), "tool_error", 5),
        plan("refuse", json!({}), "tool_error", 5),
        plan("fail", json!({"code": -32000}), "error -32000", 5),
        plan("fail", json!({"code": 7}), "error 7", 5),
        plan("no-such-tool", json!({}), "error -32602", 5),
    ]
}

/// Rust over stdio, as revisions before 2026-07-28 have it.
#[test]
fn rmcp_over_stdio() -> Result<()> {
    over_stdio(&mut rmcp()?, &rmcp_plans())?;
    Ok(())
}

/// Rust over stdio without `initialize`, as revision 2026-07-28 has it.
#[test]
fn rmcp_over_stdio_without_initialize() -> Result<()> {
    let mut client = Client::connect(&mut rmcp()?)?;
    let plans = rmcp_plans();
    let recorded = while_recording(client.pid(), 99, || {
        let mut calls = |plan: &Plan| {
            let call = |id| {
                client.send(&with_metadata(tool_call(&json!(id), plan.tool, &plan.arguments)))?;
                client.receive()
            };
            (0..plan.count).map(call).collect()
        };
        tally(&plans, &plans.iter().map(&mut calls).collect::<Result<Vec<_>>>()?)
    })?;
    assert_seen(&recorded, &recorded.done)
}

/// Rust over HTTP, in sessions.
#[test]
fn rmcp_over_http_in_a_session() -> Result<()> {
    let server = rmcp_over_http()?;
    over_http(&server, HttpClient::connect(server.port())?, &rmcp_plans(), false)
}

/// Rust over HTTP without sessions, as revision 2026-07-28 has it.
#[test]
fn rmcp_over_http_without_session() -> Result<()> {
    let server = rmcp_over_http()?;
    over_http(&server, HttpClient::connect_without_session(server.port())?, &rmcp_plans(), true)
}

/// Go: mcp-cron. Its errors have the code 0.
#[test]
fn mcp_cron() -> Result<()> {
    let folder = tempfile::tempdir()?;
    over_stdio(
        &mut cron(folder.path())?,
        &[
            plan("list_tasks", json!({}), "ok", 50),
            plan("get_task", json!({"id": "no-such-task"}), "error 0", 5),
            plan("no-such-tool", json!({}), "error -32602", 5),
        ],
    )?;
    Ok(())
}

/// Go: toolbox, with tools that ask SQLite.
#[test]
fn go_toolbox() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let tools = folder.path().join("tools.yaml");
    std::fs::write(&tools, toolbox_tools(&folder.path().join("notes.db")))?;
    over_stdio(
        &mut toolbox(&tools)?,
        &[
            plan("add", json!({"one": 2}), "ok", 50),
            plan("add", json!({}), "tool_error", 5),
            plan("broken", json!({}), "tool_error", 5),
            plan("no-such-tool", json!({}), "error -32602", 5),
        ],
    )?;
    Ok(())
}

fn toolbox_tools(database: &Path) -> String {
    format!(
        "sources:
  notes:
    kind: sqlite
    database: {}
tools:
  add:
    kind: sqlite-sql
    source: notes
    description: Adds one to a number
    parameters:
      - name: one
        type: integer
        description: The number
    statement: SELECT ? + 1 AS sum
  broken:
    kind: sqlite-sql
    source: notes
    description: Reads a table that is not there
    statement: SELECT * FROM nowhere
",
        database.display()
    )
}
