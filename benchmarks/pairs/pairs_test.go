package pairs

import (
	"flag"
	"math"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestCompare_isTheMedianOfInterleavedPairs(t *testing.T) {
	require.NoError(t, flag.Set("test.benchtime", "1x"))
	var turns []string
	var medians Medians
	bars, rates := []float64{10, 10, 10, 10, 10}, []float64{20, 10, 50, 30, 40}
	result := testing.Benchmark(func(b *testing.B) {
		turns, lastLines.lines = nil, nil
		bar, ours := 0, 0
		medians = Compare(b, "a-name", "ours", "theirs",
			func(*testing.B) float64 { turns = append(turns, "bar"); bar++; return bars[bar-1] },
			func(*testing.B) float64 { turns = append(turns, "ours"); ours++; return rates[ours-1] })
	})
	assert.InDelta(t, 3, result.Extra["ratio"], 0)
	assert.Equal(t, Medians{Ratio: 3, Rate: 30, Yardstick: 10}, medians)
	assert.Equal(t, []string{"ratio a-name 3.00 (ours / theirs) 30 / 10, pairs from 1.00 to 5.00"}, lastLines.lines)
	assert.Equal(t, []string{"bar", "ours", "ours", "bar", "bar", "ours", "ours", "bar", "bar", "ours"}, turns)
}

func TestCount_isTheSumOfAllRunsOfABenchmark(t *testing.T) {
	require.NoError(t, flag.Set("test.benchtime", "1x"))
	for range 2 {
		result := testing.Benchmark(func(b *testing.B) {
			Count(b, "duplicated", 2)
			Count(b, "lost", 0)
			Count(b, "duplicated", 3)
		})
		assert.InDelta(t, 5, result.Extra["duplicated"], 0)
		assert.Contains(t, result.Extra, "lost")
	}
}

func TestMeter_tellsWhatEachMessageAllocated(t *testing.T) {
	var kept [][]byte
	result := testing.Benchmark(func(b *testing.B) {
		used := StartMeter()
		for range 100 {
			kept = append(kept, make([]byte, 10_000))
		}
		used.Report(b, 100)
		assert.Positive(t, used.Elapsed())
	})
	assert.Len(t, kept[0], 10_000)
	assert.GreaterOrEqual(t, result.Extra["B/msg"], 10_000.0)
	assert.GreaterOrEqual(t, result.Extra["allocs/msg"], 1.0)
}

func TestPercentile(t *testing.T) {
	values := []float64{4, 1, 3, 2}
	assert.InDelta(t, 3, Median(values), 0)
	assert.InDelta(t, 4, Percentile(values, 0.99), 0)
	assert.True(t, math.IsNaN(Median(nil)), "nothing has no median")
	assert.Equal(t, []float64{4, 1, 3, 2}, values, "the caller's order changed")
}
