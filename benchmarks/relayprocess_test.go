//go:build services

package benchmarks

import (
	"bufio"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/mysqlstore"
	"github.com/waybillmq/waybill/adapters/postgresstore"
	"github.com/waybillmq/waybill/adapters/rabbitmqbroker"
	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/strategies/tagging"
)

// The variables that make this program a relay, by the name of its database, and say between what.
const (
	relayDatabase = "WAYBILL_BENCH_RELAY"
	relayDSN      = "WAYBILL_BENCH_RELAY_DSN"
	relayBroker   = "WAYBILL_BENCH_RELAY_BROKER"
)

// relayProcess connects, says so by a line, and waits for a line. Then it relays until its input ends, and writes how many
// messages it has settled whenever that has changed.
func relayProcess() error {
	db, store, err := relayStore(os.Getenv(relayDatabase), os.Getenv(relayDSN))
	if err != nil {
		return err
	}
	defer db.Close()
	broker, err := rabbitmqbroker.NewFromURL(os.Getenv(relayBroker), rabbitmqbroker.WithQuorumQueues(),
		rabbitmqbroker.WithWindow(window), rabbitmqbroker.WithLogger(slog.New(slog.DiscardHandler)))
	if err != nil {
		return err
	}
	defer func() { _ = broker.Close() }() // what it would say, Run has said
	if err := errors.Join(broker.Ping(context.Background()), db.Ping()); err != nil {
		return err
	}
	var settled atomic.Int64
	o, err := tagging.New(store, broker, broker, tagging.WithoutRetention(), tagging.WithWindow(window),
		tagging.WithHooks(tagging.Hooks{Settled: func(_ *reliable.Attempt, s *reliable.Settlement, result reliable.SettleResult) {
			if s.To == reliable.Confirmed && result == reliable.Applied {
				settled.Add(1)
			}
		}}))
	if err != nil {
		return err
	}
	fmt.Println("ready")
	in := bufio.NewReader(os.Stdin)
	if _, err := in.ReadString('\n'); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		_, _ = in.WriteTo(io.Discard)
		cancel()
	}()
	go func() {
		for told := int64(0); ctx.Err() == nil; time.Sleep(5 * time.Millisecond) {
			if now := settled.Load(); now != told {
				fmt.Println(now)
				told = now
			}
		}
	}()
	return o.Run(ctx)
}

func relayStore(database, dsn string) (*sql.DB, reliable.Store, error) {
	if database == postgres.name {
		db, err := sql.Open("pgx", dsn)
		if err != nil {
			return nil, nil, err
		}
		store, err := postgresstore.New(db)
		return db, store, err
	}
	db, err := sql.Open("mysql", dsn+"?interpolateParams=true")
	if err != nil {
		return nil, nil, err
	}
	store, err := mysqlstore.New(db)
	return db, store, err
}

// relayChild is a relay in a process of its own.
type relayChild struct {
	command *exec.Cmd
	in      io.WriteCloser
	out     *bufio.Scanner
}

// startRelay starts a process and returns when it is connected.
func startRelay(b *testing.B, database, dsn, url string) relayChild {
	b.Helper()
	program, err := os.Executable()
	require.NoError(b, err)
	c := relayChild{command: exec.Command(program)}
	c.command.Env = append(os.Environ(), relayDatabase+"="+database, relayDSN+"="+dsn, relayBroker+"="+url)
	c.command.Stderr = os.Stderr
	c.in, err = c.command.StdinPipe()
	require.NoError(b, err)
	out, err := c.command.StdoutPipe()
	require.NoError(b, err)
	require.NoError(b, c.command.Start())
	c.out = bufio.NewScanner(out)
	require.True(b, c.out.Scan() && c.out.Text() == "ready", "a relay did not start")
	return c
}

// drainBy has several processes relay the n messages that are stored, and returns the rate.
func drainBy(b *testing.B, processes int, database, dsn, url string, n int) float64 {
	b.Helper()
	relays := make([]relayChild, processes)
	for i := range relays {
		relays[i] = startRelay(b, database, dsn, url)
	}
	settled := make([]atomic.Int64, processes)
	done := make(chan struct{})
	var once sync.Once
	var reading sync.WaitGroup
	start := time.Now()
	for i := range relays {
		_, err := io.WriteString(relays[i].in, "go\n")
		require.NoError(b, err)
		reading.Go(func() {
			for relays[i].out.Scan() {
				now, _ := strconv.ParseInt(relays[i].out.Text(), 10, 64)
				settled[i].Store(now)
				var all int64
				for j := range settled {
					all += settled[j].Load()
				}
				if all >= int64(n) {
					once.Do(func() { close(done) })
				}
			}
		})
	}
	await(b, done)
	elapsed := time.Since(start)
	for i := range relays {
		require.NoError(b, relays[i].in.Close())
	}
	reading.Wait()
	for i := range relays {
		require.NoError(b, relays[i].command.Wait())
	}
	return float64(n) / elapsed.Seconds()
}
