//go:build services

package postgresstore_test

import (
	"context"
	"database/sql"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/postgresstore"
	"github.com/waybillmq/waybill/internal/testenv"
	"github.com/waybillmq/waybill/internal/testservers"
	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/reliable/witnesstest"
)

const createOrders = `CREATE TABLE orders (id text PRIMARY KEY)`

// beginSQL starts business transactions on database/sql.
func beginSQL(db *sql.DB) func(testing.TB) witnesstest.Business {
	return func(t testing.TB) witnesstest.Business {
		tx, err := db.BeginTx(context.Background(), nil)
		require.NoError(t, err)
		var backend int64
		require.NoError(t, tx.QueryRowContext(t.Context(), `SELECT pg_backend_pid()`).Scan(&backend))
		exec := func(ctx context.Context, statement string, args ...any) error {
			_, err := tx.ExecContext(ctx, statement, args...)
			return err
		}
		return witnesstest.Business{
			Tx: tx,
			Insert: func(ctx context.Context, id reliable.ID) error {
				return exec(ctx, `INSERT INTO orders (id) VALUES ($1)`, string(id))
			},
			Savepoint: scoped(exec),
			Commit:    func(context.Context) error { return tx.Commit() },
			Rollback:  func(context.Context) error { return tx.Rollback() },
			Kill:      func(t testing.TB) { terminate(t, db, backend) },
		}
	}
}

// beginPgx starts business transactions on pgx; db is for what ends them from outside.
func beginPgx(pool *pgxpool.Pool, db *sql.DB) func(testing.TB) witnesstest.Business {
	return func(t testing.TB) witnesstest.Business {
		tx, err := pool.Begin(context.Background())
		require.NoError(t, err)
		exec := func(ctx context.Context, statement string, args ...any) error {
			_, err := tx.Exec(ctx, statement, args...)
			return err
		}
		return witnesstest.Business{
			Tx: tx,
			Insert: func(ctx context.Context, id reliable.ID) error {
				return exec(ctx, `INSERT INTO orders (id) VALUES ($1)`, string(id))
			},
			Savepoint: scoped(exec),
			Commit:    tx.Commit,
			Rollback:  tx.Rollback,
			Kill:      func(t testing.TB) { terminate(t, db, int64(tx.Conn().PgConn().PID())) },
		}
	}
}

// scoped runs fn in a savepoint and takes it back.
func scoped(exec func(ctx context.Context, statement string, args ...any) error) func(context.Context, func() error) error {
	return func(ctx context.Context, fn func() error) error {
		if err := exec(ctx, `SAVEPOINT scope`); err != nil {
			return err
		}
		if err := fn(); err != nil {
			return err
		}
		return exec(ctx, `ROLLBACK TO SAVEPOINT scope`)
	}
}

func TestWitness_conforms(t *testing.T) {
	for _, driver := range []string{"database/sql", "pgx"} {
		for _, kind := range []string{"by transaction id", "by marker"} {
			t.Run(driver+" "+kind, func(t *testing.T) {
				witnesstest.Run(t, witnesstest.Harness{NeedsToken: true, Open: func(t testing.TB) witnesstest.Subject {
					return witnessed(t, driver == "pgx", kind == "by marker")
				}})
			})
		}
	}
}

func witnessed(t testing.TB, onPgx, marking bool) witnesstest.Subject {
	t.Helper()
	url := testenv.Postgres(t)
	db := openDB(t, url)
	_, err := db.ExecContext(t.Context(), createOrders)
	require.NoError(t, err)
	subject := witnesstest.Subject{NotTx: []any{db}, Begin: beginSQL(db)}
	own := any(db)
	store, err := postgresstore.New(db)
	if onPgx {
		pool := openPool(t, url)
		subject.NotTx, subject.Begin, own = []any{pool}, beginPgx(pool, db), pool
		store, err = postgresstore.NewPgx(pool)
	}
	if marking {
		subject.Witness, err = migrated(t, store, err).MarkerWitness(time.Hour)
	} else {
		subject.Witness, err = postgresstore.NewWitness(own)
	}
	require.NoError(t, err)
	return subject
}

// A marker that is not there may have been purged once its horizon has passed; before that it means that there was no
// commit.
func TestMarkerWitness_knowsNothingBeyondItsHorizon(t *testing.T) {
	db := openDB(t, testenv.Postgres(t))
	store, err := postgresstore.New(db)
	witness, err := migrated(t, store, err).MarkerWitness(time.Hour)
	require.NoError(t, err)
	var now int64
	require.NoError(t, db.QueryRowContext(t.Context(), `SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint`).Scan(&now))
	for age, want := range map[time.Duration]reliable.Fate{
		30 * time.Minute: reliable.FateAborted, 61 * time.Minute: reliable.FateUnknowable, -time.Hour: reliable.FateUnknowable,
	} {
		token := reliable.Token(fmt.Sprintf("mk1:%032x:%d", int64(age+2*time.Hour), now-age.Microseconds()))
		fate, err := witness.Ask(t.Context(), "order-1", token)
		require.NoError(t, err)
		assert.Equal(t, want, fate, "%v", age)
	}
}

