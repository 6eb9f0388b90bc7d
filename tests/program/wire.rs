//! The wire where it is not plain: what waits before it is read, what is encrypted, and what can't be seen.

use std::io::{BufRead as _, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tests::{
    HttpClient, Process, Profiler, Report, Running, node_program, python, python_program, require, script,
    tool_call,
};

/// Most calls before the ones that count. Clients are looked for at their first message, and two looks at what waits must agree,
/// some tenths of a second later, and later on a busy machine.
const MOST_CALLS_BEFORE: u64 = 600;
const BETWEEN: Duration = Duration::from_millis(75);

pub(super) fn end(profiler: &Profiler, running: Running) -> Result<Report> {
    running.signal(Signal::SIGINT)?;
    let outcome = running.finish()?;
    outcome.assert_clean();
    ensure!(outcome.code == Some(0), "{outcome:#?}");
    profiler.report("recording.mcpprof")
}

fn milliseconds(call: &Value, name: &str) -> Result<f64> {
    call[name].as_f64().with_context(|| format!("no {name} in {call:#}"))
}

/// A server that is busy, with more requests than it can take: each waits since its client wrote it, as the client itself
/// knows. `send` writes a message, `receive` waits for an answer; `prepare` is run before, while it records, and says how many
/// calls it makes.
fn requests_wait(
    pid: u32,
    prepare: impl FnOnce() -> Result<u64>,
    mut send: impl FnMut(&Value) -> Result<()>,
    mut receive: impl FnMut() -> Result<()>,
) -> Result<()> {
    let profiler = Profiler::new()?;
    let running = profiler.recording(pid, 99)?;
    let before = prepare()?;
    let echo = |id: u64| tool_call(&json!(id), "echo", &json!({"text": "x"}));
    let is_known = || {
        let calls = profiler.calls(&["--in-order"]).ok()?;
        calls.last()?.get("queue_ms").map(drop)
    };
    let mut calls_before = 0;
    while calls_before < MOST_CALLS_BEFORE && (calls_before % 20 != 19 || is_known().is_none()) {
        send(&echo(calls_before))?;
        receive()?;
        calls_before += 1;
        std::thread::sleep(BETWEEN);
    }
    // When each of the others was written, at the earliest and at the latest.
    let mut written: Vec<(Instant, Instant)> = Vec::new();
    for id in calls_before..calls_before + 4 {
        let before = Instant::now();
        send(&if id == calls_before {
            tool_call(&json!(id), "burn", &json!({"milliseconds": 600}))
        } else {
            echo(id)
        })?;
        written.push((before, Instant::now()));
        std::thread::sleep(BETWEEN);
    }
    (0..4).try_for_each(|_| receive())?;
    let report = end(&profiler, running)?;
    let calls = profiler.calls(&["--in-order"])?;
    ensure!(calls.len() as u64 >= before + calls_before + 4, "{} calls", calls.len());
    let last = calls.len().checked_sub(4).context("too few calls")?;
    let ours: Vec<f64> = calls[last..]
        .iter()
        .map(|call| {
            Ok(call["start_seconds"].as_f64().context("start")? * 1e3 - milliseconds(call, "queue_ms")?)
        })
        .collect::<Result<_>>()?;
    let of_client = |span: Duration| span.as_secs_f64() * 1e3;
    for (ours_ms, (before, after)) in ours.iter().zip(&written).skip(1) {
        let since_first_ms = ours_ms - ours[0];
        let (least, most) = (of_client(*before - written[0].1), of_client(*after - written[0].0));
        assert!(
            (least - 0.1..most + 0.1).contains(&since_first_ms),
            "{since_first_ms} is not {least}..{most} ms"
        );
    }
    // It had read the first one long before the last one came, or it waits with it.
    let queued = milliseconds(&calls[last + 1], "queue_ms")?;
    let tools = report.json["calls"]["tools"].as_array().context("no tools")?;
    let echo = tools.iter().find(|tool| tool["tool"] == "echo").context("no echo")?;
    let most = echo["queue_ms"]["max"].as_f64().context("queue_ms")?;
    assert!(most >= queued && queued >= 0.0, "{echo:#}");
    let number = calls[last + 1]["call"].to_string();
    let trace = profiler.succeed(&["trace", &number, "recording.mcpprof"])?.stdout;
    assert!(trace.contains("since its client wrote it"), "{trace}");
    Ok(())
}

pub(super) fn lines<W: Write, R: Read>(
    mut to: W,
    from: R,
) -> (impl FnMut(&Value) -> Result<()>, impl FnMut() -> Result<()>) {
    let mut from = BufReader::new(from);
    let send = move |message: &Value| Ok(to.write_all(format!("{message}\n").as_bytes())?);
    let receive = move || {
        ensure!(from.read_line(&mut String::new())? > 0, "the server ended");
        Ok(())
    };
    (send, receive)
}

/// A server's standard streams, which are pipes.
pub(super) fn pipes(server: &mut Process) -> Result<(ChildStdin, ChildStdout)> {
    let stdin = server.child().stdin.take().context("stdin is a pipe")?;
    let stdout = server.child().stdout.take().context("stdout is a pipe")?;
    Ok((stdin, stdout))
}

/// Pipes have one inode for both ends.
#[test]
fn queue_of_a_pipe() -> Result<()> {
    let mut command = Command::new(python_program()?);
    let mut server = Process::start(
        command
            .arg(script("mcp_server.py"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null()),
    )?;
    let (stdin, stdout) = pipes(&mut server)?;
    let (send, receive) = lines(stdin, stdout);
    requests_wait(server.pid(), || Ok(0), send, receive)
}

/// Clients in Node connect their servers by Unix sockets, whose ends have an inode each.
#[test]
fn queue_of_a_unix_socket() -> Result<()> {
    let (own, theirs) = UnixStream::pair()?;
    let mut command = Command::new(python_program()?);
    let server = Process::start(
        command
            .arg(script("mcp_server.py"))
            .stdin(Stdio::from(OwnedFd::from(theirs.try_clone()?)))
            .stdout(Stdio::from(OwnedFd::from(theirs)))
            .stderr(Stdio::null()),
    )?;
    drop(command);
    let (send, receive) = lines(own.try_clone()?, own);
    requests_wait(server.pid(), || Ok(0), send, receive)
}

/// A server that tells its port on standard output.
struct Server {
    process: Process,
    port: u16,
}

impl Server {
    fn start(command: &mut Command) -> Result<Self> {
        let mut process = Process::start(command.stdin(Stdio::null()).stdout(Stdio::piped()))?;
        let stdout = process.child().stdout.take().context("stdout is a pipe")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        Ok(Self { process, port: line.trim().parse().context("no port")? })
    }
}

/// Of a TCP connection within this host, both ends are known by their addresses.
#[test]
fn queue_of_a_connection() -> Result<()> {
    let server = Server::start(Command::new(python_program()?).arg(script("mcp_http.py")))?;
    let client = std::cell::RefCell::new(HttpClient::connect(server.port)?);
    requests_wait(
        server.process.pid(),
        || Ok(0),
        |message| client.borrow_mut().send(message),
        || client.borrow_mut().response().map(drop),
    )
}

/// A server that closes each connection by itself tells nobody, thousands of times: the next one's client is still found.
#[test]
fn queue_after_many_connections() -> Result<()> {
    const CONNECTIONS: u64 = 5000;
    let server = Server::start(Command::new(python_program()?).arg(script("mcp_http.py")))?;
    let client = std::cell::OnceCell::new();
    let one = |id: u64| -> Result<()> {
        let body = tool_call(&json!(id), "echo", &json!({"text": "x"})).to_string();
        let length = body.len();
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", server.port))?;
        let head = format!(
            "POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n\
             Content-Length: {length}\r\n\r\n"
        );
        stream.write_all(format!("{head}{body}").as_bytes())?;
        let mut response = String::new();
        stream.read_to_string(&mut response)?;
        ensure!(response.starts_with("HTTP/1.1 200"), "{response}");
        Ok(())
    };
    let prepare = || {
        (0..CONNECTIONS).try_for_each(one)?;
        let connected = HttpClient::connect(server.port)?;
        client.get_or_init(|| std::cell::RefCell::new(connected));
        Ok(CONNECTIONS)
    };
    let connected = || client.get().context("prepared");
    requests_wait(
        server.process.pid(),
        prepare,
        |message| connected()?.borrow_mut().send(message),
        || connected()?.borrow_mut().response().map(drop),
    )
}

/// A certificate that nobody has to trust, and its key.
fn certificate(profiler: &Profiler) -> Result<[PathBuf; 2]> {
    let files = [profiler.path("certificate.pem"), profiler.path("key.pem")];
    let mut command = Command::new(require("openssl", "openssl")?);
    command.args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost"]);
    command.arg("-out").arg(&files[0]).arg("-keyout").arg(&files[1]);
    ensure!(command.stderr(Stdio::null()).status()?.success(), "openssl made no certificate");
    Ok(files)
}

/// What goes through OpenSSL within the server is seen in plain, with its lengths; the encrypted stream is not counted.
fn calls_over_tls(mut command: Command) -> Result<()> {
    const CALLS: u64 = 100;
    let profiler = Profiler::new()?;
    let server = Server::start(command.args(certificate(&profiler)?))?;
    let running = profiler.recording(server.process.pid(), 99)?;
    let mut client = Command::new(python_program()?);
    client.arg(script("https_client.py")).args([server.port.to_string(), CALLS.to_string()]);
    ensure!(client.status()?.success(), "the client failed");
    let report = end(&profiler, running)?;
    let calls = &report.json["calls"];
    assert_eq!((&calls["total"], &calls["errors"]), (&json!(CALLS), &json!(0)), "{calls:#}");
    assert_eq!(calls["tools"][0]["tool"], "echo", "{calls:#}");
    assert_eq!(calls["tools"][0].get("unfinished"), None, "{calls:#}");
    assert_eq!(calls["messages"].get("encrypted_streams"), None, "{calls:#}");
    let bytes = calls["tools"][0]["response_bytes"].as_u64().context("response_bytes")?;
    assert!((500_000..520_000).contains(&bytes), "{bytes} bytes");
    assert_eq!(report.json["losses"]["by_cause"].get("tls_unread"), None, "{:#}", report.json["losses"]);
    Ok(())
}

/// Python calls libssl, by `SSL_read_ex` and `SSL_write_ex`.
#[test]
fn python_over_tls() -> Result<()> {
    let mut command = Command::new(python_program()?);
    command.arg(script("mcp_http.py"));
    calls_over_tls(command)
}

/// Node has OpenSSL built in, and calls `SSL_read` and `SSL_write`.
#[test]
fn node_over_tls() -> Result<()> {
    let mut command = Command::new(node_program()?);
    command.arg(script("mcp_https.mjs"));
    calls_over_tls(command)
}

/// A server that encrypts by other means can't be read: the report says so.
#[test]
fn encrypted_by_others() -> Result<()> {
    let source = "
import socket
server = socket.create_server(('127.0.0.1', 0))
print(server.getsockname()[1], flush=True)
while True:
    connection, _ = server.accept()
    while connection.recv(1000):
        connection.send(bytes([23, 3, 3, 0, 1, 0]))
";
    let server = Server::start(&mut python(source)?)?;
    let profiler = Profiler::new()?;
    let running = profiler.recording(server.process.pid(), 99)?;
    for _ in 0..3 {
        let mut client = std::net::TcpStream::connect(("127.0.0.1", server.port))?;
        // The start of a ClientHello.
        client.write_all(&[22, 3, 1, 2, 0, 1, 0])?;
        client.read_exact(&mut [0; 6])?;
    }
    let report = end(&profiler, running)?;
    assert_eq!(report.json["calls"]["messages"]["encrypted_streams"], 3, "{:#}", report.json["calls"]);
    let text = profiler.succeed(&["report", "recording.mcpprof"])?.stdout;
    assert!(text.contains("3 encrypted streams"), "{text}");
    Ok(())
}

/// A server that moves a message where nobody looks: it is said, and what is seen is right.
#[test]
fn unseen_ways() -> Result<()> {
    let source = "
import json, os, tempfile
for line in iter(lambda: os.read(0, 65536), b''):
    message = json.loads(line)
    tool = message['params']['name']
    answer = {'jsonrpc': '2.0', 'id': message['id'], 'result': {}}
    os.write(1, json.dumps(answer).encode() + b'\\n')
    if tool == 'splice':
        file = tempfile.TemporaryFile()
        os.splice(0, file.fileno(), 65536)
        file.seek(0)
        message = json.load(file)
        answer['id'] = message['id']
        os.write(1, json.dumps(answer).encode() + b'\\n')
";
    let mut server = Process::start(python(source)?.stdin(Stdio::piped()).stdout(Stdio::piped()))?;
    let (stdin, stdout) = pipes(&mut server)?;
    let (mut send, mut receive) = lines(stdin, stdout);
    let profiler = Profiler::new()?;
    let running = profiler.recording(server.pid(), 99)?;
    for (id, tool) in ["plain", "splice", "unseen", "plain"].iter().enumerate() {
        send(&tool_call(&json!(id), tool, &json!({})))?;
        receive()?;
    }
    let report = end(&profiler, running)?;
    let calls = &report.json["calls"];
    assert_eq!(report.json["losses"]["by_cause"]["wire_unseen"], 1, "{:#}", report.json["losses"]);
    assert_eq!(calls["incomplete"], true, "{calls:#}");
    let tools: Vec<Value> =
        profiler.calls(&["--in-order"])?.iter().map(|call| call["tool"].clone()).collect();
    assert_eq!(tools, ["plain", "splice", "plain"], "{calls:#}");
    Ok(())
}

/// A server that writes several answers at once, longer together than what is usually taken whole: once that was seen, all of them are
/// read.
#[test]
fn answers_in_one_write() -> Result<()> {
    const MOST_ROUNDS: usize = 60;
    let source = "
import json, os, sys
for first in iter(sys.stdin.readline, ''):
    asked = [json.loads(line) for line in [first] + [sys.stdin.readline() for _ in range(3)]]
    answer = lambda message: {'result': {'text': 'x' * 20000}, 'jsonrpc': '2.0', 'id': message['id']}
    answers = b''.join(json.dumps(answer(message)).encode() + b'\\n' for message in asked)
    while answers:
        answers = answers[os.write(1, answers):]
";
    let mut server = Process::start(python(source)?.stdin(Stdio::piped()).stdout(Stdio::piped()))?;
    let (stdin, stdout) = pipes(&mut server)?;
    let (mut send, mut receive) = lines(stdin, stdout);
    let profiler = Profiler::new()?;
    let running = profiler.recording(server.pid(), 99)?;
    let outcomes = || -> Result<Vec<Value>> {
        Ok(profiler.calls(&["--in-order"])?.iter().map(|call| call["outcome"].clone()).collect())
    };
    let is_read = |outcomes: &[Value]| outcomes.chunks_exact(4).last().is_some_and(|last| last == ["ok"; 4]);
    let mut rounds = 0;
    while rounds < MOST_ROUNDS && !outcomes().is_ok_and(|outcomes| is_read(&outcomes)) {
        (0..4).try_for_each(|id| send(&tool_call(&json!(4 * rounds + id), "joined", &json!({}))))?;
        (0..4).try_for_each(|_| receive())?;
        rounds += 1;
        std::thread::sleep(Duration::from_millis(500));
    }
    let report = end(&profiler, running)?;
    let outcomes = outcomes()?;
    assert_eq!(outcomes.len(), 4 * rounds, "{:#}", report.json["calls"]);
    assert!(is_read(&outcomes), "{outcomes:?}");
    Ok(())
}

/// A server on a socket that reads and writes by every system call that there is for it, into and from several buffers: each of them is seen,
/// whole, and with all its bytes.
#[test]
fn every_way_to_read_and_write() -> Result<()> {
    const CALLS: usize = 20;
    const WAYS: [&str; 4] = ["read", "readv", "recv", "recvmsg"];
    let source = "
import json, os, socket
peer = socket.socket(fileno=0)

def scattered(read):
    first, second = bytearray(7), bytearray(1 << 16)
    length = read([first, second])
    return bytes(first + second)[:length]

reads = [
    lambda: os.read(0, 1 << 16),
    lambda: scattered(lambda buffers: os.readv(0, buffers)),
    lambda: peer.recv(1 << 16),
    lambda: scattered(lambda buffers: peer.recvmsg_into(buffers)[0]),
]
parts = lambda text: [text[:5], text[5:20], text[20:]]
writes = [
    lambda text: os.write(1, text),
    lambda text: os.writev(1, parts(text)),
    lambda text: peer.send(text),
    lambda text: peer.sendmsg(parts(text)),
]
way = 0
while True:
    request = b''
    while not request.endswith(b'\\n'):
        request += reads[way]()
    message = json.loads(request)
    way = message['params']['arguments']['way']
    answer = {'jsonrpc': '2.0', 'id': message['id'], 'result': {'text': 'x' * 300}}
    assert writes[way](json.dumps(answer).encode() + b'\\n') > 300
";
    let (own, theirs) = UnixStream::pair()?;
    let mut command = python(source)?;
    let server = Process::start(
        command
            .stdin(Stdio::from(OwnedFd::from(theirs.try_clone()?)))
            .stdout(Stdio::from(OwnedFd::from(theirs))),
    )?;
    drop(command);
    let mut from = BufReader::new(own.try_clone()?);
    let mut to = own;
    let profiler = Profiler::new()?;
    let running = profiler.recording(server.pid(), 99)?;
    let mut bytes = Vec::new();
    for id in 0..CALLS {
        // It answers in the way that it is told, and reads the next one so.
        let way = id % WAYS.len();
        let request = format!("{}\n", tool_call(&json!(id), WAYS[way], &json!({"way": way})));
        to.write_all(request.as_bytes())?;
        let mut answer = String::new();
        ensure!(from.read_line(&mut answer)? > 0, "the server ended");
        // Line ends are of no message.
        bytes.push((WAYS[way].to_owned(), request.trim_end().len() as u64, answer.trim_end().len() as u64));
    }
    let report = end(&profiler, running)?;
    let calls = profiler.calls(&["--in-order", "--outcome", "ok"])?;
    let seen: Vec<(String, u64, u64)> = calls
        .iter()
        .map(|call| {
            let text = call["tool"].as_str().unwrap_or_default().to_owned();
            let length = |name: &str| call[name].as_u64().unwrap_or_default();
            (text, length("request_bytes"), length("response_bytes"))
        })
        .collect();
    assert_eq!(seen, bytes, "{:#}", report.json["calls"]);
    Ok(())
}

/// A server that reads without system calls: the report says that nothing can be seen of it, found before or while it records.
#[test]
fn io_urings() -> Result<()> {
    let source = "
import ctypes, os
ring = lambda: ctypes.CDLL(None).syscall(425, 8, ctypes.create_string_buffer(120))
assert BEFORE or os.read(0, 1)
assert ring() >= 0
os.write(1, b'.')
os.read(0, 1)
";
    for is_before in [true, false] {
        let source = source.replace("BEFORE", if is_before { "True" } else { "False" });
        let mut server = Process::start(python(&source)?.stdin(Stdio::piped()).stdout(Stdio::piped()))?;
        let mut stdin = server.child().stdin.take().context("stdin is a pipe")?;
        let mut stdout = server.child().stdout.take().context("stdout is a pipe")?;
        let mut made = || stdout.read_exact(&mut [0]);
        if is_before {
            made()?;
        }
        let profiler = Profiler::new()?;
        let running = profiler.recording(server.pid(), 99)?;
        if !is_before {
            stdin.write_all(b".")?;
            made()?;
        }
        let report = end(&profiler, running)?;
        assert_eq!(report.json["calls"]["messages"]["io_uring_processes"], 1, "{:#}", report.json["calls"]);
        let text = profiler.succeed(&["report", "recording.mcpprof"])?.stdout;
        assert!(text.contains("1 process has an io_uring"), "{text}");
    }
    Ok(())
}
