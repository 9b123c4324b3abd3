package sqlbroker

import (
	"strconv"
	"time"
)

func (postgresDialect) delayedSchema(t tables) []string {
	return []string{`CREATE TABLE IF NOT EXISTS ` + t.delayed() + ` (
  "id" BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  "due" TIMESTAMPTZ NOT NULL,
  "topic" TEXT COLLATE "C" NOT NULL,
  "size" INT NOT NULL,
  "uuid" TEXT NOT NULL,
  "payload" BYTEA DEFAULT NULL,
  "metadata" JSON DEFAULT NULL
)`, `CREATE INDEX IF NOT EXISTS "` + t.prefix + delayedTable + `_due" ON ` + t.delayed() + ` ("due")`}
}

func (postgresDialect) delay(t tables, after time.Duration, fs []*flight) statement {
	topics, sizes := make([]string, len(fs)), make([]int64, len(fs))
	ids, payloads, metadata := make([]string, len(fs)), make([][]byte, len(fs)), make([]string, len(fs))
	for i, f := range fs {
		topics[i], sizes[i] = f.topic, int64(f.size)
		ids[i], payloads[i], metadata[i] = string(f.id), f.payload, f.metadata
	}
	return statement{`INSERT INTO ` + t.delayed() + ` ("due", "topic", "size", "uuid", "payload", "metadata")
SELECT clock_timestamp() + $1::bigint * interval '1 microsecond', u.topic, u.size, u.id, u.payload, u.metadata::json
FROM unnest($2::text[], $3::bigint[], $4::text[], $5::bytea[], $6::text[]) WITH ORDINALITY
  AS u (topic, size, id, payload, metadata, place) ORDER BY u.place`,
		[]any{micros(after), topics, sizes, ids, payloads, metadata}}
}

func (postgresDialect) lockDue(t tables, limit int) string {
	return `SELECT "id", "topic", "size" FROM ` + t.delayed() + `
WHERE "due" <= (SELECT clock_timestamp()) ORDER BY "due" LIMIT ` + strconv.Itoa(limit) + ` FOR UPDATE SKIP LOCKED`
}

func (postgresDialect) moveDue(t tables, topic string, ids []int64) []statement {
	return []statement{{`INSERT INTO ` + t.messages(topic) + ` ("uuid", "payload", "metadata", "transaction_id")
SELECT "uuid", "payload", "metadata", pg_current_xact_id() FROM ` + t.delayed() + `
WHERE "id" = ANY($1::bigint[]) ORDER BY "due", "id"`, []any{ids}}}
}

func (postgresDialect) deleteDelayed(t tables, ids []int64) statement {
	return statement{`DELETE FROM ` + t.delayed() + ` WHERE "id" = ANY($1::bigint[])`, []any{ids}}
}

func (postgresDialect) postpone(t tables, ids []int64, by time.Duration) statement {
	return statement{`UPDATE ` + t.delayed() + ` SET "due" = clock_timestamp() + $1::bigint * interval '1 microsecond'
WHERE "id" = ANY($2::bigint[])`, []any{micros(by), ids}}
}
