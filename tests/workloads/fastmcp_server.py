"""A server made with FastMCP, over HTTP on the port that is its argument. Its tools do what they are told."""

import asyncio
import sys

from fastmcp import FastMCP
from fastmcp.exceptions import ToolError

server = FastMCP("fastmcp")


@server.tool
def echo(text: str) -> str:
    return text


@server.tool
async def sleep(milliseconds: int) -> str:
    await asyncio.sleep(milliseconds / 1000)
    return "slept"


@server.tool
def refuse() -> str:
    raise ToolError("it was asked for")


server.run(transport="http", host="127.0.0.1", port=int(sys.argv[1]), show_banner=False)
