package kafkabroker_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/waybillmq/waybill/adapters/kafkabroker"
	"github.com/waybillmq/waybill/reliable"
)

func TestPublish_whatIsSaidOfTheTopicIsReturned(t *testing.T) {
	for _, cause := range []*kerr.Error{kerr.TopicAuthorizationFailed, kerr.InvalidTopicException, kerr.UnknownTopicOrPartition} {
		for _, asked := range []kmsg.Key{kmsg.Produce, kmsg.Metadata} {
			t.Run(cause.Message+" to "+asked.Name(), func(t *testing.T) {
				cluster := fake(t, kfake.SeedTopics(1, "others"))
				b := open(t, cluster.ListenAddrs())
				cluster.Fault(kfake.Fault{Keys: []kmsg.Key{asked}, Topic: "orders", Err: cause, Count: -1})
				batch := append(attempts("orders", 10), attempts("others", 10)...)
				confirms := publish(t, b, batch...)
				requireOutcome(t, reliable.Returned, confirms[:10]...)
				require.ErrorIs(t, confirms[0].Err, cause)
				requireOutcome(t, reliable.Acked, confirms[10:]...)
			})
		}
	}
}

func TestPublish_oneAnswerThatATopicIsUnknownIsNotBelieved(t *testing.T) {
	for _, asked := range []kmsg.Key{kmsg.Produce, kmsg.Metadata} {
		cluster := fake(t)
		fault := cluster.Fault(kfake.Fault{Keys: []kmsg.Key{asked}, Topic: "orders", Err: kerr.UnknownTopicOrPartition})
		requireOutcome(t, reliable.Acked, publish(t, open(t, cluster.ListenAddrs()), attempts("orders", 5)...)...)
		require.Equal(t, 1, fault.Hits(), "the fault met nothing")
	}
}

func TestPublish_toATopicThatIsMadeLaterIsReturnedAndThenAcked(t *testing.T) {
	cluster := fake(t)
	b := open(t, cluster.ListenAddrs(), kafkabroker.WithTopics(2, 1))
	batch := attempts("later", 10)
	began := time.Now()
	requireOutcome(t, reliable.Returned, publish(t, b, batch...)...)
	require.Less(t, time.Since(began), b.MaxConfirmWait(), "a missing topic must be noticed before the confirm timeout")
	require.NoError(t, b.Declare(t.Context(), "later"))
	requireOutcome(t, reliable.Acked, publish(t, b, batch...)...)
}

func TestPublish_toATopicThatIsMissingHoldsUpNoOther(t *testing.T) {
	cluster := fake(t)
	b := open(t, cluster.ListenAddrs())
	requireOutcome(t, reliable.Acked, publish(t, b, attempts("orders", 1)...)...)
	missing, good := attempts("nowhere", 10), attempts("orders", 10)
	n, err := b.Publish(t.Context(), append(append([]reliable.Attempt{}, missing...), good...))
	require.NoError(t, err)
	require.Equal(t, 20, n)
	seen := map[reliable.ID]reliable.Outcome{}
	for len(seen) < len(good) {
		confirms, err := b.Receive(t.Context(), 100)
		require.NoError(t, err)
		for _, confirm := range confirms {
			seen[confirm.ID] = confirm.Outcome
		}
	}
	for i := range good {
		require.Equal(t, reliable.Acked, seen[good[i].ID], "the missing topic was answered first")
	}
	requireOutcome(t, reliable.Returned, confirmsOf(t, b, missing)...)
}

