/* 3 parts of CPU time in `a`, 1 part in `b`. At SIGTERM it prints the nanoseconds that each really took. */
#include <signal.h>
#include <stdio.h>
#include <time.h>
#include "work.h"

static volatile sig_atomic_t stop;

static void on_term(int signal) {
    (void)signal;
    stop = 1;
}

static long long cpu_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

NOINLINE void a(unsigned long units) { WORK(3 * units); }
NOINLINE void b(unsigned long units) { WORK(units); }

int main(void) {
    long long a_ns = 0, b_ns = 0;
    unsigned long random = 1;
    signal(SIGTERM, on_term);
    puts("ready");
    fflush(stdout);
    while (!stop) {
        /* Rounds of different lengths: none can beat in time with the sampling. */
        random = random * 6364136223846793005UL + 1442695040888963407UL;
        unsigned long units = MILLISECOND / 2 + (random >> 33) % (4 * MILLISECOND);
        long long start = cpu_ns();
        a(units);
        long long middle = cpu_ns();
        b(units);
        a_ns += middle - start;
        b_ns += cpu_ns() - middle;
    }
    printf("%lld %lld\n", a_ns, b_ns);
    return 0;
}
