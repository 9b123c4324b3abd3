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
	bars, rates := []float64{10, 10, 10, 10, 10}, []float64{20, 10, 50, 30, 40}
	result := testing.Benchmark(func(b *testing.B) {
		turns, lastLines.lines = nil, nil
		bar, ours := 0, 0
		Compare(b, "a-name", "ours", "theirs",
			func(*testing.B) float64 { turns = append(turns, "bar"); bar++; return bars[bar-1] },
			func(*testing.B) float64 { turns = append(turns, "ours"); ours++; return rates[ours-1] })
	})
	assert.InDelta(t, 3, result.Extra["ratio"], 0)
	assert.Equal(t, []string{"ratio a-name 3.00 (ours / theirs) 30 / 10, pairs from 1.00 to 5.00"}, lastLines.lines)
	assert.Equal(t, []string{"bar", "ours", "ours", "bar", "bar", "ours", "ours", "bar", "bar", "ours"}, turns)
}

func TestPercentile(t *testing.T) {
	values := []float64{4, 1, 3, 2}
	assert.InDelta(t, 3, Median(values), 0)
	assert.InDelta(t, 4, Percentile(values, 0.99), 0)
	assert.True(t, math.IsNaN(Median(nil)), "nothing has no median")
	assert.Equal(t, []float64{4, 1, 3, 2}, values, "the caller's order changed")
}
