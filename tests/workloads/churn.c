/* Threads and processes that live for some milliseconds each. */
#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>
#include "work.h"

NOINLINE void thread_work(void) { WORK(20 * MILLISECOND); }
NOINLINE void process_work(void) { WORK(20 * MILLISECOND); }

static void *thread(void *unused) {
    thread_work();
    return unused;
}

int main(void) {
    for (;;) {
        pthread_t threads[2];
        for (int i = 0; i < 2; i++) pthread_create(&threads[i], 0, thread, 0);
        for (int i = 0; i < 2; i++) pthread_join(threads[i], 0);
        for (int i = 0; i < 2; i++) {
            if (fork() == 0) {
                process_work();
                _exit(0);
            }
        }
        while (wait(0) > 0) {
        }
    }
}
