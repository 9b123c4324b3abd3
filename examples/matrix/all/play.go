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
	"sync"

	"github.com/waybillmq/waybill/internal/testservers"
)

// play plays one row with one strategy: the binary on the row's servers.
func (m matrix) play(ctx context.Context, r row, strategy, binary string, g *ground) outcome {
	o := outcome{name: r.name, strategy: strategy}
	var said bytes.Buffer
	var failed error
	setting := try(func() {
		own := strings.ToLower(strings.ReplaceAll(r.name, "+", "_") + "_" + strategy)
		storeURL := r.store(g, own)
		brokerURL, broker := r.broker(g, own)
		env := []string{
			"STRATEGY=" + strategy, "STORE_URL=" + storeURL, "BROKER_URL=" + brokerURL,
			fmt.Sprint("ORDERS=", m.orders), fmt.Sprint("PATIENCE=", m.patience),
		}
		failed = m.runChild(ctx, binary, env, broker, &o, &said)
	})
	o.err = errors.Join(setting, failed)
	fmt.Fprintf(m.log, "%s, %s:\n%s", r.name, strategy, said.Bytes())
	return o
}

// runChild runs the binary, hears what it says, and passes that on.
func (m matrix) runChild(ctx context.Context, binary string, env []string, broker server, o *outcome, said io.Writer) error {
	child := exec.CommandContext(ctx, binary)
	child.Env = append(append(os.Environ(), env...), m.env...)
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
	err = try(func() { o.listen(io.TeeReader(says, said), answers, broker) })
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

// shared is a writer that several goroutines may use.
type shared struct {
	mu sync.Mutex
	to io.Writer
}

// Write passes what on as a whole.
func (s *shared) Write(what []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.to.Write(what)
}

// hall is what the servers have in place of a test. It is safe for concurrent use.
type hall struct {
	log io.Writer

	mu       sync.Mutex
	cleanups []func()
	failed   bool
	errors   []error
}

var _ testservers.T = (*hall)(nil)

// serverError is what Fatalf leaves by.
type serverError string

func (e serverError) Error() string { return string(e) }

func (*hall) Helper() {}

// Cleanup has what called at the end.
func (h *hall) Cleanup(what func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.cleanups = append(h.cleanups, what)
}

// Failed reports whether anything has failed.
func (h *hall) Failed() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.failed
}

// Logf writes a line to the log.
func (h *hall) Logf(format string, args ...any) { fmt.Fprintf(h.log, format+"\n", args...) }

// Errorf records an error of all rows together.
func (h *hall) Errorf(format string, args ...any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.failed = true
	h.errors = append(h.errors, fmt.Errorf(format, args...))
}

// Fatalf ends what [try] tries, with an error.
func (h *hall) Fatalf(format string, args ...any) {
	h.mu.Lock()
	h.failed = true
	h.mu.Unlock()
	panic(serverError(fmt.Sprintf(format, args...)))
}

// end stops what was started, the last first.
func (h *hall) end() error {
	for _, what := range slices.Backward(h.cleanups) {
		what()
	}
	return errors.Join(h.errors...)
}

// try runs f as far as it goes.
func try(f func()) (err error) {
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
