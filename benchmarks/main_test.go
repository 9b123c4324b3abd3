//go:build services

package benchmarks

import (
	"testing"

	"github.com/waybillmq/waybill/benchmarks/pairs"
)

func TestMain(m *testing.M) { pairs.Main(m) }
