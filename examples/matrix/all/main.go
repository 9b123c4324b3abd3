//go:build linux

// All runs the binary of examples/matrix over every combination of databases and brokers, on servers of its own:
//
//	make run-matrix
//
// The binary is built once; from row to row only its environment changes. In the middle of each row the broker is stopped,
// for SQL the database that stands for it, while orders go on being placed, and started again. The table at the end has a
// row for each combination, counted from the outside: the table of orders against the consumer's own log. Exit code 0 means
// that no row lost anything, and each delivered something.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"time"
)

func main() {
	orders := flag.Int("orders", 2000, "how many orders each row places")
	only := flag.String("only", "", "only the rows whose name contains this")
	patience := flag.Duration("patience", time.Minute, "how long nothing may happen before what is missing counts as lost")
	verbose := flag.Bool("v", false, "show what each row says")
	flag.Parse()

	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt)
	m := matrix{orders: *orders, only: *only, out: os.Stdout, log: io.Discard, patience: *patience}
	if *verbose {
		m.log = os.Stdout
	}
	err := m.run(ctx)
	cancel()
	if err != nil {
		fmt.Fprintln(os.Stderr, "matrix:", err)
		os.Exit(1)
	}
}

// matrix is one run over all rows.
type matrix struct {
	orders   int
	only     string
	patience time.Duration
	out, log io.Writer
	// env is what every row has in its environment besides.
	env []string
}

// run builds the binary, plays every row, and prints the table. The error says what is wrong with it.
func (m matrix) run(ctx context.Context) (err error) {
	dir, err := os.MkdirTemp("", "waybill-matrix-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	binary := filepath.Join(dir, "matrix")
	build := exec.CommandContext(ctx, "go", "build", "-o", binary, "github.com/waybillmq/waybill/examples/matrix")
	if output, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build the binary: %w: %s", err, output)
	}

	var t table
	for _, row := range rows() {
		if ctx.Err() != nil {
			break
		}
		if !strings.Contains(row.name, m.only) {
			continue
		}
		began := time.Now()
		fmt.Fprintf(m.out, "%-24s ", row.name)
		o := m.play(ctx, row, binary, filepath.Join(dir, fmt.Sprint(len(t))))
		fmt.Fprintf(m.out, "%s (%.0fs)\n", o.verdict(), time.Since(began).Seconds())
		t = append(t, o)
	}
	fmt.Fprintf(m.out, "\n%s", t)
	return t.err()
}
