package sqlitestore

import "github.com/waybillmq/waybill/adapters/internal/sqlstore"

// clock is SQLite's own, in microseconds; it stands still within one statement. It counts milliseconds.
const clock = `CAST(unixepoch('subsec') * 1000000 AS INTEGER)`

func writer(prefix string) sqlstore.Writer { return sqlstore.NewWriter(prefix, `"`, "now", clock) }

// migrations are the schema. Text columns compare byte by byte, as SQLite does unless told otherwise. The number of a
// row of the outbox is the order of storing. Payloads come last, so that what is larger than a page is only read when
// asked for.
func migrations(prefix string) []sqlstore.Migration {
	w := writer(prefix)
	return []sqlstore.Migration{{
		Version: 1, UsableBy: 1, About: "the outbox, order per key, holds, history",
		Statements: []string{
			w.Text(`
CREATE TABLE IF NOT EXISTS {outbox} (
  seq           INTEGER PRIMARY KEY,          -- order of storing
  id            TEXT    NOT NULL UNIQUE,
  topic         TEXT    NOT NULL,
  okey          TEXT    NOT NULL,             -- ordering key, '' = unordered
  metadata      BLOB    NOT NULL,             -- a JSON object of strings, empty = none
  size          INTEGER NOT NULL,             -- bytes of id, topic, key, metadata and payload
  status        INTEGER NOT NULL DEFAULT 0,   -- 0 pending, 1 confirmed, 2 failed, 3 compensated, 4 discarded
  due           INTEGER NOT NULL,             -- next attempt or compensation, or when settled; us since 1970
  stored_at     INTEGER NOT NULL,
  fence         INTEGER NOT NULL,             -- grows with every lease
  attempts      INTEGER NOT NULL,
  failures      INTEGER NOT NULL DEFAULT 0,
  failing_since INTEGER NOT NULL DEFAULT 0,
  flags         INTEGER NOT NULL,             -- 1 leased 2 maybe sent 4 late ack 8 compensating 16 history
  deadline      INTEGER NOT NULL,             -- microseconds after stored_at, 0 = none
  acked_by      INTEGER NOT NULL DEFAULT 0,   -- the fence whose ack was recorded
  worker        TEXT    NOT NULL,             -- who stored it, or leased it last
  payload       BLOB    NOT NULL
)`),
			// What a claim, a probe, a release looks at: one range of it.
			w.Text(`
CREATE INDEX IF NOT EXISTS "{prefix}outbox_pending" ON {outbox} (due) WHERE status = 0`),
			w.Text(`
CREATE INDEX IF NOT EXISTS "{prefix}outbox_failed" ON {outbox} (topic, due) WHERE status = 2`),
			w.Text(`
CREATE INDEX IF NOT EXISTS "{prefix}outbox_settled" ON {outbox} (status, due) WHERE status > 0`),
			w.Text(`
CREATE TABLE IF NOT EXISTS {lane} (
  seq      INTEGER PRIMARY KEY AUTOINCREMENT, -- order within the lane
  lane     BLOB    NOT NULL,                  -- SHA-256 of topic, NUL, key; 16 bytes of it
  id       TEXT    NOT NULL,
  ready_at INTEGER NOT NULL,                  -- end of the delay, 0 = none
  fresh    INTEGER NOT NULL DEFAULT 1         -- not yet looked at by a promotion
)`),
			w.Text(`
CREATE INDEX IF NOT EXISTS "{prefix}lane_order" ON {lane} (lane, seq)`),
			w.Text(`
CREATE INDEX IF NOT EXISTS "{prefix}lane_fresh" ON {lane} (seq) WHERE fresh = 1`),
			w.Text(`
CREATE TABLE IF NOT EXISTS {head} (
  lane BLOB    NOT NULL PRIMARY KEY,          -- one unconfirmed envelope for each key
  seq  INTEGER NOT NULL,
  id   TEXT    NOT NULL
) WITHOUT ROWID`),
			w.Text(`
CREATE TABLE IF NOT EXISTS {hold} (
  slot       INTEGER PRIMARY KEY AUTOINCREMENT, -- waiting envelopes are due at 2^62 + slot
  topic      TEXT    NOT NULL UNIQUE,
  refusals   INTEGER NOT NULL,
  opened_at  INTEGER NOT NULL,
  next_probe INTEGER NOT NULL
)`),
			w.Text(`
CREATE TABLE IF NOT EXISTS {history} (
  id      TEXT    NOT NULL,
  fence   INTEGER NOT NULL,
  entry   INTEGER NOT NULL,                   -- 0 what came of an attempt, 1 what was decided without one
  outcome INTEGER NOT NULL,                   -- 0 unknown, 2 nacked, 3 returned, 4 rejected
  charged INTEGER NOT NULL,
  decided INTEGER NOT NULL,                   -- the status that was asked for
  reason  TEXT    NOT NULL,
  worker  TEXT    NOT NULL,
  at      INTEGER NOT NULL,
  PRIMARY KEY (id, fence, entry)
) WITHOUT ROWID`),
			w.Text(`
CREATE TABLE IF NOT EXISTS {chore} (
  name       TEXT    NOT NULL PRIMARY KEY,
  worker     TEXT    NOT NULL,
  held_until INTEGER NOT NULL
) WITHOUT ROWID`),
			w.Text(`
CREATE TABLE IF NOT EXISTS {schema} (
  version    INTEGER PRIMARY KEY,
  usable_by  INTEGER NOT NULL,                -- the oldest program that can use it
  applied_at INTEGER NOT NULL
)`),
		},
		Record: sqlstore.NewWriter(prefix, `"`, "now", clock).Text(`
INSERT INTO {schema} (version, usable_by, applied_at) VALUES (1, 1, ` + clock + `) ON CONFLICT DO NOTHING`),
	}, {
		Version: 2, UsableBy: 1, About: "what people decide about envelopes; flag 32 says that there is something",
		Statements: []string{
			// A table of its own: programs of version 1 keep no more than so many rows of the history.
			w.Text(`
CREATE TABLE IF NOT EXISTS {decision} (
  id     TEXT    NOT NULL,
  fence  INTEGER NOT NULL,                    -- that of the envelope from then on
  action INTEGER NOT NULL,                    -- 1 requeue, 2 compensate, 3 discard
  who    TEXT    NOT NULL,
  why    TEXT    NOT NULL,
  at     INTEGER NOT NULL,
  PRIMARY KEY (id, fence)
) WITHOUT ROWID`),
			// What is listed by topic and counted.
			w.Text(`
CREATE INDEX IF NOT EXISTS "{prefix}outbox_topics" ON {outbox} (status, topic, due) WHERE status >= 2`),
		},
		Record: w.Text(`
INSERT INTO {schema} (version, usable_by, applied_at) VALUES (2, 1, ` + clock + `) ON CONFLICT DO NOTHING`),
	}, {
		Version: 3, UsableBy: 1, About: "what consumers have processed, and which business transactions committed",
		Statements: []string{
			w.Text(`
CREATE TABLE IF NOT EXISTS {inbox} (
  grp TEXT    NOT NULL,                       -- consumer group
  id  TEXT    NOT NULL,                       -- a message that it has processed
  at  INTEGER NOT NULL,
  PRIMARY KEY (grp, id)
) WITHOUT ROWID`),
			w.Text(`
CREATE INDEX IF NOT EXISTS "{prefix}inbox_at" ON {inbox} (at)`),
			w.Text(`
CREATE TABLE IF NOT EXISTS {processed} (
  id  TEXT    NOT NULL,
  grp TEXT    NOT NULL,                       -- the consumer group that says so
  at  INTEGER NOT NULL,
  PRIMARY KEY (id, grp)
) WITHOUT ROWID`),
			w.Text(`
CREATE INDEX IF NOT EXISTS "{prefix}processed_at" ON {processed} (at)`),
			w.Text(`
CREATE TABLE IF NOT EXISTS {marker} (
  token BLOB    NOT NULL PRIMARY KEY,         -- one business transaction
  dead  INTEGER NOT NULL,                     -- 0 it committed, 1 it never will
  at    INTEGER NOT NULL
) WITHOUT ROWID`),
			w.Text(`
CREATE INDEX IF NOT EXISTS "{prefix}marker_at" ON {marker} (at)`),
		},
		Record: w.Text(`
INSERT INTO {schema} (version, usable_by, applied_at) VALUES (3, 1, ` + clock + `) ON CONFLICT DO NOTHING`),
	}, withheldMigration(w)}
}

