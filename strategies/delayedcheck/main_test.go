package delayedcheck_test

import (
	"testing"

	"go.uber.org/goleak"
)

// go-metrics, which watermill-kafka's client uses, keeps one goroutine for the life of the process.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("github.com/rcrowley/go-metrics.(*meterArbiter).tick"))
}
