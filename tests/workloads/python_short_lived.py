"""Functions that are made, called once and thrown away: each has the place in memory of one before it."""


def burn_odd(rounds):
    value = 0
    for step in range(rounds):
        value += step & 3
    return value


def burn_even(rounds):
    value = 0
    for step in range(rounds):
        value += step & 3
    return value


SOURCE = """
def {name}_{number}(burn):
    return burn(300)
{name}_{number}(burn)
"""

print("ready", flush=True)
number = 0
while True:
    name, burn = ("odd", burn_odd) if number % 2 else ("even", burn_even)
    exec(SOURCE.format(name=name, number=number % 50), {"burn": burn})
    number += 1
