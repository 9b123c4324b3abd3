package storetest

import (
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/reliable"
)

var withholdChecks = []Check{
	{Name: "what is withheld is not in the outbox", Needs: needs(Withholding), run: withheldApart},
	{Name: "what committed is released as though it were stored then", Needs: needs(Withholding), run: withheldCommitted},
	{Name: "a key orders what is released, and delays begin then", Needs: needs(Withholding), run: withheldInOrder},
	{Name: "what aborted leaves no trace", Needs: needs(Withholding), run: withheldAborted},
	{Name: "what is open is asked about again", Needs: needs(Withholding), run: withheldOpen},
	{Name: "what nobody can tell fails, and holds up nobody", Needs: needs(Withholding, Inspection, Operation), run: withheldUnknowable},
	{Name: "a ticket is resolved once", Needs: needs(Withholding), run: withheldOnce},
	{Name: "concurrent resolvers release each envelope once", Needs: needs(Withholding), run: withheldConcurrently},
	{Name: "each transaction of an id is decided by itself", Needs: needs(Withholding), run: withheldTwice},
	{Name: "undecided ones are left to one at a time, the longest due first", Needs: needs(Withholding), run: withheldLeased},
	{Name: "another envelope of an id is refused, or comes second", Needs: needs(Withholding), run: withheldConflict},
	{Name: "people see what is withheld", Needs: needs(Withholding, Inspection, Operation), run: withheldSeen},
	{Name: "what a person discards is not sent", Needs: needs(Withholding, Inspection, Operation), run: withheldDiscarded},
	{Name: "bad input is refused and nothing withheld", Needs: needs(Withholding), run: withheldRefusals},
}

// source is the database whose transactions withhold.
const source = "shop"

func (t *T) withholder() reliable.Withholder {
	t.Helper()
	return able[reliable.Withholder](t)
}

func ticketed(e reliable.Envelope, ticket reliable.ID) reliable.Withheld {
	return reliable.Withheld{Envelope: e, Ticket: ticket, Source: source, Token: reliable.Token("token of " + ticket)}
}

// withhold keeps envelopes back, with tickets like their IDs.
func (t *T) withhold(patience time.Duration, envs ...reliable.Envelope) []reliable.Withheld {
	t.Helper()
	ws := make([]reliable.Withheld, len(envs))
	for i := range envs {
		ws[i] = ticketed(envs[i], "ticket of "+envs[i].ID)
	}
	require.NoError(t, t.withholder().Withhold(t.Context(), patience, ws...), "withhold")
	return ws
}

// resolves records the same fate of all, and leases for long.
func (t *T) resolves(fate reliable.Fate, ws ...reliable.Withheld) []reliable.Resolved {
	t.Helper()
	rs := make([]reliable.Resolution, len(ws))
	for i := range ws {
		rs[i] = reliable.Resolution{Withheld: ws[i], Fate: fate, Again: long, Reason: "nobody can tell"}
	}
	results, err := t.withholder().Resolve(t.Context(), reliable.EnqueueRequest{Worker: "storetest", Lease: long}, rs...)
	require.NoError(t, err, "resolve")
	require.Len(t, results, len(ws), "one result for each resolution")
	return results
}

func (t *T) undecided(req reliable.ClaimRequest) []reliable.Withheld {
	t.Helper()
	ws, err := t.withholder().Undecided(t.Context(), source, req)
	require.NoError(t, err, "undecided")
	return ws
}

func ticketsOf(ws []reliable.Withheld) []reliable.ID {
	tickets := make([]reliable.ID, len(ws))
	for i := range ws {
		tickets[i] = ws[i].Ticket
	}
	return tickets
}

func withheldApart(t *T) {
	t.withhold(0, env("a"), keyed("b", "k"))
	t.pass(grain)
	t.none("withheld")
	t.put(env("c"))
	require.Equal(t, reliable.ID("c"), t.one().ID)
	t.absent(env("a")) // whoever stores the same has it in the outbox
}

