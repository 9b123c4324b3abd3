package storetest

import (
	"fmt"
	"slices"
	"strings"

	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/reliable"
)

// People find what they are looking for, page by page, however much there is.
var listChecks = operationNeeded([]Check{
	{Name: "each status lists what stands there", run: listStatuses},
	{Name: "what is pending is listed whatever it waits for", run: listPending},
	{Name: "what is parked is listed", Needs: needs(Holds), run: listParked},
	{Name: "a topic is matched byte by byte", run: listTopic},
	{Name: "what is younger is left out", run: listOlderThan},
	{Name: "a reason is matched in all of the history", run: listReason},
	{Name: "records come without payload and history, and with all else", run: listRecords},
	{Name: "pages follow one another without gaps and repetitions", run: listPages},
	{Name: "a filter that matches little ends all the same", run: listSparse},
	{Name: "a walk is not put off by what comes and goes", run: listStable},
	{Name: "bad requests and other cursors are refused", run: listRefuses},
})

func operationNeeded(checks []Check) []Check {
	for i := range checks {
		checks[i].Needs = append(checks[i].Needs, Operation)
	}
	return checks
}

func (t *T) operator() reliable.Operator {
	t.Helper()
	return able[reliable.Operator](t)
}

// page lists one page.
func (t *T) page(f reliable.Filter, limit int, after reliable.Cursor) reliable.Page {
	t.Helper()
	page, err := t.operator().List(t.Context(), reliable.ListRequest{Filter: f, Limit: limit, After: after})
	require.NoError(t, err, "list")
	require.LessOrEqual(t, len(page.Records), limit, "a page is no longer than asked for")
	return page
}

// walk lists all pages; between is called after each but the last.
func (t *T) walk(f reliable.Filter, limit int, between func()) []reliable.Record {
	t.Helper()
	var all []reliable.Record
	seen := make(map[reliable.Cursor]bool)
	for after := reliable.Cursor(""); ; {
		page := t.page(f, limit, after)
		all = append(all, page.Records...)
		if page.Next == "" {
			return all
		}
		require.False(t, seen[page.Next], "the walk comes to the same place twice")
		seen[page.Next] = true
		after = page.Next
		if between != nil {
			between()
		}
	}
}

// lists demands what a walk finds, in any order.
func (t *T) lists(f reliable.Filter, want ...reliable.ID) {
	t.Helper()
	require.ElementsMatch(t, want, recordIDs(t.walk(f, 100, nil)), "listed as %v", f)
}

func having(status reliable.Status) reliable.Filter { return reliable.Filter{Status: status} }

// ofTopic is an envelope of another topic.
func ofTopic(topic string, id reliable.ID) reliable.Envelope {
	e := env(id)
	e.Topic = topic
	return e
}

// sorted stores an envelope of each status and brings it there: pending, confirmed, failed, compensated, discarded.
func (t *T) sorted() {
	t.Helper()
	t.put(env("confirmed"))
	t.settles(ack(t.one()), reliable.Applied)
	t.failed(env("failed"), env("compensated"), env("discarded"))
	t.decides(reliable.Compensate, "compensated")
	t.decides(reliable.Discard, "discarded")
	t.put(env("pending"))
}

func listStatuses(t *T) {
	t.sorted()
	for status := reliable.Pending; status <= reliable.Discarded; status++ {
		t.lists(having(status), reliable.ID(status.String()))
		t.lists(reliable.Filter{Status: status, Topic: topic}, reliable.ID(status.String()))
		t.lists(reliable.Filter{Status: status, Topic: "other"})
	}
}

func listPending(t *T) {
	delayed := env("delayed")
	delayed.Delay = long
	t.put(env("leased"), keyed("head", "k"))
	require.Len(t, t.soon(2), 2)
	t.put(keyed("follower", "k"), keyed("second follower", "k"), delayed, env("due"))
	all := []reliable.ID{"leased", "head", "follower", "second follower", "delayed", "due"}
	t.lists(having(reliable.Pending), all...)
	for _, r := range t.walk(having(reliable.Pending), 2, nil) {
		require.Equal(t, r.ID == "follower" || r.ID == "second follower", r.Waiting, "%q waits", r.ID)
		require.Equal(t, r.ID == "delayed" || r.ID == "leased" || r.ID == "head", r.DueIn > long-patience && !r.Waiting,
			"%q is due later", r.ID)
	}
}

