package sqlstore

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/waybillmq/waybill/reliable"
)

// What is withheld has a table of its own, with all of the envelope: the outbox and its indexes know nothing of it, and a
// release is the same INSERT as any other message's, in the transaction that deletes the ticket.

// Withhold keeps envelopes back; see [reliable.Withholder].
func (s *Store) Withhold(ctx context.Context, patience time.Duration, ws ...reliable.Withheld) error {
	if patience < 0 {
		return s.fail("withhold", reliable.Invalid("patience", "is %v, must be 0 or more", patience))
	}
	envs := make([]reliable.Envelope, len(ws))
	for i := range ws {
		if err := ws[i].Check(); err != nil {
			return s.fail("withhold", err)
		}
		envs[i] = ws[i].Envelope
	}
	b, err := s.newBatch(reliable.EnqueueRequest{}, envs)
	if err != nil || len(ws) == 0 {
		return s.fail("withhold", err)
	}
	err = s.write(ctx, func(tx Tx) error {
		if _, err := b.skip(ctx, tx, b.all); err != nil {
			return err
		}
		for _, chunk := range b.chunks {
			if _, err := s.exec(ctx, tx, s.dialect.Withhold, withheldColumns(ws, chunk, patience)...); err != nil {
				return err
			}
		}
		return nil
	})
	switch {
	case err == nil:
		return nil
	case errors.Is(err, reliable.ErrUnknown), errors.Is(err, reliable.ErrConflict):
		return s.fail("withhold", err)
	}
	return s.fail("withhold", errors.Join(reliable.ErrNotStored, err))
}

// withheldColumns are the parameters of Withhold.
func withheldColumns(ws []reliable.Withheld, indexes []int, patience time.Duration) []any {
	n := len(indexes)
	texts := make([][]string, 6)
	for c := range texts {
		texts[c] = make([]string, n)
	}
	metadata, payloads := make([][]byte, n), make([][]byte, n)
	numbers := make([][]int64, 4)
	for c := range numbers {
		numbers[c] = make([]int64, n)
	}
	for row, i := range indexes {
		w := &ws[i]
		for c, text := range [...]string{string(w.Ticket), w.Source, string(w.ID), string(w.Token), w.Topic, w.Key} {
			texts[c][row] = text
		}
		metadata[row], payloads[row] = encodeMetadata(w.Metadata), w.Payload
		if w.Payload == nil {
			payloads[row] = []byte{}
		}
		for c, number := range [...]int64{int64(w.Size()), micros(w.Delay), micros(w.Deadline), micros(patience)} {
			numbers[c][row] = number
		}
	}
	return []any{
		texts[0], texts[1], texts[2], texts[3], texts[4], texts[5], metadata, payloads, numbers[0], numbers[1], numbers[2], numbers[3],
	}
}

// Undecided leases what has been withheld for too long; see [reliable.Withholder].
func (s *Store) Undecided(ctx context.Context, source string, req reliable.ClaimRequest) ([]reliable.Withheld, error) {
	if err := checkClaim(req); err != nil {
		return nil, s.fail("look for undecided", err)
	}
	var undecided []reliable.Withheld
	err := s.write(ctx, func(tx Tx) error {
		undecided = nil
		var picked []string
		total, full := 0, false
		err := s.query(ctx, tx, func(rows Rows) error {
			var ticket string
			var size int
			if err := rows.Scan(&ticket, &size); err != nil {
				return err
			}
			total += size
			full = full || len(picked) > 0 && req.MaxBytes > 0 && total > req.MaxBytes
			if !full {
				picked = append(picked, ticket)
			}
			return nil
		}, s.dialect.PickUndecided, source, int64(req.Max))
		if err != nil || len(picked) == 0 {
			return err
		}
		slices.Sort(picked)
		err = inChunks(picked, s.dialect.ListRows, func(tickets []string) error {
			if _, err := s.exec(ctx, tx, s.dialect.LeaseUndecided, micros(req.Lease), tickets); err != nil {
				return err
			}
			some, err := s.withheld(ctx, tx, s.dialect.Withheld, tickets)
			undecided = append(undecided, some...)
			return err
		})
		return err
	})
	if err != nil {
		return nil, s.fail("look for undecided", err)
	}
	slices.SortStableFunc(undecided, func(a, b reliable.Withheld) int {
		return cmp.Or(cmp.Compare(b.Age, a.Age), cmp.Compare(a.Ticket, b.Ticket))
	})
	return undecided, nil
}

