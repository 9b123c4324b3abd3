package sqlbroker

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"

	wsql "github.com/ThreeDotsLabs/watermill-sql/v3/pkg/sql"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/waybillmq/waybill/adapters/internal/sqlidentity"
)

type postgresDialect struct{}

func (postgresDialect) tables(prefix string) tables { return tables{prefix: prefix, quote: `"`} }

func (postgresDialect) adapters(t tables, batch int) (wsql.SchemaAdapter, wsql.OffsetsAdapter) {
	return postgresSchema{
			DefaultPostgreSQLSchema: wsql.DefaultPostgreSQLSchema{
				GenerateMessagesTableName: t.messages,
				GeneratePayloadType:       func(string) string { return "BYTEA" },
				SubscribeBatchSize:        batch,
			},
		}, wsql.DefaultPostgreSQLOffsetsAdapter{
			GenerateMessagesOffsetsTableName: t.offsets,
		}
}

// postgresSchema is watermill-sql's schema with columns that keep every byte of an ID and of a payload. What reads and
// writes watermill-sql's own schema reads and writes this one.
type postgresSchema struct{ wsql.DefaultPostgreSQLSchema }

// SchemaInitializingQueries implements watermill-sql's SchemaAdapter.
func (s postgresSchema) SchemaInitializingQueries(topic string) []wsql.Query {
	return []wsql.Query{{Query: `CREATE TABLE IF NOT EXISTS ` + s.MessagesTable(topic) + ` (
  "offset" BIGSERIAL,
  "uuid" TEXT NOT NULL,
  "created_at" TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
  "payload" ` + s.PayloadColumnType(topic) + ` DEFAULT NULL,
  "metadata" JSON DEFAULT NULL,
  "transaction_id" xid8 NOT NULL,
  PRIMARY KEY ("transaction_id", "offset")
)`}}
}

// InsertQuery implements watermill-sql's SchemaAdapter.
func (s postgresSchema) InsertQuery(topic string, msgs message.Messages) (wsql.Query, error) {
	query, err := s.DefaultPostgreSQLSchema.InsertQuery(topic, msgs)
	return asText(query), err
}

// insert passes columns as arrays, so that one plan serves batches of every size. The order in which rows are selected
// is the order in which they are numbered.
func (postgresDialect) insert(t tables, topic string, fs []*flight) []statement {
	ids, payloads, metadata := make([]string, len(fs)), make([][]byte, len(fs)), make([]string, len(fs))
	for i, f := range fs {
		ids[i], payloads[i], metadata[i] = string(f.id), f.payload, f.metadata
	}
	return []statement{{`INSERT INTO ` + t.messages(topic) + ` ("uuid", "payload", "metadata", "transaction_id")
SELECT u.id, u.payload, u.metadata::json, pg_current_xact_id()
FROM unnest($1::text[], $2::bytea[], $3::text[]) WITH ORDINALITY AS u (id, payload, metadata, place) ORDER BY u.place`,
		[]any{ids, payloads, metadata}}}
}

// declare holds a lock meanwhile: IF NOT EXISTS does not keep two that create at once from failing.
func (postgresDialect) declare(ctx context.Context, db *sql.DB, statements []string, table string) error {
	tx, err := db.BeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelReadCommitted})
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	const lock = `SELECT pg_advisory_xact_lock(hashtextextended('waybill sqlbroker ' || current_schema(), 0))`
	for _, statement := range append([]string{lock}, statements...) {
		if _, err := tx.ExecContext(ctx, statement); err != nil {
			return err
		}
	}
	var kind string
	err = tx.QueryRowContext(ctx, `SELECT format_type(atttypid, atttypmod) FROM pg_attribute
WHERE attrelid = to_regclass($1) AND attname = 'payload'`, table).Scan(&kind)
	if err != nil {
		return err
	}
	if kind != "bytea" {
		return wrongColumn(table, kind, "BYTEA")
	}
	return tx.Commit()
}

// introduce does nothing: watermill-sql does it, before it subscribes.
func (postgresDialect) introduce(context.Context, *sql.DB, tables, string, string) error { return nil }

func (postgresDialect) learn(ctx context.Context, conn *sql.Conn) (facts, error) {
	identity, err := sqlidentity.Postgres(ctx, rowOn(conn))
	return facts{identity: identity}, err
}

func (postgresDialect) begin(lockWait time.Duration) string {
	return "BEGIN ISOLATION LEVEL READ COMMITTED; " + lockTimeout(lockWait)
}

func lockTimeout(wait time.Duration) string {
	return fmt.Sprintf("SET LOCAL lock_timeout = %d", max(1, wait.Milliseconds()))
}

func (postgresDialect) bound(ctx context.Context, on execer, inside bool, lockWait time.Duration) error {
	if !inside || lockWait == 0 { // begin says it, and it ends with the transaction
		return nil
	}
	return on(ctx, lockTimeout(lockWait))
}

func (postgresDialect) classify(err error) (class, string) {
	e, ok := errors.AsType[*pgconn.PgError](err)
	if !ok {
		if _, connecting := errors.AsType[*pgconn.ConnectError](err); connecting {
			return lost, "connecting to PostgreSQL failed" // its own words name the user
		}
		return lost, ""
	}
	return postgresClass(e.Code), "PostgreSQL error " + e.Code
}

func (postgresDialect) deadlocked(err error) bool {
	e, ok := errors.AsType[*pgconn.PgError](err)
	return ok && e.Code == "40P01"
}

func postgresClass(code string) class {
	switch code {
	case "42P01", "3F000", "42501", "42703", "42804", "22P02", "23502", "23514":
		return nowhere // undefined table or schema, no privilege; undefined column, other types, constraints: not our table
	case "22001", "22021", "22P05", "54000":
		return unfit // too long, not to be encoded, beyond a limit
	case "53100":
		return full
	case "57P01", "57P02", "57P03", "57P05":
		return lost // the server ends the connection, perhaps in the middle of a COMMIT
	}
	if strings.HasPrefix(code, "08") {
		return lost
	}
	return stopped
}
