/* A known amount of work. A macro, so that its cost is that of the function it stands in. A function that has nothing
   on the stack gets no frame from GCC, whatever the options say, and its caller is not seen: hence `frame_`. */
#define WORK(units)                                                    \
    do {                                                               \
        char frame_;                                                   \
        __asm__ volatile("" : : "r"(&frame_));                         \
        for (unsigned long left_ = (units); left_ > 0; left_--) {      \
            __asm__ volatile("" : "+r"(left_));                        \
        }                                                              \
    } while (0)
#define NOINLINE __attribute__((noinline))
#define MILLISECOND 400000UL /* roughly; only proportions matter */
