"""A known amount of work, for workloads to import."""


def burn(rounds):
    value = 0
    for step in range(rounds):
        value += step & 3
    return value
