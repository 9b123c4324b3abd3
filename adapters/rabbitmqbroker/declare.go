package rabbitmqbroker

import (
	"context"
	"fmt"

	"github.com/ThreeDotsLabs/watermill"
	wamqp "github.com/ThreeDotsLabs/watermill-amqp/v2/pkg/amqp"
	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/waybillmq/waybill/reliable"
)

// Declare makes the exchange, the queue and the binding of each topic, by the config's topology builder, if they are not
// there; only the exchange if the config has no names for queues. What is there with other properties is an error. It
// uses a connection of its own, and ends with ctx.
func (b *Broker) Declare(ctx context.Context, topics ...string) error {
	return b.declareAll(ctx, []wamqp.Config{b.config}, topics)
}

// declareAll declares topics by each of the configs, over one connection.
func (b *Broker) declareAll(ctx context.Context, configs []wamqp.Config, topics []string) error {
	if b.config.TopologyBuilder == nil {
		return fmt.Errorf("rabbitmqbroker: declare: %w",
			reliable.Invalid("TopologyBuilder", "is nil; use &amqp.DefaultTopologyBuilder{}"))
	}
	conn, err := b.dial(ctx, "waybill declaration")
	if err != nil {
		return fmt.Errorf("rabbitmqbroker: declare: %w", err)
	}
	interrupt := context.AfterFunc(ctx, conn.wire.abort)
	defer func() {
		interrupt()
		conn.end()
	}()
	for _, config := range configs {
		for _, topic := range topics {
			if err := declareOn(conn.Connection, config, topic); err != nil {
				if ctx.Err() != nil {
					err = context.Cause(ctx)
				}
				return fmt.Errorf("rabbitmqbroker: declare topic %q: %w", topic, err)
			}
		}
	}
	return nil
}

// declareOn uses a channel of its own, since a refused declaration closes it.
func declareOn(conn *amqp.Connection, config wamqp.Config, topic string) error {
	ch, err := conn.Channel()
	if err != nil {
		return err
	}
	exchange := config.Exchange.GenerateName(topic)
	switch {
	case config.Queue.GenerateName != nil:
		queue := config.Queue.GenerateName(topic)
		err = config.TopologyBuilder.BuildTopology(ch, queue, exchange, config, watermill.NopLogger{})
	case exchange != "":
		err = config.TopologyBuilder.ExchangeDeclare(ch, exchange, config)
	}
	if err != nil {
		_ = ch.Close() // a refusal has closed it already
		return err
	}
	return ch.Close()
}
