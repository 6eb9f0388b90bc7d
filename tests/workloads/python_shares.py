"""CPU time in the ratio 3:2:1, behind a recursion of 31 calls."""

def three(units):
    value = 0
    for step in range(3 * units):
        value ^= step
    return value


def two(units):
    value = 0
    for step in range(2 * units):
        value ^= step
    return value


def one(units):
    value = 0
    for step in range(units):
        value ^= step
    return value


def recurse(left, units):
    if left:
        return recurse(left - 1, units)
    return three(units) + two(units) + one(units)


print("ready", flush=True)
random = 1
while True:
    # Rounds of different lengths: none can beat in time with the sampling. A unit of 6,000 made rounds of 1.8 ms, and shares
    # of 0.523 instead of 0.5.
    random = (random * 1103515245 + 12345) & 0x7FFFFFFF
    recurse(30, 2000 + (random >> 8) % 8000)
