/* Functions that spend their time in the C library, each on two threads. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "work.h"

#define COUNT 20000

NOINLINE int compare(const void *one, const void *other) {
    int left = *(const int *)one, right = *(const int *)other;
    return (left > right) - (left < right);
}

NOINLINE void sorts(int *numbers) {
    for (int i = 0; i < COUNT; i++) numbers[i] = rand();
    qsort(numbers, COUNT, sizeof *numbers, compare);
}

NOINLINE void copies(char *one, char *other, size_t bytes) {
    for (int i = 0; i < 50; i++) {
        memcpy(one, other, bytes);
        memset(other, i, bytes);
    }
}

NOINLINE void prints(void) {
    char text[100];
    for (int i = 0; i < COUNT; i++) snprintf(text, sizeof text, "%d %s %f", i, "text", i * 0.5);
}

NOINLINE void allocates(void) {
    for (int i = 0; i < COUNT; i++) {
        void *memory = malloc(i % 3000 + 1);
        __asm__ volatile("" : : "r"(memory) : "memory");
        free(memory);
    }
}

NOINLINE void writes(void) {
    for (int i = 0; i < COUNT; i++)
        if (write(STDOUT_FILENO, "", 0) != 0) return;
}

static void *works(void *nothing) {
    const size_t bytes = 1 << 20;
    int *numbers = malloc(COUNT * sizeof *numbers);
    char *one = calloc(1, bytes), *other = calloc(1, bytes);
    for (;;) {
        sorts(numbers);
        copies(one, other, bytes);
        prints();
        allocates();
        writes();
    }
    return nothing;
}

int main(void) {
    puts("ready");
    fflush(stdout);
    pthread_t thread;
    if (pthread_create(&thread, 0, works, 0) != 0) return 1;
    works(0);
}
