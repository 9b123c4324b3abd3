package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/reliable/backend"
)

func newStatus(a *app) *cobra.Command {
	var watch bool
	var interval, over time.Duration
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show what is pending and failed, by topic",
		Long: `Shows for each topic how many messages are pending and failed and how old the oldest
of each is, how many were compensated and discarded, and which topics are held
because their destination refuses. Topics of which everything is confirmed are left
out: what is asked costs as much as there is to be seen, not as much as is stored.

Rates are changes per second between two looks: a pending count that grows means that
more is stored than the broker takes. --rate looks twice; --watch looks again and
again, and on a terminal redraws the table in its place, until interrupted.`,
		Example: `  waybill status
  waybill status --watch --interval 5s
  waybill status --rate 10s -o json`,
		Args: arguments(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if interval <= 0 || over < 0 {
				return usagef("--interval must be above 0, and --rate not negative")
			}
			return a.withStore(cmd.Context(), func(store backend.Store) error {
				s, err := newSurvey(a, store)
				if err != nil {
					return err
				}
				if watch {
					return s.watch(cmd.Context(), interval)
				}
				return s.once(cmd.Context(), over)
			})
		},
	}
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "look again and again, until interrupted")
	cmd.Flags().DurationVar(&interval, "interval", 2*time.Second, "how long --watch waits between looks")
	cmd.Flags().DurationVar(&over, "rate", 0, "look twice, this long apart, and show the rates of change")
	return cmd
}

// survey looks at a store.
type survey struct {
	app       *app
	inspector reliable.Inspector
	holder    reliable.Holder // may be nil
	address   string
}

func newSurvey(a *app, store reliable.Store) (*survey, error) {
	address, err := a.storeAddress()
	if err != nil {
		return nil, err
	}
	s := &survey{app: a, address: backend.Redact(address)}
	var ok bool
	if s.inspector, ok = reliable.Ability[reliable.Inspector](store); !ok {
		return nil, fmt.Errorf("the store cannot be inspected: %w", errors.ErrUnsupported)
	}
	s.holder, _ = reliable.Ability[reliable.Holder](store)
	return s, nil
}

// look is what was seen at one moment.
type look struct {
	at     time.Time
	topics []reliable.TopicStats
	holds  []reliable.Hold
}

func (s *survey) look(ctx context.Context) (*look, error) {
	ctx, cancel := s.app.bounded(ctx)
	defer cancel()
	l := &look{at: time.Now()}
	var err error
	if l.topics, err = s.inspector.Stats(ctx); err != nil {
		return nil, err
	}
	if s.holder != nil {
		l.holds, err = s.holder.Holds(ctx)
	}
	return l, err
}

func (s *survey) once(ctx context.Context, over time.Duration) error {
	first, err := s.look(ctx)
	if err != nil {
		return err // what was seen of it is half of the truth
	}
	if over == 0 {
		return s.show(first, nil)
	}
	if err := sleep(ctx, over); err != nil {
		return err
	}
	second, err := s.look(ctx)
	if err != nil {
		return err
	}
	return s.show(second, first)
}

// clearScreen moves to the upper left corner and forgets what is below.
const clearScreen = "\x1b[H\x1b[2J"

