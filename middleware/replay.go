package middleware

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/waybillmq/waybill/reliable"
)

// Report counts what a replay did.
type Report struct {
	// Entries is how many different entries of the poison topic were looked at.
	Entries int `json:"entries"`
	// Replayed is how many were sent to where they came from, confirmed and acked. In a dry run: would have been.
	Replayed int `json:"replayed"`
	// Kept is how many were not asked for.
	Kept int `json:"kept"`
	// CameBack is how many failed again while the replay was running; they are in the poison topic.
	CameBack int `json:"came_back"`
	// Homeless is how many do not say where they came from; [ReplayTo] can send them.
	Homeless int `json:"homeless"`
	// Refused is how many could not be repaired, or were refused by the broker for good: no such topic, too large.
	Refused int `json:"refused"`
	// Drained is true if the replay ended because nothing more came, false if it ended before.
	Drained bool `json:"drained"`
}

// ReplayOption configures a Replay.
type ReplayOption func(*replaySettings)

type replaySettings struct {
	wanted  []func(*message.Message, Failure) bool
	to      string
	limit   int
	idle    time.Duration
	repair  func(*message.Message, Failure) error
	dryRun  bool
	through bool
	each    func(*message.Message, Failure, ReplayResult)
}

// ReplayResult is what became of one entry.
type ReplayResult string

// What became of an entry; the words are those of [Report].
const (
	Replayed ReplayResult = "replayed"
	Kept     ReplayResult = "kept"
	CameBack ReplayResult = "came back"
	Homeless ReplayResult = "homeless"
	Refused  ReplayResult = "refused"
)

// ReplayIf replays only entries for which wanted is true; given several times, or with the other filters, all of them must
// be. Default: all entries.
func ReplayIf(wanted func(*message.Message, Failure) bool) ReplayOption {
	return func(s *replaySettings) { s.wanted = append(s.wanted, wanted) }
}

// ReplayIDs replays only messages with one of these IDs.
func ReplayIDs(ids ...reliable.ID) ReplayOption {
	return ReplayIf(func(msg *message.Message, _ Failure) bool { return slices.Contains(ids, reliable.ID(msg.UUID)) })
}

// ReplayFrom replays only messages that came from this topic.
func ReplayFrom(topic string) ReplayOption {
	return ReplayIf(func(_ *message.Message, f Failure) bool { return f.Topic == topic })
}

// ReplayGroup replays only messages that this consumer group could not process.
func ReplayGroup(group string) ReplayOption {
	return ReplayIf(func(_ *message.Message, f Failure) bool { return f.Group == group })
}

// ReplayReason replays only messages whose reason contains text.
func ReplayReason(text string) ReplayOption {
	return ReplayIf(func(_ *message.Message, f Failure) bool { return strings.Contains(f.Reason, text) })
}

// ReplayTo sends everything to topic. Default: each message goes to the topic that it was consumed from, where all groups
// of that topic see it again. A retry topic of the group that failed reaches this group alone.
func ReplayTo(topic string) ReplayOption { return func(s *replaySettings) { s.to = topic } }

// ReplayLimit ends the replay after that many messages were replayed. Default: none.
func ReplayLimit(messages int) ReplayOption { return func(s *replaySettings) { s.limit = messages } }

// ReplayIdle ends the replay when no message came for that long. Default 5 s. Too short ends it before a slow broker has
// delivered the first message.
func ReplayIdle(after time.Duration) ReplayOption { return func(s *replaySettings) { s.idle = after } }

// ReplayRepair changes each message before it is sent; its ID stays. An error keeps the entry, as refused. Default: nothing
// is changed.
func ReplayRepair(repair func(*message.Message, Failure) error) ReplayOption {
	return func(s *replaySettings) { s.repair = repair }
}

// ReplayDryRun sends nothing: entries are looked at, held, and given back in the end. A broker that delivers the next
// message only after the last one was acked (Kafka for each partition, SQL, RabbitMQ with a prefetch of 1) shows only the
// first: see [ReplayDryRunThrough].
func ReplayDryRun() ReplayOption { return func(s *replaySettings) { s.dryRun = true } }

// ReplayDryRunThrough is a dry run that sees every entry on every broker: it puts each at the end of the poison topic, with
// everything that it has, before it acks it. So the topic is the same afterwards, in the same order.
func ReplayDryRunThrough() ReplayOption {
	return func(s *replaySettings) { s.dryRun, s.through = true, true }
}

// ReplayEach calls each for every entry, once it is known what became of it. Default: nobody.
func ReplayEach(each func(*message.Message, Failure, ReplayResult)) ReplayOption {
	return func(s *replaySettings) { s.each = each }
}

