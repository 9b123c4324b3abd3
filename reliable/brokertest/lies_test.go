package brokertest_test

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/waybillmq/waybill/adapters/membroker"
	"github.com/waybillmq/waybill/reliable"
)

// lie is a broken adapter, and the checks that must catch it.
type lie struct {
	name         string
	connect      func(l *lab, c *connection)
	watermill    func(l *lab, pub message.Publisher) message.Publisher
	script       func(membroker.Attempt) membroker.Verdict
	options      []membroker.Option
	outOfProcess bool
	caughtBy     []string
}

const (
	oneConfirm    = "each attempt has exactly one confirm"
	emptyBatch    = "an empty batch does nothing"
	fences        = "a confirm carries its attempt's fence"
	many          = "many attempts through a small window from many goroutines"
	largeBatch    = "a batch larger than the window is handed over as confirms are read"
	consumable    = "what is acked can be consumed"
	twoConns      = "two connections do not see each other's confirms"
	alone         = "an attempt alone works among others"
	limits        = "receive returns no more than its limit and never nothing"
	receiveWaits  = "receive waits until its context ends"
	receiveLoses  = "a receive that ends early loses no confirm"
	windowWait    = "publish waits for the window no longer than its context"
	endedContext  = "publish with an ended context sends no more than it says"
	blocked       = "a blocked broker holds no publish past its context"
	blockedLong   = "a blocked broker's attempts are unknown within the longest confirm wait"
	closeInFlight = "close answers what is in flight and then ends receive"
	closeTwice    = "close may be called twice and from several goroutines"
	afterClose    = "publish after close hands nothing over"
	closeReceive  = "close ends a receive that waits"
	closePublish  = "close ends a publish that waits"
	closeRacing   = "close while others publish loses no confirm"
	unroutable    = "an unroutable message is returned and never acked"
	refused       = "a refused message is nacked"
	oversize      = "an oversize message is rejected and its neighbours are not harmed"
	mixed         = "each of a mixed batch has its own outcome"
	atLimit       = "the largest payload that the limits allow is not rejected"
	lost          = "a lost connection leaves each attempt with one confirm and comes back"
	outage        = "an outage leaves each attempt with one confirm and holds no publish past its context"
	poison        = "a poison attempt does not fail its neighbours and is rejected alone"
	roundTrip     = "id, key, metadata and payload arrive as they were sent"
	awkward       = "what a header may not carry is rejected rather than changed"
	byteByByte    = "ids are compared byte by byte"
	memory        = "nothing of an attempt is kept or changed once its confirm was received"
	order         = "messages of one publisher arrive in order"
	keyOrder      = "messages with one key arrive in order"
	goroutines    = "no goroutine is left after close"
	flat          = "memory stays flat however much is published"
	wmConfirms    = "watermill: publish returns nil only once everything can be consumed"
	wmMany        = "watermill: many goroutines publish at once"
	wmForward     = "watermill: a received message can be forwarded"
	wmTwice       = "watermill: one uuid may be published twice in a call"
	wmContext     = "watermill: publish ends with its messages' context"
	wmClosed      = "watermill: publish after close is an error"
	wmUnroutable  = "watermill: an unroutable message is ErrUnroutable and the others are sent"
	wmRefused     = "watermill: a refused message is ErrNacked"
	wmOversize    = "watermill: an oversize message is ErrRejected"
)

var lies = slices.Concat(confirmLies, publishLies, receiveLies, closeLies, wireLies, brokerLies, watermillLies)

// onConfirm replaces each confirm by those that change returns.
func onConfirm(change func(reliable.Confirm) []reliable.Confirm) func(*lab, *connection) {
	return func(_ *lab, c *connection) {
		inner := c.receive
		c.receive = func(ctx context.Context, limit int) ([]reliable.Confirm, error) {
			for {
				confirms, err := inner(ctx, limit)
				var changed []reliable.Confirm
				for _, confirm := range confirms {
					changed = append(changed, change(confirm)...)
				}
				if err != nil || len(changed) > 0 {
					return changed, err
				}
			}
		}
	}
}

func drop(which func(reliable.Confirm) bool) func(*lab, *connection) {
	return onConfirm(func(confirm reliable.Confirm) []reliable.Confirm {
		if which(confirm) {
			return nil
		}
		return []reliable.Confirm{confirm}
	})
}

