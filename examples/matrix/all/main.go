//go:build linux

// All runs the binary of examples/matrix over every combination of databases, brokers and strategies, on servers of its own:
//
//	make run-matrix
//
// The binary is built once; from row to row only its environment changes. In the middle of each row the broker is stopped,
// for SQL the database that stands for it, while orders go on being placed, and started again. The table at the end has a
// row for each combination, counted from the outside: the table of orders against the consumer's own log. Exit code 0 means
// that no row lost anything, and each delivered something.
//
// Rows with different brokers are played side by side, for most of the time of each is its broker's restart.
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
	"slices"
	"strings"
	"sync"
	"time"
)

func main() {
	orders := flag.Int("orders", 2000, "how many orders each row places")
	only := flag.String("only", "", "only the rows whose name and strategy contain this")
	// Longer than the three minutes after which RabbitMQ tries again to move what was due while it stopped.
	patience := flag.Duration("patience", 4*time.Minute, "how long nothing may happen before what is missing counts as lost")
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

// lanesAtOnce is how many brokers are played with at a time: enough that the processors of a small machine are not idle while
// a server starts, and no more.
const lanesAtOnce = 3

// matrix is one run over all rows.
type matrix struct {
	orders   int
	only     string
	patience time.Duration
	out, log io.Writer
	// skips says what is left out; nil leaves nothing out. at is the row's place in its lane.
	skips func(lane, at int, strategy string) bool
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

	m.out, m.log = &shared{to: m.out}, &shared{to: m.log}
	h := &hall{log: m.log}
	defer func() { err = errors.Join(err, h.end()) }()
	t := m.playAll(ctx, binary, newGround(h, dir))
	fmt.Fprintf(m.out, "\n%s", t)
	return t.err()
}

// playAll plays the lanes side by side, the rows of each one after the other.
func (m matrix) playAll(ctx context.Context, binary string, g *ground) table {
	var (
		group    sync.WaitGroup
		outcomes = make([]table, len(lanes()))
		atOnce   = make(chan struct{}, lanesAtOnce)
	)
	for lane, rows := range lanes() {
		group.Go(func() {
			atOnce <- struct{}{}
			defer func() { <-atOnce }()
			for at, r := range rows {
				for _, strategy := range strategies {
					if ctx.Err() != nil || !strings.Contains(r.name+" "+strategy, m.only) || m.skips != nil && m.skips(lane, at, strategy) {
						continue
					}
					began := time.Now()
					o := m.play(ctx, r, strategy, binary, g)
					outcomes[lane] = append(outcomes[lane], o)
					fmt.Fprintf(m.out, "%-24s %-14s %s (%.0fs)\n", r.name, strategy, o.verdict(), time.Since(began).Seconds())
				}
			}
		})
	}
	group.Wait()
	return slices.Concat(outcomes...)
}
