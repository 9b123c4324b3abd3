package postgresstore

import (
	"fmt"

	"github.com/waybillmq/waybill/adapters/internal/sqlstore"
)

// clock is the database's clock at this moment, in microseconds; now() stands still in a transaction. As a sub-select
// it is evaluated once, so that an index can be searched by it.
const clock = `(SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint)`

func writer(prefix string) sqlstore.Writer { return sqlstore.NewWriter(prefix, `"`, "now", clock) }

// migrations are the schema. IDs, topics and keys compare byte by byte (COLLATE "C"). Every change of due or status is
// a change of an indexed column and never HOT, so pages are left some room, and autovacuum comes early and works fast.
func migrations(prefix string) []sqlstore.Migration {
	w := writer(prefix)
	return []sqlstore.Migration{{
		Version: 1, UsableBy: 1, About: "the outbox, order per key, holds, history",
		Statements: []string{
			w.Text(`
CREATE TABLE IF NOT EXISTS {outbox} (
  id            text COLLATE "C" NOT NULL PRIMARY KEY,
  due           bigint   NOT NULL,            -- next attempt or compensation, or when settled; us since 1970
  stored_at     bigint   NOT NULL,
  fence         bigint   NOT NULL,            -- grows with every lease
  acked_by      bigint   NOT NULL DEFAULT 0,  -- the fence whose ack was recorded
  failing_since bigint   NOT NULL DEFAULT 0,
  deadline      bigint   NOT NULL,            -- microseconds after stored_at, 0 = none
  size          integer  NOT NULL,            -- bytes of id, topic, key, metadata and payload
  attempts      integer  NOT NULL,
  failures      integer  NOT NULL DEFAULT 0,
  status        smallint NOT NULL DEFAULT 0,  -- 0 pending, 1 confirmed, 2 failed, 3 compensated, 4 discarded
  flags         smallint NOT NULL,            -- 1 leased 2 maybe sent 4 late ack 8 compensating 16 history
  topic         text COLLATE "C" NOT NULL,
  okey          text COLLATE "C" NOT NULL,    -- ordering key, '' = unordered
  worker        text     NOT NULL,            -- who stored it, or leased it last
  metadata      text     NOT NULL,            -- a JSON object of strings, '' = none
  payload       bytea    NOT NULL
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 5000,
  autovacuum_analyze_scale_factor = 0.05, autovacuum_vacuum_cost_delay = 1)`),
			// What a claim, a probe, a release looks at: one range of it.
			w.Text(`
CREATE INDEX IF NOT EXISTS "{prefix}outbox_pending" ON {outbox} (due, stored_at) WHERE status = 0`),
			w.Text(`
CREATE INDEX IF NOT EXISTS "{prefix}outbox_failed" ON {outbox} (topic, due) WHERE status = 2`),
			w.Text(`
CREATE INDEX IF NOT EXISTS "{prefix}outbox_settled" ON {outbox} (status, due) WHERE status > 0`),
			w.Text(`
CREATE TABLE IF NOT EXISTS {lane} (
  seq      bigint  GENERATED ALWAYS AS IDENTITY, -- order within the lane
  lane     bytea   NOT NULL,                  -- SHA-256 of topic, NUL, key; 16 bytes of it
  id       text COLLATE "C" NOT NULL,
  ready_at bigint  NOT NULL,                  -- end of the delay, 0 = none
  fresh    boolean NOT NULL DEFAULT true,     -- not yet looked at by a promotion
  PRIMARY KEY (lane, seq)
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 5000,
  autovacuum_vacuum_cost_delay = 1)`),
			// A hash has no order: an ordered index on seq alone would tempt the planner to walk through it, row after row of
			// the longest lane, for the first row of another.
			w.Text(`
CREATE INDEX IF NOT EXISTS "{prefix}lane_seq" ON {lane} USING hash (seq)`),
			w.Text(`
CREATE INDEX IF NOT EXISTS "{prefix}lane_fresh" ON {lane} (seq) WHERE fresh`),
			w.Text(`
CREATE TABLE IF NOT EXISTS {head} (
  lane bytea  NOT NULL PRIMARY KEY,           -- one unconfirmed envelope for each key
  seq  bigint NOT NULL,
  id   text COLLATE "C" NOT NULL
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 5000,
  autovacuum_vacuum_cost_delay = 1)`),
			w.Text(`
CREATE TABLE IF NOT EXISTS {hold} (
  topic      text COLLATE "C" NOT NULL PRIMARY KEY,
  slot       bigint GENERATED ALWAYS AS IDENTITY UNIQUE, -- waiting envelopes are due at 2^62 + slot
  refusals   integer NOT NULL,
  opened_at  bigint  NOT NULL,
  next_probe bigint  NOT NULL
)`),
			w.Text(`
CREATE TABLE IF NOT EXISTS {history} (
  id      text COLLATE "C" NOT NULL,
  fence   bigint   NOT NULL,
  entry   smallint NOT NULL,                  -- 0 what came of an attempt, 1 what was decided without one
  outcome smallint NOT NULL,                  -- 0 unknown, 2 nacked, 3 returned, 4 rejected
  charged boolean  NOT NULL,
  decided smallint NOT NULL,                  -- the status that was asked for
  reason  text     NOT NULL,
  worker  text     NOT NULL,
  at      bigint   NOT NULL,
  PRIMARY KEY (id, fence, entry)
)`),
			w.Text(`
CREATE TABLE IF NOT EXISTS {chore} (
  name       text COLLATE "C" NOT NULL PRIMARY KEY,
  worker     text COLLATE "C" NOT NULL,
  held_until bigint NOT NULL
)`),
			w.Text(`
CREATE TABLE IF NOT EXISTS {schema} (
  version    integer NOT NULL PRIMARY KEY,
  usable_by  integer NOT NULL,                -- the oldest program that can use it
  applied_at bigint  NOT NULL
)`),
		},
		Record: w.Text(`
INSERT INTO {schema} (version, usable_by, applied_at) VALUES (1, 1, ` + clock + `) ON CONFLICT DO NOTHING`),
	}, {
		Version: 2, UsableBy: 1, About: "what people decide about envelopes; flag 32 says that there is something",
		Statements: []string{
			// A table of its own: programs of version 1 keep no more than so many rows of the history.
			w.Text(`
CREATE TABLE IF NOT EXISTS {decision} (
  id     text COLLATE "C" NOT NULL,
  fence  bigint   NOT NULL,                   -- that of the envelope from then on
  action smallint NOT NULL,                   -- 1 requeue, 2 compensate, 3 discard
  who    text     NOT NULL,
  why    text     NOT NULL,
  at     bigint   NOT NULL,
  PRIMARY KEY (id, fence)
)`),
			// What is listed by topic and counted. Writers wait while it is built, which takes one look at the table: on a
			// large one create it CONCURRENTLY beforehand. The order is by an expression so that the planner cannot follow
			// another index in that order and filter by topic, which it would where it takes a topic to be frequent that is not
			// to be found among what is over.
			w.Text(`
CREATE INDEX IF NOT EXISTS "{prefix}outbox_topics" ON {outbox} (status, topic, (due + 0), stored_at) WHERE status >= 2`),
		},
		Record: w.Text(`
INSERT INTO {schema} (version, usable_by, applied_at) VALUES (2, 1, ` + clock + `) ON CONFLICT DO NOTHING`),
	}, {
		Version: 3, UsableBy: 1, About: "what consumers have processed, and which business transactions committed",
		Statements: []string{
			w.Text(`
CREATE TABLE IF NOT EXISTS {inbox} (
  grp text COLLATE "C" NOT NULL,              -- consumer group
  id  text COLLATE "C" NOT NULL,              -- a message that it has processed
  at  bigint NOT NULL,
  PRIMARY KEY (grp, id)
)`),
			w.Text(`
CREATE INDEX IF NOT EXISTS "{prefix}inbox_at" ON {inbox} (at)`),
			w.Text(`
CREATE TABLE IF NOT EXISTS {processed} (
  id  text COLLATE "C" NOT NULL,
  grp text COLLATE "C" NOT NULL,              -- the consumer group that says so
  at  bigint NOT NULL,
  PRIMARY KEY (id, grp)
)`),
			w.Text(`
CREATE INDEX IF NOT EXISTS "{prefix}processed_at" ON {processed} (at)`),
			w.Text(`
CREATE TABLE IF NOT EXISTS {marker} (
  token bytea    NOT NULL PRIMARY KEY,        -- one business transaction
  dead  smallint NOT NULL,                    -- 0 it committed, 1 it never will
  at    bigint   NOT NULL
)`),
			w.Text(`
CREATE INDEX IF NOT EXISTS "{prefix}marker_at" ON {marker} (at)`),
		},
		Record: w.Text(`
INSERT INTO {schema} (version, usable_by, applied_at) VALUES (3, 1, ` + clock + `) ON CONFLICT DO NOTHING`),
	}, withheldMigration(w)}
}

