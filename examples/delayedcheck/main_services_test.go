//go:build services && linux

package main

import (
	"bytes"
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/internal/testenv"
	"github.com/waybillmq/waybill/internal/testservers"
)

// onServer is a pair whose broker is stopped and started; it is the test's own, and the database may be one that others use.
func onServer(name, database, broker string, server interface {
	Stop()
	Start()
},
) pair {
	return pair{
		name: name, database: database, broker: broker, delay: 4 * time.Second,
		stop:  func(context.Context) error { server.Stop(); return nil },
		start: func(context.Context) error { server.Start(); return nil },
	}
}

// The pairs run side by side: most of each one's time is the restart of its server.
func TestServices_loseNothingWhenEverybodyIsKilled(t *testing.T) {
	for name, pairOf := range map[string]func(t *testing.T) pair{
		"RabbitMQ+MariaDB": func(t *testing.T) pair {
			mariaDB, err := mariaDBURL(testenv.MariaDB(t))
			require.NoError(t, err)
			server := testservers.StartRabbitMQ(t)
			return onServer(t.Name(), mariaDB, rabbitMQURL(server.URL()), server)
		},
		"Kafka+PostgreSQL": func(t *testing.T) pair {
			postgreSQL := testenv.Postgres(t)
			server := testservers.StartKafka(t)
			return onServer(t.Name(), postgreSQL, kafkaURL(server.Addr()), server)
		},
		"PostgreSQL+PostgreSQL": func(t *testing.T) pair {
			server := testservers.StartPostgres(t)
			return onServer(t.Name(), server.URL(), server.URL(), server)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var out bytes.Buffer
			result, err := direct(t.Context(), pairOf(t), 60, 5*time.Minute, &out)
			t.Log("\n" + out.String())
			require.NoError(t, err)
			require.NoError(t, result.Err())
			assert.Equal(t, 60, result.Orders)
			assert.Equal(t, 60, result.Delivered)
			assert.GreaterOrEqual(t, result.Checks, 60)
			assert.Contains(t, out.String(), result.String())
		})
	}
}
