"""Exceptions that are thrown into coroutines and generators which await others."""

import asyncio

from burning import burn


async def cleanup():
    burn(4000)


async def inner():
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        burn(4000)
        await cleanup()
        raise


async def middle():
    await inner()


async def asynchronous():
    try:
        yield 1
    except ValueError:
        burn(4000)
        yield 2


def generator():
    try:
        yield 1
    except ValueError:
        burn(4000)
        yield 2


def delegating():
    yield from generator()


async def cancelled_tool():
    task = asyncio.ensure_future(middle())
    await asyncio.sleep(0)
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        pass
    a = asynchronous()
    await a.__anext__()
    await a.athrow(ValueError())
    b = delegating()
    next(b)
    b.throw(ValueError())


async def main():
    print("ready", flush=True)
    while True:
        await cancelled_tool()


asyncio.run(main())
