package membroker_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/pubsub/tests"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/membroker"
	"github.com/waybillmq/waybill/internal/virtualtime"
	"github.com/waybillmq/waybill/reliable"
)

func TestSubscribe_groupsEachGetEverythingAndShareItWithin(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		b := membroker.New()
		publish(t, b, batchOf("orders", 10))
		counts := make(map[string]int)
		for _, group := range []string{"billing", "shipping"} {
			sub := b.Subscriber(group)
			one, err := sub.Subscribe(t.Context(), "orders")
			require.NoError(t, err)
			two, err := sub.Subscribe(t.Context(), "orders")
			require.NoError(t, err)
			for range 10 {
				var msg *message.Message
				select {
				case msg = <-one:
				case msg = <-two:
				}
				counts[group]++
				msg.Ack()
			}
			synctest.Wait()
			select {
			case <-one:
				t.Error("a message came twice")
			case <-two:
				t.Error("a message came twice")
			default:
			}
		}
		assert.Equal(t, map[string]int{"billing": 10, "shipping": 10}, counts)
		receive(t, b, 10)
		require.NoError(t, b.Close())
	})
}

func TestSubscribe_aNackedMessageComesAgainBeforeNewerOnes(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		b := membroker.New()
		messages, err := b.Subscribe(t.Context(), "orders")
		require.NoError(t, err)
		publish(t, b, batchOf("orders", 2))
		msg := <-messages
		assert.Equal(t, "0", msg.UUID)
		msg.Nack()
		for _, want := range []string{"0", "1"} {
			msg = <-messages
			assert.Equal(t, want, msg.UUID)
			msg.Ack()
		}
		require.NoError(t, b.Close())
		_, open := <-messages
		assert.False(t, open)
	})
}

func TestSubscribe_whatAConsumerLeftUnackedGoesToTheNext(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		b := membroker.New()
		publish(t, b, batchOf("orders", 1))
		ctx, cancel := context.WithCancel(t.Context())
		first, err := b.Subscribe(ctx, "orders")
		require.NoError(t, err)
		<-first
		cancel()
		_, open := <-first
		require.False(t, open)
		second, err := b.Subscribe(t.Context(), "orders")
		require.NoError(t, err)
		(<-second).Ack()
		require.NoError(t, b.Close())
	})
}

func TestSubscribe_seesAMessageThatIsStoredLate(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		b := scripted(map[reliable.ID]membroker.Verdict{"0": {Delay: time.Second, StoreLate: true}})
		messages, err := b.Subscribe(t.Context(), "orders")
		require.NoError(t, err)
		synctest.Wait()
		began := time.Now()
		publish(t, b, batchOf("orders", 1))
		(<-messages).Ack()
		assert.Equal(t, time.Second, time.Since(began))
		require.NoError(t, b.Close())
	})
}

// Watermill's own suite, on the publisher and the subscriber that the broker offers.
func TestWatermill_isAPubSub(t *testing.T) {
	broker := membroker.New()
	t.Cleanup(func() { require.NoError(t, broker.Close()) })
	open := func(t *testing.T, group string) (message.Publisher, message.Subscriber) {
		t.Helper()
		return broker.Watermill(), broker.Subscriber(group)
	}
	tests.TestPubSub(t,
		tests.Features{
			ConsumerGroups: true, GuaranteedOrder: true, GuaranteedOrderWithSingleSubscriber: true, Persistent: true,
		},
		func(t *testing.T) (message.Publisher, message.Subscriber) { return open(t, "all") },
		open,
	)
}
