//go:build services

package grammartest_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"
	"github.com/pingcap/tidb/pkg/parser"
	_ "github.com/pingcap/tidb/pkg/parser/test_driver" // literals
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/mysqlstore"
	"github.com/waybillmq/waybill/internal/testenv"
	"github.com/waybillmq/waybill/reliable"
)

// recorder is a driver's connector that writes down what it is sent.
type recorder struct {
	driver.Connector
	mu   sync.Mutex
	sent map[string]bool
}

func (r *recorder) Connect(ctx context.Context) (driver.Conn, error) {
	conn, err := r.Connector.Connect(ctx)
	if err != nil {
		return nil, err
	}
	return &recordedConn{conn, r}, nil
}

func (r *recorder) note(query string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sent[query] = true
}

// recordedConn passes on what go-sql-driver's connections can do and the store uses.
type recordedConn struct {
	driver.Conn
	recorder *recorder
}

func (c *recordedConn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	c.recorder.note(query)
	return c.Conn.(driver.ExecerContext).ExecContext(ctx, query, args)
}

func (c *recordedConn) PrepareContext(ctx context.Context, query string) (driver.Stmt, error) {
	c.recorder.note(query)
	return c.Conn.(driver.ConnPrepareContext).PrepareContext(ctx, query)
}

func (c *recordedConn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	c.recorder.note(query)
	return c.Conn.(driver.QueryerContext).QueryContext(ctx, query, args)
}

func (c *recordedConn) BeginTx(ctx context.Context, opts driver.TxOptions) (driver.Tx, error) {
	return c.Conn.(driver.ConnBeginTx).BeginTx(ctx, opts)
}

func (c *recordedConn) CheckNamedValue(value *driver.NamedValue) error {
	return c.Conn.(driver.NamedValueChecker).CheckNamedValue(value)
}

// exercise makes the store send everything that it can send.
func exercise(t *testing.T, store *mysqlstore.Store) {
	ctx := t.Context()
	must := func(err error) {
		t.Helper()
		require.NoError(t, err)
	}
	request := reliable.ClaimRequest{Worker: "w", Max: 100, MaxBytes: 1, Lease: time.Minute}
	envelope := func(id, key string) reliable.Envelope {
		return reliable.Envelope{ID: reliable.ID(id), Topic: "orders", Key: key, Payload: make([]byte, 2000)}
	}
	settlement := func(a reliable.Attempt, outcome reliable.Outcome, to reliable.Status) reliable.Settlement {
		return reliable.Settlement{ID: a.ID, Fence: a.Fence, Topic: a.Topic, Key: a.Key, Sent: true, Outcome: outcome, To: to}
	}
	claim := func() []reliable.Attempt {
		attempts, err := store.Claim(ctx, request)
		must(err)
		require.NotEmpty(t, attempts)
		return attempts
	}
	settle := func(ss ...reliable.Settlement) {
		_, err := store.Settle(ctx, ss...)
		must(err)
	}

	must(store.Migrate(ctx))
	must(store.Check(ctx))

	// Storing: small and large batches, duplicates, keys, transactions, savepoints.
	many := make([]reliable.Envelope, 100)
	for i := range many {
		many[i] = envelope(string(reliable.NewID()), "")
		many[i].Delay = time.Hour
	}
	_, err := store.Enqueue(ctx, reliable.EnqueueRequest{}, many...)
	must(err)
	_, err = store.Enqueue(ctx, reliable.EnqueueRequest{}, many[0], envelope("plain", ""))
	must(err)
	_, err = store.Enqueue(ctx, reliable.EnqueueRequest{}, envelope("first", "key"), envelope("second", "key"))
	must(err)
	tx, err := store.Begin(ctx, nil)
	must(err)
	savepoint, err := tx.Savepoint(ctx)
	must(err)
	_, err = tx.Enqueue(ctx, reliable.EnqueueRequest{}, envelope("taken back", "other key"))
	must(err)
	must(savepoint.Rollback(ctx))
	conflict := many[1]
	conflict.Payload = []byte("another")
	_, err = tx.Enqueue(ctx, reliable.EnqueueRequest{}, envelope("beside a conflict", ""), conflict)
	require.ErrorIs(t, err, reliable.ErrConflict)
	must(tx.Commit(ctx))

	// Claims and outcomes, with an advance of the key, more history than is kept, and a hold.
	_, err = store.Hold(ctx, "orders", 0)
	must(err)
	for range 3 * reliable.MaxHistory { // two envelopes take turns
		attempts := claim()
		settle(settlement(attempts[0], reliable.Unknown, reliable.Pending))
	}
	request.MaxBytes = 0
	for _, attempt := range claim() {
		if attempt.Key != "" {
			settle(settlement(attempt, reliable.Acked, reliable.Confirmed))
			continue
		}
		parked := settlement(attempt, reliable.Nacked, reliable.Pending)
		parked.Charge, parked.Park = true, true
		settle(parked)
	}
	probed, err := store.Probe(ctx, "orders", request)
	must(err)
	require.Len(t, probed, 1)
	parked := settlement(probed[0], reliable.Nacked, reliable.Pending)
	parked.Park = true
	settle(parked)
	_, err = store.Holds(ctx)
	must(err)
	failed, err := store.FailHeld(ctx, "orders", reliable.FailHeldRequest{Reason: "waited too long", Limit: 10})
	must(err)
	require.Positive(t, failed)
	last := claim()[0]
	parked = settlement(last, reliable.Nacked, reliable.Pending)
	parked.Park = true
	settle(parked)
	_, err = store.Unhold(ctx, "orders", 10)
	must(err)
	settle(settlement(claim()[0], reliable.Acked, reliable.Confirmed))

	// Compensation, and what the fleet needs.
	records, err := store.ClaimFailed(ctx, request, "orders")
	must(err)
	require.NotEmpty(t, records)
	_, err = store.SettleCompensation(ctx, reliable.Compensation{ID: records[0].ID, Fence: records[0].Fence, Done: true})
	must(err)
	exercisePeople(t, store)
	_, err = store.Stats(ctx)
	must(err)
	_, err = store.Lookup(ctx, "plain", "first")
	must(err)
	for _, status := range []reliable.Status{reliable.Confirmed, reliable.Compensated, reliable.Discarded} {
		purged, err := store.Purge(ctx, status, 0, 100)
		must(err)
		require.Positive(t, purged)
	}
	for _, lease := range []time.Duration{time.Minute, time.Minute, 0} {
		_, err = store.Elect(ctx, "retention", "w", lease)
		must(err)
	}
}

