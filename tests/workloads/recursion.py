"""21 frames of `recurse`, and from the innermost one all CPU time in `spin`."""

DEPTH = 20


def spin():
    total = 0
    for number in range(20_000):
        total += number * number
    return total


def recurse(left):
    return recurse(left - 1) if left else spin()


print("ready", flush=True)
while True:
    recurse(DEPTH)
