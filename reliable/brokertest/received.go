package brokertest

import (
	"context"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/assert"

	"github.com/waybillmq/waybill/reliable"
)

// ReceivedBy makes [Harness.Received] of a Watermill subscriber, which open returns anew for each call and ReceivedBy
// closes. Messages must wait for the subscriber, and not come again once acked. A subscriber cannot say that a topic is
// empty: after the wanted messages have come, ReceivedBy listens for quiet longer (300 ms is plenty for a broker on this
// machine), and in total for 30 s at most.
func ReceivedBy(open func(t T) message.Subscriber, quiet time.Duration) func(t T, topic string, want int) []reliable.Envelope {
	return func(t T, topic string, want int) []reliable.Envelope {
		t.Helper()
		sub := open(t)
		defer func() { assert.NoError(t, sub.Close(), "close subscriber") }()
		ctx, cancel := context.WithTimeout(t.Context(), defaultPatience)
		defer cancel()
		messages, err := sub.Subscribe(ctx, topic)
		if err != nil {
			fail(t, "subscribe: %v", err)
		}
		silence := time.NewTimer(quiet)
		defer silence.Stop()
		var arrived []reliable.Envelope
		for {
			if len(arrived) < want {
				silence.Stop()
			} else {
				silence.Reset(quiet)
			}
			select {
			case msg, ok := <-messages:
				if !ok {
					return arrived
				}
				arrived = append(arrived, reliable.EnvelopeOf(topic, msg))
				msg.Ack()
			case <-silence.C:
				return arrived
			case <-ctx.Done():
				return arrived
			}
		}
	}
}
