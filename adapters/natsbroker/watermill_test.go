package natsbroker_test

import (
	"errors"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/pubsub/tests"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/natsbroker"
)

func TestWatermillsOwnSuite(t *testing.T) {
	server := startServer(t)
	b := declared(t, newBroker(t, server, natsbroker.WithStream("suite", "suite.>"),
		natsbroker.WithSubject(func(topic string) string { return "suite." + topic })))
	ofGroup := func(t *testing.T, group string) (message.Publisher, message.Subscriber) {
		t.Helper()
		sub, err := b.Subscriber(group, natsbroker.WithAckWait(2*time.Second), natsbroker.WithCloseTimeout(time.Second),
			natsbroker.WithNackDelay(func(int) time.Duration { return 10 * time.Millisecond }))
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
			GuaranteedOrderWithSingleSubscriber: true, // several subscribers of a group share its messages
			Persistent:                          true,
			ForceShort:                          true,  // its limits for waiting are fixed, and too short for thousands on a busy machine
			NewSubscriberReceivesOldMessages:    false, // a new group does, a new subscriber of a group goes on
		},
		func(t *testing.T) (message.Publisher, message.Subscriber) { return ofGroup(t, t.Name()) },
		ofGroup,
	)
}
