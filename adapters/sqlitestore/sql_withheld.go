package sqlitestore

import "github.com/waybillmq/waybill/adapters/internal/sqlstore"

func withheldMigration(w sqlstore.Writer) sqlstore.Migration {
	return sqlstore.Migration{
		Version: 4, UsableBy: 1, About: "what waits for a business transaction in another database",
		Statements: []string{
			w.Text(`
CREATE TABLE IF NOT EXISTS {withheld} (
  ticket    TEXT    NOT NULL PRIMARY KEY,
  id        TEXT    NOT NULL,                 -- several transactions may have tried one ID
  source    TEXT    NOT NULL,                 -- whose witness knows
  token     TEXT    NOT NULL,                 -- names the transaction to the witness
  topic     TEXT    NOT NULL,
  okey      TEXT    NOT NULL,
  ask_at    INTEGER NOT NULL,                 -- when a witness may be asked; us since 1970
  stored_at INTEGER NOT NULL,
  delay     INTEGER NOT NULL,                 -- microseconds after the release, 0 = none
  deadline  INTEGER NOT NULL,                 -- microseconds after the release, 0 = none
  size      INTEGER NOT NULL,
  asked     INTEGER NOT NULL DEFAULT 0,       -- how often a witness was to be asked
  metadata  BLOB    NOT NULL,
  payload   BLOB    NOT NULL
)`),
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
FROM {withheld} `

func withholding(q func(string) sqlstore.Statement) sqlstore.Withholding {
	return sqlstore.Withholding{
		Withhold: q(`
INSERT INTO {withheld} (ticket, source, id, token, topic, okey, metadata, payload, size, delay, deadline, stored_at, ask_at)
VALUES [[(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, {now}, {now} + ?)]]`),
		PickUndecided: q(`
SELECT ticket, size FROM {withheld} WHERE source = ? AND ask_at <= {now} ORDER BY ask_at LIMIT ?`),
		LeaseUndecided: q(`
UPDATE {withheld} SET ask_at = {now} + ?, asked = asked + 1 WHERE ticket IN ([[?]])`),
		AskLater: q(`
UPDATE {withheld} SET ask_at = {now} + ? WHERE ticket IN ([[?]])`),
		Withheld:     q(withheld + `WHERE ticket IN ([[?]])`),
		LockWithheld: q(withheld + `WHERE id IN ([[?]]) ORDER BY ticket`),
		LockTickets: q(`
SELECT ticket FROM {withheld} WHERE ticket IN ([[?]])`),
		DeleteTickets: q(`
DELETE FROM {withheld} WHERE ticket IN ([[?]])`),
		WithheldOf: q(`
SELECT ticket, id, topic, okey, metadata, payload, deadline, ask_at, stored_at, {now}
FROM {withheld}
WHERE id IN ([[?]])
ORDER BY ticket`),
		ListWithheld: q(`
SELECT ticket, id, topic, okey, metadata, NULL, deadline, ask_at, stored_at, {now}
FROM {withheld}
WHERE ticket > ?
ORDER BY ticket
LIMIT ?`),
		CountWithheld: q(`
SELECT topic, COUNT(*), MIN(stored_at), {now} FROM {withheld} GROUP BY topic`),
	}
}
