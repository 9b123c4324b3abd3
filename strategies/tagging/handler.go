package tagging

import (
	"context"
	"reflect"
	"time"

	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/strategies/internal/engine"
)

// FailedHandler compensates one failed message. It runs under a lease ([WithLease]), in one process at a time, at least
// once for each failed message: a handler that was killed, before its effect or after it, runs again. Its context ends
// shortly before the lease (by a tenth of it), so that what came of the run is recorded in time. It must end when its
// context does: a handler that goes on beyond its lease may run beside another one.
//
// record has the history of what went wrong, and MayHaveBeenSent says whether the message may have been delivered in spite
// of its failure. nil makes the message compensated; an error or a panic has the handler run again after a backoff.
type FailedHandler func(ctx context.Context, record *reliable.Record) error

// FailedTxHandler is a [FailedHandler] whose effect is in the store's own database: what it writes in tx commits together
// with the status, or not at all. So a message is compensated once, however often a handler was killed. T is what it works
// with, as in [InTx]: *sql.Tx, or pgx.Tx for PostgreSQL.
//
// It must neither commit nor roll back. If its lease passed to somebody else meanwhile, what it wrote is rolled back. To
// send messages in the same transaction it calls [Sender.Send] with tx.
type FailedTxHandler[T any] func(ctx context.Context, tx T, record *reliable.Record) error

// handling is how the failed messages of one topic are compensated: by plain, or by inTx in a transaction on db.
type handling struct {
	plain FailedHandler
	inTx  func(ctx context.Context, native any, record *reliable.Record) error
	db    any
}

// WithFailedHandler registers the compensation of a topic's failed messages. Those of topics without a handler wait for an
// operator.
func WithFailedHandler(topic string, handler FailedHandler) Option {
	return func(c *config) {
		if handler == nil {
			c.invalid("WithFailedHandler", "needs a topic and a handler")
			return
		}
		c.handle("WithFailedHandler", topic, handling{plain: handler})
	}
}

// WithFailedTxHandler is [WithFailedHandler] for a handler that writes in the store's own database, in the transaction that
// makes the message compensated. db is the handle on which that is begun, as in [InTx]; nil means the store's own. The
// transaction is open while the handler runs: keep what takes long, calls of other services above all, out of it.
func WithFailedTxHandler[T any](topic string, db any, handler FailedTxHandler[T]) Option {
	return func(c *config) {
		if handler == nil {
			c.invalid("WithFailedTxHandler", "needs a topic and a handler")
			return
		}
		c.handle("WithFailedTxHandler", topic, handling{
			db: db,
			inTx: func(ctx context.Context, native any, record *reliable.Record) error {
				tx, ok := native.(T)
				if !ok {
					return reliable.Invalid("handler", "takes a %v, but the transaction on this db is a %T",
						reflect.TypeFor[T](), native)
				}
				return handler(ctx, tx, record)
			},
		})
	}
}

func (c *config) handle(option, topic string, h handling) {
	if topic == "" {
		c.invalid(option, "needs a topic and a handler")
		return
	}
	if _, twice := c.handlers[topic]; twice {
		c.invalid(option, "topic %q has a handler already", topic)
		return
	}
	c.handlers[topic] = h
}

// checkHandlers reports handlers that the store cannot serve.
func (c *config) checkHandlers(store reliable.Store) {
	if len(c.handlers) == 0 {
		return
	}
	if _, ok := reliable.Ability[reliable.Compensator](store); !ok {
		c.invalid("WithFailedHandler", "needs a store that is a reliable.Compensator")
		return
	}
	if _, ok := reliable.Ability[reliable.Transactor](store); ok {
		return
	}
	for _, h := range c.handlers {
		if h.inTx != nil {
			c.invalid("WithFailedTxHandler", "needs a store with transactions; use WithFailedHandler")
			return
		}
	}
}

// WithHandlersAtOnce sets how many failed messages of each topic are compensated at a time in this process; default 4. With
// more a backlog shrinks faster, and what the handlers call gets more load. A topic whose handler hangs never takes the
// places of another topic.
func WithHandlersAtOnce(n int) Option {
	return func(c *config) {
		if n < 1 || n > 1000 {
			c.invalid("WithHandlersAtOnce", "%d must lie between 1 and 1000", n)
			return
		}
		c.handlersAtOnce = n
	}
}

// WithHandlerBackoff sets the pause before a handler that failed runs again for the same message: base after the first
// failed run, doubled after each further one up to limit; default 1 s up to 5 minutes. Too short and what the handlers
// call gets no rest; too long and messages wait when it is back.
func WithHandlerBackoff(base, limit time.Duration) Option {
	return func(c *config) {
		if base <= 0 || limit < base {
			c.invalid("WithHandlerBackoff", "base %v must be above 0 and not above the limit %v", base, limit)
			return
		}
		c.handlerBackoff = engine.Backoff{Base: base, Max: limit}
	}
}
