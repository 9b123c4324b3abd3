package main

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// point is what one benchmark measured.
type point struct {
	path    []string // its name without "Benchmark" and the number of processors, at the slashes
	metrics map[string]float64
}

// benchmark is a line of go test -bench: name, number of processors, number of runs, values with their units.
var benchmark = regexp.MustCompile(`^Benchmark(\S+?)(?:-\d+)?\s+\d+\s+(.*)$`)

// read returns the points in all files of a folder, in the order of the files' names. Of two points of one name the last
// one counts, in the place of the first.
func read(folder string) ([]point, error) {
	files, err := filepath.Glob(filepath.Join(folder, "*.txt"))
	if err != nil {
		return nil, err
	}
	slices.Sort(files)
	var points []point
	for _, file := range files {
		if points, err = readFile(file, points); err != nil {
			return nil, fmt.Errorf("read %s: %w", file, err)
		}
	}
	return points, nil
}

func readFile(name string, points []point) ([]point, error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		found := benchmark.FindStringSubmatch(lines.Text())
		if found == nil {
			continue
		}
		metrics, err := metricsOf(found[2])
		if err != nil {
			return nil, fmt.Errorf("%s: %w", found[1], err)
		}
		p := point{strings.Split(found[1], "/"), metrics}
		if i := slices.IndexFunc(points, func(other point) bool { return slices.Equal(other.path, p.path) }); i >= 0 {
			points[i] = p
		} else {
			points = append(points, p)
		}
	}
	return points, lines.Err()
}

// metricsOf reads values, each followed by its unit.
func metricsOf(text string) (map[string]float64, error) {
	fields := strings.Fields(text)
	metrics := make(map[string]float64, len(fields)/2)
	for i := 0; i+1 < len(fields); i += 2 {
		value, err := strconv.ParseFloat(fields[i], 64)
		if err != nil {
			return nil, err
		}
		metrics[fields[i+1]] = value
	}
	return metrics, nil
}
