package rabbitmqbroker

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"time"

	wamqp "github.com/ThreeDotsLabs/watermill-amqp/v2/pkg/amqp"
	"github.com/ThreeDotsLabs/watermill/message"
	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/reliable/backend"
)

// Backend opens brokers by URL:
//
//	amqp://user:password@host:5672/vhost?groups=shipping,billing&queue_type=quorum
//
// The scheme is amqp or amqps. By default a topic is a durable fanout exchange, and each consumer group has a durable
// queue of its own, named topic_group: the topology of watermill-amqp's NewDurablePubSubConfig with
// GenerateQueueNameTopicNameWithSuffix. A message is Returned while no group has a queue, so the groups are named in the
// URL of whoever calls Declare, or each consumer subscribes once before the first message. Parameters:
//
//	topology          pubsub (default), or queue: a topic is a durable queue (watermill-amqp's NewDurableQueueConfig)
//	                  that all consumers share, whatever group they name
//	groups            the consumer groups whose queues Declare makes, separated by commas; for pubsub
//	queue_type        classic (default) or quorum, see WithQuorumQueues
//	declare           usual (default), all (WithDeclaredQueues; for topology=queue only) or none (WithoutDeclaring)
//	mandatory         true (default) or false, see WithoutMandatory
//	window            see WithWindow; default 1000
//	confirm_timeout   see WithConfirmTimeout; default 10s
//	blocked_timeout   see WithBlockedTimeout; default 20s, or the confirm timeout if that is longer
//	close_timeout     see WithCloseTimeout; default 5s
//	max_message       see WithMaxMessageBytes; default 16777216
//
// for subscribers:
//
//	prefetch          see WithPrefetch; default 100
//	concurrency       see WithConcurrency; default 1
//	nack_delay        see WithNackDelay; default 100ms
//	drain_timeout     see WithDrainTimeout; default 10s
//
// and these, which mean what they mean to amqp091-go: heartbeat (seconds), connection_timeout (milliseconds), cacertfile,
// certfile, keyfile, server_name_indication.
func Backend() backend.Kind[backend.Broker] {
	return backend.Kind[backend.Broker]{
		Schemes: []string{"amqp", "amqps"},
		Example: "amqp://user:password@host:5672/vhost?topology=pubsub&groups=shipping,billing&queue_type=quorum&declare=usual&" +
			"mandatory=true&window=1000&confirm_timeout=10s&blocked_timeout=20s&close_timeout=5s&max_message=16777216&" +
			"prefetch=100&concurrency=1&nack_delay=100ms&drain_timeout=10s&" +
			"heartbeat=10&connection_timeout=10000&cacertfile=/etc/ssl/mq.pem&certfile=/etc/ssl/own.pem&" +
			"keyfile=/etc/ssl/own.key&server_name_indication=mq.example.com",
		Open: func(_ context.Context, u *url.URL) (backend.Broker, error) { return openURL(u) },
	}
}

// opened is a Broker with the topology that a URL names.
type opened struct {
	*Broker
	shared      bool // all groups share the queue of a topic
	groups      []string
	subscribing []SubscriberOption
}

var (
	_ backend.Broker   = (*opened)(nil)
	_ backend.Pinger   = (*opened)(nil)
	_ reliable.Wrapper = (*opened)(nil)
)

func (o *opened) Unwrap() any { return o.Broker }

// Subscribe implements [backend.Broker].
func (o *opened) Subscribe(group string) (message.Subscriber, error) {
	if group == "" {
		return nil, fmt.Errorf("rabbitmqbroker: subscribe: %w",
			reliable.Invalid("group", "is empty; name the service that consumes, the same in all its processes"))
	}
	s := o.settings
	s.config = o.configOf(group)
	subscriber, err := newSubscriber(s, o.subscribing)
	if err != nil {
		return nil, err
	}
	return subscriber, nil
}

// configOf is the topology of one consumer group.
func (o *opened) configOf(group string) wamqp.Config {
	config := o.config
	if !o.shared {
		config.Queue.GenerateName = wamqp.GenerateQueueNameTopicNameWithSuffix(group)
	}
	return config
}

// Declare implements [backend.Broker]: exchanges, and the queues of the groups that the URL names.
func (o *opened) Declare(ctx context.Context, topics ...string) error {
	if o.shared || len(o.groups) == 0 {
		return o.Broker.Declare(ctx, topics...)
	}
	configs := make([]wamqp.Config, len(o.groups))
	for i, group := range o.groups {
		configs[i] = o.configOf(group)
	}
	return o.declareAll(ctx, configs, topics)
}

