package delayedcheck

import (
	"context"
	"fmt"
	"time"

	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/strategies/tagging"
)

// reviewPage is how many failed requests are looked at together.
const reviewPage = 500

// review looks for failed requests whose confirms have come, and makes them confirmed.
func (s *Service) review(ctx context.Context) error {
	operator, ok := reliable.Ability[reliable.Operator](s.ledger)
	if !ok {
		return nil
	}
	if elected, err := s.chores.elected(ctx, "late confirms"); err != nil || !elected {
		return err
	}
	req := reliable.ListRequest{Filter: reliable.Filter{Status: reliable.Failed}, Limit: reviewPage}
	for ended := time.Now().Add(choreTerm / 2); ctx.Err() == nil && time.Now().Before(ended); {
		page, err := s.listed(ctx, operator, req)
		if err != nil {
			return err
		}
		if err := s.reviewPage(ctx, page.Records); err != nil {
			return err
		}
		if req.After = page.Next; page.Next == "" {
			break
		}
	}
	return ctx.Err()
}

func (s *Service) listed(ctx context.Context, operator reliable.Operator, req reliable.ListRequest) (reliable.Page, error) {
	timed, cancel := context.WithTimeout(ctx, s.cfg.ledgerTimeout)
	defer cancel()
	return operator.List(timed, req)
}

func (s *Service) reviewPage(ctx context.Context, failed []reliable.Record) error {
	timed, cancel := context.WithTimeout(ctx, s.cfg.ledgerTimeout)
	defer cancel()
	var ids []reliable.ID
	for i := range failed {
		if waits, ok := awaited(failed[i].Metadata); ok {
			ids = append(ids, waits.id)
		}
	}
	if len(ids) == 0 {
		return nil
	}
	confirmed, err := s.confirmations.ProcessedBy(timed, ids...)
	if err != nil {
		return err
	}
	var late []*reliable.Record
	var acks []reliable.Settlement
	for i := range failed {
		record := &failed[i]
		if waits, ok := awaited(record.Metadata); ok && len(waits.missing(confirmed)) == 0 && !record.LateAck {
			late = append(late, record)
			acks = append(acks, reliable.Settlement{
				ID: record.ID, Fence: record.Fence, Topic: record.Topic, Key: record.Key,
				Sent: true, Outcome: reliable.Acked, To: reliable.Confirmed,
			})
		}
	}
	if len(acks) == 0 {
		return nil
	}
	results, err := s.ledger.Settle(timed, acks...)
	if err != nil {
		return err
	}
	for i, result := range results {
		s.reviewed(late[i], result)
	}
	return nil
}

func (s *Service) reviewed(record *reliable.Record, result reliable.SettleResult) {
	switch result {
	case reliable.Applied, reliable.Late:
		s.counts.late.Add(1)
		if s.cfg.hooks.Late != nil {
			s.cfg.hooks.Late(record)
		}
	case reliable.Overtaken:
		s.counts.overtaken.Add(1)
	case reliable.Stale, reliable.Repeated:
	}
}

// purge deletes old confirms.
func (s *Service) purge(ctx context.Context) error {
	return s.chores.purge(ctx, "retention of confirms", func(ctx context.Context, limit int) (int, error) {
		n, err := s.confirmations.PurgeProcessed(ctx, s.cfg.retention, limit)
		s.counts.purged.Add(uint64(max(n, 0)))
		return n, err
	})
}

// FailedRequestHandler compensates a request that was failed; see [WithFailedRequest]. Its message may have been delivered:
// the producer sent it once at least, or a resend timed out after it took effect. What is missing is a confirm.
type FailedRequestHandler func(ctx context.Context, check Check, record *reliable.Record) error

// WithFailedRequest registers the compensation of a producer's failed requests; [DefaultProducer] is that of checks without
// a name. It is what [tagging.WithFailedHandler] is for messages: at least once, under a lease, again after an error. It is
// not called for a request whose confirms have come meanwhile. Requests of other producers wait for an operator.
func WithFailedRequest(producer string, handler FailedRequestHandler) ServiceOption {
	return func(c *serviceConfig) {
		switch _, twice := c.handlers[producer]; {
		case producer == "" || handler == nil:
			c.invalid("WithFailedRequest", "needs a producer and a handler")
		case twice:
			c.invalid("WithFailedRequest", "producer %q has a handler already", producer)
		default:
			c.handlers[producer] = handler
		}
	}
}

// handling calls a handler for what no confirm has come for.
func (s *Service) handling(handler FailedRequestHandler) tagging.FailedHandler {
	return func(ctx context.Context, record *reliable.Record) error {
		check, err := decodeCheck(record.Payload)
		if err != nil {
			return fmt.Errorf("no resend request: %w", err)
		}
		missing, err := s.missing(awaiting{check.Message.ID, check.Groups})
		switch {
		case err != nil:
			return fmt.Errorf("look up confirms: %w", err)
		case len(missing) == 0:
			s.counts.compensatedOff.Add(1)
			return nil
		}
		return handler(ctx, check, record)
	}
}
