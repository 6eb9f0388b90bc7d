/* Two signals interrupt `interrupted`, wherever it is: one is handled on the same stack, the other on a stack of its own. */
#include <signal.h>
#include <stdio.h>
#include <sys/time.h>
#include "work.h"

static char stack[1 << 16];

static NOINLINE void on_same_stack(int signal) {
    (void)signal;
    WORK(2 * MILLISECOND);
}

static NOINLINE void on_other_stack(int signal) {
    (void)signal;
    WORK(2 * MILLISECOND);
}

NOINLINE __attribute__((noclone)) void step(unsigned long units) { WORK(units); }

NOINLINE __attribute__((noclone)) void interrupted(void) {
    /* Short steps: signals also come between `push` and `pop`. */
    for (int left = 100000; left > 0; left--) {
        step(left % 16);
    }
}

int main(void) {
    stack_t other = {.ss_sp = stack, .ss_size = sizeof stack};
    struct sigaction same_action = {.sa_handler = on_same_stack, .sa_flags = SA_RESTART};
    struct sigaction other_action = {.sa_handler = on_other_stack, .sa_flags = SA_RESTART | SA_ONSTACK};
    /* CPU time of the process, and of its user mode. */
    struct itimerval each_11_ms = {{0, 11000}, {0, 11000}}, each_13_ms = {{0, 13000}, {0, 13000}};
    sigaltstack(&other, NULL);
    sigaction(SIGPROF, &same_action, NULL);
    sigaction(SIGVTALRM, &other_action, NULL);
    setitimer(ITIMER_PROF, &each_11_ms, NULL);
    setitimer(ITIMER_VIRTUAL, &each_13_ms, NULL);
    puts("ready");
    fflush(stdout);
    for (;;) {
        interrupted();
    }
}
