/* CPU time in a function of a namespace and in a member of a template, half each. */
#include <cstdio>
#include <string>
#include "work.h"

namespace shop::orders {
NOINLINE void settle(const std::string &, unsigned long units) { WORK(units); }
} // namespace shop::orders

namespace shop {
template <typename Item> struct Basket {
    NOINLINE void sum(unsigned long units) { WORK(units); }
};
} // namespace shop

int main() {
    const std::string name = "order";
    shop::Basket<int> basket;
    puts("ready");
    fflush(stdout);
    unsigned long random = 1;
    for (;;) {
        /* Rounds of different lengths: none can beat in time with the sampling. */
        random = random * 6364136223846793005UL + 1442695040888963407UL;
        unsigned long units = MILLISECOND + (random >> 33) % (8 * MILLISECOND);
        shop::orders::settle(name, units);
        basket.sum(units);
    }
}
