"""The tools of mcp_server.py as coroutines of one event loop: whoever burns keeps all others waiting."""

import asyncio
import json
import sys

import mcp_server


async def burn(milliseconds):
    return mcp_server.burn(milliseconds)


async def sleep(milliseconds):
    await asyncio.sleep(milliseconds / 1000)
    return "0"


async def mixed(milliseconds):
    burned = await burn(milliseconds / 2)
    await sleep(milliseconds / 2)
    return burned


async def answer(message):
    tool = {"burn": burn, "sleep": sleep, "mixed": mixed}[message["params"]["name"]]
    text = await tool(**message["params"]["arguments"])
    result = {"content": [{"type": "text", "text": text}]}
    mcp_server.write({"jsonrpc": "2.0", "id": message["id"], "result": result})


async def main():
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    tasks = set()
    while line := await reader.readline():
        message = json.loads(line)
        if message.get("method") == "initialize":
            mcp_server.initialized(message)
        elif message.get("method") == "tools/call":
            task = asyncio.create_task(answer(message))
            tasks.add(task)
            task.add_done_callback(tasks.discard)


asyncio.run(main())