// driverParams are passed on to amqp091-go.
var driverParams = []string{
	"heartbeat", "connection_timeout", "cacertfile", "certfile", "keyfile", "server_name_indication",
}

func openURL(u *url.URL) (*opened, error) {
	p := backend.ParamsOf(u)
	if u.Hostname() == "" {
		p.Refuse("host", "is missing; give the broker's")
	}
	if strings.Contains(strings.TrimPrefix(u.EscapedPath(), "/"), "/") {
		p.Refuse("path", "must be the name of the virtual host; percent-encode a / in it as %%2F")
	}
	passed := url.Values{}
	for _, name := range driverParams {
		if value, ok := p.Text(name); ok {
			passed.Set(name, value)
		}
	}
	driver := *u
	driver.RawQuery = passed.Encode()
	o := &opened{}
	config := wamqp.NewDurablePubSubConfig(driver.String(), nil)
	if topology, _ := p.Choice("topology", "pubsub", "queue"); topology == "queue" {
		config, o.shared = wamqp.NewDurableQueueConfig(driver.String()), true
	}
	if o.groups, _ = p.List("groups"); o.groups != nil && o.shared {
		p.Refuse(`parameter "groups"`, "is for topology=pubsub; with topology=queue all groups share one queue")
	}
	config.Consume.Qos.PrefetchCount = defaultPrefetch
	if n, ok := p.Int("prefetch", 1, maxPrefetch); ok {
		config.Consume.Qos.PrefetchCount = n
	}
	if n, ok := p.Int("concurrency", 1, maxPrefetch); ok {
		if n > config.Consume.Qos.PrefetchCount {
			p.Refuse(`parameter "concurrency"`, "is %d, must not exceed the prefetch of %d", n, config.Consume.Qos.PrefetchCount)
		}
		o.subscribing = append(o.subscribing, WithConcurrency(n))
	}
	if d, ok := p.Duration("nack_delay", 0, time.Hour); ok {
		o.subscribing = append(o.subscribing, WithNackDelay(d))
	}
	if d, ok := p.Duration("drain_timeout", 0, time.Hour); ok {
		o.subscribing = append(o.subscribing, WithDrainTimeout(d))
	}
	opts := urlOptions(p, o.shared)
	if err := p.Err(); err != nil {
		return nil, fmt.Errorf("rabbitmqbroker: open: %w", err)
	}
	if _, err := amqp.ParseURI(driver.String()); err != nil {
		return nil, fmt.Errorf("rabbitmqbroker: open: %w",
			reliable.Invalid("broker URL", "is refused by the driver; check port, heartbeat and connection_timeout, which are numbers"))
	}
	var err error
	if o.Broker, err = New(config, opts...); err != nil {
		return nil, err
	}
	return o, nil
}

func urlOptions(p *backend.Params, shared bool) []Option {
	var opts []Option
	if kind, _ := p.Choice("queue_type", "classic", "quorum"); kind == "quorum" {
		opts = append(opts, WithQuorumQueues())
	}
	switch mode, _ := p.Choice("declare", "usual", "all", "none"); mode {
	case "all":
		if !shared {
			p.Refuse(`parameter "declare"`, "can be all with topology=queue only: a queue of pubsub belongs to a group; "+
				"name them by groups and call Declare")
		}
		opts = append(opts, WithDeclaredQueues())
	case "none":
		opts = append(opts, WithoutDeclaring())
	}
	if !p.Bool("mandatory", true) {
		opts = append(opts, WithoutMandatory())
	}
	if n, ok := p.Int("window", 1, maxWindow); ok {
		opts = append(opts, WithWindow(n))
	}
	confirm, blocked := defaultConfirmTimeout, defaultBlockedTimeout
	if d, ok := p.Duration("confirm_timeout", 100*time.Millisecond, time.Hour); ok {
		confirm, blocked = d, max(blocked, d)
	}
	if d, ok := p.Duration("blocked_timeout", 100*time.Millisecond, time.Hour); ok {
		if blocked = d; d < confirm {
			p.Refuse(`parameter "blocked_timeout"`, "is %v, must be at least the confirm timeout of %v", d, confirm)
		}
	}
	opts = append(opts, WithConfirmTimeout(confirm), WithBlockedTimeout(blocked))
	if d, ok := p.Duration("close_timeout", 0, time.Hour); ok {
		opts = append(opts, WithCloseTimeout(d))
	}
	if n, ok := p.Int("max_message", 1, 1<<30); ok {
		opts = append(opts, WithMaxMessageBytes(n))
	}
	return opts
}
