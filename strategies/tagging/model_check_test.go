package tagging_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/waybillmq/waybill/adapters/membroker"
	"github.com/waybillmq/waybill/reliable"
)

// check compares what the business, the consumers and the broker's log say, with what the store says.
func (w *world) check() {
	records := make(map[reliable.ID]*reliable.Record)
	stored := w.store.Records()
	for i := range stored {
		records[stored[i].ID] = &stored[i]
	}
	attempts := make(map[reliable.ID][]membroker.Record)
	for _, a := range w.broker.Attempts() {
		attempts[a.ID] = append(attempts[a.ID], a)
	}
	copies := make(map[reliable.ID]int)
	for i := range modelTopics {
		for _, delivery := range w.broker.Delivered(topicName(i)) {
			copies[delivery.ID]++
		}
	}
	w.checkNothingLost(records, copies)
	w.checkNoPhantom(records, attempts)
	for id, record := range records {
		w.checkStatus(record, attempts[id])
		w.checkAttempts(record, attempts[id], copies[id])
	}
	w.checkOrder(stored)
	w.checkWindow()
}

// checkNothingLost: what a client was told is stored is stored, and what is stored is delivered, or visibly failed.
func (w *world) checkNothingLost(records map[reliable.ID]*reliable.Record, copies map[reliable.ID]int) {
	business := w.store.BusinessRows()
	for n, op := range w.ops {
		certain := op.err == nil && !op.panicked
		if op.business != "" {
			_, committed := business[op.business]
			if certain && !committed || committed && !certain && !errors.Is(op.err, reliable.ErrUnknown) {
				w.fail("step %d: the client was told %v (panic %v), the business row is there: %v", n, op.err, op.panicked, committed)
			}
			certain = committed
		}
		for i := range op.envs {
			if certain && records[op.envs[i].ID] == nil {
				w.fail("step %d: %q was accepted and is not stored", n, op.envs[i].ID)
			}
		}
	}
	for id, record := range records {
		if copies[id] == 0 && record.Status == reliable.Confirmed {
			w.fail("%q is confirmed and was not delivered", id)
		}
	}
}

// checkNoPhantom: what is stored, or reached the broker, belongs to a transaction that committed, or to a call that did not
// say for sure that it failed.
func (w *world) checkNoPhantom(records map[reliable.ID]*reliable.Record, attempts map[reliable.ID][]membroker.Record) {
	business := w.store.BusinessRows()
	allowed := make(map[reliable.ID]bool)
	for _, op := range w.ops {
		_, may := business[op.business]
		if op.business == "" {
			may = op.err == nil || errors.Is(op.err, reliable.ErrUnknown)
		}
		for i := range op.envs {
			allowed[op.envs[i].ID] = allowed[op.envs[i].ID] || may
		}
	}
	for id := range records {
		if !allowed[id] {
			w.fail("%q is stored, and no committed transaction sent it", id)
		}
	}
	for id := range attempts {
		if records[id] == nil {
			w.fail("%q reached the broker and is not stored", id)
		}
	}
}

// checkStatus: a status is what the broker said.
func (w *world) checkStatus(record *reliable.Record, attempts []membroker.Record) {
	acked, definite, rejectedOnce := 0, 0, false
	for _, a := range attempts {
		switch {
		case a.Outcome == reliable.Acked && a.Answered:
			acked++
		case a.Outcome.Definite():
			definite++
			rejectedOnce = rejectedOnce || a.Outcome == reliable.Rejected
		}
	}
	if record.Status == reliable.Confirmed && acked == 0 {
		w.fail("%q is confirmed, and the broker never said so", record.ID)
	}
	if record.Failures > definite {
		w.fail("%q was charged %d times for %d refusals", record.ID, record.Failures, definite)
	}
	if record.Status == reliable.Failed || record.Status == reliable.Compensated {
		if !rejectedOnce && !failedTogether(record) && record.Deadline == 0 && definite < modelBudget {
			w.fail("%q is %v after %d refusals", record.ID, record.Status, definite)
		}
	}
	charged := make(map[int64]bool)
	for _, e := range record.History {
		if e.Charged && charged[e.Fence] {
			w.fail("%q was charged twice for attempt %d", record.ID, e.Fence)
		}
		charged[e.Fence] = charged[e.Fence] || e.Charged
	}
}

// failedTogether reports whether an envelope was failed with all that waited behind its destination.
func failedTogether(record *reliable.Record) bool {
	return slices.ContainsFunc(record.History, func(e reliable.HistoryEntry) bool { return strings.Contains(e.Reason, "destination") })
}