func withheldCommitted(t *T) {
	e := env("a")
	e.Metadata = map[string]string{"k": "v", "trace": "t"}
	e.Payload = []byte("\x00\xff")
	ws := t.withhold(long, e, env("b"))
	released := t.resolves(reliable.FateCommitted, ws[0])[0]
	require.True(t, released.New && released.Leased, "new, and leased to who released it")
	require.EqualValues(t, 1, released.Fence)
	require.Equal(t, 1, released.Attempts)
	require.False(t, released.Gone || released.Conflict)
	t.none("one is leased, the other withheld")
	t.settles(ack(released.Attempt), reliable.Applied)
	t.hasStatus(e, reliable.Confirmed)

	results, err := t.withholder().Resolve(t.Context(), reliable.EnqueueRequest{},
		reliable.Resolution{Withheld: ws[1], Fate: reliable.FateCommitted})
	require.NoError(t, err)
	require.True(t, results[0].New && !results[0].Leased)
	got := t.one()
	require.Equal(t, reliable.ID("b"), got.ID)
	require.Equal(t, ws[1].Payload, got.Payload)
}

func withheldInOrder(t *T) {
	delayed := env("later")
	delayed.Delay = t.h.Lease
	ws := t.withhold(long, keyed("first", "k"), keyed("second", "k"), delayed)
	require.False(t, t.resolves(reliable.FateCommitted, ws[1])[0].Leased, "a keyed one is never leased as it is stored")
	head := t.soon(1)[0]
	require.Equal(t, reliable.ID("second"), head.ID, "its place in the line is that of its release")
	t.resolves(reliable.FateCommitted, ws[0])
	t.none("it waits behind the one that was released before")
	t.settles(ack(head), reliable.Applied)
	require.Equal(t, reliable.ID("first"), t.soon(1)[0].ID)

	before := time.Now()
	require.False(t, t.resolves(reliable.FateCommitted, ws[2])[0].Leased, "a delayed one is not leased either")
	require.Equal(t, reliable.ID("later"), t.soon(1)[0].ID)
	require.GreaterOrEqual(t, time.Since(before)+grain, t.h.Lease, "its delay begins with the release")
}

func withheldAborted(t *T) {
	ws := t.withhold(0, env("a"), env("b"))
	t.resolves(reliable.FateAborted, ws...)
	t.pass(grain)
	require.Empty(t, t.undecided(request(10, long)))
	t.none("it did not happen")
	t.absent(env("a"))
}

func withheldOpen(t *T) {
	t.withhold(0, env("a"))
	var ws []reliable.Withheld
	t.until("it is undecided", func() bool { ws = t.undecided(request(10, long)); return len(ws) > 0 })
	require.Equal(t, 1, ws[0].Asked)
	_, err := t.withholder().Resolve(t.Context(), reliable.EnqueueRequest{},
		reliable.Resolution{Withheld: ws[0], Fate: reliable.FateOpen, Again: t.h.Lease})
	require.NoError(t, err)
	before := time.Now()
	t.until("it is undecided again", func() bool { ws = t.undecided(request(10, long)); return len(ws) > 0 })
	require.GreaterOrEqual(t, time.Since(before)+grain, t.h.Lease, "not before it was to be")
	require.Equal(t, 2, ws[0].Asked)
	require.True(t, t.resolves(reliable.FateCommitted, ws[0])[0].New, "it committed after all")
}

func withheldUnknowable(t *T) {
	ws := t.withhold(long, keyed("a", "k"))
	t.put(keyed("b", "k"))
	failed := t.resolves(reliable.FateUnknowable, ws[0])[0]
	require.True(t, failed.New && !failed.Leased)
	require.Equal(t, reliable.Failed, failed.Status)
	require.Equal(t, reliable.ID("b"), t.soon(1)[0].ID, "its key goes on")
	record := t.record("a")
	require.Equal(t, reliable.Failed, record.Status)
	require.False(t, record.Withheld)
	require.Len(t, record.History, 1)
	require.Equal(t, reliable.GivenUp, record.History[0].Kind)
	require.Equal(t, "nobody can tell", record.History[0].Reason)
	require.Equal(t, 1, t.stats()[topic].Failed)
	t.lists(reliable.Filter{Status: reliable.Failed}, "a")
}

func withheldOnce(t *T) {
	ws := t.withhold(long, env("a"), env("b"))
	twice := t.resolves(reliable.FateCommitted, ws[0], ws[0])
	require.NotEqual(t, twice[0].Gone, twice[1].Gone, "one of two in one call")
	require.True(t, t.resolves(reliable.FateCommitted, ws[0])[0].Gone)
	require.True(t, t.resolves(reliable.FateAborted, ws[0])[0].Gone)
	t.hasStatus(env("a"), reliable.Pending)
	t.resolves(reliable.FateAborted, ws[1])
	require.True(t, t.resolves(reliable.FateCommitted, ws[1])[0].Gone)
	t.absent(env("b"))
	require.True(t, t.resolves(reliable.FateCommitted, ticketed(env("c"), "never given"))[0].Gone)
	t.absent(env("c"))
}

