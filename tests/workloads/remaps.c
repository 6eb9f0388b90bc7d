/* Code that comes and goes at one address: machine code made while running, and pages of two libraries' files. */
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include "work.h"

#define PAGE 4096UL
#define KEPT NOINLINE __attribute__((noclone))

/* push rbp; mov rbp, rsp; 1: dec rdi; jnz 1b; pop rbp; ret */
static const unsigned char code[] = {0x55, 0x48, 0x89, 0xe5, 0x48, 0xff, 0xcf, 0x75, 0xfb, 0x5d, 0xc3};

struct file {
    int descriptor;
    off_t page;      /* of the file, with the function */
    size_t function; /* where it is in the page */
};

static char *place;

static struct file find(const char *path, const char *symbol) {
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    Dl_info info;
    if (!library || !dladdr(dlsym(library, symbol), &info)) {
        fprintf(stderr, "%s\n", dlerror());
        exit(1);
    }
    /* The linker puts code at the same place in the file as in memory. */
    size_t offset = (char *)info.dli_saddr - (char *)info.dli_fbase;
    struct file file = {open(path, O_RDONLY), offset & ~(PAGE - 1), offset & (PAGE - 1)};
    dlclose(library);
    return file;
}

static void *map(int protection, int flags, int descriptor, off_t offset) {
    void *memory = mmap(place, 2 * PAGE, protection, MAP_PRIVATE | MAP_FIXED | flags, descriptor, offset);
    if (memory == MAP_FAILED) exit(1);
    return memory;
}

static void call(size_t function, unsigned long units) {
    ((void (*)(unsigned long))(place + function))(units);
    /* Nothing is there until something else is. */
    munmap(place, 2 * PAGE);
}

KEPT void run_made(unsigned long units) {
    memcpy(map(PROT_READ | PROT_WRITE, MAP_ANONYMOUS, -1, 0), code, sizeof code);
    mprotect(place, PAGE, PROT_READ | PROT_EXEC);
    call(0, units);
    __asm__ volatile("");
}

KEPT void run_one(const struct file *file, unsigned long units) {
    map(PROT_READ | PROT_EXEC, 0, file->descriptor, file->page);
    call(file->function, units);
    __asm__ volatile("");
}

KEPT void run_two(const struct file *file, unsigned long units) {
    map(PROT_READ | PROT_EXEC, 0, file->descriptor, file->page);
    call(file->function, units);
    __asm__ volatile("");
}

int main(void) {
    struct file one = find("./lib_one.so", "one_work"), two = find("./lib_two.so", "two_work");
    place = mmap(0, 2 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (place == MAP_FAILED) return 1;
    unsigned long random = 1;
    puts("ready");
    fflush(stdout);
    for (;;) {
        /* Rounds of different lengths: none can beat in time with the sampling. */
        random = random * 6364136223846793005UL + 1442695040888963407UL;
        unsigned long units = 4 * MILLISECOND + (random >> 33) % (36 * MILLISECOND);
        run_made(units);
        run_one(&one, units);
        run_two(&two, units);
    }
}
