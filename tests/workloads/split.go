// 31 frames of `recurse`, and from the innermost one 3 parts of CPU time in `three`, 2 in `two` and 1 in `one`, in a
// goroutine of their own.
package main

import "fmt"

// Roughly; only proportions matter.
const millisecond = 500_000

var sink uint64

// Each step needs the one before it: how the loop lies in memory does not decide its speed.
func work(units uint64) uint64 {
	value := units
	for left := units; left > 0; left-- {
		value = value*6364136223846793005 + 1442695040888963407
	}
	return value
}

//go:noinline
func three(units uint64) { sink += work(3 * units) }

//go:noinline
func two(units uint64) { sink += work(2 * units) }

//go:noinline
func one(units uint64) { sink += work(units) }

//go:noinline
func recurse(left int, units uint64) {
	if left > 0 {
		recurse(left-1, units)
		return
	}
	three(units)
	two(units)
	one(units)
}

func run() {
	random := uint64(1)
	for {
		// Rounds of different lengths: none can beat in time with the sampling.
		random = random*6364136223846793005 + 1442695040888963407
		recurse(30, millisecond/2+(random>>33)%(4*millisecond))
	}
}

func main() {
	fmt.Println("ready")
	go run()
	select {}
}
