package natsbroker

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/waybillmq/waybill/adapters/internal/wmpublisher"
	"github.com/waybillmq/waybill/reliable"
)

const (
	// delaySubject begins the subjects on which messages wait; the name of their stream and an ID of their own follow.
	delaySubject = "waybill.delay."
	// relookAfter is how long what is known of a stream, its clock above all, is used before it is asked again.
	relookAfter = 30 * time.Second

	headerSchedule = "Nats-Schedule"
	headerTarget   = "Nats-Schedule-Target"
)

// Scheduler delivers messages later, by the schedules of JetStream itself (NATS 2.12 or newer). A message waits in the
// stream of its topic, on a subject of its own that begins with "waybill.delay." and the stream's name; when it is due the
// server moves it to the topic's subject. It is accepted once the stream has stored it, and waits through restarts.
//
// The time is that of the server that leads the stream, which is asked for it every 30 s: a clock of this machine that is
// wrong makes nothing come early. Messages come up to a second late.
//
// A message that waits is in the stream like others. So what deletes those deletes it too: a delay must be shorter than the
// stream's MaxAge, which is checked, and MaxMsgs and MaxBytes, which cannot be, must leave room for what waits. A stream
// with interest retention keeps nothing that waits, and is refused. The server itself allows no schedules in streams that
// discard new messages, and in mirrors and streams with sources. Consumers without a filter see what waits.
//
// The same ID may be scheduled again at any time; each comes. What came due carries no Nats-Msg-Id.
//
// It is safe for concurrent use, and connects when it is first used.
type Scheduler struct {
	own      *Broker
	pub      *wmpublisher.Publisher
	readOnly bool

	looking chan struct{} // holds a token while a stream is looked at: one look serves everybody who waits
	mu      sync.Mutex
	streams map[string]delayStream // by topic
}

var _ reliable.Scheduler = (*Scheduler)(nil)

// SchedulerOption changes how a Scheduler works.
type SchedulerOption func(*Scheduler)

// WithoutStreamUpdates makes the Scheduler change no stream: each must have AllowMsgSchedules, and take "waybill.delay.",
// its own name and ".>" as a subject. Default: a stream that lacks them gets both when it is first used, which takes the
// right to publish to $JS.API.STREAM.UPDATE. Once it allows schedules a stream allows them for good.
func WithoutStreamUpdates() SchedulerOption { return func(s *Scheduler) { s.readOnly = true } }

// Scheduler returns a scheduler with this Broker's config and options, on a connection of its own; the caller closes it. It
// keeps any delay.
func (b *Broker) Scheduler(opts ...SchedulerOption) *Scheduler {
	settings := b.settings
	settings.delaying = true
	settings.dedup = NoDeduplication // a check of the next round has the ID of the last one
	own := prepare(b.cfg, settings)
	s := &Scheduler{
		own:     own,
		pub:     wmpublisher.New(own, own, own.Close, wmpublisher.WithConfirmTimeout(own.MaxConfirmWait())),
		looking: make(chan struct{}, 1),
		streams: make(map[string]delayStream),
	}
	for _, opt := range opts {
		opt(s)
	}
	return s
}

// Schedule implements [reliable.Scheduler]: it returns nil once the streams have stored every message.
func (s *Scheduler) Schedule(ctx context.Context, after time.Duration, envs ...reliable.Envelope) error {
	if err := s.schedule(ctx, after, envs); err != nil {
		return fmt.Errorf("natsbroker: schedule: %w", err)
	}
	return nil
}

func (s *Scheduler) schedule(ctx context.Context, after time.Duration, envs []reliable.Envelope) error {
	if after < 0 {
		return reliable.Invalid("after", "is %v, must not be negative", after)
	}
	byTopic := make(map[string][]*message.Message)
	for i := range envs {
		if envs[i].Topic == "" {
			return reliable.Invalid("Topic", "is empty")
		}
		msg := envs[i].Message()
		msg.SetContext(ctx)
		byTopic[envs[i].Topic] = append(byTopic[envs[i].Topic], msg)
	}
	var errs []error
	for topic, messages := range byTopic {
		if err := s.publish(ctx, topic, after, messages); err != nil {
			errs = append(errs, fmt.Errorf("to topic %q: %w", printable(topic), err))
		}
	}
	return errors.Join(errs...)
}

func (s *Scheduler) publish(ctx context.Context, topic string, after time.Duration, messages []*message.Message) error {
	stream, err := s.streamOf(ctx, topic)
	if err != nil {
		return err
	}
	if stream.maxAge > 0 && after >= stream.maxAge {
		return reliable.Invalid("after", "is %v, stream %q keeps nothing longer than its MaxAge of %v: raise that",
			after, stream.name, stream.maxAge)
	}
	way := detour{due: stream.due(after), stream: stream.name, topic: topic}
	if err = s.pub.Publish(way.String(), messages...); err != nil {
		s.mu.Lock()
		delete(s.streams, topic) // it may have changed
		s.mu.Unlock()
	}
	return err
}

// Close waits for the confirms of what is being scheduled and ends the connection. What was accepted stays accepted.
func (s *Scheduler) Close() error { return s.pub.Close() }

// delayStream is what is known of the stream of a topic.
type delayStream struct {
	name   string
	maxAge time.Duration
	asked  time.Time // before the question
	clock  time.Time // what the stream's leader answered
}

