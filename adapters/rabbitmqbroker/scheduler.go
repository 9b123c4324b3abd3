package rabbitmqbroker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	wamqp "github.com/ThreeDotsLabs/watermill-amqp/v2/pkg/amqp"
	"github.com/ThreeDotsLabs/watermill/message"
	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/waybillmq/waybill/adapters/internal/wmpublisher"
	"github.com/waybillmq/waybill/reliable"
)

const (
	defaultShards = 8
	maxShards     = 64
	maxDelays     = 64
	// longestDelay is far below what a queue's TTL can hold; a check that waits longer than this belongs into a database.
	longestDelay = 24 * time.Hour
)

// Scheduler delivers messages later: each waits in a quorum queue whose messages all have the same time to live, and which
// dead-letters them, at least once, to where the topic's messages go. Nothing of RabbitMQ's ways to delay loses less:
// times to live of single messages wait behind the longest one at the front of their queue, and the delayed-exchange plugin
// keeps what is scheduled on one node, without confirms that mean anything.
//
// A message is accepted once a quorum of the delay queue has it; while its topic's queue is missing or full it waits in the
// delay queue, and comes when there is room. What comes out of a delay queue has x-death among its headers, which the
// marshaler of watermill-amqp's own subscriber takes for an error: read it with [Broker.Subscriber].
//
// It is safe for concurrent use, and connects when it is first used.
type Scheduler struct {
	delays []time.Duration
	shards uint64
	bundle int // bytes that a bundle may have; 0 for none
	next   atomic.Uint64
	pub    *wmpublisher.Publisher
}

var _ reliable.Scheduler = (*Scheduler)(nil)

// SchedulerOption changes how a Scheduler works.
type SchedulerOption func(*schedulerSettings)

type schedulerSettings struct {
	shards  int
	bundles bool
}

// WithShards sets how many queues share the messages of one delay. Default 8, 1 to 64. A single queue of RabbitMQ 3.10
// dead-letters 3,000 messages a second beside other work, so too few fall behind; each one costs a little memory on every
// node. Another number makes other queues: what waits in those that are used no more still comes.
func WithShards(n int) SchedulerOption { return func(s *schedulerSettings) { s.shards = n } }

// WithBundles has the messages to one topic that one call of Schedule has travel together, up to 100 and 64 KiB in one of
// RabbitMQ's, which costs the broker a fraction. [Broker.Subscriber] takes them apart and hands over one after the other;
// nobody else can read them. Whoever of them is nacked comes again alone, in the same subscriber, and no delivery limit of the
// queue counts that: have the handler ack, or poison, what can never succeed, or RabbitMQ's consumer_timeout (30 min) has the
// whole bundle come again. The broker hears of them when all are acked, and gives them all again if the subscriber is gone
// before. With Consume.NoRequeueOnNack it drops, or dead-letters, them all when one was nacked. An error of Schedule names
// the bundle. Default off: each message travels by itself.
//
// Have every subscriber be of this version before a scheduler bundles.
func WithBundles() SchedulerOption { return func(s *schedulerSettings) { s.bundles = true } }

// Scheduler returns a scheduler that keeps the delays given, each of 1 ms to 24 h, with this Broker's config and options,
// on a connection of its own; the caller closes it. A delay between two of them is rounded up, one above the longest
// refused. Each delay is a set of queues, "waybill.delay." and its length, declared when it is first used; once declared
// they stay, so choose few. With [WithoutDeclaring] they have to be there.
func (b *Broker) Scheduler(delays []time.Duration, opts ...SchedulerOption) (*Scheduler, error) {
	s := schedulerSettings{shards: defaultShards}
	for _, opt := range opts {
		opt(&s)
	}
	var errs []error
	if len(delays) == 0 || len(delays) > maxDelays {
		errs = append(errs, reliable.Invalid("delays", "are %d, must be 1 to %d: each is a set of queues", len(delays), maxDelays))
	}
	for _, delay := range delays {
		if delay < time.Millisecond || delay > longestDelay || delay%time.Millisecond != 0 {
			errs = append(errs, reliable.Invalid("delays", "has %v, must be whole milliseconds from 1ms to %v", delay, longestDelay))
		}
	}
	if s.shards < 1 || s.shards > maxShards {
		errs = append(errs, reliable.Invalid("WithShards", "is %d, must lie between 1 and %d", s.shards, maxShards))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("rabbitmqbroker: scheduler: %w", err)
	}
	own := start(b.delaying())
	sorted := slices.Clone(delays)
	slices.Sort(sorted)
	bundle := 0
	if s.bundles {
		bundle = bundleBytes
		if b.sizeChecks {
			bundle = min(bundle, b.maxMessage)
		}
	}
	return &Scheduler{
		delays: slices.Compact(sorted), bundle: bundle,
		shards: uint64(s.shards), //nolint:gosec // it is small and above 0
		pub:    wmpublisher.New(own, own, own.Close, wmpublisher.WithConfirmTimeout(own.MaxConfirmWait())),
	}, nil
}

