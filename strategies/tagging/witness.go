package tagging

import (
	"context"
	"log/slog"
	"time"

	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/strategies/internal/engine"
)

const (
	// undecidedBatch and undecidedBytes bound what one look takes, so that its questions are answered within the lease.
	undecidedBatch = 100
	undecidedBytes = 4 << 20
	// lookEvery bounds the pauses between looks for what is undecided.
	lookAtLeastEvery = 15 * time.Second
	lookAtMostEvery  = 250 * time.Millisecond
)

// chore asks the witness about what stayed withheld. Every process of the fleet does, each about what it has leased.
func (e *Elsewhere) chore() engine.Chore {
	every := min(max(e.cfg.askAfter/4, lookAtMostEvery), lookAtLeastEvery)
	return engine.Chore{Name: "elsewhere " + e.name, Every: every, Run: e.pass}
}

func (e *Elsewhere) pass(ctx context.Context) error {
	for ctx.Err() == nil {
		n, err := e.ask(ctx)
		if err != nil || n < undecidedBatch {
			return err
		}
	}
	return ctx.Err()
}

// ask decides about one batch and returns how many messages that were. When the witness cannot be asked, the rest of the
// batch waits for the next time, as does what it says is open.
func (e *Elsewhere) ask(ctx context.Context) (n int, err error) {
	timed, cancel := context.WithTimeout(ctx, e.s.cfg.storeTimeout)
	ws, err := e.withholder.Undecided(timed, e.name, reliable.ClaimRequest{
		Worker: e.s.cfg.worker, Max: undecidedBatch, MaxBytes: undecidedBytes, Lease: e.s.cfg.lease,
	})
	cancel()
	if err != nil || len(ws) == 0 {
		return 0, err
	}
	rs := make([]reliable.Resolution, 0, len(ws))
	known := make(map[reliable.Token]reliable.Fate) // of transactions with several messages
	var unasked error
	for i := range ws {
		if unasked == nil {
			var fate reliable.Fate
			if fate, unasked = e.fateOf(ctx, &ws[i], known); unasked == nil {
				rs = append(rs, e.resolution(&ws[i], fate))
				continue
			}
		}
		rs = append(rs, reliable.Resolution{Withheld: ws[i], Fate: reliable.FateOpen, Again: e.cfg.askAfter})
	}
	timed, cancel = context.WithTimeout(context.WithoutCancel(ctx), e.s.cfg.storeTimeout)
	defer cancel()
	results, err := e.withholder.Resolve(timed, reliable.EnqueueRequest{Worker: e.s.cfg.worker}, rs...)
	if err != nil {
		return 0, err
	}
	e.tell(ctx, rs, results)
	return len(ws), unasked
}

func (e *Elsewhere) fateOf(ctx context.Context, w *reliable.Withheld, known map[reliable.Token]reliable.Fate) (reliable.Fate, error) {
	if fate, asked := known[w.Token]; asked && w.Token != "" {
		return fate, nil
	}
	timed, cancel := context.WithTimeout(ctx, e.s.cfg.storeTimeout)
	defer cancel()
	fate, err := e.witness.Ask(timed, w.ID, w.Token)
	if err == nil {
		known[w.Token] = fate
		if e.s.cfg.hooks.Witnessed != nil {
			e.s.cfg.hooks.Witnessed(w, fate)
		}
	}
	return fate, err
}

// resolution is what is done about a message of a transaction with that fate.
func (e *Elsewhere) resolution(w *reliable.Withheld, fate reliable.Fate) reliable.Resolution {
	r := reliable.Resolution{Withheld: *w, Fate: fate, Again: e.cfg.askAfter}
	if fate == reliable.FateUnknowable {
		r.Reason = "the witness of " + e.name + " cannot tell whether the business transaction committed: requeue it if it did, " +
			"discard it if not"
		if e.cfg.sendUnknowable {
			r.Fate = reliable.FateCommitted
		}
	}
	return r
}

// tell logs what was decided and wakes whoever has something to do now.
func (e *Elsewhere) tell(ctx context.Context, rs []reliable.Resolution, results []reliable.Resolved) {
	fates := make(map[reliable.Fate]int)
	for i := range rs {
		if !results[i].Gone {
			fates[rs[i].Fate]++
		}
	}
	e.tellConflicts(rs, results)
	for fate, n := range fates {
		level := slog.LevelInfo
		if fate == reliable.FateUnknowable {
			level = slog.LevelWarn
		}
		e.s.cfg.logger.Log(ctx, level, "messages of transactions that were left undecided",
			slog.String("elsewhere", e.name), slog.String("fate", fate.String()), slog.Int("messages", n))
	}
	if fates[reliable.FateCommitted] > 0 {
		e.s.alarm.ring()
	}
}

// tellConflicts logs which messages were dropped because another one of their ID had come first.
func (e *Elsewhere) tellConflicts(rs []reliable.Resolution, results []reliable.Resolved) {
	for i := range results {
		if results[i].Conflict {
			e.s.cfg.logger.Error("two transactions committed with one message ID and different messages: the first stands, this one is dropped",
				slog.String("elsewhere", e.name), slog.String("id", string(rs[i].ID)), slog.String("topic", rs[i].Topic))
		}
	}
}