// Replay reads a poison topic and sends its messages to where they came from. A message keeps its ID, key, payload and
// metadata; what was known of its failure is taken off, and the number of its replays counted up. It leaves the poison
// topic only once the broker has confirmed it in the other: a nil error of publisher must mean that.
//
// What is not replayed stays, at the end of the poison topic: it is published there again, confirmed and acked, because
// most brokers deliver nothing further before. An entry that comes round is held, and given back at the end; so is one that
// fails again meanwhile, which is not replayed twice. For each entry that stays, and each that is replayed, its ID is kept
// in memory.
//
// So subscriber must record what was acked also if it ends with a message that was not, as those of this module do.
// watermill-sql's own does not, unless it reads one message at a time.
//
// It ends when nothing comes for a while, when the limit is reached and the last ack was taken, when ctx ends (then with its
// error), or when the broker cannot be published to; until then everything is where the report says. Duplicates are
// possible when it dies: it may be run again.
func Replay(ctx context.Context, subscriber message.Subscriber, publisher message.Publisher, poisonTopic string,
	opts ...ReplayOption,
) (Report, error) {
	r := &replay{
		publisher: publisher, topic: poisonTopic, replaySettings: replaySettings{idle: 5 * time.Second},
		seen: make(map[string]bool), sent: make(map[string]int),
	}
	for _, opt := range opts {
		opt(&r.replaySettings)
	}
	if err := r.check(subscriber); err != nil {
		return Report{}, fmt.Errorf("middleware: replay: %w", err)
	}
	subscribing, cancel := context.WithCancel(ctx)
	defer cancel()
	messages, err := subscriber.Subscribe(subscribing, poisonTopic)
	if err != nil {
		return Report{}, fmt.Errorf("middleware: replay: subscribe to %q: %w", poisonTopic, err)
	}
	err = r.read(ctx, messages)
	cancel()
	r.release(messages)
	if err == nil {
		err = r.refusal
	}
	if err != nil {
		return r.report, fmt.Errorf("middleware: replay: %w", err)
	}
	return r.report, nil
}

func (s *replaySettings) check(topic string) []error {
	var problems []error
	refuse := func(field, format string, args ...any) {
		problems = append(problems, reliable.Invalid(field, format, args...))
	}
	if topic == "" {
		refuse("poisonTopic", "is empty; name the topic to replay")
	}
	if s.to != "" && s.to == topic {
		refuse("ReplayTo", "%q is the poison topic itself", s.to)
	}
	if s.limit < 0 {
		refuse("ReplayLimit", "is %d, must not be negative; leave the option out for none", s.limit)
	}
	if s.idle <= 0 {
		refuse("ReplayIdle", "is %v, must be above 0", s.idle)
	}
	if slices.ContainsFunc(s.wanted, func(f func(*message.Message, Failure) bool) bool { return f == nil }) {
		refuse("ReplayIf", "is nil; leave the option out for all")
	}
	return problems
}

// replay is one run.
type replay struct {
	publisher message.Publisher
	topic     string
	replaySettings

	report  Report
	refusal error           // the first one
	seen    map[string]bool // marks of entries that were looked at and are still in the topic
	sent    map[string]int  // by message and group: the number of the replay
	held    []*message.Message
}

func (r *replay) check(subscriber message.Subscriber) error {
	problems := r.replaySettings.check(r.topic)
	if subscriber == nil {
		problems = append(problems, reliable.Invalid("subscriber", "is nil"))
	}
	if r.publisher == nil {
		problems = append(problems, reliable.Invalid("publisher", "is nil"))
	}
	return errors.Join(problems...)
}

func (r *replay) read(ctx context.Context, messages <-chan *message.Message) error {
	idle := time.NewTimer(r.idle)
	defer idle.Stop()
	for {
		if r.limit > 0 && r.report.Replayed >= r.limit {
			r.settle(messages, idle.C)
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-idle.C:
			r.report.Drained = true
			return nil
		case msg, open := <-messages:
			if !open {
				return errors.Join(ctx.Err(), errors.New("the subscription ended before the topic was drained"))
			}
			if err := r.entry(ctx, msg); err != nil {
				msg.Nack()
				return err
			}
		}
		idle.Reset(r.idle)
	}
}

// settle waits until the last ack was taken: a subscription that ends can forget it. The next message shows that it was,
// or time.
func (r *replay) settle(messages <-chan *message.Message, idle <-chan time.Time) {
	select {
	case msg, open := <-messages:
		if open {
			r.held = append(r.held, msg)
		}
	case <-idle:
	}
}

