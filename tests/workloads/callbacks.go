// C that Go calls, and Go that C calls back: half of the CPU time each, roughly.
package main

/*
#cgo CFLAGS: -O2 -fomit-frame-pointer
#include <stdint.h>
extern void goCallback(uint64_t);
static __attribute__((noinline)) void c_work(uint64_t n) { for (uint64_t i = 0; i < n; i++) __asm__ volatile("" : "+r"(i)); }
static __attribute__((noinline)) void c_calls_go(uint64_t n) { goCallback(n); __asm__ volatile(""); }
*/
import "C"
import "fmt"

var sink uint64

//export goCallback
func goCallback(n C.uint64_t) { spin(uint64(n)) }

//go:noinline
func spin(n uint64) {
	v := n
	for i := uint64(0); i < n; i++ {
		v = v*6364136223846793005 + 1
	}
	sink += v
}

//go:noinline
func callsC() { C.c_work(2000000) }

//go:noinline
func callsBack() { C.c_calls_go(1000000) }
func main() {
	fmt.Println("ready")
	for {
		callsC()
		callsBack()
	}
}
