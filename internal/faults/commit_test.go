//go:build services

package faults

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"net/url"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/rabbitmqbroker"
	"github.com/waybillmq/waybill/internal/faultproxy"
	"github.com/waybillmq/waybill/internal/testenv"
	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/strategies/tagging"
)

// proxied is the database seen through a proxy of its server.
func (d database) proxied(t *testing.T) (database, *faultproxy.Proxy) {
	t.Helper()
	if d.Driver == "mysql" {
		config, err := mysql.ParseDSN(d.DSN)
		require.NoError(t, err)
		proxy := faultproxy.New(t, config.Addr)
		config.Addr = proxy.Addr()
		d.DSN = config.FormatDSN()
		return d, proxy
	}
	address, err := url.Parse(d.DSN)
	require.NoError(t, err)
	proxy := faultproxy.New(t, address.Host)
	address.Host = proxy.Addr()
	d.DSN = address.String()
	return d, proxy
}

// client is a business that places one order, again with the same ID until that went well.
type client struct {
	name  string
	make  func(testing.TB) database
	place func(t *testing.T, r *rig, through database) func(ctx context.Context, id string) error
}

// onceOnly inserts an order that may be there already, from the same call made before.
func onceOnly(kind, id string) string {
	if kind == "postgres" {
		return insertOf(id) + " ON CONFLICT DO NOTHING"
	}
	return insertOf(id) + " ON DUPLICATE KEY UPDATE id = id"
}

func placeBySQL(t *testing.T, r *rig, through database) func(ctx context.Context, id string) error {
	t.Helper()
	db, err := sql.Open(through.Driver, through.DSN)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, db.Close()) })
	return func(ctx context.Context, id string) error {
		return tagging.InTx(ctx, r.outbox, db, func(tx *sql.Tx, out *tagging.Scope) error {
			_, err := tx.ExecContext(ctx, onceOnly(r.kind, id))
			return errors.Join(err, out.Send(order(id)))
		})
	}
}

func placeByPgx(t *testing.T, r *rig, through database) func(ctx context.Context, id string) error {
	t.Helper()
	pool, err := pgxpool.New(t.Context(), through.DSN)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	return func(ctx context.Context, id string) error {
		return tagging.InTx(ctx, r.outbox, pool, func(tx pgx.Tx, out *tagging.Scope) error {
			_, err := tx.Exec(ctx, onceOnly(r.kind, id))
			return errors.Join(err, out.Send(order(id)))
		})
	}
}

func TestCommit_whoseAnswerIsCutOffIsUnknownAndRepeatingItStoresOnce(t *testing.T) {
	t.Parallel()
	for _, c := range []client{
		{"MariaDB", mariaDB, placeBySQL}, {"PostgreSQL database/sql", postgres, placeBySQL}, {"PostgreSQL pgx", postgres, placeByPgx},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			d, amqpURL := c.make(t), testenv.RabbitMQ(t)
			declare(t, amqpURL, queue, quorum)
			r := newRig(t, rigConfig{
				database: d, amqpURL: amqpURL,
				broker: []rabbitmqbroker.Option{rabbitmqbroker.WithConfirmTimeout(childConfirm), rabbitmqbroker.WithBlockedTimeout(childConfirm)},
				outbox: []tagging.Option{tagging.WithLease(crashLease)},
			})
			r.createOrders()
			through, proxy := d.proxied(t)
			place := c.place(t, r, through)
			for id, action := range map[string]faultproxy.Action{
				"before": faultproxy.CutBefore, "lost": faultproxy.LoseAnswer, "after": faultproxy.CutAfter,
			} {
				var cut atomic.Bool
				proxy.OnClientBytes(func(chunk []byte) faultproxy.Action {
					if bytes.Contains(bytes.ToUpper(chunk), []byte("COMMIT")) && cut.CompareAndSwap(false, true) {
						return action
					}
					return faultproxy.Forward
				})
				ctx, cancel := context.WithTimeout(t.Context(), placeTime)
				err := place(ctx, id)
				cancel()
				require.True(t, cut.Load(), "the COMMIT was not seen")
				require.ErrorIs(t, err, reliable.ErrUnknown, id)
				if id == "lost" {
					require.True(t, r.orders()[id], "this answer was lost after the fact")
				}
				require.Eventually(t, func() bool { return place(t.Context(), id) == nil }, patience, 50*time.Millisecond)
			}
			// What did commit was leased, and is sent when that lease ends.
			r.eventuallySettled()
			assert.Len(t, r.orders(), 3)
			assert.Len(t, r.withStatus(reliable.Confirmed), 3)
			assert.Equal(t, map[string]int{"before": 1, "lost": 1, "after": 1}, consume(t, amqpURL, queue))
		})
	}
}
