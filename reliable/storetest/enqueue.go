package storetest

import (
	"bytes"
	"slices"
	"strings"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/reliable"
)

var enqueueChecks = []Check{
	{Name: "an envelope is kept whole", run: enqueueKeepsWhole},
	{Name: "an empty payload and no metadata are kept", run: enqueueKeepsEmpty},
	{Name: "a payload of one mebibyte is kept", run: enqueueKeepsLarge},
	{Name: "three thousand at once are all stored", run: enqueueMany},
	{Name: "nothing to store is no error", run: enqueueNothing},
	{Name: "without a lease all are claimable at once", run: enqueueUnleased},
	{Name: "with a lease the unkeyed and undelayed belong to the caller", run: enqueueLeased},
	{Name: "a lease given while storing runs out", run: enqueueLeaseRunsOut},
	{Name: "a lease given while storing can be settled", run: enqueueLeaseSettled},
	{Name: "a delayed envelope is not claimed early, and then it is", run: enqueueDelayed},
	{Name: "a duplicate is skipped and its status told", run: enqueueDuplicate},
	{Name: "a duplicate with another key or other metadata is skipped", run: enqueueDuplicateOtherMetadata},
	{Name: "a duplicate beside new ones is skipped, the new ones are stored", run: enqueueDuplicateBesideNew},
	{Name: "a duplicate inside one batch is stored once", run: enqueueDuplicateInBatch},
	{Name: "a duplicate takes no lease away", run: enqueueDuplicateKeepsLease},
	{Name: "another payload or topic under a stored id is a conflict and nothing is stored", run: enqueueConflict},
	{Name: "a conflict inside one batch stores nothing", run: enqueueConflictInBatch},
	{Name: "a conflict with a settled envelope is a conflict too", run: enqueueConflictWithSettled},
	{Name: "ids are compared byte by byte", run: enqueueBytewiseIDs},
	{Name: "concurrent duplicates are stored once", run: enqueueConcurrentDuplicates},
	{Name: "what is too long is refused, never cut", run: enqueueNeverCuts},
	{Name: "a canceled context stores nothing", run: enqueueCanceled},
	{Name: "bad requests are refused", run: enqueueBadRequests},
}