// Schedule implements [reliable.Scheduler]: it returns nil once a quorum of a delay queue has every message. A delay of 0
// is the shortest one.
func (s *Scheduler) Schedule(ctx context.Context, after time.Duration, envs ...reliable.Envelope) error {
	delay, err := s.kept(after)
	if err != nil {
		return fmt.Errorf("rabbitmqbroker: schedule: %w", err)
	}
	byTopic := make(map[string][]*message.Message)
	for i := range envs {
		if envs[i].Topic == "" {
			return fmt.Errorf("rabbitmqbroker: schedule: %w", reliable.Invalid("Topic", "is empty"))
		}
		msg := envs[i].Message()
		if msg.UUID == "" { // in a bundle nobody else gives it one
			msg.UUID = string(reliable.NewID())
		}
		msg.SetContext(ctx)
		byTopic[envs[i].Topic] = append(byTopic[envs[i].Topic], msg)
	}
	var (
		group sync.WaitGroup
		lock  sync.Mutex
		errs  []error
	)
	for topic, messages := range byTopic {
		way := detour{delay: delay, shard: s.next.Add(1) % s.shards, topic: topic}
		if s.bundle > 0 {
			messages = bundled(messages, s.bundle)
		}
		publish := func() {
			if err := s.pub.Publish(way.String(), messages...); err != nil {
				lock.Lock()
				errs = append(errs, fmt.Errorf("to topic %q: %w", topic, err))
				lock.Unlock()
			}
		}
		if len(byTopic) == 1 {
			publish()
			break
		}
		group.Go(publish)
	}
	group.Wait()
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("rabbitmqbroker: schedule: %w", err)
	}
	return nil
}

// kept is the shortest delay that is not shorter than after.
func (s *Scheduler) kept(after time.Duration) (time.Duration, error) {
	if after < 0 {
		return 0, reliable.Invalid("after", "is %v, must not be negative", after)
	}
	i, _ := slices.BinarySearch(s.delays, after)
	if i == len(s.delays) {
		return 0, reliable.Invalid("after", "is %v, the longest delay of this scheduler is %v: give it a longer one",
			after, s.delays[len(s.delays)-1])
	}
	return s.delays[i], nil
}

// Close waits for the confirms of what is being scheduled and ends the connection. What was accepted stays accepted.
func (s *Scheduler) Close() error { return s.pub.Close() }

// detour is the way of a message through a delay queue to its topic. To the broker below the Scheduler it is a topic.
type detour struct {
	delay time.Duration
	shard uint64
	topic string
}

func (d detour) String() string {
	return strconv.FormatInt(d.delay.Milliseconds(), 10) + "/" + strconv.FormatUint(d.shard, 10) + "/" + d.topic
}

func parseDetour(text string) detour {
	delay, rest, _ := strings.Cut(text, "/")
	shard, topic, _ := strings.Cut(rest, "/")
	ms, _ := strconv.ParseInt(delay, 10, 64) // it was written above
	n, _ := strconv.ParseUint(shard, 10, 64)
	return detour{time.Duration(ms) * time.Millisecond, n, topic}
}

// queue names the delay queue, and the exchange that leads into it. What goes to another exchange afterwards waits in a
// queue of its own, since a queue dead-letters to one exchange.
func (d detour) queue(target string) string {
	name := fmt.Sprintf("waybill.delay.%v.%d", d.delay, d.shard)
	if target != "" {
		name += "." + target
	}
	return name
}

// delaying are the settings of the Broker below a Scheduler: a message goes to the exchange of its delay queue with the
// routing key of its topic, which it keeps, so that the dead-letter exchange routes it as if it came from the publisher.
func (b *Broker) delaying() settings {
	s := b.settings
	own := b.config
	s.config.Exchange.GenerateName = func(topic string) string {
		way := parseDetour(topic)
		return way.queue(own.Exchange.GenerateName(way.topic))
	}
	s.config.Publish.GenerateRoutingKey = func(topic string) string {
		return own.Publish.GenerateRoutingKey(parseDetour(topic).topic)
	}
	s.config.Queue.GenerateName = func(topic string) string { return topic } // the builder needs all of it
	s.config.TopologyBuilder = delayTopology{b.settings}
	s.mandatory = true
	if s.declare != declareNothing {
		s.declare = declareQueues
	}
	return s
}

// delayTopology declares a delay queue with its exchange, and what the topic itself needs.
type delayTopology struct{ target settings }

func (d delayTopology) ExchangeDeclare(channel *amqp.Channel, exchange string, _ wamqp.Config) error {
	return channel.ExchangeDeclare(exchange, amqp.ExchangeFanout, true, false, false, false, nil)
}

func (d delayTopology) BuildTopology(
	channel *amqp.Channel, detourName, exchange string, config wamqp.Config, _ watermill.LoggerAdapter,
) error {
	way := parseDetour(detourName)
	ofTopic := topology{settings: &d.target}
	if err := ofTopic.build(channel, way.topic); err != nil {
		return err
	}
	if err := d.ExchangeDeclare(channel, exchange, config); err != nil {
		return err
	}
	_, err := channel.QueueDeclare(exchange, true, false, false, false, amqp.Table{
		amqp.QueueTypeArg:        amqp.QueueTypeQuorum,
		"x-message-ttl":          way.delay.Milliseconds(),
		"x-dead-letter-exchange": d.target.config.Exchange.GenerateName(way.topic),
		"x-dead-letter-strategy": "at-least-once",
		"x-overflow":             "reject-publish", // without it a queue is at most once
	})
	if err != nil {
		return err
	}
	return channel.QueueBind(exchange, "", exchange, false, nil)
}
