"""Python functions called in every way that there is. Before it says `ready` it tells all chains of functions that can be seen, one a
line: outermost first, separated by tabs. Then it goes on until it is killed: in three threads, or in one if it is told
`alone`."""

import ctypes
import functools
import json
import re
import sys
import threading

chains = set()
random = 1


def name_of(code):
    return getattr(code, "co_qualname", code.co_name)


def note(frame, event, argument):
    """Called by the interpreter for each call and return."""
    names = []
    while frame is not None:
        names.append(name_of(frame.f_code))
        frame = frame.f_back
    names.reverse()
    for length in range(1, len(names) + 1):
        chains.add("\t".join(names[:length]))


def burn(rounds):
    value = 0
    for step in range(rounds):
        value += step & 3
    return value


def recurse(left):
    return recurse(left - 1) if left else burn(300)


def by_length(text):
    return burn(20) + len(text)


def run_sorted():
    return sorted(["one", "three", "seventeen", "four"], key=by_length)


def add(left, right):
    return left + right + burn(20)


def run_reduce():
    return functools.reduce(add, range(8))


@ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_int), ctypes.POINTER(ctypes.c_int))
def compare(left, right):
    return left[0] - right[0] + burn(10) * 0


libc = ctypes.CDLL(None)


def run_qsort():
    numbers = (ctypes.c_int * 8)(5, 3, 8, 1, 7, 2, 6, 4)
    libc.qsort(numbers, 8, ctypes.sizeof(ctypes.c_int), compare)
    return numbers[0]


def hook(pairs):
    burn(20)
    return dict(pairs)


def run_json():
    return json.loads('[{"a": 1}, {"b": {"c": 2}}]', object_hook=hook)


def replace(match):
    burn(20)
    return match.group().upper()


def run_re():
    return re.sub("[aeiou]", replace, "callbacks from C into Python")


class Shape:
    def __init__(self, size):
        self.size = burn(size)

    @property
    def area(self):
        return burn(20)

    @classmethod
    def small(cls):
        return cls(10)

    @staticmethod
    def unit():
        return burn(20)

    def __lt__(self, other):
        return burn(20) < 0

    class Inner:
        def method(self):
            return (lambda rounds: burn(rounds))(20)


def run_classes():
    shape = Shape.small()
    Shape(20)
    Shape.unit()
    shape < shape
    Shape.Inner().method()
    return shape.area


def numbers(count):
    for number in range(count):
        burn(10)
        yield number


def delegating(count):
    yield from numbers(count)


def run_generators():
    return sum(delegating(4)) + sum(burn(10) for _ in range(3)) + len([burn(10) for _ in range(3)])


def décorée(function):
    @functools.wraps(function)
    def wrapper(*arguments, **named):
        return function(*arguments, **named)

    return wrapper


@décorée
def wrapped():
    return burn(20)


source = """
def made(rounds):
    return burn(rounds)
made(20)
"""
program = compile(source, "<made>", "exec")
expression = compile("burn(10)", "<expression>", "eval")


def run_exec():
    exec(program, {"burn": burn})
    return eval(expression)


def raises(left):
    if left:
        return raises(left - 1)
    burn(10)
    raise ValueError(left)


def run_exceptions():
    try:
        raises(5)
    except ValueError:
        return burn(10)


def next_rounds():
    # Rounds of different lengths: none can beat in time with the sampling.
    global random
    random = (random * 1103515245 + 12345) & 0x7FFFFFFF
    return (random >> 8) % 2000


def once():
    burn(next_rounds())
    recurse(30)
    run_sorted()
    run_reduce()
    run_qsort()
    run_json()
    run_re()
    run_classes()
    run_generators()
    wrapped()
    run_exec()
    run_exceptions()


def forever():
    while True:
        once()


def learn(work):
    """The chains of one round, as the interpreter itself knows them."""
    sys.setprofile(note)
    work()
    sys.setprofile(None)


def in_thread():
    learn(once)
    learned.release()
    forever()


def main():
    global learned
    learned = threading.Semaphore(0)
    for _ in range(0 if sys.argv[1:] == ["alone"] else 2):
        threading.Thread(target=in_thread, daemon=True).start()
        learned.acquire()
    learn(once)
    # From the outside, `forever` stands where `learn` stood, or the work itself does.
    for chain in sorted(chains):
        print(chain.replace("\tlearn", "\tforever"))
    print("ready", flush=True)
    forever()


main()
