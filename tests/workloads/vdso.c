/* Asks for the time, over and over. */
#include <stdio.h>
#include <time.h>

int main(void) {
    struct timespec now;
    puts("ready");
    fflush(stdout);
    for (;;) clock_gettime(CLOCK_MONOTONIC, &now);
}