// release gives back what is held, and what the subscriber still has to deliver. The subscription was ended before, so that
// it does not come again to this run.
func (r *replay) release(messages <-chan *message.Message) {
	for _, msg := range r.held {
		msg.Nack()
	}
	timer := time.NewTimer(r.idle)
	defer timer.Stop()
	for {
		select {
		case msg, open := <-messages:
			if !open {
				return
			}
			msg.Nack()
		case <-timer.C: // a subscriber that does not close its channel is the caller's to close
			return
		}
	}
}

// entry brings one message of the poison topic to where it is to be, and acks it. After an error it is where it was.
func (r *replay) entry(ctx context.Context, msg *message.Message) error {
	f, known := FailureOf(msg)
	mark := msg.UUID + "\x00" + f.Group + "\x00" + msg.Metadata[reliable.HeaderCopy]
	if r.seen[mark] { // it has come round, or again after the broker lost patience
		r.held = append(r.held, msg)
		return nil
	}
	r.report.Entries++
	who := msg.UUID + "\x00" + f.Group
	target := f.Topic
	if r.to != "" {
		target = r.to
	}
	switch before, again := r.sent[who]; {
	case again && f.Replays >= before:
		r.seen[mark] = true
		r.held = append(r.held, msg)
		r.told(msg, f, CameBack)
		return nil
	case slices.ContainsFunc(r.wanted, func(wanted func(*message.Message, Failure) bool) bool { return !wanted(msg, f) }):
		return r.stay(ctx, msg, f, mark, Kept)
	case (!known && r.to == "") || target == "" || target == r.topic:
		return r.stay(ctx, msg, f, mark, Homeless)
	case r.dryRun:
		return r.stay(ctx, msg, f, mark, Replayed)
	}

	again, err := r.again(ctx, msg, f)
	if err == nil {
		err = r.publisher.Publish(target, again)
		switch {
		case err == nil:
			r.sent[who] = f.Replays + 1
			msg.Ack()
			r.told(msg, f, Replayed)
			return nil
		case !errors.Is(err, reliable.ErrUnroutable) && !errors.Is(err, reliable.ErrRejected):
			return fmt.Errorf("message %q stays in %q: %w", msg.UUID, r.topic, err)
		}
	}
	if r.refusal == nil {
		r.refusal = fmt.Errorf("message %q stays in %q: %w", msg.UUID, r.topic, err)
	}
	return r.stay(ctx, msg, f, mark, Refused)
}

// again is the message as its consumers are to see it.
func (r *replay) again(ctx context.Context, msg *message.Message, f Failure) (*message.Message, error) {
	again := message.NewMessage(msg.UUID, slices.Clone(msg.Payload))
	again.Metadata = without(msg.Metadata)
	delete(again.Metadata, rabbitDeliveries)
	if _, ours := msg.Metadata[reliable.HeaderFailureTopic]; !ours {
		for _, name := range []string{watermillReason, watermillTopic, watermillHandler, watermillSubscriber} {
			delete(again.Metadata, name)
		}
	}
	if r.repair != nil {
		if err := r.repair(again, f); err != nil {
			return nil, fmt.Errorf("repair: %w", err)
		}
	}
	again.UUID = msg.UUID
	again.Metadata[reliable.HeaderReplays] = number(f.Replays + 1)
	again.Metadata[reliable.HeaderCopy] = nextCopy(msg.Metadata, f.Group, f.Handler).String()
	again.SetContext(ctx)
	return again, nil
}

// stay leaves an entry in the poison topic: held in a dry run, at its end otherwise.
func (r *replay) stay(ctx context.Context, msg *message.Message, f Failure, mark string, result ReplayResult) error {
	if r.dryRun && !r.through {
		r.seen[mark] = true
		r.held = append(r.held, msg)
		r.told(msg, f, result)
		return nil
	}
	again := message.NewMessage(msg.UUID, msg.Payload)
	again.Metadata = maps.Clone(msg.Metadata)
	if again.Metadata == nil {
		again.Metadata = message.Metadata{}
	}
	delete(again.Metadata, rabbitDeliveries)
	next := nextCopy(msg.Metadata, f.Group, f.Handler).String()
	again.Metadata[reliable.HeaderCopy] = next
	again.SetContext(ctx)
	if err := r.publisher.Publish(r.topic, again); err != nil {
		return fmt.Errorf("put message %q back in %q: %w", msg.UUID, r.topic, err)
	}
	r.seen[msg.UUID+"\x00"+f.Group+"\x00"+next] = true
	msg.Ack()
	r.told(msg, f, result)
	return nil
}

func (r *replay) told(msg *message.Message, f Failure, result ReplayResult) {
	switch result {
	case Replayed:
		r.report.Replayed++
	case Kept:
		r.report.Kept++
	case CameBack:
		r.report.CameBack++
	case Homeless:
		r.report.Homeless++
	case Refused:
		r.report.Refused++
	}
	if r.each != nil {
		r.each(msg, f, result)
	}
}
