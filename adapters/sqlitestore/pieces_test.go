package sqlitestore_test

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/sqlitestore"
	"github.com/waybillmq/waybill/reliable"
)

// What is stored and confirmed by several prepared statements, of few parameters where rows are alike, is what one would
// have stored.
func TestStore_rowsAreTheSameHoweverManyComeTogether(t *testing.T) {
	store, err := sqlitestore.Open(t.Context(), filepath.Join(t.TempDir(), "pieces.db"))
	require.NoError(t, err)
	defer func() { require.NoError(t, store.Close()) }()
	kinds := map[string]func(env *reliable.Envelope, i int){
		"same":           func(*reliable.Envelope, int) {},
		"topics":         func(env *reliable.Envelope, i int) { env.Topic = fmt.Sprint("topic ", i%3) },
		"metadata":       func(env *reliable.Envelope, i int) { env.Metadata = map[string]string{"a": fmt.Sprint(i)} },
		"some metadata":  func(env *reliable.Envelope, i int) { env.Metadata = map[string]string{"ä": "b"}; env.Payload = nil },
		"deadlines":      func(env *reliable.Envelope, i int) { env.Deadline = time.Duration(i) * time.Hour },
		"empty payloads": func(env *reliable.Envelope, _ int) { env.Payload = nil },
	}
	for kind, change := range kinds {
		for _, n := range []int{1, 2, 61, 64, 150} {
			envs := make([]reliable.Envelope, n)
			for i := range envs {
				envs[i] = envelope(fmt.Sprintf("ü %s %d %d", kind, n, i))
				change(&envs[i], i)
			}
			enqueued, err := store.Enqueue(t.Context(), reliable.EnqueueRequest{Worker: "w", Lease: time.Minute}, envs...)
			require.NoError(t, err)
			settlements := make([]reliable.Settlement, n)
			for i := range envs {
				require.True(t, enqueued[i].Leased)
				settlements[i] = reliable.Settlement{
					ID: envs[i].ID, Fence: enqueued[i].Fence, Topic: envs[i].Topic,
					Sent: true, Outcome: reliable.Acked, To: reliable.Confirmed,
				}
				var topic, key string
				var size, metadata int
				require.NoError(t, store.DB().QueryRowContext(t.Context(),
					"SELECT topic, okey, size, length(metadata) > 0 FROM waybill_outbox WHERE id = ?", string(envs[i].ID)).
					Scan(&topic, &key, &size, &metadata))
				require.Equal(t, []any{envs[i].Topic, "", envs[i].Size(), len(envs[i].Metadata) > 0},
					[]any{topic, key, size, metadata == 1}, "%s, %d of %d", kind, i, n)
			}
			results, err := store.Settle(t.Context(), settlements...)
			require.NoError(t, err)
			require.Equal(t, make([]reliable.SettleResult, n), results, "each is applied")
			records, err := store.Lookup(t.Context(), envs[0].ID, envs[n-1].ID)
			require.NoError(t, err)
			for i := range records {
				require.Equal(t, reliable.Confirmed, records[i].Status)
			}
		}
	}
}
