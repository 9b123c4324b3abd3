package main

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/reliable"
)

func TestDecide_oneMessageByItsID(t *testing.T) {
	everywhere(t, func(t *testing.T, url string) {
		store := migrated(t, url)
		stored(t, store, "orders.placed", 3)
		failed(t, store)
		for i, c := range []struct {
			action string
			status reliable.Status
		}{{"requeue", reliable.Pending}, {"compensate", reliable.Compensated}, {"discard", reliable.Discarded}} {
			id := "orders-placed-000" + string(rune('0'+i))
			rehearsed := waybill(t, url, c.action, id, "--dry-run")
			assert.Zero(t, rehearsed.code, "%v", rehearsed)
			assert.Contains(t, rehearsed.stdout, "would "+c.action+" 1 message; nothing was changed")
			assert.Equal(t, 1, statusOf(t, store, []reliable.ID{reliable.ID(id)})[reliable.Failed], "a dry run changed something")

			result := waybill(t, url, c.action, id, "--why", "ticket 512", "-o", "json")
			require.Zero(t, result.code, "%v", result)
			tallied := parsed[tally](t, result)
			assert.Equal(t, 1, tallied.Decided)
			assert.NotEmpty(t, tallied.Who)
			assert.Equal(t, 1, statusOf(t, store, []reliable.ID{reliable.ID(id)})[c.status])
			life := waybill(t, url, "explain", id)
			inOrder(t, life.stdout, c.action, tallied.Who, "ticket 512")
		}
	})
}

func TestDecide_manyAskFirstAndAreRefusedWhereNobodyCanBeAsked(t *testing.T) {
	everywhere(t, func(t *testing.T, url string) {
		store := migrated(t, url)
		ids := stored(t, store, "orders.placed", 1200)
		other := stored(t, store, "orders.cancelled", 1)
		failed(t, store)

		for _, args := range [][]string{
			{"requeue", "--topic", "orders.placed"}, {"requeue", "--all"}, {"requeue", "--status", "failed"},
			{"compensate", "orders-placed-0000", "orders-placed-0001"}, {"discard", "-"},
		} {
			cmd := command(t, []string{"WAYBILL_STORE=" + url}, append(args, "--why", "test")...)
			cmd.Stdin = strings.NewReader("orders-placed-0000\norders-placed-0001\n")
			result := finish(t, cmd)
			assert.Equal(t, exitUsage, result.code, "%v: %v", args, result)
			assert.Contains(t, result.stderr, "pass --yes")
		}
		assert.Equal(t, 1200, statusOf(t, store, ids)[reliable.Failed], "something was changed")

		one := waybill(t, url, "requeue", "--topic", "orders.cancelled", "--why", "one needs no question")
		assert.Zero(t, one.code, "%v", one)
		assert.Equal(t, 1, statusOf(t, store, other)[reliable.Pending])

		rehearsed := waybill(t, url, "requeue", "--topic", "orders.placed", "--dry-run", "-o", "json")
		require.Zero(t, rehearsed.code, "%v", rehearsed)
		assert.Equal(t, 1200, parsed[rehearsal](t, rehearsed).Matched)
		assert.Len(t, parsed[rehearsal](t, rehearsed).Messages, sampleSize)

		limited := waybill(t, url, "requeue", "--topic", "orders.placed", "--why", "first some", "--limit", "700", "--yes", "-o", "json")
		assert.Equal(t, exitPartly, limited.code, "%v", limited)
		assert.Equal(t, 700, parsed[tally](t, limited).Decided)
		assert.Equal(t, 700, statusOf(t, store, ids)[reliable.Pending])

		single := waybill(t, url, "requeue", "--topic", "orders.placed", "--why", "one needs no question", "--limit", "1")
		assert.Equal(t, exitPartly, single.code, "%v", single)
		assert.Equal(t, 701, statusOf(t, store, ids)[reliable.Pending])

		rest := waybill(t, url, "requeue", "--topic", "orders.placed", "--why", "then the rest", "--yes")
		assert.Zero(t, rest.code, "%v", rest)
		assert.Contains(t, rest.stdout, "requeue: 499 messages decided by ")
		assert.Equal(t, 1200, statusOf(t, store, ids)[reliable.Pending])

		none := waybill(t, url, "requeue", "--topic", "orders.placed", "--why", "again", "--yes")
		assert.Equal(t, exitNothing, none.code, "%v", none)
		assert.Contains(t, none.stderr, `there are no failed messages of topic "orders.placed"`)
	})
}

