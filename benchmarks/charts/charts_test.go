package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func drawn(t *testing.T) map[string]string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "charts")
	require.NoError(t, run("testdata", out))
	files, err := os.ReadDir(out)
	require.NoError(t, err)
	images := make(map[string]string)
	for _, file := range files {
		image, err := os.ReadFile(filepath.Join(out, file.Name()))
		require.NoError(t, err)
		images[file.Name()] = string(image)
	}
	return images
}

func TestRun_drawsEachChartOfWhichThereArePoints(t *testing.T) {
	images := drawn(t)
	require.Len(t, images, 4)
	for _, word := range []string{"<svg", "MariaDB", "tagging", "delayedcheck", ">8<", ">64<", ">256<", "transactions at a time"} {
		assert.Contains(t, images["side-by-side-mariadb.svg"], word)
	}
	assert.Contains(t, images["latency-mariadb.svg"], "tagging p99")
	assert.Contains(t, images["scale-payload.svg"], "16 KiB")
	assert.Contains(t, images["scale-order.svg"], ">1k<")
}

func TestRun_theSameLinesGiveTheSameBytes(t *testing.T) {
	first := drawn(t)
	assert.Equal(t, first, drawn(t))
}

func TestRead_theLastLineOfANameCounts(t *testing.T) {
	points, err := read("testdata")
	require.NoError(t, err)
	lines := sideBySide("mariadb", "").lines(points)
	require.Len(t, lines, 2)
	assert.Equal(t, line{"tagging", []string{"8", "256", "64"}, []float64{900, 1300, 1111}}, lines[0])
	assert.Equal(t, []string{"8", "64", "256"}, axis(lines))
	assert.Equal(t, []string{"off", "1000"}, axis(rates("", "", "", "ScaleOrder/*/x", count).lines(points)))
}

func TestChart_namesItsLinesAsTheBenchmarkDid(t *testing.T) {
	name, place, is := chart{pattern: "Callers/here/*/x"}.match([]string{"Callers", "here", "a_bare_publish", "16"})
	assert.True(t, is)
	assert.Equal(t, "a bare publish", name)
	assert.Equal(t, "16", place)
}

func TestRead_refusesWhatIsNoNumber(t *testing.T) {
	folder := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(folder, "a.txt"), []byte("BenchmarkA-2 1 fast msg/s\n"), 0o600))
	_, err := read(folder)
	require.ErrorContains(t, err, "a.txt")
}

func TestChart_writesPlacesShort(t *testing.T) {
	assert.Equal(t, []string{"0", "256", "10k", "1M", "2.5M"}, []string{count(0), count(256), count(10_000), count(1_000_000), count(2_500_000)})
	assert.Equal(t, []string{"128 B", "1 KiB", "256 KiB"}, []string{size(128), size(1024), size(256 * 1024)})
}
