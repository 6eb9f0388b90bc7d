"""Children that live for a moment each, and are made by fork: they have the code of their parent."""

import os


def burn_in_child():
    value = 0
    for step in range(300_000):
        value += step & 3
    return value


print("ready", flush=True)
while True:
    child = os.fork()
    if child == 0:
        burn_in_child()
        os._exit(0)
    os.waitpid(child, 0)
