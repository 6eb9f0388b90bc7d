"""Tasks that it takes long to find the waiters of: one runs behind many other coroutines, one is waited for by the last of many."""

import asyncio

from burning import burn


async def leaf_nested(depth=40):
    if depth:
        try:
            leaf_nested(depth - 1).send(None)
        except StopIteration:
            pass
    else:
        burn(30000)


async def tool_nested():
    await asyncio.create_task(leaf_nested())


async def leaf_crowded(start):
    await start.wait()
    burn(30000)


async def tool_crowded():
    start = asyncio.Event()
    task = asyncio.create_task(leaf_crowded(start))
    others = [asyncio.create_task(asyncio.wait([task])) for _ in range(100)]
    await asyncio.sleep(0)
    for other in others:
        other.cancel()
    await asyncio.wait(others)
    start.set()
    await asyncio.wait([task])


async def main():
    print("ready", flush=True)
    while True:
        await tool_nested()
        await tool_crowded()


asyncio.run(main())
