// Alarms watches an outbox: how old its oldest pending message is, and how many have failed, with a health endpoint on the
// loopback interface beside it. It makes the trouble itself: the broker goes away and comes back, a message has nowhere to
// go and is dropped by an operator, the relay stops. The database is a SQLite file and the broker is a NATS server inside
// this process, both in a temporary folder. It exits with 0 only if each alarm was raised and ended, and the endpoint said
// what was wrong.
//
//	go run ./examples/alarms
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/waybillmq/waybill/adapters/natsbroker"
	"github.com/waybillmq/waybill/adapters/natsbroker/embedded"
	"github.com/waybillmq/waybill/adapters/sqlitestore"
	"github.com/waybillmq/waybill/health"
	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/strategies/tagging"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "alarms:", err)
		os.Exit(1)
	}
}

// The limits are short, because this is a demonstration: minutes are usual.
var (
	maxAge = 2 * time.Second
	quiet  = slog.New(slog.DiscardHandler)
)

func run(ctx context.Context, out io.Writer) (err error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	dir, err := os.MkdirTemp("", "waybill-alarms-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	store, err := sqlitestore.Open(ctx, filepath.Join(dir, "shop.db"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	server, err := embedded.StartServer(ctx, filepath.Join(dir, "nats"))
	if err != nil {
		return err
	}
	defer server.Stop()
	broker, err := natsbroker.New(natsbroker.Config{Connection: []nats.Option{server.ClientOption()}},
		natsbroker.WithStream("orders", "orders.placed"), natsbroker.WithReconnectWait(20*time.Millisecond, 100*time.Millisecond))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, broker.Close()) }()
	if err := broker.Declare(ctx); err != nil {
		return err
	}
	outbox, err := tagging.New(store, broker, broker, tagging.WithLogger(quiet),
		tagging.WithFailureBudget(1, 0)) // the default tries a refused message for half an hour
	if err != nil {
		return err
	}
	relaying, stopRelay := context.WithCancel(ctx)
	relayed := make(chan error, 1)
	go func() { relayed <- outbox.Run(relaying) }()
	defer func() {
		stopRelay()
		err = errors.Join(err, <-relayed)
	}()

	probes, err := health.New(store, health.WithRelay(outbox), health.WithBroker(broker), health.WithMaxPendingAge(maxAge),
		health.WithTimeout(500*time.Millisecond), health.WithInterval(50*time.Millisecond), health.WithLogger(quiet))
	if err != nil {
		return err
	}
	address, closeEndpoint, err := serve(probes)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeEndpoint()) }()

	watching, stopWatching := context.WithCancel(ctx)
	alarms, watched := make(chan string, 16), make(chan struct{})
	go func() {
		defer close(watched)
		watch(watching, outbox, 50*time.Millisecond, limits{pendingAge: maxAge}, func(alarm string) { alarms <- alarm })
	}()
	defer func() {
		stopWatching()
		<-watched
	}()
	d := &drama{store: store, server: server, outbox: outbox, stopRelay: stopRelay, address: address, alarms: alarms, out: out}
	return d.play(ctx)
}

// serve answers probes on a free port of the loopback interface.
func serve(probes http.Handler) (address string, closing func() error, err error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // it returns at once
	if err != nil {
		return "", nil, err
	}
	server := &http.Server{Handler: probes, ReadHeaderTimeout: time.Second}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	return "http://" + listener.Addr().String(), func() error {
		err := server.Close()
		if serving := <-served; !errors.Is(serving, http.ErrServerClosed) {
			err = errors.Join(err, serving)
		}
		return err
	}, nil
}

// drama makes the trouble and waits for what is to be said about it.
type drama struct {
	store     *sqlitestore.Store
	server    *embedded.Server
	outbox    *tagging.Outbox
	stopRelay context.CancelFunc
	address   string
	alarms    <-chan string
	out       io.Writer
}

