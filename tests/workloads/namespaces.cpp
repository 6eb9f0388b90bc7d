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
    for (;;) {
        shop::orders::settle(name, 5 * MILLISECOND);
        basket.sum(5 * MILLISECOND);
    }
}