func TestDecide_idsFromStandardInput(t *testing.T) {
	url := places[0].url(t)
	store := migrated(t, url)
	ids := stored(t, store, "orders.placed", 5)
	failed(t, store)
	cmd := command(t, []string{"WAYBILL_STORE=" + url}, "compensate", "-", "--why", "refunded", "--yes")
	cmd.Stdin = strings.NewReader("orders-placed-0000\r\n\norders-placed-0001\norders-placed-0001\n")
	result := finish(t, cmd)
	assert.Zero(t, result.code, "%v", result)
	assert.Contains(t, result.stdout, "compensate: 2 messages decided by")
	assert.Equal(t, map[reliable.Status]int{reliable.Compensated: 2, reliable.Failed: 3}, statusOf(t, store, ids))

	cmd = command(t, []string{"WAYBILL_STORE=" + url}, "compensate", "-", "--why", "refunded", "--yes")
	assert.Equal(t, exitNothing, finish(t, cmd).code)
}

func TestDecide_whatCannotBeDecidedIsNamedAndLeftAlone(t *testing.T) {
	everywhere(t, func(t *testing.T, url string) {
		store := migrated(t, url)
		stored(t, store, "orders.placed", 1)
		confirmed(t, store)
		stored(t, store, "orders.cancelled", 2)
		failed(t, store)
		compensator, _ := reliable.Ability[reliable.Compensator](store)
		claimed, err := compensator.ClaimFailed(t.Context(),
			reliable.ClaimRequest{Worker: "handler-1", Max: 1, Lease: time.Hour}, "orders.cancelled")
		require.NoError(t, err)
		require.Len(t, claimed, 1)

		args := []string{"orders-placed-0000", "orders-cancelled-0000", "orders-cancelled-0001", "nobody", "--why", "test", "--yes", "-o", "json"}
		for _, picked := range [][]string{args, {"--topic", "orders.cancelled", "-o", "json"}} {
			before := waybill(t, url, append([]string{"requeue", "--dry-run"}, picked...)...)
			assert.Equal(t, exitPartly, before.code, "%v", before)
			would := parsed[rehearsal](t, before)
			assert.Equal(t, []int{1, 1}, []int{would.Matched, would.Busy}, "a rehearsal says what comes: %v", before)
		}

		result := waybill(t, url, append([]string{"requeue"}, args...)...)
		assert.Equal(t, exitPartly, result.code, "%v", result)
		tallied := parsed[tally](t, result)
		assert.Equal(t, []int{1, 1, 1, 1}, []int{tallied.Decided, tallied.NotFound, tallied.WrongStatus, tallied.Busy}, "%v", result)
		assert.ElementsMatch(t, []undecidedMessage{
			{"orders-placed-0000", "wrong status", "confirmed"}, {string(claimed[0].ID), "busy", "failed"}, {"nobody", "not found", ""},
		}, tallied.Undecided)

		table := waybill(t, url, "requeue", "orders-placed-0000", "--why", "test")
		assert.Equal(t, exitPartly, table.code)
		assert.Regexp(t, `(?m)^orders-placed-0000 +wrong status +confirmed$`, table.stdout)

		missing := waybill(t, url, "discard", "nobody", "--why", "test")
		assert.Equal(t, exitNothing, missing.code, "%v", missing)
		rehearsed := waybill(t, url, "requeue", "orders-placed-0000", "nobody", "--dry-run")
		assert.Equal(t, exitPartly, rehearsed.code, "%v", rehearsed)
		assert.Contains(t, rehearsed.stdout, "not found: 1, wrong status: 1")
	})
}

func TestDecide_discardedMessagesCanBeTakenBack(t *testing.T) {
	url := places[0].url(t)
	store := migrated(t, url)
	ids := stored(t, store, "orders.placed", 3)
	result := waybill(t, url, "discard", "--status", "pending", "--topic", "orders.placed", "--why", "left over", "--yes")
	require.Zero(t, result.code, "%v", result)
	assert.Equal(t, 3, statusOf(t, store, ids)[reliable.Discarded])
	result = waybill(t, url, "requeue", "--status", "discarded", "--all", "--why", "a mistake", "--yes")
	require.Zero(t, result.code, "%v", result)
	assert.Equal(t, 3, statusOf(t, store, ids)[reliable.Pending])
	confirmed(t, store)
	assert.Equal(t, 3, statusOf(t, store, ids)[reliable.Confirmed])
}

func TestDecide_whoIsTheOneBehindSudo(t *testing.T) {
	url := places[0].url(t)
	store := migrated(t, url)
	stored(t, store, "orders.placed", 1)
	failed(t, store)
	cmd := command(t, []string{"WAYBILL_STORE=" + url, "SUDO_USER=carol"}, "discard", "orders-placed-0000", "--why", "test", "-o", "json")
	assert.Equal(t, "carol", parsed[tally](t, finish(t, cmd)).Who)
}