// withheld reads what is withheld.
func (s *Store) withheld(ctx context.Context, c Conn, st Statement, args ...any) ([]reliable.Withheld, error) {
	var all []reliable.Withheld
	err := s.query(ctx, c, func(rows Rows) error {
		var w reliable.Withheld
		var metadata []byte
		var ticket, id, token string
		var delay, deadline, storedAt, now int64
		err := rows.Scan(&ticket, &w.Source, &id, &token, &w.Topic, &w.Key, &metadata, &w.Payload, &delay, &deadline, &storedAt, &w.Asked, &now)
		if err != nil {
			return err
		}
		w.Ticket, w.ID, w.Token = reliable.ID(ticket), reliable.ID(id), reliable.Token(token)
		w.Delay, w.Deadline, w.Age = duration(delay), duration(deadline), max(duration(now-storedAt), 0)
		w.Metadata, err = decodeMetadata(metadata)
		all = append(all, w)
		return err
	}, st, args...)
	return all, err
}

// Resolve records what became of business transactions; see [reliable.Withholder].
func (s *Store) Resolve(
	ctx context.Context, req reliable.EnqueueRequest, rs ...reliable.Resolution,
) ([]reliable.Resolved, error) {
	for i := range rs {
		if rs[i].Again < 0 || rs[i].Fate > reliable.FateAborted {
			return nil, s.fail("resolve", reliable.Invalid("resolution", "has Again %v and Fate %d", rs[i].Again, rs[i].Fate))
		}
	}
	if len(rs) == 0 {
		return nil, nil
	}
	results, err := s.resolve(ctx, req, rs, nil)
	if !errors.Is(err, reliable.ErrConflict) {
		return results, s.fail("resolve", err)
	}
	results = make([]reliable.Resolved, len(rs))
	for i := range rs { // one by one, to find which
		one, err := s.resolve(ctx, req, rs[i:i+1], nil)
		if errors.Is(err, reliable.ErrConflict) {
			one, err = s.resolve(ctx, req, rs[i:i+1], []bool{true})
		}
		if err != nil {
			return nil, s.fail("resolve", err)
		}
		results[i] = one[0]
	}
	return results, nil
}

// resolve records resolutions, all or none; those that conflict are dropped.
func (s *Store) resolve(
	ctx context.Context, req reliable.EnqueueRequest, rs []reliable.Resolution, conflict []bool,
) ([]reliable.Resolved, error) {
	var results []reliable.Resolved
	err := s.write(ctx, func(tx Tx) (err error) {
		results = make([]reliable.Resolved, len(rs))
		var released, failed []int
		var over []string
		there, err := s.lockTickets(ctx, tx, rs)
		if err != nil {
			return err
		}
		for i := range rs {
			ticket := string(rs[i].Ticket)
			switch {
			case !there[ticket]:
				results[i].Gone = true
				continue
			case conflict != nil && conflict[i]:
				results[i].Conflict = true
			case rs[i].Fate == reliable.FateCommitted:
				released = append(released, i)
			case rs[i].Fate == reliable.FateUnknowable:
				failed = append(failed, i)
			case rs[i].Fate == reliable.FateOpen:
				if _, err := s.exec(ctx, tx, s.dialect.AskLater, micros(rs[i].Again), []string{ticket}); err != nil {
					return err
				}
				continue
			}
			delete(there, ticket) // one that is named twice is resolved once
			over = append(over, ticket)
		}
		if err := s.release(ctx, tx, req, rs, released, results); err != nil {
			return err
		}
		if err := s.giveUp(ctx, tx, rs, failed, results); err != nil {
			return err
		}
		return s.deleteTickets(ctx, tx, over)
	})
	return results, err
}

// lockTickets locks those tickets that are there.
func (s *Store) lockTickets(ctx context.Context, tx Conn, rs []reliable.Resolution) (map[string]bool, error) {
	tickets := make([]string, len(rs))
	for i := range rs {
		tickets[i] = string(rs[i].Ticket)
	}
	slices.Sort(tickets)
	there := make(map[string]bool, len(tickets))
	return there, inChunks(slices.Compact(tickets), s.dialect.ListRows, func(part []string) error {
		some, err := s.strings(ctx, tx, s.dialect.LockTickets, part)
		for _, ticket := range some {
			there[ticket] = true
		}
		return err
	})
}

