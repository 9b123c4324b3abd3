package reliable_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/internal/virtualtime"
	"github.com/waybillmq/waybill/reliable"
)

var uuidV7 = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`)

func TestNewID_isAUUIDOfVersion7ThatGrows(t *testing.T) {
	previous := reliable.NewID()
	for range 100_000 {
		id := reliable.NewID()
		require.Less(t, previous, id)
		previous = id
	}
	assert.Regexp(t, uuidV7, string(previous))
}

func TestNewID_growsWhileTheClockStandsStill(t *testing.T) {
	virtualtime.Test(t, func(t *testing.T) {
		ids := make([]reliable.ID, 20_000) // more than the fraction of a millisecond has values
		for i := range ids {
			ids[i] = reliable.NewID()
		}
		assert.True(t, slices.IsSorted(ids))
		assert.Len(t, slices.Compact(ids), 20_000)
		for _, id := range ids {
			require.Regexp(t, uuidV7, string(id))
		}
	})
}

func TestNewID_isDistinctAmongGoroutines(t *testing.T) {
	const goroutines, each = 8, 5_000
	made := make(chan []reliable.ID, goroutines)
	for range goroutines {
		go func() {
			ids := make([]reliable.ID, each)
			for i := range ids {
				ids[i] = reliable.NewID()
			}
			made <- ids
		}()
	}
	seen := make(map[reliable.ID]bool)
	for range goroutines {
		for _, id := range <-made {
			seen[id] = true
		}
	}
	assert.Len(t, seen, goroutines*each)
}

// sound returns an envelope that passes, for tests that spoil one thing.
func sound() reliable.Envelope {
	return reliable.Envelope{ID: "order-1", Topic: "orders", Payload: []byte("{}"), Metadata: map[string]string{"tenant": "a"}}
}

func TestLimits_namesTheFieldThatIsWrong(t *testing.T) {
	limits := reliable.Limits{Payload: 10, Metadata: 20, MetadataPairs: 2, Topic: 8, Key: 8, ID: 8}
	for name, test := range map[string]struct {
		spoil func(e *reliable.Envelope)
		field string
	}{
		"no id":                    {func(e *reliable.Envelope) { e.ID = "" }, "ID"},
		"long id":                  {func(e *reliable.Envelope) { e.ID = "123456789" }, "ID"},
		"id with NUL":              {func(e *reliable.Envelope) { e.ID = "a\x00" }, "ID"},
		"no topic":                 {func(e *reliable.Envelope) { e.Topic = "" }, "Topic"},
		"long topic":               {func(e *reliable.Envelope) { e.Topic = "123456789" }, "Topic"},
		"topic not UTF-8":          {func(e *reliable.Envelope) { e.Topic = "a\xff" }, "Topic"},
		"long key":                 {func(e *reliable.Envelope) { e.Key = "123456789" }, "Key"},
		"key cut in a rune":        {func(e *reliable.Envelope) { e.Key = "\xe2\x82" }, "Key"},
		"large payload":            {func(e *reliable.Envelope) { e.Payload = make([]byte, 11) }, "Payload"},
		"negative delay":           {func(e *reliable.Envelope) { e.Delay = -1 }, "Delay"},
		"delay of a century":       {func(e *reliable.Envelope) { e.Delay = 100 * 365 * 24 * time.Hour }, "Delay"},
		"negative deadline":        {func(e *reliable.Envelope) { e.Deadline = -1 }, "Deadline"},
		"deadline before delay":    {func(e *reliable.Envelope) { e.Delay, e.Deadline = 2, 1 }, "Deadline"},
		"many metadata keys":       {func(e *reliable.Envelope) { e.Metadata = map[string]string{"a": "", "b": "", "c": ""} }, "Metadata"},
		"large metadata":           {func(e *reliable.Envelope) { e.Metadata = map[string]string{"a": strings.Repeat("x", 20)} }, "Metadata"},
		"empty metadata key":       {func(e *reliable.Envelope) { e.Metadata = map[string]string{"": "x"} }, "Metadata"},
		"reserved metadata key":    {func(e *reliable.Envelope) { e.Metadata = map[string]string{reliable.HeaderKey: "x"} }, "Metadata"},
		"metadata key not UTF-8":   {func(e *reliable.Envelope) { e.Metadata = map[string]string{"\xff": "x"} }, "Metadata"},
		"metadata value not UTF-8": {func(e *reliable.Envelope) { e.Metadata = map[string]string{"x": "\xff"} }, "Metadata"},
		"metadata value with NUL":  {func(e *reliable.Envelope) { e.Metadata = map[string]string{"x": "\x00"} }, "Metadata"},
	} {
		t.Run(name, func(t *testing.T) {
			env := sound()
			require.NoError(t, limits.Check(&env))
			test.spoil(&env)
			err := limits.Check(&env)
			require.ErrorIs(t, err, reliable.ErrInvalid)
			var invalid *reliable.InvalidError
			require.ErrorAs(t, err, &invalid)
			assert.Equal(t, test.field, invalid.Field)
			assert.True(t, utf8.ValidString(err.Error()), "an error must be printable: %q", err.Error())
		})
	}
}

func TestLimits_atTheirEdgePass(t *testing.T) {
	limits := reliable.Limits{Payload: 2, Metadata: 7, MetadataPairs: 1, Topic: 6, Key: 1, ID: 7}
	env := sound()
	env.Key = "k"
	require.NoError(t, limits.Check(&env))
	unlimited := reliable.Envelope{ID: "x", Topic: strings.Repeat("t", 10_000), Payload: make([]byte, 1<<20)}
	require.NoError(t, reliable.Limits{}.Check(&unlimited))
}

func TestLimits_stricterTakesTheSmallerOfEachAndZeroForNone(t *testing.T) {
	got := reliable.Limits{Payload: 5, Topic: 7}.Stricter(reliable.Limits{Payload: 9, Topic: 3, Key: 1})
	assert.Equal(t, reliable.Limits{Payload: 5, Topic: 3, Key: 1}, got)
	assert.Equal(t, reliable.DefaultLimits(), reliable.DefaultLimits().Stricter(reliable.Limits{}))
}

func TestPublishError_isItsOutcomeAndItsCause(t *testing.T) {
	for outcome, sentinel := range map[reliable.Outcome]error{
		reliable.Nacked: reliable.ErrNacked, reliable.Returned: reliable.ErrUnroutable,
		reliable.Rejected: reliable.ErrRejected, reliable.Unknown: reliable.ErrUnknown,
	} {
		var err error = &reliable.PublishError{ID: "order-1", Topic: "orders", Outcome: outcome, Cause: io.ErrUnexpectedEOF}
		require.ErrorIs(t, err, sentinel)
		require.ErrorIs(t, err, io.ErrUnexpectedEOF)
		assert.Contains(t, err.Error(), "order-1")
		require.ErrorIs(t, &reliable.PublishError{Outcome: outcome}, sentinel)
	}
	assert.NoError(t, reliable.Acked.Err())
}

func TestNotStored_keepsTheCause(t *testing.T) {
	err := reliable.NotStored("mysqlstore", io.EOF)
	require.ErrorIs(t, err, reliable.ErrNotStored)
	require.ErrorIs(t, err, io.EOF)
}

func TestNames_areThoseOfTheTablesAndLogs(t *testing.T) {
	for value, want := range map[interface{ String() string }]string{
		reliable.Pending: "pending", reliable.Confirmed: "confirmed", reliable.Failed: "failed", reliable.Compensated: "compensated",
		reliable.Discarded: "discarded", reliable.Status(9): "invalid",
		reliable.Unknown: "unknown", reliable.Acked: "acked", reliable.Nacked: "nacked", reliable.Returned: "returned",
		reliable.Rejected: "rejected", reliable.Outcome(9): "invalid",
		reliable.Applied: "applied", reliable.Late: "late", reliable.Stale: "stale", reliable.Repeated: "repeated",
		reliable.Overtaken: "overtaken", reliable.SettleResult(9): "invalid",
		reliable.Requeue: "requeue", reliable.Compensate: "compensate", reliable.Discard: "discard",
		reliable.Action(0): "invalid", reliable.Action(9): "invalid",
		reliable.Decided: "decided", reliable.NotFound: "not found", reliable.WrongStatus: "wrong status",
		reliable.Busy: "busy", reliable.Verdict(9): "invalid",
		reliable.AttemptEnded: "attempt", reliable.GivenUp: "given up", reliable.CompensationFailed: "compensation",
		reliable.OperatorDecided: "decision", reliable.HistoryKind(9): "invalid",
	} {
		assert.Equal(t, want, value.String())
	}
	text, err := json.Marshal([]reliable.Status{reliable.Confirmed, reliable.Failed})
	require.NoError(t, err)
	assert.JSONEq(t, `["confirmed","failed"]`, string(text))
	assert.EqualValues(t, 0, reliable.Pending)
	assert.EqualValues(t, 1, reliable.Confirmed)
	assert.EqualValues(t, 2, reliable.Failed)
	assert.EqualValues(t, 3, reliable.Compensated)
	assert.EqualValues(t, 4, reliable.Discarded)
}

func TestAction_appliesToTheStatusesItIsFor(t *testing.T) {
	for action, want := range map[reliable.Action][]reliable.Status{
		reliable.Requeue:    {reliable.Failed, reliable.Discarded},
		reliable.Compensate: {reliable.Failed},
		reliable.Discard:    {reliable.Pending, reliable.Failed},
		reliable.Action(0):  nil,
		reliable.Action(9):  nil,
	} {
		var applies []reliable.Status
		for status := reliable.Pending; status <= reliable.Discarded+1; status++ {
			if action.AppliesTo(status) {
				applies = append(applies, status)
			}
		}
		assert.Equal(t, want, applies, "%v", action)
	}
}

func TestDecision_saysWhoAndWhy(t *testing.T) {
	good := reliable.Decision{Action: reliable.Requeue, Who: "ann", Why: "the route is repaired", IDs: make([]reliable.ID, reliable.MaxDecisions)}
	require.NoError(t, good.Check())
	for _, spoil := range []func(d *reliable.Decision){
		func(d *reliable.Decision) { d.Action = 0 }, func(d *reliable.Decision) { d.Action = reliable.Discard + 1 },
		func(d *reliable.Decision) { d.Who = " " }, func(d *reliable.Decision) { d.Why = "" },
		func(d *reliable.Decision) { d.IDs = append(d.IDs, "one more") },
	} {
		bad := good
		spoil(&bad)
		require.ErrorIs(t, bad.Check(), reliable.ErrInvalid)
	}
}

func TestListRequest_isBounded(t *testing.T) {
	require.NoError(t, (&reliable.ListRequest{Limit: reliable.MaxPage}).Check())
	for _, bad := range []reliable.ListRequest{
		{}, {Limit: reliable.MaxPage + 1}, {Limit: 1, Filter: reliable.Filter{Status: reliable.Discarded + 1}},
		{Limit: 1, Filter: reliable.Filter{OlderThan: -1}},
	} {
		require.ErrorIs(t, bad.Check(), reliable.ErrInvalid)
	}
}

type holdsNothing struct{ reliable.Checker }

type wrapping struct{ inner any }

func (w wrapping) Unwrap() any { return w.inner }

func TestAbility_isFoundThroughWrappers(t *testing.T) {
	inner := holdsNothing{}
	_, ok := reliable.Ability[reliable.Checker](wrapping{wrapping{inner}})
	assert.True(t, ok)
	_, ok = reliable.Ability[reliable.Holder](wrapping{inner})
	assert.False(t, ok)
	_, ok = reliable.Ability[reliable.Holder](nil)
	assert.False(t, ok)
}

func TestMessage_thereAndBack(t *testing.T) {
	env := reliable.Envelope{ID: "order-1", Topic: "orders", Key: "customer-7", Payload: []byte{0, 255}, Metadata: map[string]string{"traceparent": "00-ab"}}
	msg := env.Message()
	assert.Equal(t, "order-1", msg.UUID)
	assert.Equal(t, reliable.WireVersion, msg.Metadata[reliable.HeaderVersion])
	assert.Equal(t, env, reliable.EnvelopeOf("orders", msg))
	msg.Metadata["more"] = "x"
	assert.NotContains(t, env.Metadata, "more", "the envelope's metadata must not be shared")
}

func TestEnvelopeOf_aReceivedMessageCanBeSentOn(t *testing.T) {
	msg := message.NewMessage("id", nil)
	msg.Metadata["waybill-from-the-future"] = "x"
	env := reliable.EnvelopeOf("next", msg)
	require.NoError(t, reliable.DefaultLimits().Check(&env))
	assert.Empty(t, env.Metadata)
}

func FuzzLimits_whatPassesGoesThereAndBack(f *testing.F) {
	f.Add("id", "topic", "key", "name", "value", []byte("payload"))
	f.Add("", "\xff", "\x00", "waybill-key", "", []byte(nil))
	f.Fuzz(func(t *testing.T, id, topic, key, name, value string, payload []byte) {
		env := reliable.Envelope{ID: reliable.ID(id), Topic: topic, Key: key, Payload: payload, Metadata: map[string]string{name: value}}
		if err := reliable.DefaultLimits().Check(&env); err != nil {
			if !errors.Is(err, reliable.ErrInvalid) || !utf8.ValidString(err.Error()) {
				t.Fatalf("an error that is not ErrInvalid, or not printable: %q", err)
			}
			return
		}
		back := reliable.EnvelopeOf(topic, env.Message())
		if back.ID != env.ID || back.Key != env.Key || !bytes.Equal(back.Payload, env.Payload) || back.Metadata[name] != value || len(back.Metadata) != 1 {
			t.Fatalf("changed on the way: %+v", back)
		}
	})
}

// What a consumer notes on a message it could not process has to arrive: publishers send what EnvelopeOf returns.
func TestEnvelopeOf_passesOnWhatTravels(t *testing.T) {
	msg := message.NewMessage("order-1", nil)
	msg.Metadata = message.Metadata{
		reliable.HeaderVersion: "1", reliable.HeaderKey: "ada", reliable.HeaderNATSMetadata: "x", reliable.ReservedPrefix + "other": "x",
		reliable.HeaderFailureTopic: "orders", reliable.HeaderReplays: "2", reliable.HeaderCopy: "3 billing", "tenant": "eu",
	}
	env := reliable.EnvelopeOf("orders.poison", msg)
	assert.Equal(t, "ada", env.Key)
	assert.Equal(t, map[string]string{
		reliable.HeaderFailureTopic: "orders", reliable.HeaderReplays: "2", reliable.HeaderCopy: "3 billing", "tenant": "eu",
	}, env.Metadata)
	limits := reliable.DefaultLimits()
	assert.NoError(t, limits.Check(&env), "it can be stored")
	env.Metadata[reliable.ReservedPrefix+"other"] = "x"
	assert.ErrorIs(t, limits.Check(&env), reliable.ErrInvalid)
}
