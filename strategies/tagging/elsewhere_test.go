package tagging_test

import (
	"context"
	"errors"
	"log/slog"
	"sync"
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

// shop is a business in one store and its outbox in another, each with the faults of its own.
type shop struct {
	t               *testing.T
	business, store *memstore.Store
	broker          *membroker.Broker
	witness         reliable.Witness
	outbox          *tagging.Outbox
	mu              sync.Mutex
	businessFault   map[memstore.Op]memstore.Fault
	outboxFault     map[memstore.Op]memstore.Fault
	witnessed       map[reliable.Fate]int
}

const askAfter = time.Minute

func newShop(t *testing.T, opts ...tagging.ElsewhereOption) *shop {
	s := &shop{
		t: t, businessFault: make(map[memstore.Op]memstore.Fault), outboxFault: make(map[memstore.Op]memstore.Fault),
		witnessed: make(map[reliable.Fate]int), broker: membroker.New(),
	}
	faults := func(of map[memstore.Op]memstore.Fault) memstore.Option {
		return memstore.WithFault(func(op memstore.Op, _ []reliable.ID) memstore.Fault {
			s.mu.Lock()
			defer s.mu.Unlock()
			return of[op]
		})
	}
	s.business, s.store = memstore.New(faults(s.businessFault)), memstore.New(faults(s.outboxFault))
	var err error
	s.witness, err = s.business.MarkerWitness(time.Hour)
	require.NoError(t, err)
	s.outbox, err = tagging.New(s.store, s.broker, s.broker, tagging.WithLogger(slog.New(slog.DiscardHandler)),
		tagging.WithElsewhere("shop", s.business, s.witness, opts...),
		tagging.WithHooks(tagging.Hooks{Witnessed: func(_ *reliable.Withheld, fate reliable.Fate) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.witnessed[fate]++
		}}))
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.outbox.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		assert.NoError(t, <-done)
		_ = s.broker.Close()
	})
	synctest.Wait()
	return s
}

// fails lets operations of a store fail from now on; no operations heal it.
func (s *shop) fails(of map[memstore.Op]memstore.Fault, fault memstore.Fault, ops ...memstore.Op) {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(of)
	for _, op := range ops {
		of[op] = fault
	}
}

// place writes a business row and its message.
func (s *shop) place(ctx context.Context, id string) error {
	return tagging.InTx(ctx, s.outbox.Elsewhere("shop"), nil, func(tx *memstore.Tx, out *tagging.Scope) error {
		if err := tx.Put(id, "placed"); err != nil {
			return err
		}
		return out.Send(envelope(id))
	})
}

func (s *shop) record(id reliable.ID) *reliable.Record {
	s.t.Helper()
	records, err := s.store.Lookup(s.t.Context(), id)
	require.NoError(s.t, err)
	if len(records) == 0 {
		return nil
	}
	return &records[0]
}

func (s *shop) withheld() (n int) {
	s.t.Helper()
	stats, err := s.store.Stats(s.t.Context())
	require.NoError(s.t, err)
	for _, topic := range stats {
		n += topic.Withheld
	}
	return n
}

func (s *shop) delivered() map[string]int {
	copies := make(map[string]int)
	for _, message := range s.broker.Delivered("orders") {
		copies[string(message.ID)]++
	}
	return copies
}

func (s *shop) asked(fate reliable.Fate) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.witnessed[fate]
}

var errAway = errors.New("away")

func TestElsewhere_withholdsBeforeTheCommitAndSendsFromMemoryAfterIt(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		s := newShop(t)
		require.NoError(t, tagging.InTx(t.Context(), s.outbox.Elsewhere("shop"), nil, func(tx *memstore.Tx, out *tagging.Scope) error {
			require.NoError(t, tx.Put("order-1", "placed"))
			require.Error(t, out.Nested(func(out *tagging.Scope) error {
				require.NoError(t, out.Send(envelope("taken back")))
				return errAway
			}))
			return out.Send(envelope("a"), envelope("b"))
		}))
		after(30 * time.Millisecond)
		assert.Equal(t, map[string]int{"a": 1, "b": 1}, s.delivered())
		assert.Equal(t, reliable.Confirmed, s.record("a").Status)
		assert.Zero(t, s.withheld())
		_, placed := s.business.Business("order-1")
		assert.True(t, placed)
		after(3 * askAfter)
		assert.Empty(t, s.witnessed, "nobody is asked about what went well")
	})
}

func TestElsewhere_whatRollsBackIsNotSent(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		s := newShop(t)
		require.ErrorIs(t, tagging.InTx(t.Context(), s.outbox.Elsewhere("shop"), nil, func(_ *memstore.Tx, out *tagging.Scope) error {
			require.NoError(t, out.Send(envelope("a")))
			return errAway
		}), errAway)
		assert.Nil(t, s.record("a"), "it was never stored")

		s.fails(s.businessFault, memstore.Fault{Before: errAway}, memstore.OpCommit)
		require.ErrorIs(t, s.place(t.Context(), "b"), reliable.ErrNotStored)
		synctest.Wait()
		assert.Nil(t, s.record("b"), "withheld, and taken back at once")
		after(3 * askAfter)
		assert.Empty(t, s.delivered())
		assert.Empty(t, s.witnessed)
	})
}