// insert stores rows that come as one array for each column: one statement text, prepared once, for batches of any
// size.
const insert = `
WITH clock AS MATERIALIZED (SELECT {now} AS now)
INSERT INTO {outbox}
  (id, topic, okey, metadata, payload, size, stored_at, due, fence, attempts, flags, deadline, worker)
SELECT u.id, u.topic, u.okey, convert_from(u.metadata, 'UTF8'), u.payload, u.size,
  clock.now + u.stored_at, clock.now * u.moves + u.due,
  u.leased, u.leased, u.leased * {LEASED}, u.deadline, u.worker
FROM clock, unnest($1::text[], $2::text[], $3::text[], $4::bytea[], $5::bytea[], $6::bigint[],
  $7::bigint[], $8::bigint[], $9::bigint[], $10::bigint[], $11::bigint[], $12::text[])
  AS u (id, topic, okey, metadata, payload, size, stored_at, moves, due, leased, deadline, worker)`

// skipping makes an insert pass over the IDs that exist, and return those that it stored.
const skipping = `
ON CONFLICT (id) DO NOTHING
RETURNING id`

// insertOne is insert for one row: a function for each column costs the server more than the row itself. OFFSET keeps the
// clock a table of its own, which is read once.
const insertOne = `
INSERT INTO {outbox}
  (id, topic, okey, metadata, payload, size, stored_at, due, fence, attempts, flags, deadline, worker)
SELECT $1::text, $2::text, $3::text, convert_from($4::bytea, 'UTF8'), $5::bytea, $6::bigint,
  clock.now + $7::bigint, clock.now * $8::bigint + $9::bigint,
  $10::bigint, $10::bigint, $10::bigint * {LEASED}, $11::bigint, $12::text
FROM (SELECT {now} AS now OFFSET 0) AS clock`

