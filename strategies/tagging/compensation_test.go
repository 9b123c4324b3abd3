package tagging_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/membroker"
	"github.com/waybillmq/waybill/adapters/memstore"
	"github.com/waybillmq/waybill/internal/virtualtime"
	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/strategies/tagging"
)

var errBank = errors.New("the bank is closed")

// rejecting is a broker that can publish nothing.
func rejecting() *membroker.Broker {
	return membroker.New(membroker.WithConfirmTimeout(time.Second),
		membroker.WithScript(func(membroker.Attempt) membroker.Verdict { return membroker.Verdict{Act: membroker.Reject} }))
}

// runLog notes when handlers ran, how often, and how many at a time.
type runLog struct {
	mu      sync.Mutex
	began   map[reliable.ID][]time.Time
	running map[string]int // by topic
	most    map[string]int
}

// notes are what hooks and handlers said, in order.
type notes struct {
	mu    sync.Mutex
	lines []string
}

func (n *notes) add(format string, args ...any) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.lines = append(n.lines, fmt.Sprintf(format, args...))
}

func (n *notes) all() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.lines
}

func newRunLog() *runLog {
	return &runLog{began: make(map[reliable.ID][]time.Time), running: make(map[string]int), most: make(map[string]int)}
}

// noting runs handler and notes it.
func (l *runLog) noting(handler tagging.FailedHandler) tagging.FailedHandler {
	return func(ctx context.Context, record *reliable.Record) error {
		l.mu.Lock()
		l.began[record.ID] = append(l.began[record.ID], time.Now())
		l.running[record.Topic]++
		l.most[record.Topic] = max(l.most[record.Topic], l.running[record.Topic])
		l.mu.Unlock()
		defer func() {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.running[record.Topic]--
		}()
		return handler(ctx, record)
	}
}

func (l *runLog) runs(id reliable.ID) []time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.began[id]
}

func (l *runLog) mostOf(topic string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.most[topic]
}

// hang waits for the end of its context.
func hang(ctx context.Context, _ *reliable.Record) error {
	<-ctx.Done()
	return ctx.Err()
}

func recordOf(t *testing.T, store *memstore.Store, id reliable.ID) reliable.Record {
	t.Helper()
	records, err := store.Lookup(t.Context(), id)
	require.NoError(t, err)
	require.Len(t, records, 1)
	return records[0]
}

func TestCompensation_runsUntilItSucceeds(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		store := memstore.New()
		broker := membroker.New(membroker.WithConfirmTimeout(time.Second),
			membroker.WithScript(func(membroker.Attempt) membroker.Verdict { return membroker.Verdict{Act: membroker.Reject} }))
		var runs []string
		var compensated []reliable.ID
		handler := func(ctx context.Context, record *reliable.Record) error {
			deadline, ok := ctx.Deadline()
			assert.True(t, ok)
			assert.LessOrEqual(t, time.Until(deadline), 10*time.Second)
			runs = append(runs, string(record.ID)) // one at a time, on the relay's goroutine
			assert.Equal(t, reliable.Failed, record.Status)
			assert.NotEmpty(t, record.History)
			switch len(runs) {
			case 1:
				panic("the handler is lost")
			case 2:
				return errors.New("the bank is closed")
			case 3:
				<-ctx.Done() // it is killed at the end of its lease
				return ctx.Err()
			}
			return nil
		}
		p := single(t, store, broker, tagging.WithLease(10*time.Second), tagging.WithFailedHandler("orders", handler),
			tagging.WithHooks(tagging.Hooks{Compensated: func(record *reliable.Record) { compensated = append(compensated, record.ID) }}),
			tagging.WithBackoff(time.Second, 4*time.Second))
		_, err := p.Publish(t.Context(), envelope("a"), reliable.Envelope{ID: "unhandled", Topic: "other"})
		require.NoError(t, err)
		after(100 * time.Millisecond)
		assert.Equal(t, reliable.Failed, statusOf(t, store, "a"))
		after(2 * time.Minute)
		assert.Equal(t, []string{"a", "a", "a", "a"}, runs)
		assert.Equal(t, []reliable.ID{"a"}, compensated)
		assert.Equal(t, reliable.Compensated, statusOf(t, store, "a"))
		assert.Equal(t, reliable.Failed, statusOf(t, store, "unhandled"), "what has no handler waits for an operator")
	})
}

