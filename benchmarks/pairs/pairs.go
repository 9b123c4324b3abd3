// Package pairs compares two rates in interleaved pairs, and keeps the lines that a run of benchmarks ends with.
//
// The rates of a machine differ from minute to minute; what two sides do one after the other differs less. So each
// comparison is the median of the quotients of pairs, and neither side of these always has the first turn.
package pairs

import (
	"errors"
	"flag"
	"fmt"
	"math"
	"os"
	"slices"
	"sync"
	"testing"
)

// count is how many interleaved pairs a ratio is the median of.
var count = flag.Int("pairs", 5, "interleaved pairs per ratio")

// lastLines are the lines that a run ends with.
var lastLines struct {
	sync.Mutex
	lines []string
}

// linesVariable names the file that the last lines are written to, so that who runs several packages can print them after
// all else. Without it they end the output of this one.
const linesVariable = "WAYBILL_BENCH_LINES"

// Main runs the tests and benchmarks of a package and prints the last lines; call it from TestMain.
func Main(m *testing.M) {
	code := m.Run()
	out := os.Stdout
	if name := os.Getenv(linesVariable); name != "" {
		file, err := os.OpenFile(name, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
		if err != nil {
			fmt.Fprintln(os.Stderr, "benchmarks: write the last lines:", err)
			code = max(code, 1)
		} else {
			out = file
		}
	}
	var failed error
	for _, line := range lastLines.lines {
		_, err := fmt.Fprintln(out, line)
		failed = errors.Join(failed, err)
	}
	if failed = errors.Join(failed, out.Close()); failed != nil {
		fmt.Fprintln(os.Stderr, "benchmarks: write the last lines:", failed)
		code = max(code, 1)
	}
	os.Exit(code)
}

// Medians are what came of a comparison.
type Medians struct{ Ratio, Rate, Yardstick float64 }

// Compare measures both sides in interleaved pairs, and reports and returns the median of the pairs' ratios. Each side
// returns a rate (per second), or a cost if lower is better on both sides alike; it fails b by itself.
func Compare(
	b *testing.B, name, what, yardstick string, bar func(b *testing.B) float64, ours func(b *testing.B) float64,
) (medians Medians) {
	b.Helper()
	for b.Loop() {
		var bars, rates, quotients []float64
		for i := range *count {
			var bar1, our1 float64
			if i%2 == 0 { // neither side always has the warmer machine
				bar1 = bar(b)
				our1 = ours(b)
			} else {
				our1 = ours(b)
				bar1 = bar(b)
			}
			bars, rates, quotients = append(bars, bar1), append(rates, our1), append(quotients, our1/bar1)
		}
		medians = Medians{Median(quotients), Median(rates), Median(bars)}
		b.ReportMetric(medians.Rate, "msg/s")
		b.ReportMetric(medians.Yardstick, "yardstick-msg/s")
		b.ReportMetric(medians.Ratio, "ratio")
		Report("ratio %s %.2f (%s / %s) %.0f / %.0f, pairs from %.2f to %.2f", name, medians.Ratio, what, yardstick,
			medians.Rate, medians.Yardstick, slices.Min(quotients), slices.Max(quotients))
	}
	return medians
}

// counts are the metrics that are sums, of each benchmark.
var counts = struct {
	sync.Mutex
	of map[*testing.B]map[string]int
}{of: make(map[*testing.B]map[string]int)}

// Count adds n to a metric of b, which is the sum of all its runs.
func Count(b *testing.B, unit string, n int) {
	counts.Lock()
	defer counts.Unlock()
	if counts.of[b] == nil {
		counts.of[b] = make(map[string]int)
	}
	counts.of[b][unit] += n
	b.ReportMetric(float64(counts.of[b][unit]), unit)
}

// Report keeps a line for the end of the run.
func Report(format string, args ...any) {
	lastLines.Lock()
	defer lastLines.Unlock()
	lastLines.lines = append(lastLines.lines, fmt.Sprintf(format, args...))
}

// Median returns the middle of the values, NaN of none.
func Median(values []float64) float64 {
	return Percentile(values, 0.5)
}

// Percentile returns the value below which the share q of the values lies, NaN of none.
func Percentile(values []float64, q float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(values))
	return sorted[min(len(sorted)-1, int(q*float64(len(sorted))))]
}
