package mysqlstore

import "github.com/waybillmq/waybill/adapters/internal/sqlstore"

// clock is the database's clock, in microseconds, whatever the time zone of the session; it stands still within one
// statement, so that an index can be searched by it.
const clock = `TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6))`

func writer(prefix string) sqlstore.Writer { return sqlstore.NewWriter(prefix, "`", "now", clock) }

// migrations are the schema. IDs, topics, keys and all other text are bytes, so that no collation takes two for one and
// nothing depends on the character set of a connection.
func migrations(prefix string) []sqlstore.Migration {
	w := writer(prefix)
	return []sqlstore.Migration{{
		Version: 1, UsableBy: 1, About: "the outbox, order per key, holds, history",
		Statements: []string{
			// by_due is what a claim, a probe, a release, a purge looks at: one range of it. The topic at its end lets
			// statistics, and the search for failed rows of certain topics, do without the rows.
			w.Text(`
CREATE TABLE IF NOT EXISTS {outbox} (
  id            VARBINARY(128)    NOT NULL,
  topic         VARBINARY(255)    NOT NULL,
  okey          VARBINARY(255)    NOT NULL COMMENT 'ordering key, empty = unordered',
  size          INT UNSIGNED      NOT NULL COMMENT 'bytes of id, topic, key, metadata and payload',
  status        TINYINT UNSIGNED  NOT NULL DEFAULT 0 COMMENT '0 pending 1 confirmed 2 failed 3 compensated 4 discarded',
  due           BIGINT            NOT NULL COMMENT 'next attempt or compensation, or when settled; us since 1970',
  stored_at     BIGINT            NOT NULL,
  fence         BIGINT            NOT NULL COMMENT 'grows with every lease',
  attempts      INT               NOT NULL,
  failures      INT               NOT NULL DEFAULT 0,
  failing_since BIGINT            NOT NULL DEFAULT 0,
  flags         SMALLINT UNSIGNED NOT NULL COMMENT '1 leased 2 maybe sent 4 late ack 8 compensating 16 history',
  deadline      BIGINT            NOT NULL COMMENT 'microseconds after stored_at, 0 = none',
  acked_by      BIGINT            NOT NULL DEFAULT 0 COMMENT 'the fence whose ack was recorded',
  worker        VARBINARY(128)    NOT NULL COMMENT 'who stored it, or leased it last',
  metadata      MEDIUMBLOB        NOT NULL COMMENT 'a JSON object of strings, empty = none',
  payload       LONGBLOB          NOT NULL,
  PRIMARY KEY (id),
  KEY by_due (status, due, stored_at, topic)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC`),
			w.Text(`
CREATE TABLE IF NOT EXISTS {lane} (
  seq      BIGINT         NOT NULL AUTO_INCREMENT COMMENT 'order within the lane',
  lane     BINARY(16)     NOT NULL COMMENT 'SHA-256 of topic, NUL, key, cut',
  id       VARBINARY(128) NOT NULL,
  ready_at BIGINT         NOT NULL COMMENT 'end of the delay, 0 = none',
  fresh    TINYINT        NOT NULL DEFAULT 1 COMMENT 'not yet looked at by a promotion',
  PRIMARY KEY (seq),
  KEY by_lane (lane, seq),
  KEY by_fresh (fresh, seq)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC`),
			w.Text(`
CREATE TABLE IF NOT EXISTS {head} (
  lane BINARY(16)     NOT NULL COMMENT 'one unconfirmed envelope for each key',
  seq  BIGINT         NOT NULL,
  id   VARBINARY(128) NOT NULL,
  PRIMARY KEY (lane)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC`),
			w.Text(`
CREATE TABLE IF NOT EXISTS {hold} (
  topic      VARBINARY(255) NOT NULL,
  slot       BIGINT         NOT NULL AUTO_INCREMENT COMMENT 'waiting envelopes are due at 2^62 + slot',
  refusals   INT            NOT NULL,
  opened_at  BIGINT         NOT NULL,
  next_probe BIGINT         NOT NULL,
  PRIMARY KEY (topic),
  UNIQUE KEY by_slot (slot)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC`),
			w.Text(`
CREATE TABLE IF NOT EXISTS {history} (
  id      VARBINARY(128)   NOT NULL,
  fence   BIGINT           NOT NULL,
  entry   TINYINT UNSIGNED NOT NULL COMMENT '0 what came of an attempt, 1 what was decided without one',
  outcome TINYINT UNSIGNED NOT NULL COMMENT '0 unknown, 2 nacked, 3 returned, 4 rejected',
  charged TINYINT          NOT NULL,
  decided TINYINT UNSIGNED NOT NULL COMMENT 'the status that was asked for',
  reason  VARBINARY(512)   NOT NULL,
  worker  VARBINARY(128)   NOT NULL,
  at      BIGINT           NOT NULL,
  PRIMARY KEY (id, fence, entry)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC`),
			w.Text(`
CREATE TABLE IF NOT EXISTS {chore} (
  name       VARBINARY(128) NOT NULL,
  worker     VARBINARY(128) NOT NULL,
  held_until BIGINT         NOT NULL,
  PRIMARY KEY (name)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC`),
			w.Text(`
CREATE TABLE IF NOT EXISTS {schema} (
  version    INT    NOT NULL,
  usable_by  INT    NOT NULL COMMENT 'the oldest program that can use it',
  applied_at BIGINT NOT NULL,
  PRIMARY KEY (version)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC`),
		},
		Record: w.Text(`
INSERT INTO {schema} (version, usable_by, applied_at) VALUES (1, 1, ` + clock + `)
ON DUPLICATE KEY UPDATE usable_by = VALUES(usable_by)`),
	}, {
		Version: 2, UsableBy: 1, About: "what people decide about envelopes; flag 32 says that there is something",
		Statements: []string{
			// A table of its own: programs of version 1 keep no more than so many rows of the history.
			w.Text(`
CREATE TABLE IF NOT EXISTS {decision} (
  id     VARBINARY(128)   NOT NULL,
  fence  BIGINT           NOT NULL COMMENT 'that of the envelope from then on',
  action TINYINT UNSIGNED NOT NULL COMMENT '1 requeue 2 compensate 3 discard',
  who    VARBINARY(512)   NOT NULL,
  why    VARBINARY(512)   NOT NULL,
  at     BIGINT           NOT NULL,
  PRIMARY KEY (id, fence)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC`),
		},
		Record: w.Text(`
INSERT INTO {schema} (version, usable_by, applied_at) VALUES (2, 1, ` + clock + `)
ON DUPLICATE KEY UPDATE usable_by = VALUES(usable_by)`),
	}, {
		Version: 3, UsableBy: 1, About: "what consumers have processed, and which business transactions committed",
		Statements: []string{
			w.Text(`
CREATE TABLE IF NOT EXISTS {inbox} (
  grp VARBINARY(128) NOT NULL COMMENT 'consumer group',
  id  VARBINARY(128) NOT NULL COMMENT 'a message that it has processed',
  at  BIGINT         NOT NULL,
  PRIMARY KEY (grp, id),
  KEY by_at (at)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC`),
			w.Text(`
CREATE TABLE IF NOT EXISTS {processed} (
  id  VARBINARY(128) NOT NULL,
  grp VARBINARY(128) NOT NULL COMMENT 'the consumer group that says so',
  at  BIGINT         NOT NULL,
  PRIMARY KEY (id, grp),
  KEY by_at (at)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC`),
			w.Text(`
CREATE TABLE IF NOT EXISTS {marker} (
  token BINARY(16)       NOT NULL COMMENT 'one business transaction',
  dead  TINYINT UNSIGNED NOT NULL COMMENT '0 it committed, 1 it never will',
  at    BIGINT           NOT NULL,
  PRIMARY KEY (token),
  KEY by_at (at)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC`),
		},
		Record: w.Text(`
INSERT INTO {schema} (version, usable_by, applied_at) VALUES (3, 1, ` + clock + `)
ON DUPLICATE KEY UPDATE usable_by = VALUES(usable_by)`),
	}, withheldMigration(w)}
}

