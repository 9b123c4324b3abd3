package main

import (
	"regexp"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/reliable"
)

func TestList_walksThroughPagesByTheirCursors(t *testing.T) {
	everywhere(t, func(t *testing.T, url string) {
		store := migrated(t, url)
		ids := stored(t, store, "orders.placed", 25)
		failed(t, store)

		var listed []reliable.ID
		args, pages := []string{"list", "--limit", "10", "-o", "json"}, 0
		for after := ""; pages == 0 || after != ""; pages++ {
			result := waybill(t, url, append(args, "--after", after)...)
			require.Zero(t, result.code, "%v", result)
			page := parsed[pageDocument](t, result)
			assert.LessOrEqual(t, len(page.Messages), 10)
			for _, m := range page.Messages {
				listed = append(listed, reliable.ID(m.ID))
			}
			after = page.Next
		}
		assert.ElementsMatch(t, ids, listed)

		table := waybill(t, url, "list", "--limit", "10")
		assert.Regexp(t, `(?m)^ID +TOPIC +KEY +STATUS`, table.stdout)
		assert.Regexp(t, `(?m)^orders-placed-\d{4} +orders.placed +- +failed +\d+m?s +1 +1 +no +-$`, table.stdout)
		next := regexp.MustCompile(`--after (\S+)`).FindStringSubmatch(table.stderr)
		require.NotNil(t, next, "%v", table)
		assert.Zero(t, waybill(t, url, "list", "--limit", "10", "--after", next[1]).code)
	})
}

func TestList_filters(t *testing.T) {
	everywhere(t, func(t *testing.T, url string) {
		store := migrated(t, url)
		stored(t, store, "orders.placed", 4)
		confirmed(t, store)
		stored(t, store, "orders.cancelled", 3)
		failed(t, store)
		stored(t, store, "orders.shipped", 2)
		failed(t, store)
		stored(t, store, "orders.late", 1)
		for _, c := range []struct {
			flags []string
			count int
		}{
			{nil, 5}, {[]string{"--status", "confirmed"}, 4}, {[]string{"--status", "pending"}, 1}, {[]string{"--status", "discarded"}, 0},
			{[]string{"--topic", "orders.shipped"}, 2}, {[]string{"--reason", "no queue"}, 5}, {[]string{"--reason", "No Queue"}, 0},
			{[]string{"--older-than", "1h"}, 0},
		} {
			result := waybill(t, url, append([]string{"list", "-o", "json"}, c.flags...)...)
			require.Zero(t, result.code, "an empty list is an answer: %v", result)
			assert.Len(t, parsed[pageDocument](t, result).Messages, c.count, "%v", c.flags)
		}
	})
}

func TestList_refusesADamagedCursor(t *testing.T) {
	url := places[0].url(t)
	migrated(t, url)
	result := waybill(t, url, "list", "--after", "not a cursor")
	assert.Equal(t, exitUsage, result.code, "%v", result)
}

func TestList_neverShowsPayloadOrMetadata(t *testing.T) {
	url := places[0].url(t)
	store := migrated(t, url)
	stored(t, store, "orders.placed", 2)
	failed(t, store)
	for _, format := range []string{"table", "json"} {
		result := waybill(t, url, "list", "-o", format)
		assert.Contains(t, result.stdout, "orders-placed-0000")
		assert.NotContains(t, result.String(), "secret of")
		assert.NotContains(t, result.String(), "metadata of")
	}
}

func TestList_showsTheNewestReasonOnRequest(t *testing.T) {
	everywhere(t, func(t *testing.T, url string) {
		store := migrated(t, url)
		stored(t, store, "orders.placed", 45)
		settled(t, store, func(a reliable.Attempt) reliable.Settlement {
			if a.Attempts == 1 {
				return reliable.Settlement{Outcome: reliable.Nacked, To: reliable.Pending, Charge: true, Reason: "the queue is full"}
			}
			return reliable.Settlement{Outcome: reliable.Returned, To: reliable.Failed, Charge: true, Reason: "no queue is bound"}
		})
		result := waybill(t, url, "list", "--reasons", "-o", "json")
		require.Zero(t, result.code, "%v", result)
		page := parsed[pageDocument](t, result)
		require.Len(t, page.Messages, 45)
		for _, m := range page.Messages {
			assert.Equal(t, "no queue is bound", m.LastReason)
		}
		assert.Regexp(t, `(?m)^ID .* LAST REASON$`, waybill(t, url, "list", "--reasons").stdout)
		assert.Regexp(t, `(?m)^orders-placed-0000 .* no queue is bound$`, waybill(t, url, "list", "--reasons").stdout)
		assert.NotContains(t, waybill(t, url, "list").stdout, "no queue is bound")
	})
}
