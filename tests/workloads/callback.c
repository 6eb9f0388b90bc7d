/* CPU time in `compare`, which the C library's `qsort` calls. */
#include <stdio.h>
#include <stdlib.h>
#include "work.h"

#define COUNT 512

static NOINLINE int compare(const void *left, const void *right) {
    unsigned a = *(const unsigned *)left, b = *(const unsigned *)right;
    WORK(MILLISECOND / 100);
    return (a > b) - (a < b);
}

NOINLINE __attribute__((noclone)) void sort(unsigned *numbers) {
    qsort(numbers, COUNT, sizeof *numbers, compare);
}

int main(void) {
    static unsigned numbers[COUNT];
    puts("ready");
    fflush(stdout);
    for (;;) {
        for (int i = 0; i < COUNT; i++) {
            numbers[i] = (unsigned)rand();
        }
        sort(numbers);
    }
}
