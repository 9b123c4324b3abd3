//go:build services

package rabbitmqbroker_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/rabbitmqbroker"
	"github.com/waybillmq/waybill/internal/testenv"
	"github.com/waybillmq/waybill/reliable"
)

// scheduleBundle has n messages come to the topic, in one bundle that has arrived.
func scheduleBundle(t *testing.T, b *rabbitmqbroker.Broker, ch *amqp.Channel, topic string, n int) []reliable.Envelope {
	t.Helper()
	s, err := b.Scheduler([]time.Duration{time.Millisecond}, rabbitmqbroker.WithShards(1), rabbitmqbroker.WithBundles())
	require.NoError(t, err)
	defer func() { require.NoError(t, s.Close()) }()
	envs := make([]reliable.Envelope, n)
	for i := range envs {
		envs[i] = reliable.Envelope{
			ID: reliable.ID(fmt.Sprint("message-", i)), Topic: topic, Key: "k", Payload: []byte{byte(i), 0, 255},
			Metadata: map[string]string{"kind": "created"},
		}
	}
	require.NoError(t, s.Schedule(t.Context(), 0, envs...))
	awaitReady(t, ch, topic, 1)
	return envs
}

func awaitAll(t *testing.T, messages <-chan *message.Message, envs []reliable.Envelope) (all []*message.Message) {
	t.Helper()
	for i := range envs {
		msg := await(t, messages)
		require.True(t, envs[i].Message().Equals(msg), "message %d is not what was sent: %s", i, msg.UUID)
		all = append(all, msg)
	}
	return all
}

func TestBundle_isOverWhenAllOfItIsAcked(t *testing.T) {
	address := testenv.RabbitMQ(t)
	b, ch := open(t, address, rabbitmqbroker.WithQuorumQueues()), admin(t, address)
	envs := scheduleBundle(t, b, ch, "checks", 3)
	sub := subscriberOf(t, b, rabbitmqbroker.WithConcurrency(3))
	all := awaitAll(t, subscribe(t, sub, "checks"), envs)
	for _, i := range []int{2, 0} {
		all[i].Ack()
	}
	// What is not acked is given back when its subscriber goes, and all of it comes again, for the broker knows of one only.
	canceled, cancel := context.WithCancel(t.Context())
	other, err := subscriberOf(t, b).Subscribe(canceled, "checks")
	require.NoError(t, err)
	select {
	case msg := <-other:
		require.Fail(t, "it came to another subscriber meanwhile", msg.UUID)
	case <-time.After(300 * time.Millisecond):
	}
	cancel()
	for range other { // until it has ended
	}
	all[1].Ack()
	require.NoError(t, sub.Close())
	awaitReady(t, ch, "checks", 0)
}

func TestBundle_whoIsNackedComesAgainAlone(t *testing.T) {
	address := testenv.RabbitMQ(t)
	b, ch := open(t, address, rabbitmqbroker.WithQuorumQueues()), admin(t, address)
	envs := scheduleBundle(t, b, ch, "checks", 4)
	sub := subscriberOf(t, b, rabbitmqbroker.WithConcurrency(4))
	messages := subscribe(t, sub, "checks")
	all := awaitAll(t, messages, envs)
	for i, msg := range all {
		if i == 1 {
			msg.Nack()
		} else {
			msg.Ack()
		}
	}
	for range 3 {
		again := await(t, messages)
		require.True(t, envs[1].Message().Equals(again), again.UUID)
		again.Nack()
	}
	last := await(t, messages)
	require.Equal(t, string(envs[1].ID), last.UUID)
	last.Ack()
	require.NoError(t, sub.Close())
	awaitReady(t, ch, "checks", 0)
}

func TestBundle_ofASubscriberThatGoesComesAgain(t *testing.T) {
	address := testenv.RabbitMQ(t)
	b, ch := open(t, address, rabbitmqbroker.WithQuorumQueues()), admin(t, address)
	envs := scheduleBundle(t, b, ch, "checks", 5)
	sub := subscriberOf(t, b, rabbitmqbroker.WithConcurrency(2), rabbitmqbroker.WithDrainTimeout(10*time.Millisecond))
	messages := subscribe(t, sub, "checks")
	first := await(t, messages)
	await(t, messages) // stays with the handler
	first.Ack()
	require.NoError(t, sub.Close())
	awaitReady(t, ch, "checks", 1)
	for _, msg := range awaitAll(t, subscribe(t, subscriberOf(t, b, rabbitmqbroker.WithConcurrency(5)), "checks"), envs) {
		msg.Ack()
	}
}

