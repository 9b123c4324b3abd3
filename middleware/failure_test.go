package middleware

import (
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/ThreeDotsLabs/watermill/message"
	wmiddleware "github.com/ThreeDotsLabs/watermill/message/router/middleware"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/reliable"
)

func TestNames_areThoseOfWatermill(t *testing.T) {
	assert.Equal(t, wmiddleware.CorrelationIDMetadataKey, correlationID)
	assert.Equal(t, wmiddleware.ReasonForPoisonedKey, watermillReason)
	assert.Equal(t, wmiddleware.PoisonedTopicKey, watermillTopic)
	assert.Equal(t, wmiddleware.PoisonedHandlerKey, watermillHandler)
	assert.Equal(t, wmiddleware.PoisonedSubscriberKey, watermillSubscriber)
}

func TestFailureOf_understandsWhatWatermillWrote(t *testing.T) {
	f, ok := FailureOf(&message.Message{Metadata: message.Metadata{
		watermillTopic: "orders", watermillHandler: "bill", watermillReason: "broken\nbadly",
	}})
	require.True(t, ok)
	assert.Equal(t, Failure{Topic: "orders", Handler: "bill", Reason: "broken badly"}, f)
	_, ok = FailureOf(&message.Message{})
	assert.False(t, ok)
}

func FuzzFailure_isReadAsItWasWritten(f *testing.F) {
	f.Add("orders", "billing", "bill", 3, 2, int64(1), int64(2), int64(3), "cannot bill", "main.bill (main.go:3)", 1)
	f.Add("", "\x00", "\xff", -1, 1<<40, int64(-1<<63), int64(1<<62), int64(0), strings.Repeat("ä", 2000), "a\nb", -5)
	f.Fuzz(func(t *testing.T, topic, group, handler string, attempts, retries int, first, last, due int64, reason, stack string, replays int) {
		written := Failure{
			Topic: topic, Group: group, Handler: handler, Attempts: attempts, Retries: retries, Replays: replays,
			First: time.Unix(first%4e11, first%1e9), Last: time.Unix(last%4e11, 0), Due: time.Unix(due%4e11, 0), Reason: reason, Stack: stack,
		}
		metadata := message.Metadata{reliable.HeaderReplays: number(replays)}
		written.write(metadata)
		read, ok := FailureOf(&message.Message{Metadata: metadata})
		require.True(t, ok)
		assert.Equal(t, topic, read.Topic)
		bound := func(n int) int { return min(max(n, 0), maxCount) }
		assert.Equal(t, bound(attempts), read.Attempts)
		assert.Equal(t, bound(retries), read.Retries)
		assert.Equal(t, bound(replays), read.Replays)
		for _, at := range [][2]time.Time{{written.First, read.First}, {written.Last, read.Last}, {written.Due, read.Due}} {
			if year := at[0].UTC().Year(); at[0].IsZero() || year < 1 || year > 9999 {
				assert.Zero(t, at[1])
			} else {
				assert.True(t, at[0].Equal(at[1]), "%v became %v", at[0], at[1])
			}
		}
		for name, value := range metadata {
			assert.True(t, reliable.Travels(name), name)
			if name != reliable.HeaderFailureTopic {
				checkClean(t, value, maxStack)
			}
		}
		again := message.Metadata{reliable.HeaderReplays: number(read.Replays)}
		read.write(again)
		assert.Equal(t, metadata, again, "writing what was read changes nothing")
	})
}

func FuzzFailureOf_takesAnything(f *testing.F) {
	for _, seed := range []string{"1", "-1", "99999999999999999999", "2026-11-25T17:00:00Z", "0000-00-00T00:00:00Z", "\xff", "3 billing bill", " ", "1000000", "1000001"} {
		f.Add(seed, seed)
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		metadata := message.Metadata{
			reliable.HeaderFailureTopic: a, reliable.HeaderFailureGroup: b, reliable.HeaderFailureHandler: a, reliable.HeaderFailureAttempts: a,
			reliable.HeaderFailureRetries: b, reliable.HeaderFailureFirst: a, reliable.HeaderFailureLast: b, reliable.HeaderFailureDue: a,
			reliable.HeaderFailureReason: b, reliable.HeaderFailureStack: a, reliable.HeaderReplays: b, reliable.HeaderCopy: a, "own": b,
		}
		read, ok := FailureOf(&message.Message{Metadata: metadata})
		require.True(t, ok)
		assert.GreaterOrEqual(t, read.Attempts, 0)
		assert.GreaterOrEqual(t, read.Retries, 0)
		assert.GreaterOrEqual(t, read.Replays, 0)
		checkClean(t, read.Reason, maxReason)
		checkClean(t, read.Stack, maxStack)
		mark := nextCopy(metadata, b, a)
		assert.Positive(t, mark.number)
		checkClean(t, mark.String(), 2*maxName+20)
		following := nextCopy(message.Metadata{reliable.HeaderCopy: mark.String()}, b, a)
		assert.Equal(t, mark.number%maxCount+1, following.number, "copies are counted on")
		assert.Equal(t, message.Metadata{"own": b}, without(metadata))
	})
}

func checkClean(t *testing.T, text string, limit int) {
	t.Helper()
	assert.LessOrEqual(t, len(text), limit)
	assert.True(t, utf8.ValidString(text))
	assert.NotContains(t, text, "\x00")
	assert.False(t, strings.ContainsAny(text, "\r\n\t"))
	assert.Equal(t, strings.TrimSpace(text), text)
	assert.Equal(t, text, clean(text, limit), "cleaning what is clean changes nothing")
}
