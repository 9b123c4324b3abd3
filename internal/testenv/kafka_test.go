//go:build services

package testenv_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/waybillmq/waybill/internal/testenv"
)

func TestKafka_isEmptyAndGoneAfterTheTest(t *testing.T) {
	var (
		brokers []string
		topics  []string
	)
	for _, name := range []string{"first", "second"} {
		t.Run(name, func(t *testing.T) {
			place := testenv.Kafka(t)
			brokers = place.Brokers
			topics = append(topics, place.Topic("things", 3))
			client := kafkaClient(t, place.Brokers)
			require.NoError(t, client.ProduceSync(t.Context(), &kgo.Record{Topic: place.Name("things"), Value: []byte("x")}).FirstErr())
			require.ErrorIs(t, client.ProduceSync(t.Context(), &kgo.Record{Topic: place.Name("others")}).FirstErr(),
				kerr.UnknownTopicOrPartition, "a topic is made by being named: tests of missing ones would prove nothing")
		})
	}
	assert.NotEqual(t, topics[0], topics[1])
	request := kmsg.NewPtrMetadataRequest()
	for _, topic := range topics {
		wanted := kmsg.NewMetadataRequestTopic()
		wanted.Topic = &topic
		request.Topics = append(request.Topics, wanted)
	}
	response, err := request.RequestWith(t.Context(), kafkaClient(t, brokers))
	require.NoError(t, err)
	require.Len(t, response.Topics, 2)
	for _, topic := range response.Topics {
		assert.Equal(t, kerr.UnknownTopicOrPartition.Code, topic.ErrorCode)
	}
}

func kafkaClient(t *testing.T, brokers []string) *kgo.Client {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(brokers...), kgo.UnknownTopicRetries(0))
	require.NoError(t, err)
	t.Cleanup(client.Close)
	return client
}