func TestBundle_isDroppedWithWhatIsNackedIfTheConfigSaysSo(t *testing.T) {
	address := testenv.RabbitMQ(t)
	config := open(t, address).Config()
	config.Consume.NoRequeueOnNack = true
	b, err := rabbitmqbroker.New(config, quiet())
	require.NoError(t, err)
	defer b.Close()
	ch := admin(t, address)
	envs := scheduleBundle(t, b, ch, "checks", 3)
	sub := subscriberOf(t, b)
	messages := subscribe(t, sub, "checks")
	for i := range envs { // one after the other, though the first was nacked
		msg := await(t, messages)
		assert.Equal(t, string(envs[i].ID), msg.UUID)
		if i == 0 {
			msg.Nack()
		} else {
			msg.Ack()
		}
	}
	require.NoError(t, sub.Close())
	assert.Zero(t, depth(t, ch, "checks"), "it went back to its queue")
}

func TestBundle_thatCannotBeReadIsGivenBack(t *testing.T) {
	address := testenv.RabbitMQ(t)
	b, ch := open(t, address, rabbitmqbroker.WithQuorumQueues()), admin(t, address)
	forged := attempts("checks", 1)
	forged[0].Metadata = map[string]string{reliable.HeaderBundle: "7"}
	requireOutcome(t, reliable.Acked, only(publish(t, b, forged...)))
	sub := subscriberOf(t, b)
	messages := subscribe(t, sub, "checks")
	requireOutcome(t, reliable.Acked, only(publish(t, b, attempts("checks", 1)...)))
	await(t, messages).Ack()
	require.NoError(t, sub.Close())
	awaitReady(t, ch, "checks", 1)
}

// One at a time, which is the default: what always fails keeps up neither the rest of its bundle nor what comes behind it.
func TestBundle_whoIsAlwaysNackedDoesNotHoldTheOthersUp(t *testing.T) {
	address := testenv.RabbitMQ(t)
	b, ch := open(t, address, rabbitmqbroker.WithQuorumQueues()), admin(t, address)
	envs := scheduleBundle(t, b, ch, "checks", 3)
	messages := subscribe(t, subscriberOf(t, b, rabbitmqbroker.WithPrefetch(10), rabbitmqbroker.WithNackDelay(time.Millisecond)), "checks")
	behind := attempts("checks", 1)
	requireOutcome(t, reliable.Acked, only(publish(t, b, behind...)))
	missing := map[string]bool{string(envs[1].ID): true, string(envs[2].ID): true, string(behind[0].ID): true}
	for tries := 0; len(missing) > 0; {
		msg := await(t, messages)
		if msg.UUID == string(envs[0].ID) {
			tries++
			require.Less(t, tries, 1000, "they wait behind the one that is nacked: %v", missing)
			msg.Nack()
			continue
		}
		delete(missing, msg.UUID)
		msg.Ack()
	}
	for range 3 { // and comes again when there is nobody else
		msg := await(t, messages)
		require.Equal(t, string(envs[0].ID), msg.UUID)
		msg.Nack()
	}
	await(t, messages).Ack()
}

func TestBundle_givesAnIDToWhatHasNone(t *testing.T) {
	address := testenv.RabbitMQ(t)
	b := open(t, address, rabbitmqbroker.WithQuorumQueues())
	s, err := b.Scheduler([]time.Duration{time.Millisecond}, rabbitmqbroker.WithBundles())
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, s.Close()) })
	env := reliable.Envelope{Topic: "checks", Payload: []byte("x")}
	require.NoError(t, s.Schedule(t.Context(), 0, env, env))
	messages := subscribe(t, subscriberOf(t, b), "checks")
	seen := make(map[string]bool)
	for range 2 {
		msg := await(t, messages)
		require.NotEmpty(t, msg.UUID)
		seen[msg.UUID] = true
		msg.Ack()
	}
	require.Len(t, seen, 2)
}
