/* Two libraries in turn at the same address: what is there changes all the time. */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include "work.h"

static volatile long rounds;
static void *bases[2];

static void *open_library(const char *file, const char *symbol, int index) {
    void *library = dlopen(file, RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        fprintf(stderr, "%s\n", dlerror());
        exit(1);
    }
    Dl_info info;
    dladdr(dlsym(library, symbol), &info);
    bases[index] = info.dli_fbase;
    return library;
}

NOINLINE void run_one(void) {
    void *library = open_library("./lib_one.so", "one_work", 0);
    ((void (*)(void))dlsym(library, "one_work"))();
    dlclose(library);
    rounds++;
}

NOINLINE void run_two(void) {
    void *library = open_library("./lib_two.so", "two_work", 1);
    ((void (*)(void))dlsym(library, "two_work"))();
    dlclose(library);
    rounds++;
}

int main(void) {
    for (;;) {
        run_one();
        run_two();
        if (rounds == 2) {
            puts(bases[0] == bases[1] ? "same address" : "different addresses");
            fflush(stdout);
        }
    }
}
