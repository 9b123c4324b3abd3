package membroker_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/waybillmq/waybill/adapters/membroker"
	"github.com/waybillmq/waybill/internal/virtualtime"
	"github.com/waybillmq/waybill/reliable"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func batchOf(topic string, n int) []reliable.Attempt {
	batch := make([]reliable.Attempt, n)
	for i := range batch {
		batch[i] = reliable.Attempt{
			Envelope: reliable.Envelope{ID: reliable.ID(fmt.Sprint(i)), Topic: topic, Payload: []byte("x")},
			Fence:    1,
		}
	}
	return batch
}

type connection interface {
	reliable.Publisher
	reliable.ConfirmSource
}

func publish(t *testing.T, c connection, batch []reliable.Attempt) {
	t.Helper()
	n, err := c.Publish(t.Context(), batch)
	require.NoError(t, err)
	require.Equal(t, len(batch), n)
}

// receive returns n confirms in the order in which they came.
func receive(t *testing.T, c connection, n int) []reliable.Confirm {
	t.Helper()
	var all []reliable.Confirm
	for len(all) < n {
		confirms, err := c.Receive(t.Context(), n-len(all))
		require.NoError(t, err)
		all = append(all, confirms...)
	}
	return all
}

func outcomes(confirms []reliable.Confirm) map[reliable.ID]reliable.Outcome {
	by := make(map[reliable.ID]reliable.Outcome, len(confirms))
	for _, confirm := range confirms {
		by[confirm.ID] = confirm.Outcome
	}
	return by
}

func scripted(verdicts map[reliable.ID]membroker.Verdict, opts ...membroker.Option) *membroker.Broker {
	return membroker.New(append(opts, membroker.WithScript(func(a membroker.Attempt) membroker.Verdict {
		return verdicts[a.ID]
	}))...)
}

func TestVerdict_decidesOutcomeAndStorageApart(t *testing.T) {
	for _, c := range []struct {
		verdict membroker.Verdict
		outcome reliable.Outcome
		stored  int
	}{
		{membroker.Verdict{}, reliable.Acked, 1},
		{membroker.Verdict{Extra: 2}, reliable.Acked, 3},
		{membroker.Verdict{Act: membroker.Nack}, reliable.Nacked, 0},
		{membroker.Verdict{Act: membroker.Return}, reliable.Returned, 0},
		{membroker.Verdict{Act: membroker.Reject}, reliable.Rejected, 0},
		{membroker.Verdict{Act: membroker.LoseConfirm}, reliable.Unknown, 1},
		{membroker.Verdict{Act: membroker.LoseConfirm, Extra: 1}, reliable.Unknown, 2},
		{membroker.Verdict{Act: membroker.LoseMessage}, reliable.Unknown, 0},
		{membroker.Verdict{Act: membroker.Lie}, reliable.Acked, 0},
		{membroker.Verdict{Act: membroker.Cut}, reliable.Unknown, 1},
		{membroker.Verdict{Act: membroker.CutBefore}, reliable.Unknown, 0},
		{membroker.Verdict{Act: membroker.Poison}, reliable.Unknown, 0},
	} {
		t.Run(c.verdict.Act.String(), func(t *testing.T) {
			b := scripted(map[reliable.ID]membroker.Verdict{"0": c.verdict})
			publish(t, b, batchOf("orders", 1))
			assert.Equal(t, c.outcome, receive(t, b, 1)[0].Outcome)
			assert.Len(t, b.Delivered("orders"), c.stored)
			record := b.Attempts()[0]
			assert.Equal(t, c.outcome, record.Outcome)
			assert.Equal(t, c.stored, record.Copies)
			assert.True(t, record.Answered)
			require.NoError(t, b.Close())
		})
	}
}

func TestVerdict_errIsWhatTheConfirmWraps(t *testing.T) {
	cause := errors.New("504 gateway")
	for _, act := range []membroker.Act{
		membroker.Nack, membroker.Return, membroker.Reject, membroker.LoseConfirm, membroker.LoseMessage, membroker.Cut,
	} {
		b := scripted(map[reliable.ID]membroker.Verdict{"0": {Act: act, Err: cause}})
		publish(t, b, batchOf("orders", 1))
		assert.ErrorIs(t, receive(t, b, 1)[0].Err, cause, "%v", act)
		require.NoError(t, b.Close())
	}
}

