package delayedcheck

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/waybillmq/waybill/reliable"
)

// Position says how far a [Source] was read; only the source knows what it means. Empty is its beginning.
type Position string

// Row is a business row that calls for a message.
type Row struct {
	// Position is where the row stands: reading after it gives the rows behind it.
	Position Position
	// Age is how long ago the row was written, on its database's clock.
	Age time.Duration
	// ID is the message's.
	ID reliable.ID
	// Groups are the consumer groups that must have processed it.
	Groups []string
}

// Source reads the business rows that call for messages, "the orders since T", and makes their messages anew.
type Source interface {
	// Rows returns the rows after a position that are at least minAge old, at most limit, in the order of their positions;
	// none means that there are no more. Positions of rows are given when they are written (a time, a sequence), so a row
	// may become visible after one behind it.
	Rows(ctx context.Context, after Position, minAge time.Duration, limit int) ([]Row, error)
	// Message returns the message of a row, and false if the row is gone or calls for none any more.
	Message(ctx context.Context, id reliable.ID) (reliable.Envelope, bool, error)
}

// Reconciler compares business rows with the confirms in the ledger and has sent again what no group, or not every one, has
// processed: it finds even what every broker lost. Nothing needs it for the guarantee; it is for those who want proof.
//
// It keeps nothing between passes, reads at most a page at a time, and is safe for concurrent use: two passes at a time only
// send more copies.
type Reconciler struct {
	source Source
	ledger reliable.Confirmations
	send   func(context.Context, ...reliable.Envelope) error
	reconcilerOptions
}

type reconcilerOptions struct {
	minAge      time.Duration
	transaction time.Duration
	page        int
	logger      *slog.Logger
}

// ReconcilerOption configures a [Reconciler].
type ReconcilerOption func(*reconcilerOptions)

// WithMinAge leaves rows alone until they are so old. Default 1 hour. Choose more than the check's delay and what a resend
// and the consumers need then: what is younger has a check that looks after it. Shorter sends copies that nobody needs.
func WithMinAge(age time.Duration) ReconcilerOption {
	return func(o *reconcilerOptions) { o.minAge = age }
}

// WithLongestTransaction says for how long a business transaction can be open after it wrote its row. Default 24 hours. A
// pass begins so far before the end of the one before it, because such a row becomes visible behind others; one whose
// transaction was open for longer may be missed.
func WithLongestTransaction(longest time.Duration) ReconcilerOption {
	return func(o *reconcilerOptions) { o.transaction = longest }
}

// WithPage sets how many rows are compared at a time, 1 to [reliable.MaxProcessed]. Default 500.
func WithPage(rows int) ReconcilerOption {
	return func(o *reconcilerOptions) { o.page = rows }
}

// WithReconcilerLogger sets where what is missing is logged, at Warn. Default [slog.Default].
func WithReconcilerLogger(logger *slog.Logger) ReconcilerOption {
	return func(o *reconcilerOptions) { o.logger = logger }
}

// NewReconciler returns a reconciler of source with ledger, a store that has the ability [reliable.Confirmations]. send sends
// a message again: [Sender.Publish], which gives it a check of its own, or what puts it in an outbox. What is wrong is
// reported together, as errors that are [reliable.ErrInvalid].
func NewReconciler(
	source Source, ledger any, send func(context.Context, ...reliable.Envelope) error, opts ...ReconcilerOption,
) (*Reconciler, error) {
	r := &Reconciler{source: source, send: send, reconcilerOptions: reconcilerOptions{
		minAge: time.Hour, transaction: 24 * time.Hour, page: 500, logger: slog.Default(),
	}}
	for _, opt := range opts {
		opt(&r.reconcilerOptions)
	}
	var able bool
	r.ledger, able = reliable.Ability[reliable.Confirmations](ledger)
	var problems []error
	for _, problem := range []struct {
		wrong       bool
		field, text string
	}{
		{source == nil, "source", "is nil"},
		{!able, "ledger", "must be a store that keeps processed confirms (reliable.Confirmations)"},
		{send == nil, "send", "is nil; give Sender.Publish"},
		{r.minAge < 0, "WithMinAge", "must not be negative"},
		{r.transaction < 0, "WithLongestTransaction", "must not be negative"},
		{r.page < 1 || r.page > reliable.MaxProcessed, "WithPage", fmt.Sprintf("must lie between 1 and %d", reliable.MaxProcessed)},
		{r.logger == nil, "WithReconcilerLogger", "is nil; leave it out for the default"},
	} {
		if problem.wrong {
			problems = append(problems, reliable.Invalid(problem.field, "%s", problem.text))
		}
	}
	if err := errors.Join(problems...); err != nil {
		return nil, fmt.Errorf("delayedcheck: new reconciler: %w", err)
	}
	return r, nil
}

