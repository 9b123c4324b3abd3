//go:build services && soak

package delayedcheck_test

import (
	"testing"
	"time"

	"github.com/waybillmq/waybill/reliable/schedulertest"
)

func TestSoakTopicScheduler_keepsTenThousandASecondOnTime(t *testing.T) {
	const delay = 5 * time.Second
	schedulertest.Sustain(t, schedulertest.Harness{Delay: delay, Open: onKafka(inPostgres)}, schedulertest.Load{
		Rate: 10_000, For: time.Minute, Delay: delay, Late: 5 * time.Second,
	})
}

func TestSoakTopicScheduler_deliversAHundredThousandThatWaitTogether(t *testing.T) {
	const delay = 60 * time.Second
	schedulertest.Pending(t, schedulertest.Harness{Delay: delay, Open: onKafka(inMariaDB)}, 100_000,
		schedulertest.Load{Delay: delay, Late: 30 * time.Second})
}
