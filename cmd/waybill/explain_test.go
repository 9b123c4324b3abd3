package main

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/reliable"
)

func TestExplain_tellsTheWholeLifeOfAFailedMessage(t *testing.T) {
	everywhere(t, func(t *testing.T, url string) {
		store := migrated(t, url)
		stored(t, store, "orders.placed", 1)
		settled(t, store, func(a reliable.Attempt) reliable.Settlement {
			if a.Attempts == 1 {
				return reliable.Settlement{Outcome: reliable.Unknown, To: reliable.Pending, Reason: "connection lost"}
			}
			return reliable.Settlement{Outcome: reliable.Returned, To: reliable.Failed, Charge: true, Reason: "no queue is bound"}
		})
		decided := waybill(t, url, "requeue", "orders-placed-0000", "--who", "bob", "--why", "the queue is there")
		require.Zero(t, decided.code, "%v", decided)
		failed(t, store)

		result := waybill(t, url, "explain", "orders-placed-0000")
		require.Zero(t, result.code, "%v", result)
		inOrder(t, result.stdout, "message     orders-placed-0000", "topic       orders.placed", "status      2 failed",
			"WHEN", "stored", "unknown", "worker-1", "connection lost", "returned, charged", "worker-1", "no queue is bound",
			"requeue", "bob", "the queue is there", "returned, charged", "now", "failed",
			"next: waits for ever", "waybill requeue orders-placed-0000 --why", "waybill discard")
		assert.NotContains(t, result.String(), "secret of")
		assert.NotContains(t, result.String(), "metadata of")

		asked := waybill(t, url, "explain", "orders-placed-0000", "--payload", "--metadata")
		assert.Contains(t, asked.stdout, "the secret of orders-placed-0000")
		assert.Contains(t, asked.stdout, "customer: metadata of orders-placed-0000")

		lives := parsed[[]lifeDocument](t, waybill(t, url, "explain", "orders-placed-0000", "-o", "json"))
		require.Len(t, lives, 1)
		require.Len(t, lives[0].History, 4)
		assert.Equal(t, "failed", lives[0].Status)
		assert.Empty(t, lives[0].Payload)
		assert.Empty(t, lives[0].Metadata)
		decision := lives[0].History[2]
		assert.Equal(t, []string{"decision", "requeue", "bob", "the queue is there"},
			[]string{decision.Kind, decision.Action, decision.By, decision.Reason})
		assert.Equal(t, "failed", lives[0].Next.State)

		lives = parsed[[]lifeDocument](t, waybill(t, url, "explain", "orders-placed-0000", "-o", "json", "--payload"))
		assert.Equal(t, "the secret of orders-placed-0000", string(lives[0].Payload))
	})
}

// inOrder looks for texts one behind the other.
func inOrder(t *testing.T, text string, parts ...string) {
	t.Helper()
	rest := text
	for _, part := range parts {
		_, after, found := strings.Cut(rest, part)
		if !assert.True(t, found, "%q is missing, or too early, in\n%s", part, text) {
			return
		}
		rest = after
	}
}

func TestExplain_saysWhatHappensNextAndWhen(t *testing.T) {
	everywhere(t, func(t *testing.T, url string) {
		store := migrated(t, url)
		_, err := store.Enqueue(t.Context(), reliable.EnqueueRequest{},
			reliable.Envelope{ID: "delayed", Topic: "a", Delay: 2 * time.Hour},
			reliable.Envelope{ID: "head", Topic: "a", Key: "customer 4"},
			reliable.Envelope{ID: "follower", Topic: "a", Key: "customer 4"})
		require.NoError(t, err)
		holder, _ := reliable.Ability[reliable.Holder](store)
		_, err = holder.Hold(t.Context(), "held", time.Hour)
		require.NoError(t, err)

		next := func(id string) nextDocument {
			t.Helper()
			return parsed[[]lifeDocument](t, waybill(t, url, "explain", id, "-o", "json"))[0].Next
		}
		assert.Equal(t, "behind its key", next("head").State, "nobody has looked at the key yet")
		stored(t, store, "waiting", 1)
		assert.Equal(t, "due", next("waiting-0000").State)
		delayed := next("delayed")
		assert.Equal(t, "delayed", delayed.State)
		assert.InDelta(t, 7200, delayed.InSeconds, 120)
		assert.Contains(t, waybill(t, url, "explain", "delayed").stdout, "next: in 1h59m")

		_, err = store.Claim(t.Context(), reliable.ClaimRequest{Worker: "worker-1", Max: 10, Lease: time.Hour})
		require.NoError(t, err)
		behind := next("follower")
		assert.Equal(t, "behind its key", behind.State)
		assert.Contains(t, behind.What, `behind "head" of key "customer 4"`)

		leased := next("head")
		assert.Equal(t, "leased", leased.State)
		assert.Contains(t, leased.What, "worker-1")
		assert.InDelta(t, 3600, leased.InSeconds, 120)

		stored(t, store, "held", 1)
		settled(t, store, func(reliable.Attempt) reliable.Settlement {
			return reliable.Settlement{Outcome: reliable.Returned, To: reliable.Pending, Park: true, Charge: true, Delay: time.Minute, Reason: "no queue"}
		})
		held := next("held-0000")
		assert.Equal(t, "behind a held topic", held.State)
		assert.InDelta(t, 3600, held.InSeconds, 120)
		assert.Contains(t, held.What, "refused 1 times")

		stored(t, store, "refused", 1)
		settled(t, store, func(reliable.Attempt) reliable.Settlement {
			return reliable.Settlement{Outcome: reliable.Nacked, To: reliable.Pending, Charge: true, Delay: time.Hour, Reason: "full"}
		})
		assert.Equal(t, "backing off", next("refused-0000").State)

		stored(t, store, "sent", 1)
		confirmed(t, store)
		assert.Equal(t, "over", next("sent-0000").State)

		stored(t, store, "handled", 1)
		failed(t, store)
		compensator, _ := reliable.Ability[reliable.Compensator](store)
		claimed, err := compensator.ClaimFailed(t.Context(),
			reliable.ClaimRequest{Worker: "handler-1", Max: 1, Lease: time.Hour}, "handled")
		require.NoError(t, err)
		require.Len(t, claimed, 1)
		running := next("handled-0000")
		assert.Equal(t, "being compensated", running.State)
		assert.Contains(t, running.What, "handler-1")
		_, err = compensator.SettleCompensation(t.Context(), reliable.Compensation{
			ID: "handled-0000", Fence: claimed[0].Fence, Topic: "handled", Delay: time.Hour, Reason: "the bank is closed",
		})
		require.NoError(t, err)
		later := next("handled-0000")
		assert.Equal(t, "compensation later", later.State)
		assert.InDelta(t, 3600, later.InSeconds, 120)
		assert.Contains(t, waybill(t, url, "explain", "handled-0000").stdout, "the bank is closed")
	})
}

