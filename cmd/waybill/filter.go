package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/reliable/backend"
)

// filter is the flags by which messages are picked.
type filter struct {
	status    string
	topic     string
	olderThan time.Duration
	reason    string
}

// add gives cmd the flags; statuses are those that make sense for it, the first one the default.
func (f *filter) add(a *app, cmd *cobra.Command, statuses ...reliable.Status) {
	names := make([]string, len(statuses))
	for i, status := range statuses {
		names[i] = status.String()
	}
	flags := cmd.Flags()
	flags.StringVar(&f.status, "status", names[0], "only these: "+strings.Join(names, ", "))
	flags.StringVar(&f.topic, "topic", "", "only those of this topic")
	flags.DurationVar(&f.olderThan, "older-than", 0, "only those stored at least this long ago, as 90m or 48h")
	flags.StringVar(&f.reason, "reason", "", "only those with this text in a reason of their history; case counts")
	complete(cmd, "status", func(*cobra.Command) []string { return names })
	complete(cmd, "topic", a.topicNames)
}

// given reports whether any of the flags was.
func (f *filter) given(cmd *cobra.Command) bool {
	return slices.ContainsFunc([]string{"status", "topic", "older-than", "reason"}, cmd.Flags().Changed)
}

func (f *filter) parse(statuses ...reliable.Status) (reliable.Filter, error) {
	parsed := reliable.Filter{Topic: f.topic, OlderThan: f.olderThan, Reason: f.reason}
	if f.olderThan < 0 {
		return parsed, usagef("--older-than is %v, must be 0 or more", f.olderThan)
	}
	status, err := parseStatus(f.status, statuses...)
	parsed.Status = status
	return parsed, err
}

func parseStatus(name string, statuses ...reliable.Status) (reliable.Status, error) {
	names := make([]string, len(statuses))
	for i, status := range statuses {
		if status.String() == name {
			return status, nil
		}
		names[i] = status.String()
	}
	return 0, usagef("--status is %q, must be one of %s", name, strings.Join(names, ", "))
}

// describe is the filter in words.
func describe(f reliable.Filter) string {
	text := f.Status.String() + " messages"
	if f.Topic != "" {
		text += fmt.Sprintf(" of topic %q", f.Topic)
	}
	if f.OlderThan > 0 {
		text += " stored more than " + span(f.OlderThan) + " ago"
	}
	if f.Reason != "" {
		text += fmt.Sprintf(" with %q in a reason", f.Reason)
	}
	return text
}

// topicNames are for the shell: the topics that have something to be seen. It is quick or it is nothing.
func (a *app) topicNames(cmd *cobra.Command) []string {
	const patience = 2 * time.Second
	ctx, cancel := context.WithTimeout(cmd.Context(), patience)
	defer cancel()
	var names []string
	_ = a.withStore(ctx, func(store backend.Store) error {
		if inspector, ok := reliable.Ability[reliable.Inspector](store); ok {
			topics, err := inspector.Stats(ctx)
			for i := range topics {
				names = append(names, topics[i].Topic)
			}
			return err
		}
		return nil
	})
	return names
}