// insertAlike and insertSame are insert with one parameter in place of an array where all rows have the same.
const (
	insertAlike = `
WITH clock AS MATERIALIZED (SELECT {now} AS now)
INSERT INTO {outbox}
  (id, topic, okey, metadata, payload, size, stored_at, due, fence, attempts, flags, deadline, worker)
SELECT u.id, u.topic, $1::text, convert_from(u.metadata, 'UTF8'), u.payload, u.size,
  clock.now + u.stored_at, clock.now * $2::bigint + $3::bigint,
  $4::bigint, $4::bigint, $4::bigint * {LEASED}, $5::bigint, $6::text
FROM clock, unnest($7::text[], $8::text[], $9::bytea[], $10::bytea[], $11::bigint[], $12::bigint[])
  AS u (id, topic, metadata, payload, size, stored_at)`
	insertSame = `
WITH clock AS MATERIALIZED (SELECT {now} AS now)
INSERT INTO {outbox}
  (id, topic, okey, metadata, payload, size, stored_at, due, fence, attempts, flags, deadline, worker)
SELECT u.id, $1::text, $2::text, convert_from($3::bytea, 'UTF8'), u.payload,
  $4::bigint + octet_length(u.id) + octet_length(u.payload),
  clock.now + u.stored_at, clock.now * $5::bigint + $6::bigint,
  $7::bigint, $7::bigint, $7::bigint * {LEASED}, $8::bigint, $9::text
FROM clock, unnest($10::text[], $11::bytea[], $12::bigint[]) AS u (id, payload, stored_at)`
)

// first limits a statement to as many rows as its n-th parameter says, without telling the planner, which then takes an
// index in the order that is asked for, from its beginning. Where it knows the number, and expects fewer rows than that
// since the statistics are older than a backlog, it reads and sorts all that is due: 200,000 rows for a claim of 500.
func first(n int) string { return fmt.Sprintf("LIMIT (SELECT $%d::bigint)", n) }

