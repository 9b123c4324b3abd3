package rabbitmqbroker

import (
	"strings"
	"testing"

	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"
)

func TestHeaderFrameSize_saysWhatCannotBeEncoded(t *testing.T) {
	long := strings.Repeat("x", maxShortString+1)
	for problem, msg := range map[string]amqp.Publishing{
		"property CorrelationId has 256 bytes": {CorrelationId: long},
		"a header key has 256 bytes":           {Headers: amqp.Table{long: ""}},
		"a value of type uint64":               {Headers: amqp.Table{"k": uint64(1)}},
		"a value of type struct {}":            {Headers: amqp.Table{"k": []any{struct{}{}}}},
		"a value of type chan int":             {Headers: amqp.Table{"k": amqp.Table{"k": make(chan int)}}},
	} {
		_, err := headerFrameSize(&msg)
		require.ErrorContains(t, err, problem)
	}
}