func withheldConcurrently(t *T) {
	ws := t.withhold(long, numbered(20)...)
	store := t.handles()
	var leased atomic.Int32
	t.together(8, func(i int) error {
		withholder, _ := reliable.Ability[reliable.Withholder](store(i))
		rs := make([]reliable.Resolution, len(ws))
		for n := range ws {
			rs[n] = reliable.Resolution{Withheld: ws[n], Fate: reliable.FateCommitted}
		}
		if i%2 == 1 {
			slices.Reverse(rs)
		}
		results, err := withholder.Resolve(t.Context(), reliable.EnqueueRequest{Worker: "storetest", Lease: long}, rs...)
		for _, r := range results {
			if r.Leased {
				leased.Add(1)
			}
		}
		return err
	})
	require.EqualValues(t, 20, leased.Load())
	t.none("all are leased")
}

func withheldTwice(t *T) {
	w := t.withholder()
	first, second := ticketed(env("a"), "first"), ticketed(env("a"), "second")
	require.NoError(t, w.Withhold(t.Context(), 0, first))
	require.NoError(t, w.Withhold(t.Context(), 0, second), "a transaction that is tried again")
	t.resolves(reliable.FateAborted, first)
	t.pass(grain)
	left := t.undecided(request(10, long))
	require.Equal(t, []reliable.ID{"second"}, ticketsOf(left), "nothing was said of the second")
	require.True(t, t.resolves(reliable.FateCommitted, left...)[0].New)

	require.NoError(t, w.Withhold(t.Context(), 0, ticketed(env("a"), "third")), "stored already, and the same")
	again := t.resolves(reliable.FateCommitted, ticketed(env("a"), "third"))[0]
	require.False(t, again.New || again.Leased || again.Gone || again.Conflict, "it is there already")
}

func withheldLeased(t *T) {
	for _, id := range []reliable.ID{"a", "b", "c"} {
		t.withhold(0, env(id))
		t.pass(grain)
	}
	t.withhold(long, env("patient"))
	elsewhere := ticketed(env("d"), "d")
	elsewhere.Source = "warehouse"
	require.NoError(t, t.withholder().Withhold(t.Context(), 0, elsewhere))
	t.pass(grain)
	both := t.undecided(request(2, t.h.Lease))
	require.Equal(t, []reliable.ID{"ticket of a", "ticket of b"}, ticketsOf(both))
	require.Equal(t, reliable.Token("token of ticket of a"), both[0].Token)
	require.Equal(t, env("a").Payload, both[0].Payload)
	require.Greater(t, both[0].Age, time.Duration(0))
	req := request(10, long)
	req.MaxBytes = 1
	require.Equal(t, []reliable.ID{"ticket of c"}, ticketsOf(t.undecided(req)), "the first whatever its size")
	var again []reliable.Withheld
	t.until("the leases end", func() bool {
		next := t.undecided(req)
		require.LessOrEqual(t, len(next), 1, "two are larger than what was asked for")
		again = append(again, next...)
		return len(again) == 2
	})
	require.Equal(t, []reliable.ID{"ticket of a", "ticket of b"}, ticketsOf(again), "one at a time")
	require.Equal(t, 2, again[0].Asked)
	require.Empty(t, t.undecided(request(10, long)), "all are leased, or their patience has not ended")
	require.True(t, t.resolves(reliable.FateCommitted, both[1])[0].New, "whoever knows may say so, whoever has the lease")
}

func withheldConflict(t *T) {
	other := env("a")
	other.Payload = []byte("another")
	first := t.withhold(long, env("a"))
	t.put(other)
	require.ErrorIs(t, t.withholder().Withhold(t.Context(), long, ticketed(env("b"), "b"), ticketed(env("a"), "again")),
		reliable.ErrConflict)
	require.True(t, t.resolves(reliable.FateCommitted, ticketed(env("b"), "b"))[0].Gone, "all or none")
	ws := t.withhold(long, env("c"))
	results := t.resolves(reliable.FateCommitted, ws[0], first[0])
	require.True(t, results[0].New)
	require.True(t, results[1].Conflict && !results[1].New)
	require.True(t, t.resolves(reliable.FateCommitted, first[0])[0].Gone)
	require.Equal(t, other.Payload, t.one().Payload, "what came first stands")
}

