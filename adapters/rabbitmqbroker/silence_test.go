package rabbitmqbroker

import (
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/internal/virtualtime"
)

const setUpTimeout = time.Second

// slowToClose is a socket whose Close returns when the test says so.
type slowToClose struct {
	net.Conn

	once    sync.Once
	closing chan struct{} // closed when the first Close begins
	release chan struct{}
}

func (c *slowToClose) Close() error {
	c.once.Do(func() { close(c.closing) })
	<-c.release
	return nil
}

// silentConnection returns a connection that serves nobody, and the subscriber that has it, in a bubble.
func silentConnection(t *testing.T) (*Subscriber, *connection, *slowToClose) {
	t.Helper()
	s := &Subscriber{subscriberSettings: subscriberSettings{setUpTimeout: setUpTimeout}, connector: newConnector(&settings{})}
	s.closing = t.Context()
	socket := &slowToClose{closing: make(chan struct{}), release: make(chan struct{})}
	conn := &connection{Connection: &amqp.Connection{}, wire: newWire(socket)}
	s.connector.conn = conn
	return s, conn, socket
}

func TestSubscriber_isNotToldOfSilenceBeforeItsConnectionIsRetired(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		s, conn, socket := silentConnection(t)
		told, answer := make(chan error, 1), make(chan struct{})
		go func() {
			told <- s.bounded(t.Context(), conn, func(*connection) error { <-answer; return nil })
		}()
		time.Sleep(setUpTimeout)
		synctest.Wait()
		assert.True(t, isDone(socket.closing), "nobody has noticed the silence")
		assert.Empty(t, told, "whoever is told tries again, and might find the same connection")
		close(socket.release)
		require.ErrorIs(t, <-told, errSilent)
		require.True(t, s.connector.wasRetired(conn))
		close(answer)
	})
}

func TestSubscriber_isToldOfSilenceWhenTheEndOfItsConnectionComesFirst(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		s, conn, socket := silentConnection(t)
		err := s.bounded(t.Context(), conn, func(*connection) error { <-socket.closing; return amqp.ErrClosed })
		close(socket.release)
		require.ErrorIs(t, err, errSilent, "it was its own silence that ended the connection")
		require.True(t, s.connector.wasRetired(conn))
	})
}
