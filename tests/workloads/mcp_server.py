"""An MCP server by hand, one JSON-RPC message a line. Its tools do what they are told, for as long as they are told."""

import json
import sys
import threading
import time

output = threading.Lock()


def burn(milliseconds):
    """On a CPU for so long, by this thread's own clock: for how many nanoseconds it was."""
    start = time.thread_time_ns()
    while time.thread_time_ns() - start < milliseconds * 1_000_000:
        pass
    return str(time.thread_time_ns() - start)


def sleep(milliseconds):
    time.sleep(milliseconds / 1000)
    return "0"


def mixed(milliseconds):
    burned = burn(milliseconds / 2)
    sleep(milliseconds / 2)
    return burned


def large(size):
    return "x" * size


def hostile(size):
    """Lines that nobody should read: one without end, brackets only, no text, a message that is too long."""
    with output:
        part = b"x" * (1 << 20)
        for start, end in [(b'{"jsonrpc": "2.0", "result": "', b'"}\n'), (b"[" * 4096, b"\n"), (b"\xff\xfe{", b"\n")]:
            sys.stdout.buffer.write(start)
            for _ in range(size // 3 // len(part)):
                sys.stdout.buffer.write(part if start[0] == 0x7B else start[:1] * len(part))
            sys.stdout.buffer.write(end)
        sys.stdout.buffer.flush()


class Failure(Exception):
    """A JSON-RPC error."""


def write(message):
    with output:
        sys.stdout.write(message if isinstance(message, str) else json.dumps(message))
        sys.stdout.write("\n")
        sys.stdout.flush()


def run(tool, arguments):
    match tool:
        case "burn":
            return burn(arguments["milliseconds"])
        case "sleep":
            return sleep(arguments["milliseconds"])
        case "mixed":
            return mixed(arguments["milliseconds"])
        case "large":
            return large(arguments["size"])
        case "echo" | "ask":
            return arguments["text"]
        case "hostile":
            hostile(arguments["size"])
            return "done"
        case "fail":
            raise Failure(arguments["code"])
        case "chatter":
            write("listening on [::]:1234")
            write('{"level": "info", "message": "a log line"}')
            return "said"
    raise ValueError(tool)


def answer(message):
    try:
        tool = message["params"]["name"]
        if tool == "silent":
            return
        if tool == "ask" and "inputResponses" not in message["params"]:
            # As revision 2026-07-28 has it: the client comes again, under another ID, with this state.
            state = json.dumps(message["params"]["arguments"])
            result = {"resultType": "input_required", "requestState": state, "inputRequests": {"name": {}}}
            write({"result": result, "jsonrpc": "2.0", "id": message["id"]})
            return
        text = run(tool, message["params"].get("arguments", {}))
        result = {"content": [{"type": "text", "text": text}]}
    except Failure as failure:
        error = {"code": failure.args[0], "message": "it was asked for"}
        write({"jsonrpc": "2.0", "id": message["id"], "error": error})
        return
    except ValueError as error:
        result = {"content": [{"type": "text", "text": f"no tool {error}"}], "isError": True}
    # The ID stands last, as some servers have it.
    write({"result": result, "jsonrpc": "2.0", "id": message["id"]})


def initialized(message):
    result = {"protocolVersion": "2025-06-18", "capabilities": {"tools": {}}, "serverInfo": {"name": "by hand"}}
    write({"jsonrpc": "2.0", "id": message["id"], "result": result})


def answer_batch(batch):
    """As revision 2025-03-26 has it. The last is answered first."""
    answers = []
    for message in reversed(batch):
        result = {"content": [{"type": "text", "text": run(message["params"]["name"], message["params"]["arguments"])}]}
        answers.append({"jsonrpc": "2.0", "id": message["id"], "result": result})
    write(json.dumps(answers))


def main():
    for line in sys.stdin:
        message = json.loads(line)
        if isinstance(message, list):
            answer_batch(message)
        elif message.get("method") == "initialize":
            initialized(message)
        elif message.get("method") == "tools/call":
            if message["params"].get("name") in ("sleep", "mixed"):
                threading.Thread(target=answer, args=(message,), daemon=True).start()
            else:
                answer(message)


if __name__ == "__main__":
    main()
