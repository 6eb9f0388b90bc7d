/* A program that lives for some milliseconds. */
#include "work.h"

NOINLINE void short_work(void) { WORK(5 * MILLISECOND); }

int main(void) {
    short_work();
    return 0;
}
