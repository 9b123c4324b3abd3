package rabbitmqbroker

import (
	"context"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/waybillmq/waybill/reliable"
)

// declareMode says what is declared before the first message to a topic.
type declareMode uint8

const (
	// declareUsual is the queue where messages go through the default exchange, else the exchange.
	declareUsual declareMode = iota
	declareQueues
	declareNothing
)

// topology remembers what was declared on one connection.
type topology struct {
	conn     *amqp.Connection
	settings *settings
	spawn    func(func())

	mu     sync.Mutex
	topics map[string]chan struct{} // closed once the broker has answered
}

func newTopology(conn *amqp.Connection, s *settings, spawn func(func())) *topology {
	return &topology{conn: conn, settings: s, spawn: spawn, topics: make(map[string]chan struct{})}
}

// ensure declares what belongs to topic, unless that was done on this connection. A declaration that the broker refuses, or
// does not answer within the confirm timeout, counts as done: the topology may be there, and if it is not, the message is
// returned.
func (t *topology) ensure(ctx context.Context, topic string, gone, closing <-chan struct{}) error {
	if t.settings.declare == declareNothing {
		return nil
	}
	t.mu.Lock()
	done, known := t.topics[topic]
	if !known {
		done = make(chan struct{})
		t.topics[topic] = done
		t.begin(topic, done)
	}
	t.mu.Unlock()
	select {
	case <-done:
		return nil
	default:
	}
	select {
	case <-done:
		return nil
	case <-gone:
		return reliable.ErrConnectionLost
	case <-closing:
		return reliable.ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
}

// begin declares topic, and closes done once that is over. The caller waits only as long as its context says.
func (t *topology) begin(topic string, done chan<- struct{}) {
	answered := make(chan struct{})
	t.spawn(func() { // for as long as the broker, or the connection, takes
		defer close(answered)
		t.declare(topic)
	})
	t.spawn(func() {
		defer close(done)
		limit := time.NewTimer(t.settings.confirmTimeout)
		defer limit.Stop()
		select {
		case <-answered:
		case <-limit.C:
			t.settings.logger.Warn("rabbitmqbroker: no answer to the declaration of a topic's topology, publishing without; "+
				"a quorum queue may have no leader", "topic", topic)
		}
	})
}

// forget has topic declared again: a message to it was returned, so what was declared is gone.
func (t *topology) forget(topic string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if done, known := t.topics[topic]; known && isDone(done) {
		delete(t.topics, topic)
	}
}

// declare uses a channel of its own, since a refused declaration closes it.
func (t *topology) declare(topic string) {
	ch, err := t.conn.Channel()
	if err == nil {
		err = t.build(ch, topic)
	}
	if err == nil {
		err = ch.Close()
	}
	if err != nil && !t.conn.IsClosed() {
		t.settings.logger.Warn("rabbitmqbroker: cannot declare the topology of a topic, publishing without",
			"topic", topic, "error", err)
	}
}

func (t *topology) build(ch *amqp.Channel, topic string) error {
	config := t.settings.config
	exchange := config.Exchange.GenerateName(topic)
	if t.settings.declare == declareUsual && exchange != "" {
		return config.TopologyBuilder.ExchangeDeclare(ch, exchange, config)
	}
	if config.Queue.GenerateName == nil {
		return nil
	}
	queue := config.Queue.GenerateName(topic)
	return config.TopologyBuilder.BuildTopology(ch, queue, exchange, config, watermill.NopLogger{})
}
