package rabbitmqbroker

import (
	"errors"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/internal/virtualtime"
)

// refusedFrom is a failure to connect as it looks from one of our ports.
func refusedFrom(port int) error {
	return &ConnectError{Problem: Unreachable, Cause: &net.OpError{
		Op: "read", Net: "tcp", Source: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port}, Err: errors.New("connection reset"),
	}}
}

func TestTrouble_isToldAtFirstAtGrowingIntervalsAndWhenItChanges(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		var tr trouble
		began := time.Now()
		var told []time.Duration
		var last []any
		for port := range 3600 { // an hour, one try a second
			if what := tr.failed(refusedFrom(port)); what != nil {
				told = append(told, time.Since(began))
				last = what
			}
			time.Sleep(time.Second)
		}
		assert.Equal(t, []time.Duration{
			0, 10 * time.Second, 30 * time.Second, 70 * time.Second, 150 * time.Second, 310 * time.Second, 630 * time.Second,
			1230 * time.Second, 1830 * time.Second, 2430 * time.Second, 3030 * time.Second,
		}, told)
		assert.Equal(t, []any{"error", refusedFrom(3030), "tries", 3031, "since", 3030 * time.Second}, last)

		other := &ConnectError{Problem: LoginRefused, Cause: errors.New("ACCESS_REFUSED")}
		require.NotNil(t, tr.failed(other), "another reason must be told at once")
		assert.Equal(t, []any{"tries", 3601, "after", time.Hour}, tr.over())
		assert.Empty(t, tr.over(), "it is told once that it is over")
		assert.Equal(t, []any{"error", other}, tr.failed(other), "what fails again is told at once")
	})
}
