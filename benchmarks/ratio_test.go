//go:build services

package benchmarks

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

// pairs is how many interleaved pairs a ratio is the median of.
var pairs = flag.Int("pairs", 5, "interleaved pairs per ratio")

// lastLines are the lines that a run ends with.
var lastLines struct {
	sync.Mutex
	lines []string
}

// linesVariable names the file that the last lines are written to, so that who runs several packages can print them after
// all else. Without it they end the output of this one.
const linesVariable = "WAYBILL_BENCH_LINES"

func TestMain(m *testing.M) {
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

// compare measures both sides in interleaved pairs and reports the median of the pairs' ratios. Each side returns a rate
// (per second), or a cost if lower is better on both sides alike; it fails b by itself.
func compare(b *testing.B, name, what, yardstick string, bar func(b *testing.B) float64, ours func(b *testing.B) float64) {
	b.Helper()
	for b.Loop() {
		var bars, rates, quotients []float64
		for i := range *pairs {
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
		b.ReportMetric(median(rates), "msg/s")
		b.ReportMetric(median(bars), "yardstick-msg/s")
		b.ReportMetric(median(quotients), "ratio")
		report("ratio %s %.2f (%s / %s) %.0f / %.0f, pairs from %.2f to %.2f", name, median(quotients), what, yardstick,
			median(rates), median(bars), slices.Min(quotients), slices.Max(quotients))
	}
}

// report keeps a line for the end of the run.
func report(format string, args ...any) {
	lastLines.Lock()
	defer lastLines.Unlock()
	lastLines.lines = append(lastLines.lines, fmt.Sprintf(format, args...))
}

func median(values []float64) float64 {
	return percentile(values, 0.5)
}

// percentile returns the value below which the share q of the values lies.
func percentile(values []float64, q float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(values))
	return sorted[min(len(sorted)-1, int(q*float64(len(sorted))))]
}
