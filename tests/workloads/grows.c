/* Code made while running, in memory that becomes executable page by page, as runtimes have it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include "work.h"

#define PAGE 4096UL
#define PAGES 8192UL

/* push rbp; mov rbp, rsp; 1: dec rdi; jnz 1b; pop rbp; ret */
static const unsigned char code[] = {0x55, 0x48, 0x89, 0xe5, 0x48, 0xff, 0xcf, 0x75, 0xfb, 0x5d, 0xc3};

static char *memory;

static void protect(unsigned long pages, int protection) {
    if (mprotect(memory, pages * PAGE, protection) != 0) {
        perror("mprotect");
        exit(1);
    }
}

NOINLINE void run_made(unsigned long units) {
    ((void (*)(unsigned long))memory)(units);
    __asm__ volatile("");
}

int main(void) {
    memory = mmap(0, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return 1;
    memcpy(memory, code, sizeof code);
    protect(1, PROT_READ | PROT_EXEC);
    puts("ready");
    fflush(stdout);
    unsigned long pages = 1, random = 1;
    for (;;) {
        /* Turns of different lengths: none can beat in time with the sampling. */
        random = random * 6364136223846793005UL + 1442695040888963407UL;
        run_made(MILLISECOND / 2 + (random >> 33) % MILLISECOND);
        if (pages < PAGES) protect(++pages, PROT_READ | PROT_EXEC);
    }
}