// statements are all SQL that a store runs. Where rows are asked for by their IDs, and for a status besides, that is
// "status + 0 = 0", which no index answers: statistics that are older than a backlog say that hardly anything is pending,
// and the planner would read all that is, 60,000 rows to confirm 500.
func statements(prefix string) sqlstore.Statements {
	q := writer(prefix).Statement
	return sqlstore.Statements{
		Insert: q(insert), InsertAlike: q(insertAlike), InsertSame: q(insertSame),
		Clock: q(`
SELECT {now}`),
		InsertSkipping: q(insert + skipping), InsertOneSkipping: q(insertOne + skipping),
		InsertLanes: q(`
INSERT INTO {lane} (lane, id, ready_at)
SELECT u.lane, u.id, {now} * u.delayed + u.delay
FROM unnest($1::bytea[], $2::text[], $3::bigint[], $4::bigint[]) WITH ORDINALITY AS u (lane, id, delayed, delay, place)
ORDER BY u.place`),
		Existing: q(`
SELECT {columns}, payload, {now} FROM {outbox} WHERE id = ANY ($1::text[])`),
		Lookup: q(`
SELECT {columns}, payload, {now} FROM {outbox} WHERE id = ANY ($1::text[])`),
		Delete: q(`
DELETE FROM {outbox} WHERE id = ANY ($1::text[])`),

		// lane_fresh, outbox_pending: the first entry of each. EXISTS would scan the table where much is expected to be due,
		// and min the whole index where a single entry is expected.
		Look: q(`
SELECT (SELECT seq FROM {lane} WHERE fresh ORDER BY seq LIMIT 1) IS NOT NULL,
  COALESCE((SELECT due FROM {outbox} WHERE status = 0 ORDER BY due, stored_at LIMIT 1) <= {now}, false)`),
		// outbox_pending, one range. What is over maxBytes is locked, and left as it is. The second limit
		// takes nothing away: it has the planner expect few rows, for which it looks one by one.
		Take: q(`
WITH picked AS MATERIALIZED (
  SELECT id, due, stored_at, size
  FROM {outbox}
  WHERE status = 0 AND due >= $5 AND due <= {now}
  ORDER BY due, stored_at
  ` + first(1) + `
  FOR UPDATE SKIP LOCKED
), fitting AS MATERIALIZED (
  SELECT id, due, row_number() OVER line AS place, sum(size) OVER line AS bytes
  FROM picked
  WINDOW line AS (ORDER BY due, stored_at ROWS UNBOUNDED PRECEDING)
  LIMIT $1
)
UPDATE {outbox} AS o
SET due = {now} + $2, worker = $3, fence = o.fence + 1, attempts = o.attempts + 1,
  flags = o.flags | {LEASED}::smallint | (CASE WHEN o.flags & {LEASED} <> 0 THEN {MAYBE} ELSE 0 END)::smallint
FROM fitting AS f
WHERE o.id = f.id AND (f.place = 1 OR f.bytes <= $4)
RETURNING o.id, o.topic, o.okey, o.metadata, o.size, o.status, f.due, o.stored_at, o.fence, o.attempts, o.failures,
  o.failing_since, o.flags, o.deadline, o.acked_by, o.worker, o.payload, {now}`),
		Payloads: q(`
SELECT id, payload FROM {outbox} WHERE id = ANY ($1::text[])`),
		Lease: q(`
UPDATE {outbox}
SET due = {now} + $1, worker = $2, fence = fence + 1, attempts = attempts + 1,
  flags = flags | {LEASED}::smallint | (CASE WHEN flags & {LEASED} <> 0 THEN {MAYBE} ELSE 0 END)::smallint
WHERE id = ANY ($3::text[])`),

		PromotionLock: q(`
SELECT version FROM {schema} WHERE version = 1 FOR UPDATE SKIP LOCKED`),
		// lane_fresh, one range.
		Fresh: q(`
SELECT seq, lane, id, ready_at, {now}
FROM {lane}
WHERE fresh AND seq > $1
ORDER BY seq
` + first(2) + `
FOR UPDATE SKIP LOCKED`),
		Heads: q(`
SELECT lane FROM {head} WHERE lane = ANY ($1::bytea[])`),
		HeadOf: q(`
SELECT lane, id FROM {head} WHERE lane = ANY ($1::bytea[])`),
		TryHeads: q(`
SELECT lane FROM {head} WHERE lane = ANY ($1::bytea[]) FOR UPDATE SKIP LOCKED`),
		TryParked: q(`
SELECT id, topic, okey FROM {outbox} WHERE id = ANY ($1::text[]) AND status + 0 = 0 AND due + 0 = {parked}
FOR UPDATE SKIP LOCKED`),
		LockHeads: q(`
SELECT lane, seq, id FROM {head} WHERE lane = ANY ($1::bytea[]) ORDER BY lane FOR UPDATE`),
		Order:       order(q),
		OrderInside: order(q),
		Isolation: q(`
SELECT current_setting('transaction_isolation') = 'read committed'`),
		WriteHeads: q(`
INSERT INTO {head} (lane, seq, id)
SELECT u.lane, u.seq, u.id FROM unnest($1::bytea[], $2::bigint[], $3::text[]) AS u (lane, seq, id)
ON CONFLICT (lane) DO UPDATE SET seq = excluded.seq, id = excluded.id`),
		DeleteHeads: q(`
DELETE FROM {head} WHERE lane = ANY ($1::bytea[])`),
		DeleteLanes: q(`
DELETE FROM {lane} WHERE seq = ANY ($1::bigint[])`),
		MarkLanes: q(`
UPDATE {lane} SET fresh = false WHERE seq = ANY ($1::bigint[])`),
		Ready: q(`
UPDATE {outbox} SET due = GREATEST($1, {now}) WHERE id = ANY ($2::text[]) AND status + 0 = 0 AND due + 0 = {parked}`),

		Confirm: q(`
UPDATE {outbox}
SET status = 1, due = {now}, acked_by = fence, flags = flags & ~{LEASED}::smallint
WHERE id = ANY ($3::text[]) AND status + 0 = 0 AND fence = $1 AND (okey = '') = $2 AND flags & {LEASED} <> 0`),
		Lock: q(`
SELECT {columns}, NULL::bytea, {now} FROM {outbox} WHERE id = ANY ($1::text[]) ORDER BY id FOR UPDATE`),
		Write: q(`
UPDATE {outbox} AS o
SET status = u.status, due = u.due, attempts = u.attempts, failures = u.failures, failing_since = u.failing_since,
  flags = u.flags, acked_by = u.acked_by
FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[],
  $7::bigint[], $8::bigint[]) AS u (id, status, due, attempts, failures, failing_since, flags, acked_by)
WHERE o.id = u.id`),
		Overrule: q(`
UPDATE {outbox} AS o
SET status = u.status, due = u.due, fence = u.fence, attempts = u.attempts, failures = u.failures,
  failing_since = u.failing_since, flags = u.flags, deadline = u.deadline
FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[],
  $8::bigint[], $9::bigint[]) AS u (id, status, due, fence, attempts, failures, failing_since, flags, deadline)
WHERE o.id = u.id`),
		NoteDecisions: q(`
INSERT INTO {decision} (id, fence, action, who, why, at)
SELECT u.id, u.fence, u.action, u.who, u.why, u.at
FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::text[], $5::text[], $6::bigint[])
  AS u (id, fence, action, who, why, at)
ON CONFLICT (id, fence) DO UPDATE SET action = excluded.action, who = excluded.who, why = excluded.why,
  at = excluded.at`),
		Decisions: q(`
SELECT id, fence, action, who, why, at, {now} FROM {decision} WHERE id = ANY ($1::text[]) ORDER BY id, fence`),
		ForgetDecisions: q(`
DELETE FROM {decision} WHERE id = ANY ($1::text[])`),
		Past: q(`
SELECT id, fence, outcome, charged, decided FROM {history} WHERE id = ANY ($1::text[]) AND entry = 0`),
		Remember: q(`
INSERT INTO {history} (id, fence, entry, outcome, charged, decided, reason, worker, at)
SELECT u.id, u.fence, u.entry, u.outcome, u.charged <> 0, u.decided, u.reason, u.worker, u.at
FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::text[], $8::text[],
  $9::bigint[]) AS u (id, fence, entry, outcome, charged, decided, reason, worker, at)
ON CONFLICT (id, fence, entry) DO UPDATE SET outcome = excluded.outcome, charged = excluded.charged,
  decided = excluded.decided, reason = excluded.reason, worker = excluded.worker, at = excluded.at`),
		Trim: q(`
DELETE FROM {history}
WHERE id = $1 AND fence < (
  SELECT fence FROM {history} WHERE id = $2 ORDER BY fence DESC, entry DESC LIMIT 1 OFFSET $3
)`),
		History: q(`
SELECT id, fence, entry, outcome, charged, reason, worker, at, {now}
FROM {history}
WHERE id = ANY ($1::text[])
ORDER BY id, at, fence, entry`),
		Forget: q(`
DELETE FROM {history} WHERE id = ANY ($1::text[])`),

		Refuse: q(`
INSERT INTO {hold} AS h (topic, refusals, opened_at, next_probe) VALUES ($1, 1, {now}, {now} + $2)
ON CONFLICT (topic) DO UPDATE SET refusals = h.refusals + 1, next_probe = {now} + $3`),
		Holds: q(`
SELECT topic, slot, refusals, opened_at, next_probe, {now} FROM {hold}`),
		Hold: q(`
SELECT topic, slot, refusals, opened_at, next_probe, {now} FROM {hold} WHERE topic = $1`),
		TryHold: q(`
SELECT topic, slot, refusals, opened_at, next_probe, {now} FROM {hold} WHERE topic = $1 FOR UPDATE SKIP LOCKED`),
		LockHold: q(`
SELECT topic, slot, refusals, opened_at, next_probe, {now} FROM {hold} WHERE topic = $1 FOR UPDATE`),
		ShareHolds: q(`
SELECT topic, slot FROM {hold} WHERE topic = ANY ($1::text[]) ORDER BY topic FOR SHARE`),
		ProbeLater: q(`
UPDATE {hold} SET next_probe = {now} + $1 WHERE topic = $2`),
		Unhold: q(`
DELETE FROM {hold} WHERE topic = $1`),
		// outbox_pending, the range of one slot.
		PickHeld: q(`
SELECT {columns}, NULL::bytea, {now}
FROM {outbox}
WHERE status = 0 AND due = $1
ORDER BY stored_at
` + first(2) + `
FOR UPDATE SKIP LOCKED`),
		AnyHeld: q(`
SELECT (SELECT stored_at FROM {outbox} WHERE status = 0 AND due = $1 ORDER BY stored_at LIMIT 1) IS NOT NULL`),
		HeldSince: q(`
SELECT id FROM {outbox} WHERE status = 0 AND due = $1 AND failing_since <= {now} - $2 ORDER BY stored_at LIMIT $3`),
		ReleaseHeld: q(`
UPDATE {outbox} SET due = {now} WHERE id = ANY ($1::text[])`),

		// outbox_failed, one range of each topic.
		PickFailed: q(`
SELECT id
FROM {outbox}
WHERE status = 2 AND topic = ANY ($1::text[]) AND due <= {now}
ORDER BY due, stored_at
LIMIT $2`),
		TryFailed: q(`
SELECT {columns}, NULL::bytea, {now}
FROM {outbox}
WHERE id = ANY ($1::text[]) AND status = 2 AND due <= {now}
ORDER BY due, stored_at
FOR UPDATE SKIP LOCKED`),
		LeaseFailed: q(`
UPDATE {outbox}
SET due = {now} + $1, worker = $2, fence = fence + 1, flags = flags | ({LEASED} | {COMPENSATING})::smallint
WHERE id = ANY ($3::text[])`),

		// outbox_settled, one range of one status.
		PickSettled: q(`
SELECT id, flags
FROM {outbox}
WHERE status = $1 AND status > 0 AND due <= {now} - $2
ORDER BY due
` + first(3) + `
FOR UPDATE SKIP LOCKED`),

		// outbox_topics for all but the first.
		Stats: q(`
SELECT topic, 0, count(*), min(stored_at), {now} FROM {outbox} WHERE status = 0 GROUP BY topic
UNION ALL
SELECT topic, status, count(*), min(stored_at), {now} FROM {outbox} WHERE status >= 2 GROUP BY status, topic`),

		// outbox_pending.
		ListPending: walk(q, "status = 0 AND status = $1", 1, "due"),
		// outbox_settled.
		ListSettled: walk(q, "status > 0 AND status = $1", 1, "due"),
		// outbox_topics.
		ListTopic: walk(q, "status >= 2 AND status = $1 AND topic = $2", 2, "(due + 0)"),
		Glance: q(`
SELECT {columns}, NULL::bytea, {now} FROM {outbox} WHERE id = ANY ($1::text[])`),
		HistorySays: q(`
SELECT DISTINCT id FROM {history} WHERE id = ANY ($1::text[]) AND position($2 IN reason) > 0`),
		DecisionsSay: q(`
SELECT DISTINCT id FROM {decision} WHERE id = ANY ($1::text[]) AND position($2 IN why) > 0`),

		LockChore: q(`
SELECT worker, held_until, {now} FROM {chore} WHERE name = $1 FOR UPDATE`),
		AddChore: q(`
INSERT INTO {chore} (name, worker, held_until) VALUES ($1, $2, {now} + $3)`),
		SetChore: q(`
UPDATE {chore} SET worker = $1, held_until = {now} + $2 WHERE name = $3`),
		EndChore: q(`
DELETE FROM {chore} WHERE name = $1`),

		Receive: q(`
INSERT INTO {inbox} (grp, id, at) VALUES ($1, $2, {now}) ON CONFLICT DO NOTHING`),
		// inbox_at, one range from its beginning.
		PurgeInbox: q(`
DELETE FROM {inbox} WHERE (grp, id) IN (
  SELECT grp, id FROM {inbox} WHERE at <= {now} - $1 ORDER BY at ` + first(2) + ` FOR UPDATE SKIP LOCKED
)`),
		StoreProcessed: q(`
INSERT INTO {processed} (id, grp, at)
SELECT u.id, u.grp, {now} FROM unnest($1::text[], $2::text[]) AS u (id, grp)
ON CONFLICT DO NOTHING`),
		// The primary key, one range of each id.
		ProcessedBy: q(`
SELECT id, grp FROM {processed} WHERE id = ANY ($1::text[])`),
		PurgeProcessed: q(`
DELETE FROM {processed} WHERE (id, grp) IN (
  SELECT id, grp FROM {processed} WHERE at <= {now} - $1 ORDER BY at ` + first(2) + ` FOR UPDATE SKIP LOCKED
)`),
		Mark: q(`
INSERT INTO {marker} (token, dead, at) VALUES ($1, 0, $2)`),
		Marked: q(`
SELECT dead FROM {marker} WHERE token = $1`),
		Bury: q(`
INSERT INTO {marker} (token, dead, at) VALUES ($1, 1, {now}) ON CONFLICT DO NOTHING`),
		PurgeMarkers: q(`
DELETE FROM {marker} WHERE token IN (
  SELECT token FROM {marker} WHERE at <= {now} - $1 ORDER BY at ` + first(2) + ` FOR UPDATE SKIP LOCKED
)`),

		Withholding: withholding(q),

		Version: q(`
SELECT COALESCE(max(version), 0), COALESCE(max(usable_by), 0) FROM {schema}`),
	}
}

