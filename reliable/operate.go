package reliable

import (
	"context"
	"strings"
	"time"
)

// Operator is the ability of a store to be looked through and decided upon by people.
type Operator interface {
	// List returns one page of the envelopes that match, without their payloads and histories, in an order of the store's
	// own. The cost of a call is bounded, whatever is stored. A cursor is stable: what matches throughout and is left alone
	// meanwhile is listed by a walk through all pages, once. What is worked on meanwhile (claimed, settled, released,
	// decided) may be listed again, or by the next walk only.
	List(ctx context.Context, req ListRequest) (Page, error)
	// Decide records a person's decision about each of the IDs, all or none, and says for each, at the same index, what
	// came of it; an ID that occurs twice is decided twice, in the order given. At most [MaxDecisions] IDs. Each applied
	// decision is an entry of the envelope's history, with who and why; decisions never vanish from a history, whatever
	// its bound. Every one makes the fence grow, so that no settlement of before decides anything any more.
	//
	// An error means that nothing was decided, unless it is [ErrUnknown]: then look before repeating it.
	Decide(ctx context.Context, d Decision) ([]DecisionResult, error)
}

// Filter picks envelopes.
type Filter struct {
	// Status is the one status that is listed.
	Status Status
	// Topic is the one topic that is listed; empty means every one.
	Topic string
	// OlderThan leaves out what was stored less than that ago, on the store's clock; 0 leaves out nothing.
	OlderThan time.Duration
	// Reason leaves out what has no history entry whose reason contains it, case-sensitively; empty leaves out nothing.
	Reason string
}

// ListRequest asks for one page.
type ListRequest struct {
	Filter
	// After is the cursor of the page before; empty for the first.
	After Cursor
	// Limit is how many envelopes a page has at most, 1 to [MaxPage]. A page can be shorter, even empty, although more
	// follow: only an empty Next ends the list. So a filter that matches little costs many bounded calls, not a long one.
	Limit int
}

// Check returns an error that is [ErrInvalid] if no store could list this.
func (r *ListRequest) Check() error {
	switch {
	case r.Status > Discarded:
		return Invalid("Status", "is %d, which is no status", r.Status)
	case r.OlderThan < 0:
		return Invalid("OlderThan", "is %v, must be 0 (everything) or more", r.OlderThan)
	case r.Limit < 1 || r.Limit > MaxPage:
		return Invalid("Limit", "is %d, must be 1 to %d", r.Limit, MaxPage)
	}
	return nil
}

// Cursor is a place in a list; opaque, printable, valid for the filter it came from. Another store's, or a damaged one,
// is [ErrInvalid].
type Cursor string

// Page is a part of a list.
type Page struct {
	Records []Record
	// Next continues the list; empty at its end.
	Next Cursor
}

const (
	// MaxPage is how long a page can be.
	MaxPage = 1000
	// MaxDecisions is for how many envelopes one call of Decide can decide.
	MaxDecisions = 1000
	// MaxDecisionText is how many bytes of a decision's Who and Why are kept.
	MaxDecisionText = MaxReasonBytes
)

// Action is what a person decides about an envelope.
type Action uint8

const (
	// Requeue makes a failed or discarded envelope pending and due at once, as though it had just been stored: attempts and
	// failures are counted from 0, compensation has not begun, and its deadline is lifted, for else one that has passed
	// would fail it again before it is sent. A late ack of an earlier attempt confirms it. One that still is the head of
	// its key goes on in front; one that its key has gone on without takes a place in the line again.
	Requeue Action = iota + 1
	// Compensate makes a failed envelope compensated: somebody has dealt with it outside of Waybill. Its key goes on.
	Compensate
	// Discard makes a pending or failed envelope discarded: it shall not be sent. Its key goes on. A pending one may be on
	// its way to the broker at that moment; an ack that comes then is recorded as a late one and changes nothing. One that
	// is withheld is not sent even if its business transaction commits.
	Discard
)

// String returns the action as it appears in histories and logs.
func (a Action) String() string {
	switch a {
	case Requeue:
		return "requeue"
	case Compensate:
		return "compensate"
	case Discard:
		return "discard"
	}
	return "invalid"
}

// AppliesTo reports whether the action is one for envelopes of a status.
func (a Action) AppliesTo(s Status) bool {
	switch a {
	case Requeue:
		return s == Failed || s == Discarded
	case Compensate:
		return s == Failed
	case Discard:
		return s == Pending || s == Failed
	}
	return false
}

// Decision is what a person decides, about one envelope or many.
type Decision struct {
	Action Action
	IDs    []ID
	// Who and Why are required: kept sanitised and cut to [MaxDecisionText].
	Who, Why string
}

// Check returns an error that is [ErrInvalid] if no store could record this.
func (d *Decision) Check() error {
	switch {
	case d.Action.String() == "invalid":
		return Invalid("Action", "is %d, must be Requeue, Compensate or Discard", d.Action)
	case len(d.IDs) > MaxDecisions:
		return Invalid("IDs", "are %d, at most %d are decided at a time", len(d.IDs), MaxDecisions)
	case strings.TrimSpace(d.Who) == "":
		return Invalid("Who", "is empty, say who decided")
	case strings.TrimSpace(d.Why) == "":
		return Invalid("Why", "is empty, say why")
	}
	return nil
}

// DecisionResult is what came of a decision about one envelope.
type DecisionResult struct {
	ID ID
	// Verdict says whether the decision was recorded, and why not.
	Verdict Verdict
	// Status is where the envelope stands after the decision; meaningless with [NotFound].
	Status Status
}

// Verdict is what a store says to a decision.
type Verdict uint8

const (
	// Decided means recorded.
	Decided Verdict = iota
	// NotFound means that no envelope has the ID.
	NotFound
	// WrongStatus means that the action does not apply to the envelope's status; nothing was changed.
	WrongStatus
	// Busy means that a compensation handler holds the envelope's lease; ask again when it has ended.
	Busy
)

// String returns the verdict as it appears in tables and logs.
func (v Verdict) String() string {
	switch v {
	case Decided:
		return "decided"
	case NotFound:
		return "not found"
	case WrongStatus:
		return "wrong status"
	case Busy:
		return "busy"
	}
	return "invalid"
}
