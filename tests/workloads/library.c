/* A library with one function, FUNCTION. With PLANTED, its stack frame is full of what it is given: whoever takes the frame for another
   function's finds that where a return address would be. */
#include "work.h"

#ifdef PLANTED
NOINLINE void FUNCTION(unsigned long unused, void *planted) {
    void *room[64];
    for (int i = 0; i < 64; i++) room[i] = planted;
    __asm__ volatile("" : : "r"(room) : "memory");
    WORK(30 * MILLISECOND + 0 * unused);
}
#else
NOINLINE void FUNCTION(void) { WORK(30 * MILLISECOND); }
#endif
