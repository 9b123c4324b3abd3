package sqlbroker

import (
	"context"
	"errors"
	"fmt"

	"github.com/waybillmq/waybill/reliable"
)

// verdict says what an error means to the attempts that a transaction was to store. Only what the server says about them
// or their table is a refusal; whatever else happened is Unknown, which is not charged to them.
func (b *Broker) verdict(ctx context.Context, topic string, err error) (reliable.Outcome, error) {
	told := b.told(err)
	if errors.Is(err, errUnsent) {
		return reliable.Unknown, fmt.Errorf("sqlbroker: %w", told)
	}
	table := b.tables.messages(topic)
	switch b.classify(err) {
	case nowhere:
		return reliable.Returned, fmt.Errorf("sqlbroker: table %s is missing, not one of this package, or closed to this user: "+
			"call Declare, or grant INSERT: %w", table, told)
	case full:
		return reliable.Nacked, fmt.Errorf("sqlbroker: no room is left for table %s: %w", table, told)
	case unfit:
		return reliable.Rejected, fmt.Errorf("sqlbroker: the message does not fit into table %s: %w", table, told)
	case stopped:
		return reliable.Unknown, fmt.Errorf("sqlbroker: stored nothing in table %s: %w", table, told)
	case lost:
	}
	b.unreachable(told)
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return reliable.Unknown, fmt.Errorf("sqlbroker: the transaction did not end within %v: %w", b.confirmTimeout, told)
	}
	return reliable.Unknown, fmt.Errorf("sqlbroker: %w: %w", reliable.ErrConnectionLost, told)
}

// classify says what an error means to a batch.
func (b *Broker) classify(err error) class {
	c, _ := b.dialect.classify(err)
	if _, ok := errors.AsType[*storeError](err); ok && c != lost {
		return stopped
	}
	return c
}

// databaseError is what a server said. Its text leaves out the server's own words, which may quote values, users and
// statements; the cause has them.
type databaseError struct {
	text  string
	cause error
}

func (e *databaseError) Error() string { return e.text }

func (e *databaseError) Unwrap() error { return e.cause }

// told makes an error fit to be logged.
func (b *Broker) told(err error) error {
	if _, name := b.dialect.classify(err); name != "" {
		return &databaseError{text: name, cause: err}
	}
	return err
}