// exercisePeople makes the store send what lists and decisions need, and what a handler's own transaction does.
func exercisePeople(t *testing.T, store *mysqlstore.Store) {
	ctx := t.Context()
	request := reliable.ClaimRequest{Worker: "w", Max: 100, Lease: time.Minute}
	enqueue := func(ids ...string) {
		for _, id := range ids {
			_, err := store.Enqueue(ctx, reliable.EnqueueRequest{}, reliable.Envelope{
				ID: reliable.ID(id), Topic: "people", Key: "key of people",
			})
			require.NoError(t, err)
		}
	}
	fail := func() {
		attempts, err := store.Claim(ctx, request)
		require.NoError(t, err)
		require.Len(t, attempts, 1)
		a := attempts[0]
		_, err = store.Settle(ctx, reliable.Settlement{
			ID: a.ID, Fence: a.Fence, Topic: a.Topic, Key: a.Key, Sent: true,
			Outcome: reliable.Rejected, To: reliable.Failed, Reason: "too large",
		})
		require.NoError(t, err)
	}
	decide := func(action reliable.Action, ids ...reliable.ID) {
		results, err := store.Decide(ctx, reliable.Decision{Action: action, IDs: ids, Who: "ann", Why: "a test"})
		require.NoError(t, err)
		for _, r := range results {
			require.Equal(t, reliable.Decided, r.Verdict, "%v of %q", action, r.ID)
		}
	}
	enqueue("p1", "p2", "p3", "p4", "p5")
	fail()
	decide(reliable.Requeue, "p1") // the head still
	fail()
	decide(reliable.Discard, "p2", "p3") // they wait
	tx, err := store.Begin(ctx, nil)
	require.NoError(t, err)
	records, err := store.ClaimFailed(ctx, request, "people")
	require.NoError(t, err)
	require.Len(t, records, 1)
	result, err := tx.(reliable.CompensationSettler).SettleCompensation(ctx, reliable.Compensation{
		ID: records[0].ID, Fence: records[0].Fence, Topic: "people", Key: records[0].Key, Done: true,
	})
	require.NoError(t, err)
	require.Equal(t, reliable.Applied, result)
	require.NoError(t, tx.Commit(ctx))
	decide(reliable.Requeue, "p2", "p3") // into the line again
	decide(reliable.Discard, "p5", "p2")
	fail() // p4
	decide(reliable.Compensate, "p4")
	for _, filter := range []reliable.Filter{
		{Status: reliable.Pending}, {Status: reliable.Confirmed}, {Status: reliable.Failed, Topic: "orders"},
		{Status: reliable.Discarded, OlderThan: time.Nanosecond, Reason: "a test"},
	} {
		for after := reliable.Cursor(""); ; {
			page, err := store.List(ctx, reliable.ListRequest{Filter: filter, Limit: 20, After: after})
			require.NoError(t, err)
			if after = page.Next; after == "" {
				break
			}
		}
	}
}

