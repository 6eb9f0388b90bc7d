/* What `executes` runs. */
#include "work.h"

NOINLINE void other_work(void) { WORK(50 * MILLISECOND); }

int main(void) {
    other_work();
    return 0;
}