func alter(change func(*reliable.Confirm)) func(*lab, *connection) {
	return onConfirm(func(confirm reliable.Confirm) []reliable.Confirm {
		change(&confirm)
		return []reliable.Confirm{confirm}
	})
}

func wasLost(confirm reliable.Confirm) bool {
	return errors.Is(confirm.Err, reliable.ErrConnectionLost)
}

var errOther = errors.New("some other error")

var confirmLies = []lie{
	{
		name:     "confirms twice",
		connect:  onConfirm(func(c reliable.Confirm) []reliable.Confirm { return []reliable.Confirm{c, c} }),
		caughtBy: []string{oneConfirm},
	},
	{
		name: "forgets the attempts of a lost connection", connect: drop(wasLost),
		caughtBy: []string{lost, outage, poison},
	},
	{
		name: "forgets a confirm in a thousand",
		connect: func(l *lab, c *connection) {
			count := 0
			drop(func(reliable.Confirm) bool { count++; return count%1000 == 0 })(l, c)
		},
		caughtBy: []string{many},
	},
	{
		name:     "takes the fence for the first one",
		connect:  alter(func(c *reliable.Confirm) { c.Fence = 1 }),
		caughtBy: []string{fences},
	},
	{
		name:     "leaves the fence out",
		connect:  alter(func(c *reliable.Confirm) { c.Fence = 0 }),
		caughtBy: []string{oneConfirm, fences},
	},
	{
		name: "drops returns",
		connect: alter(func(c *reliable.Confirm) {
			if c.Outcome == reliable.Returned {
				c.Outcome, c.Err = reliable.Acked, nil
			}
		}),
		caughtBy: []string{unroutable, mixed},
	},
	{
		name: "acks after a return",
		connect: onConfirm(func(c reliable.Confirm) []reliable.Confirm {
			if c.Outcome == reliable.Returned {
				return []reliable.Confirm{c, {ID: c.ID, Fence: c.Fence, Outcome: reliable.Acked}}
			}
			return []reliable.Confirm{c}
		}),
		caughtBy: []string{unroutable},
	},
	{
		name: "takes a nack for unknown",
		connect: alter(func(c *reliable.Confirm) {
			if c.Outcome == reliable.Nacked {
				c.Outcome = reliable.Unknown
			}
		}),
		caughtBy: []string{refused, mixed},
	},
	{
		name: "takes a lost connection for a nack",
		connect: alter(func(c *reliable.Confirm) {
			if wasLost(*c) {
				c.Outcome = reliable.Nacked
			}
		}),
		caughtBy: []string{lost, poison},
	},
	{
		name: "acks what a lost connection left open",
		connect: alter(func(c *reliable.Confirm) {
			if wasLost(*c) {
				c.Outcome, c.Err = reliable.Acked, nil
			}
		}),
		script: func(a membroker.Attempt) membroker.Verdict {
			return membroker.Verdict{StoreLate: true}
		},
		caughtBy: []string{lost, outage},
	},
	{
		name: "does not say that the connection was lost",
		connect: alter(func(c *reliable.Confirm) {
			if c.Err != nil {
				c.Err = errOther
			}
		}),
		caughtBy: []string{lost},
	},
	{
		name: "fails the neighbours of a poison attempt",
		connect: alter(func(c *reliable.Confirm) {
			if wasLost(*c) {
				c.Outcome = reliable.Rejected
			}
		}),
		caughtBy: []string{poison},
	},
	{
		name:     "has an error for what is acked",
		connect:  alter(func(c *reliable.Confirm) { c.Err = errOther }),
		caughtBy: []string{oneConfirm},
	},
	{
		name:     "has no error for what is not acked",
		connect:  alter(func(c *reliable.Confirm) { c.Err = nil }),
		caughtBy: []string{unroutable, refused, oversize},
	},
	{
		name: "gives confirms to whichever connection asks",
		connect: func(l *lab, c *connection) {
			if l.shared == nil {
				l.shared = c.inner
			}
			c.receive = l.shared.Receive
		},
		caughtBy: []string{twoConns},
	},
}

