// A thread deep in calls, whose outer frames are taken out of memory: its stack is a file. Its argument is that file.
#include <err.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { STACK_BYTES = 1 << 20, PAGE_BYTES = 4096, DEPTH = 60, PAGEOUT = 21 };

static char *stack;
static volatile unsigned long sum;
static volatile int runs = 1;

__attribute__((noinline)) static void burn(void) {
    for (int i = 0; i < 100000; i++) sum += i;
}

// Not itself among what is paged out.
__attribute__((noinline)) static void page_out(uintptr_t from) {
    char *start = (char *)((from + PAGE_BYTES) & ~(uintptr_t)(PAGE_BYTES - 1));
    size_t bytes = stack + STACK_BYTES - start;
    if (msync(start, bytes, MS_SYNC) || madvise(start, bytes, PAGEOUT)) err(1, "madvise");
}

__attribute__((noinline)) static int recurse(int depth) {
    volatile char large[PAGE_BYTES];
    memset((void *)large, depth, sizeof large);
    if (depth > 0) return recurse(depth - 1) + large[0];
    page_out((uintptr_t)large + sizeof large);
    puts("ready");
    fflush(stdout);
    while (runs) burn();
    return 0;
}

static void *outermost(void *unused) {
    (void)unused;
    return (void *)(intptr_t)recurse(DEPTH);
}

int main(int count, char **arguments) {
    if (count != 2) errx(1, "usage: %s FILE", arguments[0]);
    int file = open(arguments[1], O_RDWR | O_CREAT, 0600);
    if (file < 0 || ftruncate(file, STACK_BYTES)) err(1, "%s", arguments[1]);
    stack = mmap(NULL, STACK_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (stack == MAP_FAILED) err(1, "mmap");
    pthread_attr_t attributes;
    pthread_t thread;
    pthread_attr_init(&attributes);
    pthread_attr_setstack(&attributes, stack, STACK_BYTES);
    if (pthread_create(&thread, &attributes, outermost, NULL)) errx(1, "pthread_create");
    pthread_join(thread, NULL);
    return 0;
}
