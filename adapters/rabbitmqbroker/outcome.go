package rabbitmqbroker

import (
	"errors"
	"fmt"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/waybillmq/waybill/reliable"
)

var (
	errNacked = errors.New("rabbitmqbroker: the broker nacked the message: its queue is full and rejects, or has failed")
	// errNoConfirm is no ErrConnectionLost: we dropped the connection, and no message in flight is suspected of it.
	errNoConfirm = errors.New("rabbitmqbroker: no confirm in time, connection abandoned")
	errBlocked   = errors.New("the broker blocks publishing: it is short of memory or disk")
	errSilent    = errors.New("no answer within the set-up timeout: the broker is busy, or a quorum queue has no leader")
	errEnded     = fmt.Errorf("rabbitmqbroker: no confirm before the end of Close: %w", reliable.ErrClosed)
)

// lost is why a session ended that nobody wanted to end.
func lost(reason *amqp.Error) error {
	if reason == nil {
		return fmt.Errorf("rabbitmqbroker: %w", reliable.ErrConnectionLost)
	}
	return fmt.Errorf("rabbitmqbroker: %w: %w", reliable.ErrConnectionLost, reason)
}

func returnedError(r *amqp.Return) error {
	return fmt.Errorf("rabbitmqbroker: exchange %q has no queue for routing key %q (%d %s): declare or bind the queue",
		r.Exchange, r.RoutingKey, r.ReplyCode, r.ReplyText)
}

// closeOutcome is what the end of a session says of the only message on it. Only a code that the server gave for what it
// was sent decides; a connection that dies without a word, or that an operator closes, leaves the message Unknown.
func closeOutcome(cause error) reliable.Outcome {
	var reason *amqp.Error
	if !errors.As(cause, &reason) || !reason.Server {
		return reliable.Unknown
	}
	switch reason.Code {
	case amqp.NotFound, amqp.AccessRefused:
		return reliable.Returned
	case amqp.PreconditionFailed, amqp.ContentTooLarge, amqp.FrameError, amqp.SyntaxError:
		return reliable.Rejected
	}
	return reliable.Unknown
}
