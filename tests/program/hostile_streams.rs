//! Streams that lie, or carry more than can be taken, beside a server that behaves: bounded memory, all that is missing counted, and the
//! server's calls as they were.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use tests::{Client, Profiler, python_program, script, wait_until};

use super::calls::until_taken;
use super::wire::end;

/// A server that behaves, and beside it one that runs this source and is given a path.
fn server_beside(source: &str, path: &Path) -> Result<Client> {
    let mut command = Command::new("sh");
    command.args(["-c", "\"$0\" -c \"$1\" \"$2\" & exec \"$0\" \"$3\""]).arg(python_program()?);
    Client::start(command.arg(source).arg(path).arg(script("mcp_server.py")))
}

/// A process that holds open whatever can be held open, beside a server that behaves: bounded memory, all of it counted, and the
/// server's calls are seen as they were.
#[test]
fn hostile_streams() -> Result<()> {
    const TURNS: u32 = 21;
    let profiler = Profiler::new()?;
    let done = profiler.path("done");
    let hostile = "
import os, socket, sys, time
turns = 0
def turn():
    global turns
    open(f'{sys.argv[1]}.{turns}', 'w').close()
    while not os.path.exists(f'{sys.argv[1]}.{turns}.begin'):
        time.sleep(0.05)
    turns += 1
message = b'{\"jsonrpc\":\"2.0\",\"method\":\"' + b'm' * 500 + b'\",\"params\":{\"name\":\"' + b'\\xff' * 500 + b'\"},\"id\":%d}'
# Batches that never end, on many streams.
pipes = [os.pipe() for _ in range(100)]
for start in range(0, 200, 10):
    if start % 20 == 0:
        turn()
    for source, sink in pipes:
        batch = b','.join(message % number for number in range(start, start + 10))
        os.write(sink, (b'[' if start == 0 else b',') + batch)
        os.read(source, 1 << 16)
# Requests that nobody answers.
source, sink = os.pipe()
for start in range(0, 20000, 10):
    if start % 2000 == 0:
        turn()
    os.write(sink, b''.join(message % number + b'\\n' for number in range(start, start + 10)))
    os.read(source, 1 << 16)
turn()
# Events without end, and a message of a gigabyte by its own account.
for head in [b'HTTP/1.1 200 OK\\r\\nContent-Type: text/event-stream\\r\\n\\r\\ndata: {', b'POST / HTTP/1.1\\r\\nContent-Type: application/json\\r\\nContent-Length: 1000000000\\r\\n\\r\\n{']:
    one, other = socket.socketpair()
    one.send(head)
    for _ in range(300):
        one.send(b'[{\"a\":' * 10000)
        other.recv(1 << 20)
open(sys.argv[1], 'w').close()
time.sleep(1000)
";
    let mut client = server_beside(hostile, &done)?;
    let running = profiler.recording(client.pid(), 99)?;
    let comes = |file: PathBuf| wait_until("a turn", Duration::from_secs(60), || file.exists().then_some(()));
    // No faster than it can be taken: what is lost then is another test's.
    for turn in 0..TURNS {
        comes(profiler.path(&format!("done.{turn}")))?;
        until_taken(&profiler, &mut client, &format!("turn {turn}"))?;
        std::fs::write(profiler.path(&format!("done.{turn}.begin")), "")?;
    }
    comes(done)?;
    until_taken(&profiler, &mut client, "done")?;
    client.call_often(100, 4, "echo", |_| json!({"text": "after"}))?;
    let peak_kib = running.peak_kib()?;
    let report = end(&profiler, running)?;
    assert!(peak_kib < 256 << 10, "{peak_kib} KiB");
    let calls = &report.json["calls"];
    for name in ["dropped_messages", "given_up"] {
        assert!(calls["messages"][name].as_u64() > Some(0), "{:#}", calls["messages"]);
    }
    let echo = calls["tools"].as_array().context("no tools")?.iter().find(|tool| tool["tool"] == "echo");
    let echo = echo.context("no echo")?;
    let told = format!("{echo:#} {:#} {:#}", calls["messages"], report.json["losses"]);
    assert_eq!((&echo["count"], echo.get("unfinished")), (&json!(100), None), "{told}");
    Ok(())
}

