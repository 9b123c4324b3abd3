//go:build services

package retries

import (
	"net/url"
	"strings"
	"testing"

	"github.com/go-sql-driver/mysql"
	"github.com/stretchr/testify/require"

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
		{name: "MariaDB", make: func(t *testing.T) (string, string) {
			config, err := mysql.ParseDSN(testenv.MariaDB(t))
			require.NoError(t, err)
			address := url.URL{Scheme: "mariadb", User: url.UserPassword(config.User, config.Passwd), Host: config.Addr, Path: "/" + config.DBName}
			return address.String(), "orders"
		}},
		{name: "PostgreSQL", make: func(t *testing.T) (string, string) { return testenv.Postgres(t), "orders" }},
	}
}