func TestCompensation_eachHandlerHasTheWholeLease(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		store, broker := memstore.New(), membroker.New(membroker.WithConfirmTimeout(time.Second),
			membroker.WithScript(func(membroker.Attempt) membroker.Verdict { return membroker.Verdict{Act: membroker.Reject} }))
		var mu sync.Mutex
		runs := make(map[reliable.ID]int)
		handler := func(ctx context.Context, record *reliable.Record) error {
			mu.Lock()
			runs[record.ID]++
			mu.Unlock()
			select {
			case <-time.After(8 * time.Second):
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		opts := []tagging.Option{tagging.WithLease(10 * time.Second), tagging.WithFailedHandler("orders", handler)}
		single(t, store, broker, opts...)
		second, err := newProcess(store, broker, opts...)
		require.NoError(t, err)
		second.start()
		stored(t, store, many("orders", "failed", 10)...)
		after(3 * time.Minute)
		assert.Equal(t, map[reliable.Status]int{reliable.Compensated: 10}, countStatus(store, "orders"))
		for id, n := range runs {
			assert.Equal(t, 1, n, "%q", id)
		}
		require.NoError(t, second.stop())
	})
}

func TestCompensation_spacesTheRunsOfEachMessage(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		store, log := memstore.New(), newRunLog()
		single(t, store, rejecting(), tagging.WithHandlerBackoff(8*time.Second, 32*time.Second),
			tagging.WithFailedHandler("orders", log.noting(func(context.Context, *reliable.Record) error { return errBank })))
		stored(t, store, envelope("a"))
		after(3 * time.Minute)
		runs := log.runs("a")
		require.GreaterOrEqual(t, len(runs), 5)
		// A pause is shortened by up to half, and its end is seen within five seconds.
		for i, pause := range []time.Duration{8 * time.Second, 16 * time.Second, 32 * time.Second, 32 * time.Second} {
			took := runs[i+1].Sub(runs[i])
			assert.GreaterOrEqual(t, took, pause/2, "pause %d", i+1)
			assert.LessOrEqual(t, took, pause+5*time.Second, "pause %d", i+1)
		}
		last := recordOf(t, store, "a").History
		assert.Contains(t, last[len(last)-1].Reason, errBank.Error())
	})
}

func TestCompensation_backsOffFromAnewAfterAPersonDecided(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		store, log := memstore.New(), newRunLog()
		p := single(t, store, rejecting(), tagging.WithHandlerBackoff(10*time.Second, time.Hour),
			tagging.WithFailedHandler("orders", log.noting(func(context.Context, *reliable.Record) error { return errBank })))
		stored(t, store, envelope("a"))
		after(3 * time.Minute)
		before := len(log.runs("a"))
		_, err := store.Decide(t.Context(), reliable.Decision{
			Action: reliable.Requeue, IDs: []reliable.ID{"a"}, Who: "ada", Why: "the bank is open",
		})
		require.NoError(t, err)
		require.NoError(t, p.Wake(t.Context()))
		after(16 * time.Second)
		runs := log.runs("a")[before:]
		require.Len(t, runs, 2, "it failed again, and has the shortest pause behind it")
		assert.LessOrEqual(t, runs[1].Sub(runs[0]), 15*time.Second)
	})
}

