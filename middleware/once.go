package middleware

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/waybillmq/waybill/reliable"
)

// Once returns a handler whose effect happens once for each message, however often it is delivered: effectively once, as
// long as the effect is in the transaction that h is given, and the inbox keeps the entry for longer than copies can come.
//
//	handle, err := middleware.Once(store, db, "billing", func(ctx context.Context, tx *sql.Tx, msg *message.Message) error {
//		_, err := tx.ExecContext(ctx, "INSERT INTO invoices ...")
//		return err
//	})
//
// store is a [reliable.Transactor] and a [reliable.Inbox], as every store of Waybill is; db is the handle that the business
// uses, nil for the store's own; T is what it begins: *sql.Tx, or pgx.Tx. A message is known by its UUID, in a group by
// itself: another group works on it as well. A repeat is acked without a call of h.
//
// The message is acked only after the COMMIT. An error of h rolls everything back and is returned as it is. That the
// database cannot be used, or that the answer to a COMMIT was cut off, is no fault of the message: it is a [Postpone]; the
// next delivery finds out whether it had committed. A message whose UUID no inbox can keep is [Permanent].
func Once[T any](
	store, db any, group string, h func(ctx context.Context, tx T, msg *message.Message) error,
) (message.NoPublishHandlerFunc, error) {
	o := once[T]{db: db, group: group, handler: h}
	var hasTx, hasInbox bool
	o.transactor, hasTx = reliable.Ability[reliable.Transactor](store)
	o.inbox, hasInbox = reliable.Ability[reliable.Inbox](store)
	var problems []error
	if !hasTx || !hasInbox {
		problems = append(problems, reliable.Invalid("store", "is a %T, must be a reliable.Transactor and a reliable.Inbox", store))
	}
	probe := reliable.Processed{ID: "id", Group: group}
	if err := probe.Check(); err != nil {
		problems = append(problems, err)
	}
	if h == nil {
		problems = append(problems, reliable.Invalid("handler", "is nil"))
	}
	if err := errors.Join(problems...); err != nil {
		return nil, fmt.Errorf("middleware: once: %w", err)
	}
	return o.handle, nil
}

type once[T any] struct {
	transactor reliable.Transactor
	inbox      reliable.Inbox
	db         any
	group      string
	handler    func(ctx context.Context, tx T, msg *message.Message) error
}

func (o *once[T]) handle(msg *message.Message) error {
	ctx := msg.Context()
	tx, err := o.transactor.Begin(ctx, o.db)
	if err != nil {
		return Postpone(fmt.Errorf("middleware: once: %w", err))
	}
	// After COMMIT this does nothing; it also ends the transaction of a handler that panicked.
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()

	native, ok := tx.Native().(T)
	if !ok {
		return Postpone(fmt.Errorf("middleware: once: %w", reliable.Invalid("handler",
			"takes a %v, but the transaction on this db is a %T", reflect.TypeFor[T](), tx.Native())))
	}
	first, err := o.inbox.Receive(ctx, tx.Native(), o.group, reliable.ID(msg.UUID))
	switch {
	case errors.Is(err, reliable.ErrInvalid):
		return Permanent(fmt.Errorf("middleware: once: %w", err))
	case err != nil:
		return Postpone(fmt.Errorf("middleware: once: %w", err))
	case !first:
		return nil
	}
	if err := o.handler(ctx, native, msg); err != nil {
		return err
	}
	if err := tx.Commit(ctx); err != nil {
		return Postpone(fmt.Errorf("middleware: once: %w", err))
	}
	return nil
}

const (
	purgeEvery = time.Minute
	purgeBatch = 1000
	// purgeTerm is how long the process that deletes keeps that office.
	purgeTerm = 3 * purgeEvery
)

// KeepInbox deletes entries of store's inbox that are older than age, once a minute and in small batches, until ctx ends;
// where the store can elect ([reliable.Elector]) one process of the fleet does it. worker names this process there. age must
// be longer than copies of a message can come: the sender's retention and the longest outage survived, replays from a poison
// topic included.
//
// It returns at once with an error that is [reliable.ErrInvalid] if it can do nothing; otherwise with ctx's error. That the
// store cannot be used now is logged, and tried again.
func KeepInbox(ctx context.Context, store any, worker string, age time.Duration, logger *slog.Logger) error {
	inbox, ok := reliable.Ability[reliable.Inbox](store)
	switch {
	case !ok:
		return fmt.Errorf("middleware: keep inbox: %w", reliable.Invalid("store", "is a %T, must be a reliable.Inbox", store))
	case age < purgeEvery:
		return fmt.Errorf("middleware: keep inbox: %w", reliable.Invalid("age", "is %v, must be at least %v", age, purgeEvery))
	case logger == nil:
		return fmt.Errorf("middleware: keep inbox: %w", reliable.Invalid("logger", "is nil"))
	}
	elector, _ := reliable.Ability[reliable.Elector](store)
	tick := time.NewTicker(purgeEvery)
	defer tick.Stop()
	for {
		if err := purgeInbox(ctx, inbox, elector, worker, age); err != nil && ctx.Err() == nil {
			logger.WarnContext(ctx, "the inbox could not be purged, will try again", "error", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func purgeInbox(ctx context.Context, inbox reliable.Inbox, elector reliable.Elector, worker string, age time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, purgeTerm/2)
	defer cancel()
	if elector != nil {
		elected, err := elector.Elect(ctx, "inbox", worker, purgeTerm)
		if err != nil || !elected {
			return err
		}
	}
	for {
		n, err := inbox.PurgeInbox(ctx, age, purgeBatch)
		if err != nil || n < purgeBatch {
			return err
		}
	}
}
