//! `diagnose`, `trace` and their kin on a server that is slow, or fails, for reasons that are known.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tests::{Client, Profiler, python_program, script, tool_call};

use super::calls::{Recorded, listed, while_recording};

/// The server of tests/workloads/slow_server.py.
fn slow_server() -> Result<Client> {
    Client::start(Command::new(python_program()?).arg(script("slow_server.py")))
}

/// What `diagnose slow-response` says of the tool `work`.
fn slow_work<T>(recorded: &Recorded<T>, options: &[&str]) -> Result<Value> {
    let arguments = ["diagnose", "slow-response", "recording.mcpprof", "--tool", "work", "--format", "json"];
    let outcome = recorded.profiler.succeed(&[&arguments, options].concat())?;
    let mut answer: Value = serde_json::from_str(&outcome.stdout)?;
    assert_eq!(answer["schema_version"], 1);
    ensure!(answer["tools"].as_array().is_some_and(|tools| tools.len() == 1), "{answer:#}");
    Ok(answer["tools"][0].take())
}

/// The finding of a cause, if there is one.
fn finding<'tool>(tool: &'tool Value, cause: &str) -> Option<&'tool Value> {
    tool["findings"].as_array()?.iter().find(|finding| finding["cause"] == cause)
}

/// 60 calls of the tool `work` that run for 1 ms, of which each twentieth does what it is told too.
fn mostly_quick(client: &mut Client, slow: &Value) -> Result<()> {
    client.call_often(60, 1, "work", |number| {
        let mut arguments = json!({"usual": 1});
        if let (10, Some(more)) = (number % 20, slow.as_object()) {
            arguments.as_object_mut().expect("it is an object").extend(more.clone());
        }
        arguments
    })?;
    Ok(())
}

/// Calls that run longer: the function that they run longer in is named.
#[test]
fn slow_on_a_cpu() -> Result<()> {
    let mut client = slow_server()?;
    let recorded = while_recording(client.pid(), 499, || mostly_quick(&mut client, &json!({"rare": 200})))?;
    let work = slow_work(&recorded, &["--percentile", "95"])?;
    assert_eq!((&work["calls"], &work["slow"]["calls"]), (&json!(60), &json!(3)), "{work:#}");
    let running = finding(&work, "on_cpu").with_context(|| format!("{work:#}"))?;
    // 600 ms of three calls at 499 Hz are 300 samples: four standard deviations of their number are less than a quarter.
    assert!(
        running["slow_ms"].as_f64() > Some(150.0) && running["typical_ms"].as_f64() < Some(20.0),
        "{work:#}"
    );
    assert_eq!(finding(&work, "queued"), None, "{work:#}");
    let stacks = work["stacks"].as_array().context("stacks")?;
    let is_rare = |stack: &Value| stack["path"].as_array().is_some_and(|path| path.contains(&json!("rare")));
    assert!(stacks.iter().any(is_rare), "{stacks:#?}");
    let mut examples: Vec<u64> =
        running["examples"].as_array().context("examples")?.iter().filter_map(Value::as_u64).collect();
    examples.sort_unstable();
    assert_eq!(examples, [11, 31, 51], "{work:#}");

    let arguments =
        ["diagnose", "slow-response", "recording.mcpprof", "--percentile", "95", "--trace-requests"];
    let text = recorded.profiler.succeed(&arguments)?.stdout;
    for part in ["work: the slowest 3 of 60 calls", "on a CPU", "rare", "call 31 ", "working"] {
        assert!(text.contains(part), "{part} is missing: {text}");
    }
    let trace = recorded.profiler.succeed(&["trace", "31", "recording.mcpprof", "--format", "json"])?;
    let trace: Value = serde_json::from_str(&trace.stdout)?;
    assert_eq!((&trace["call"], &trace["tool"]), (&json!(31), &json!("work")));
    let hottest = trace["stacks"][0]["frames"].as_array().context("frames")?;
    assert!(hottest.contains(&json!("rare")), "{trace:#}");
    let sampled: f64 = trace["samples"]
        .as_array()
        .context("samples")?
        .iter()
        .filter_map(|sample| sample["cpu_ms"].as_f64())
        .sum();
    let cpu = trace["cpu_exact_ms"].as_f64().context("cpu_exact_ms")?;
    assert!((sampled - cpu).abs() < 0.001, "{sampled} ms of samples, {cpu} ms of the call");
    Ok(())
}