// statements are all SQL that a store runs. SQLite has one writer at a time, who holds the lock from BEGIN IMMEDIATE
// on: there is nothing to skip and no row to lock.
func statements(prefix string) sqlstore.Statements {
	q := writer(prefix).Statement
	return sqlstore.Statements{
		Insert: q(`
INSERT INTO {outbox}
  (id, topic, okey, metadata, payload, size, stored_at, due, fence, attempts, flags, deadline, worker)
SELECT column1, column2, column3, column4, column5, column6, clock.now + column7, clock.now * column8 + column9,
  column10, column11, column12, column13, column14
FROM (SELECT {now} AS now) AS clock, (VALUES [[(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)]])`),
		// A parameter of this driver costs as much as a small row.
		InsertAlike: q(`
INSERT INTO {outbox}
  (id, topic, okey, metadata, payload, size, stored_at, due, fence, attempts, flags, deadline, worker)
SELECT column1, column2, ?, column3, column4, column5, clock.now + column6, clock.now * ? + ?, ?, ?, ?, ?, ?
FROM (SELECT {now} AS now) AS clock, (VALUES [[(?, ?, ?, ?, ?, ?)]])`),
		InsertSame: q(`
INSERT INTO {outbox}
  (id, topic, okey, metadata, payload, size, stored_at, due, fence, attempts, flags, deadline, worker)
SELECT column1, ?, ?, ?, column2, ? + octet_length(column1) + octet_length(column2), clock.now + column3,
  clock.now * ? + ?, ?, ?, ?, ?, ?
FROM (SELECT {now} AS now) AS clock, (VALUES [[(?, ?, ?)]])`),
		Clock: q(`
SELECT {now}`),
		InsertLanes: q(`
INSERT INTO {lane} (lane, id, ready_at)
SELECT column1, column2, {now} * column3 + column4 FROM (VALUES [[(?, ?, ?, ?)]])`),
		Existing: q(`
SELECT {columns}, payload, {now} FROM {outbox} WHERE id IN ([[?]])`),
		Lookup: q(`
SELECT {columns}, payload, {now} FROM {outbox} WHERE id IN ([[?]])`),
		Delete: q(`
DELETE FROM {outbox} WHERE id IN ([[?]])`),

		Look: q(`
SELECT (SELECT MIN(seq) FROM {lane} WHERE fresh = 1) IS NOT NULL,
  COALESCE((SELECT MIN(due) FROM {outbox} WHERE status = 0) <= {now}, 0)`),
		Pick: q(`
SELECT {columns}, CASE WHEN size <= ? THEN payload END, {now}
FROM {outbox} INDEXED BY "{prefix}outbox_pending"
WHERE status = 0 AND due >= ? AND due <= {now}
ORDER BY due, seq
LIMIT ?`),
		Payloads: q(`
SELECT id, payload FROM {outbox} WHERE id IN ([[?]])`),
		Lease: q(`
UPDATE {outbox}
SET due = {now} + ?, worker = ?, fence = fence + 1, attempts = attempts + 1,
  flags = flags | {LEASED} | (CASE WHEN flags & {LEASED} THEN {MAYBE} ELSE 0 END)
WHERE id IN ([[?]])`),

		PromotionLock: q(`
SELECT 1`),
		Fresh: q(`
SELECT seq, lane, id, ready_at, {now} FROM {lane} WHERE fresh = 1 AND seq > ? ORDER BY seq LIMIT ?`),
		Heads: q(`
SELECT lane FROM {head} WHERE lane IN ([[?]])`),
		HeadOf: q(`
SELECT lane, id FROM {head} WHERE lane IN ([[?]])`),
		TryHeads: q(`
SELECT lane FROM {head} WHERE lane IN ([[?]])`),
		TryParked: q(`
SELECT id, topic, okey FROM {outbox} WHERE id IN ([[?]]) AND status = 0 AND due = {parked}`),
		LockHeads: q(`
SELECT lane, seq, id FROM {head} WHERE lane IN ([[?]])`),
		Order:       order(q),
		OrderInside: order(q),
		WriteHeads: q(`
INSERT INTO {head} (lane, seq, id) VALUES [[(?, ?, ?)]]
ON CONFLICT (lane) DO UPDATE SET seq = excluded.seq, id = excluded.id`),
		DeleteHeads: q(`
DELETE FROM {head} WHERE lane IN ([[?]])`),
		DeleteLanes: q(`
DELETE FROM {lane} WHERE seq IN ([[?]])`),
		MarkLanes: q(`
UPDATE {lane} SET fresh = 0 WHERE seq IN ([[?]])`),
		Ready: q(`
UPDATE {outbox} SET due = MAX(?, {now}) WHERE id IN ([[?]]) AND status = 0 AND due = {parked}`),

		// OR FAIL: as it cannot fail, and is rolled back if it does, SQLite need not note how each page was before.
		Confirm: q(`
UPDATE OR FAIL {outbox}
SET status = 1, due = {now}, acked_by = fence, flags = flags & ~{LEASED}
WHERE status = 0 AND fence = ? AND (okey = '') = ? AND flags & {LEASED} AND id IN ([[?]])`),
		Lock: q(`
SELECT {columns}, NULL, {now} FROM {outbox} WHERE id IN ([[?]])`),
		Write: q(`
UPDATE {outbox}
SET status = v.column2, due = v.column3, attempts = v.column4, failures = v.column5, failing_since = v.column6,
  flags = v.column7, acked_by = v.column8
FROM (VALUES [[(?, ?, ?, ?, ?, ?, ?, ?)]]) AS v
WHERE {outbox}.id = v.column1`),
		Overrule: q(`
UPDATE {outbox}
SET status = v.column2, due = v.column3, fence = v.column4, attempts = v.column5, failures = v.column6,
  failing_since = v.column7, flags = v.column8, deadline = v.column9
FROM (VALUES [[(?, ?, ?, ?, ?, ?, ?, ?, ?)]]) AS v
WHERE {outbox}.id = v.column1`),
		NoteDecisions: q(`
INSERT INTO {decision} (id, fence, action, who, why, at) VALUES [[(?, ?, ?, ?, ?, ?)]]
ON CONFLICT (id, fence) DO UPDATE SET action = excluded.action, who = excluded.who, why = excluded.why,
  at = excluded.at`),
		Decisions: q(`
SELECT id, fence, action, who, why, at, {now} FROM {decision} WHERE id IN ([[?]]) ORDER BY id, fence`),
		ForgetDecisions: q(`
DELETE FROM {decision} WHERE id IN ([[?]])`),
		Past: q(`
SELECT id, fence, outcome, charged, decided FROM {history} WHERE id IN ([[?]]) AND entry = 0`),
		Remember: q(`
INSERT INTO {history} (id, fence, entry, outcome, charged, decided, reason, worker, at)
VALUES [[(?, ?, ?, ?, ?, ?, ?, ?, ?)]]
ON CONFLICT (id, fence, entry) DO UPDATE SET outcome = excluded.outcome, charged = excluded.charged,
  decided = excluded.decided, reason = excluded.reason, worker = excluded.worker, at = excluded.at`),
		Trim: q(`
DELETE FROM {history}
WHERE id = ? AND fence < (SELECT fence FROM {history} WHERE id = ? ORDER BY fence DESC, entry DESC LIMIT 1 OFFSET ?)`),
		History: q(`
SELECT id, fence, entry, outcome, charged, reason, worker, at, {now}
FROM {history}
WHERE id IN ([[?]])
ORDER BY id, at, fence, entry`),
		Forget: q(`
DELETE FROM {history} WHERE id IN ([[?]])`),

		Refuse: q(`
INSERT INTO {hold} (topic, refusals, opened_at, next_probe) VALUES (?, 1, {now}, {now} + ?)
ON CONFLICT (topic) DO UPDATE SET refusals = refusals + 1, next_probe = {now} + ?`),
		Holds: q(`
SELECT topic, slot, refusals, opened_at, next_probe, {now} FROM {hold}`),
		Hold: q(`
SELECT topic, slot, refusals, opened_at, next_probe, {now} FROM {hold} WHERE topic = ?`),
		TryHold: q(`
SELECT topic, slot, refusals, opened_at, next_probe, {now} FROM {hold} WHERE topic = ?`),
		LockHold: q(`
SELECT topic, slot, refusals, opened_at, next_probe, {now} FROM {hold} WHERE topic = ?`),
		ShareHolds: q(`
SELECT topic, slot FROM {hold} WHERE topic IN ([[?]])`),
		ProbeLater: q(`
UPDATE {hold} SET next_probe = {now} + ? WHERE topic = ?`),
		Unhold: q(`
DELETE FROM {hold} WHERE topic = ?`),
		PickHeld: q(`
SELECT {columns}, NULL, {now}
FROM {outbox} INDEXED BY "{prefix}outbox_pending"
WHERE status = 0 AND due = ?
ORDER BY seq
LIMIT ?`),
		AnyHeld: q(`
SELECT EXISTS (SELECT 1 FROM {outbox} WHERE status = 0 AND due = ?)`),
		HeldSince: q(`
SELECT id
FROM {outbox} INDEXED BY "{prefix}outbox_pending"
WHERE status = 0 AND due = ? AND failing_since <= {now} - ?
ORDER BY seq
LIMIT ?`),
		ReleaseHeld: q(`
UPDATE {outbox} SET due = {now} WHERE id IN ([[?]])`),

		PickFailed: q(`
SELECT id
FROM {outbox} INDEXED BY "{prefix}outbox_failed"
WHERE status = 2 AND topic IN ([[?]]) AND due <= {now}
ORDER BY due, seq
LIMIT ?`),
		TryFailed: q(`
SELECT {columns}, NULL, {now} FROM {outbox} WHERE id IN ([[?]]) AND status = 2 AND due <= {now} ORDER BY due, seq`),
		LeaseFailed: q(`
UPDATE {outbox}
SET due = {now} + ?, worker = ?, fence = fence + 1, flags = flags | {LEASED} | {COMPENSATING}
WHERE id IN ([[?]])`),

		PickSettled: q(`
SELECT id, flags
FROM {outbox} INDEXED BY "{prefix}outbox_settled"
WHERE status = ? AND status > 0 AND due <= {now} - ?
ORDER BY due
LIMIT ?`),

		// The age of what is over is of no interest: its counts are read from the index.
		Stats: q(`
SELECT topic, 0, COUNT(*), MIN(stored_at), {now} FROM {outbox} WHERE status = 0 GROUP BY topic
UNION ALL
SELECT topic, 2, COUNT(*), MIN(stored_at), {now} FROM {outbox} WHERE status = 2 GROUP BY topic
UNION ALL
SELECT topic, status, COUNT(*), {now}, {now}
FROM {outbox} INDEXED BY "{prefix}outbox_topics"
WHERE status >= 2 AND status > 2
GROUP BY status, topic`),

		ListPending: walk(q, "outbox_pending", "status = 0 AND status = ?"),
		ListSettled: walk(q, "outbox_settled", "status > 0 AND status = ?"),
		ListTopic:   walkTopic(q),
		Glance: q(`
SELECT {columns}, NULL, {now} FROM {outbox} WHERE id IN ([[?]])`),
		HistorySays: q(`
SELECT DISTINCT id FROM {history} WHERE id IN ([[?]]) AND instr(reason, ?) > 0`),
		DecisionsSay: q(`
SELECT DISTINCT id FROM {decision} WHERE id IN ([[?]]) AND instr(why, ?) > 0`),

		LockChore: q(`
SELECT worker, held_until, {now} FROM {chore} WHERE name = ?`),
		AddChore: q(`
INSERT INTO {chore} (name, worker, held_until) VALUES (?, ?, {now} + ?)`),
		SetChore: q(`
UPDATE {chore} SET worker = ?, held_until = {now} + ? WHERE name = ?`),
		EndChore: q(`
DELETE FROM {chore} WHERE name = ?`),

		Receive: q(`
INSERT INTO {inbox} (grp, id, at) VALUES (?, ?, {now}) ON CONFLICT DO NOTHING`),
		PurgeInbox: q(`
DELETE FROM {inbox} WHERE (grp, id) IN (SELECT grp, id FROM {inbox} WHERE at <= {now} - ? ORDER BY at LIMIT ?)`),
		StoreProcessed: q(`
INSERT INTO {processed} (id, grp, at) VALUES [[(?, ?, {now})]] ON CONFLICT DO NOTHING`),
		ProcessedBy: q(`
SELECT id, grp FROM {processed} WHERE id IN ([[?]])`),
		PurgeProcessed: q(`
DELETE FROM {processed} WHERE (id, grp) IN (SELECT id, grp FROM {processed} WHERE at <= {now} - ? ORDER BY at LIMIT ?)`),
		Mark: q(`
INSERT INTO {marker} (token, dead, at) VALUES (?, 0, ?)`),
		Marked: q(`
SELECT dead FROM {marker} WHERE token = ?`),
		Bury: q(`
INSERT INTO {marker} (token, dead, at) VALUES (?, 1, {now}) ON CONFLICT DO NOTHING`),
		PurgeMarkers: q(`
DELETE FROM {marker} WHERE (token) IN (SELECT token FROM {marker} WHERE at <= {now} - ? ORDER BY at LIMIT ?)`),

		Withholding: withholding(q),

		Version: q(`
SELECT COALESCE(MAX(version), 0), COALESCE(MAX(usable_by), 0) FROM {schema}`),
	}
}