// statements are all SQL that a store runs, valid in MySQL 8 and MariaDB 10.6 alike: no RETURNING, no row constructor
// of VALUES, LOCK IN SHARE MODE where MySQL alone would have FOR SHARE. Locking statements name their index, for InnoDB
// locks what it looks at.
func statements(prefix string) sqlstore.Statements {
	q := writer(prefix).Statement
	return sqlstore.Statements{
		Insert: q(`
INSERT INTO {outbox}
  (id, topic, okey, metadata, payload, size, stored_at, due, fence, attempts, flags, deadline, worker)
VALUES [[(?, ?, ?, ?, ?, ?, {now} + ?, {now} * ? + ?, ?, ?, ?, ?, ?)]]`),
		// The time in each row makes a large INSERT a fifth slower, so these ask for it first.
		InsertAt: q(`
INSERT INTO {outbox}
  (id, topic, okey, metadata, payload, size, stored_at, due, fence, attempts, flags, deadline, worker)
VALUES [[(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)]]`),
		Clock: q(`
SELECT {now}`),
		InsertLanes: q(`
INSERT INTO {lane} (lane, id, ready_at) VALUES [[(?, ?, {now} * ? + ?)]]`),
		// Plain reads of a REPEATABLE READ transaction do not see what was committed after it began; this one does.
		Existing: q(`
SELECT {columns}, payload, {now} FROM {outbox} FORCE INDEX (PRIMARY) WHERE id IN ([[?]]) LOCK IN SHARE MODE`),
		Lookup: q(`
SELECT {columns}, payload, {now} FROM {outbox} WHERE id IN ([[?]])`),
		Delete: q(`
DELETE FROM {outbox} WHERE id IN ([[?]])`),

		// by_fresh, by_due: the first entry of each.
		Look: q(`
SELECT (SELECT MIN(seq) FROM {lane} WHERE fresh = 1) IS NOT NULL,
  COALESCE((SELECT MIN(due) FROM {outbox} WHERE status = 0) <= {now}, 0)`),
		// by_due, one range: locks what it returns.
		Pick: q(`
SELECT {columns}, CASE WHEN size <= ? THEN payload END, {now}
FROM {outbox} FORCE INDEX (by_due)
WHERE status = 0 AND due >= ? AND due <= {now}
ORDER BY due, stored_at
LIMIT ?
FOR UPDATE SKIP LOCKED`),
		Payloads: q(`
SELECT id, payload FROM {outbox} WHERE id IN ([[?]])`),
		Lease: q(`
UPDATE {outbox} FORCE INDEX (PRIMARY)
SET due = {now} + ?, worker = ?, fence = fence + 1, attempts = attempts + 1,
  flags = flags | {LEASED} | IF(flags & {LEASED}, {MAYBE}, 0)
WHERE id IN ([[?]])`),

		PromotionLock: q(`
SELECT version FROM {schema} WHERE version = 1 FOR UPDATE SKIP LOCKED`),
		// by_fresh, one range.
		Fresh: q(`
SELECT seq, lane, id, ready_at, {now}
FROM {lane} FORCE INDEX (by_fresh)
WHERE fresh = 1 AND seq > ?
ORDER BY seq
LIMIT ?
FOR UPDATE SKIP LOCKED`),
		Heads: q(`
SELECT lane FROM {head} WHERE lane IN ([[?]])`),
		HeadOf: q(`
SELECT lane, id FROM {head} WHERE lane IN ([[?]])`),
		TryHeads: q(`
SELECT lane FROM {head} FORCE INDEX (PRIMARY) WHERE lane IN ([[?]]) FOR UPDATE SKIP LOCKED`),
		TryParked: q(`
SELECT id, topic, okey
FROM {outbox} FORCE INDEX (PRIMARY)
WHERE id IN ([[?]]) AND status = 0 AND due = {parked}
FOR UPDATE SKIP LOCKED`),
		LockHeads: q(`
SELECT lane, seq, id FROM {head} FORCE INDEX (PRIMARY) WHERE lane IN ([[?]]) ORDER BY lane FOR UPDATE`),
		Order:       order(q),
		OrderInside: orderInside(q),
		WriteHeads: q(`
INSERT INTO {head} (lane, seq, id) VALUES [[(?, ?, ?)]]
ON DUPLICATE KEY UPDATE seq = VALUES(seq), id = VALUES(id)`),
		DeleteHeads: q(`
DELETE FROM {head} WHERE lane IN ([[?]])`),
		DeleteLanes: q(`
DELETE FROM {lane} WHERE seq IN ([[?]])`),
		MarkLanes: q(`
UPDATE {lane} FORCE INDEX (PRIMARY) SET fresh = 0 WHERE seq IN ([[?]])`),
		Ready: q(`
UPDATE {outbox} FORCE INDEX (PRIMARY)
SET due = GREATEST(?, {now})
WHERE id IN ([[?]]) AND status = 0 AND due = {parked}`),

		Confirm: q(`
UPDATE {outbox} FORCE INDEX (PRIMARY)
SET status = 1, due = {now}, acked_by = fence, flags = flags & ~{LEASED}
WHERE status = 0 AND fence = ? AND (okey = '') = ? AND flags & {LEASED} AND id IN ([[?]])`),
		Lock: q(`
SELECT {columns}, NULL, {now} FROM {outbox} FORCE INDEX (PRIMARY) WHERE id IN ([[?]]) ORDER BY id FOR UPDATE`),
		Write: q(`
UPDATE (
  [[SELECT CAST(? AS BINARY) AS id, CAST(? AS SIGNED) AS status, CAST(? AS SIGNED) AS due,
    CAST(? AS SIGNED) AS attempts, CAST(? AS SIGNED) AS failures, CAST(? AS SIGNED) AS failing_since, CAST(? AS SIGNED) AS flags,
    CAST(? AS SIGNED) AS acked_by##
  UNION ALL ]]
) AS v
STRAIGHT_JOIN {outbox} AS o FORCE INDEX (PRIMARY) ON o.id = v.id
SET o.status = v.status, o.due = v.due, o.attempts = v.attempts, o.failures = v.failures,
  o.failing_since = v.failing_since, o.flags = v.flags, o.acked_by = v.acked_by`),
		Overrule: q(`
UPDATE (
  [[SELECT CAST(? AS BINARY) AS id, CAST(? AS SIGNED) AS status, CAST(? AS SIGNED) AS due, CAST(? AS SIGNED) AS fence,
    CAST(? AS SIGNED) AS attempts, CAST(? AS SIGNED) AS failures, CAST(? AS SIGNED) AS failing_since,
    CAST(? AS SIGNED) AS flags, CAST(? AS SIGNED) AS deadline##
  UNION ALL ]]
) AS v
STRAIGHT_JOIN {outbox} AS o FORCE INDEX (PRIMARY) ON o.id = v.id
SET o.status = v.status, o.due = v.due, o.fence = v.fence, o.attempts = v.attempts, o.failures = v.failures,
  o.failing_since = v.failing_since, o.flags = v.flags, o.deadline = v.deadline`),
		NoteDecisions: q(`
INSERT INTO {decision} (id, fence, action, who, why, at) VALUES [[(?, ?, ?, ?, ?, ?)]]
ON DUPLICATE KEY UPDATE action = VALUES(action), who = VALUES(who), why = VALUES(why), at = VALUES(at)`),
		Decisions: q(`
SELECT id, fence, action, who, why, at, {now} FROM {decision} WHERE id IN ([[?]]) ORDER BY id, fence`),
		ForgetDecisions: q(`
DELETE FROM {decision} WHERE id IN ([[?]])`),
		Past: q(`
SELECT id, fence, outcome, charged, decided FROM {history} WHERE id IN ([[?]]) AND entry = 0`),
		Remember: q(`
INSERT INTO {history} (id, fence, entry, outcome, charged, decided, reason, worker, at)
VALUES [[(?, ?, ?, ?, ?, ?, ?, ?, ?)]]
ON DUPLICATE KEY UPDATE outcome = VALUES(outcome), charged = VALUES(charged), decided = VALUES(decided),
  reason = VALUES(reason), worker = VALUES(worker), at = VALUES(at)`),
		Trim: q(`
DELETE FROM {history}
WHERE id = ? AND fence < (
  SELECT kept.fence FROM (
    SELECT fence FROM {history} WHERE id = ? ORDER BY fence DESC, entry DESC LIMIT 1 OFFSET ?
  ) AS kept
)`),
		History: q(`
SELECT id, fence, entry, outcome, charged, reason, worker, at, {now}
FROM {history}
WHERE id IN ([[?]])
ORDER BY id, at, fence, entry`),
		Forget: q(`
DELETE FROM {history} WHERE id IN ([[?]])`),

		Refuse: q(`
INSERT INTO {hold} (topic, refusals, opened_at, next_probe) VALUES (?, 1, {now}, {now} + ?)
ON DUPLICATE KEY UPDATE refusals = refusals + 1, next_probe = {now} + ?`),
		Holds: q(`
SELECT topic, slot, refusals, opened_at, next_probe, {now} FROM {hold}`),
		Hold: q(`
SELECT topic, slot, refusals, opened_at, next_probe, {now} FROM {hold} WHERE topic = ?`),
		TryHold: q(`
SELECT topic, slot, refusals, opened_at, next_probe, {now} FROM {hold} WHERE topic = ? FOR UPDATE SKIP LOCKED`),
		LockHold: q(`
SELECT topic, slot, refusals, opened_at, next_probe, {now} FROM {hold} WHERE topic = ? FOR UPDATE`),
		ShareHolds: q(`
SELECT topic, slot FROM {hold} FORCE INDEX (PRIMARY) WHERE topic IN ([[?]]) ORDER BY topic LOCK IN SHARE MODE`),
		ProbeLater: q(`
UPDATE {hold} SET next_probe = {now} + ? WHERE topic = ?`),
		Unhold: q(`
DELETE FROM {hold} WHERE topic = ?`),
		// by_due, the range of one slot.
		PickHeld: q(`
SELECT {columns}, NULL, {now}
FROM {outbox} FORCE INDEX (by_due)
WHERE status = 0 AND due = ?
ORDER BY stored_at
LIMIT ?
FOR UPDATE SKIP LOCKED`),
		AnyHeld: q(`
SELECT (SELECT MIN(stored_at) FROM {outbox} WHERE status = 0 AND due = ?) IS NOT NULL`),
		HeldSince: q(`
SELECT id
FROM {outbox} FORCE INDEX (by_due)
WHERE status = 0 AND due = ? AND failing_since <= {now} - ?
ORDER BY stored_at
LIMIT ?`),
		ReleaseHeld: q(`
UPDATE {outbox} FORCE INDEX (PRIMARY) SET due = {now} WHERE id IN ([[?]])`),

		// by_due, without reading rows.
		PickFailed: q(`
SELECT id
FROM {outbox} FORCE INDEX (by_due)
WHERE status = 2 AND due <= {now} AND topic IN ([[?]])
ORDER BY due, stored_at
LIMIT ?`),
		TryFailed: q(`
SELECT {columns}, NULL, {now}
FROM {outbox} FORCE INDEX (PRIMARY)
WHERE id IN ([[?]]) AND status = 2 AND due <= {now}
ORDER BY due, stored_at
FOR UPDATE SKIP LOCKED`),
		LeaseFailed: q(`
UPDATE {outbox} FORCE INDEX (PRIMARY)
SET due = {now} + ?, worker = ?, fence = fence + 1, flags = flags | {LEASED} | {COMPENSATING}
WHERE id IN ([[?]])`),

		// by_due, one range of one status.
		PickSettled: q(`
SELECT id, flags
FROM {outbox} FORCE INDEX (by_due)
WHERE status = ? AND due <= {now} - ?
ORDER BY due
LIMIT ?
FOR UPDATE SKIP LOCKED`),

		// by_due, without reading rows.
		Stats: q(`
SELECT topic, 0, COUNT(*), MIN(stored_at), {now} FROM {outbox} WHERE status = 0 GROUP BY topic
UNION ALL
SELECT topic, 2, COUNT(*), MIN(stored_at), {now} FROM {outbox} WHERE status = 2 GROUP BY topic
UNION ALL
SELECT topic, 3, COUNT(*), MIN(stored_at), {now} FROM {outbox} WHERE status = 3 GROUP BY topic
UNION ALL
SELECT topic, 4, COUNT(*), MIN(stored_at), {now} FROM {outbox} WHERE status = 4 GROUP BY topic`),

		ListPending: walk(q),
		ListSettled: walk(q),
		Glance: q(`
SELECT {columns}, NULL, {now} FROM {outbox} FORCE INDEX (PRIMARY) WHERE id IN ([[?]])`),
		HistorySays: q(`
SELECT DISTINCT id FROM {history} FORCE INDEX (PRIMARY) WHERE id IN ([[?]]) AND LOCATE(?, reason) > 0`),
		DecisionsSay: q(`
SELECT DISTINCT id FROM {decision} FORCE INDEX (PRIMARY) WHERE id IN ([[?]]) AND LOCATE(?, why) > 0`),

		LockChore: q(`
SELECT worker, held_until, {now} FROM {chore} WHERE name = ? FOR UPDATE`),
		AddChore: q(`
INSERT INTO {chore} (name, worker, held_until) VALUES (?, ?, {now} + ?)`),
		SetChore: q(`
UPDATE {chore} SET worker = ?, held_until = {now} + ? WHERE name = ?`),
		EndChore: q(`
DELETE FROM {chore} WHERE name = ?`),

		// A duplicate is an error that leaves the transaction as it was. INSERT IGNORE would hide more than that.
		Receive: q(`
INSERT INTO {inbox} (grp, id, at) VALUES (?, ?, {now})`),
		// by_at, one range from its beginning.
		PurgeInbox: q(`
DELETE FROM {inbox} WHERE at <= {now} - ? ORDER BY at LIMIT ?`),
		StoreProcessed: q(`
INSERT INTO {processed} (id, grp, at) VALUES [[(?, ?, {now})]] ON DUPLICATE KEY UPDATE at = at`),
		// The primary key, one range of each id.
		ProcessedBy: q(`
SELECT id, grp FROM {processed} FORCE INDEX (PRIMARY) WHERE id IN ([[?]])`),
		PurgeProcessed: q(`
DELETE FROM {processed} WHERE at <= {now} - ? ORDER BY at LIMIT ?`),
		Mark: q(`
INSERT INTO {marker} (token, dead, at) VALUES (?, 0, ?)`),
		// NOWAIT refuses at once where the marker's transaction is open.
		Marked: q(`
SELECT dead FROM {marker} WHERE token = ? FOR UPDATE NOWAIT`),
		Bury: q(`
INSERT INTO {marker} (token, dead, at) VALUES (?, 1, {now})`),
		PurgeMarkers: q(`
DELETE FROM {marker} WHERE at <= {now} - ? ORDER BY at LIMIT ?`),

		Withholding: withholding(q),

		Version: q(`
SELECT COALESCE(MAX(version), 0), COALESCE(MAX(usable_by), 0) FROM {schema}`),
	}
}

