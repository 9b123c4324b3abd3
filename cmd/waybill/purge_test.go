package main

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/reliable"
)

func TestPurge_deletesWhatIsOverInBatches(t *testing.T) {
	everywhere(t, func(t *testing.T, url string) {
		store := migrated(t, url)
		ids := stored(t, store, "orders.placed", 25)
		confirmed(t, store)
		bad := stored(t, store, "orders.cancelled", 3)
		failed(t, store)
		purge := func(flags string) ran {
			return waybill(t, url, append([]string{"purge", "--status", "confirmed"}, strings.Fields(flags)...)...)
		}

		kept := purge("--older-than 1h --yes -o json")
		require.Zero(t, kept.code, "%v", kept)
		assert.Equal(t, purgeDocument{Status: "confirmed"}, parsed[purgeDocument](t, kept))

		unasked := purge("--older-than 0s")
		assert.Equal(t, exitUsage, unasked.code, "%v", unasked)
		assert.Contains(t, unasked.stderr, "--dry-run, then pass --yes")
		assert.Equal(t, 25, statusOf(t, store, ids)[reliable.Confirmed], "it was not confirmed")

		rehearsed := purge("--older-than 0s --dry-run -o json")
		assert.Zero(t, rehearsed.code, "%v", rehearsed)
		assert.Equal(t, purgeDocument{Status: "confirmed", DryRun: true, AtMost: 25}, parsed[purgeDocument](t, rehearsed))
		assert.Zero(t, parsed[purgeDocument](t, purge("--older-than 1h --dry-run -o json")).AtMost)
		assert.Equal(t, 25, statusOf(t, store, ids)[reliable.Confirmed], "a dry run deleted something")

		limited := purge("--older-than 0s --batch 4 --limit 10 --yes -o json")
		assert.Equal(t, exitPartly, limited.code, "%v", limited)
		assert.Equal(t, 10, parsed[purgeDocument](t, limited).Deleted)
		assert.Equal(t, 15, statusOf(t, store, ids)[reliable.Confirmed])

		rest := purge("--older-than 0s --batch 4 --pause 1ms --yes")
		assert.Zero(t, rest.code, "%v", rest)
		assert.Equal(t, "deleted 15 confirmed messages\n", rest.stdout)
		assert.Empty(t, statusOf(t, store, ids))
		assert.Equal(t, 3, statusOf(t, store, bad)[reliable.Failed], "what failed is never deleted")
	})
}
