"""CPU time in the ratio 3:2:1, behind a recursion of 31 calls. What the functions do is done by the evaluation of bytecode itself.
At SIGTERM it prints the nanoseconds that each really took, and those of all since it was ready."""

import signal
import sys
from itertools import repeat
from time import thread_time_ns

spent = [0, 0, 0]


def three(units):
    one, other = 1, 2
    for _ in repeat(None, 3 * units):
        one, other = other, one; one, other = other, one; one, other = other, one; one, other = other, one
        one, other = other, one; one, other = other, one; one, other = other, one; one, other = other, one
    return one


def two(units):
    one, other = 1, 2
    for _ in repeat(None, 2 * units):
        one, other = other, one; one, other = other, one; one, other = other, one; one, other = other, one
        one, other = other, one; one, other = other, one; one, other = other, one; one, other = other, one
    return one


def one(units):
    one, other = 1, 2
    for _ in repeat(None, units):
        one, other = other, one; one, other = other, one; one, other = other, one; one, other = other, one
        one, other = other, one; one, other = other, one; one, other = other, one; one, other = other, one
    return one


def recurse(left, units):
    if left:
        return recurse(left - 1, units)
    started = thread_time_ns()
    three(units)
    after_three = thread_time_ns()
    two(units)
    after_two = thread_time_ns()
    one(units)
    spent[0] += after_three - started
    spent[1] += after_two - after_three
    spent[2] += thread_time_ns() - after_two


def stop(*_):
    print(*spent, thread_time_ns() - ready, flush=True)
    sys.exit()


signal.signal(signal.SIGTERM, stop)
ready = thread_time_ns()
print("ready", flush=True)
random = 1
while True:
    # Rounds of different lengths: none can beat in time with the sampling. A unit of 6,000 made rounds of 1.8 ms, and shares
    # of 0.523 instead of 0.5.
    random = (random * 1103515245 + 12345) & 0x7FFFFFFF
    recurse(30, 2000 + (random >> 8) % 8000)
