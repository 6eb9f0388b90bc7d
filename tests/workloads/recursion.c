/* 31 frames of `recurse`, and from the innermost one 3 parts of CPU time in `three` and 1 part in `one`. `aligned` below
   them takes stack in a size that is not known beforehand, aligned: its frame is described by a DWARF expression. */
#include <alloca.h>
#include <stdio.h>
#include "work.h"

#ifndef DEPTH
#define DEPTH 30
#endif

static volatile unsigned long size = 100;

NOINLINE __attribute__((noclone)) void three(unsigned long units) { WORK(3 * units); }
NOINLINE __attribute__((noclone)) void one(unsigned long units) { WORK(units); }

NOINLINE __attribute__((noclone)) void recurse(int left, unsigned long units) {
    if (left > 0) {
        recurse(left - 1, units);
    } else {
        three(units);
        one(units);
    }
}

NOINLINE __attribute__((noclone)) void aligned(unsigned long units) {
    _Alignas(64) char fixed[64];
    char *variable = alloca(size);
    __asm__ volatile("" : : "r"(fixed), "r"(variable) : "memory");
    recurse(DEPTH, units);
    __asm__ volatile("" : : "r"(fixed), "r"(variable) : "memory");
}

int main(void) {
    unsigned long random = 1;
    puts("ready");
    fflush(stdout);
    for (;;) {
        /* Rounds of different lengths: none can beat in time with the sampling. */
        random = random * 6364136223846793005UL + 1442695040888963407UL;
        aligned(MILLISECOND / 2 + (random >> 33) % (4 * MILLISECOND));
    }
}