func order(q func(string) sqlstore.Statement) sqlstore.OrderReads {
	return sqlstore.OrderReads{
		Next: q(`
SELECT l.seq, l.lane, l.id, l.ready_at, {now}
FROM {head} AS h
JOIN {lane} AS l ON l.seq = (
  SELECT n.seq FROM {lane} AS n INDEXED BY "{prefix}lane_order" WHERE n.lane = h.lane ORDER BY n.seq LIMIT 1
)
WHERE h.lane IN ([[?]])`),
		Line: q(`
SELECT seq, lane, id, ready_at, {now}
FROM {lane} INDEXED BY "{prefix}lane_order"
WHERE lane = ?
ORDER BY seq
LIMIT ?`),
		Known: q(`
SELECT id, topic, okey FROM {outbox} WHERE id IN ([[?]]) AND status = 0`),
	}
}

// walk lists rows of an index; the number of a row, which is the order of storing, is the end of each.
func walk(q func(string) sqlstore.Statement, index, fixed string) sqlstore.Walk {
	read := `
SELECT id, topic, due, seq, stored_at, {now}
FROM {outbox} INDEXED BY "{prefix}` + index + `"
WHERE ` + fixed
	return sqlstore.Walk{
		After: q(read + ` AND due > ? ORDER BY due, seq LIMIT ?`),
		Same: q(read + ` AND due = ? AND seq >= ? AND (seq > ? OR topic > ? OR topic = ? AND id > ?)
ORDER BY seq
LIMIT ?`),
	}
}

func walkTopic(q func(string) sqlstore.Statement) sqlstore.Walk {
	w := walk(q, "outbox_topics", "status >= 2 AND status = ? AND topic = ?")
	w.Topic = true
	return w
}
