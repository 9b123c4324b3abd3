package middleware_test

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/assert"

	"github.com/waybillmq/waybill/middleware"
	"github.com/waybillmq/waybill/reliable"
)

// sendMany sends n messages, order-000 on.
func (r *rig) sendMany(n int) {
	for i := range n {
		r.send(reliable.Envelope{ID: reliable.ID(fmt.Sprintf("order-%03d", i))})
	}
}

func TestBreaker_keepsAnOutageFromFillingThePoisonTopic(t *testing.T) {
	const orders, outage = 500, time.Hour
	poisoned := func(t *testing.T, opts ...middleware.Option) (n int) {
		bubble(t, func(t *testing.T, r *rig) {
			healed := time.Now().Add(outage)
			stop := r.consume(r.preset(opts...), func(*message.Message) error {
				if time.Now().Before(healed) {
					return errBroken
				}
				return nil
			})
			defer stop()
			r.sendMany(orders)
			pass(2 * outage)
			n = len(r.in(poison))
			done := 0
			for i := range orders {
				calls := r.attempts(fmt.Sprintf("order-%03d", i))
				if assert.NotEmpty(t, calls) && calls[len(calls)-1].at >= outage {
					done++
				}
			}
			assert.Equal(t, orders, done+n, "each was handled or is in the poison topic")
		})
		return n
	}
	retries := middleware.RetryInPlace(2, time.Second)
	assert.Equal(t, orders, poisoned(t, retries), "without: all of them")
	few := poisoned(t, retries, middleware.WithBreaker(3, 5*time.Minute))
	assert.LessOrEqual(t, few, 3+int(outage/(5*time.Minute)), "with: those that opened it, and the probes")
}

func TestBreaker_isNotOpenedByOneMessageThatFailsOften(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		stop := r.consume(r.preset(middleware.RetryInPlace(3, 100*time.Millisecond), middleware.WithBreaker(2, time.Hour)), func(msg *message.Message) error {
			if msg.UUID == "order-000" {
				return errBroken
			}
			return nil
		})
		defer stop()
		r.sendMany(10)
		pass(5 * time.Second)
		assert.Len(t, r.attempts("order-000"), 4)
		assert.Len(t, r.attempts("order-009"), 1)
	})
}

func TestBreaker_isNotOpenedByPermanentErrors(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		stop := r.consume(r.preset(middleware.WithBreaker(2, time.Hour)), func(*message.Message) error { return middleware.Permanent(errBroken) })
		defer stop()
		r.sendMany(10)
		pass(time.Second)
		assert.Len(t, r.in(poison), 10)
	})
}

func TestBreaker_letsOneProbeThroughAndThenAll(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		var up atomic.Bool
		stop := r.consume(r.preset(middleware.WithBreaker(2, time.Minute)), func(*message.Message) error {
			if !up.Load() {
				return errBroken
			}
			return nil
		})
		defer stop()
		r.sendMany(10)
		pass(30 * time.Second)
		assert.Len(t, r.made(), 2)
		pass(45 * time.Second) // the probe fails
		assert.Len(t, r.made(), 3)
		up.Store(true)
		pass(90 * time.Second)
		assert.Len(t, r.made(), 10)
		assert.Len(t, r.in(poison), 3)
	})
}

func TestThrottle_spacesAttemptsRetriesIncluded(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		stop := r.consume(r.preset(middleware.RetryInPlace(2, time.Millisecond), middleware.WithThrottle(2, time.Second)), failing)
		defer stop()
		r.sendMany(4)
		pass(time.Minute)
		if assert.Len(t, r.made(), 12) {
			for i, call := range r.made() {
				assert.Equal(t, time.Duration(i)*500*time.Millisecond, call.at)
			}
		}
	})
}

func TestMiddleware_ofTheUserSeesEachAttemptAndItsPanicIsRecovered(t *testing.T) {
	bubble(t, func(t *testing.T, r *rig) {
		var order []string
		named := func(name string) message.HandlerMiddleware {
			return func(h message.HandlerFunc) message.HandlerFunc {
				return func(msg *message.Message) ([]*message.Message, error) {
					order = append(order, name)
					if len(order) == 4 {
						panic(name)
					}
					return h(msg)
				}
			}
		}
		stop := r.consume(r.preset(middleware.RetryInPlace(1, time.Second), middleware.WithMiddleware(named("outer"), named("inner"))), failing)
		defer stop()
		r.sendMany(1)
		pass(time.Minute)
		assert.Equal(t, []string{"outer", "inner", "outer", "inner"}, order)
		f, _ := middleware.FailureOf(r.in(poison)[0])
		assert.Equal(t, "panic: inner", f.Reason)
	})
}
