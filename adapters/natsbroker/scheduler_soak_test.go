//go:build soak

package natsbroker_test

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/waybillmq/waybill/reliable/schedulertest"
)

func soaking(delay time.Duration) schedulertest.Harness {
	var topics atomic.Int64
	return schedulertest.Harness{Delay: delay, Open: func(t testing.TB) schedulertest.Subject {
		server := startServer(t)
		return scheduling(t, declared(t, newBroker(t, server)), server, &topics)
	}}
}

func TestSoakScheduler_keepsTenThousandASecondOnTime(t *testing.T) {
	const delay = 5 * time.Second
	schedulertest.Sustain(t, soaking(delay), schedulertest.Load{
		Rate: 10_000, For: time.Minute, Delay: delay, Late: 5 * time.Second,
	})
}

func TestSoakScheduler_deliversAHundredThousandThatWaitTogether(t *testing.T) {
	const delay = 30 * time.Second
	schedulertest.Pending(t, soaking(delay), 100_000, schedulertest.Load{Delay: delay, Late: 30 * time.Second})
}