func TestCompensation_whatAlwaysFailsOrHangsHoldsUpNobodyElse(t *testing.T) {
	for name, bad := range map[string]tagging.FailedHandler{
		"fails": func(context.Context, *reliable.Record) error { return errBank },
		"hangs": hang,
	} {
		t.Run(name, func(t *testing.T) {
			virtualtime.Test(t, func(t *testing.T) {
				store, log := memstore.New(), newRunLog()
				var done atomic.Int64
				handler := log.noting(func(ctx context.Context, record *reliable.Record) error {
					if record.ID < "message-000010" {
						return bad(ctx, record)
					}
					done.Add(1)
					return nil
				})
				single(t, store, rejecting(), tagging.WithLease(10*time.Second),
					tagging.WithFailedHandler("orders", handler), tagging.WithFailedHandler("other", handler))
				stored(t, store, many("orders", "message", 100)...)
				stored(t, store, many("other", "message-other", 100)...)
				after(5 * time.Second)
				assert.Equal(t, 100, countStatus(store, "other")[reliable.Compensated], "another topic has its own places")
				after(time.Minute)
				assert.Equal(t, 90, countStatus(store, "orders")[reliable.Compensated], "what is sound of the same topic")
				assert.Equal(t, 10, countStatus(store, "orders")[reliable.Failed], "what is not waits")
				assert.EqualValues(t, 190, done.Load())
			})
		})
	}
}

func TestCompensation_runsAsManyAtATimeAsItIsTold(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		store, log := memstore.New(), newRunLog()
		slow := log.noting(func(context.Context, *reliable.Record) error {
			time.Sleep(time.Second)
			return nil
		})
		single(t, store, rejecting(), tagging.WithHandlersAtOnce(7),
			tagging.WithFailedHandler("orders", slow), tagging.WithFailedHandler("other", slow))
		stored(t, store, many("orders", "message", 50)...)
		stored(t, store, many("other", "another", 3)...)
		after(10 * time.Second)
		assert.Equal(t, 7, log.mostOf("orders"))
		assert.Equal(t, 3, log.mostOf("other"))
		assert.Equal(t, map[reliable.Status]int{reliable.Compensated: 50}, countStatus(store, "orders"))
	})
}

func TestCompensation_theContextEndsShortlyBeforeTheLease(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		store := memstore.New()
		var began, ended time.Time
		single(t, store, rejecting(), tagging.WithLease(10*time.Second), tagging.WithHandlerBackoff(time.Hour, time.Hour),
			tagging.WithFailedHandler("orders", func(ctx context.Context, record *reliable.Record) error {
				began = time.Now()
				err := hang(ctx, record)
				ended = time.Now()
				return err
			}))
		stored(t, store, envelope("a"))
		after(time.Minute)
		assert.Equal(t, 9*time.Second, ended.Sub(began))
	})
}

func TestCompensation_aRunBeyondItsLeaseDecidesNothing(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		store := memstore.New()
		var compensated, failed notes
		opts := func(name string, handler tagging.FailedHandler) []tagging.Option {
			return []tagging.Option{
				tagging.WithLease(10 * time.Second), tagging.WithFailedHandler("orders", handler),
				tagging.WithHooks(tagging.Hooks{
					Compensated:   func(*reliable.Record) { compensated.add("%s", name) },
					HandlerFailed: func(_ *reliable.Record, err error) { failed.add("%s: %v", name, err) },
				}),
			}
		}
		broker := rejecting()
		stored(t, store, envelope("a"))
		one := tagging.WithHandlersAtOnce(1) // so that it does not take the message over from itself
		single(t, store, broker, append(opts("deaf", func(context.Context, *reliable.Record) error {
			time.Sleep(15 * time.Second) // it does not listen to its context
			return nil
		}), one)...)
		after(time.Second)
		second, err := newProcess(store, broker, opts("second", func(context.Context, *reliable.Record) error {
			time.Sleep(3 * time.Second)
			return errBank
		})...)
		require.NoError(t, err)
		second.start()
		after(15 * time.Second)
		assert.Equal(t, reliable.Failed, statusOf(t, store, "a"), "the bank said no to the one who has the lease")
		require.NoError(t, second.stop())
		assert.Empty(t, compensated.all())
		require.Len(t, failed.all(), 2)
		assert.Contains(t, failed.all(), "second: "+errBank.Error())
		assert.Contains(t, fmt.Sprint(failed.all()), "deaf: the lease of this run passed on")
	})
}

