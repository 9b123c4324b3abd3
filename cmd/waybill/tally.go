package main

import (
	"errors"
	"fmt"

	"github.com/waybillmq/waybill/reliable"
)

// tally counts what came of decisions.
type tally struct {
	decision *decision
	seen     int

	Action      string             `json:"action"`
	Who         string             `json:"who"`
	Why         string             `json:"why"`
	Decided     int                `json:"decided"`
	NotFound    int                `json:"not_found"`
	WrongStatus int                `json:"wrong_status"`
	Busy        int                `json:"busy"`
	Undecided   []undecidedMessage `json:"undecided"` // the first maxUndecided of them
}

type undecidedMessage struct {
	ID      string `json:"id"`
	Verdict string `json:"verdict"`
	Status  string `json:"status,omitempty"`
}

// maxUndecided is how many of the messages that could not be decided about are named.
const maxUndecided = 100

func newTally(d *decision) *tally {
	return &tally{decision: d, Action: d.action.String(), Who: d.who, Why: d.why, Undecided: []undecidedMessage{}}
}

func (t *tally) add(results []reliable.DecisionResult) {
	for _, r := range results {
		t.seen++
		undecided := undecidedMessage{ID: string(r.ID), Verdict: r.Verdict.String(), Status: r.Status.String()}
		switch r.Verdict {
		case reliable.Decided:
			t.Decided++
			continue
		case reliable.NotFound:
			t.NotFound++
			undecided.Status = ""
		case reliable.WrongStatus:
			t.WrongStatus++
		case reliable.Busy:
			t.Busy++
		}
		if len(t.Undecided) < maxUndecided {
			t.Undecided = append(t.Undecided, undecided)
		}
	}
}

// report says what came of it, and that it was broken off by failed if it was.
func (t *tally) report(failed error) error {
	if err := t.write(); err != nil {
		return errors.Join(failed, err)
	}
	switch {
	case failed != nil && t.Decided > 0:
		return fmt.Errorf("broken off after %s: %w", plural(t.Decided, "decision"), failed)
	case failed != nil:
		return failed
	case t.seen == t.NotFound:
		return t.decision.nothing()
	case t.seen > t.Decided:
		return exitError{code: exitPartly}
	}
	if limit := t.decision.limit; limit > 0 && t.seen >= limit {
		t.decision.app.note("stopped at --limit %d; there may be more", limit)
		return exitError{code: exitPartly}
	}
	return nil
}

func (t *tally) write() error {
	app := t.decision.app
	if app.format == formatJSON {
		return app.json(t)
	}
	if len(t.Undecided) > 0 {
		rows := make([][]string, len(t.Undecided))
		for i, u := range t.Undecided {
			rows[i] = []string{u.ID, u.Verdict, u.Status}
		}
		app.table([]string{"ID", "NOT DECIDED", "STATUS"}, rows)
		if more := t.seen - t.Decided - len(t.Undecided); more > 0 {
			app.say("and %d more\n", more)
		}
		app.say("\n")
	}
	app.say("%s: %s decided by %s\n", t.Action, plural(t.Decided, "message"), line(t.Who))
	return nil
}