func TestElsewhere_whatCannotBeWithheldDoesNotCommit(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		s := newShop(t)
		for name, fault := range map[string]memstore.Fault{"refused": {Before: errAway}, "answer lost": {After: errAway}} {
			s.fails(s.outboxFault, fault, memstore.OpWithhold)
			err := s.place(t.Context(), name)
			require.ErrorIs(t, err, reliable.ErrNotStored, name)
			require.NotErrorIs(t, err, reliable.ErrUnknown, "the transaction certainly did not commit")
			_, placed := s.business.Business(name)
			assert.False(t, placed, name)
		}
		assert.Equal(t, 1, s.withheld(), "the one whose answer was lost")
		s.fails(s.outboxFault, memstore.Fault{})
		after(2 * askAfter)
		assert.Zero(t, s.withheld())
		assert.Empty(t, s.delivered())
		assert.Equal(t, 1, s.asked(reliable.FateAborted))
	})
}

func TestElsewhere_theWitnessDecidesWhatACrashLeftBehind(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		s := newShop(t)
		s.fails(s.outboxFault, memstore.Fault{Before: errAway}, memstore.OpResolve) // dead before the release
		require.NoError(t, s.place(t.Context(), "committed"), "its message is stored, and will be sent")
		s.fails(s.businessFault, memstore.Fault{After: errAway}, memstore.OpCommit)
		require.ErrorIs(t, s.place(t.Context(), "answer lost"), reliable.ErrUnknown)
		s.fails(s.businessFault, memstore.Fault{Before: errAway}, memstore.OpCommit)
		require.ErrorIs(t, s.place(t.Context(), "aborted"), reliable.ErrNotStored)
		s.fails(s.businessFault, memstore.Fault{})
		s.fails(s.outboxFault, memstore.Fault{})
		after(askAfter / 2)
		assert.Empty(t, s.delivered())
		assert.Equal(t, 3, s.withheld())
		after(askAfter)
		assert.Equal(t, map[string]int{"committed": 1, "answer lost": 1}, s.delivered())
		assert.Nil(t, s.record("aborted"))
		assert.Equal(t, 2, s.asked(reliable.FateCommitted))
		assert.Equal(t, 1, s.asked(reliable.FateAborted))
	})
}

// pausing lets a transaction stand still before its COMMIT.
type pausing struct {
	*memstore.Store
	before func()
}

func (p pausing) Begin(ctx context.Context, db any) (reliable.Tx, error) {
	tx, err := p.Store.Begin(ctx, db)
	return pausingTx{tx, p.before}, err
}

type pausingTx struct {
	reliable.Tx
	before func()
}

func (tx pausingTx) Commit(ctx context.Context) error {
	tx.before()
	return tx.Tx.Commit(ctx)
}

func TestElsewhere_whatIsStillOpenIsNeitherSentNorDropped(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		s := newShop(t)
		slow, err := tagging.NewSender(s.store, tagging.WithElsewhere("shop",
			pausing{s.business, func() { time.Sleep(5*askAfter + askAfter/2) }}, s.witness))
		require.NoError(t, err)
		done := make(chan error, 1)
		go func() {
			done <- tagging.InTx(t.Context(), slow.Elsewhere("shop"), nil, func(tx *memstore.Tx, out *tagging.Scope) error {
				return errors.Join(tx.Put("a", "placed"), out.Send(envelope("a")))
			})
		}()
		after(5 * askAfter)
		assert.Empty(t, s.delivered())
		assert.True(t, s.record("a").Withheld)
		assert.GreaterOrEqual(t, s.asked(reliable.FateOpen), 3)
		after(askAfter)
		require.NoError(t, <-done)
		after(time.Second)
		assert.Equal(t, map[string]int{"a": 1}, s.delivered())
	})
}

func TestElsewhere_theWitnessThatCannotBeAskedIsAskedAgain(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		s := newShop(t)
		s.fails(s.outboxFault, memstore.Fault{Before: errAway}, memstore.OpResolve)
		require.NoError(t, s.place(t.Context(), "a"))
		s.fails(s.outboxFault, memstore.Fault{})
		s.fails(s.businessFault, memstore.Fault{Before: errAway}, memstore.OpAsk)
		after(time.Hour)
		assert.True(t, s.record("a").Withheld, "an outage decides nothing")
		s.fails(s.businessFault, memstore.Fault{})
		after(2 * askAfter)
		assert.Equal(t, map[string]int{"a": 1}, s.delivered())
	})
}

