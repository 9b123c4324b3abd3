package health

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/waybillmq/waybill/reliable"
)

// probe is one question to a store or a broker. It is asked one at a time: one that never comes back is not asked again.
type probe struct {
	ask func(ctx context.Context) ([]Reason, error)
	// silent is what it means that there is no answer, or an error that ask has no reason for.
	silent  Reason
	waiting atomic.Bool
}

const noAnswer = "the store does not answer"

var errNoAnswer = errors.New("no answer in time")

func probesOf(cfg *config, store reliable.Store) []*probe {
	var probes []*probe
	unknown := Reason{Code: StoreUnreachable, Text: noAnswer}
	if checker, ok := reliable.Ability[reliable.Checker](store); ok {
		probes = append(probes, &probe{ask: checkStore(checker), silent: unknown})
		// The store is there: what it does not tell is not worth a restart.
		unknown = Reason{Code: CountsUnknown, Text: "the store does not tell in time what is pending, failed and held"}
	}
	if inspector, ok := reliable.Ability[reliable.Inspector](store); ok {
		probes = append(probes, &probe{ask: checkCounts(cfg, inspector), silent: unknown})
	}
	if holder, ok := reliable.Ability[reliable.Holder](store); ok {
		probes = append(probes, &probe{ask: checkHolds(holder), silent: unknown})
	}
	if cfg.broker != nil {
		probes = append(probes, &probe{
			ask:    func(ctx context.Context) ([]Reason, error) { return nil, cfg.broker.Ping(ctx) },
			silent: Reason{Code: BrokerUnreachable, Text: "the broker cannot be reached; messages are stored and wait"},
		})
	}
	return probes
}

func checkStore(checker reliable.Checker) func(context.Context) ([]Reason, error) {
	return func(ctx context.Context) ([]Reason, error) {
		err := checker.Check(ctx)
		if errors.Is(err, reliable.ErrSchema) {
			return []Reason{{Code: StoreUnmigrated, Text: "the store's tables are missing, too old or too new: migrate"}}, err
		}
		return nil, err
	}
}

func checkCounts(cfg *config, inspector reliable.Inspector) func(context.Context) ([]Reason, error) {
	return func(ctx context.Context) (reasons []Reason, err error) {
		topics, err := inspector.Stats(ctx)
		for i := range topics {
			topic := &topics[i]
			if topic.OldestPending > cfg.maxAge {
				reasons = append(reasons, Reason{PendingOld, topic.Topic, fmt.Sprintf(
					"the oldest of %d pending is %v old, the limit is %v", topic.Pending, rounded(topic.OldestPending), cfg.maxAge)})
			}
			if topic.Failed > cfg.maxFailed {
				reasons = append(reasons, Reason{FailedMessages, topic.Topic, fmt.Sprintf(
					"%d have failed, the limit is %d; the oldest is %v old", topic.Failed, cfg.maxFailed, rounded(topic.OldestFailed))})
			}
		}
		return reasons, err
	}
}

func checkHolds(holder reliable.Holder) func(context.Context) ([]Reason, error) {
	return func(ctx context.Context) (reasons []Reason, err error) {
		holds, err := holder.Holds(ctx)
		for i := range holds {
			reasons = append(reasons, Reason{TopicHeld, holds[i].Topic, fmt.Sprintf(
				"held for %v after %d refusals: its destination refuses", rounded(holds[i].HeldFor), holds[i].Refusals)})
		}
		return reasons, err
	}
}

func rounded(d time.Duration) time.Duration {
	if d < time.Second {
		return d.Round(time.Millisecond)
	}
	return d.Round(time.Second)
}

// ask asks all probes side by side, and returns within timeout what is wrong, with the errors behind it.
func ask(probes []*probe, timeout time.Duration) (reasons []Reason, errs []error) {
	type answer struct {
		reasons []Reason
		err     error
	}
	replies := make([]chan answer, len(probes))
	for i, p := range probes {
		replies[i] = make(chan answer, 1)
		if !p.waiting.CompareAndSwap(false, true) {
			replies[i] <- answer{err: errNoAnswer} // it has not come back from the last time
			continue
		}
		go func() {
			ctx, cancel := context.WithTimeout(context.Background(), timeout)
			defer cancel()
			found, err := p.ask(ctx)
			p.waiting.Store(false)
			replies[i] <- answer{found, err}
		}()
	}
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	over := false
	for i, p := range probes {
		got := answer{err: errNoAnswer}
		if over {
			select {
			case got = <-replies[i]:
			default:
			}
		} else {
			select {
			case got = <-replies[i]:
			case <-timer.C:
				over = true
			}
		}
		if got.err != nil {
			errs = append(errs, got.err)
		}
		if got.err != nil && len(got.reasons) == 0 {
			got.reasons = []Reason{p.silent}
		}
		reasons = append(reasons, got.reasons...)
	}
	return tidy(reasons), errs
}

// tidy leaves out what follows from something worse, and what is said twice.
func tidy(reasons []Reason) []Reason {
	storeless := slices.ContainsFunc(reasons, func(r Reason) bool { return r.Code == StoreUnreachable || r.Code == StoreUnmigrated })
	var kept []Reason
	for _, reason := range reasons {
		if storeless && reason.Code == CountsUnknown || slices.Contains(kept, reason) {
			continue
		}
		kept = append(kept, reason)
	}
	return kept
}
