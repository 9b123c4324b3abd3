package tagging

import (
	"context"
	"fmt"
	"time"

	"github.com/waybillmq/waybill/reliable"
)

// Life is the life of one message, as far as it is stored, and what happens next.
type Life struct {
	Record reliable.Record
	// Hold is the hold of the message's topic; nil if the topic is not held.
	Hold *reliable.Hold
	// Events are what happened, oldest first. Successes leave no trace but the status, so there are attempts that no event
	// tells of.
	Events []Event
	Next   Next
}

// Event is something that happened to a message.
type Event struct {
	// Ago is how long ago it was, on the store's clock.
	Ago time.Duration
	// What happened, in a few words: "stored", "attempt 3: returned", "requeue".
	What string
	// By is the worker or the person who did it; empty if nobody in particular.
	By string
	// Why is the broker's, the handler's or the person's reason.
	Why string
}

// Next is what happens next to a message.
type Next struct {
	State State
	// In is how long until it happens; 0 or less if it is due, or waits for something that has no time.
	In time.Duration
	// What happens, in a sentence.
	What string
}

// State says finer than the status where a message stands.
type State string

// The states of a message.
const (
	Delayed           State = "delayed"             // not sent yet, and due later
	Due               State = "due"                 // any relay takes it now
	Leased            State = "leased"              // a relay has it
	BackingOff        State = "backing off"         // tried, and tried again later
	BehindItsKey      State = "behind its key"      // waits for the head of its key
	BehindAHold       State = "behind a held topic" // waits for a probe of its topic to succeed
	Undelivered       State = "failed"              // waits for a handler or a person
	BeingCompensated  State = "being compensated"   // a handler has it
	CompensationLater State = "compensation later"  // a handler failed and runs again
	Over              State = "over"                // final
	Undecided         State = "withheld"            // its business transaction, elsewhere, may or may not commit
)

// Explain returns the life of a message; nil if no message has the ID.
func (o *Operator) Explain(ctx context.Context, id reliable.ID) (*Life, error) {
	records, err := o.inspector.Lookup(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("tagging: explain: %w", err)
	}
	if len(records) == 0 {
		return nil, nil
	}
	life := &Life{Record: records[0], Events: eventsOf(&records[0])}
	if life.Record.Status == reliable.Pending && o.holder != nil {
		holds, err := o.holder.Holds(ctx)
		if err != nil {
			return nil, fmt.Errorf("tagging: explain: %w", err)
		}
		for i := range holds {
			if holds[i].Topic == life.Record.Topic {
				life.Hold = &holds[i]
			}
		}
	}
	life.Next = nextOf(life)
	return life, nil
}

func eventsOf(r *reliable.Record) []Event {
	events := []Event{{Ago: r.Age, What: "stored"}}
	for _, entry := range r.History {
		events = append(events, Event{Ago: entry.Ago, What: describe(entry), By: entry.By, Why: entry.Reason})
	}
	return events
}

func describe(entry reliable.HistoryEntry) string {
	switch entry.Kind {
	case reliable.AttemptEnded:
		what := fmt.Sprintf("attempt with fence %d: %v", entry.Fence, entry.Outcome)
		if entry.Charged {
			what += ", charged"
		}
		return what
	case reliable.GivenUp:
		return "given up without an attempt"
	case reliable.CompensationFailed:
		return "compensation handler failed"
	case reliable.OperatorDecided:
		return entry.Action.String()
	}
	return entry.Kind.String()
}

// nextOf says what happens next. A message is looked at from outside: what a relay is about to do to it is its secret.
func nextOf(life *Life) Next {
	r := &life.Record
	switch r.Status {
	case reliable.Pending:
		return nextOfPending(life)
	case reliable.Failed:
		return nextOfFailed(r)
	case reliable.Confirmed:
		return Next{State: Over, What: "nothing: the broker took responsibility; retention deletes the row"}
	case reliable.Compensated:
		return Next{State: Over, What: "nothing: it was compensated; retention deletes the row"}
	case reliable.Discarded:
		return Next{State: Over, What: "nothing, unless somebody requeues it; retention deletes the row"}
	}
	return Next{}
}

func nextOfPending(life *Life) Next {
	r := &life.Record
	switch {
	case r.Withheld:
		return Next{State: Undecided, In: r.DueIn, What: "its process releases it after the commit of its business transaction, in another " +
			"database; should that process be dead, a relay asks the witness of that database"}
	case r.Waiting:
		if r.Behind == "" {
			return Next{State: BehindItsKey, What: fmt.Sprintf(
				"waits for its turn in key %q: a relay looks for those whose key has become free", r.Key)}
		}
		return Next{State: BehindItsKey, What: fmt.Sprintf(
			"waits behind %q of key %q until that is confirmed, compensated or discarded", string(r.Behind), r.Key)}
	case r.Held && life.Hold != nil:
		return Next{State: BehindAHold, In: life.Hold.NextProbe, What: fmt.Sprintf(
			"waits because topic %q is held: its destination refused %d times; one of its messages is sent as a probe, and the "+
				"first success releases all", r.Topic, life.Hold.Refusals)}
	case r.Held:
		return Next{State: BehindAHold, What: fmt.Sprintf("topic %q is being released; a relay takes it", r.Topic)}
	case r.LeasedBy != "" && r.DueIn > 0:
		return Next{State: Leased, In: r.DueIn, What: fmt.Sprintf(
			"%s has leased it and is sending it; should that process be dead, any relay takes it when the lease ends", r.LeasedBy)}
	case r.LeasedBy != "":
		return Next{State: Due, In: r.DueIn, What: fmt.Sprintf(
			"the lease of %s ran out: any relay takes it; if it stays so, no relay runs, or the broker is away", r.LeasedBy)}
	case r.DueIn > 0 && r.Attempts == 0:
		return Next{State: Delayed, In: r.DueIn, What: "its first attempt"}
	case r.DueIn > 0:
		return Next{State: BackingOff, In: r.DueIn, What: "its next attempt"}
	}
	return Next{State: Due, In: r.DueIn, What: "any relay takes it; if it stays so, no relay runs, or the broker is away"}
}

func nextOfFailed(r *reliable.Record) Next {
	handled := false
	for _, entry := range r.History {
		switch entry.Kind {
		case reliable.CompensationFailed:
			handled = true
		case reliable.OperatorDecided:
			handled = false // a requeue began anew
		case reliable.AttemptEnded, reliable.GivenUp:
		}
	}
	switch {
	case r.LeasedBy != "" && r.DueIn > 0:
		return Next{State: BeingCompensated, In: r.DueIn, What: fmt.Sprintf(
			"a compensation handler of %s has it; should that process be dead, another handler gets it when the lease ends", r.LeasedBy)}
	case handled || r.LeasedBy != "":
		return Next{State: CompensationLater, In: r.DueIn, What: "its topic's compensation handler runs again"}
	}
	return Next{State: Undelivered, What: "waits for ever, for a compensation handler of its topic or for a person who requeues, " +
		"compensates or discards it"}
}
