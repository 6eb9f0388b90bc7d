"""C and Python by turns: `map` calls `level`, which runs the next `map`. Below the last one are 8 frames of `recurse`, and
from the innermost one all CPU time in `spin`. On CPython 3.11 that makes 40 frames, 15 of them Python's."""

LEVELS = 4
DEPTH = 7


def spin():
    total = 0
    for number in range(20_000):
        total += number * number
    return total


def recurse(left):
    return recurse(left - 1) if left else spin()


def level(left):
    return list(map(level, [left - 1])) if left else recurse(DEPTH)


print("ready", flush=True)
while True:
    level(LEVELS)
