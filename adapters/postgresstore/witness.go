package postgresstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/waybillmq/waybill/adapters/internal/sqlstore"
	"github.com/waybillmq/waybill/reliable"
)

var _ reliable.Witness = (*Witness)(nil)

// Witness tells the fate of a transaction by its id: nothing is written for it, and a transaction that committed long ago,
// aborted, or lost its connection is told apart by the server itself. It needs no table and no migration.
//
// It answers [reliable.FateUnknowable] where the id may mean another transaction than the one that was marked: on another
// server (the system identifier differs), after a promotion or a point-in-time recovery (the timeline differs), for an id
// so old that the server has forgotten it, and for one that is said to have committed after the server has crashed. The
// last because PostgreSQL writes down no id before its transaction commits: a crash forgets those that were open, and
// gives the same ids to others. That a transaction aborted is certain all the same. With synchronous_commit off a commit
// can be lost after it was told.
//
// A read-only standby knows nothing: ask the primary.
type Witness struct{ db sqlstore.Database }

// NewWitness returns a witness that asks on db, a *sql.DB of pgx's driver or a *pgxpool.Pool, which the caller keeps and
// closes. It does no I/O.
func NewWitness(db any) (*Witness, error) {
	switch db := db.(type) {
	case *sql.DB:
		if db != nil {
			return &Witness{sqlstore.SQLDatabase{DB: db}}, nil
		}
	case *pgxpool.Pool:
		if db != nil {
			return &Witness{pgxPool{db}}, nil
		}
	}
	return nil, fmt.Errorf("postgresstore: %w", reliable.Invalid("db", "is a %T, pass a *sql.DB or a *pgxpool.Pool", db))
}

// The server is described by its system identifier, its timeline, and the time of the last reset of statistics, which a
// crash resets and a clean stop does not (somebody who resets them by hand makes ids unknowable, no more). The timeline is
// that of the next WAL record, since pg_control_checkpoint() still has the old one right after a promotion. A standby
// has none. The functions named txid are those that PostgreSQL 12 knows too.
const (
	describeServer = `
SELECT (SELECT system_identifier FROM pg_control_system())::text,
  CASE WHEN pg_is_in_recovery() THEN '' ELSE substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8) END,
  COALESCE((SELECT (extract(epoch FROM stats_reset) * 1000000)::bigint FROM pg_stat_bgwriter), 0)`
	markTransaction = describeServer + `,
  txid_current()`
	askTransaction = `
SELECT COALESCE(txid_status($1), '')`
)

// witnessVersion begins every token.
const witnessVersion = "pg1"

// firstNormalID is the first id that a server gives to a transaction.
const firstNormalID = 3

// server is what makes a transaction id mean something.
type server struct {
	system, timeline string
	statistics       int64
}

// Mark returns the id of tx, a *sql.Tx, pgx.Tx, or transaction of a library on top of one, with its server. It is that of
// the whole transaction, inside a savepoint too.
func (w *Witness) Mark(ctx context.Context, tx any) (reliable.Token, error) {
	conn, err := connOf(tx)
	if err != nil {
		return "", fmt.Errorf("postgresstore: mark: %w", err)
	}
	var here server
	var xid int64
	if err := scanOne(ctx, conn, []any{&here.system, &here.timeline, &here.statistics, &xid}, markTransaction); err != nil {
		return "", fmt.Errorf("postgresstore: mark: %w", err)
	}
	return reliable.Token(fmt.Sprintf("%s:%s:%s:%d:%d", witnessVersion, here.system, here.timeline, here.statistics, xid)), nil
}

// connOf runs statements in a transaction.
func connOf(tx any) (sqlstore.Conn, error) {
	if tx, ok := tx.(pgx.Tx); ok && !isNil(tx) {
		return pgxConn{tx}, nil
	}
	return sqlstore.ConnOf(tx)
}

