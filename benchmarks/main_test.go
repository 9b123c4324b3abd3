//go:build services

package benchmarks

import (
	"fmt"
	"os"
	"testing"

	"github.com/waybillmq/waybill/benchmarks/pairs"
)

func TestMain(m *testing.M) {
	if os.Getenv(relayDatabase) == "" {
		pairs.Main(m)
	}
	if err := relayProcess(); err != nil {
		fmt.Fprintln(os.Stderr, "relay:", err)
		os.Exit(1)
	}
}
