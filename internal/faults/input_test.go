//go:build services

package faults

import (
	"context"
	"database/sql"
	"net/url"
	"testing"

	"github.com/go-sql-driver/mysql"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/membroker"
	"github.com/waybillmq/waybill/adapters/mysqlstore"
	"github.com/waybillmq/waybill/adapters/postgresstore"
	"github.com/waybillmq/waybill/adapters/rabbitmqbroker"
	"github.com/waybillmq/waybill/internal/testenv"
	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/strategies/tagging"
)

// secret is what no error may repeat.
const secret = "t0p-s3cret"

func (d database) withPassword(t *testing.T, password string) database {
	t.Helper()
	if d.Driver == "mysql" {
		config, err := mysql.ParseDSN(d.DSN)
		require.NoError(t, err)
		config.Passwd = password
		return database{Driver: d.Driver, DSN: config.FormatDSN()}
	}
	address, err := url.Parse(d.DSN)
	require.NoError(t, err)
	address.User = url.UserPassword(address.User.Username(), password)
	return database{Driver: d.Driver, DSN: address.String()}
}

// unmigrated opens a store on whatever tables there are.
func (d database) unmigrated(t *testing.T) (*sql.DB, reliable.Store) {
	t.Helper()
	db, err := sql.Open(d.Driver, d.DSN)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, db.Close()) })
	if d.Driver == "pgx" {
		store, err := postgresstore.New(db)
		require.NoError(t, err)
		return db, store
	}
	store, err := mysqlstore.New(db)
	require.NoError(t, err)
	return db, store
}

func outboxOn(t *testing.T, store reliable.Store) *tagging.Outbox {
	t.Helper()
	broker := membroker.New()
	t.Cleanup(func() { assert.NoError(t, broker.Close()) })
	outbox, err := tagging.New(store, broker, broker, tagging.WithLogger(quiet(t)))
	require.NoError(t, err)
	return outbox
}

func TestInput_unmigratedTablesAreToldAtTheFirstPoint(t *testing.T) {
	t.Parallel()
	for kind, makeDatabase := range databases {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			db, store := makeDatabase(t).unmigrated(t)
			outbox := outboxOn(t, store)
			ctx := t.Context()
			require.ErrorIs(t, outbox.Run(ctx), reliable.ErrSchema)
			_, err := outbox.SweepOnce(ctx)
			require.ErrorIs(t, err, reliable.ErrSchema)
			require.ErrorContains(t, err, "Migrate", "the error must say what to do")
			_, err = outbox.Publish(ctx, order("o"))
			require.ErrorIs(t, err, reliable.ErrSchema)
			require.ErrorIs(t, err, reliable.ErrNotStored)
			err = tagging.InTx(ctx, outbox, db, func(_ *sql.Tx, out *tagging.Scope) error { return out.Send(order("o")) })
			require.ErrorIs(t, err, reliable.ErrSchema)
			require.ErrorIs(t, err, reliable.ErrNotStored)
		})
	}
}

func TestInput_wrongDatabasePasswordFailsAtTheFirstPointWithoutRepeatingIt(t *testing.T) {
	t.Parallel()
	for kind, makeDatabase := range databases {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			db, store := makeDatabase(t).withPassword(t, secret).unmigrated(t)
			outbox := outboxOn(t, store)
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			_, publishing := outbox.Publish(ctx, order("o"))
			checker, ok := reliable.Ability[reliable.Checker](store)
			require.True(t, ok)
			for name, err := range map[string]error{
				"Check":   checker.Check(ctx),
				"Publish": publishing,
				"InTx":    tagging.InTx(ctx, outbox, db, func(_ *sql.Tx, out *tagging.Scope) error { return out.Send(order("o")) }),
			} {
				require.Error(t, err, name)
				assert.NotContains(t, err.Error(), secret, name)
				assert.NotErrorIs(t, err, reliable.ErrUnknown, name)
				assert.NoError(t, ctx.Err(), name)
			}
			assert.ErrorIs(t, publishing, reliable.ErrNotStored)
		})
	}
}

func TestInput_wrongBrokerURLIsToldWithoutRepeatingTheSecret(t *testing.T) {
	t.Parallel()
	for _, bad := range []string{"", "http://user:" + secret + "@host/", "amqp://user:" + secret + "@host:port/", "amqp://%zz:" + secret + "@host/"} {
		_, err := rabbitmqbroker.NewFromURL(bad)
		require.ErrorIs(t, err, reliable.ErrInvalid, bad)
		assert.NotContains(t, err.Error(), secret)
	}
	address, err := url.Parse(testenv.RabbitMQ(t))
	require.NoError(t, err)
	address.User = url.UserPassword(address.User.Username(), secret)
	broker, err := rabbitmqbroker.NewFromURL(address.String(), rabbitmqbroker.WithLogger(quiet(t)))
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, broker.Close()) })
	var problem *rabbitmqbroker.ConnectError
	err = broker.Ping(t.Context())
	require.ErrorAs(t, err, &problem)
	assert.Equal(t, rabbitmqbroker.LoginRefused, problem.Problem)
	assert.NotContains(t, err.Error(), secret)
}

func TestInput_badMessagesAreRefusedByEveryWayOfSendingBeforeAnythingIsStored(t *testing.T) {
	bad := map[string]reliable.Envelope{
		"no topic":          {ID: "x", Payload: []byte("x")},
		"topic not UTF-8":   {ID: "x", Topic: "\xff"},
		"reserved metadata": {ID: "x", Topic: queue, Metadata: map[string]string{reliable.ReservedPrefix + "own": "x"}},
		"oversize":          {ID: "x", Topic: queue, Payload: make([]byte, reliable.DefaultLimits().Payload+1)},
		"long id":           {ID: reliable.ID(make([]byte, reliable.MaxIDBytes+1)), Topic: queue},
	}
	eachFace(t, func(t *testing.T, f *face) {
		ctx := t.Context()
		for name, env := range bad {
			_, err := f.outbox.Publish(ctx, order("beside"), env)
			require.ErrorIs(t, err, reliable.ErrInvalid, name)
			require.ErrorIs(t, f.inTx(ctx, func(_ execFunc, out *tagging.Scope) error { return out.Send(order("beside"), env) }), reliable.ErrInvalid, name)
			tx, err := f.begin(ctx)
			require.NoError(t, err)
			_, err = f.outbox.Send(ctx, tx.native, order("beside"), env)
			require.ErrorIs(t, err, reliable.ErrInvalid, name)
			require.NoError(t, tx.commit(ctx), "the transaction must stay usable")
		}
		for _, tx := range []any{nil, "no transaction", f} {
			_, err := f.outbox.Send(ctx, tx, order("beside"))
			require.ErrorIs(t, err, reliable.ErrInvalid)
		}
		assert.Empty(t, f.sent())
	})
}
