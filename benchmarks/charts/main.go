package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
)

func main() {
	results := flag.String("results", "../results", "folder of the files (*.txt) with lines of go test -bench")
	out := flag.String("out", "../../docs/charts", "folder that the charts are written to")
	flag.Parse()
	if err := run(*results, *out); err != nil {
		fmt.Fprintln(os.Stderr, "charts:", err)
		os.Exit(1)
	}
}

func run(results, out string) error {
	points, err := read(results)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	for _, c := range charts {
		lines := c.lines(points)
		if len(lines) == 0 {
			continue
		}
		image, err := c.draw(lines)
		if err != nil {
			return fmt.Errorf("draw %s: %w", c.file, err)
		}
		if err := os.WriteFile(filepath.Join(out, c.file+".svg"), image, 0o644); err != nil {
			return err
		}
	}
	return nil
}
