package delayedcheck

import (
	"context"
	"fmt"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/waybillmq/waybill/reliable"
)

// Direct returns a [Resender] that needs no producer: the callback service asks the witness itself, and sends the message
// that the check carries. It is for producers that may be gone for good, and only for a witness that this process can reach:
// one made over the producer's own database.
//
// publisher must return nil only for what the broker has confirmed, as those of Waybill's adapters do.
func Direct(publisher message.Publisher, witness reliable.Witness) (Resender, error) {
	if publisher == nil || witness == nil {
		return nil, fmt.Errorf("delayedcheck: direct: %w", reliable.Invalid("publisher and witness",
			"must not be nil: without a witness nobody knows whether the transaction committed"))
	}
	return &direct{publisher, witness}, nil
}

type direct struct {
	publisher message.Publisher
	witness   reliable.Witness
}

func (d *direct) Resend(ctx context.Context, check Check) (Answer, error) {
	fate, err := d.witness.Ask(ctx, check.Message.ID, check.Token)
	if err != nil {
		return Unknowable, fmt.Errorf("delayedcheck: ask the witness: %w", err)
	}
	switch fate {
	case reliable.FateOpen:
		return StillOpen, nil
	case reliable.FateAborted:
		return Aborted, nil
	case reliable.FateCommitted:
		if err := publishWithin(ctx, d.publisher, &check); err != nil {
			return Unknowable, fmt.Errorf("delayedcheck: send again: %w", err)
		}
		return Resent, nil
	case reliable.FateUnknowable:
	}
	return Unknowable, nil
}

// publishWithin sends the message of a check again, as a copy made on purpose. Watermill's publisher takes no context of
// the call: this returns when ctx ends, although the message may still be sent then.
func publishWithin(ctx context.Context, publisher message.Publisher, check *Check) error {
	msg := check.Message.Message()
	msg.Metadata[reliable.HeaderCopy] = fmt.Sprintf("resend-%d", check.Round)
	msg.SetContext(ctx)
	done := make(chan error, 1)
	go func() { done <- publisher.Publish(check.Message.Topic, msg) }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}
