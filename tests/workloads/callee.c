/* A library with one function that does next to nothing. */
unsigned long callee(unsigned long value) { return value + 7; }
