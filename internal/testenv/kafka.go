package testenv

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

const (
	kafkaVariable = "WAYBILL_TEST_KAFKA"
	kafkaDefault  = "127.0.0.1:15730"

	// kafkaAnswer bounds one request, which the broker may not be able to serve yet.
	kafkaAnswer = 15 * time.Second
)

// KafkaPlace is a test's own part of the test broker: all topics and consumer groups whose names begin with its Prefix.
type KafkaPlace struct {
	// Brokers are the addresses to begin with, host:port each.
	Brokers []string
	// Prefix begins the name of each topic and group.
	Prefix string

	t testing.TB
}

// Kafka makes a place on the test broker, without topics. Topics and groups in it are deleted when the test ends.
func Kafka(t testing.TB) *KafkaPlace {
	t.Helper()
	k := &KafkaPlace{Brokers: strings.Split(setting(kafkaVariable, kafkaDefault), ","), Prefix: uniqueName() + "-", t: t}
	if _, err := k.topics(); err != nil {
		unreachable(t, "Kafka", kafkaVariable, err)
	}
	t.Cleanup(func() {
		topics, err := k.topics()
		if err == nil {
			err = k.delete(topics)
		}
		if err := errors.Join(err, k.deleteGroups()); err != nil {
			t.Errorf("testenv: clean up on Kafka: %v", err)
		}
	})
	return k
}

// Name is what a topic or group called name is called in full.
func (k *KafkaPlace) Name(name string) string { return k.Prefix + name }

// Topic makes a topic with that many partitions and returns its full name. It has a leader once it is there.
func (k *KafkaPlace) Topic(name string, partitions int) string {
	k.t.Helper()
	topic := k.Name(name)
	if err := CreateKafkaTopic(k.Brokers, topic, partitions); err != nil {
		k.t.Fatalf("testenv: make topic %q: %v", topic, err)
	}
	return topic
}

// Delete deletes topics by their full names.
func (k *KafkaPlace) Delete(topics ...string) {
	k.t.Helper()
	if err := k.delete(topics); err != nil {
		k.t.Fatalf("testenv: delete topics: %v", err)
	}
}

// CreateKafkaTopic makes a topic on any brokers, with one replica, and returns once each partition has a leader.
func CreateKafkaTopic(brokers []string, topic string, partitions int, settings ...[2]string) error {
	create := kmsg.NewCreateTopicsRequestTopic()
	create.Topic, create.NumPartitions, create.ReplicationFactor = topic, int32(partitions), 1
	for _, setting := range settings {
		config := kmsg.NewCreateTopicsRequestTopicConfig()
		config.Name, config.Value = setting[0], &setting[1]
		create.Configs = append(create.Configs, config)
	}
	request := kmsg.NewPtrCreateTopicsRequest()
	request.TimeoutMillis = int32(kafkaAnswer.Milliseconds())
	request.Topics = append(request.Topics, create)
	return onKafka(brokers, func(ctx context.Context, client *kgo.Client) error {
		response, err := request.RequestWith(ctx, client)
		if err != nil {
			return err
		}
		for _, topic := range response.Topics {
			if err := kerr.ErrorForCode(topic.ErrorCode); err != nil && !errors.Is(err, kerr.TopicAlreadyExists) {
				return err
			}
		}
		return awaitLeaders(ctx, client, topic)
	})
}

func awaitLeaders(ctx context.Context, client *kgo.Client, topic string) error {
	request := kmsg.NewPtrMetadataRequest()
	wanted := kmsg.NewMetadataRequestTopic()
	wanted.Topic = &topic
	request.Topics = append(request.Topics, wanted)
	for {
		response, err := request.RequestWith(ctx, client)
		if err == nil && led(response) {
			return nil
		}
		select {
		case <-time.After(20 * time.Millisecond): // nothing tells when a leader is there
		case <-ctx.Done():
			return fmt.Errorf("the topic has no leader: %w", ctx.Err())
		}
	}
}

func led(response *kmsg.MetadataResponse) bool {
	for _, topic := range response.Topics {
		if topic.ErrorCode != 0 {
			return false
		}
		for _, partition := range topic.Partitions {
			if partition.ErrorCode != 0 || partition.Leader < 0 {
				return false
			}
		}
	}
	return len(response.Topics) > 0
}

// topics lists the place's topics.
func (k *KafkaPlace) topics() (found []string, err error) {
	err = onKafka(k.Brokers, func(ctx context.Context, client *kgo.Client) error {
		request := kmsg.NewPtrMetadataRequest()
		request.Topics = nil // all
		response, err := request.RequestWith(ctx, client)
		if err != nil {
			return err
		}
		for _, topic := range response.Topics {
			if topic.Topic != nil && strings.HasPrefix(*topic.Topic, k.Prefix) {
				found = append(found, *topic.Topic)
			}
		}
		return nil
	})
	return found, err
}

func (k *KafkaPlace) delete(topics []string) error {
	if len(topics) == 0 {
		return nil
	}
	request := kmsg.NewPtrDeleteTopicsRequest()
	request.TimeoutMillis = int32(kafkaAnswer.Milliseconds())
	request.TopicNames = topics
	for _, topic := range topics {
		named := kmsg.NewDeleteTopicsRequestTopic()
		named.Topic = &topic
		request.Topics = append(request.Topics, named)
	}
	return onKafka(k.Brokers, func(ctx context.Context, client *kgo.Client) error {
		response, err := request.RequestWith(ctx, client)
		if err != nil {
			return err
		}
		for _, topic := range response.Topics {
			if err := kerr.ErrorForCode(topic.ErrorCode); err != nil && !errors.Is(err, kerr.UnknownTopicOrPartition) {
				return err
			}
		}
		return nil
	})
}

// deleteGroups deletes the place's consumer groups. One that a test has left with members in it is not empty.
func (k *KafkaPlace) deleteGroups() error {
	return onKafka(k.Brokers, func(ctx context.Context, client *kgo.Client) error {
		listed, err := kmsg.NewPtrListGroupsRequest().RequestWith(ctx, client)
		if err != nil {
			return err
		}
		request := kmsg.NewPtrDeleteGroupsRequest()
		for _, group := range listed.Groups {
			if strings.HasPrefix(group.Group, k.Prefix) {
				request.Groups = append(request.Groups, group.Group)
			}
		}
		if len(request.Groups) == 0 {
			return nil
		}
		response, err := request.RequestWith(ctx, client)
		if err != nil {
			return err
		}
		var problems []error
		for _, group := range response.Groups {
			if err := kerr.ErrorForCode(group.ErrorCode); err != nil && !errors.Is(err, kerr.GroupIDNotFound) {
				problems = append(problems, fmt.Errorf("group %q: %w", group.Group, err))
			}
		}
		return errors.Join(problems...)
	})
}

// onKafka runs do with a client of its own.
func onKafka(brokers []string, do func(context.Context, *kgo.Client) error) error {
	client, err := kgo.NewClient(kgo.SeedBrokers(brokers...), kgo.RetryTimeout(kafkaAnswer), kgo.MetadataMinAge(10*time.Millisecond))
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return do(ctx, client)
}
