/* All CPU time in `spin_work`. With an argument it ends after that many units of work. */
#include <stdio.h>
#include <stdlib.h>
#include "work.h"

static volatile long rounds;

NOINLINE void spin_work(void) { WORK(5 * MILLISECOND); }

int main(int count, char **arguments) {
    long most = count > 1 ? atol(arguments[1]) : 0;
    puts("ready");
    fflush(stdout);
    while (most == 0 || rounds < most) {
        spin_work();
        rounds++;
    }
    return 0;
}