// due is when a delay that begins now ends on the leader's clock, at the earliest: the leader read its clock at some time
// after it was asked, so it is no further than this now.
func (d *delayStream) due(after time.Duration) time.Time {
	return d.clock.Add(time.Since(d.asked) + after)
}

// streamOf returns the stream of a topic, which is ready for schedules.
func (s *Scheduler) streamOf(ctx context.Context, topic string) (delayStream, error) {
	if known, ok := s.known(topic); ok {
		return known, nil
	}
	select {
	case s.looking <- struct{}{}:
		defer func() { <-s.looking }()
	case <-ctx.Done():
		return delayStream{}, ctx.Err()
	}
	if known, ok := s.known(topic); ok {
		return known, nil
	}
	subject, err := s.own.subjectOf(topic)
	if err != nil {
		return delayStream{}, err
	}
	found := make(chan delayStream, 1)
	err = s.own.withStream(ctx, func(ctx context.Context, js jetstream.JetStream) error {
		stream, err := s.look(ctx, js, subject)
		found <- stream
		return err
	})
	if err != nil {
		return delayStream{}, err
	}
	stream := <-found
	s.mu.Lock()
	s.streams[topic] = stream
	s.mu.Unlock()
	return stream, nil
}

// known returns what was found out about a topic's stream not long ago.
func (s *Scheduler) known(topic string) (delayStream, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	stream, ok := s.streams[topic]
	return stream, ok && time.Since(stream.asked) < relookAfter
}

func (s *Scheduler) look(ctx context.Context, js jetstream.JetStream, subject string) (delayStream, error) {
	name, err := js.StreamNameBySubject(ctx, subject)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return delayStream{}, fmt.Errorf("%w: no stream takes subject %q: make one, or give it to WithStream and call Declare",
			reliable.ErrUnroutable, subject)
	}
	// Another process may change the stream at this moment: it wins, or its configuration overwrites the one just written.
	var refused error
	for try := 1; err == nil; try++ {
		asked := time.Now()
		var stream jetstream.Stream
		if stream, err = js.Stream(ctx, name); err != nil {
			break
		}
		info := stream.CachedInfo()
		if info.Config.Retention == jetstream.InterestPolicy {
			return delayStream{}, reliable.Invalid("Topic", "is in stream %q, whose interest retention keeps nothing that waits: "+
				"give it limits retention", name)
		}
		var ready bool
		if ready, err = takesDelayed(ctx, js, &info.Config); ready {
			return delayStream{name: name, maxAge: info.Config.MaxAge, asked: asked, clock: info.TimeStamp}, nil
		}
		switch {
		case err != nil:
		case s.readOnly || try == declareTries:
			err = errors.Join(reliable.Invalid("Topic", "is in stream %q, which must have AllowMsgSchedules and the subject %q "+
				"(NATS 2.12 or newer)", name, delaySubject+name+".>"), refused)
		default:
			refused = allowSchedules(ctx, js, info.Config)
			pause(ctx, rand.N(time.Duration(try)*declarePause)) //nolint:gosec // jitter is no secret
		}
	}
	return delayStream{}, err
}

// takesDelayed reports whether a stream is ready for schedules.
func takesDelayed(ctx context.Context, js jetstream.JetStream, config *jetstream.StreamConfig) (bool, error) {
	owner, err := js.StreamNameBySubject(ctx, delaySubject+config.Name+".any")
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound):
		return false, nil
	case err == nil && owner != config.Name:
		return false, reliable.Invalid("Topic", "is in stream %q, whose subject for what waits, %q, another stream takes: %q",
			config.Name, delaySubject+config.Name+".>", owner)
	}
	return err == nil && config.AllowMsgSchedules, err
}

// allowSchedules writes a stream's configuration anew. What config lacks is decided by config alone, never by what the
// stream has now: JetStream has no conditional update, so a configuration that was read before another process added the
// subject would take it away again.
func allowSchedules(ctx context.Context, js jetstream.JetStream, config jetstream.StreamConfig) error {
	waits := delaySubject + config.Name + ".any"
	if !slices.ContainsFunc(config.Subjects, func(pattern string) bool { return subjectMatches(pattern, waits) }) {
		config.Subjects = append(config.Subjects, delaySubject+config.Name+".>")
	}
	config.AllowMsgSchedules = true
	if _, err := js.UpdateStream(ctx, config); err != nil {
		return fmt.Errorf("allow schedules in stream %q: %w", config.Name, err)
	}
	return nil
}

// detour is the way of a message through its schedule to its topic. To the broker below the Scheduler it is a topic.
type detour struct {
	due    time.Time
	stream string
	topic  string
}

func (d detour) String() string {
	return d.due.UTC().Format(time.RFC3339Nano) + "/" + d.stream + "/" + d.topic
}

// scheduled turns a message on its way to a topic's subject into one that waits before.
func scheduled(msg *nats.Msg, due, stream string) {
	msg.Header[headerSchedule] = []string{"@at " + due}
	msg.Header[headerTarget] = []string{msg.Subject}
	msg.Subject = delaySubject + stream + "." + string(reliable.NewID()) // a subject holds one schedule
}

// parseDetour takes a topic apart that String wrote.
func parseDetour(text string) (due, stream, topic string) {
	due, rest, _ := strings.Cut(text, "/")
	stream, topic, _ = strings.Cut(rest, "/")
	return due, stream, topic
}