/// What a server may be sent, or may say itself, each on a stream of its own. Prints nothing; ends by itself.
const HOSTILE_SERVER: &str = r#"
import os, socket, sys, threading, time

while not os.path.exists(sys.argv[1] + '.begin'):
    time.sleep(0.05)

taken = turns = 0

def through(ends, data):
    global taken, turns
    one, other = ends
    view = memoryview(data)
    while view:
        written = os.write(one, view[:1 << 16])
        os.read(other, 1 << 16)
        view = view[written:]
        # No faster than it can be taken: what is lost then is another test's. Of what is written and read the profiler takes this.
        taken += 2 * (200 + (written if written <= 1 << 14 else 1 << 13))
        if taken >= 2 << 20:
            taken = 0
            open(f'{sys.argv[1]}.{turns}', 'w').close()
            while not os.path.exists(f'{sys.argv[1]}.{turns}.begin'):
                time.sleep(0.01)
            turns += 1

def pipe():
    source, sink = os.pipe()
    return sink, source

def call(number, tool=b'hostile', more=b''):
    return b'{"jsonrpc":"2.0","id":%d,"method":"tools/call","params":{"name":"%s"%s}}\n' % (number, tool, more)

# 200 MB in one message, which is never answered.
stream = pipe()
through(stream, call(1, more=b',"arguments":{"x":"')[:-3])
for _ in range(200):
    through(stream, b'a' * 1_000_000)
through(stream, b'"}}}\n')
# Nested without end.
stream = pipe()
through(stream, b'{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"hostile","arguments":')
for _ in range(50):
    through(stream, b'{"a":[' * 20_000)
# The same ID again and again.
stream = pipe()
for _ in range(100):
    through(stream, call(3))
unanswered = stream
# No text.
for number in range(4, 14):
    through(stream, call(number, b'\xff\xfe\x80' * 20))
# Events without end, and one that has none.
one, other = socket.socketpair()
one, other = one.detach(), other.detach()
through((other, one), b'POST /mcp HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s' % (len(call(1)), call(1)))
through((one, other), b'HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n')
for _ in range(2000):
    through((one, other), b'event: message\ndata: {"jsonrpc":"2.0","method":"notifications/x"}\n\n' * 10)
through((one, other), b'data: {"jsonrpc":"2.0","id":1,"result":{"content":[{"text":"')
for _ in range(20):
    through((one, other), b'b' * 1_000_000)
# Requests that nobody answers.
for start in range(100, 3_000, 100):
    through(unanswered, b''.join(call(number) for number in range(start, start + 100)))
    if start % 1000 == 0:
        time.sleep(0.05)
open(sys.argv[1], 'w').close()
time.sleep(1000)
"#;

