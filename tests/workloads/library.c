/* A library with one function, FUNCTION. */
#include "work.h"

NOINLINE void FUNCTION(void) { WORK(30 * MILLISECOND); }
