package sqlbroker

import (
	"context"
	"database/sql"
	"time"

	wsql "github.com/ThreeDotsLabs/watermill-sql/v3/pkg/sql"
)

// Dialect is the kind of database that a broker's handle leads to.
type Dialect uint8

const (
	// MySQL is MySQL from 8.0, or MariaDB from 10.6, by the driver github.com/go-sql-driver/mysql.
	MySQL Dialect = iota + 1
	// Postgres is PostgreSQL from 13, by the driver github.com/jackc/pgx/v5/stdlib.
	Postgres
)

// String returns the name for logs and errors.
func (d Dialect) String() string {
	switch d {
	case MySQL:
		return "MySQL"
	case Postgres:
		return "PostgreSQL"
	}
	return "invalid"
}

// class is what an error means to the messages that a transaction was to store.
type class uint8

const (
	// lost is for what did not come from the server, or tells that it goes away: a COMMIT may have worked.
	lost class = iota
	// stopped is a refusal that has nothing to do with the messages or their table: a deadlock, a lock that was not given
	// in time, a server that does not write at present. Nothing was stored.
	stopped
	// nowhere is a refusal for want of a table of ours, or of the right to write to it.
	nowhere
	// full is a refusal for want of room.
	full
	// unfit is a refusal of a value: too large, not to be encoded.
	unfit
)

// dialect is what differs between databases.
type dialect interface {
	tables(prefix string) tables
	// insert returns the statements of a transaction that store flights of a topic, in their order.
	insert(t tables, topic string, fs []*flight) []statement
	// declare makes the tables of a topic and says whether they are fit for it.
	declare(ctx context.Context, db *sql.DB, statements []string, table string) error
	// learn looks at the server.
	learn(ctx context.Context, conn *sql.Conn) (facts, error)
	explaining
	reading
	bounding
	delaying
}

// explaining is what errors mean.
type explaining interface {
	// classify says what an error means, and which of the server's it is, for people: "" if it is none.
	classify(err error) (class, string)
	// deadlocked reports whether the server ended a transaction to let another one go on.
	deadlocked(err error) bool
}

// reading is what subscribers need.
type reading interface {
	adapters(t tables, batch int) (wsql.SchemaAdapter, wsql.OffsetsAdapter)
	// introduce makes the row of a group that has read nothing yet, where watermill-sql does not do that by itself.
	introduce(ctx context.Context, db *sql.DB, t tables, topic, group string) error
}

// bounding is how transactions begin that do not wait for ever.
type bounding interface {
	// begin is the statement that begins a transaction on a connection of the broker's own.
	begin(lockWait time.Duration) string
	// bound bounds how long statements of a connection wait for locks, 0 takes it back: one of the broker's own
	// before it begins, or the transaction of a store.
	bound(ctx context.Context, on execer, inside bool, lockWait time.Duration) error
}

// delaying are the statements of a Scheduler.
type delaying interface {
	// delayedSchema makes the table in which messages wait.
	delayedSchema(t tables) []string
	// delay stores flights that become due after a while.
	delay(t tables, after time.Duration, fs []*flight) statement
	// lockDue selects id, topic and size of what is due and locked by nobody, and locks it.
	lockDue(t tables, limit int) string
	// moveDue returns the statements that copy messages into their topic's table.
	moveDue(t tables, topic string, ids []int64) []statement
	// deleteDelayed deletes what was copied.
	deleteDelayed(t tables, ids []int64) statement
	// postpone makes messages due after a while from now.
	postpone(t tables, ids []int64, by time.Duration) statement
}

// statement is one with its arguments.
type statement struct {
	text string
	args []any
}

// execer runs a statement that returns nothing.
type execer func(ctx context.Context, statement string, args ...any) error

// facts are what is known of a server.
type facts struct {
	identity   string // see sqlidentity
	maxPayload int    // bytes; 0 is no limit of the server's own
}

func dialectOf(d Dialect) dialect {
	switch d {
	case MySQL:
		return mysqlDialect{}
	case Postgres:
		return postgresDialect{}
	}
	return nil
}

// all runs statements, one after the other.
func (on execer) all(ctx context.Context, statements []statement) error {
	for _, s := range statements {
		if err := on(ctx, s.text, s.args...); err != nil {
			return err
		}
	}
	return nil
}

// execOn runs statements on a connection.
func execOn(conn *sql.Conn) execer {
	return func(ctx context.Context, statement string, args ...any) error {
		_, err := conn.ExecContext(ctx, statement, args...)
		return err
	}
}

// rowOn reads rows on a connection, as sqlidentity asks for.
func rowOn(conn *sql.Conn) func(ctx context.Context, statement string, columns ...*string) error {
	return func(ctx context.Context, statement string, columns ...*string) error {
		values := make([]sql.NullString, len(columns))
		into := make([]any, len(columns))
		for i := range values {
			into[i] = &values[i]
		}
		rows, err := conn.QueryContext(ctx, statement)
		if err != nil {
			return err
		}
		defer func() { _ = rows.Close() }()
		if rows.Next() {
			if err := rows.Scan(into...); err != nil {
				return err
			}
			for i := range values {
				*columns[i] = values[i].String
			}
		}
		return rows.Err()
	}
}