/// Calls that sleep longer wait.
#[test]
fn slow_because_waiting() -> Result<()> {
    let mut client = slow_server()?;
    let recorded = while_recording(client.pid(), 499, || mostly_quick(&mut client, &json!({"sleep": 300})))?;
    let work = slow_work(&recorded, &["--percentile", "95"])?;
    let first = &work["findings"][0];
    assert_eq!(first["cause"], "waiting", "{work:#}");
    assert!(first["slow_ms"].as_f64() > Some(250.0), "{work:#}");
    assert_eq!(finding(&work, "queued"), None, "{work:#}");
    Ok(())
}

/// A call that never ends is told before those that were slow.
#[test]
fn calls_that_hang() -> Result<()> {
    let mut client = Client::start(Command::new(python_program()?).arg(script("mcp_server.py")))?;
    let recorded = while_recording(client.pid(), 99, || {
        client.call_often(20, 1, "echo", |_| json!({"text": "x"}))?;
        client.send(&tool_call(&json!("never"), "silent", &json!({})))?;
        // For as long as it takes until a call without any like it is one that hangs.
        std::thread::sleep(Duration::from_millis(1500));
        client.call_often(1, 1, "echo", |_| json!({"text": "x"}))
    })?;
    let diagnose = ["diagnose", "slow-response", "recording.mcpprof"];
    let outcome = recorded.profiler.succeed(&[&diagnose[..], &["--format", "json"]].concat())?;
    let slow: Value = serde_json::from_str(&outcome.stdout)?;
    let [hanging] = &slow["hanging"].as_array().context("hanging")?[..] else { panic!("{slow:#}") };
    assert_eq!((&hanging["tool"], &hanging["calls"]), (&json!("silent"), &json!(1)), "{slow:#}");
    assert!(hanging["longest_ms"].as_f64() > Some(1000.0), "{slow:#}");
    let text = recorded.profiler.succeed(&diagnose)?.stdout;
    assert!(text.starts_with("silent: 1 call had not ended when the recording did, after "), "{text}");
    Ok(())
}

/// Calls that come while the server works on another one stand behind that: their own time is not longer.
#[test]
fn slow_because_queued() -> Result<()> {
    let mut client = slow_server()?;
    let recorded = while_recording(client.pid(), 499, || {
        client.call_often(54, 1, "work", |_| json!({"usual": 1}))?;
        for _ in 0..6 {
            client.send(&tool_call(&json!("front"), "block", &json!({"rare": 200})))?;
            client.send(&tool_call(&json!("behind"), "work", &json!({"usual": 1})))?;
            client.receive()?;
            client.receive()?;
        }
        Ok(())
    })?;
    let work = slow_work(&recorded, &["--percentile", "90", "--trace-requests"])?;
    let first = &work["findings"][0];
    assert_eq!((&work["slow"]["calls"], &first["cause"]), (&json!(6), &json!("queued")), "{work:#}");
    assert_eq!(first["behind"][0]["name"], "block", "{work:#}");
    let requests = work["requests"].as_array().context("requests")?;
    let queued = requests.iter().filter(|request| request["timeline"][0]["what"] == "queued").count();
    assert!(queued >= 4, "{work:#}");
    Ok(())
}

