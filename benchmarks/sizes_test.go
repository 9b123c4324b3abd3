//go:build services

package benchmarks

import (
	"fmt"
	"os"
	"strconv"
)

// divisorVariable names a number by which the numbers of messages are divided: with 100 everything runs in a moment, which
// proves that it works and measures nothing.
const divisorVariable = "WAYBILL_BENCH_DIVISOR"

var divisor = func() int {
	text := os.Getenv(divisorVariable)
	if text == "" {
		return 1
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		panic(fmt.Sprintf("%s is %q, and must be a number above 0", divisorVariable, text))
	}
	return n
}()

// sized is how many messages a benchmark moves that would move n: at least two for each of its publishers.
func sized(n int) int { return max(n/divisor, min(n, 2*publishers)) }
