package sqlstore

import (
	"database/sql"
	"encoding/json"
	"runtime"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/reliable"
)

func TestMetadata_comesBackAsItWas(t *testing.T) {
	for _, metadata := range []map[string]string{
		nil,
		{"a": "b"},
		{"": ""},
		{"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "x": ""},
		{"quote\"": "back\\slash", "line\n": "\ttab", "ünï": "cödé ☃", "html": "<&>", "sep": "\u2028"},
	} {
		text := encodeMetadata(metadata)
		again, err := decodeMetadata(text)
		require.NoError(t, err)
		require.Equal(t, metadata, again)
		if len(metadata) > 0 {
			require.True(t, json.Valid(text), "%s", text)
		}
	}
}

func FuzzMetadata(f *testing.F) {
	f.Add("key", "value", "other", "")
	f.Add("\x00", "\"", "}", "{,:")
	f.Fuzz(func(t *testing.T, k1, v1, k2, v2 string) {
		metadata := map[string]string{k1: v1, k2: v2}
		for key, value := range metadata {
			if !utf8.ValidString(key) || !utf8.ValidString(value) {
				return // refused before it is encoded
			}
		}
		again, err := decodeMetadata(encodeMetadata(metadata))
		require.NoError(t, err)
		require.Equal(t, metadata, again)
	})
}

func FuzzDecodeMetadata(f *testing.F) {
	f.Add([]byte(`{"a":"b","c":"d"}`))
	f.Add([]byte(`{"a":1}`))
	f.Add([]byte(`{"a":"b",}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		var want map[string]string
		wanted := json.Unmarshal(text, &want)
		got, ok := decodePlain(text)
		if ok {
			require.NoError(t, wanted, "what is no JSON is not read")
			require.Equal(t, want, got)
		}
	})
}

func TestReason_isFitForEveryTable(t *testing.T) {
	require.Equal(t, "a b c\uFFFDd", cleanReason("a\x00b\nc\xffd"))
	for shift := range 4 {
		cut := cleanReason(strings.Repeat("x", shift) + strings.Repeat("☃", reliable.MaxReasonBytes))
		require.LessOrEqual(t, len(cut), reliable.MaxReasonBytes)
		require.True(t, utf8.ValidString(cut))
	}
}

func TestStatement_repeatsItsGroupsForLists(t *testing.T) {
	w := NewWriter("p_", "`", "now", "NOW()")
	two := w.Statement("INSERT INTO {lane} VALUES [[(?, ?)## ; ]] LIMIT ?")
	text, args := two.expand([]any{[]string{"x", "y"}, []int64{1, 2}, 7})
	require.Equal(t, "INSERT INTO `p_lane` VALUES (?, ?) ; (?, ?) LIMIT ?", text)
	require.Equal(t, []any{"x", int64(1), "y", int64(2), 7}, args)
	one := w.Statement("UPDATE {outbox} SET due = {now} + ? WHERE id IN ([[?]]) AND due = {parked}")
	text, args = one.expand([]any{int64(5), []string{"x", "y", "z"}})
	require.Equal(t, "UPDATE `p_outbox` SET due = NOW() + ? WHERE id IN (?, ?, ?) AND due = 9223372036854775807", text)
	require.Equal(t, []any{int64(5), "x", "y", "z"}, args)
	_, args = two.expand([]any{[]string{"x", "x", "y"}, [][]byte{nil, {}, {}}, 7}) // what repeats is the same value
	require.Equal(t, []any{"x", []byte(nil), "x", []byte{}, "y", []byte{}, 7}, args)
	none := w.Statement("SELECT ?")
	text, args = none.expand([]any{1})
	require.Equal(t, "SELECT ?", text)
	require.Equal(t, []any{1}, args)
}

func TestPrepared_keepsFewTextsThatLieClose(t *testing.T) {
	p := NewPrepared(nil, nil)
	st := NewWriter("p_", "`").Statement("INSERT INTO {outbox} VALUES [[(?)]]")
	require.Equal(t, "INSERT INTO `p_outbox` VALUES (?), (?), (?)", p.text(st, 3))
	require.Empty(t, p.text(st, 5))
	require.Empty(t, p.text(st, 129))
	require.Empty(t, (*Prepared)(nil).text(st, 1))
	for n := 1; n <= 128; n++ {
		require.LessOrEqual(t, portion(n), n)
		require.GreaterOrEqual(t, portion(n)*3, n*2, "a third stays behind at most")
		require.Equal(t, portion(n) == n, p.text(st, n) != "", "%d rows", n)
	}
	require.LessOrEqual(t, len(p.texts), 14)
	none, some := &Store{}, &Store{prepared: p}
	require.Equal(t, []int{5, 100}, []int{none.Portion(5), none.Portion(100)})
	for n, best := range map[int]int{1: 1, 5: 4, 64: 64, 65: 64, 100: 96, 128: 128, 129: 128, 255: 128, 256: 256, 500: 500} {
		require.Equal(t, best, some.Portion(n), "of %d", n)
	}
}

func TestPieces_makeUpAnyNumberOfRowsOfWhatIsKeptPrepared(t *testing.T) {
	pieces := &Store{prepared: NewPrepared(nil, nil), dialect: Dialect{Pieces: true, Explicit: true, InsertRows: 500, InsertBytes: 1 << 20}}
	require.Equal(t, 61, pieces.Portion(61), "any number is as good as another")
	for _, rows := range []int{1, 5, 61, 64, 200, 1100} {
		b, all := &batch{store: pieces, envs: make([]reliable.Envelope, rows)}, make([]int, rows)
		for i := range all {
			all[i] = i
		}
		var joined []int
		chunks := b.split(all)
		for _, chunk := range chunks {
			require.Equal(t, len(chunk), portion(len(chunk)), "%d rows", rows)
			joined = append(joined, chunk...)
		}
		require.Equal(t, all, joined)
		require.LessOrEqual(t, len(chunks), rows/64+3*(1+rows/500))
	}
}

func TestMicros_areRoundedUp(t *testing.T) {
	for d, want := range map[time.Duration]int64{0: 0, 1: 1, time.Microsecond: 1, time.Microsecond + 1: 2, time.Second: 1e6} {
		require.Equal(t, want, micros(d), "%v", d)
	}
}

func TestFlags_areWhatTheSchemasSay(t *testing.T) {
	require.Equal(t, []int{1, 2, 4, 8, 16},
		[]int{flagLeased, flagMayHaveBeenSent, flagLateAck, flagCompensating, flagHistory})
}

func TestCheckVersion_acceptsWhatThisProgramCanUse(t *testing.T) {
	require.NoError(t, checkVersion(SchemaVersion, SchemaVersion))
	require.NoError(t, checkVersion(SchemaVersion+5, SchemaVersion))
	require.ErrorIs(t, checkVersion(SchemaVersion-1, 0), reliable.ErrSchema)
	require.ErrorIs(t, checkVersion(SchemaVersion+5, SchemaVersion+1), reliable.ErrSchema)
}

func TestPending_isWhatTheTablesHaveNotSeen(t *testing.T) {
	all := []Migration{{Version: 1}, {Version: 2}, {Version: 3}}
	require.Len(t, Pending(all, 0), 3)
	require.Equal(t, 3, Pending(all, 2)[0].Version)
	require.Empty(t, Pending(all, 3))
	require.Empty(t, Pending(all, 9))
}

func TestWakeUp_isKeptForWhoComesLater(t *testing.T) {
	w := &wakeUp{}
	w.tell()
	w.tell()
	rung, leave := w.wait()
	<-rung
	leave()
	rung, leave = w.wait()
	defer leave()
	select {
	case <-rung:
		t.Fatal("wake-ups are coalesced")
	default:
	}
}

func TestWakeUp_isNotSpentOnWhoHasLeft(t *testing.T) {
	w := &wakeUp{}
	_, leave := w.wait()
	leave()
	w.tell()
	rung, leave := w.wait()
	defer leave()
	<-rung
}

func TestWakeUp_isSharedByStoresOfOneDatabaseAndGoesWithIt(t *testing.T) {
	func() { // when it returns, nothing refers to the database any more
		db := sql.OpenDB(nil)
		one, another, other := wakeUpOf(db, "a_"), wakeUpOf(db, "a_"), wakeUpOf(db, "b_")
		require.Same(t, one, another)
		require.NotSame(t, one, other)
		require.NoError(t, db.Close())
	}()
	one, another := wakeUpOf(nil, "a_"), wakeUpOf(nil, "a_")
	require.NotSame(t, one, another)
	require.Eventually(t, func() bool {
		runtime.GC()
		wakeUps.Lock()
		defer wakeUps.Unlock()
		return len(wakeUps.of) == 0
	}, 20*time.Second, 10*time.Millisecond)
}

func TestWithin_takesTheFirstWhateverItsSize(t *testing.T) {
	rows := []*row{{size: 100}, {size: 10}, {size: 10}}
	require.Len(t, within(rows, 0), 3)
	require.Len(t, within(rows, 1), 1)
	require.Len(t, within(rows, 110), 2)
	require.Len(t, within(rows, 120), 3)
	require.Empty(t, within(nil, 5))
}

func TestSplit_boundsStatementsInRowsAndBytes(t *testing.T) {
	b := &batch{store: &Store{dialect: Dialect{InsertRows: 3, InsertBytes: 100}}}
	for range 4 {
		b.envs = append(b.envs, reliable.Envelope{ID: "x", Payload: make([]byte, 9)})
	}
	b.envs = append(b.envs, reliable.Envelope{ID: "x", Payload: make([]byte, 999)}, reliable.Envelope{ID: "x"})
	require.Equal(t, [][]int{{0, 1, 2}, {3}, {4}, {5}}, b.split([]int{0, 1, 2, 3, 4, 5}))
}

func TestLaneOf_tellsTopicAndKeyApart(t *testing.T) {
	require.NotEqual(t, laneOf("ab", "c"), laneOf("a", "bc"))
	require.Len(t, laneOf("a", "b"), 16)
}
