//! Answers of megabytes, several at once: their bodies are not taken, and none of them is missed.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::{ChildStdout, Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tests::{Process, Profiler, filesystem, node_program, python, tool_call};

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

/// A client that reads less at a time than what is taken whole of a system call, so that each answer goes out in hundreds of small
/// writes: they fit into the ring, and each call is answered, with the length that its client saw.
#[test]
fn long_answers_in_small_pieces() -> Result<()> {
    const CALLS: usize = 240;
    const AT_A_TIME: usize = 20;
    const IN_FLIGHT: usize = 4;
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("large.txt");
    std::fs::write(&path, "x\n".repeat(1 << 19))?;
    let mut server = Process::start(
        filesystem(folder.path())?.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()),
    )?;
    let (mut stdin, stdout) = pipes(&mut server)?;
    let mut stdout = BufReader::with_capacity(8192, stdout);
    let mut answer = Vec::new();
    let mut receive = || {
        answer.clear();
        stdout.read_until(b'\n', &mut answer)?;
        anyhow::Ok(answer.len())
    };
    let hello = json!({"protocolVersion": "2025-03-26", "capabilities": {}, "clientInfo": {"name": "x", "version": "1"}});
    writeln!(stdin, "{}", json!({"jsonrpc": "2.0", "id": "hello", "method": "initialize", "params": hello}))?;
    receive()?;
    writeln!(stdin, "{}", json!({"jsonrpc": "2.0", "method": "notifications/initialized"}))?;
    let mut ask =
        |id: usize| writeln!(stdin, "{}", tool_call(&json!(id), "read_text_file", &json!({"path": path})));
    let profiler = Profiler::new()?;
    let running = profiler.recording(server.pid(), 99)?;
    let mut lengths = Vec::new();
    for first in (0..CALLS).step_by(AT_A_TIME) {
        let end = first + AT_A_TIME;
        (first..first + IN_FLIGHT).try_for_each(&mut ask)?;
        for next in first + IN_FLIGHT..end + IN_FLIGHT {
            lengths.push(receive()?);
            if next < end {
                ask(next)?;
            }
        }
        // No more at a time than there is room for, however busy the machine is.
        let are_answered =
            |calls: &[Value]| calls.len() == end && calls.iter().all(|call| call["outcome"] == "ok");
        profiler.wait_for_calls("the calls so far", &[], are_answered)?;
    }
    assert!(lengths.iter().all(|length| *length > 2_000_000), "{lengths:?}");
    let report = end(&profiler, running)?;
    let calls = &report.json["calls"];
    assert_nothing_lost(&report);
    assert_eq!((&calls["total"], calls.get("incomplete")), (&json!(CALLS), None), "{calls:#}");
    for (call, length) in profiler.calls(&["--in-order"])?.iter().zip(lengths) {
        // Without its line end.
        let seen = (call["outcome"].as_str(), call["response_bytes"].as_u64());
        assert_eq!(seen, (Some("ok"), Some(length as u64 - 1)), "{call:#}");
    }
    Ok(())
}

/// Long and short messages that follow each other without regard to system calls, read and written in small pieces, as buffers of
/// programs make them: whatever a piece has besides the end of a long message, it is seen.
#[test]
fn messages_across_small_pieces() -> Result<()> {
    const LENGTHS: [usize; 6] = [100_000, 50, 30_000, 250_000, 700, 9000];
    const ROUNDS: usize = 40;
    let source = "
import json, os
read, answers = b'', []
while True:
    while b'\\n' not in read:
        more = os.read(0, 8192)
        if not more:
            raise SystemExit
        read += more
    line, read = read.split(b'\\n', 1)
    message = json.loads(line)
    said = {'content': [{'type': 'text', 'text': 'x' * len(message['params']['arguments']['text'])}]}
    head, tail = {'jsonrpc': '2.0', 'id': message['id']}, {'result': said}
    answers.append(json.dumps({**head, **tail} if message['id'] % 2 else {**tail, **head}))
    if len(answers) == LENGTHS:
        all = ('\\n'.join(answers) + '\\n').encode()
        answers = []
        while all:
            all = all[os.write(1, all[:PIECE]):]
"
    .replace("LENGTHS", &LENGTHS.len().to_string());
    for piece in [3000, 8192, 15_000] {
        let source = source.replace("PIECE", &piece.to_string());
        let mut server = Process::start(python(&source)?.stdin(Stdio::piped()).stdout(Stdio::piped()))?;
        let (stdin, stdout) = pipes(&mut server)?;
        let (mut send, mut receive) = lines(stdin, stdout);
        let profiler = Profiler::new()?;
        let running = profiler.recording(server.pid(), 99)?;
        let mut lengths = Vec::new();
        for round in 0..ROUNDS {
            for (place, length) in LENGTHS.into_iter().enumerate() {
                let id = round * LENGTHS.len() + place;
                let call = tool_call(&json!(id), "echo", &json!({"text": "y".repeat(length)}));
                lengths.push(call.to_string().len());
                send(&call)?;
            }
            LENGTHS.iter().try_for_each(|_| receive())?;
        }
        let report = end(&profiler, running)?;
        let calls = &report.json["calls"];
        assert_nothing_lost(&report);
        assert_eq!(
            (&calls["total"], calls.get("incomplete")),
            (&json!(lengths.len()), None),
            "{piece} {calls:#}"
        );
        for (call, length) in profiler.calls(&["--in-order"])?.iter().zip(lengths) {
            let seen = (call["outcome"].as_str(), call["request_bytes"].as_u64());
            assert_eq!(seen, (Some("ok"), Some(length as u64)), "{piece} {call:#}");
        }
    }
    Ok(())
}
