// Package liar breaks a broker's promise, so that the tests of the examples can show that it would be noticed.
package liar

import (
	"context"
	"slices"

	"github.com/waybillmq/waybill/reliable"
)

// Broker is what the outbox needs of a broker.
type Broker interface {
	reliable.Publisher
	reliable.ConfirmSource
}

// Liar drops the first copy of one message and acks it.
type Liar struct {
	Broker
	drop reliable.ID
	lie  chan reliable.Confirm // holds one

	told context.Context //nolint:containedctx // ends when the lie is told, and with that a Receive that waits
	tell context.CancelFunc
}

// New returns a liar about the message with the ID drop; everything else is honest's.
func New(honest Broker, drop reliable.ID) *Liar {
	l := &Liar{Broker: honest, drop: drop, lie: make(chan reliable.Confirm, 1)}
	l.told, l.tell = context.WithCancel(context.Background())
	return l
}

// Unwrap implements [reliable.Wrapper].
func (l *Liar) Unwrap() any { return l.Broker }

// Publish implements [reliable.Publisher].
func (l *Liar) Publish(ctx context.Context, batch []reliable.Attempt) (int, error) {
	at := slices.IndexFunc(batch, func(a reliable.Attempt) bool { return a.ID == l.drop })
	if at < 0 || l.told.Err() != nil {
		return l.Broker.Publish(ctx, batch)
	}
	if n, err := l.Broker.Publish(ctx, batch[:at]); n < at {
		return n, err
	}
	l.lie <- reliable.Confirm{ID: l.drop, Fence: batch[at].Fence, Outcome: reliable.Acked}
	l.tell()
	n, err := l.Broker.Publish(ctx, batch[at+1:])
	return at + 1 + n, err
}

// Receive implements [reliable.ConfirmSource].
func (l *Liar) Receive(ctx context.Context, limit int) ([]reliable.Confirm, error) {
	waiting := ctx
	if l.told.Err() == nil {
		var interrupt context.CancelFunc
		waiting, interrupt = context.WithCancel(ctx)
		defer interrupt()
		defer context.AfterFunc(l.told, interrupt)()
	}
	select {
	case lie := <-l.lie:
		return []reliable.Confirm{lie}, nil
	default:
	}
	confirms, err := l.Broker.Receive(waiting, limit)
	if err != nil && ctx.Err() == nil && waiting.Err() != nil {
		return nil, nil // come again for the lie
	}
	return confirms, err
}