func (s *Store) deleteTickets(ctx context.Context, tx Conn, tickets []string) error {
	slices.Sort(tickets)
	return inChunks(tickets, s.dialect.ListRows, func(part []string) error {
		_, err := s.exec(ctx, tx, s.dialect.DeleteTickets, part)
		return err
	})
}

// release stores in the outbox what is known to have committed.
func (s *Store) release(
	ctx context.Context, tx Conn, req reliable.EnqueueRequest, rs []reliable.Resolution, indexes []int, results []reliable.Resolved,
) error {
	if len(indexes) == 0 {
		return nil
	}
	b, err := s.newBatch(req, envelopesAt(rs, indexes))
	if err == nil {
		err = b.insert(ctx, tx)
	}
	if err != nil {
		return err
	}
	for n, i := range indexes {
		results[i].Stored = b.stored[n]
	}
	return nil
}

func envelopesAt(rs []reliable.Resolution, indexes []int) []reliable.Envelope {
	envs := make([]reliable.Envelope, len(indexes))
	for n, i := range indexes {
		envs[n] = rs[i].Envelope
	}
	return envs
}

// giveUp stores what nobody can decide as failed.
func (s *Store) giveUp(
	ctx context.Context, tx Conn, rs []reliable.Resolution, indexes []int, results []reliable.Resolved,
) error {
	if len(indexes) == 0 {
		return nil
	}
	states, stored, err := s.admit(ctx, tx, envelopesAt(rs, indexes))
	if err != nil {
		return err
	}
	for n, i := range indexes {
		results[i].Stored = stored[n]
		r := states[string(rs[i].ID)]
		if !stored[n].New || r == nil {
			continue
		}
		r.fail()
		r.flags |= flagHistory
		r.notes = map[int64]note{r.fence: {
			id: r.id, fence: r.fence, entry: entryDecision, verdict: verdict{to: reliable.Failed},
			reason: cleanReason(rs[i].Reason), at: r.now,
		}}
		results[i].Status = reliable.Failed
	}
	return s.save(ctx, tx, states)
}

// admit stores envelopes in the outbox without a place in the line of their keys, for a status that needs none, and
// locks them.
func (s *Store) admit(
	ctx context.Context, tx Conn, envs []reliable.Envelope,
) (map[string]*state, []reliable.Stored, error) {
	b, err := s.newBatch(reliable.EnqueueRequest{}, envs)
	if err != nil {
		return nil, nil, err
	}
	b.keyed = false
	if err := b.insert(ctx, tx); err != nil {
		return nil, nil, err
	}
	var ids []string
	for i := range b.stored {
		if b.stored[i].New {
			ids = append(ids, string(envs[i].ID))
		}
	}
	states, err := s.lockRows(ctx, tx, ids)
	return states, b.stored, err
}

// recall finds what a person decides about among what is withheld. For a decision that takes an envelope out of there it
// is stored in the outbox first; verdicts tell of the others.
func (s *Store) recall(
	ctx context.Context, tx Conn, d *reliable.Decision, states map[string]*state,
) (withheld map[string]bool, err error) {
	var missing []string
	for _, id := range d.IDs {
		if states[string(id)] == nil {
			missing = append(missing, string(id))
		}
	}
	slices.Sort(missing)
	withheld = make(map[string]bool)
	return withheld, inChunks(slices.Compact(missing), s.dialect.ListRows, func(ids []string) error {
		all, err := s.withheld(ctx, tx, s.dialect.LockWithheld, ids)
		if err != nil || len(all) == 0 {
			return err
		}
		var envs []reliable.Envelope
		var tickets []string
		for i := range all {
			id := string(all[i].ID)
			tickets = append(tickets, string(all[i].Ticket))
			if !withheld[id] { // of several transactions the first speaks for all
				withheld[id] = true
				envs = append(envs, all[i].Envelope)
			}
		}
		if !d.Action.AppliesTo(reliable.Pending) {
			return nil
		}
		admitted, _, err := s.admit(ctx, tx, envs)
		if err != nil {
			return err
		}
		maps.Copy(states, admitted)
		return s.deleteTickets(ctx, tx, tickets)
	})
}
