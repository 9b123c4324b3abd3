package storetest

import (
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/reliable"
)

// What went wrong is written down, in a form that every table and page can take.
var historyChecks = []Check{
	{Name: "any reason can be stored", run: settleAnyReason},
	{Name: "a reason is kept sanitised and cut", Needs: needs(Inspection), run: settleReasonKept},
	{Name: "history tells what did not end acked", Needs: needs(Inspection), run: settleHistory},
	{Name: "history is bounded and keeps the newest", Needs: needs(Inspection), run: settleHistoryBounded},
}

// badReasons are texts that a table, or a page, cannot take as they are.
var badReasons = []string{
	"queue full\x00behind a NUL",
	"queue full\xff\xfe not UTF-8",
	"queue full" + strings.Repeat(" and so on", 20_000),
	"queue full" + strings.Repeat("\u00e4\u2603\U0001F4E6", 300),
	"queue full\x1b[31m red \r\n\t\x7f\u0085",
	"queue full '; DROP TABLE x; -- %s $1 ?",
}

func settleAnyReason(t *T) {
	t.put(numbered(len(badReasons))...)
	attempts := t.exactly(len(badReasons))
	var ss []reliable.Settlement
	for i, a := range attempts {
		s := retry(a, 0)
		s.Reason = badReasons[i]
		ss = append(ss, s)
	}
	for _, r := range t.settle(ss...) {
		require.Equal(t, reliable.Applied, r)
	}
	require.Len(t, t.claim(10), len(badReasons))
}

// readable demands that a reason that was stored can be shown.
func readable(t *T, reason string) {
	t.Helper()
	require.True(t, utf8.ValidString(reason), "a reason that is not UTF-8: %q", reason)
	require.Equal(t, -1, strings.IndexFunc(reason, unicode.IsControl), "a control character in the reason %q", reason)
	require.LessOrEqual(t, len(reason), reliable.MaxReasonBytes)
	require.Contains(t, reason, "queue full", "the reason is there")
}

func settleReasonKept(t *T) {
	for i, reason := range badReasons {
		e := env(reliable.ID(number("reason-", i)))
		t.put(e)
		s := retry(t.one(), long)
		s.Reason = reason
		t.settle(s)
		history := t.record(e.ID).History
		require.Len(t, history, 1)
		readable(t, history[0].Reason)
	}
	e := env("short")
	t.put(e)
	s := giveUp(t.one())
	s.Reason = "queue full: größer als 10 MB ☃"
	t.settle(s)
	history := t.record(e.ID).History
	require.Len(t, history, 1)
	require.Equal(t, s.Reason, history[0].Reason, "a reason in which nothing is wrong stays as it is")
}

func settleHistory(t *T) {
	t.put(env("a"), env("b"))
	var a, b reliable.Attempt
	claim := func() {
		for _, x := range t.claim(2) {
			if x.ID == "a" {
				a = x
			} else {
				b = x
			}
		}
	}
	claim()
	require.Empty(t, t.record("a").History)
	t.settle(retry(a, 0), giveBack(b))
	first := a
	claim()
	t.settle(unknown(a), ack(b))
	second := a
	t.pass(grain)
	claim()
	t.settle(giveBack(a))
	claim()
	t.settle(giveUp(a))

	history := t.record("a").History
	require.Len(t, history, 3, "one entry for each attempt that was sent and not acked")
	for i, want := range []reliable.HistoryEntry{
		{Fence: first.Fence, Outcome: reliable.Nacked, Charged: true, By: "storetest", Reason: "queue full"},
		{Fence: second.Fence, Outcome: reliable.Unknown, By: "storetest", Reason: "connection lost"},
		{Fence: a.Fence, Outcome: reliable.Rejected, Charged: true, By: "storetest", Reason: "too large"},
	} {
		ago := history[i].Ago
		require.GreaterOrEqual(t, ago, time.Duration(0))
		require.Less(t, ago, patience)
		history[i].Ago = 0
		require.Equal(t, want, history[i], "entry %d, oldest first", i)
		if i > 0 {
			continue
		}
		require.GreaterOrEqual(t, ago+grain/2, grain, "recorded before the pause")
	}
	require.Empty(t, t.record("b").History, "neither an ack nor what was given back is written down")
}

func settleHistoryBounded(t *T) {
	t.put(env("a"))
	const attempts = reliable.MaxHistory + 5
	for range attempts {
		t.settle(retry(t.one(), 0))
	}
	record := t.record("a")
	require.Len(t, record.History, reliable.MaxHistory)
	require.EqualValues(t, attempts-reliable.MaxHistory+1, record.History[0].Fence, "the oldest that is kept")
	require.EqualValues(t, attempts, record.History[reliable.MaxHistory-1].Fence, "the newest")
	require.Equal(t, attempts, record.Failures)
}