func TestCompensation_whatIsDoneIsRecordedWhenTheStoreIsBack(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		log := newRunLog()
		var away atomic.Bool
		store := memstore.New(memstore.WithFault(func(op memstore.Op, _ []reliable.ID) memstore.Fault {
			if away.Load() && op == memstore.OpSettleCompensation {
				return memstore.Fault{Before: errDead}
			}
			return memstore.Fault{}
		}))
		single(t, store, rejecting(), tagging.WithFailedHandler("orders", log.noting(func(context.Context, *reliable.Record) error {
			away.Store(true)
			return nil
		})))
		stored(t, store, envelope("a"))
		after(20 * time.Second)
		assert.Equal(t, reliable.Failed, statusOf(t, store, "a"))
		away.Store(false)
		after(10 * time.Second)
		assert.Equal(t, reliable.Compensated, statusOf(t, store, "a"))
		after(5 * time.Minute)
		assert.Len(t, log.runs("a"), 1, "done once, and not again because it could not be recorded at once")
	})
}

func TestCompensation_aHandlerThatRunsMayFinishBeforeAShutdown(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		store, broker, log := memstore.New(), rejecting(), newRunLog()
		stored(t, store, many("orders", "message", 10)...)
		p, err := newProcess(store, broker, tagging.WithHandlersAtOnce(2), tagging.WithDrainTimeout(20*time.Second),
			tagging.WithFailedHandler("orders", log.noting(func(ctx context.Context, record *reliable.Record) error {
				if record.ID == "message-000000" {
					return hang(ctx, record)
				}
				time.Sleep(5 * time.Second)
				return ctx.Err()
			})))
		require.NoError(t, err)
		p.start()
		after(time.Second)
		began := time.Now()
		require.NoError(t, p.stop())
		assert.Equal(t, 20*time.Second, time.Since(began), "what hangs is given up after the drain timeout")
		assert.Equal(t, reliable.Compensated, statusOf(t, store, "message-000001"), "what runs is let finish")
		assert.Equal(t, reliable.Failed, statusOf(t, store, "message-000000"))
		assert.Len(t, log.began, 2, "nothing is begun that the shutdown would break off")
		require.NoError(t, broker.Close())
	})
}

func TestCompensation_aCrashedProcessIsTakenOver(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		store, broker, log := memstore.New(), rejecting(), newRunLog()
		stored(t, store, envelope("a"))
		opts := []tagging.Option{tagging.WithLease(10 * time.Second), tagging.WithFailedHandler("orders",
			log.noting(func(context.Context, *reliable.Record) error {
				time.Sleep(3 * time.Second)
				return nil
			}))}
		first, err := newProcess(store, broker, opts...)
		require.NoError(t, err)
		first.start()
		after(time.Second)
		first.crash()
		single(t, store, broker, opts...)
		after(time.Minute)
		assert.Equal(t, reliable.Compensated, statusOf(t, store, "a"))
		runs := log.runs("a")
		require.Len(t, runs, 2)
		assert.GreaterOrEqual(t, runs[1].Sub(runs[0]), 10*time.Second, "not before the lease of the dead ended")
		_ = <-first.done
	})
}

func TestSweepOnce_compensatesAllThatIsDueAndReturnsWhenItIsDone(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		store, broker, log := memstore.New(), rejecting(), newRunLog()
		stored(t, store, many("orders", "message", 20)...)
		p, err := newProcess(store, broker, tagging.WithFailedHandler("orders", log.noting(func(_ context.Context, record *reliable.Record) error {
			time.Sleep(time.Second)
			if record.ID == "message-000000" {
				return errBank
			}
			return nil
		})))
		require.NoError(t, err)
		_, err = p.SweepOnce(t.Context())
		require.NoError(t, err)
		_, err = p.SweepOnce(t.Context())
		require.NoError(t, err)
		assert.Equal(t, 4, log.mostOf("orders"))
		assert.Equal(t, 19, countStatus(store, "orders")[reliable.Compensated])
		assert.NotEmpty(t, log.runs("message-000000"))
		require.NoError(t, broker.Close())
	})
}

