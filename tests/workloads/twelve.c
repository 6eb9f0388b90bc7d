/* Twelve functions with CPU time in proportion to their numbers, at different depths and without frame pointers. */
#include <stdio.h>
#include "work.h"

#define KEPT NOINLINE __attribute__((noclone))
#define FUNCTION(number, next)                                         \
    KEPT void work_##number(unsigned long units) {                     \
        WORK(number * units);                                          \
        next;                                                          \
        __asm__ volatile("");                                          \
    }

FUNCTION(1, )
FUNCTION(2, work_1(units))
FUNCTION(3, work_2(units))
FUNCTION(4, work_3(units))
FUNCTION(5, )
FUNCTION(6, work_5(units))
FUNCTION(7, work_6(units))
FUNCTION(8, work_7(units))
FUNCTION(9, )
FUNCTION(10, work_9(units))
FUNCTION(11, work_10(units))
FUNCTION(12, work_11(units))

int main(void) {
    unsigned long random = 1;
    puts("ready");
    fflush(stdout);
    for (;;) {
        /* Rounds of different lengths: none can beat in time with the sampling. */
        random = random * 6364136223846793005UL + 1442695040888963407UL;
        unsigned long units = MILLISECOND / 40 + (random >> 33) % (MILLISECOND / 5);
        work_4(units);
        work_8(units);
        work_12(units);
    }
}