func TestPublish_aRecordThatIsRefusedTakesNoNeighbourWithIt(t *testing.T) {
	for _, cause := range []*kerr.Error{kerr.MessageTooLarge, kerr.InvalidRecord, kerr.InvalidTimestamp} {
		t.Run(cause.Message, func(t *testing.T) {
			cluster := fake(t)
			b := open(t, cluster.ListenAddrs())
			// It is not counted down: without a linger ten records travel in one request, or in several.
			fault := cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: "orders", Err: cause, Count: -1})
			confirms := publish(t, b, attempts("orders", 10)...)
			requireOutcome(t, reliable.Unknown, confirms...)
			require.ErrorIs(t, confirms[0].Err, reliable.ErrConnectionLost, "the engine must suspect each")
			require.ErrorIs(t, confirms[0].Err, cause)

			one := attempts("orders", 1)
			requireOutcome(t, reliable.Rejected, publish(t, b, one...)...) // with nobody else on the way
			fault.Remove()
			requireOutcome(t, reliable.Acked, publish(t, b, one...)...)

			cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: "orders", Err: cause, Count: -1})
			batch := attempts("orders", 3)
			for i := range batch {
				batch[i].Alone = true
			}
			requireOutcome(t, reliable.Rejected, publish(t, b, batch...)...)
		})
	}
}

func TestPublish_aRefusalOfTheBatchIsNacked(t *testing.T) {
	cluster := fake(t)
	// Without a linger five records may travel in several requests, each of which is refused.
	cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: kerr.PolicyViolation, Count: -1})
	requireOutcome(t, reliable.Nacked, publish(t, open(t, cluster.ListenAddrs()), attempts("orders", 5)...)...)
}

func TestPublish_anErrorThatSaysNothingIsUnknown(t *testing.T) {
	cluster := fake(t)
	cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: kerr.UnknownServerError, Count: -1})
	requireOutcome(t, reliable.Unknown, publish(t, open(t, cluster.ListenAddrs()), attempts("orders", 5)...)...)
}

func TestPublish_whatIsTooLargeIsRejectedBeforeItHarms(t *testing.T) {
	cluster := fake(t)
	b := open(t, cluster.ListenAddrs())
	limit := b.Limits()
	require.Positive(t, limit.Metadata)
	batch := attempts("orders", 5)
	batch[1].Payload = incompressible(limit.Payload)
	batch[2].Payload = make([]byte, limit.Payload+1)
	batch[3].Metadata = map[string]string{"long": string(make([]byte, 1<<20))}
	confirms := publish(t, b, batch...)
	requireOutcome(t, reliable.Acked, confirms[0], confirms[1], confirms[4])
	requireOutcome(t, reliable.Rejected, confirms[2], confirms[3])
	require.ErrorIs(t, confirms[2].Err, reliable.ErrInvalid)
}

// Whatever keeps to each of the limits fits.
func TestLimits_leaveRoomForAllOfThemAtOnce(t *testing.T) {
	for _, size := range []int{16 << 10, 100_000, 1_000_012} {
		cluster := fake(t)
		b := open(t, cluster.ListenAddrs(), kafkabroker.WithMaxMessageBytes(size))
		limits := b.Limits()
		one := attempts("orders", 1)
		one[0].ID, one[0].Key = reliable.ID(text(limits.ID)), text(limits.Key)
		one[0].Payload = incompressible(limits.Payload)
		one[0].Metadata = make(map[string]string)
		each := limits.Metadata / limits.MetadataPairs
		for i := range limits.MetadataPairs {
			name := string(rune('a'+i/26)) + string(rune('a'+i%26))
			one[0].Metadata[name] = text(each - len(name))
		}
		require.NoError(t, limits.Check(&one[0].Envelope))
		requireOutcome(t, reliable.Acked, publish(t, b, one...)...)
	}
}

func text(n int) string {
	letters := make([]byte, n)
	for i := range letters {
		letters[i] = byte('a' + i%26)
	}
	return string(letters)
}

func TestPublish_anAttemptAloneWaitsForTheOneBefore(t *testing.T) {
	cluster := fake(t)
	mute(cluster)
	b := open(t, cluster.ListenAddrs(), kafkabroker.WithCloseTimeout(0))
	batch := attempts("orders", 2)
	batch[0].Alone, batch[1].Alone = true, true
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	n, err := b.Publish(ctx, batch)
	require.Equal(t, 1, n)
	require.ErrorIs(t, err, context.DeadlineExceeded)
}