func TestExplain_namesTheIDsThatAreNotStored(t *testing.T) {
	url := places[0].url(t)
	stored(t, migrated(t, url), "orders.placed", 1)
	result := waybill(t, url, "explain", "orders-placed-0000", "ORDERS-PLACED-0000")
	assert.Equal(t, exitNothing, result.code)
	assert.Contains(t, result.stdout, "message     orders-placed-0000", "what is known is told")
	assert.Contains(t, result.stderr, `"ORDERS-PLACED-0000"`)

	result = waybill(t, url, "explain", "ORDERS-PLACED-0000", "orders-placed-0000")
	assert.True(t, strings.HasPrefix(result.stdout, "message "), "no empty line where nothing is told:\n%s", result.stdout)
}

func TestExplain_saysNoMoreThanIsKnownOfWhatWasSent(t *testing.T) {
	url := places[0].url(t)
	store := migrated(t, url)
	stored(t, store, "new", 1)
	sent := func(id string) string { return waybill(t, url, "explain", id).stdout }
	assert.Contains(t, sent("new-0000"), "maybe sent  no: no attempt of it is recorded")

	_, err := store.Claim(t.Context(), reliable.ClaimRequest{Worker: "worker-1", Max: 1, Lease: time.Hour})
	require.NoError(t, err)
	assert.Contains(t, sent("new-0000"), "maybe sent  perhaps just now")

	stored(t, store, "left", 1)
	_, err = store.Claim(t.Context(), reliable.ClaimRequest{Worker: "worker-1", Max: 1, Lease: time.Millisecond})
	require.NoError(t, err)
	require.Eventually(t, func() bool { return strings.Contains(sent("left-0000"), "maybe sent  perhaps: its lease ran out") },
		patience, time.Millisecond)
}

func TestArgument_isReadByAShellAsTheID(t *testing.T) {
	for id, expected := range map[reliable.ID]string{
		"order-17":       "order-17",
		"-17":            "-- -17",
		"order 17":       "'order 17'",
		"it's":           `'it'\''s'`,
		"caf\u00e9":      "'caf\u00e9'",
		"a\x1b[31m'\\b":  `$'a\033[31m\'\\b'`,
		"a\xffb":         `$'a\377b'`,
		"\u202e\u00e9 x": `$'\342\200\256\303\251 x'`,
	} {
		assert.Equal(t, expected, argument(id))
	}
}

func TestExplain_showsNoControlCharacters(t *testing.T) {
	url := places[0].url(t)
	store := migrated(t, url)
	_, err := store.Enqueue(t.Context(), reliable.EnqueueRequest{}, reliable.Envelope{
		ID: "evil", Topic: "a\x1b[31mb", Payload: []byte("\x1b[2Jgone\nsecond line"), Metadata: map[string]string{"k": "v\x07"},
	})
	require.NoError(t, err)
	result := waybill(t, url, "explain", "evil", "--payload", "--metadata")
	require.Zero(t, result.code, "%v", result)
	assert.NotContains(t, result.stdout, "\x1b")
	assert.NotContains(t, result.stdout, "\x07")
	assert.Contains(t, result.stdout, "gone\nsecond line")
	assert.NotContains(t, waybill(t, url, "list", "--status", "pending").stdout, "\x1b")
}
