package engine

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/waybillmq/waybill/reliable"
)

// receiveBatch is how many confirms are taken at once.
const receiveBatch = 1000

// receiveLoop takes confirms and decides what becomes of each attempt, until ctx ends or the publisher is closed.
func (e *Engine) receiveLoop(ctx context.Context) {
	var entries []*entry
	for {
		confirms, err := e.cfg.Confirms.Receive(ctx, receiveBatch)
		if len(confirms) > 0 {
			entries = e.window.answered(confirms, entries[:0])
			e.decide(entries, confirms)
			clear(entries)
		}
		switch {
		case err == nil:
		case ctx.Err() != nil:
			return
		case errors.Is(err, io.EOF):
			e.cfg.Logger.WarnContext(ctx, "the publisher was closed while the relay runs; nothing more is sent")
			return
		default:
			e.cfg.Logger.WarnContext(ctx, "receiving confirms failed, will be tried again", "error", err)
			pause(ctx, unreachablePause)
		}
	}
}

func (e *Engine) decide(entries []*entry, confirms []reliable.Confirm) {
	now := time.Now()
	settlements := make([]settling, 0, len(entries))
	var moved []settling
	for i, en := range entries {
		c := &confirms[i]
		if en == nil {
			e.cfg.Logger.Debug("a confirm came that nobody waits for", "id", c.ID, "outcome", c.Outcome.String())
			continue
		}
		since := now.Sub(en.admitted)
		if e.cfg.Hooks.Answered != nil {
			e.cfg.Hooks.Answered(&en.attempt, c, since)
		}
		e.suspect.note(&en.attempt, c)
		parked := e.holds.note(en, c)
		one := settling{entry: en, settlement: e.cfg.Policy.Decide(&en.attempt, c, since, parked)}
		if c.Settled && c.Outcome == reliable.Acked {
			moved = append(moved, one)
		} else {
			settlements = append(settlements, one)
		}
	}
	e.settler.addAll(settlements)
	e.settler.moved(moved)
}
