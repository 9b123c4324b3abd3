//go:build linux

package main

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func good() outcome {
	return outcome{name: "A+B", strategy: "tagging", counts: map[string]float64{
		"orders": 100, "confirmed": 99, "failed": 1, "pending": 0, "delivered": 99, "duplicates": 3, "lost": 0, "seconds": 3,
	}}
}

func TestTable_isGoodOnlyIfEveryRowLostNothingAndDeliveredSomething(t *testing.T) {
	require.NoError(t, table{good(), good()}.err())
	require.Error(t, table{}.err(), "nothing was run")
	for name, spoil := range map[string]func(o *outcome){
		"1 lost":                func(o *outcome) { o.counts["lost"] = 1 },
		"2 still pending":       func(o *outcome) { o.counts["pending"] = 2 },
		"nothing was delivered": func(o *outcome) { o.counts["delivered"] = 0 },
		"it fell over":          func(o *outcome) { o.err = errors.New("it fell over") },
		"nothing was":           func(o *outcome) { o.counts = nil },
	} {
		bad := good()
		spoil(&bad)
		err := table{good(), bad}.err()
		require.Error(t, err, name)
		assert.ErrorContains(t, err, name)
	}
}

func TestTable_hasARowForEachCombination(t *testing.T) {
	other := good()
	other.name, other.strategy = "Longer+Name", "delayedcheck"
	assert.Equal(t, ""+
		"  broker+store      strategy  sent  confirmed  failed  delivered  duplicates  lost  msg/s\n"+
		"           A+B       tagging   100         99       1         99           3     0     33\n"+
		"   Longer+Name  delayedcheck   100         99       1         99           3     0     33\n", table{good(), other}.String())
}