func TestVerdict_delayIsKeptToTheNanosecond(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		b := scripted(map[reliable.ID]membroker.Verdict{
			"0": {Delay: 3 * time.Second}, "1": {Delay: time.Second}, "2": {Delay: 2 * time.Second, StoreLate: true},
		})
		began := time.Now()
		publish(t, b, batchOf("orders", 3))
		assert.Len(t, b.Delivered("orders"), 2, "a message that is stored late was stored at once")
		for _, want := range []struct {
			id    reliable.ID
			after time.Duration
		}{{"1", time.Second}, {"2", 2 * time.Second}, {"0", 3 * time.Second}} {
			assert.Equal(t, want.id, receive(t, b, 1)[0].ID)
			assert.Equal(t, want.after, time.Since(began))
		}
		assert.Len(t, b.Delivered("orders"), 3)
		require.NoError(t, b.Close())
	})
}

func TestCut_takesWhatIsInFlightOnItsConnectionAndNothingElse(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		b := membroker.New(membroker.WithLatency(time.Second), membroker.WithScript(func(a membroker.Attempt) membroker.Verdict {
			switch a.ID {
			case "2":
				return membroker.Verdict{Act: membroker.Cut, Delay: 100 * time.Millisecond}
			case "3":
				return membroker.Verdict{StoreLate: true}
			}
			return membroker.Verdict{}
		}))
		other := b.Connect()
		batch := batchOf("orders", 5)
		batch[4].Alone = true
		publish(t, b, batch)
		publish(t, other, batchOf("invoices", 1))

		lost := receive(t, b, 4)
		for _, confirm := range lost {
			assert.Equal(t, reliable.Unknown, confirm.Outcome)
			assert.ErrorIs(t, confirm.Err, reliable.ErrConnectionLost)
		}
		assert.Equal(t, map[reliable.ID]reliable.Outcome{"4": reliable.Acked}, outcomes(receive(t, b, 1)), "alone has a connection of its own")
		assert.Equal(t, reliable.Acked, receive(t, other, 1)[0].Outcome, "another connection was hit")
		assert.Len(t, b.Delivered("orders"), 4, "only the one stored late is lost")

		publish(t, b, batchOf("again", 1))
		assert.Equal(t, reliable.Acked, receive(t, b, 1)[0].Outcome, "it did not reconnect")
		require.NoError(t, b.Close())
	})
}

func TestCut_ofAnAttemptAloneHitsNobodyElse(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		b := scripted(map[reliable.ID]membroker.Verdict{"0": {Act: membroker.Cut, Delay: time.Millisecond}},
			membroker.WithLatency(time.Second))
		batch := batchOf("orders", 3)
		batch[0].Alone = true
		publish(t, b, batch)
		assert.Equal(t, map[reliable.ID]reliable.Outcome{"0": reliable.Unknown, "1": reliable.Acked, "2": reliable.Acked},
			outcomes(receive(t, b, 3)))
		require.NoError(t, b.Close())
	})
}

func TestPoison_isRejectedAloneAndHarmsNobodyThen(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		b := scripted(map[reliable.ID]membroker.Verdict{"1": {Act: membroker.Poison, Delay: time.Millisecond}},
			membroker.WithLatency(time.Second))
		batch := batchOf("orders", 3)
		publish(t, b, batch)
		assert.Equal(t, map[reliable.ID]reliable.Outcome{"0": reliable.Unknown, "1": reliable.Unknown, "2": reliable.Unknown},
			outcomes(receive(t, b, 3)))
		for i := range batch {
			batch[i].Fence, batch[i].Alone = 2, true
		}
		publish(t, b, batch)
		assert.Equal(t, map[reliable.ID]reliable.Outcome{"0": reliable.Acked, "1": reliable.Rejected, "2": reliable.Acked},
			outcomes(receive(t, b, 3)))
		require.NoError(t, b.Close())
	})
}

func TestRefuse_sendsNothingFromThereOn(t *testing.T) {
	b := scripted(map[reliable.ID]membroker.Verdict{"2": {Act: membroker.Refuse}}, membroker.WithWindow(4))
	n, err := b.Publish(t.Context(), batchOf("orders", 4))
	require.ErrorIs(t, err, membroker.ErrRefused)
	require.Equal(t, 2, n)
	receive(t, b, 2)
	assert.Len(t, b.Delivered("orders"), 2)
	assert.Len(t, b.Attempts(), 2, "an attempt that was not sent is in the log")
	n, _ = b.Publish(t.Context(), batchOf("invoices", 2))
	require.Equal(t, 2, n)
	receive(t, b, 2)
	for range 3 { // a window of 4 would be used up by what was refused before
		n, _ = b.Publish(t.Context(), batchOf("orders", 3))
		require.Equal(t, 2, n)
		receive(t, b, 2)
	}
	require.NoError(t, b.Close())
}

