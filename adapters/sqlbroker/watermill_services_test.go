//go:build services

package sqlbroker_test

import (
	"errors"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/pubsub/tests"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/sqlbroker"
)

func TestWatermillsOwnSuite(t *testing.T) {
	each(t, func(t *testing.T, d *database) {
		b := d.broker(t, d.db, nil)
		ofGroup := func(t *testing.T, group string) (message.Publisher, message.Subscriber) {
			t.Helper()
			sub, err := b.Subscriber(group, sqlbroker.WithPollInterval(time.Millisecond),
				sqlbroker.WithResendInterval(5*time.Millisecond), sqlbroker.WithRetryInterval(10*time.Millisecond))
			require.NoError(t, err)
			pub := b.Watermill()
			t.Cleanup(func() { // some of the suite's tests leave theirs open
				assert.NoError(t, errors.Join(sub.Close(), pub.Close()))
			})
			return pub, sub
		}
		tests.TestPubSub(t,
			tests.Features{
				ConsumerGroups:                      true,
				ExactlyOnceDelivery:                 false,
				GuaranteedOrder:                     true,
				GuaranteedOrderWithSingleSubscriber: true,
				Persistent:                          true,
				NewSubscriberReceivesOldMessages:    false, // a new group does, a new subscriber of a group goes on
			},
			func(t *testing.T) (message.Publisher, message.Subscriber) { return ofGroup(t, "test") },
			ofGroup,
		)
	})
}

// TestSubscriber_closeEndsTheChannelBeforeItReturns is what the suite above demands once, and a busy machine seldom shows.
func TestSubscriber_closeEndsTheChannelBeforeItReturns(t *testing.T) {
	each(t, func(t *testing.T, d *database) {
		b, topic := d.broker(t, d.db, nil), topicName("orders")
		require.NoError(t, b.Declare(within(t), topic))
		for range 100 {
			sub, err := b.Subscriber("closing", sqlbroker.WithPollInterval(time.Millisecond))
			require.NoError(t, err)
			messages, err := sub.Subscribe(within(t), topic)
			require.NoError(t, err)
			require.NoError(t, sub.Close())
			select {
			case _, open := <-messages:
				require.False(t, open, "nothing was published")
			default:
				require.Fail(t, "the channel is open after Close")
			}
		}
	})
}