/// Errors of one sort are one group, by code and shape; what came before them and what they did is told.
#[test]
fn errors() -> Result<()> {
    let mut client = slow_server()?;
    let recorded = while_recording(client.pid(), 499, || {
        for number in 0..40 {
            let is_failing = number % 4 == 3;
            client.call_often(1, 1, if is_failing { "lock" } else { "list" }, |_| json!({}))?;
            client.call_often(1, 1, "work", |_| match is_failing {
                true => json!({"fail": -32602, "explain": 40, "message": format!("file {number} not found: '/home/alice/{number}'")}),
                false => json!({"usual": 5}),
            })?;
        }
        client.call_often(
            2,
            1,
            "save",
            |number| json!({"message": format!("quota of user {number}77 exceeded")}),
        )
    })?;
    let arguments = ["diagnose", "errors", "recording.mcpprof", "--error-analysis"];
    let outcome = recorded.profiler.succeed(&[&arguments[..], &["--format", "json"]].concat())?;
    let errors: Value = serde_json::from_str(&outcome.stdout)?;
    assert_eq!((&errors["calls"], &errors["errors"]), (&json!(82), &json!(12)), "{errors:#}");
    let [work, save] = &errors["groups"].as_array().context("groups")?[..] else { panic!("{errors:#}") };
    assert_eq!(
        (&work["tool"], &work["error_code"], &work["count"]),
        (&json!("work"), &json!(-32602), &json!(10))
    );
    assert_eq!(work["message_shape"], "file <number> not found: <text>");
    assert_eq!((&save["outcome"], &save["count"]), (&json!("tool_error"), &json!(2)));
    assert_eq!(save["message_shape"], "quota of user <number> exceeded");
    let analysis = &work["analysis"];
    assert_eq!(
        (&analysis["before"][0]["name"], &analysis["before"][0]["failing"]),
        (&json!("lock"), &json!(10)),
        "{work:#}"
    );
    let cpu = |who: &str| analysis[who]["cpu_ms"].as_f64().with_context(|| format!("{work:#}"));
    assert!(cpu("failing")? > cpu("good")?, "{work:#}");
    assert!(analysis["stacks"].to_string().contains("\"explain\""), "{work:#}");
    let counted: u64 =
        work["over_time"].as_array().context("over_time")?.iter().filter_map(Value::as_u64).sum();
    assert_eq!(counted, 10);

    let text = recorded.profiler.succeed(&arguments)?.stdout;
    for part in
        ["Errors: 12 of 82 calls", "error -32602: file <number> not found", "lock (ok) ended just before"]
    {
        assert!(text.contains(part), "{part} is missing: {text}");
    }
    for (outcome, count) in [("error", 12), ("tool_error", 2), ("ok", 70), ("cancelled", 0)] {
        assert_eq!(listed(&recorded, &["--outcome", outcome])?.len(), count, "{outcome}");
    }
    let failed = &listed(&recorded, &["--outcome", "tool_error"])?[0];
    let attributes = &failed["attributes"];
    assert_eq!(attributes["mcp.method.name"], "tools/call");
    assert_eq!(
        (&attributes["gen_ai.tool.name"], &attributes["error.type"]),
        (&json!("save"), &json!("tool_error"))
    );
    assert!(attributes["jsonrpc.request.id"].is_string(), "{attributes:#}");
    Ok(())
}

const SECRET: &str = "hunter2hunter2";
const PRIVATE: &str = "Xylophonius";

/// A call whose arguments come back in its result, and one whose come back in its error.
fn private_calls(client: &mut Client) -> Result<()> {
    let text = format!("{PRIVATE} lives here");
    client.call_often(
        1,
        1,
        "work",
        |_| json!({"text": text, "password": SECRET, "list": [{"api_key": SECRET}]}),
    )?;
    client.call_often(
        1,
        1,
        "work",
        |_| json!({"fail": -1, "message": format!("no user {PRIVATE}: token={SECRET}")}),
    )?;
    client.call_often(1, 1, "work", |_| json!({"message": format!("{PRIVATE} is {PRIVATE}x not here")}))?;
    Ok(())
}

fn holds(file: &[u8], text: &str) -> bool {
    file.windows(text.len()).any(|window| window == text.as_bytes())
}

/// Nothing of what a client says or is told is in a recording, also where an error quotes it.
#[test]
fn contents_are_not_kept() -> Result<()> {
    let mut client = slow_server()?;
    let recorded = while_recording(client.pid(), 99, || private_calls(&mut client))?;
    let calls = listed(&recorded, &["--in-order"])?;
    assert_eq!(calls.len(), 3);
    assert!(
        calls.iter().all(|call| call.get("arguments").is_none() && call.get("result").is_none()),
        "{calls:#?}"
    );
    assert_eq!(calls[1]["error_message"], "no user <text>: token=<id>");
    let file = std::fs::read(recorded.profiler.path("recording.mcpprof"))?;
    assert!(holds(&file, "tools/call"), "nothing is found in it at all");
    for text in [PRIVATE, SECRET, "lives here", "api_key", "\"text\""] {
        assert!(!holds(&file, text), "{text} is in the recording");
    }
    Ok(())
}

/// Asked for, arguments and results are kept, but for what looks secret.
#[test]
fn contents_are_kept_when_asked() -> Result<()> {
    let mut client = slow_server()?;
    let profiler = Profiler::new()?;
    let running = profiler.recording_with(client.pid(), 99, &["--capture-arguments=150"])?;
    private_calls(&mut client)?;
    client.call_often(1, 1, "work", |_| json!({"text": "long ".repeat(1000)}))?;
    running.signal(nix::sys::signal::Signal::SIGINT)?;
    ensure!(running.finish()?.code == Some(0));
    let report = profiler.report("recording.mcpprof")?;
    let recorded = Recorded { profiler, report, done: () };
    let calls = listed(&recorded, &["--in-order"])?;
    assert_eq!(calls[0]["arguments"]["text"], format!("{PRIVATE} lives here"), "{calls:#?}");
    assert_eq!(calls[0]["arguments"]["password"], "[redacted]");
    let result = calls[0]["result"].to_string();
    assert!(result.contains(PRIVATE), "{result}");
    for contents in ["arguments", "result"] {
        let long = calls[3][contents].to_string();
        assert!(long.contains("long long") && long.contains('…') && long.len() < 200, "{long}");
    }
    assert_eq!(calls[1]["error_message"], format!("no user {PRIVATE}: token=[redacted]"));
    let trace = recorded.profiler.succeed(&["trace", "1", "recording.mcpprof"])?.stdout;
    assert!(trace.contains("Arguments") && trace.contains(PRIVATE), "{trace}");
    let file = std::fs::read(recorded.profiler.path("recording.mcpprof"))?;
    assert!(holds(&file, PRIVATE) && !holds(&file, SECRET));
    Ok(())
}