// Report is what a pass found.
type Report struct {
	// Next is where the next pass begins; keep it. It lies before the end of this one, see [WithLongestTransaction].
	Next Position
	// Rows is how many were compared, Processed how many of them every group had processed.
	Rows, Processed int
	// Resent is how many messages were sent again.
	Resent int
	// Gone is how many rows called for no message any more when they were looked at again.
	Gone int
}

// Pass compares every row after from that is old enough, and sends again what is missing. It ends at the first error, and
// with ctx; the report holds also then, and a pass from its Next goes on where this one ended.
func (r *Reconciler) Pass(ctx context.Context, from Position) (Report, error) {
	report := Report{Next: from}
	settled := true // every row so far is too old for another one to become visible before it
	for at := from; ; {
		rows, err := r.source.Rows(ctx, at, r.minAge, r.page)
		if err != nil {
			return report, fmt.Errorf("delayedcheck: read business rows: %w", err)
		}
		if len(rows) == 0 {
			return report, nil
		}
		if err := r.compare(ctx, rows, &report); err != nil {
			return report, err
		}
		for _, row := range rows {
			settled = settled && row.Age >= r.transaction
			if settled {
				report.Next = row.Position
			}
		}
		if last := rows[len(rows)-1].Position; last != at {
			at = last
			continue
		}
		return report, fmt.Errorf("delayedcheck: read business rows: %w",
			reliable.Invalid("source", "returned rows that end where they were to begin; it must return those behind the position"))
	}
}

func (r *Reconciler) compare(ctx context.Context, rows []Row, report *Report) error {
	ids := make([]reliable.ID, len(rows))
	for i, row := range rows {
		ids[i] = row.ID
	}
	processed, err := r.ledger.ProcessedBy(ctx, ids...)
	if err != nil {
		return fmt.Errorf("delayedcheck: compare with the ledger: %w", err)
	}
	report.Rows += len(rows)
	for _, row := range rows {
		if containsAll(processed[row.ID], row.Groups) {
			report.Processed++
			continue
		}
		if err := r.resend(ctx, row, report); err != nil {
			return err
		}
	}
	return nil
}

func (r *Reconciler) resend(ctx context.Context, row Row, report *Report) error {
	message, wanted, err := r.source.Message(ctx, row.ID)
	switch {
	case err != nil:
		return fmt.Errorf("delayedcheck: read the message of a business row: %w", err)
	case !wanted:
		report.Gone++
		return nil
	case message.ID != row.ID:
		return fmt.Errorf("delayedcheck: read the message of a business row: %w",
			reliable.Invalid("source", "returned message %q for row %q; both must have one ID", message.ID, row.ID))
	}
	if err := r.send(ctx, message); err != nil {
		return fmt.Errorf("delayedcheck: send what was not processed: %w", err)
	}
	report.Resent++
	r.logger.Warn("message was not processed, sent again by reconciliation",
		slog.String("id", string(row.ID)), slog.String("topic", message.Topic), slog.Duration("age", row.Age))
	return nil
}

// containsAll reports whether every group that is waited for has processed; none to wait for is never processed.
func containsAll(processed, groups []string) bool {
	for _, group := range groups {
		if !slices.Contains(processed, group) {
			return false
		}
	}
	return len(groups) > 0
}
