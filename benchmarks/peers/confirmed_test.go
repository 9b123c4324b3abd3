//go:build services

package peers

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	amqp "github.com/rabbitmq/amqp091-go"
)

// confirmed is the publisher that the libraries which leave publishing to their users are given: what a careful user would
// write. Any number of goroutines share one channel, each waits for the confirm of its own message, a message that
// is returned is an error, and after a lost connection the next message opens another one.
type confirmed struct {
	url string

	mu      sync.Mutex
	channel *session
}

// session is a channel on a connection of its own.
type session struct {
	conn    *amqp.Connection
	channel *amqp.Channel

	// returns has what the broker returned, each before its ack. Those are looked at when an ack is there: a goroutine that
	// notes them could be later than the ack, and the message would count as sent.
	returns  <-chan amqp.Return
	mu       sync.Mutex
	returned map[string]bool // by message id: of messages whose ack somebody else waits for
}

// mostInFlight is more messages than anybody here has unconfirmed on one channel.
const mostInFlight = 10_000

// wasReturned says whether an acked message was returned before.
func (s *session) wasReturned(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		select {
		case r, open := <-s.returns:
			if open {
				s.returned[r.MessageId] = true
				continue
			}
		default:
		}
		was := s.returned[id]
		delete(s.returned, id)
		return was
	}
}

var errReturned = errors.New("the broker can route the message to no queue")

func newConfirmed(t testing.TB, url string) *confirmed {
	t.Helper()
	c := &confirmed{url: url}
	t.Cleanup(func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.channel != nil {
			c.channel.conn.Close()
		}
	})
	return c
}

// publish returns nil once the broker has confirmed that the message is in a queue.
func (c *confirmed) publish(ctx context.Context, queue, id string, content []byte) error {
	s, err := c.session()
	if err != nil {
		return err
	}
	confirmation, err := s.channel.PublishWithDeferredConfirmWithContext(ctx, "", queue, true, false, amqp.Publishing{
		MessageId: id, DeliveryMode: amqp.Persistent, Body: content,
	})
	if err != nil {
		return err
	}
	acked, err := confirmation.WaitContext(ctx)
	if err != nil {
		return err
	}
	if !acked {
		return fmt.Errorf("message %s: not confirmed", id)
	}
	if s.wasReturned(id) {
		return errReturned
	}
	return nil
}

func (c *confirmed) session() (*session, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.channel != nil && !c.channel.channel.IsClosed() && !c.channel.conn.IsClosed() {
		return c.channel, nil
	}
	if c.channel != nil {
		c.channel.conn.Close()
		c.channel = nil
	}
	conn, err := amqp.Dial(c.url)
	if err != nil {
		return nil, err
	}
	channel, err := conn.Channel()
	if err == nil {
		err = channel.Confirm(false)
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	s := &session{
		conn: conn, channel: channel, returned: map[string]bool{},
		returns: channel.NotifyReturn(make(chan amqp.Return, mostInFlight)),
	}
	c.channel = s
	return s, nil
}