func TestConfirmTimeout_abandonsTheConnection(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		b := scripted(map[reliable.ID]membroker.Verdict{"0": {Delay: time.Hour}, "1": {Delay: 20 * time.Second}},
			membroker.WithConfirmTimeout(10*time.Second))
		began := time.Now()
		publish(t, b, batchOf("orders", 2))
		assert.Equal(t, map[reliable.ID]reliable.Outcome{"0": reliable.Unknown, "1": reliable.Unknown}, outcomes(receive(t, b, 2)))
		assert.Equal(t, b.MaxConfirmWait(), time.Since(began))
		require.NoError(t, b.Close())
	})
}

func TestDown_holdsPublishUntilUp(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		b := membroker.New(membroker.WithLatency(time.Second))
		publish(t, b, batchOf("orders", 1))
		b.Down()
		assert.ErrorIs(t, receive(t, b, 1)[0].Err, reliable.ErrConnectionLost)

		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		n, err := b.Publish(ctx, batchOf("orders", 1))
		require.Zero(t, n)
		require.ErrorIs(t, err, membroker.ErrDown)
		require.ErrorIs(t, err, context.DeadlineExceeded)

		time.AfterFunc(time.Hour, b.Up)
		began := time.Now()
		publish(t, b, batchOf("orders", 1))
		assert.Equal(t, time.Hour, time.Since(began))
		receive(t, b, 1)
		require.NoError(t, b.Close())
	})
}

func TestWithFailFast_doesNotWaitForTheEndOfAnOutage(t *testing.T) {
	b := membroker.New(membroker.WithFailFast())
	b.Down()
	n, err := b.Publish(t.Context(), batchOf("orders", 1))
	require.Zero(t, n)
	require.ErrorIs(t, err, membroker.ErrDown)
	require.NoError(t, b.Close())
}

func TestBlock_storesAndAnswersNothingUntilUnblock(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		b := membroker.New(membroker.WithConfirmTimeout(time.Minute))
		b.Block()
		publish(t, b, batchOf("early", 2))
		time.Sleep(59 * time.Second)
		publish(t, b, batchOf("late", 2))
		time.Sleep(time.Second)
		early := receive(t, b, 4) // the connection of all of them was abandoned
		for _, confirm := range early {
			assert.Equal(t, reliable.Unknown, confirm.Outcome)
		}
		publish(t, b, batchOf("again", 2))
		b.Unblock()
		assert.Equal(t, map[reliable.ID]reliable.Outcome{"0": reliable.Acked, "1": reliable.Acked}, outcomes(receive(t, b, 2)))
		assert.Empty(t, b.Delivered("early"))
		assert.Len(t, b.Delivered("again"), 2)
		require.NoError(t, b.Close())
	})
}

func TestTopics_undeclaredReturnsAndFullNacks(t *testing.T) {
	b := membroker.New(membroker.WithDeclaredTopicsOnly())
	outcomeOf := func(topic string) reliable.Outcome {
		publish(t, b, batchOf(topic, 1))
		return receive(t, b, 1)[0].Outcome
	}
	assert.Equal(t, reliable.Returned, outcomeOf("orders"))
	b.Declare("orders")
	assert.Equal(t, reliable.Acked, outcomeOf("orders"))
	b.Full(true, "orders")
	assert.Equal(t, reliable.Nacked, outcomeOf("orders"))
	b.Full(false, "orders")
	b.Undeclare("orders")
	assert.Equal(t, reliable.Returned, outcomeOf("orders"))
	assert.Equal(t, reliable.Rejected, outcomeOf(""))
	assert.Equal(t, membroker.Counts{HandedOver: 5, Stored: 1, Acked: 1, Nacked: 1, Returned: 2, Rejected: 1}, b.Counts())
	require.NoError(t, b.Close())
}

func TestWithReorder_choosesWhichConfirmComesNext(t *testing.T) {
	seeded := func() []reliable.Confirm {
		b := membroker.New(membroker.WithReorder(rand.New(rand.NewPCG(1, 2)).IntN))
		publish(t, b, batchOf("orders", 50))
		defer func() { require.NoError(t, b.Close()) }()
		return receive(t, b, 50)
	}
	first := seeded()
	assert.Len(t, outcomes(first), 50, "a confirm was lost or repeated")
	assert.Equal(t, first, seeded(), "the same seed made another order")
	assert.NotEqual(t, reliable.ID("0"), first[0].ID)
}

func TestScript_mayUseTheControls(t *testing.T) {
	var b *membroker.Broker
	b = membroker.New(membroker.WithScript(func(a membroker.Attempt) membroker.Verdict {
		if a.Number == 2 {
			b.Undeclare("orders")
		}
		return membroker.Verdict{}
	}))
	publish(t, b, batchOf("orders", 3))
	assert.Equal(t, map[reliable.ID]reliable.Outcome{"0": reliable.Acked, "1": reliable.Returned, "2": reliable.Returned},
		outcomes(receive(t, b, 3)))
	require.NoError(t, b.Close())
}