// checkAttempts: each lease is used once, within its time, one at a time, and for a reason.
func (w *world) checkAttempts(record *reliable.Record, attempts []membroker.Record, copies int) {
	id, unknown, expired := record.ID, 0, 0
	slices.SortStableFunc(attempts, func(a, b membroker.Record) int { return a.HandedOver.Compare(b.HandedOver) })
	for i, a := range attempts {
		leasedAt, known := w.leases[leaseOf{id, a.Fence}]
		if !known {
			w.fail("%q was handed over as attempt %d, which nobody leased", id, a.Fence)
			continue
		}
		if latest := leasedAt.Add(modelLease - modelConfirmTimeout); a.HandedOver.After(latest) {
			w.fail("%q was handed over %v too late for its lease", id, a.HandedOver.Sub(latest))
		}
		if !a.Answered {
			w.fail("%q, attempt %d, was never answered", id, a.Fence)
		}
		if a.Outcome == reliable.Unknown {
			unknown++
		}
		if i == 0 {
			continue
		}
		before := attempts[i-1]
		if a.Fence <= before.Fence {
			w.fail("%q was handed over as attempt %d after attempt %d", id, a.Fence, before.Fence)
		}
		if before.AnsweredAt.After(a.HandedOver) {
			w.fail("%q was in flight twice: handed over at fence %d while fence %d was unanswered", id, a.Fence, before.Fence)
		}
		if before.Outcome == reliable.Acked {
			expired++
			// Claimed again only once the lease had run out without a settlement.
			if w.leases[leaseOf{id, a.Fence}].Add(modelStoreTimeout).Before(w.leases[leaseOf{id, before.Fence}].Add(modelLease)) {
				w.fail("%q was leased again within the lease under which it was acked", id)
			}
		}
		if before.Outcome == reliable.Rejected && record.Status != reliable.Confirmed {
			expired++
		}
	}
	if copies-1 > unknown+expired {
		w.fail("%q was delivered %d times, with %d unknown outcomes and %d leases that ran out", id, copies, unknown, expired)
	}
}

// checkOrder: of a key, one message at a time is in flight, and first deliveries come in the order of storing.
func (w *world) checkOrder(stored []reliable.Record) {
	place := make(map[reliable.ID]int, len(stored))
	for i := range stored {
		place[stored[i].ID] = i
	}
	last, until := make(map[string]int), make(map[string]time.Time)
	acked := make(map[reliable.ID]bool)
	for _, a := range w.broker.Attempts() {
		// What is sent again although it was acked (its lease ran out before that was recorded) is no first delivery.
		again := acked[a.ID]
		acked[a.ID] = again || a.Outcome == reliable.Acked
		if a.Key == "" || again {
			continue
		}
		key := a.Topic + a.Key
		if before, known := last[key]; known {
			if place[a.ID] < before {
				w.fail("key %q: %q was handed over after a message that was stored later:%s", a.Key, a.ID, w.attemptsOf(a.Topic, a.Key))
			}
			if until[key].After(a.HandedOver) {
				w.fail("key %q: %q was handed over while another message of the key was in flight", a.Key, a.ID)
			}
		}
		last[key] = max(last[key], place[a.ID])
		if a.AnsweredAt.After(until[key]) {
			until[key] = a.AnsweredAt
		}
	}
}

// attemptsOf is what happened to a key, for people.
func (w *world) attemptsOf(topic, key string) string {
	var text strings.Builder
	for _, a := range w.broker.Attempts() {
		if a.Topic == topic && a.Key == key {
			fmt.Fprintf(&text, "\n      %v to %v conn %d: %q attempt %d: %v, %v",
				a.HandedOver.Format("05.000"), a.AnsweredAt.Format("05.000"), a.Conn, a.ID, a.Fence, a.Act, a.Outcome)
		}
	}
	return text.String()
}

// checkWindow: no connection had more in flight than the window allows.
func (w *world) checkWindow() {
	type change struct {
		at time.Time
		by int
	}
	changes := make(map[int][]change)
	for _, a := range w.broker.Attempts() {
		changes[a.Conn] = append(changes[a.Conn], change{a.HandedOver, 1}, change{a.AnsweredAt, -1})
	}
	for conn, list := range changes {
		slices.SortStableFunc(list, func(a, b change) int {
			if c := a.at.Compare(b.at); c != 0 {
				return c
			}
			return a.by - b.by
		})
		open := 0
		for _, c := range list {
			if open += c.by; open > modelWindow {
				w.fail("connection %d had %d in flight, more than the window of %d", conn, open, modelWindow)
				break
			}
		}
	}
}
