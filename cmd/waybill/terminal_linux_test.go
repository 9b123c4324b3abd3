package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/waybillmq/waybill/reliable"
)

// terminal is a pseudo terminal with a command at its other end.
type terminal struct {
	keyboard *os.File

	mu     sync.Mutex
	screen bytes.Buffer
	shown  chan struct{} // closed and replaced when something is shown
	closed bool
}

// atTerminal starts a command at a terminal; the returned function waits for its end and returns its exit code.
func atTerminal(t *testing.T, url string, args ...string) (*terminal, func() int) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	require.NoError(t, err)
	require.NoError(t, unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0))
	number, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	require.NoError(t, err)
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR, 0)
	require.NoError(t, err)
	cmd := command(t, []string{"WAYBILL_STORE=" + url}, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true} // so that control-C is a signal
	require.NoError(t, cmd.Start())
	require.NoError(t, slave.Close())

	term := &terminal{keyboard: master, shown: make(chan struct{})}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(term, master) // ends when the command does
		term.mu.Lock()
		defer term.mu.Unlock()
		term.closed = true
		close(term.shown)
	}()
	return term, func() int {
		_ = cmd.Wait() // it is said by the exit code
		<-done
		_ = master.Close()
		return cmd.ProcessState.ExitCode()
	}
}

func (t *terminal) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.screen.Write(p)
	close(t.shown)
	t.shown = make(chan struct{})
	return len(p), nil
}

// await waits until the screen shows text n times.
func (t *terminal) await(tb testing.TB, text string, n int) {
	tb.Helper()
	timeout := time.After(patience)
	for {
		t.mu.Lock()
		screen, shown, closed := t.screen.String(), t.shown, t.closed
		t.mu.Unlock()
		if strings.Count(screen, text) >= n {
			return
		}
		if closed {
			tb.Fatalf("the command ended without showing %q:\n%s", text, screen)
		}
		select {
		case <-shown:
		case <-timeout:
			tb.Fatalf("%q is not shown:\n%s", text, screen)
		}
	}
}

func (t *terminal) types(tb testing.TB, line string) {
	tb.Helper()
	_, err := io.WriteString(t.keyboard, line+"\n")
	require.NoError(tb, err)
}

func TestTerminal_manyAreChangedOnceSomebodyTypesYes(t *testing.T) {
	url := places[0].url(t)
	store := migrated(t, url)
	ids := stored(t, store, "orders.placed", 3)
	failed(t, store)
	for _, c := range []struct {
		answer string
		code   int
		want   reliable.Status
	}{{"no", exitUsage, reliable.Failed}, {"", exitUsage, reliable.Failed}, {"yes", exitOK, reliable.Pending}} {
		term, wait := atTerminal(t, url, "requeue", "--topic", "orders.placed", "--why", "test")
		term.await(t, `requeue 3 failed messages of topic "orders.placed"? Type yes to go on:`, 1)
		term.types(t, c.answer)
		assert.Equal(t, c.code, wait(), "answer %q", c.answer)
		assert.Equal(t, 3, statusOf(t, store, ids)[c.want], "answer %q", c.answer)
	}
	confirmed(t, store)
	term, wait := atTerminal(t, url, "purge", "--status", "confirmed", "--older-than", "0s")
	term.await(t, "delete confirmed messages that were settled more than 0ms ago?", 1)
	term.types(t, "yes")
	term.await(t, "deleted 3 confirmed messages", 1)
	assert.Zero(t, wait())
}

func TestTerminal_oneMessageNeedsNoQuestion(t *testing.T) {
	url := places[0].url(t)
	store := migrated(t, url)
	stored(t, store, "orders.placed", 1)
	failed(t, store)
	term, wait := atTerminal(t, url, "discard", "--all", "--why", "test")
	term.await(t, "discard: 1 message decided", 1)
	assert.Zero(t, wait())
}

func TestTerminal_watchRedrawsInPlace(t *testing.T) {
	url := places[0].url(t)
	stored(t, migrated(t, url), "orders.placed", 3)
	term, wait := atTerminal(t, url, "status", "--watch", "--interval", "20ms")
	term.await(t, "\x1b[H\x1b[2J", 3)
	term.await(t, "PENDING/s", 2)
	_, err := term.keyboard.Write([]byte{3}) // control-C
	require.NoError(t, err)
	assert.Zero(t, wait())
}
