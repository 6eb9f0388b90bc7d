// 3 parts of CPU time in `a`, 1 part in `b`.
package main

import "fmt"

// Roughly; only proportions matter.
const millisecond = 500_000

var sink uint64

// Each step needs the one before it: how the loop lies in memory does not decide its speed.
//
//go:noinline
func a(units uint64) {
	value := units
	for left := 3 * units; left > 0; left-- {
		value = value*6364136223846793005 + 1442695040888963407
	}
	sink += value
}

//go:noinline
func b(units uint64) {
	value := units
	for left := units; left > 0; left-- {
		value = value*6364136223846793005 + 1442695040888963407
	}
	sink += value
}

func main() {
	fmt.Println("ready")
	random := uint64(1)
	for {
		// Rounds of different lengths: none can beat in time with the sampling.
		random = random*6364136223846793005 + 1442695040888963407
		units := millisecond/2 + (random>>33)%(4*millisecond)
		a(units)
		b(units)
	}
}
