package tagging

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/waybillmq/waybill/reliable"
)

// Sender stores messages. A process that relays as well uses the Sender inside an [Outbox]; one that only stores makes its
// own with [NewSender]. It is safe for concurrent use, starts nothing and needs no Close.
type Sender struct {
	cfg        config
	store      reliable.Store
	transactor reliable.Transactor // nil if the store has no transactions
	waker      reliable.Waker      // nil if the store has no wake-ups
	portioned  reliable.Portioned  // nil if any number of rows is as good as another
	relay      relay               // nil in a process that only stores
	group      *group
	alarm      *alarm
	receipts   *receipts
}

// relay is what a Sender needs of the engine beside it: places in memory, and to be handed what was leased into them.
type relay interface {
	Running() bool
	Reserve(ctx context.Context, n, size int) bool
	TryReserve(n, size int) bool
	Unreserve(n, size int)
	Submit(attempts []reliable.Attempt, leasedAt time.Time, reservedN, reservedBytes int)
	Kick()
	Await()
}

// NewSender returns a Sender for a process that only stores: the relay of another process sends. Of the options only those
// about storing have an effect.
func NewSender(store reliable.Store, opts ...Option) (*Sender, error) {
	cfg, err := newConfig(opts, store, nil)
	if err != nil {
		return nil, err
	}
	return newSender(cfg, store, nil), nil
}

func newSender(cfg config, store reliable.Store, relay relay) *Sender {
	s := &Sender{cfg: cfg, store: store, relay: relay, receipts: newReceipts(store, relay, cfg.storeTimeout)}
	s.transactor, _ = reliable.Ability[reliable.Transactor](store)
	s.waker, _ = reliable.Ability[reliable.Waker](store)
	s.portioned, _ = reliable.Ability[reliable.Portioned](store)
	s.group, s.alarm = newGroup(s), &alarm{s: s}
	for _, e := range cfg.elsewhere {
		e.bind(s)
	}
	return s
}

// Transactional is what [InTx] works on: a [*Sender] or an [*Outbox], or their [Elsewhere] for business data in another
// database.
type Transactional interface {
	sender() *Sender
	begin(ctx context.Context, db any) (reliable.Tx, error)
	commit(ctx context.Context, tx reliable.Tx, envs []reliable.Envelope) error
}

func (s *Sender) sender() *Sender { return s }

// Send stores messages in tx, a transaction that the caller began and ends: a *sql.Tx, a pgx.Tx, or that of GORM, sqlx, ent
// or bun. They are sent if it commits, by the relay, which looks within its poll interval; call [Sender.Wake] after COMMIT
// to make that at once. Messages of a savepoint that is rolled back are not sent. It returns the IDs, in order.
//
// An error means that nothing was stored by this call, and the transaction should be rolled back.
func (s *Sender) Send(ctx context.Context, tx any, envs ...reliable.Envelope) ([]reliable.ID, error) {
	enqueuer, err := s.bind(tx)
	if err != nil {
		return nil, err
	}
	prepared, err := s.prepare(ctx, envs)
	if err != nil || len(prepared) == 0 {
		return nil, err
	}
	if _, err := enqueuer.Enqueue(ctx, reliable.EnqueueRequest{Worker: s.cfg.worker}, prepared...); err != nil {
		return nil, notStored(err)
	}
	return idsOf(prepared), nil
}

func (s *Sender) bind(tx any) (reliable.Enqueuer, error) {
	if s.transactor == nil {
		return nil, reliable.Invalid("store", "has no transactions; use Publish")
	}
	return s.transactor.Bind(tx)
}

// Wake tells relays, here and elsewhere, that something was stored: call it after the commit of a transaction in which
// [Sender.Send] was used. It costs one statement where the store has wake-ups across processes, and may be left out: then
// messages wait for the poll interval.
func (s *Sender) Wake(ctx context.Context) error {
	if s.relay != nil {
		s.relay.Kick()
	}
	if s.waker == nil {
		return nil
	}
	return s.waker.Wake(ctx)
}

// Publisher returns Watermill's publisher bound to tx: what it publishes is stored in tx, as by [Sender.Send], so that
// existing code and Watermill's CQRS work inside a business transaction. Its Close does nothing.
func (s *Sender) Publisher(ctx context.Context, tx any) (message.Publisher, error) {
	enqueuer, err := s.bind(tx)
	if err != nil {
		return nil, err
	}
	return publisherFunc(func(envs []reliable.Envelope) error {
		prepared, err := s.prepare(ctx, envs)
		if err != nil {
			return err
		}
		_, err = enqueuer.Enqueue(ctx, reliable.EnqueueRequest{Worker: s.cfg.worker}, prepared...)
		return notStored(err)
	}), nil
}

// publisherFunc is Watermill's publisher over a function that stores.
type publisherFunc func(envs []reliable.Envelope) error

func (f publisherFunc) Publish(topic string, messages ...*message.Message) error {
	if len(messages) == 0 {
		return nil
	}
	envs := make([]reliable.Envelope, len(messages))
	for i, msg := range messages {
		envs[i] = reliable.EnvelopeOf(topic, msg)
	}
	return f(envs)
}

func (publisherFunc) Close() error { return nil }

// prepare returns copies of envs with IDs and captured metadata, after checking each.
func (s *Sender) prepare(ctx context.Context, envs []reliable.Envelope) ([]reliable.Envelope, error) {
	return s.prepareInto(ctx, nil, envs)
}

// prepareInto is prepare with room that may be enough.
func (s *Sender) prepareInto(ctx context.Context, room, envs []reliable.Envelope) ([]reliable.Envelope, error) {
	prepared := append(room, envs...) //nolint:gocritic // room is empty
	var captured map[string]string
	if s.cfg.capture != nil {
		captured = s.cfg.capture(ctx)
	}
	for i := range envs {
		env := &prepared[i]
		if env.ID == "" {
			env.ID = reliable.NewID()
		}
		if len(captured) > 0 {
			env.Metadata = withCaptured(env.Metadata, captured)
		}
		if err := s.cfg.limits.Check(env); err != nil {
			return nil, fmt.Errorf("tagging: message %d of %d: %w", i+1, len(envs), err)
		}
	}
	return prepared, nil
}

// withCaptured adds what the message does not say itself.
func withCaptured(metadata, captured map[string]string) map[string]string {
	all := make(map[string]string, len(metadata)+len(captured))
	maps.Copy(all, captured)
	maps.Copy(all, metadata)
	return all
}

func idsOf(envs []reliable.Envelope) []reliable.ID {
	ids := make([]reliable.ID, len(envs))
	for i := range envs {
		ids[i] = envs[i].ID
	}
	return ids
}

// notStored makes any error of an Enqueue one of the four that callers tell apart.
func notStored(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, reliable.ErrNotStored), errors.Is(err, reliable.ErrUnknown),
		errors.Is(err, reliable.ErrInvalid), errors.Is(err, reliable.ErrConflict):
		return fmt.Errorf("tagging: %w", err)
	}
	return reliable.NotStored("tagging", err)
}

// leased collects the attempts that an Enqueue leased to this process.
func leased(stored []reliable.Stored) (attempts []reliable.Attempt, all bool) {
	all = true
	attempts = make([]reliable.Attempt, 0, len(stored))
	for i := range stored {
		switch {
		case stored[i].Leased:
			attempts = append(attempts, stored[i].Attempt)
		case stored[i].New:
			all = false
		}
	}
	return attempts, all
}

func totalSize(envs []reliable.Envelope) (size int) {
	for i := range envs {
		size += envs[i].Size()
	}
	return size
}