func terminate(t testing.TB, db *sql.DB, backend int64) {
	t.Helper()
	var found bool
	require.NoError(t, db.QueryRowContext(t.Context(), `SELECT pg_terminate_backend($1::int)`, backend).Scan(&found))
	require.True(t, found)
}

// A crash forgets the ids of the transactions that were open, and gives them to others. What one of these did is not
// what the first one did.
func TestWitness_afterACrashDoesNotTakeAReusedIDForTheTransactionItMarked(t *testing.T) {
	t.Parallel()
	server := testservers.StartPostgres(t)
	ctx := t.Context()
	pool, err := pgxpool.New(ctx, server.URL())
	require.NoError(t, err)
	defer pool.Close()
	_, err = pool.Exec(ctx, createOrders)
	require.NoError(t, err)
	witness, err := postgresstore.NewWitness(pool)
	require.NoError(t, err)

	committed, err := pool.Begin(ctx)
	require.NoError(t, err)
	before, err := witness.Mark(ctx, committed)
	require.NoError(t, err)
	require.NoError(t, committed.Commit(ctx))

	lost, err := pool.Begin(ctx)
	require.NoError(t, err)
	_, err = lost.Exec(ctx, `INSERT INTO orders (id) VALUES ('phantom')`)
	require.NoError(t, err)
	token, err := witness.Mark(ctx, lost)
	require.NoError(t, err)

	server.Kill()
	server.Start()
	_ = lost.Rollback(ctx)
	pool.Reset()

	reused := false
	for range 100 { // until another transaction has committed under the same id
		var id string
		err := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
			return tx.QueryRow(ctx, `SELECT txid_current()::text`).Scan(&id)
		})
		require.NoError(t, err)
		if reused = strings.HasSuffix(string(token), ":"+id); reused {
			break
		}
	}
	require.True(t, reused, "the server gave the id of %s to no other transaction; if it no longer does, the witness may say more", token)
	fate, err := witness.Ask(ctx, "phantom", token)
	require.NoError(t, err)
	assert.Equal(t, reliable.FateUnknowable, fate, "the id says committed, the transaction did not")
	fate, err = witness.Ask(ctx, "order-1", before)
	require.NoError(t, err)
	assert.Equal(t, reliable.FateUnknowable, fate, "what cannot be told apart is not told")
}

func TestWitness_aCleanRestartChangesNothing(t *testing.T) {
	t.Parallel()
	server := testservers.StartPostgres(t)
	ctx := t.Context()
	pool, err := pgxpool.New(ctx, server.URL())
	require.NoError(t, err)
	defer pool.Close()
	witness, err := postgresstore.NewWitness(pool)
	require.NoError(t, err)
	tokens := map[reliable.Fate]reliable.Token{}
	for want, end := range map[reliable.Fate]func(pgx.Tx) error{
		reliable.FateCommitted: func(tx pgx.Tx) error { return tx.Commit(ctx) },
		reliable.FateAborted:   func(tx pgx.Tx) error { return tx.Rollback(ctx) },
	} {
		tx, err := pool.Begin(ctx)
		require.NoError(t, err)
		tokens[want], err = witness.Mark(ctx, tx)
		require.NoError(t, err)
		require.NoError(t, end(tx))
	}
	server.Stop()
	server.Start()
	pool.Reset()
	for want, token := range tokens {
		fate, err := witness.Ask(ctx, "order-1", token)
		require.NoError(t, err)
		assert.Equal(t, want, fate)
	}
}

// Each of these tokens names a server or an id that is not there.
func TestWitness_ofAnotherServerOrTimeIsUnknowable(t *testing.T) {
	pool := openPool(t, testenv.Postgres(t))
	witness, err := postgresstore.NewWitness(pool)
	require.NoError(t, err)
	tx, err := pool.Begin(t.Context())
	require.NoError(t, err)
	token, err := witness.Mark(t.Context(), tx)
	require.NoError(t, err)
	require.NoError(t, tx.Commit(t.Context()))

	part := strings.Split(string(token), ":")
	id, err := strconv.ParseInt(part[4], 10, 64)
	require.NoError(t, err)
	for name, change := range map[string]func(part []string){
		"another server":          func(part []string) { part[1] += "1" },
		"another timeline":        func(part []string) { part[2] = "0000FFFF" },
		"another crash":           func(part []string) { part[3] = "1" },
		"an id from the future":   func(part []string) { part[4] = strconv.FormatInt(id+1_000_000, 10) },
		"an id of no transaction": func(part []string) { part[4] = "2" },
	} {
		changed := append([]string(nil), part...)
		change(changed)
		fate, err := witness.Ask(t.Context(), "order-1", reliable.Token(strings.Join(changed, ":")))
		require.NoError(t, err, name)
		assert.Equal(t, reliable.FateUnknowable, fate, name)
	}
}

func TestNewWitness_refusesWhatItCannotAskOn(t *testing.T) {
	for _, db := range []any{nil, (*sql.DB)(nil), (*pgxpool.Pool)(nil), "postgres://"} {
		_, err := postgresstore.NewWitness(db)
		require.ErrorIs(t, err, reliable.ErrInvalid)
	}
}