func order(q func(string) sqlstore.Statement) sqlstore.OrderReads {
	return sqlstore.OrderReads{
		// The primary key, one row of each lane.
		Next: q(`
SELECT l.seq, l.lane, l.id, l.ready_at, {now}
FROM unnest($1::bytea[]) AS h (lane)
CROSS JOIN LATERAL (
  SELECT n.seq, n.lane, n.id, n.ready_at FROM {lane} AS n WHERE n.lane = h.lane ORDER BY n.seq LIMIT 1
) AS l`),
		// The primary key, one range of one lane.
		Line: q(`
SELECT seq, lane, id, ready_at, {now} FROM {lane} WHERE lane = $1 ORDER BY seq LIMIT $2`),
		Known: q(`
SELECT id, topic, okey FROM {outbox} WHERE id = ANY ($1::text[]) AND status + 0 = 0`),
	}
}

// walk lists what is fixed by the first n parameters, in the order of due, as the index has it.
func walk(q func(string) sqlstore.Statement, fixed string, n int, due string) sqlstore.Walk {
	p := make([]any, 7)
	for i := range p {
		p[i] = fmt.Sprintf("$%d", n+1+i)
	}
	const read = `
SELECT id, topic, due, stored_at, stored_at, {now}
FROM {outbox}
WHERE `
	return sqlstore.Walk{
		Topic: n == 2,
		After: q(fmt.Sprintf(read+fixed+` AND `+due+` > %s
ORDER BY `+due+`, stored_at, topic, id
LIMIT %s`, p[:2]...)),
		Same: q(fmt.Sprintf(read+fixed+` AND `+due+` = %s AND stored_at >= %s
  AND (stored_at > %s OR topic > %s OR topic = %s AND id > %s)
ORDER BY stored_at, topic, id
LIMIT %s`, p...)),
	}
}
