//go:build services

package faults

import (
	"context"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/internal/testservers"
	"github.com/waybillmq/waybill/reliable"
)

// scenario is a shop, its consumers and its callback service, each a process of its own, and what the test counts by.
type scenario struct {
	t      *testing.T
	part   delayedPart
	broker *testservers.RabbitMQ
	orders *rig // reads the business table only
	books  books
	ledger *rig // reads the ledger's tables only
}

const auditGroup = "audit" // has a copy of every message that was sent

// newScenario makes the databases and topics of a scenario. The ledger is on a server of its own, which the test may kill.
func newScenario(t *testing.T, suffix string, messageFirst bool, broker *testservers.RabbitMQ, ledgers *testservers.Postgres) *scenario {
	t.Helper()
	administer(t, "pgx", ledgers.URL(), "CREATE DATABASE "+suffix)
	address, err := url.Parse(ledgers.URL())
	require.NoError(t, err)
	address.Path = "/" + suffix
	s := &scenario{t: t, broker: broker, part: delayedPart{
		MessageFirst: messageFirst, Shop: shop{Database: mariaDB(t)}, Ledger: database{Driver: "pgx", DSN: address.String()},
		Books: postgres(t), AMQPURL: broker.URL(), Suffix: suffix, Address: freeAddress(t), Refuses: freeAddress(t),
	}}
	open := func(d database) *rig {
		db, store, err := d.open(t.Context())
		require.NoError(t, err)
		t.Cleanup(func() { assert.NoError(t, db.Close()) })
		return &rig{t: t, db: db, kind: d.kind(), store: store}
	}
	s.orders, s.ledger, s.books = open(s.part.Shop.Database), open(s.part.Ledger), books{open(s.part.Books).db}
	s.orders.createOrders()
	for _, table := range booksTables {
		_, err := s.books.Exec(table)
		require.NoError(t, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for _, group := range []string{billing, shipping, auditGroup} {
		events, err := s.part.events(group)
		require.NoError(t, err)
		require.NoError(t, events.Declare(ctx, s.part.ordersTopic(), s.part.bothTopic()))
		require.NoError(t, events.Close())
	}
	queues, err := s.part.queues()
	require.NoError(t, err)
	require.NoError(t, queues.Declare(ctx, s.part.checksTopic(), s.part.processedTopic(), s.part.lostTopic()))
	require.NoError(t, queues.Close())
	return s
}

// freeAddress returns one at which nobody listens now.
func freeAddress(t testing.TB) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { require.NoError(t, listener.Close()) }()
	return listener.Addr().String()
}

// start starts a process; change says what is special about it.
func (s *scenario) start(role string, change ...func(*delayedPart)) *child {
	s.t.Helper()
	part := s.part
	part.Role = role
	for _, edit := range change {
		edit(&part)
	}
	c := startChild(s.t, job{Delayed: &part})
	c.await("ready")
	return c
}

func stands(p *delayedPart) { p.Stands = true }

// awaitAt waits until a child stands with every order of windows.
func (c *child) awaitAt(names ...string) {
	c.t.Helper()
	for _, name := range names {
		for _, id := range windowOf(name).orders() {
			c.await("at " + id)
		}
	}
}

// letGo has a child go on with the orders of a window.
func (c *child) letGo(name string) {
	c.t.Helper()
	for _, id := range windowOf(name).orders() {
		c.tell("go", id)
	}
}

// place has a shop place the orders of windows, and waits until it has; those that stand on their way it awaits there.
func (c *child) place(names ...string) {
	c.t.Helper()
	for _, name := range names {
		c.tell("place", name)
	}
	for _, name := range names {
		if windowOf(name).at != "" {
			c.awaitAt(name)
			continue
		}
		c.await("placed " + name)
	}
}

// count returns what a query of the books counts.
func (s *scenario) count(query string, args ...any) (n int) {
	s.t.Helper()
	require.NoError(s.t, s.books.QueryRow("SELECT COUNT(*) FROM "+query, args...).Scan(&n))
	return n
}

func (s *scenario) effects(group, id string) int {
	return s.count("effects WHERE grp = $1 AND id = $2", group, id)
}

// asked returns how many requests to send an order again had one of the answers; with none all of them.
func (s *scenario) asked(id string, answers ...string) int {
	if len(answers) == 0 {
		return s.count("asks WHERE id = $1", id)
	}
	return s.count("asks WHERE id = $1 AND answer = ANY ($2)", id, answers)
}

func (s *scenario) eventually(what string, condition func() bool) {
	s.t.Helper()
	require.Eventually(s.t, condition, patience, 50*time.Millisecond, "%s: %s", s.part.Suffix, what)
}

// awaitEffects waits until the orders of windows had their effects.
func (s *scenario) awaitEffects(names ...string) {
	s.t.Helper()
	for _, name := range names {
		for _, id := range windowOf(name).orders() {
			for _, group := range windowOf(name).groups() {
				s.eventually("effect of "+id+" on "+group, func() bool { return s.effects(group, id) > 0 })
			}
		}
	}
}

func (s *scenario) awaitNote(what string) {
	s.t.Helper()
	s.eventually(what, func() bool { return s.count("notes WHERE what = $1", what) > 0 })
}

// awaitConfirm waits until the ledger has the confirm of an order.
func (s *scenario) awaitConfirm(id string) {
	s.t.Helper()
	confirmations, ok := reliable.Ability[reliable.Confirmations](s.ledger.store)
	require.True(s.t, ok)
	s.eventually("confirm of "+id, func() bool {
		confirmed, err := confirmations.ProcessedBy(s.t.Context(), reliable.ID(id))
		return err == nil && len(confirmed) > 0
	})
}

// publishConfirm is a confirm that comes from nowhere.
func (s *scenario) publishConfirm(id string) {
	s.t.Helper()
	queues, err := s.part.queues()
	require.NoError(s.t, err)
	defer func() { require.NoError(s.t, queues.Close()) }()
	publisher := queues.Watermill()
	defer func() { require.NoError(s.t, publisher.Close()) }()
	confirm, err := reliable.ProcessedMessage(reliable.Processed{ID: reliable.ID(id), Group: billing})
	require.NoError(s.t, err)
	require.NoError(s.t, publisher.Publish(s.part.processedTopic(), confirm))
}

// waiting returns how many messages are ready in a queue.
func (s *scenario) waiting(queue string) (n int) {
	s.t.Helper()
	onChannel(s.t, s.part.AMQPURL, func(channel *amqp.Channel) error {
		q, err := channel.QueueDeclarePassive(queue, true, false, false, false, nil)
		n = q.Messages
		return err
	})
	return n
}

// awaitQuiet waits until no request is pending in the ledger, and no check or confirm on its way.
func (s *scenario) awaitQuiet() {
	s.t.Helper()
	quiet := 0
	s.eventually("all is quiet", func() bool {
		if s.ledger.pending()+s.waiting(s.part.checksTopic())+s.waiting(s.part.processedTopic()) > 0 || s.waiting(delayQueue(checkDelay)) > 0 {
			quiet = 0
			return false
		}
		quiet++
		return quiet > 5 // what moves is nowhere for a moment
	})
}

func delayQueue(delay time.Duration) string { return "waybill.delay." + delay.String() + ".0" }

// copies returns how often each order was sent, by the queue of a group that nobody else reads.
func (s *scenario) copies() map[string]int {
	copies := make(map[string]int)
	for _, topic := range []string{s.part.ordersTopic(), s.part.bothTopic()} {
		for id, n := range consume(s.t, s.part.AMQPURL, topic+"_"+auditGroup) {
			copies[id] += n
		}
	}
	return copies
}

// auditWindow compares what was committed, worked on and sent of a window's orders.
func (s *scenario) auditWindow(t *testing.T, w *window, committed map[string]bool, copies map[string]int) {
	for _, id := range w.orders() {
		require.Equal(t, !w.uncommitted, committed[id], "%s: committed", id)
		want := 1
		if w.uncommitted || w.lostBy(s.part.MessageFirst) {
			want = 0
		}
		for _, group := range w.groups() {
			assert.Equal(t, want, s.effects(group, id), "%s: effects on %s; asked: %s", id, group, s.answersOf(id))
		}
		asked := s.asked(id)
		definite := s.asked(id, "aborted", "open", "unknowable")
		assert.LessOrEqual(t, copies[id]-1, asked-definite, "%s: copies beyond resends and unknown outcomes", id)
		if w.uncommitted {
			assert.Zero(t, copies[id], "%s: sent, and never committed", id)
		}
	}
}

// answersOf returns how the requests to send an order again were answered.
func (s *scenario) answersOf(id string) string {
	rows, err := s.books.Query("SELECT COALESCE(answer, 'none') FROM asks WHERE id = $1 ORDER BY n", id)
	require.NoError(s.t, err)
	defer func() { require.NoError(s.t, rows.Close()) }()
	var answers []string
	for rows.Next() {
		var answer string
		require.NoError(s.t, rows.Scan(&answer))
		answers = append(answers, answer)
	}
	require.NoError(s.t, rows.Err())
	return strings.Join(answers, " ")
}