/// Whether a process has not ended: one that nobody has waited for has no open files.
fn lives(pid: u32) -> bool {
    std::fs::exists(format!("/proc/{pid}/fd/0")).unwrap_or(false)
}

/// A profile of some operations ends after so many of their calls, and its report is of these.
#[test]
fn profile_of_operations() -> Result<()> {
    let mut client = slow_server()?;
    let pid = client.pid().to_string();
    let profiler = Profiler::new()?;
    let profile = |options: &[&str]| {
        let arguments = ["profile", "--pid", &pid, "--format", "json", "-o", "recording.mcpprof"];
        profiler.start(&[&arguments, options].concat())
    };
    let running = profile(&["--operations", "read, write", "--samples", "100", "--duration", "100s"])?;
    while lives(running.pid()) {
        for tool in ["read", "other", "write"] {
            client.call_often(1, 1, tool, |_| json!({"usual": 3}))?;
        }
    }
    let outcome = running.finish()?;
    ensure!(outcome.code == Some(0), "{outcome:#?}");
    let report: Value = serde_json::from_str(&outcome.stdout)?;
    assert_eq!(
        (&report["end_reason"], &report["operations"]),
        (&json!("enough calls"), &json!(["read", "write"]))
    );
    let names: Vec<_> = report["calls"]["tools"]
        .as_array()
        .context("tools")?
        .iter()
        .map(|tool| tool["tool"].clone())
        .collect();
    assert!(names.len() == 2 && names.iter().all(|name| name != "other"), "{names:?}");
    let total = report["calls"]["total"].as_u64().context("total")?;
    // What ends while the recording does is in it too.
    assert!((100..300).contains(&total), "{total} calls");
    let whole = profiler.report("recording.mcpprof")?;
    assert!(whole.cpu_seconds() > report["cpu"]["seconds"].as_f64().context("seconds")?);

    let running = profile(&["--operations", "read,never", "--samples", "1000000", "--duration", "2s"])?;
    while lives(running.pid()) {
        client.call_often(1, 1, "read", |_| json!({"usual": 3}))?;
    }
    let outcome = running.finish()?;
    ensure!(outcome.code == Some(0), "{outcome:#?}");
    for part in ["no call of never", "of 1,000,000 calls", "time is up"] {
        assert!(outcome.stderr.contains(part), "{part} is missing: {}", outcome.stderr);
    }
    let outcome = profile(&["--operations", "never", "--duration", "500ms"])?.finish()?;
    assert!(outcome.code == Some(1) && outcome.stderr.contains("no call of never"), "{outcome:#?}");
    Ok(())
}

/// Where calls were left out, nothing says that there were none.
#[test]
fn calls_left_out() -> Result<()> {
    let client = slow_server()?;
    let profiler = Profiler::new()?;
    let report = profiler.record_and_report(1, 99, &["--no-calls", "--pid", &client.pid().to_string()])?;
    assert_eq!((&report.json["calls_recorded"], report.json.get("calls")), (&json!(false), None));
    let text = profiler.succeed(&["report", "recording.mcpprof"])?.stdout;
    assert!(text.contains("Calls were not recorded"), "{text}");
    for arguments in [
        &["calls", "recording.mcpprof"][..],
        &["trace", "1", "recording.mcpprof"],
        &["diagnose", "errors", "recording.mcpprof"],
    ] {
        profiler.run(arguments)?.assert_fails(1, &["calls were not recorded", "--no-calls"]);
    }
    profiler.run(&["cpu", "recording.mcpprof", "--tool", "x"])?.assert_fails(2, &["calls were not recorded"]);
    profiler
        .run(&["trace", "recording.mcpprof"])?
        .assert_fails(2, &["number of a call", "mcp-profiler calls"]);
    Ok(())
}