func withheldSeen(t *T) {
	e := keyed("m-2", "k")
	e.Metadata = map[string]string{"k": "v"}
	t.withhold(long, env("m-1"), e, env("m-3"))
	t.put(env("stored"))
	record := t.record("m-2")
	require.True(t, record.Withheld)
	require.Equal(t, reliable.Pending, record.Status)
	require.Equal(t, "k", record.Key)
	require.Equal(t, e.Metadata, record.Metadata)
	require.Equal(t, e.Payload, record.Payload)
	require.Greater(t, record.DueIn, long-patience)
	require.False(t, t.record("stored").Withheld)
	stats := t.stats()[topic]
	require.Equal(t, 3, stats.Withheld)
	require.Equal(t, 1, stats.Pending)
	for limit := 1; limit <= 4; limit++ {
		records := t.walk(reliable.Filter{Status: reliable.Pending}, limit, func() {})
		require.Len(t, records, 4, "pages of %d", limit)
		for _, r := range records {
			require.Equal(t, r.ID != "stored", r.Withheld, "%q", r.ID)
			require.Nil(t, r.Payload)
		}
	}
	t.lists(reliable.Filter{Status: reliable.Pending, Topic: "another"})
	t.lists(reliable.Filter{Status: reliable.Failed})
	t.resolves(reliable.FateCommitted, ticketed(e, "ticket of m-2"))
	require.False(t, t.record("m-2").Withheld)
	require.Equal(t, 2, t.stats()[topic].Withheld)
}

func withheldDiscarded(t *T) {
	ws := t.withhold(0, keyed("a", "k"))
	t.put(keyed("b", "k"))
	t.refuses(reliable.Requeue, reliable.WrongStatus, reliable.Pending, "a")
	require.True(t, t.record("a").Withheld, "and it is withheld as before")
	t.decides(reliable.Discard, "a")
	require.Equal(t, reliable.Discarded, t.record("a").Status)
	require.True(t, t.resolves(reliable.FateCommitted, ws[0])[0].Gone, "its transaction commits after that")
	require.Equal(t, reliable.Discarded, t.record("a").Status)
	require.Equal(t, reliable.ID("b"), t.soon(1)[0].ID, "it had no place in the line")
	require.Empty(t, t.undecided(request(10, long)))
}

func withheldRefusals(t *T) {
	w := t.withholder()
	for _, bad := range []reliable.Withheld{
		ticketed(env("a"), ""),
		ticketed(env("a"), reliable.ID(strings.Repeat("x", reliable.MaxTicketBytes+1))),
		ticketed(env("a"), "a\x00b"),
		ticketed(env(""), "t"),
		{Envelope: env("a"), Ticket: "t"},
		{Envelope: env("a"), Ticket: "t", Source: strings.Repeat("x", reliable.MaxSourceBytes+1)},
		{Envelope: env("a"), Ticket: "t", Source: source, Token: reliable.Token(strings.Repeat("x", reliable.MaxTokenBytes+1))},
	} {
		require.ErrorIs(t, w.Withhold(t.Context(), 0, ticketed(env("sound"), "sound"), bad), reliable.ErrInvalid, "%q", bad.Ticket)
	}
	require.ErrorIs(t, w.Withhold(t.Context(), -1, ticketed(env("a"), "t")), reliable.ErrInvalid)
	for _, req := range []reliable.ClaimRequest{{Lease: long}, {Max: 1}, {Max: 1, MaxBytes: -1, Lease: long}} {
		_, err := w.Undecided(t.Context(), source, req)
		require.ErrorIs(t, err, reliable.ErrInvalid)
	}
	_, err := w.Resolve(t.Context(), reliable.EnqueueRequest{}, reliable.Resolution{Withheld: ticketed(env("a"), "t"), Again: -1})
	require.ErrorIs(t, err, reliable.ErrInvalid)
	require.Empty(t, t.undecided(request(10, long)), "nothing was withheld")
	require.NoError(t, w.Withhold(t.Context(), 0))
}
