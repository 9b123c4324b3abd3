//go:build services

package faults

import (
	"bufio"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	wamqp "github.com/ThreeDotsLabs/watermill-amqp/v2/pkg/amqp"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/waybillmq/waybill/adapters/rabbitmqbroker"
	"github.com/waybillmq/waybill/strategies/delayedcheck"
)

const (
	shopPart     = "shop"     // places orders, and answers resend requests
	consumerPart = "consumer" // of both groups
	callbackPart = "callback" // keeps confirms, answers checks

	billing, shipping = "billing", "shipping"

	// checkDelay is when checks come due.
	checkDelay = 3 * time.Second
	// unhurriedCheckDelay is that of checks which are lost before they come due.
	unhurriedCheckDelay = time.Minute
)

// delayedPart is what one process plays in a scenario of the delayed check.
type delayedPart struct {
	Role         string
	MessageFirst bool

	Shop    shop
	Ledger  database
	Books   database // the consumers' tables, and what the test counts by
	AMQPURL string
	Suffix  string // of this scenario's topics
	Address string // where the shop answers
	Refuses string // where it does too, later, about the orders of one window

	Stands bool   // where the windows have this role stand
	Topic  string // a callback service that handles one topic only
}

func (p delayedPart) topic(name string) string { return name + "." + p.Suffix }

func (p delayedPart) ordersTopic() string    { return p.topic("orders") }    // for billing
func (p delayedPart) bothTopic() string      { return p.topic("both") }      // for billing and shipping
func (p delayedPart) checksTopic() string    { return p.topic("checks") }    // for the callback service
func (p delayedPart) processedTopic() string { return p.topic("processed") } // for the callback service
func (p delayedPart) lostTopic() string      { return p.topic("lost") }      // for nobody

func (p delayedPart) play(ctx context.Context) error {
	books, err := openBooks(p.Books)
	if err != nil {
		return err
	}
	c := newCues()
	switch p.Role {
	case shopPart:
		return p.sell(ctx, books, c)
	case consumerPart:
		return p.consume(ctx, books, c)
	case callbackPart:
		return p.answer(ctx, books, c)
	}
	return fmt.Errorf("there is no part %q", p.Role)
}

var brokerOptions = []rabbitmqbroker.Option{
	rabbitmqbroker.WithQuorumQueues(), rabbitmqbroker.WithLogger(slog.New(slog.DiscardHandler)),
	rabbitmqbroker.WithConfirmTimeout(childConfirm), rabbitmqbroker.WithBlockedTimeout(childConfirm),
	rabbitmqbroker.WithReconnectBackoff(50*time.Millisecond, 500*time.Millisecond),
}

// queues is a broker on which a topic is a queue.
func (p delayedPart) queues() (*rabbitmqbroker.Broker, error) {
	return rabbitmqbroker.NewFromURL(p.AMQPURL, brokerOptions...)
}

// events is a broker on which every group gets a message of its own.
func (p delayedPart) events(group string) (*rabbitmqbroker.Broker, error) {
	return rabbitmqbroker.New(wamqp.NewDurablePubSubConfig(p.AMQPURL, wamqp.GenerateQueueNameTopicNameWithSuffix(group)), brokerOptions...)
}

// route handles topics until ctx ends, several messages of each at a time, and tells when it has begun.
func route(ctx context.Context, broker *rabbitmqbroker.Broker, handlers map[string]message.NoPublishHandlerFunc, begun func()) error {
	subscriber, err := broker.Subscriber(rabbitmqbroker.WithPrefetch(16), rabbitmqbroker.WithConcurrency(16))
	if err != nil {
		return err
	}
	router, err := message.NewRouter(message.RouterConfig{}, watermill.NopLogger{})
	if err != nil {
		return err
	}
	for topic, handler := range handlers {
		router.AddConsumerHandler(topic, topic, subscriber, handler)
	}
	go func() {
		<-router.Running()
		begun()
	}()
	return router.Run(ctx)
}

// cues are the places at which a child stands until the test lets it go on.
type cues struct {
	mu    sync.Mutex
	gone  map[string]chan struct{}
	lines chan []string // what else the test says
}

func newCues() *cues {
	c := &cues{gone: make(map[string]chan struct{}), lines: make(chan []string, 100)}
	go func() {
		for scanner := bufio.NewScanner(os.Stdin); scanner.Scan(); {
			words := strings.Fields(scanner.Text())
			if words[0] == "go" {
				close(c.cue(words[1]))
				continue
			}
			c.lines <- words
		}
		os.Exit(3) // the test is gone
	}()
	return c
}

func (c *cues) cue(at string) chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.gone[at] == nil {
		c.gone[at] = make(chan struct{})
	}
	return c.gone[at]
}

// stand says where the child is, and stays there until it is told to go on.
func (c *cues) stand(at string) {
	fmt.Println("at", at)
	<-c.cue(at)
}

// books are what the test counts by: each effect of a consumer, each request to send again, and notes.
type books struct{ *sql.DB }

var booksTables = []string{
	"CREATE TABLE effects (grp TEXT, id TEXT)",
	"CREATE TABLE asks (n SERIAL PRIMARY KEY, id TEXT, answer TEXT)", // no answer: the process that asked is dead
	"CREATE TABLE notes (what TEXT PRIMARY KEY)",
}

func openBooks(d database) (books, error) {
	db, err := sql.Open(d.Driver, d.DSN)
	return books{db}, err
}

func (b books) note(what string) error {
	_, err := b.Exec("INSERT INTO notes (what) VALUES ($1) ON CONFLICT DO NOTHING", what)
	return err
}

// asking is a resender whose requests are in the books. Each makes one copy at most.
type asking struct {
	inner     delayedcheck.Resender
	books     books
	meanwhile func(w *window, id string, answered bool)
}

func (a asking) Resend(ctx context.Context, check delayedcheck.Check) (delayedcheck.Answer, error) {
	id := string(check.Message.ID)
	var n int
	if err := a.books.QueryRowContext(ctx, "INSERT INTO asks (id) VALUES ($1) RETURNING n", id).Scan(&n); err != nil {
		return 0, err
	}
	a.meanwhile(windowOf(id), id, false)
	answer, err := a.inner.Resend(ctx, check)
	a.meanwhile(windowOf(id), id, true)
	text := answer.String()
	if err != nil {
		text = askFailed
	}
	_, noted := a.books.ExecContext(context.WithoutCancel(ctx), "UPDATE asks SET answer = $1 WHERE n = $2", text, n)
	return answer, errors.Join(err, noted)
}

// askFailed is the answer of a request that has none.
const askFailed = "error"

// windowOf returns the window whose order an ID is.
func windowOf(id string) *window {
	name, _, _ := strings.Cut(id, "/")
	if name == load {
		return &window{name: load}
	}
	for i := range windows {
		if windows[i].name == name {
			return &windows[i]
		}
	}
	panic("no window has the order " + id)
}

// orders returns the IDs of a window's orders.
func (w *window) orders() []string {
	ids := make([]string, max(1, w.many))
	for i := range ids {
		ids[i] = fmt.Sprintf("%s/%d", w.name, i)
	}
	return ids
}
