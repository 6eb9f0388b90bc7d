/* The C library's own fast paths, written by hand: each is reached from a function of ours. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "work.h"

#define BYTES (256 << 10)
#define KEPT NOINLINE __attribute__((noclone))

static char *from, *to;
static volatile unsigned long sink;

KEPT void copies(void) {
    memcpy(to, from, BYTES);
    __asm__ volatile("" : : "r"(to) : "memory");
}
KEPT void moves(void) {
    memmove(to + 1, to, BYTES - 1);
    __asm__ volatile("" : : "r"(to) : "memory");
}
KEPT void fills(void) {
    memset(to, 'x', BYTES);
    __asm__ volatile("" : : "r"(to) : "memory");
}
KEPT void measures(void) {
    sink += strlen(from);
    __asm__ volatile("" : : "r"(from) : "memory");
}
KEPT void searches(void) {
    sink += strchr(from, 'y') != 0;
    __asm__ volatile("" : : "r"(from) : "memory");
}

int main(void) {
    from = malloc(BYTES);
    to = malloc(BYTES);
    memset(from, 'x', BYTES);
    from[BYTES - 1] = 0;
    puts("ready");
    fflush(stdout);
    for (;;) {
        copies();
        moves();
        fills();
        measures();
        searches();
    }
}
