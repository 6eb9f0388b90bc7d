"""An MCP server by hand that does one thing at a time: a thread reads requests, another one answers them in that order.

Its tools are slow, or fail, for reasons that they are told."""

import json
import queue
import sys
import threading
import time


def usual(milliseconds):
    burn(milliseconds)


def rare(milliseconds):
    burn(milliseconds)


def explain(milliseconds):
    burn(milliseconds)


def burn(milliseconds):
    """On a CPU for so long, by this thread's own clock."""
    end = time.thread_time() + milliseconds / 1000
    while time.thread_time() < end:
        pass


class Failure(Exception):
    """A JSON-RPC error."""


def run(arguments):
    usual(arguments.get("usual", 0))
    rare(arguments.get("rare", 0))
    time.sleep(arguments.get("sleep", 0) / 1000)
    if "fail" in arguments:
        explain(arguments.get("explain", 0))
        raise Failure(arguments["fail"], arguments["message"])
    if "message" in arguments:
        raise ValueError(arguments["message"])
    return arguments.get("text", "done")


def answer(message):
    if message.get("method") == "initialize":
        capabilities = {"tools": {}}
        return {"result": {"protocolVersion": "2025-06-18", "capabilities": capabilities, "serverInfo": {"name": "slow"}}}
    try:
        text, is_error = run(message["params"].get("arguments", {})), False
    except Failure as failure:
        return {"error": {"code": failure.args[0], "message": failure.args[1]}}
    except ValueError as error:
        text, is_error = str(error), True
    return {"result": {"content": [{"type": "text", "text": text}], "isError": is_error}}


def serve():
    while message := requests.get():
        if "id" in message:
            response = {"jsonrpc": "2.0", "id": message["id"], **answer(message)}
            sys.stdout.write(json.dumps(response) + "\n")
            sys.stdout.flush()


requests = queue.Queue()
threading.Thread(target=serve, daemon=True).start()
for line in sys.stdin:
    requests.put(json.loads(line))
