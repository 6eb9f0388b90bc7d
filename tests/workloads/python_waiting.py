"""Tools that wait for tasks of their own, in each way that asyncio has. All run at the same time."""

import asyncio
import sys

from burning import burn

# The anyio that the tests have needs it.
HAS_ANYIO = sys.version_info >= (3, 10)
if HAS_ANYIO:
    import anyio


async def work():
    burn(3000)
    await asyncio.sleep(0)
    burn(3000)
    await asyncio.sleep(0.0001)
    burn(3000)


async def leaf_gather():
    await work()


async def tool_gather():
    await asyncio.gather(leaf_gather(), leaf_gather())


async def leaf_task():
    await work()


async def tool_task():
    task = asyncio.create_task(leaf_task())
    await task


async def leaf_wait_for():
    await work()


async def tool_wait_for():
    await asyncio.wait_for(asyncio.create_task(leaf_wait_for()), 60)


async def leaf_limited():
    await work()


async def tool_limited():
    await asyncio.wait_for(leaf_limited(), 60)


async def leaf_wait():
    await work()


async def tool_wait():
    await asyncio.wait([asyncio.create_task(leaf_wait()) for _ in range(2)])


async def leaf_shield():
    await work()


async def tool_shield():
    await asyncio.shield(leaf_shield())


async def leaf_nested():
    await work()


async def middle(leaf):
    await asyncio.create_task(leaf())


async def tool_nested():
    await asyncio.gather(middle(leaf_nested), middle(leaf_nested))


async def leaf_other():
    await work()


async def generated(leaf):
    await middle(leaf)
    yield


async def tool_other():
    async for _ in generated(leaf_other):
        pass


async def leaf_group():
    await work()


async def tool_group():
    async with asyncio.TaskGroup() as group:
        group.create_task(leaf_group())
        group.create_task(leaf_group())


async def leaf_anyio():
    await work()


async def tool_anyio():
    async with anyio.create_task_group() as group:
        group.start_soon(leaf_anyio)
        group.start_soon(leaf_anyio)


async def leaf_started(*, task_status):
    await work()
    task_status.started()
    await work()


async def tool_started():
    async with anyio.create_task_group() as group:
        await group.start(leaf_started)


async def leaf_deep(depth=12):
    await (leaf_deep(depth - 1) if depth else work())


async def tool_deep():
    async with anyio.create_task_group() as group:
        group.start_soon(middle, leaf_deep)


async def leaf_forgotten():
    await work()


forgotten = set()


async def tool_forgetting():
    task = asyncio.create_task(leaf_forgotten())
    forgotten.add(task)
    task.add_done_callback(forgotten.discard)


class Worker:
    def stop(self, task):
        pass


async def main():
    # anyio has one of these for each of its worker threads.
    for _ in range(20):
        asyncio.current_task().add_done_callback(Worker().stop)
    tools = [tool_gather, tool_task, tool_wait_for, tool_limited, tool_wait, tool_shield, tool_nested, tool_other]
    if hasattr(asyncio, "TaskGroup"):
        tools.append(tool_group)
    if HAS_ANYIO:
        tools += [tool_anyio, tool_started, tool_deep]
    tools.append(tool_forgetting)
    for tool in tools:
        print(tool.__name__)
    print("ready", flush=True)
    while True:
        await asyncio.gather(*(tool() for tool in tools))


asyncio.run(main())
