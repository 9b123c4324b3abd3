package main

import (
	"context"
	"fmt"
	"time"

	"github.com/waybillmq/waybill/reliable"
)

// limits are what somebody wants to be called for.
type limits struct {
	pendingAge time.Duration // of the oldest message of a topic
	failed     int           // of a topic
}

// teller is what tells counts and ages: a *tagging.Outbox.
type teller interface {
	Stats(ctx context.Context) ([]reliable.TopicStats, error)
}

// watch looks at the counts until ctx ends, and tells each alarm once when it is raised and once when it is over. In place
// of telling, call whoever is on duty; a store that does not answer is an alarm as well.
func watch(ctx context.Context, outbox teller, every time.Duration, l limits, tell func(string)) {
	raised := make(map[string]bool)
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		now := make(map[string]bool)
		topics, err := outbox.Stats(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			now["the store does not answer"] = true
			for alarm := range raised {
				now[alarm] = true // nothing is known of the others
			}
		}
		for i := range topics {
			topic := &topics[i]
			if topic.OldestPending > l.pendingAge {
				now[fmt.Sprintf("%s has a message that waits for more than %v", topic.Topic, l.pendingAge)] = true
			}
			if topic.Failed > l.failed {
				now[fmt.Sprintf("%s has more than %d failed messages", topic.Topic, l.failed)] = true
			}
		}
		for alarm := range now {
			if !raised[alarm] {
				tell("ALARM " + alarm)
			}
		}
		for alarm := range raised {
			if !now[alarm] {
				tell("over: " + alarm)
			}
		}
		raised = now
	}
}
