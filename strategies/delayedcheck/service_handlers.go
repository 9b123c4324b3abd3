package delayedcheck

import (
	"context"
	"errors"
	"fmt"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/waybillmq/waybill/reliable"
)

// Processed is the handler of the topic of processed confirms, for a Watermill router. It returns nil, which acks the
// message, once the ledger has stored its confirms; concurrent calls share statements. It needs no [Service.Run].
//
// What is no processed confirm is an error that is [reliable.ErrInvalid], and trying again does not change it: tell the
// router's poison middleware so. Any other error means that the ledger is away: the message comes again.
func (s *Service) Processed(msg *message.Message) error {
	confirms, err := reliable.ProcessedOf(msg)
	if err != nil {
		return s.refuse("processed confirm", err)
	}
	one := &storing{confirms: confirms}
	s.storing.call(one)
	if one.err != nil {
		return fmt.Errorf("delayedcheck: store processed confirms: %w", one.err)
	}
	s.counts.confirms.Add(uint64(len(confirms)))
	if s.cfg.hooks.Confirmed != nil {
		s.cfg.hooks.Confirmed(confirms)
	}
	return nil
}

// storing is one message of confirms on its way to the ledger.
type storing struct {
	confirms []reliable.Processed
	err      error
}

func (s *Service) storeProcessed(batch []*storing) {
	var all []reliable.Processed
	for _, one := range batch {
		all = append(all, one.confirms...)
	}
	ctx, cancel := context.WithTimeout(context.Background(), s.cfg.ledgerTimeout)
	defer cancel()
	err := s.confirmations.StoreProcessed(ctx, all...)
	for _, one := range batch {
		one.err = err
	}
}

// Checks is the handler of the topic of checks that are due, for a Watermill router. It returns nil, which acks the check,
// only after a durable decision: every group has confirmed, or a resend request is stored in the ledger, on which
// [Service.Run] works, here or in another process. Concurrent calls share statements. A check that a [TopicScheduler] sent is
// not due yet: unless every group has confirmed already, its request waits in the ledger until it is.
//
// Errors are those of [Service.Processed]; a check that the ledger cannot hold, because it is too large, is
// [reliable.ErrInvalid] too.
func (s *Service) Checks(msg *message.Message) error {
	check, err := CheckOf(msg)
	if err != nil {
		return s.refuse("check", err)
	}
	one := &asking{waits: awaiting{check.Message.ID, check.Groups}}
	delay, _, err := postponed(msg)
	if err == nil {
		one.request, err = requestOf(reliable.ID(msg.UUID), &check, msg.Payload, delay)
	}
	if err == nil {
		err = s.limits.Check(&one.request)
	}
	if err != nil {
		return s.refuse("check", err)
	}
	s.asking.call(one)
	switch {
	case errors.Is(one.err, reliable.ErrConflict):
		return s.refuse("check", reliable.Invalid("check", "has an ID under which the ledger has another one: %v", one.err))
	case errors.Is(one.err, reliable.ErrInvalid):
		return s.refuse("check", one.err)
	case one.err != nil:
		return fmt.Errorf("delayedcheck: answer check: %w", one.err)
	}
	s.counts.checks.Add(1)
	if one.requested {
		s.counts.requests.Add(1)
	}
	if s.cfg.hooks.Checked != nil {
		s.cfg.hooks.Checked(&check, one.requested)
	}
	return nil
}

// refuse counts a message that is none of what its topic is for.
func (s *Service) refuse(what string, err error) error {
	s.counts.refused.Add(1)
	return fmt.Errorf("delayedcheck: %s: %w", what, err)
}

// asking is one check on its way to its answer.
type asking struct {
	waits     awaiting
	request   reliable.Envelope
	requested bool
	err       error
}

// answerChecks decides what becomes of checks: those that are confirmed are done, of the others requests are stored.
func (s *Service) answerChecks(batch []*asking) {
	ids := make([]reliable.ID, len(batch))
	for i, one := range batch {
		ids[i] = one.waits.id
	}
	ctx, cancel := context.WithTimeout(context.Background(), s.cfg.ledgerTimeout)
	defer cancel()
	confirmed, err := s.confirmations.ProcessedBy(ctx, ids...)
	if err != nil {
		for _, one := range batch {
			one.err = err
		}
		return
	}
	var open []*asking
	for _, one := range batch {
		if len(one.waits.missing(confirmed)) > 0 {
			open = append(open, one)
		}
	}
	if len(open) > 0 {
		s.request(open)
	}
}

// request stores the requests of checks. One that the ledger refuses does not keep its neighbours.
func (s *Service) request(open []*asking) {
	ctx, cancel := context.WithTimeout(context.Background(), s.cfg.ledgerTimeout)
	defer cancel()
	together, apart := apart(open)
	if err := s.enqueue(ctx, together); errors.Is(err, reliable.ErrConflict) || errors.Is(err, reliable.ErrInvalid) {
		apart = open
	} else {
		settle(together, err)
	}
	for _, one := range apart {
		settle([]*asking{one}, s.enqueue(ctx, []*asking{one}))
	}
	if err := s.relay.Wake(ctx); err != nil {
		s.cfg.logger.WarnContext(ctx, "the wake-up for new requests failed; they are found by polling", "error", err)
	}
}

func settle(batch []*asking, err error) {
	for _, one := range batch {
		one.requested, one.err = err == nil, err
	}
}

// apart takes out the checks whose ID occurs before, in another delivery of the same check or in a forged one.
func apart(open []*asking) (together, twice []*asking) {
	seen := make(map[reliable.ID]bool, len(open))
	for _, one := range open {
		if seen[one.request.ID] {
			twice = append(twice, one)
			continue
		}
		seen[one.request.ID] = true
		together = append(together, one)
	}
	return together, twice
}

func (s *Service) enqueue(ctx context.Context, batch []*asking) error {
	envs := make([]reliable.Envelope, len(batch))
	for i, one := range batch {
		envs[i] = one.request
	}
	_, err := s.ledger.Enqueue(ctx, reliable.EnqueueRequest{Worker: s.cfg.worker}, envs...)
	return err
}

// missing returns the groups that have not confirmed a message yet, as the ledger knows at this moment.
func (s *Service) missing(waits awaiting) ([]string, error) {
	one := &lookup{waits: waits}
	s.lookups.call(one)
	return one.missing, one.err
}

// lookup is one question to the ledger.
type lookup struct {
	waits   awaiting
	missing []string
	err     error
}

func (s *Service) lookUp(batch []*lookup) {
	ids := make([]reliable.ID, len(batch))
	for i, one := range batch {
		ids[i] = one.waits.id
	}
	ctx, cancel := context.WithTimeout(context.Background(), s.cfg.ledgerTimeout)
	defer cancel()
	confirmed, err := s.confirmations.ProcessedBy(ctx, ids...)
	for _, one := range batch {
		one.missing, one.err = one.waits.missing(confirmed), err
	}
}

const (
	// checksBytes bounds the requests that are stored together.
	checksBytes = 2 << 20
	// checkShare is what any check counts for, so that no more than [reliable.MaxProcessed] are answered together.
	checkShare = (checksBytes + reliable.MaxProcessed - 1) / reliable.MaxProcessed
)

// size is what a check counts for among those that are answered together, in bytes.
func (a *asking) size() int { return max(checkShare, a.request.Size()) }
