/* A known amount of work. A macro, so that its cost is that of the function it stands in, which needs no stack: its
   caller is found all the same. */
#define WORK(units)                                                    \
    do {                                                               \
        for (unsigned long left_ = (units); left_ > 0; left_--) {      \
            __asm__ volatile("" : "+r"(left_));                        \
        }                                                              \
    } while (0)
#define NOINLINE __attribute__((noinline))
#define MILLISECOND 400000UL /* roughly; only proportions matter */
