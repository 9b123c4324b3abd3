//go:build services

package faults

import (
	"context"
	"database/sql"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/mysqlstore"
	"github.com/waybillmq/waybill/adapters/postgresstore"
	"github.com/waybillmq/waybill/adapters/rabbitmqbroker"
	"github.com/waybillmq/waybill/health"
	"github.com/waybillmq/waybill/internal/testservers"
	"github.com/waybillmq/waybill/reliable"
)

const (
	probeTimeout = time.Second
	// probeSlack is what a loaded machine may add to an answer; without a timeout there would be none.
	probeSlack = 20 * time.Second
)

// asks requests a path, and fails if the answer takes longer than it may.
func asks(t *testing.T, h http.Handler, path string) (code int, codes []health.Code) {
	t.Helper()
	recorder, began := httptest.NewRecorder(), time.Now()
	h.ServeHTTP(recorder, httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil))
	assert.Less(t, time.Since(began), probeTimeout+probeSlack, "a probe must not wait longer")
	var report health.Report
	require.NoError(t, json.Unmarshal(recorder.Body.Bytes(), &report))
	for _, reason := range report.Reasons {
		codes = append(codes, reason.Code)
	}
	return recorder.Code, codes
}

func eventuallyAnswers(t *testing.T, h http.Handler, path string, code int, codes ...health.Code) {
	t.Helper()
	assert.EventuallyWithT(t, func(c *assert.CollectT) {
		gotCode, gotCodes := asks(t, h, path)
		assert.Equal(c, code, gotCode)
		assert.Equal(c, codes, gotCodes)
	}, patience, 100*time.Millisecond)
}

func TestHealth_tellsOfADatabaseThatIsStoppedOrPausedAndOfItsReturn(t *testing.T) {
	t.Parallel()
	for kind, makePrivate := range privateDatabases {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			d := makePrivate(t)
			db, store, err := d.open(t.Context())
			require.NoError(t, err)
			t.Cleanup(func() { assert.NoError(t, db.Close()) })
			h, err := health.New(store, health.WithTimeout(probeTimeout), health.WithInterval(50*time.Millisecond), health.WithLogger(quiet(t)))
			require.NoError(t, err)
			eventuallyAnswers(t, h, "/health", http.StatusOK)
			for _, trouble := range []struct{ begin, end func() }{{d.Stop, d.Start}, {d.Pause, d.Resume}} {
				trouble.begin()
				eventuallyAnswers(t, h, "/ready", http.StatusServiceUnavailable, health.StoreUnreachable)
				code, _ := asks(t, h, "/live")
				assert.Equal(t, http.StatusOK, code)
				trouble.end()
				eventuallyAnswers(t, h, "/health", http.StatusOK)
			}
		})
	}
}

func TestHealth_tellsOfTablesThatAreMissing(t *testing.T) {
	t.Parallel()
	for kind, makeDatabase := range databases {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			d := makeDatabase(t)
			db, err := sql.Open(d.Driver, d.DSN)
			require.NoError(t, err)
			t.Cleanup(func() { assert.NoError(t, db.Close()) })
			var store interface {
				reliable.Store
				Migrate(ctx context.Context) error
			}
			if kind == "postgres" {
				store, err = postgresstore.New(db)
			} else {
				store, err = mysqlstore.New(db)
			}
			require.NoError(t, err)
			h, err := health.New(store, health.WithTimeout(10*time.Second), health.WithInterval(time.Millisecond), health.WithLogger(quiet(t)))
			require.NoError(t, err)
			report := h.Report(t.Context())
			assert.Equal(t, health.Unavailable, report.Status)
			require.Len(t, report.Reasons, 1)
			assert.Equal(t, health.StoreUnmigrated, report.Reasons[0].Code)
			require.NoError(t, store.Migrate(t.Context()))
			time.Sleep(2 * time.Millisecond) // the interval
			assert.Equal(t, health.OK, h.Report(t.Context()).Status)
		})
	}
}

func TestHealth_tellsOfABrokerThatIsStoppedOrPausedAndStaysReady(t *testing.T) {
	t.Parallel()
	server := testservers.StartRabbitMQ(t)
	db, store, err := mariaDB(t).open(t.Context())
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, db.Close()) })
	broker, err := rabbitmqbroker.NewFromURL(server.URL(), rabbitmqbroker.WithLogger(quiet(t)),
		rabbitmqbroker.WithReconnectBackoff(50*time.Millisecond, time.Second))
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, broker.Close()) })
	h, err := health.New(store, health.WithBroker(broker), health.WithTimeout(probeTimeout),
		health.WithInterval(50*time.Millisecond), health.WithLogger(quiet(t)))
	require.NoError(t, err)
	eventuallyAnswers(t, h, "/health", http.StatusOK)
	for _, trouble := range []struct{ begin, end func() }{{server.Stop, server.Start}, {server.Pause, server.Resume}} {
		trouble.begin()
		eventuallyAnswers(t, h, "/health", http.StatusServiceUnavailable, health.BrokerUnreachable)
		eventuallyAnswers(t, h, "/ready", http.StatusOK, health.BrokerUnreachable)
		trouble.end()
		eventuallyAnswers(t, h, "/health", http.StatusOK)
	}
}