var publishLies = []lie{
	{
		name: "says that more was sent than was",
		connect: func(_ *lab, c *connection) {
			c.publish = func(ctx context.Context, batch []reliable.Attempt) (int, error) {
				n, err := c.inner.Publish(ctx, batch)
				return min(n+1, len(batch)), err
			}
		},
		caughtBy: []string{windowWait, endedContext},
	},
	{
		name: "says that less was sent than was",
		connect: func(_ *lab, c *connection) {
			c.publish = func(ctx context.Context, batch []reliable.Attempt) (int, error) {
				n, err := c.inner.Publish(ctx, batch)
				if err != nil && n > 0 {
					n--
				}
				return n, err
			}
		},
		caughtBy: []string{windowWait},
	},
	{
		name: "sends what it says was not sent",
		connect: func(l *lab, c *connection) {
			c.publish = func(ctx context.Context, batch []reliable.Attempt) (int, error) {
				n, err := c.inner.Publish(ctx, batch)
				other := l.broker.Connect()
				defer func() { _ = other.Close() }()
				_, _ = other.Publish(context.Background(), batch[n:])
				return n, err
			}
		},
		caughtBy: []string{windowWait, endedContext},
	},
	{
		name: "returns no error for a part of a batch",
		connect: func(_ *lab, c *connection) {
			c.publish = func(ctx context.Context, batch []reliable.Attempt) (int, error) {
				n, _ := c.inner.Publish(ctx, batch)
				return n, nil
			}
		},
		caughtBy: []string{windowWait, endedContext, afterClose},
	},
	{
		name: "ignores the context of publish",
		connect: func(_ *lab, c *connection) {
			c.publish = func(_ context.Context, batch []reliable.Attempt) (int, error) {
				return c.inner.Publish(context.Background(), batch)
			}
		},
		caughtBy: []string{windowWait, endedContext, blocked, outage},
	},
	{
		name: "does not take more than the window at once",
		connect: func(_ *lab, c *connection) {
			c.publish = func(ctx context.Context, batch []reliable.Attempt) (int, error) {
				if len(batch) > 64 {
					return 0, errOther
				}
				return c.inner.Publish(ctx, batch)
			}
		},
		caughtBy: []string{largeBatch},
	},
	{
		name: "refuses an empty batch",
		connect: func(_ *lab, c *connection) {
			c.publish = func(ctx context.Context, batch []reliable.Attempt) (int, error) {
				if len(batch) == 0 {
					return 0, errOther
				}
				return c.inner.Publish(ctx, batch)
			}
		},
		caughtBy: []string{emptyBatch},
	},
	{
		name: "never sends an attempt alone",
		connect: func(_ *lab, c *connection) {
			c.publish = func(ctx context.Context, batch []reliable.Attempt) (int, error) {
				others := slices.DeleteFunc(slices.Clone(batch), func(a reliable.Attempt) bool { return a.Alone })
				n, err := c.inner.Publish(ctx, others)
				if err == nil {
					n = len(batch)
				}
				return n, err
			}
		},
		caughtBy: []string{alone},
	},
	{
		name: "fails the whole batch for an oversize message",
		connect: func(_ *lab, c *connection) {
			c.publish = func(ctx context.Context, batch []reliable.Attempt) (int, error) {
				for i := range batch {
					if len(batch[i].Payload) > payloadLimit {
						return 0, errOther
					}
				}
				return c.inner.Publish(ctx, batch)
			}
		},
		caughtBy: []string{oversize, mixed},
	},
	{
		name: "says that its limit is larger than it is",
		script: func(a membroker.Attempt) membroker.Verdict {
			if len(a.Payload) == payloadLimit {
				return membroker.Verdict{Act: membroker.Reject}
			}
			return membroker.Verdict{}
		},
		caughtBy: []string{atLimit},
	},
	{
		name: "does not come back after a connection was lost",
		connect: func(l *lab, c *connection) {
			var gone atomic.Bool
			drop(func(confirm reliable.Confirm) bool {
				if wasLost(confirm) {
					gone.Store(true)
				}
				return false
			})(l, c)
			c.publish = func(ctx context.Context, batch []reliable.Attempt) (int, error) {
				if gone.Load() {
					return 0, errOther
				}
				return c.inner.Publish(ctx, batch)
			}
		},
		caughtBy: []string{lost, outage, poison},
	},
}