// remember has the store say what it does for consumers and witnesses.
func remember(t *testing.T, store *mysqlstore.Store) {
	t.Helper()
	ctx := t.Context()
	witness, err := store.MarkerWitness(time.Hour)
	require.NoError(t, err)
	tx, err := store.Begin(ctx, nil)
	require.NoError(t, err)
	_, err = store.Receive(ctx, tx.Native(), "billing", "order-1")
	require.NoError(t, err)
	token, err := witness.Mark(ctx, tx.Native())
	require.NoError(t, err)
	require.NoError(t, tx.Rollback(ctx))
	fate, err := witness.Ask(ctx, "order-1", token)
	require.NoError(t, err)
	require.Equal(t, reliable.FateAborted, fate)
	require.NoError(t, store.StoreProcessed(ctx, reliable.Processed{ID: "order-1", Group: "billing"}))
	_, err = store.ProcessedBy(ctx, "order-1")
	require.NoError(t, err)
	for _, purge := range []func(context.Context, time.Duration, int) (int, error){
		store.PurgeInbox, store.PurgeProcessed, store.PurgeMarkers,
	} {
		_, err = purge(ctx, 0, 10)
		require.NoError(t, err)
	}
}

func TestStatements_areAllOfMySQL8(t *testing.T) {
	config, err := mysql.ParseDSN(testenv.MariaDB(t))
	require.NoError(t, err)
	config.InterpolateParams = true
	connector, err := mysql.NewConnector(config)
	require.NoError(t, err)
	recorder := &recorder{Connector: connector, sent: make(map[string]bool)}
	db := sql.OpenDB(recorder)
	defer func() { require.NoError(t, db.Close()) }()
	store, err := mysqlstore.New(db)
	require.NoError(t, err)
	exercise(t, store)
	remember(t, store)

	grammar := parser.New()
	parse := func(query string) error {
		_, _, err := grammar.Parse(query, "", "")
		return err
	}
	for query := range recorder.sent {
		if err := parse(query); err != nil {
			t.Errorf("MySQL 8 does not take %.300s: %v", query, err)
		}
	}

	// The test proves something only if it saw what the store has to say, and if the grammar refuses what is MariaDB's
	// alone.
	var all []string
	for query := range recorder.sent {
		all = append(all, query)
	}
	slices.Sort(all)
	text := strings.Join(all, "\n")
	for _, part := range []string{
		"INSERT INTO `waybill_lane`", "INSERT INTO `waybill_history`", "INSERT INTO `waybill_head`", "STRAIGHT_JOIN",
		"SKIP LOCKED", "LOCK IN SHARE MODE", "ON DUPLICATE KEY UPDATE", "OFFSET", "DELETE FROM `waybill_head`",
		"DELETE FROM `waybill_hold`", "DELETE FROM `waybill_outbox`", "DELETE FROM `waybill_chore`", "GET_LOCK", "SAVEPOINT",
		"CREATE TABLE", "INSERT INTO `waybill_decision`", "DELETE FROM `waybill_decision`", "LOCATE", "FOR UPDATE",
		"stored_at > ", "INSERT INTO `waybill_inbox`", "INSERT INTO `waybill_processed`", "INSERT INTO `waybill_marker`", "NOWAIT",
		"DELETE FROM `waybill_marker`",
	} {
		require.Contains(t, text, part)
	}
	t.Logf("%d statements", len(all))
	require.Error(t, parse("INSERT INTO t (a) VALUES (1) RETURNING a"))
}
