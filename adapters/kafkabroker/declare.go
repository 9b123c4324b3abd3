package kafkabroker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/waybillmq/waybill/reliable"
)

// Declare makes the topics that do not exist, with the partitions and replicas of [WithTopics], and waits until each has
// leaders. A topic that exists is left as it is. Several processes may call it at once, and again. The account needs the
// right to create topics.
func (b *Broker) Declare(ctx context.Context, topics ...string) error {
	if len(topics) == 0 {
		return nil
	}
	if err := b.enter(); err != nil {
		return fmt.Errorf("kafkabroker: declare: %w", err)
	}
	defer b.calls.Done()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer b.untilClosing(cancel)()
	client, err := b.reach(ctx, &b.main)
	if err == nil {
		err = b.create(ctx, client, topics)
	}
	if err == nil {
		err = awaitLeaders(ctx, client, topics)
	}
	if err != nil {
		return fmt.Errorf("kafkabroker: declare: %w", err)
	}
	return nil
}

func (b *Broker) create(ctx context.Context, client *kgo.Client, topics []string) error {
	request := kmsg.NewPtrCreateTopicsRequest()
	request.TimeoutMillis = int32(b.step().Milliseconds()) //nolint:gosec // a fifth of the confirm timeout
	for _, name := range topics {
		topic := kmsg.NewCreateTopicsRequestTopic()
		topic.Topic, topic.NumPartitions, topic.ReplicationFactor = name, b.partitions, b.replicas
		request.Topics = append(request.Topics, topic)
	}
	response, err := request.RequestWith(ctx, client)
	if err != nil {
		return err
	}
	var problems []error
	for i := range response.Topics {
		topic := &response.Topics[i]
		if err := kerr.ErrorForCode(topic.ErrorCode); err != nil && !errors.Is(err, kerr.TopicAlreadyExists) {
			problems = append(problems, fmt.Errorf("topic %q: %w", topic.Topic, err))
		}
	}
	return errors.Join(problems...)
}

// awaitLeaders asks until every partition can be written to: right after its creation a topic cannot.
func awaitLeaders(ctx context.Context, client *kgo.Client, topics []string) error {
	request := kmsg.NewPtrMetadataRequest()
	for _, name := range topics {
		topic := kmsg.NewMetadataRequestTopic()
		topic.Topic = new(name)
		request.Topics = append(request.Topics, topic)
	}
	for failures := 0; ; failures++ {
		response, err := request.RequestWith(ctx, client)
		if err == nil {
			if err = withoutLeader(response); err == nil {
				return nil
			}
		}
		timer := time.NewTimer(backoff(failures))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return fmt.Errorf("%w: %w", ctx.Err(), err)
		}
	}
}

func withoutLeader(response *kmsg.MetadataResponse) error {
	for i := range response.Topics {
		topic := &response.Topics[i]
		name := ""
		if topic.Topic != nil {
			name = *topic.Topic
		}
		if err := kerr.ErrorForCode(topic.ErrorCode); err != nil {
			return fmt.Errorf("topic %q: %w", name, err)
		}
		for j := range topic.Partitions {
			partition := &topic.Partitions[j]
			if err := kerr.ErrorForCode(partition.ErrorCode); err != nil {
				return fmt.Errorf("topic %q, partition %d: %w", name, partition.Partition, err)
			}
			if partition.Leader < 0 {
				return fmt.Errorf("topic %q, partition %d: %w", name, partition.Partition, reliable.ErrUnroutable)
			}
		}
	}
	return nil
}
