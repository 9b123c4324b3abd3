package delayedcheck

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/strategies/tagging"
)

// TopicScheduler is a [reliable.Scheduler] for brokers that cannot delay, Kafka above all. It publishes each message at
// once, to its own topic, and says in its metadata ([reliable.HeaderDelay]) how long it is to wait. The receiving side keeps
// it until then: [Service.Checks] in the ledger, for any other handler the middleware that [Postpone] returns. The producer
// writes no row and runs nothing.
//
// Whatever else consumes the topic sees its messages early. The delay counts from the message's arrival on the receiving
// side, so that no clocks are compared: it never comes early, and what is received late comes late. It is safe for
// concurrent use, and has nothing to close but its publisher, which is the caller's.
type TopicScheduler struct{ publisher message.Publisher }

var _ reliable.Scheduler = (*TopicScheduler)(nil)

// NewTopicScheduler returns a scheduler over a Watermill publisher whose Publish returns nil only once the broker has
// confirmed every message: the Watermill() of any of this project's brokers. It does no I/O.
func NewTopicScheduler(publisher message.Publisher) (*TopicScheduler, error) {
	if publisher == nil {
		return nil, fmt.Errorf("delayedcheck: new topic scheduler: %w",
			reliable.Invalid("publisher", "is nil; give a broker's Watermill()"))
	}
	return &TopicScheduler{publisher}, nil
}

// longestPostponed is as long as stores keep a message back.
const longestPostponed = 10 * 365 * 24 * time.Hour

// Schedule implements [reliable.Scheduler]: it returns nil once the broker has confirmed every message. The ID of a message
// is taken once by whoever keeps it: schedule what is to come again under a new one, as checks have.
func (s *TopicScheduler) Schedule(ctx context.Context, after time.Duration, envs ...reliable.Envelope) error {
	if err := s.schedule(ctx, after, envs); err != nil {
		return fmt.Errorf("delayedcheck: schedule: %w", err)
	}
	return nil
}

func (s *TopicScheduler) schedule(ctx context.Context, after time.Duration, envs []reliable.Envelope) error {
	if after < 0 || after > longestPostponed {
		return reliable.Invalid("after", "is %v, must lie between 0 and %v", after, longestPostponed)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	var topics []string
	byTopic := make(map[string][]*message.Message)
	for i := range envs {
		topic := envs[i].Topic
		if topic == "" {
			return reliable.Invalid("Topic", "is empty; name the topic that the message goes to")
		}
		msg := envs[i].Message()
		msg.Metadata[reliable.HeaderDelay] = after.String()
		msg.SetContext(ctx)
		if byTopic[topic] == nil {
			topics = append(topics, topic)
		}
		byTopic[topic] = append(byTopic[topic], msg)
	}
	var errs []error
	for _, topic := range topics {
		errs = append(errs, s.publisher.Publish(topic, byTopic[topic]...))
	}
	return errors.Join(errs...)
}

// postponed says for how long a message that was received is to wait, and whether it is; what cannot be a delay is an error
// that is [reliable.ErrInvalid].
func postponed(msg *message.Message) (delay time.Duration, is bool, err error) {
	text, is := msg.Metadata[reliable.HeaderDelay]
	if !is {
		return 0, false, nil
	}
	delay, err = time.ParseDuration(text)
	if err != nil || delay < 0 || delay > longestPostponed {
		return 0, true, reliable.Invalid(reliable.HeaderDelay, "is %.40q, which is no delay from 0 to %v", text, longestPostponed)
	}
	return delay, true, nil
}

// Keeper stores messages and sends them once they are due: a *tagging.Outbox, or a *tagging.Sender beside one.
type Keeper interface {
	// Publish returns once envs are stored.
	Publish(ctx context.Context, envs ...reliable.Envelope) (*tagging.Receipt, error)
}

// Postpone returns a middleware for Watermill's router that keeps what a [TopicScheduler] sent until it is due: such a
// message is stored in the outbox with its delay and acked, and when it is due the outbox's relay sends it to the topic again,
// without the delay, for the handler. Other messages pass. A message that was received twice is kept once, by its ID.
//
// The outbox may be any, shared with other uses; its relay needs a publisher to the broker. Concurrent calls share its
// statements, so a subscriber that hands over one message at a time is as slow as one INSERT each. Errors are those of the
// outbox; a delay that is none is [reliable.ErrInvalid], and trying again does not change it.
func Postpone(outbox Keeper) message.HandlerMiddleware {
	return func(handler message.HandlerFunc) message.HandlerFunc {
		return func(msg *message.Message) ([]*message.Message, error) {
			delay, is, err := postponed(msg)
			if err != nil {
				return nil, fmt.Errorf("delayedcheck: postpone: %w", err)
			}
			if !is {
				return handler(msg)
			}
			topic := message.SubscribeTopicFromCtx(msg.Context())
			if topic == "" {
				return nil, fmt.Errorf("delayedcheck: postpone: %w",
					reliable.Invalid("Topic", "is not known: run the middleware in a router of Watermill's"))
			}
			if _, err := outbox.Publish(msg.Context(), kept(topic, msg, delay)); err != nil {
				return nil, fmt.Errorf("delayedcheck: postpone: %w", err)
			}
			return nil, nil
		}
	}
}

// kept is the envelope that sends a message to its topic once more, after its delay. It goes out under the same ID, so it
// says that it is no accident.
func kept(topic string, msg *message.Message, delay time.Duration) reliable.Envelope {
	env := reliable.EnvelopeOf(topic, msg)
	delete(env.Metadata, reliable.HeaderDelay)
	before, _, _ := strings.Cut(env.Metadata[reliable.HeaderCopy], " ")
	copies, _ := strconv.Atoi(before) // 0 for none
	env.Metadata[reliable.HeaderCopy] = fmt.Sprintf("%d postponed", copies+1)
	env.Delay = delay
	return env
}
