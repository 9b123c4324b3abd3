//go:build linux

package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"

	"github.com/waybillmq/waybill/internal/testservers"
)

// play runs one row: its servers, and the binary on them.
func (m matrix) play(ctx context.Context, r row, binary, dir string) outcome {
	o := outcome{name: r.name}
	h := &hall{log: m.log}
	err := os.Mkdir(dir, 0o755)
	if err == nil {
		err = h.try(func() {
			s := r.stage(h, dir)
			if err := m.runChild(ctx, binary, s, h, &o); err != nil {
				h.Errorf("%w", err)
			}
		})
	}
	o.err = errors.Join(err, h.end())
	return o
}

// runChild runs the binary on a stage and hears what it says.
func (m matrix) runChild(ctx context.Context, binary string, s stage, h *hall, o *outcome) error {
	child := exec.CommandContext(ctx, binary)
	child.Env = append(os.Environ(), append([]string{
		"STORE_URL=" + s.storeURL, "BROKER_URL=" + s.brokerURL,
		fmt.Sprint("ORDERS=", m.orders), fmt.Sprint("PATIENCE=", m.patience),
	}, m.env...)...)
	var complaints bytes.Buffer
	child.Stderr = &complaints
	answers, err := child.StdinPipe()
	if err != nil {
		return err
	}
	says, err := child.StdoutPipe()
	if err != nil {
		return err
	}
	if err := child.Start(); err != nil {
		return err
	}
	err = h.try(func() { o.listen(io.TeeReader(says, m.log), answers, s.broker) })
	_ = answers.Close() // with it ends a child that waits for an answer
	if err != nil {
		_ = child.Process.Kill()
	}
	if failed := child.Wait(); failed != nil && err == nil {
		err = fmt.Errorf("%w: %s", failed, strings.TrimSpace(complaints.String()))
	}
	return err
}

// listen reads what the child says to its end, and does what it asks for.
func (o *outcome) listen(says io.Reader, answers io.Writer, broker server) {
	for lines := bufio.NewScanner(says); lines.Scan(); {
		line := lines.Text()
		switch {
		case strings.HasPrefix(line, ">>> stop"):
			broker.Stop()
			fmt.Fprintln(answers)
		case strings.HasPrefix(line, ">>> start"):
			broker.Start()
			fmt.Fprintln(answers)
		case strings.HasPrefix(line, "orders="), strings.HasPrefix(line, "seconds="):
			for pair := range strings.FieldsSeq(line) {
				name, value, _ := strings.Cut(pair, "=")
				o.count(name, value)
			}
		}
	}
}

func (o *outcome) count(name, value string) {
	number, err := strconv.ParseFloat(value, 64)
	if err != nil {
		return
	}
	if o.counts == nil {
		o.counts = make(map[string]float64)
	}
	o.counts[name] = number
}

// hall is what the servers of a row have in place of a test.
type hall struct {
	log      io.Writer
	cleanups []func()
	failed   bool
	errors   []error
}

var _ testservers.T = (*hall)(nil)

// serverError is what Fatalf leaves by.
type serverError string

func (e serverError) Error() string { return string(e) }

func (*hall) Helper()               {}
func (h *hall) Cleanup(what func()) { h.cleanups = append(h.cleanups, what) }
func (h *hall) Failed() bool        { return h.failed }

func (h *hall) Logf(format string, args ...any) { fmt.Fprintf(h.log, format+"\n", args...) }

func (h *hall) Errorf(format string, args ...any) {
	h.failed = true
	h.errors = append(h.errors, fmt.Errorf(format, args...))
}

func (h *hall) Fatalf(format string, args ...any) {
	h.failed = true
	panic(serverError(fmt.Sprintf(format, args...)))
}

// try runs f as far as it goes.
func (*hall) try(f func()) (err error) {
	defer func() {
		switch failed := recover().(type) {
		case nil:
		case serverError:
			err = failed
		default:
			panic(failed)
		}
	}()
	f()
	return nil
}

// end stops what was started, the last first.
func (h *hall) end() error {
	for _, what := range slices.Backward(h.cleanups) {
		what()
	}
	return errors.Join(h.errors...)
}