func listParked(t *T) {
	t.parked(long, numbered(7)...)
	t.put(env("beside"))
	want := append(idsOf(numbered(7)), "beside")
	t.lists(having(reliable.Pending), want...)
	all := t.walk(having(reliable.Pending), 2, nil)
	require.ElementsMatch(t, want, recordIDs(all))
	for _, r := range all {
		require.Equal(t, r.ID != "beside", r.Held, "%q is held", r.ID)
	}
}

func listTopic(t *T) {
	t.failed(ofTopic("Orders", "upper"), ofTopic("orders ", "space"), env("exact"), ofTopic("order", "shorter"))
	t.put(ofTopic("Orders", "upper pending"), env("exact pending"))
	for topic, id := range map[string]reliable.ID{
		"orders": "exact", "Orders": "upper", "orders ": "space", "order": "shorter",
	} {
		t.lists(reliable.Filter{Status: reliable.Failed, Topic: topic}, id)
	}
	t.lists(reliable.Filter{Status: reliable.Failed, Topic: "ORDERS"})
	t.lists(reliable.Filter{Status: reliable.Pending, Topic: topic}, "exact pending")
}

func listOlderThan(t *T) {
	later := func(id reliable.ID) reliable.Envelope {
		e := env(id)
		e.Delay = long
		return e
	}
	t.put(later("old pending"))
	t.failed(env("old"))
	t.pass(t.h.Lease)
	t.put(later("young pending"))
	t.failed(ofTopic("young", "young"))
	old := func(status reliable.Status) reliable.Filter {
		return reliable.Filter{Status: status, OlderThan: t.h.Lease}
	}
	t.lists(old(reliable.Failed), "old")
	t.lists(old(reliable.Pending), "old pending")
	t.pass(t.h.Lease)
	t.lists(old(reliable.Failed), "old", "young")
	t.lists(reliable.Filter{Status: reliable.Failed, OlderThan: long})
}

func listReason(t *T) {
	t.put(env("a"), env("b"), env("c"), env("silent"))
	for _, a := range t.exactly(4) {
		s := giveUp(a)
		s.Reason = map[reliable.ID]string{"a": "No route: queue gone", "b": "50% of the queue_is full", "c": "too large"}[a.ID]
		if a.ID == "c" { // what was said first is part of the history too
			first := unknown(a)
			first.Reason = "Größe unbekannt: no route"
			t.settles(first, reliable.Applied)
			continue
		}
		t.settles(s, reliable.Applied)
	}
	t.settles(giveUp(t.one()), reliable.Applied)
	of := func(reason string) reliable.Filter { return reliable.Filter{Status: reliable.Failed, Reason: reason} }
	t.lists(of("route"), "a", "c")
	t.lists(of("No route"), "a")
	t.lists(of("no route"), "c")
	t.lists(of("Größe"), "c")
	t.lists(of("too large"), "c")
	t.lists(of("queue"), "a", "b")
	t.lists(of("50%"), "b")
	t.lists(of("queue_is"), "b")
	t.lists(of("%"), "b")
	t.lists(of("no such reason"))
	t.decides(reliable.Discard, "b")
	t.lists(reliable.Filter{Status: reliable.Discarded, Reason: reasonOf(reliable.Discard)}, "b")
	t.lists(reliable.Filter{Status: reliable.Discarded, Topic: topic, Reason: "50%"}, "b")
}

func listRecords(t *T) {
	e := keyed("a", "k")
	e.Metadata = map[string]string{"n": "1"}
	t.put(e)
	t.settles(unknown(t.one()), reliable.Applied)
	t.settles(giveUp(t.soon(1)[0]), reliable.Applied)
	page := t.page(having(reliable.Failed), 1, "")
	require.Len(t, page.Records, 1)
	require.Empty(t, page.Next, "nothing follows")
	r := page.Records[0]
	require.Empty(t, r.Payload, "a list does not read payloads")
	require.Empty(t, r.History, "a list does not read histories")
	r.Payload = e.Payload
	same(t, e, r.Envelope)
	require.Equal(t, reliable.Failed, r.Status)
	require.Equal(t, 2, r.Attempts)
	require.Equal(t, 1, r.Failures)
	require.EqualValues(t, 2, r.Fence)
	require.True(t, r.MayHaveBeenSent)
	require.False(t, r.LateAck)
}