// clueless is a witness that cannot tell.
type clueless struct{ reliable.Witness }

func (clueless) Ask(context.Context, reliable.ID, reliable.Token) (reliable.Fate, error) {
	return reliable.FateUnknowable, nil
}

func TestElsewhere_whatNobodyCanTellIsForPeopleUnlessItIsToBeSent(t *testing.T) {
	for name, opts := range map[string][]tagging.ElsewhereOption{"failed": nil, "sent": {tagging.SendWhatNobodyCanTell()}} {
		t.Run(name, func(t *testing.T) {
			virtualtime.Test(t, func(t *testing.T) {
				s := newShop(t)
				other, err := tagging.New(s.store, s.broker, s.broker, tagging.WithLogger(slog.New(slog.DiscardHandler)),
					tagging.WithElsewhere("museum", s.business, clueless{s.witness}, opts...))
				require.NoError(t, err)
				s.fails(s.outboxFault, memstore.Fault{Before: errAway}, memstore.OpResolve)
				require.NoError(t, tagging.InTx(t.Context(), other.Elsewhere("museum"), nil, func(_ *memstore.Tx, out *tagging.Scope) error {
					return out.Send(envelope("a"))
				}))
				s.fails(s.outboxFault, memstore.Fault{})
				after(2 * askAfter)
				require.True(t, s.record("a").Withheld, "a witness is asked about what is its own only")
				_, err = other.SweepOnce(t.Context())
				require.NoError(t, err)
				after(time.Second)
				if name == "sent" {
					assert.Equal(t, map[string]int{"a": 1}, s.delivered())
					return
				}
				assert.Empty(t, s.delivered())
				record := s.record("a")
				assert.Equal(t, reliable.Failed, record.Status)
				assert.Contains(t, record.History[0].Reason, "the witness of museum cannot tell")
				_, err = s.store.Decide(t.Context(), reliable.Decision{
					Action: reliable.Requeue, IDs: []reliable.ID{"a"}, Who: "ann", Why: "the order is there",
				})
				require.NoError(t, err)
				after(time.Second)
				assert.Equal(t, map[string]int{"a": 1}, s.delivered())
			})
		})
	}
}

func TestElsewhere_manyCallersShareStatements(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		s := newShop(t)
		s.fails(s.outboxFault, memstore.Fault{Delay: 10 * time.Millisecond}, memstore.OpWithhold, memstore.OpResolve)
		began := time.Now()
		var group sync.WaitGroup
		for i := range 100 {
			group.Go(func() {
				assert.NoError(t, s.place(t.Context(), "order-"+string(rune('a'+i%26))+string(rune('a'+i/26))))
			})
		}
		group.Wait()
		assert.LessOrEqual(t, time.Since(began), 200*time.Millisecond, "one by one it would be a second or more")
		after(time.Second)
		assert.Len(t, s.delivered(), 100)
		assert.Zero(t, s.withheld())
	})
}

func TestElsewhere_aBadMessageOfOneCallerIsNotTheOthers(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		s := newShop(t)
		other := envelope("a")
		other.Payload = []byte("another")
		stored(t, s.store, other)
		s.fails(s.outboxFault, memstore.Fault{Delay: 10 * time.Millisecond}, memstore.OpWithhold)
		errs := make(map[string]error)
		var mu sync.Mutex
		var group sync.WaitGroup
		for _, id := range []string{"x", "y", "a", "b", "c"} {
			group.Go(func() {
				err := s.place(t.Context(), id)
				mu.Lock()
				defer mu.Unlock()
				errs[id] = err
			})
		}
		group.Wait()
		require.ErrorIs(t, errs["a"], reliable.ErrConflict)
		delete(errs, "a")
		for id, err := range errs {
			assert.NoError(t, err, id)
		}
		_, placed := s.business.Business("a")
		assert.False(t, placed)
	})
}

func TestElsewhere_optionsAreCheckedTogether(t *testing.T) {
	store := memstore.New()
	witness, err := store.MarkerWitness(time.Hour)
	require.NoError(t, err)
	_, err = tagging.NewSender(store, tagging.WithElsewhere("", store, witness), tagging.WithElsewhere("b", nil, nil),
		tagging.WithElsewhere("c", store, witness), tagging.WithElsewhere("c", store, witness, tagging.AskAfter(0)))
	require.ErrorIs(t, err, reliable.ErrInvalid)
	for _, problem := range []string{"printable ASCII", "neither may be nil", "given twice", "AskAfter"} {
		require.ErrorContains(t, err, problem)
	}
	sender, err := tagging.NewSender(store)
	require.NoError(t, err)
	err = tagging.InTx(t.Context(), sender.Elsewhere("shop"), nil, func(*memstore.Tx, *tagging.Scope) error { return nil })
	require.ErrorIs(t, err, reliable.ErrInvalid)
	require.ErrorContains(t, err, `pass WithElsewhere("shop", ...)`)
}
