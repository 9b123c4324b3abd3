package sqlstore

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/reliable"
)

func sworn() WitnessRow {
	return WitnessRow{Table: "orders", Column: "id", Promise: RowPromise{
		TransactionInserts: true, KeyIsUnique: true, NeverDeletedInTime: true, SameWritableNode: true, IDDerivesFromRow: true,
	}}
}

func TestWitnessRow_everyPartOfThePromiseMustBeGiven(t *testing.T) {
	for missing, drop := range map[string]func(*RowPromise){
		"TransactionInserts": func(p *RowPromise) { p.TransactionInserts = false },
		"KeyIsUnique":        func(p *RowPromise) { p.KeyIsUnique = false },
		"NeverDeletedInTime": func(p *RowPromise) { p.NeverDeletedInTime = false },
		"SameWritableNode":   func(p *RowPromise) { p.SameWritableNode = false },
		"IDDerivesFromRow":   func(p *RowPromise) { p.IDDerivesFromRow = false },
	} {
		row := sworn()
		drop(&row.Promise)
		_, _, err := row.Check("`")
		require.ErrorIs(t, err, reliable.ErrInvalid)
		require.ErrorContains(t, err, missing)
	}
}

func TestWitnessRow_namesAreQuotedAndHostileOnesRefused(t *testing.T) {
	row := sworn()
	row.Table = "shop.orders"
	table, column, err := row.Check("`")
	require.NoError(t, err)
	assert.Equal(t, "`shop`.`orders`", table)
	assert.Equal(t, "`id`", column)
	for _, name := range []string{"", "a b", "a`b", `a"b`, "a;DROP TABLE x", "1a", "a.b.c", ".a", "a.", "ä"} {
		row := sworn()
		row.Table = name
		_, _, err := row.Check("`")
		require.ErrorIs(t, err, reliable.ErrInvalid, "table %q", name)
		row = sworn()
		row.Column = name
		_, _, err = row.Check("`")
		require.ErrorIs(t, err, reliable.ErrInvalid, "column %q", name)
	}
}

func TestWitnessRow_asksForTheIDUnlessToldOtherwise(t *testing.T) {
	assert.Equal(t, "order-1", sworn().ValueOf("order-1"))
}
