// 3 parts of CPU time before an exception is thrown, 2 in the handler that catches it, 1 in a destructor that runs while
// the stack of 31 `recurse` is unwound.
#include <cstdio>
#include <stdexcept>
#include "work.h"

#define KEPT NOINLINE __attribute__((noclone))

KEPT void three(unsigned long units) { WORK(3 * units); }
KEPT void two(unsigned long units) { WORK(2 * units); }
KEPT void one(unsigned long units) { WORK(units); }

static volatile bool always = true;

struct Guard {
    unsigned long units;
    ~Guard() { one(units); }
};

KEPT void fail(unsigned long units) {
    Guard guard{units};
    three(units);
    if (always) throw std::runtime_error("on purpose");
}

KEPT void recurse(int left, unsigned long units) {
    if (left > 0) {
        recurse(left - 1, units);
        __asm__ volatile("");
    } else {
        fail(units);
        __asm__ volatile("");
    }
}

KEPT void attempt(unsigned long units) {
    try {
        recurse(30, units);
    } catch (const std::exception &error) {
        two(units);
        __asm__ volatile("" : : "r"(error.what()));
    }
}

int main() {
    unsigned long random = 1;
    std::puts("ready");
    std::fflush(stdout);
    for (;;) {
        random = random * 6364136223846793005UL + 1442695040888963407UL;
        attempt(MILLISECOND / 2 + (random >> 33) % (4 * MILLISECOND));
    }
}