/// A server that is sent, and says, whatever does harm, while another one is called all the time: the calls of that one are seen as
/// they were, memory is bounded, and what was cut or given up is counted and told.
#[test]
fn hostile_server_beside_another() -> Result<()> {
    let profiler = Profiler::new()?;
    let done = profiler.path("done");
    let mut client = server_beside(HOSTILE_SERVER, &done)?;
    let running = profiler.recording(client.pid(), 99)?;
    std::fs::write(profiler.path("done.begin"), "")?;
    let (mut calls, mut turn) = (0, 0);
    let end_of_patience = Instant::now() + Duration::from_secs(300);
    while !done.exists() {
        ensure!(Instant::now() < end_of_patience, "the hostile server does not come to its end");
        client.call_often(10, 2, "echo", |_| json!({"text": "beside"}))?;
        client.call_often(1, 1, "fail", |_| json!({"code": -32000}))?;
        calls += 1;
        if profiler.path(&format!("done.{turn}")).exists() {
            until_taken(&profiler, &mut client, &format!("turn {turn}"))?;
            std::fs::write(profiler.path(&format!("done.{turn}.begin")), "")?;
            turn += 1;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let peak_kib = running.peak_kib()?;
    let report = end(&profiler, running)?;
    println!("{peak_kib} KiB at most, {calls} rounds of calls: {:#}", report.json["calls"]["messages"]);
    // 64 MiB, and the file of a program with debug information.
    assert!(peak_kib < 128 << 10, "{peak_kib} KiB");
    let all = &report.json["calls"];
    let of = |tool: &str| {
        let tools = all["tools"].as_array().context("no tools")?;
        tools.iter().find(|entry| entry["tool"] == tool).with_context(|| format!("no {tool} in {all:#}"))
    };
    for (tool, count, errors) in [("echo", 10 * calls, 0), ("fail", calls, calls)] {
        let tool = of(tool)?;
        assert_eq!((&tool["count"], &tool["errors"]), (&json!(count), &json!(errors)), "{tool:#}");
        assert_eq!(tool.get("unfinished"), None, "{tool:#}");
    }
    // Those with one ID, but for the last; that one, the one with 200 MB and the others.
    let hostile = of("hostile")?;
    assert_eq!(hostile["unfinished"]["unanswered"], 99, "{hostile:#}");
    assert!(hostile["unfinished"]["in_flight"].as_u64() >= Some(2_900), "{hostile:#}");
    assert!(hostile["request_bytes"].as_u64() > Some(200_000_000), "{hostile:#}");
    let messages = &all["messages"];
    assert_eq!(messages["repeated_ids"], 99, "{messages:#}");
    assert!(messages["cut_messages"].as_u64() > Some(0), "{messages:#}");
    assert!(messages["notifications"].as_u64() >= Some(20_000), "{messages:#}");
    let text = profiler.succeed(&["report", "recording.mcpprof"])?.stdout;
    for told in ["99 requests with the ID of one that still waited", "too long to be taken whole"] {
        assert!(text.split_whitespace().collect::<Vec<_>>().join(" ").contains(told), "{text}");
    }
    Ok(())
}

/// Writes and reads messages as fast as it can, for some seconds from when it may begin. Prints nothing; ends by itself.
const FLOOD: &str = r#"
import os, sys, threading, time

while not os.path.exists(sys.argv[1] + '.begin'):
    time.sleep(0.05)
source, sink = os.pipe()
messages = b'{"jsonrpc":"2.0","method":"notifications/x"}\n' * 350
end = time.monotonic() + 4
def read():
    while os.read(source, 1 << 16):
        pass
reader = threading.Thread(target=read)
reader.start()
while time.monotonic() < end:
    os.write(sink, messages)
os.close(sink)
reader.join()
open(sys.argv[1], 'w').close()
"#;

/// A stream that carries more than can be taken loses some of it, which is counted; another one loses nothing.
#[test]
fn floods_harm_themselves_alone() -> Result<()> {
    let profiler = Profiler::new()?;
    let done = profiler.path("done");
    let mut client = server_beside(FLOOD, &done)?;
    let running = profiler.recording(client.pid(), 99)?;
    std::fs::write(profiler.path("done.begin"), "")?;
    let mut calls = 0;
    let end_of_patience = Instant::now() + Duration::from_secs(120);
    while !done.exists() {
        ensure!(Instant::now() < end_of_patience, "the flood does not come to its end");
        client.call_often(10, 2, "echo", |_| json!({"text": "beside"}))?;
        calls += 10;
        std::thread::sleep(Duration::from_millis(5));
    }
    let report = end(&profiler, running)?;
    let losses = &report.json["losses"];
    assert!(losses["by_cause"]["wire_ring_full"].as_u64() > Some(0), "nothing was lost: {losses:#}");
    let all = &report.json["calls"];
    let echo = all["tools"].as_array().and_then(|tools| tools.iter().find(|entry| entry["tool"] == "echo"));
    let echo = echo.with_context(|| format!("no echo in {all:#}"))?;
    assert_eq!((&echo["count"], echo.get("unfinished")), (&json!(calls), None), "{echo:#} {losses:#}");
    Ok(())
}