func TestScript_countsHandOversOfAnID(t *testing.T) {
	b := membroker.New(membroker.WithScript(func(a membroker.Attempt) membroker.Verdict {
		if a.OfID < 3 {
			return membroker.Verdict{Act: membroker.LoseConfirm}
		}
		return membroker.Verdict{}
	}))
	for _, want := range []reliable.Outcome{reliable.Unknown, reliable.Unknown, reliable.Acked} {
		publish(t, b, batchOf("orders", 1))
		assert.Equal(t, want, receive(t, b, 1)[0].Outcome)
	}
	require.NoError(t, b.Close())
}

// The whole log, times included, is the same again.
func TestBroker_doesTheSameAgainUnderTheSameScript(t *testing.T) {
	run := func() (log []membroker.Record) {
		virtualtime.Test(t, func(t *testing.T) {
			random := rand.New(rand.NewPCG(3, 4))
			b := membroker.New(membroker.WithWindow(20), membroker.WithScript(func(membroker.Attempt) membroker.Verdict {
				return membroker.Verdict{
					Act:       membroker.Act(random.IntN(int(membroker.Poison))),
					Delay:     time.Duration(random.IntN(50)) * time.Millisecond,
					StoreLate: random.IntN(2) == 0, Extra: random.IntN(2),
				}
			}))
			received := make(chan error, 1)
			go func() {
				var err error
				for n := 0; n < 300 && err == nil; {
					var confirms []reliable.Confirm
					confirms, err = b.Receive(t.Context(), 300-n)
					n += len(confirms)
				}
				received <- err
			}()
			publish(t, b, batchOf("orders", 300))
			require.NoError(t, <-received)
			log = b.Attempts()
			require.NoError(t, b.Close())
		})
		return log
	}
	first, again := run(), run()
	assert.Equal(t, first, again)
}

func TestClose_answersWhatIsInFlightThenEndsReceive(t *testing.T) {
	b := membroker.New(membroker.WithLatency(time.Hour))
	publish(t, b, batchOf("orders", 3))
	require.NoError(t, b.Close())
	for _, confirm := range receive(t, b, 3) {
		assert.Equal(t, reliable.Unknown, confirm.Outcome)
		assert.ErrorIs(t, confirm.Err, reliable.ErrClosed)
	}
	_, err := b.Receive(t.Context(), 1)
	require.ErrorIs(t, err, io.EOF)
	require.NoError(t, b.Close())
	c := b.Connect()
	_, err = c.Publish(t.Context(), batchOf("orders", 1))
	require.ErrorIs(t, err, reliable.ErrClosed)
}

func TestWithDiscard_keepsCountsOnly(t *testing.T) {
	b := membroker.New(membroker.WithDiscard())
	publish(t, b, batchOf("orders", 10))
	receive(t, b, 10)
	assert.Empty(t, b.Attempts())
	assert.Empty(t, b.Delivered("orders"))
	assert.Equal(t, 10, b.Counts().Stored)
	assert.Zero(t, b.Counts().InFlight())
	require.NoError(t, b.Close())
}

func TestNew_panicsWithAllContradictions(t *testing.T) {
	defer func() {
		err, _ := recover().(error)
		require.ErrorIs(t, err, reliable.ErrInvalid)
		for _, field := range []string{"WithWindow", "WithConfirmTimeout", "WithLatency"} {
			assert.ErrorContains(t, err, "invalid "+field)
		}
	}()
	membroker.New(membroker.WithWindow(0), membroker.WithConfirmTimeout(0), membroker.WithLatency(-1))
}

// A broker that answers at once must not be what a benchmark of something else measures.
func BenchmarkPublishReceive(b *testing.B) {
	for _, size := range []int{1, 100, 1000} {
		b.Run(fmt.Sprintf("batch=%d", size), func(b *testing.B) {
			broker := membroker.New(membroker.WithDiscard())
			b.Cleanup(func() { _ = broker.Close() })
			batch := batchOf("orders", size)
			ctx := context.Background()
			n := 0
			for b.Loop() {
				if _, err := broker.Publish(ctx, batch); err != nil {
					b.Fatal(err)
				}
				for got := 0; got < size; {
					confirms, err := broker.Receive(ctx, size)
					if err != nil {
						b.Fatal(err)
					}
					got += len(confirms)
				}
				n += size
			}
			b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "attempts/s")
		})
	}
}