// Ask implements [reliable.Witness]; the id is not needed.
func (w *Witness) Ask(ctx context.Context, _ reliable.ID, token reliable.Token) (reliable.Fate, error) {
	then, xid, ok := parseToken(token)
	if !ok {
		return reliable.FateUnknowable, nil
	}
	// One connection for both questions: it ends when the server does.
	conn, release, err := w.db.Acquire(ctx)
	if err != nil {
		return 0, fmt.Errorf("postgresstore: ask: %w", err)
	}
	defer release()
	var now server
	if err := scanOne(ctx, conn, []any{&now.system, &now.timeline, &now.statistics}, describeServer); err != nil {
		return 0, fmt.Errorf("postgresstore: ask: %w", err)
	}
	if now.system != then.system || now.timeline != then.timeline {
		return reliable.FateUnknowable, nil
	}
	var status string
	if err := scanOne(ctx, conn, []any{&status}, askTransaction, xid); err != nil {
		if refused, ok := errors.AsType[*pgconn.PgError](err); ok && refused.Code == idInTheFuture {
			return reliable.FateUnknowable, nil
		}
		return 0, fmt.Errorf("postgresstore: ask: %w", err)
	}
	return fateOf(status, now.statistics != 0 && now.statistics == then.statistics), nil
}

// idInTheFuture is the code (invalid_parameter_value) of "transaction ID is in the future".
const idInTheFuture = "22023"

// fateOf says what the server's word means. certain is whether no other transaction can have been given the id. That it
// aborted needs no certainty: had the marked one committed, its id would not have been given to another.
func fateOf(status string, certain bool) reliable.Fate {
	switch {
	case status == "aborted":
		return reliable.FateAborted
	case status == "committed" && certain:
		return reliable.FateCommitted
	case status == "in progress":
		return reliable.FateOpen // it, or another one whose end will tell
	}
	return reliable.FateUnknowable
}

func parseToken(token reliable.Token) (server, int64, bool) {
	part := strings.Split(string(token), ":")
	if len(token) > reliable.MaxTokenBytes || len(part) != 5 || part[0] != witnessVersion || part[2] == "" {
		return server{}, 0, false
	}
	statistics, err := strconv.ParseInt(part[3], 10, 64)
	if err != nil {
		return server{}, 0, false
	}
	xid, err := strconv.ParseInt(part[4], 10, 64)
	if err != nil || xid < firstNormalID {
		return server{}, 0, false
	}
	return server{part[1], part[2], statistics}, xid, true
}

// MarkerWitness returns a witness that inserts a row in the business transaction and finds it, or puts a tombstone in its
// place; see [reliable.Marker]. It asks on the store's own handle, and certain is what it says after a crash too, where
// [NewWitness] must say that it does not know.
func (s *Store) MarkerWitness(horizon time.Duration) (reliable.Witness, error) {
	return s.NewMarkerWitness(horizon, connOf, s.askMarker)
}

// An INSERT waits for a transaction that has inserted the same key and is open.
const impatience = `SET LOCAL lock_timeout = '100ms'`

func (s *Store) askMarker(
	ctx context.Context, look func(context.Context, sqlstore.Conn) (reliable.Fate, error),
) (reliable.Fate, error) {
	return s.AskWithLocks(ctx, look, func(ctx context.Context, conn sqlstore.Conn) error {
		_, err := conn.Exec(ctx, impatience)
		return err
	}, lockTaken)
}

// lockNotAvailable is the code by which a statement gives up a lock.
const lockNotAvailable = "55P03"

func lockTaken(err error) bool {
	refused, ok := errors.AsType[*pgconn.PgError](err)
	return ok && refused.Code == lockNotAvailable
}

// Receive records in tx, which [Store.Bind] takes, that a group processes a message; see [reliable.Inbox].
func (s *Store) Receive(ctx context.Context, tx any, group string, id reliable.ID) (bool, error) {
	conn, err := connOf(tx)
	if err != nil {
		return false, fmt.Errorf("postgresstore: receive: %w", err)
	}
	return s.ReceiveOn(ctx, conn, group, id)
}
