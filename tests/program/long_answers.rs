//! Answers of megabytes, several at once: their bodies are not taken, and none of them is missed.

use std::io::{Read as _, Write as _};
use std::process::{ChildStdout, Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tests::{Process, Profiler, node_program, python, tool_call};

use super::calls::assert_nothing_lost;
use super::wire::{end, lines, pipes};

/// A server that writes several long answers at once: each buffer's end is seen. Where they are in one buffer, those in its middle
/// are not, and it is said of which calls the end is not known.
#[test]
fn long_answers_in_one_write() -> Result<()> {
    let source = "
import json, os, sys
for first in iter(sys.stdin.readline, ''):
    asked = [json.loads(line) for line in [first] + [sys.stdin.readline() for _ in range(3)]]
    answers = []
    for message in asked:
        answer = {'result': {'content': [{'type': 'text', 'text': 'x' * 2000000}]}, 'jsonrpc': '2.0', 'id': message['id']}
        answers.append(json.dumps(answer).encode() + b'\\n')
    if asked[0]['params']['name'] == 'joined':
        answers = [b''.join(answers)]
    left = sum(map(len, answers))
    assert os.writev(1, answers) == left
";
    for (tool, answered) in [("apart", 20), ("joined", 5)] {
        let mut server = Process::start(python(source)?.stdin(Stdio::piped()).stdout(Stdio::piped()))?;
        let (stdin, stdout) = pipes(&mut server)?;
        let (mut send, mut receive) = lines(stdin, stdout);
        let profiler = Profiler::new()?;
        let running = profiler.recording(server.pid(), 99)?;
        for round in 0..5 {
            (0..4).try_for_each(|id| send(&tool_call(&json!(4 * round + id), tool, &json!({}))))?;
            (0..4).try_for_each(|_| receive())?;
        }
        let report = end(&profiler, running)?;
        let calls = &report.json["calls"];
        let outcomes: Vec<Value> = profiler.calls(&[])?.iter().map(|call| call["outcome"].clone()).collect();
        let of = |outcome: &str| outcomes.iter().filter(|known| *known == outcome).count();
        assert_eq!((of("ok"), of("lost")), (answered, 20 - answered), "{calls:#}");
        let hidden = (answered < 20).then(|| json!(20 - answered));
        assert_eq!(calls["messages"].get("cut_messages"), hidden.as_ref(), "{calls:#}");
        assert_eq!(calls.get("incomplete"), hidden.map(|_| json!(true)).as_ref(), "{calls:#}");
    }
    Ok(())
}

/// Node, which writes what waits in one system call, with a buffer for each answer, as far as there is room in the pipe.
const QUEUES: &str = r#"
require('node:readline').createInterface({ input: process.stdin }).on('line', (line) => {
    const content = [{ type: 'text', text: 'x'.repeat(2_000_000) }];
    process.stdout.write(JSON.stringify({ result: { content }, jsonrpc: '2.0', id: JSON.parse(line).id }) + '\n');
});
"#;

/// Reads so many bytes at a time until so many lines have ended and so many bytes are read.
fn read(from: &mut ChildStdout, step: usize, mut lines: usize, least: usize) -> Result<()> {
    let mut buffer = vec![0; step];
    let mut read = 0;
    while lines > 0 || read < least {
        let length = from.read(&mut buffer)?;
        ensure!(length > 0, "the server ended");
        read += length;
        let ended = buffer[..length].iter().filter(|byte| **byte == b'\n').count();
        lines = lines.checked_sub(ended).context("more answers than calls")?;
    }
    Ok(())
}

/// Attached while a long answer goes out, in thousands of pieces, and others wait behind it: each call from then on is seen, and its
/// answer with its length. What is taken of so many answers fits into the ring.
#[test]
fn attached_within_long_answers() -> Result<()> {
    const ROUNDS: u64 = 6;
    const CALLS: u64 = 8;
    let mut server = Process::start(
        Command::new(node_program()?).args(["-e", QUEUES]).stdin(Stdio::piped()).stdout(Stdio::piped()),
    )?;
    let (mut stdin, mut stdout) = pipes(&mut server)?;
    let mut next = 0;
    let mut ask = |count: u64| -> Result<()> {
        for _ in 0..count {
            writeln!(stdin, "{}", tool_call(&json!(next), "large", &json!({})))?;
            next += 1;
        }
        Ok(())
    };
    ask(4)?;
    read(&mut stdout, 4096, 1, 2_500_000)?;
    let profiler = Profiler::new()?;
    let running = profiler.recording(server.pid(), 99)?;
    read(&mut stdout, 4096, 3, 0)?;
    for round in 1..=ROUNDS {
        ask(4)?;
        for _ in 4..CALLS {
            read(&mut stdout, 1 << 16, 1, 0)?;
            ask(1)?;
        }
        read(&mut stdout, 1 << 16, 4, 0)?;
        // No more at a time than there is room for, however busy the machine is.
        let count = (round * CALLS) as usize;
        let are_answered =
            |calls: &[Value]| calls.len() == count && calls.iter().all(|call| call["outcome"] == "ok");
        profiler.wait_for_calls("the calls so far", &[], are_answered)?;
    }
    let report = end(&profiler, running)?;
    let calls = &report.json["calls"];
    assert_eq!(calls["total"], ROUNDS * CALLS, "{calls:#}");
    assert_eq!(calls.get("incomplete"), None, "{calls:#}");
    assert_nothing_lost(&report);
    let is_right =
        |call: &Value| (2_000_060..2_000_090).contains(&call["response_bytes"].as_u64().unwrap_or(0));
    assert!(profiler.calls(&[])?.iter().all(is_right), "{calls:#}");
    Ok(())
}
