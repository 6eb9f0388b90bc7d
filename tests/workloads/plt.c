/* Calls of a library's smallest function, one after the other, each through a stub of the linkage table. */
#include <stdio.h>
#include "work.h"

extern unsigned long callee(unsigned long value);

NOINLINE __attribute__((noclone)) unsigned long calls(unsigned long count) {
    unsigned long value = 0;
    for (unsigned long left = count; left > 0; left--) value += callee(left);
    return value;
}

int main(void) {
    volatile unsigned long sink = 0;
    puts("ready");
    fflush(stdout);
    for (;;) sink += calls(MILLISECOND);
}
