package cursor_test

import (
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/internal/cursor"
	"github.com/waybillmq/waybill/reliable"
)

var failed = reliable.Filter{Status: reliable.Failed, Topic: "orders", OlderThan: time.Hour, Reason: "full"}

func TestDecode_returnsThePlaceThatWasEncoded(t *testing.T) {
	for _, place := range []cursor.Place{
		{}, {Due: math.MaxInt64, Order: -1, Topic: "orders", ID: "a"}, {Due: math.MinInt64, Topic: "", ID: "\x00 \xff"},
	} {
		c := cursor.Encode("store", failed, place)
		require.Regexp(t, `^[A-Za-z0-9_-]+$`, string(c), "printable")
		got, err := cursor.Decode("store", failed, c)
		require.NoError(t, err)
		require.Equal(t, place, got)
	}
}

func TestDecode_refusesWhatIsNoPlaceInThisList(t *testing.T) {
	c := cursor.Encode("store", failed, cursor.Place{Due: 1, Order: 2, Topic: "orders", ID: "a"})
	refused := func(store string, f reliable.Filter, c reliable.Cursor) {
		t.Helper()
		_, err := cursor.Decode(store, f, c)
		require.ErrorIs(t, err, reliable.ErrInvalid)
	}
	refused("another", failed, c)
	for _, change := range []func(f *reliable.Filter){
		func(f *reliable.Filter) { f.Status = reliable.Pending }, func(f *reliable.Filter) { f.Topic = "" },
		func(f *reliable.Filter) { f.OlderThan++ }, func(f *reliable.Filter) { f.Reason = "" },
	} {
		other := failed
		change(&other)
		refused("store", other, c)
	}
	refused("store", failed, "")
	refused("store", failed, "not a cursor!")
	for i := range c {
		refused("store", failed, c[:i])
		damaged := []byte(c)
		damaged[i] ^= 1
		refused("store", failed, reliable.Cursor(damaged))
	}
}
