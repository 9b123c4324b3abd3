package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestMain is also what the processes of the example run as.
func TestMain(m *testing.M) {
	if role := os.Getenv(roleVariable); role != "" {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		err := run(ctx, role, nil, os.Stdout)
		stop()
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func TestExample_losesNothingWhenEverybodyIsKilled(t *testing.T) {
	var out bytes.Buffer
	result, err := direct(t.Context(), embeddedPair, 200, 5*time.Minute, &out)
	require.NoError(t, err, out.String())
	require.NoError(t, result.Err(), out.String())
	assert.Equal(t, 200, result.Orders)
	assert.Equal(t, 200, result.Delivered)
	assert.GreaterOrEqual(t, result.Checks, 200)
	assert.Contains(t, out.String(), fmt.Sprintf("orders=200 confirmed=200 failed=0 pending=0 delivered=200 duplicates=%d lost=0 checks=%d resends=%d",
		result.Duplicates, result.Checks, result.Resends))
}

func TestResult_isAnErrorWhenAPromiseIsBroken(t *testing.T) {
	kept := Result{Orders: 10, Confirmed: 10, Delivered: 10, Checks: 10, Resends: 1, byKill: 1}
	require.NoError(t, kept.Err())
	for name, breakIt := range map[string]func(*Result){
		"not delivered":   func(r *Result) { r.Lost = 1 },
		"never committed": func(r *Result) { r.Phantoms = 1 },
		"given up":        func(r *Result) { r.Failed = 1 },
		"still pending":   func(r *Result) { r.Pending = 1 },
		"not confirmed":   func(r *Result) { r.Confirmed = 9 },
		"not answered":    func(r *Result) { r.unchecked = 1 },
		"not by the kill": func(r *Result) { r.byKill = 0 },
	} {
		t.Run(name, func(t *testing.T) {
			broken := kept
			breakIt(&broken)
			assert.Error(t, broken.Err())
		})
	}
}

func TestChoose_knowsEveryPairByItsName(t *testing.T) {
	chosen, err := choose(strings.ReplaceAll(pairNames(), ", ", ","), "echo stopped", "echo started; exit 3;")
	require.NoError(t, err)
	require.Len(t, chosen, len(serverPairs)+1)
	for _, p := range chosen[1:] {
		require.NoError(t, p.stop(t.Context()))
		require.ErrorContains(t, p.start(t.Context()), "started", "%s: what a command says is told", p.name)
	}
	_, err = choose("NATS+SQLite,Oracle+Oracle", "", "")
	require.ErrorContains(t, err, `no "Oracle+Oracle" to run on; possible are NATS+SQLite, RabbitMQ+MariaDB`)
}