func (d *drama) play(ctx context.Context) error {
	const waits = "orders.placed has a message that waits for more than 2s"
	const failed = "orders.nowhere has more than 0 failed messages"
	for _, act := range []struct {
		happens string
		do      func() error
		alarm   string
		ready   int
		reasons []health.Code
	}{
		{"an order is placed", func() error { return d.publish(ctx, "order-1", "orders.placed") }, "", 200, nil},
		{"the broker goes away, and an order is placed all the same", func() error {
			d.server.Stop()
			return d.publish(ctx, "order-2", "orders.placed")
		}, "ALARM " + waits, 200, []health.Code{health.BrokerUnreachable, health.PendingOld}},
		{"the broker is back", func() error { return d.server.Restart(ctx) }, "over: " + waits, 200, nil},
		{"an order goes to a topic that has no stream", func() error { return d.publish(ctx, "order-3", "orders.nowhere") },
			"ALARM " + failed, 200, []health.Code{health.FailedMessages}},
		{"an operator drops it", func() error { return d.discard(ctx, "order-3") }, "over: " + failed, 200, nil},
		{"the relay stops", func() error {
			d.stopRelay()
			return nil
		}, "", 503, []health.Code{health.RelayStopped}},
	} {
		fmt.Fprintf(d.out, "%s\n", act.happens)
		if err := act.do(); err != nil {
			return fmt.Errorf("%s: %w", act.happens, err)
		}
		if act.alarm != "" {
			if err := d.hear(ctx, act.alarm); err != nil {
				return fmt.Errorf("%s: %w", act.happens, err)
			}
		}
		if err := d.ask(ctx, act.ready, act.reasons); err != nil {
			return fmt.Errorf("%s: %w", act.happens, err)
		}
	}
	return nil
}

func (d *drama) publish(ctx context.Context, id reliable.ID, topic string) error {
	_, err := d.outbox.Publish(ctx, reliable.Envelope{ID: id, Topic: topic})
	return err
}

func (d *drama) discard(ctx context.Context, id reliable.ID) error {
	results, err := d.store.Decide(ctx, reliable.Decision{
		Action: reliable.Discard, IDs: []reliable.ID{id}, Who: "ada", Why: "nobody listens to this topic any more",
	})
	if err == nil && results[0].Verdict != reliable.Decided {
		err = errors.New(results[0].Verdict.String())
	}
	return err
}

// patience is how long something may take on a loaded machine before it counts as not happening.
const patience = 20 * time.Second

// hear waits for an alarm.
func (d *drama) hear(ctx context.Context, want string) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	select {
	case got := <-d.alarms:
		fmt.Fprintf(d.out, "  %s\n", got)
		if got != want {
			return fmt.Errorf("the alarm should have been %q", want)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("waiting for %q: %w", want, ctx.Err())
	}
}

// ask asks the endpoint until it says what it should.
func (d *drama) ask(ctx context.Context, ready int, reasons []health.Code) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		live, _, err := d.get(ctx, "/live")
		if err != nil {
			return err
		}
		isReady, report, err := d.get(ctx, "/ready")
		if err != nil {
			return err
		}
		var codes []health.Code
		for _, reason := range report.Reasons {
			codes = append(codes, reason.Code)
		}
		if live == http.StatusOK && isReady == ready && slices.Equal(codes, reasons) {
			fmt.Fprintf(d.out, "  live %d, ready %d, %s %v\n", live, isReady, report.Status, codes)
			return nil
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("the endpoint says ready %d and %v, in place of ready %d and %v", isReady, codes, ready, reasons)
		}
	}
}

func (d *drama) get(ctx context.Context, path string) (code int, report health.Report, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, d.address+path, nil)
	if err != nil {
		return 0, report, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, report, err
	}
	defer func() { err = errors.Join(err, response.Body.Close()) }()
	err = json.NewDecoder(response.Body).Decode(&report)
	return response.StatusCode, report, err
}
