package postgresstore

import "github.com/waybillmq/waybill/adapters/internal/sqlstore"

func withheldMigration(w sqlstore.Writer) sqlstore.Migration {
	return sqlstore.Migration{
		Version: 4, UsableBy: 1, About: "what waits for a business transaction in another database",
		Statements: []string{
			w.Text(`
CREATE TABLE IF NOT EXISTS {withheld} (
  ticket    text COLLATE "C" NOT NULL PRIMARY KEY,
  ask_at    bigint  NOT NULL,                 -- when a witness may be asked; us since 1970
  stored_at bigint  NOT NULL,
  delay     bigint  NOT NULL,                 -- microseconds after the release, 0 = none
  deadline  bigint  NOT NULL,                 -- microseconds after the release, 0 = none
  size      integer NOT NULL,
  asked     integer NOT NULL DEFAULT 0,       -- how often a witness was to be asked
  id        text COLLATE "C" NOT NULL,        -- several transactions may have tried one ID
  source    text COLLATE "C" NOT NULL,        -- whose witness knows
  token     text COLLATE "C" NOT NULL,        -- names the transaction to the witness
  topic     text COLLATE "C" NOT NULL,
  okey      text COLLATE "C" NOT NULL,
  metadata  text    NOT NULL,
  payload   bytea   NOT NULL
) WITH (fillfactor = 90, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 5000,
  autovacuum_vacuum_cost_delay = 1)`),
			w.Text(`
CREATE INDEX IF NOT EXISTS "{prefix}withheld_ask" ON {withheld} (source, ask_at)`),
			w.Text(`
CREATE INDEX IF NOT EXISTS "{prefix}withheld_id" ON {withheld} (id)`),
		},
		Record: w.Text(`
INSERT INTO {schema} (version, usable_by, applied_at) VALUES (4, 1, ` + clock + `) ON CONFLICT DO NOTHING`),
	}
}

const withheld = `
SELECT ticket, source, id, token, topic, okey, metadata, payload, delay, deadline, stored_at, asked, {now}
FROM {withheld}`

func withholding(q func(string) sqlstore.Statement) sqlstore.Withholding {
	return sqlstore.Withholding{
		Withhold: q(`
INSERT INTO {withheld} (ticket, source, id, token, topic, okey, metadata, payload, size, delay, deadline, stored_at, ask_at)
SELECT u.ticket, u.source, u.id, u.token, u.topic, u.okey, convert_from(u.metadata, 'UTF8'), u.payload, u.size, u.delay, u.deadline,
  {now}, {now} + u.patience
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::bytea[], $8::bytea[],
  $9::bigint[], $10::bigint[], $11::bigint[], $12::bigint[])
  AS u (ticket, source, id, token, topic, okey, metadata, payload, size, delay, deadline, patience)`),
		// withheld_ask, one range from its beginning.
		PickUndecided: q(`
SELECT ticket, size
FROM {withheld}
WHERE source = $1 AND ask_at <= {now}
ORDER BY ask_at
` + first(2) + `
FOR UPDATE SKIP LOCKED`),
		LeaseUndecided: q(`
UPDATE {withheld} SET ask_at = {now} + $1, asked = asked + 1 WHERE ticket = ANY ($2::text[])`),
		AskLater: q(`
UPDATE {withheld} SET ask_at = {now} + $1 WHERE ticket = ANY ($2::text[])`),
		Withheld: q(withheld + `
WHERE ticket = ANY ($1::text[])`),
		LockWithheld: q(withheld + `
WHERE id = ANY ($1::text[])
ORDER BY ticket
FOR UPDATE`),
		LockTickets: q(`
SELECT ticket FROM {withheld} WHERE ticket = ANY ($1::text[]) ORDER BY ticket FOR UPDATE`),
		DeleteTickets: q(`
DELETE FROM {withheld} WHERE ticket = ANY ($1::text[])`),
		WithheldOf: q(`
SELECT ticket, id, topic, okey, metadata, payload, deadline, ask_at, stored_at, {now}
FROM {withheld}
WHERE id = ANY ($1::text[])
ORDER BY ticket`),
		ListWithheld: q(`
SELECT ticket, id, topic, okey, metadata, NULL::bytea, deadline, ask_at, stored_at, {now}
FROM {withheld}
WHERE ticket > $1
ORDER BY ticket
LIMIT $2`),
		CountWithheld: q(`
SELECT topic, count(*), min(stored_at), {now} FROM {withheld} GROUP BY topic`),
	}
}
