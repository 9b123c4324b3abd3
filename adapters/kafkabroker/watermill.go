package kafkabroker

import (
	"fmt"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill"
	wkafka "github.com/ThreeDotsLabs/watermill-kafka/v3/pkg/kafka"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/waybillmq/waybill/adapters/internal/wmpublisher"
)

// Watermill returns a Watermill publisher with this Broker's options, in place of watermill-kafka's. Its Publish returns nil
// only once all in-sync replicas have every message, and never later than [Broker.MaxConfirmWait] after the call or the end
// of a message's context. All messages of a call are in flight together. It has connections of its own, so that the
// confirms here are the reader's of Receive alone; its Close ends them, and Close of the Broker does not.
func (b *Broker) Watermill() message.Publisher {
	own := start(b.settings)
	return wmpublisher.New(own, own, own.Close, wmpublisher.WithConfirmTimeout(own.MaxConfirmWait()))
}

// Subscribe returns watermill-kafka's subscriber as a member of a consumer group; the caller closes it. Each partition is
// read by one member of the group, in order and one message at a time: the next one comes after Ack, so the number of
// partitions is what a group can do at once; [Broker.Subscriber] can do more. A group that is new begins with the oldest
// message; acked positions are committed every second, so that after a crash up to a second's messages come again. After a Nack
// the same message comes again in 100 ms, and everything behind it waits. With an empty group every subscriber gets the messages
// of all partitions from its subscription on, and remembers no position.
//
// A topic that does not exist is made by SubscribeInitialize, as by [Broker.Declare].
func (b *Broker) Subscribe(group string) (message.Subscriber, error) {
	client := wkafka.DefaultSaramaSubscriberConfig()
	client.ClientID = b.clientID
	client.Consumer.Offsets.Initial = sarama.OffsetOldest
	if group == "" {
		client.Consumer.Offsets.Initial = sarama.OffsetNewest
	}
	b.secure(client)
	config := wkafka.SubscriberConfig{
		Brokers: b.brokers, Unmarshaler: b.marshaler, OverwriteSaramaConfig: client, ConsumerGroup: group,
		InitializeTopicDetails: &sarama.TopicDetail{NumPartitions: b.partitions, ReplicationFactor: b.replicas},
	}
	for _, change := range b.subscriber {
		change(&config)
	}
	subscriber, err := wkafka.NewSubscriber(config, watermill.NewSlogLogger(b.logger))
	if err != nil {
		return nil, fmt.Errorf("kafkabroker: subscribe: %w", err)
	}
	return subscriber, nil
}
