package tagging

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"iter"
	"slices"

	"github.com/waybillmq/waybill/reliable"
)

// Operator is what a person, or a program for people, does with what is stored: look through it, ask about single
// messages, and decide about many. Everything is done in bounded steps, so that it costs the relays little, whatever is
// stored. It starts nothing and is safe for concurrent use.
type Operator struct {
	operator  reliable.Operator
	inspector reliable.Inspector
	holder    reliable.Holder // nil if the store cannot hold
}

// NewOperator returns an Operator over a store. The error is [errors.ErrUnsupported] if the store is no
// [reliable.Operator], or no [reliable.Inspector].
func NewOperator(store reliable.Store) (*Operator, error) {
	o := &Operator{}
	var operates, inspects bool
	o.operator, operates = reliable.Ability[reliable.Operator](store)
	o.inspector, inspects = reliable.Ability[reliable.Inspector](store)
	o.holder, _ = reliable.Ability[reliable.Holder](store)
	if !operates || !inspects {
		return nil, fmt.Errorf("tagging: new operator: the store is no reliable.Operator, or no reliable.Inspector: %w",
			errors.ErrUnsupported)
	}
	return o, nil
}

const (
	// walkPage is how many records a page of a walk has at most.
	walkPage = 500
	// decisionBatch is about how many messages one transaction decides.
	decisionBatch = 500
)

// List returns one page; see [reliable.Operator].
func (o *Operator) List(ctx context.Context, req reliable.ListRequest) (reliable.Page, error) {
	page, err := o.operator.List(ctx, req)
	if err != nil {
		return page, fmt.Errorf("tagging: list: %w", err)
	}
	return page, nil
}

// Lookup returns all that is stored of the IDs that exist, payloads and histories included; see [reliable.Inspector].
func (o *Operator) Lookup(ctx context.Context, ids ...reliable.ID) ([]reliable.Record, error) {
	records, err := o.inspector.Lookup(ctx, ids...)
	if err != nil {
		return nil, fmt.Errorf("tagging: look up: %w", err)
	}
	return records, nil
}

// Pages walks through all that matches, a bounded page at a time, without payloads and histories. A page may be empty
// although others follow. It ends after an error, which is yielded.
func (o *Operator) Pages(ctx context.Context, filter reliable.Filter) iter.Seq2[[]reliable.Record, error] {
	return func(yield func([]reliable.Record, error) bool) {
		req := reliable.ListRequest{Filter: filter, Limit: walkPage}
		for {
			page, err := o.List(ctx, req)
			if err != nil {
				yield(nil, err)
				return
			}
			if !yield(page.Records, nil) || page.Next == "" {
				return
			}
			req.After = page.Next
		}
	}
}

// Decide decides about any number of messages, in batches: it yields the results of each batch once they are recorded. An
// ID that occurs twice is decided once. Breaking the loop off, or an error, which is yielded, leaves the rest undecided. An
// error that is [reliable.ErrUnknown] leaves it open whether its own batch was recorded.
func (o *Operator) Decide(
	ctx context.Context, action reliable.Action, who, why string, ids ...reliable.ID,
) iter.Seq2[[]reliable.DecisionResult, error] {
	return func(yield func([]reliable.DecisionResult, error) bool) {
		seen := make(map[reliable.ID]bool, len(ids))
		once := make([]reliable.ID, 0, len(ids))
		for _, id := range ids {
			if !seen[id] {
				once = append(once, id)
			}
			seen[id] = true
		}
		for batch := range slices.Chunk(once, decisionBatch) {
			results, err := o.decide(ctx, action, who, why, batch)
			if !yield(results, err) || err != nil {
				return
			}
		}
	}
}

// DecideAll decides about all that matches the filter, each message once, as [Operator.Decide] does; limit bounds how
// many, 0 means all. What starts to match meanwhile is decided as well or left to the next call, but a message that comes
// back (requeued, and failed again) is left alone. It remembers 16 bytes for each message that it decided.
func (o *Operator) DecideAll(
	ctx context.Context, action reliable.Action, who, why string, filter reliable.Filter, limit int,
) iter.Seq2[[]reliable.DecisionResult, error] {
	return func(yield func([]reliable.DecisionResult, error) bool) {
		decided := make(map[[16]byte]struct{})
		for records, err := range o.Pages(ctx, filter) {
			if err != nil {
				yield(nil, err)
				return
			}
			ids := make([]reliable.ID, 0, len(records))
			for i := range records {
				if limit > 0 && len(decided) >= limit {
					break
				}
				mark := fingerprint(records[i].ID)
				if _, again := decided[mark]; again {
					continue
				}
				decided[mark] = struct{}{}
				ids = append(ids, records[i].ID)
			}
			if len(ids) > 0 {
				results, err := o.decide(ctx, action, who, why, ids)
				if !yield(results, err) || err != nil {
					return
				}
			}
			if limit > 0 && len(decided) >= limit {
				return
			}
		}
	}
}

func fingerprint(id reliable.ID) [16]byte {
	sum := sha256.Sum256([]byte(id))
	return [16]byte(sum[:16])
}

func (o *Operator) decide(
	ctx context.Context, action reliable.Action, who, why string, ids []reliable.ID,
) ([]reliable.DecisionResult, error) {
	results, err := o.operator.Decide(ctx, reliable.Decision{Action: action, IDs: ids, Who: who, Why: why})
	if err != nil {
		return nil, fmt.Errorf("tagging: %v: %w", action, err)
	}
	return results, nil
}