func TestSweepOnce_aHandlerThatEndsDuringAClaimIsFollowedByTheNext(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		store := memstore.New(memstore.WithFault(func(op memstore.Op, _ []reliable.ID) memstore.Fault {
			if op == memstore.OpClaimFailed {
				return memstore.Fault{Delay: 2 * time.Second}
			}
			return memstore.Fault{}
		}))
		stored(t, store, many("orders", "message", 5)...)
		handler := func(context.Context, *reliable.Record) error {
			time.Sleep(time.Second) // it ends while the other topic is looked through
			return nil
		}
		broker := rejecting()
		p, err := newProcess(store, broker, tagging.WithHandlersAtOnce(1),
			tagging.WithFailedHandler("orders", handler), tagging.WithFailedHandler("other", handler))
		require.NoError(t, err)
		_, err = p.SweepOnce(t.Context())
		require.NoError(t, err)
		assert.Equal(t, map[reliable.Status]int{reliable.Compensated: 5}, countStatus(store, "orders"))
		require.NoError(t, broker.Close())
	})
}

// gate is a way to the store over which outcomes do not pass while it is shut.
type gate struct {
	*line
	shut atomic.Bool
}

func (g *gate) Unwrap() any { return g.line }

func (g *gate) Settle(ctx context.Context, ss ...reliable.Settlement) ([]reliable.SettleResult, error) {
	if g.shut.Load() {
		return nil, errDead
	}
	return g.line.Settle(ctx, ss...)
}

func TestHooks_tellOfFailuresOfHandlersAndOfLateAcks(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		var told notes
		tell := told.add
		store := memstore.New()
		broker := membroker.New(membroker.WithConfirmTimeout(time.Second), membroker.WithScript(func(a membroker.Attempt) membroker.Verdict {
			if a.OfID == 1 {
				return membroker.Verdict{}
			}
			return membroker.Verdict{Act: membroker.Reject}
		}))
		var runs atomic.Int64
		opts := []tagging.Option{
			tagging.WithLease(10 * time.Second),
			tagging.WithFailedHandler("orders", func(context.Context, *reliable.Record) error {
				if runs.Add(1) == 1 {
					return errBank
				}
				return nil
			}),
			tagging.WithHooks(tagging.Hooks{
				Failed: func(a *reliable.Attempt, s *reliable.Settlement) {
					tell("%s failed, attempt %d: %v", a.ID, a.Attempts, s.Outcome)
				},
				HandlerFailed: func(record *reliable.Record, err error) { tell("%s: handler failed: %v", record.ID, err) },
				Compensated:   func(record *reliable.Record) { tell("%s compensated", record.ID) },
				LateAck:       func(a *reliable.Attempt) { tell("%s acked late, attempt %d", a.ID, a.Attempts) },
			}),
		}
		// The first process sends and cannot record the ack; after its lease the second one fails and compensates.
		way := &gate{line: &line{store: store}}
		conn := broker.Connect()
		first, err := tagging.New(way, conn, conn, append(opts, tagging.WithLogger(slog.New(slog.DiscardHandler)))...)
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- first.Run(ctx) }()
		synctest.Wait()
		way.shut.Store(true)
		_, err = first.Publish(t.Context(), envelope("a"))
		require.NoError(t, err)
		after(5 * time.Second)
		single(t, store, broker, opts...)
		after(30 * time.Second)
		require.Equal(t, reliable.Compensated, statusOf(t, store, "a"))
		way.shut.Store(false)
		after(30 * time.Second)
		assert.Equal(t, []string{
			"a failed, attempt 2: rejected", "a: handler failed: the bank is closed", "a compensated", "a acked late, attempt 1",
		}, told.all())
		record := recordOf(t, store, "a")
		assert.True(t, record.LateAck)
		assert.Equal(t, reliable.Compensated, record.Status)
		cancel()
		require.NoError(t, <-done)
	})
}
