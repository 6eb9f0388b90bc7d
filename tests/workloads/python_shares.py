"""CPU time in the ratio 3:2:1, behind a recursion of 31 calls."""

UNIT = 6000


def three():
    value = 0
    for step in range(3 * UNIT):
        value ^= step
    return value


def two():
    value = 0
    for step in range(2 * UNIT):
        value ^= step
    return value


def one():
    value = 0
    for step in range(UNIT):
        value ^= step
    return value


def recurse(left):
    if left:
        return recurse(left - 1)
    return three() + two() + one()


print("ready", flush=True)
while True:
    recurse(30)