func listPages(t *T) {
	const count = 57
	envs := numbered(count)
	t.put(envs...)
	var ss []reliable.Settlement
	for _, a := range t.exactly(count) {
		ss = append(ss, giveUp(a))
	}
	t.settle(ss...) // all at one time
	t.put(ofTopic("other", "other"))
	t.settles(giveUp(t.one()), reliable.Applied)
	for _, f := range []reliable.Filter{
		{Status: reliable.Failed, Topic: topic},
		{Status: reliable.Failed, Topic: topic, Reason: "too large"},
	} {
		for _, limit := range []int{1, 7, count - 1, count, count + 1, reliable.MaxPage} {
			require.ElementsMatch(t, idsOf(envs), recordIDs(t.walk(f, limit, nil)), "pages of %d", limit)
		}
	}
	require.Len(t, t.walk(having(reliable.Failed), 10, nil), count+1)
	page := t.page(reliable.Filter{Status: reliable.Failed, Topic: topic}, 10, "")
	require.Len(t, page.Records, 10, "nothing is left out of a page by such a filter")
	again := t.page(reliable.Filter{Status: reliable.Failed, Topic: topic}, 10, "")
	require.Equal(t, recordIDs(page.Records), recordIDs(again.Records), "the order is the same each time")
}

func listSparse(t *T) {
	const crowd = 2500
	for i := 0; i < crowd; i += 500 {
		var envs []reliable.Envelope
		for n := range 500 {
			envs = append(envs, ofTopic("crowd", reliable.ID(fmt.Sprintf("crowd-%05d", i+n))))
		}
		t.put(envs...)
	}
	t.put(env("a"), env("b"))
	t.lists(reliable.Filter{Status: reliable.Pending, Topic: topic}, "a", "b")
	t.lists(reliable.Filter{Status: reliable.Pending, Topic: "none"})
	t.lists(reliable.Filter{Status: reliable.Pending, Reason: "none"})
}

func listStable(t *T) {
	const count = 40
	envs := numbered(count)
	t.failed(envs[:count/2]...)
	t.failed(envs[count/2:]...)
	left := recordIDs(t.walk(having(reliable.Failed), 100, nil))
	n := 0
	listed := t.walk(having(reliable.Failed), 7, func() {
		// One that was listed, one that was not, and a new one.
		t.decides(reliable.Discard, left[0], left[len(left)-1])
		left = left[1 : len(left)-1]
		t.failed(env(reliable.ID(number("new-", n))))
		n++
	})
	times := make(map[reliable.ID]int)
	for _, r := range listed {
		times[r.ID]++
		require.Equal(t, 1, times[r.ID], "times that %q was listed", r.ID)
	}
	for _, id := range left {
		require.Equal(t, 1, times[id], "times that %q was listed, which was there throughout", id)
	}
}

func listRefuses(t *T) {
	t.failed(env("a"), env("b"))
	good := reliable.ListRequest{Filter: having(reliable.Failed), Limit: 1}
	page := t.page(good.Filter, 1, "")
	require.NotEmpty(t, page.Next)
	printable := func(c rune) bool { return c <= ' ' || c > '~' }
	require.Equal(t, -1, strings.IndexFunc(string(page.Next), printable), "a cursor can be printed")
	for name, change := range map[string]func(r *reliable.ListRequest){
		"no limit":           func(r *reliable.ListRequest) { r.Limit = 0 },
		"too long a page":    func(r *reliable.ListRequest) { r.Limit = reliable.MaxPage + 1 },
		"no status":          func(r *reliable.ListRequest) { r.Status = reliable.Discarded + 1 },
		"negative age":       func(r *reliable.ListRequest) { r.OlderThan = -1 },
		"damaged cursor":     func(r *reliable.ListRequest) { r.After = page.Next[:len(page.Next)-1] },
		"no cursor":          func(r *reliable.ListRequest) { r.After = "elsewhere" },
		"another's cursor":   func(r *reliable.ListRequest) { r.After, r.Status = page.Next, reliable.Pending },
		"another one's page": func(r *reliable.ListRequest) { r.After, r.Topic = page.Next, topic },
	} {
		bad := good
		change(&bad)
		_, err := t.operator().List(t.Context(), bad)
		require.ErrorIs(t, err, reliable.ErrInvalid, name)
	}
	rest := t.page(good.Filter, 1, page.Next)
	require.Len(t, rest.Records, 1)
	require.False(t, slices.Contains(recordIDs(page.Records), rest.Records[0].ID))
}
