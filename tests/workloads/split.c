/* 31 frames of `recurse`, and from the innermost one 3 parts of CPU time in `three`, 2 in `two` and 1 in `one`. With
   LIBRARY it is a library with `run` for an entry; with HOST a program that loads that library. */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include "work.h"

#define DEPTH 30
#define KEPT NOINLINE __attribute__((noclone))

#ifndef HOST
KEPT void three(unsigned long units) { WORK(3 * units); }
KEPT void two(unsigned long units) { WORK(2 * units); }
KEPT void one(unsigned long units) { WORK(units); }

KEPT void recurse(int left, unsigned long units) {
    if (left > 0) {
        recurse(left - 1, units);
        __asm__ volatile("");
    } else {
        three(units);
        two(units);
        one(units);
        __asm__ volatile("");
    }
}

KEPT void run(void) {
    unsigned long random = 1;
    puts("ready");
    fflush(stdout);
    for (;;) {
        /* Rounds of different lengths: none can beat in time with the sampling. */
        random = random * 6364136223846793005UL + 1442695040888963407UL;
        recurse(DEPTH, MILLISECOND / 2 + (random >> 33) % (4 * MILLISECOND));
    }
}
#else
static void run(void) {
    void *library = dlopen("./libsplit.so", RTLD_NOW);
    if (!library) {
        fprintf(stderr, "%s\n", dlerror());
        exit(1);
    }
    ((void (*)(void))dlsym(library, "run"))();
}
#endif

#ifndef LIBRARY
int main(void) {
    run();
    return 0;
}
#endif