func order(q func(string) sqlstore.Statement) sqlstore.OrderReads {
	return sqlstore.OrderReads{
		// by_lane, one row of each lane.
		Next: q(`
SELECT l.seq, l.lane, l.id, l.ready_at, {now}
FROM (
  SELECT (SELECT n.seq FROM {lane} AS n FORCE INDEX (by_lane) WHERE n.lane = h.lane ORDER BY n.seq LIMIT 1) AS seq
  FROM {head} AS h
  WHERE h.lane IN ([[?]])
) AS f
STRAIGHT_JOIN {lane} AS l ON l.seq = f.seq`),
		// by_lane, one range of one lane.
		Line: q(`
SELECT seq, lane, id, ready_at, {now} FROM {lane} FORCE INDEX (by_lane) WHERE lane = ? ORDER BY seq LIMIT ?`),
		Known: q(`
SELECT id, topic, okey FROM {outbox} WHERE id IN ([[?]]) AND status = 0`),
	}
}

// orderInside locks what it reads, for a plain read of a REPEATABLE READ transaction does not see what was committed
// after it began.
func orderInside(q func(string) sqlstore.Statement) sqlstore.OrderReads {
	return sqlstore.OrderReads{
		Next: q(`
SELECT seq, lane, id, ready_at, {now}
FROM {lane} FORCE INDEX (by_lane)
WHERE lane IN ([[?]])
ORDER BY lane, seq
LIMIT 1
FOR UPDATE`),
		Line: q(`
SELECT seq, lane, id, ready_at, {now}
FROM {lane} FORCE INDEX (by_lane)
WHERE lane = ?
ORDER BY seq
LIMIT ?
FOR UPDATE`),
		Known: q(`
SELECT id, topic, okey FROM {outbox} FORCE INDEX (PRIMARY) WHERE id IN ([[?]]) AND status = 0 LOCK IN SHARE MODE`),
	}
}

// walk follows by_due, without reading rows.
func walk(q func(string) sqlstore.Statement) sqlstore.Walk {
	return sqlstore.Walk{
		After: q(`
SELECT id, topic, due, stored_at, stored_at, {now}
FROM {outbox} FORCE INDEX (by_due)
WHERE status = ? AND due > ?
ORDER BY due, stored_at, topic, id
LIMIT ?`),
		Same: q(`
SELECT id, topic, due, stored_at, stored_at, {now}
FROM {outbox} FORCE INDEX (by_due)
WHERE status = ? AND due = ? AND stored_at >= ? AND (stored_at > ? OR topic > ? OR topic = ? AND id > ?)
ORDER BY stored_at, topic, id
LIMIT ?`),
	}
}
