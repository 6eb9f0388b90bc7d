"""Tasks that wait, in a process whose pages of asyncio's own texts were taken out of its memory."""

import asyncio
import ctypes
import re

from burning import burn

MADV_PAGEOUT = 21
libc = ctypes.CDLL(None, use_errno=True)


async def leaf():
    while True:
        burn(3000)
        await asyncio.sleep(0)


async def tool():
    await asyncio.gather(leaf(), leaf())


def page_out():
    with open("/proc/self/maps") as maps:
        lines = [line for line in maps if re.search(r" r--p .*/_asyncio\.", line)]
    for line in lines:
        start, end = (int(address, 16) for address in line.split()[0].split("-"))
        if libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), MADV_PAGEOUT) != 0:
            raise OSError(ctypes.get_errno(), "madvise")
    assert lines


async def main():
    task = asyncio.create_task(tool())
    await asyncio.sleep(0.5)
    page_out()
    print("ready", flush=True)
    await task


asyncio.run(main())
