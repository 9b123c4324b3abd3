//go:build services

package retries

import (
	"strings"
	"testing"

	"github.com/waybillmq/waybill/internal/testenv"
)

func places() []place {
	return []place{
		embeddedNATS,
		{name: "RabbitMQ", make: func(t *testing.T) (string, string) {
			return testenv.RabbitMQ(t) + "?topology=queue&queue_type=quorum&declare=none", "orders"
		}},
		{name: "Kafka", make: func(t *testing.T) (string, string) {
			kafka := testenv.Kafka(t)
			return "kafka://" + strings.Join(kafka.Brokers, ",") + "?partitions=2", kafka.Name("orders")
		}},
	}
}