// watch looks until ctx ends, which is how it is meant to end. A store that does not answer is said, and asked again.
func (s *survey) watch(ctx context.Context, interval time.Duration) error {
	var before *look
	for first := true; ; first = false {
		now, err := s.look(ctx)
		if ctx.Err() != nil {
			return nil //nolint:nilerr // whatever an interrupted look says
		}
		switch {
		case err != nil && first:
			return err
		case err != nil:
			s.app.note("waybill: %v; trying again in %v", err, interval)
		default:
			if isTerminal(s.app.out) {
				s.app.say(clearScreen)
			} else if !first && s.app.format == formatTable {
				s.app.say("\n")
			}
			if err := s.show(now, before); err != nil {
				return err
			}
			before = now
		}
		_ = sleep(ctx, interval) // the next look finds that ctx has ended
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// rates are changes per second since an earlier look.
type rates struct{ pending, failed float64 }

func (l *look) rates(topic *reliable.TopicStats, before *look) *rates {
	if before == nil {
		return nil
	}
	passed := l.at.Sub(before.at).Seconds()
	was := reliable.TopicStats{}
	for i := range before.topics {
		if before.topics[i].Topic == topic.Topic {
			was = before.topics[i]
		}
	}
	return &rates{float64(topic.Pending-was.Pending) / passed, float64(topic.Failed-was.Failed) / passed}
}

// withGone adds the topics that had something before and have nothing any more.
func (l *look) withGone(before *look) []reliable.TopicStats {
	topics := l.topics
	if before == nil {
		return topics
	}
	there := make(map[string]bool, len(topics))
	for i := range topics {
		there[topics[i].Topic] = true
	}
	for i := range before.topics {
		if topic := before.topics[i].Topic; !there[topic] {
			topics = append(slices.Clip(topics), reliable.TopicStats{Topic: topic})
		}
	}
	return topics
}

func (s *survey) show(now, before *look) error {
	if now == nil {
		return nil
	}
	if s.app.format == formatJSON {
		return s.app.json(s.document(now, before))
	}
	topics := now.withGone(before)
	if len(topics) == 0 {
		s.app.say("%s\n\nnothing is pending, and nothing has failed\n", s.address)
		s.showHolds(now)
		return nil
	}
	header := []string{"TOPIC", "PENDING", "OLDEST", "FAILED", "OLDEST", "COMPENSATED", "DISCARDED"}
	if before != nil {
		header = append(header, "PENDING/s", "FAILED/s")
	}
	var rows [][]string
	var sum reliable.TopicStats
	row := func(name string, t *reliable.TopicStats, r *rates) {
		cells := []string{
			name, fmt.Sprint(t.Pending), age(t.OldestPending, t.Pending), fmt.Sprint(t.Failed),
			age(t.OldestFailed, t.Failed), fmt.Sprint(t.Compensated), fmt.Sprint(t.Discarded),
		}
		if r != nil {
			cells = append(cells, fmt.Sprintf("%+.1f", r.pending), fmt.Sprintf("%+.1f", r.failed))
		}
		rows = append(rows, cells)
	}
	var all *rates
	if before != nil {
		all = &rates{}
	}
	for i := range topics {
		t := &topics[i]
		r := now.rates(t, before)
		row(t.Topic, t, r)
		sum.Pending, sum.Failed = sum.Pending+t.Pending, sum.Failed+t.Failed
		sum.Compensated, sum.Discarded = sum.Compensated+t.Compensated, sum.Discarded+t.Discarded
		sum.OldestPending, sum.OldestFailed = max(sum.OldestPending, t.OldestPending), max(sum.OldestFailed, t.OldestFailed)
		if r != nil {
			all.pending, all.failed = all.pending+r.pending, all.failed+r.failed
		}
	}
	if len(topics) > 1 {
		row("(all)", &sum, all)
	}
	s.app.say("%s\n\n", s.address)
	s.app.table(header, rows)
	s.showHolds(now)
	s.showWithheld(topics)
	return nil
}

// showWithheld lists what waits for business transactions in other databases, where there is such.
func (s *survey) showWithheld(topics []reliable.TopicStats) {
	var rows [][]string
	for i := range topics {
		if t := &topics[i]; t.Withheld > 0 {
			rows = append(rows, []string{t.Topic, fmt.Sprint(t.Withheld), span(t.OldestWithheld)})
		}
	}
	if len(rows) > 0 {
		s.app.say("\n")
		s.app.table([]string{"WITHHELD TOPIC", "MESSAGES", "OLDEST"}, rows)
	}
}

func (s *survey) showHolds(now *look) {
	if len(now.holds) == 0 {
		return
	}
	rows := make([][]string, len(now.holds))
	for i, h := range now.holds {
		next := "due"
		if h.NextProbe > 0 {
			next = "in " + span(h.NextProbe)
		}
		rows[i] = []string{h.Topic, fmt.Sprint(h.Refusals), span(h.HeldFor), next}
	}
	s.app.say("\n")
	s.app.table([]string{"HELD TOPIC", "REFUSALS", "HELD FOR", "NEXT PROBE"}, rows)
}

type statusDocument struct {
	Store  string          `json:"store"`
	Topics []topicDocument `json:"topics"`
	Holds  []holdDocument  `json:"holds"`
}

type topicDocument struct {
	Topic                 string   `json:"topic"`
	Pending               int      `json:"pending"`
	Failed                int      `json:"failed"`
	Compensated           int      `json:"compensated"`
	Discarded             int      `json:"discarded"`
	OldestPendingSeconds  float64  `json:"oldest_pending_seconds"`
	OldestFailedSeconds   float64  `json:"oldest_failed_seconds"`
	Withheld              int      `json:"withheld"`
	OldestWithheldSeconds float64  `json:"oldest_withheld_seconds"`
	PendingPerSecond      *float64 `json:"pending_per_second,omitempty"`
	FailedPerSecond       *float64 `json:"failed_per_second,omitempty"`
}

type holdDocument struct {
	Topic            string  `json:"topic"`
	Refusals         int     `json:"refusals"`
	HeldForSeconds   float64 `json:"held_for_seconds"`
	NextProbeSeconds float64 `json:"next_probe_seconds"`
}

func (s *survey) document(now, before *look) statusDocument {
	d := statusDocument{Store: s.address, Topics: []topicDocument{}, Holds: []holdDocument{}}
	topics := now.withGone(before)
	for i := range topics {
		t := &topics[i]
		topic := topicDocument{
			Topic: t.Topic, Pending: t.Pending, Failed: t.Failed, Compensated: t.Compensated, Discarded: t.Discarded,
			OldestPendingSeconds: seconds(t.OldestPending), OldestFailedSeconds: seconds(t.OldestFailed),
			Withheld: t.Withheld, OldestWithheldSeconds: seconds(t.OldestWithheld),
		}
		if r := now.rates(t, before); r != nil {
			topic.PendingPerSecond, topic.FailedPerSecond = &r.pending, &r.failed
		}
		d.Topics = append(d.Topics, topic)
	}
	for _, h := range now.holds {
		d.Holds = append(d.Holds, holdOf(h))
	}
	return d
}

func holdOf(h reliable.Hold) holdDocument {
	return holdDocument{h.Topic, h.Refusals, seconds(h.HeldFor), seconds(h.NextProbe)}
}
