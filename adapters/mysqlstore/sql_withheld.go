package mysqlstore

import "github.com/waybillmq/waybill/adapters/internal/sqlstore"

func withheldMigration(w sqlstore.Writer) sqlstore.Migration {
	return sqlstore.Migration{
		Version: 4, UsableBy: 1, About: "what waits for a business transaction in another database",
		Statements: []string{
			w.Text(`
CREATE TABLE IF NOT EXISTS {withheld} (
  ticket    VARBINARY(64)   NOT NULL,
  id        VARBINARY(128)  NOT NULL COMMENT 'several transactions may have tried one ID',
  source    VARBINARY(64)   NOT NULL COMMENT 'whose witness knows',
  token     VARBINARY(200)  NOT NULL COMMENT 'names the transaction to the witness',
  topic     VARBINARY(255)  NOT NULL,
  okey      VARBINARY(255)  NOT NULL,
  ask_at    BIGINT          NOT NULL COMMENT 'when a witness may be asked; us since 1970',
  stored_at BIGINT          NOT NULL,
  delay     BIGINT          NOT NULL COMMENT 'us after the release, 0 = none',
  deadline  BIGINT          NOT NULL COMMENT 'us after the release, 0 = none',
  size      INT             NOT NULL,
  asked     INT             NOT NULL DEFAULT 0 COMMENT 'how often a witness was to be asked',
  metadata  MEDIUMBLOB      NOT NULL,
  payload   LONGBLOB        NOT NULL,
  PRIMARY KEY (ticket),
  KEY by_ask (source, ask_at),
  KEY by_id (id)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC`),
		},
		Record: w.Text(`
INSERT INTO {schema} (version, usable_by, applied_at) VALUES (4, 1, ` + clock + `)
ON DUPLICATE KEY UPDATE usable_by = VALUES(usable_by)`),
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
		// by_ask, one range from its beginning.
		PickUndecided: q(`
SELECT ticket, size
FROM {withheld} FORCE INDEX (by_ask)
WHERE source = ? AND ask_at <= {now}
ORDER BY ask_at
LIMIT ?
FOR UPDATE SKIP LOCKED`),
		LeaseUndecided: q(`
UPDATE {withheld} FORCE INDEX (PRIMARY) SET ask_at = {now} + ?, asked = asked + 1 WHERE ticket IN ([[?]])`),
		AskLater: q(`
UPDATE {withheld} FORCE INDEX (PRIMARY) SET ask_at = {now} + ? WHERE ticket IN ([[?]])`),
		Withheld:     q(withheld + `FORCE INDEX (PRIMARY) WHERE ticket IN ([[?]])`),
		LockWithheld: q(withheld + `FORCE INDEX (by_id) WHERE id IN ([[?]]) ORDER BY ticket FOR UPDATE`),
		LockTickets: q(`
SELECT ticket FROM {withheld} FORCE INDEX (PRIMARY) WHERE ticket IN ([[?]]) ORDER BY ticket FOR UPDATE`),
		DeleteTickets: q(`
DELETE FROM {withheld} WHERE ticket IN ([[?]])`),
		WithheldOf: q(`
SELECT ticket, id, topic, okey, metadata, payload, deadline, ask_at, stored_at, {now}
FROM {withheld} FORCE INDEX (by_id)
WHERE id IN ([[?]])
ORDER BY ticket`),
		ListWithheld: q(`
SELECT ticket, id, topic, okey, metadata, NULL, deadline, ask_at, stored_at, {now}
FROM {withheld} FORCE INDEX (PRIMARY)
WHERE ticket > ?
ORDER BY ticket
LIMIT ?`),
		CountWithheld: q(`
SELECT topic, COUNT(*), MIN(stored_at), {now} FROM {withheld} GROUP BY topic`),
	}
}