func enqueueKeepsWhole(t *T) {
	binary := make([]byte, 256)
	for i := range binary {
		binary[i] = byte(i)
	}
	want := []reliable.Envelope{
		{ID: "a", Topic: "bestellungen/größe.☃", Payload: binary, Metadata: map[string]string{
			"plain": "value", "empty": "", "ключ": "значение ☃ \U0001F4E6", `quo"te'\`: "line\nbreak\ttab",
		}},
		{ID: "b ☃ 'quoted' \"id\" \\ %s ? $1", Topic: "orders", Payload: []byte("'); DROP TABLE x; --")},
		{ID: "c", Topic: "orders", Key: "kunde-ä/1", Payload: []byte{0}, Metadata: map[string]string{"n": "1"}},
		{ID: reliable.ID(strings.Repeat("i", reliable.MaxIDBytes)), Topic: strings.Repeat("t", 255), Payload: []byte("{}")},
		{ID: "d", Topic: "orders", Deadline: 36*time.Hour + 123*time.Millisecond},
	}
	stored := t.put(want...)
	for i, s := range stored {
		require.True(t, s.New, "envelope %d is new", i)
		require.Equal(t, want[i].ID, s.ID, "results stand at the index of their envelope")
		require.Equal(t, reliable.Pending, s.Status)
		require.False(t, s.Leased, "nobody asked for a lease")
	}
	got := make(map[reliable.ID]reliable.Attempt)
	for _, a := range t.soon(len(want)) {
		got[a.ID] = a
	}
	for _, w := range want {
		same(t, w, got[w.ID].Envelope)
	}
}

// same demands that an envelope came back as it was stored.
func same(t *T, want, got reliable.Envelope) {
	t.Helper()
	require.Equal(t, want.ID, got.ID)
	require.Equal(t, want.Topic, got.Topic, "topic of %q", want.ID)
	require.Equal(t, want.Key, got.Key, "key of %q", want.ID)
	require.True(t, bytes.Equal(want.Payload, got.Payload), "payload of %q", want.ID)
	require.Equal(t, want.Deadline, got.Deadline, "deadline of %q", want.ID)
	require.Len(t, got.Metadata, len(want.Metadata), "metadata of %q", want.ID)
	for k, v := range want.Metadata {
		require.Equal(t, v, got.Metadata[k], "metadata %q of %q", k, want.ID)
	}
}

func enqueueKeepsEmpty(t *T) {
	want := []reliable.Envelope{
		{ID: "nil", Topic: topic},
		{ID: "empty", Topic: topic, Payload: []byte{}, Metadata: map[string]string{}},
	}
	t.put(want...)
	for _, a := range t.soon(2) {
		require.Empty(t, a.Payload, "payload of %q", a.ID)
		require.Empty(t, a.Metadata, "metadata of %q", a.ID)
	}
	for _, s := range t.put(want...) {
		require.False(t, s.New, "an empty payload equals an empty payload")
	}
}

func enqueueKeepsLarge(t *T) {
	payload := bytes.Repeat([]byte{0, 0xff, 'a', '\n', 0x80, '\'', '\\', '%'}, 1<<17)
	want := reliable.Envelope{ID: "large", Topic: topic, Payload: payload}
	t.put(want)
	same(t, want, t.one().Envelope)
}

func enqueueMany(t *T) {
	want := numbered(3000)
	for i, s := range t.put(want...) {
		require.True(t, s.New)
		require.Equal(t, want[i].ID, s.ID, "results stand at the index of their envelope")
	}
	got := make(map[reliable.ID]bool)
	t.until("all can be claimed", func() bool {
		for _, a := range t.claim(1000) {
			require.False(t, got[a.ID], "%q was claimed twice", a.ID)
			got[a.ID] = true
		}
		return len(got) == len(want)
	})
	for i, s := range t.put(want...) {
		require.False(t, s.New, "envelope %d is there already", i)
	}
}

func enqueueNothing(t *T) {
	require.Empty(t, t.put())
	t.none("nothing was stored")
}

func enqueueUnleased(t *T) {
	t.put(env("a"))
	a := t.one()
	assert.EqualValues(t, 1, a.Fence, "the first claim has fence 1")
	assert.Equal(t, 1, a.Attempts)
	assert.Zero(t, a.Failures)
	assert.False(t, a.MayHaveBeenSent)
	assert.False(t, a.Alone, "that is the engine's to set")
	assert.Zero(t, a.FailingFor)
}

func enqueueLeased(t *T) {
	delayed := env("delayed")
	delayed.Delay = long
	envs := []reliable.Envelope{env("plain"), keyed("keyed", "k"), delayed}
	stored, err := t.store.Enqueue(t.Context(), reliable.EnqueueRequest{Worker: "me", Lease: long}, envs...)
	require.NoError(t, err)
	require.Len(t, stored, 3)

	plain := stored[0]
	require.True(t, plain.Leased, "an unkeyed and undelayed one belongs to the caller")
	require.EqualValues(t, 1, plain.Fence)
	require.Equal(t, 1, plain.Attempts)
	same(t, envs[0], plain.Envelope)
	require.False(t, stored[1].Leased, "a keyed one waits for its turn")
	require.False(t, stored[2].Leased, "a delayed one waits for its time")

	require.Equal(t, []reliable.ID{"keyed"}, ids(t.claim(10)), "what others can claim")
}

func enqueueLeaseRunsOut(t *T) {
	_, err := t.store.Enqueue(t.Context(), reliable.EnqueueRequest{Worker: "me", Lease: t.h.Lease}, env("a"))
	require.NoError(t, err)
	t.pass(t.h.Lease)
	a := t.soon(1)[0]
	require.EqualValues(t, 2, a.Fence)
	require.Equal(t, 2, a.Attempts)
	require.True(t, a.MayHaveBeenSent, "the first holder may have sent it")
}

func enqueueLeaseSettled(t *T) {
	stored, err := t.store.Enqueue(t.Context(), reliable.EnqueueRequest{Worker: "me", Lease: long}, env("a"), env("b"))
	require.NoError(t, err)
	t.settles(ack(stored[0].Attempt), reliable.Applied)
	t.settles(giveBack(stored[1].Attempt), reliable.Applied)
	t.hasStatus(env("a"), reliable.Confirmed)
	b := t.one()
	require.Equal(t, reliable.ID("b"), b.ID)
	require.EqualValues(t, 2, b.Fence)
	require.Equal(t, 1, b.Attempts, "the attempt was given back")
}

func enqueueDelayed(t *T) {
	delayed := env("delayed")
	delayed.Delay = 2 * t.h.Lease
	before := time.Now()
	t.put(delayed, env("at once"))
	require.Equal(t, []reliable.ID{"at once"}, ids(t.claim(10)))
	require.Equal(t, reliable.ID("delayed"), t.soon(1)[0].ID)
	require.GreaterOrEqual(t, time.Since(before)+grain, delayed.Delay, "claimed before it was due")

	never := env("much later")
	never.Delay = long
	t.put(never)
	t.none("the delay has not passed")
}

func enqueueDuplicate(t *T) {
	e := env("a")
	t.put(e)
	again := t.put(e)[0]
	require.False(t, again.New)
	require.False(t, again.Leased)
	require.Equal(t, e.ID, again.ID)
	require.Equal(t, reliable.Pending, again.Status)

	a := t.one()
	require.EqualValues(t, 1, a.Fence)
	t.hasStatus(e, reliable.Pending)
	t.settle(ack(a))
	t.hasStatus(e, reliable.Confirmed)
	t.none("it was stored once, and is confirmed")
}

func enqueueDuplicateOtherMetadata(t *T) {
	first := keyed("a", "k")
	first.Metadata = map[string]string{"n": "1"}
	t.put(first)
	second := env("a")
	second.Metadata = map[string]string{"n": "2"}
	require.False(t, t.put(second)[0].New)
	same(t, first, t.soon(1)[0].Envelope)
}

func enqueueDuplicateBesideNew(t *T) {
	t.put(env("b"), env("d"))
	stored := t.put(env("a"), env("b"), env("c"), env("d"), env("e"))
	for i, fresh := range []bool{true, false, true, false, true} {
		require.Equal(t, fresh, stored[i].New, "envelope %q", stored[i].ID)
	}
	require.ElementsMatch(t, []reliable.ID{"a", "b", "c", "d", "e"}, ids(t.claim(10)))
}

func enqueueDuplicateInBatch(t *T) {
	stored := t.put(env("a"), env("b"), env("a"), keyed("k", "key"), keyed("k", "key"))
	for i, fresh := range []bool{true, true, false, true, false} {
		require.Equal(t, fresh, stored[i].New, "envelope %d", i)
	}
	require.ElementsMatch(t, []reliable.ID{"a", "b", "k"}, ids(t.claim(10)))
}

func enqueueDuplicateKeepsLease(t *T) {
	request := reliable.EnqueueRequest{Worker: "first", Lease: long}
	first, err := t.store.Enqueue(t.Context(), request, env("a"))
	require.NoError(t, err)
	request.Worker = "second"
	second, err := t.other().Enqueue(t.Context(), request, env("a"))
	require.NoError(t, err)
	require.False(t, second[0].New)
	require.False(t, second[0].Leased, "two holders of one envelope")
	t.settles(ack(first[0].Attempt), reliable.Applied)
}

func enqueueConflict(t *T) {
	t.put(env("a"))
	otherPayload := env("a")
	otherPayload.Payload = []byte("Payload of a")
	otherTopic := env("a")
	otherTopic.Topic = "Orders"
	for _, bad := range []reliable.Envelope{otherPayload, otherTopic} {
		stored, err := t.store.Enqueue(t.Context(), reliable.EnqueueRequest{}, env("before"), bad, env("after"))
		require.ErrorIs(t, err, reliable.ErrConflict)
		require.Empty(t, stored)
	}
	a := t.one()
	same(t, env("a"), a.Envelope)
	t.absent(env("before"), env("after"))
}

func enqueueConflictInBatch(t *T) {
	other := env("a")
	other.Payload = []byte("another")
	_, err := t.store.Enqueue(t.Context(), reliable.EnqueueRequest{}, env("b"), env("a"), other)
	require.ErrorIs(t, err, reliable.ErrConflict)
	t.absent(env("a"), env("b"))
}

func enqueueConflictWithSettled(t *T) {
	t.put(env("a"))
	t.settle(ack(t.one()))
	other := env("a")
	other.Payload = []byte("another")
	_, err := t.store.Enqueue(t.Context(), reliable.EnqueueRequest{}, other)
	require.ErrorIs(t, err, reliable.ErrConflict)
}

func enqueueBytewiseIDs(t *T) {
	all := []reliable.ID{
		"order-a", "order-A", "ORDER-A", "order-a ", " order-a", "order-a\t", "order-ä", "order-a\u0308", "order-ａ",
		"1", "01", "1.0", "straße", "strasse",
	}
	for _, id := range all {
		stored, err := t.store.Enqueue(t.Context(), reliable.EnqueueRequest{}, env(id))
		require.NoError(t, err, "enqueue %q", id)
		require.True(t, stored[0].New, "%q is an id of its own", id)
	}
	claimed := t.claim(len(all))
	require.ElementsMatch(t, all, ids(claimed))
	for _, a := range claimed {
		if a.ID == "order-A" {
			t.settle(ack(a))
		}
	}
	for _, id := range all {
		want := reliable.Pending
		if id == "order-A" {
			want = reliable.Confirmed
		}
		t.hasStatus(env(id), want)
	}
}

func enqueueConcurrentDuplicates(t *T) {
	const callers, count = 8, 50
	var results [callers][]reliable.Stored
	store := t.handles()
	t.together(callers, func(i int) (err error) {
		envs := numbered(count)
		if i%4 >= 2 {
			slices.Reverse(envs) // where batches lock rows in opposite orders, the store tries again by itself
		}
		results[i], err = store(i).Enqueue(t.Context(), reliable.EnqueueRequest{}, envs...)
		return err
	})
	fresh := make(map[reliable.ID]int)
	for _, stored := range results {
		require.Len(t, stored, count)
		for _, s := range stored {
			if s.New {
				fresh[s.ID]++
			}
		}
	}
	require.Len(t, fresh, count, "every envelope is new to somebody")
	for id, n := range fresh {
		require.Equal(t, 1, n, "%q is new to one caller only", id)
	}
	require.Len(t, t.claim(10*count), count)
}

func enqueueNeverCuts(t *T) {
	long := strings.Repeat("x", 70_000)
	for name, e := range map[string]reliable.Envelope{
		"id":    {ID: reliable.ID(long), Topic: topic, Payload: []byte("id")},
		"topic": {ID: "too long a topic", Topic: long, Payload: []byte("topic")},
		"key":   {ID: "too long a key", Topic: topic, Key: long, Payload: []byte("key")},
	} {
		_, err := t.store.Enqueue(t.Context(), reliable.EnqueueRequest{}, env("beside "+reliable.ID(name)), e)
		if err == nil {
			got := make(map[reliable.ID]reliable.Envelope)
			for _, a := range t.soon(2) {
				got[a.ID] = a.Envelope
			}
			same(t, e, got[e.ID])
			continue
		}
		require.NotErrorIs(t, err, reliable.ErrConflict, "of a too long %s", name)
		t.none("nothing of the batch was stored, for the " + name + " was too long")
	}
}

func enqueueCanceled(t *T) {
	_, err := t.store.Enqueue(t.canceled(), reliable.EnqueueRequest{}, env("a"))
	require.Error(t, err)
	t.absent(env("a"))
}

func enqueueBadRequests(t *T) {
	for name, req := range map[string]reliable.EnqueueRequest{
		"negative lease": {Lease: -time.Second},
		"worker":         {Worker: strings.Repeat("w", 129), Lease: long},
	} {
		_, err := t.store.Enqueue(t.Context(), req, env("a"))
		require.ErrorIs(t, err, reliable.ErrInvalid, name)
	}
	t.absent(env("a"))
	t.one()
	worker := strings.Repeat("w", 128)
	_, err := t.store.Enqueue(t.Context(), reliable.EnqueueRequest{Worker: worker, Lease: long}, env("b"))
	require.NoError(t, err, "a worker's name of 128 bytes")
}
