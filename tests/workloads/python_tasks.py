"""A tool that awaits other coroutines: a server's usual work."""

import asyncio

from burning import burn


async def query():
    burn(3000)
    await asyncio.sleep(0)
    burn(3000)


async def rows(count):
    for _ in range(count):
        await query()
        yield burn(1000)


async def tool():
    async for _ in rows(3):
        await asyncio.wait_for(asyncio.sleep(0), 10)


async def other():
    burn(6000)


async def main():
    print("ready", flush=True)
    while True:
        await asyncio.gather(asyncio.create_task(tool()), asyncio.create_task(other()))


asyncio.run(main())
