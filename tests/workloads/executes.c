/* Its children become another program, `other`, which does all the work. With an argument these are so many, from SIGUSR1 on. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int count, char **arguments) {
    long wanted = count > 1 ? atol(arguments[1]) : -1;
    if (wanted > 0) {
        sigset_t signals;
        int signal;
        sigemptyset(&signals);
        sigaddset(&signals, SIGUSR1);
        sigprocmask(SIG_BLOCK, &signals, 0);
        puts("ready");
        fflush(stdout);
        sigwait(&signals, &signal);
    }
    for (long children = 0; children != wanted; children++) {
        if ((children % 2 ? fork() : vfork()) == 0) {
            execl("./other", "other", (char *)0);
            _exit(127);
        }
        wait(0);
    }
    puts("done");
    fflush(stdout);
    pause();
    return 0;
}
