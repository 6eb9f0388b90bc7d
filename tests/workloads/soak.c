/* 100 threads, 50 short-lived processes a second of which half run another program, and two libraries that are loaded and
   unloaded all the time. */
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>
#include "work.h"

#define THREADS 100
#define KEPT NOINLINE __attribute__((noclone))

KEPT void thread_work(void) { WORK(MILLISECOND); }
KEPT void process_work(void) { WORK(2 * MILLISECOND); }

static void *thread(void *unused) {
    for (;;) {
        thread_work();
        usleep(500000);
    }
    return unused;
}

static void call(const char *file, const char *symbol) {
    void *library = dlopen(file, RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        fprintf(stderr, "%s\n", dlerror());
        exit(1);
    }
    ((void (*)(void))dlsym(library, symbol))();
    dlclose(library);
}

KEPT void run_one(void) {
    call("./lib_one.so", "one_work");
    __asm__ volatile("");
}
KEPT void run_two(void) {
    call("./lib_two.so", "two_work");
    __asm__ volatile("");
}

static void *processes(void *unused) {
    for (unsigned round = 0;; round++) {
        pid_t child = fork();
        if (child == 0) {
            if (round % 2) {
                execl("./short", "short", (char *)0);
                _exit(1);
            }
            process_work();
            _exit(0);
        }
        waitpid(child, 0, 0);
        usleep(20000);
    }
    return unused;
}

int main(void) {
    pthread_t one;
    for (int i = 0; i < THREADS; i++) pthread_create(&one, 0, thread, 0);
    pthread_create(&one, 0, processes, 0);
    puts("ready");
    fflush(stdout);
    for (;;) {
        run_one();
        run_two();
        usleep(1000);
    }
}
