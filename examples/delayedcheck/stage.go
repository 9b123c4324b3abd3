package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/waybillmq/waybill/adapters/natsbroker"
	"github.com/waybillmq/waybill/adapters/natsbroker/embedded"
)

const (
	ordersTopic    = "orders.placed"
	processedTopic = "orders.processed"
	checksTopic    = "orders.checks"

	shippingGroup = "shipping"
	shopName      = "shop"

	// checkDelay is when a check comes due.
	checkDelay = 4 * time.Second
	// ackWait is how long the broker waits for the ack of a message before it delivers it again.
	ackWait = 2 * time.Second
)

// stageVariable holds the stage, as JSON. It has the key of the resend requests in it, which is why it is not an argument:
// those can be read by every user of the machine.
const stageVariable = "WAYBILL_EXAMPLE_STAGE"

// stage is what the processes know of each other.
type stage struct {
	Dir        string `json:"dir"`
	BrokerPort int    `json:"broker_port"`
	ShopPort   int    `json:"shop_port"`
	Key        string `json:"key"`
	Orders     int    `json:"orders"`
	// HoldAt is the order whose message the shop does not send: it says so and waits for its end.
	HoldAt int `json:"hold_at,omitempty"`
}

func newStage(ctx context.Context, dir string, orders int) (stage, error) {
	secret := make([]byte, 32)
	rand.Read(secret)
	s := stage{Dir: dir, Key: "example:" + hex.EncodeToString(secret), Orders: orders}
	var err error
	if s.BrokerPort, err = freePort(ctx); err != nil {
		return s, err
	}
	s.ShopPort, err = freePort(ctx)
	return s, err
}

func freePort(ctx context.Context) (int, error) {
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	return listener.Addr().(*net.TCPAddr).Port, listener.Close() //nolint:forcetypeassert // a TCP listener's
}

func stageFromEnvironment() (s stage, err error) {
	if err := json.Unmarshal([]byte(os.Getenv(stageVariable)), &s); err != nil {
		return s, fmt.Errorf("%s: %w", stageVariable, err)
	}
	return s, nil
}

func (s stage) environment(role string) ([]string, error) {
	text, err := json.Marshal(s)
	return append(os.Environ(), roleVariable+"="+role, stageVariable+"="+string(text)), err
}

func (s stage) shopDB() string     { return filepath.Join(s.Dir, "shop.db") }
func (s stage) shippingDB() string { return filepath.Join(s.Dir, "shipping.db") }
func (s stage) ledgerDB() string   { return filepath.Join(s.Dir, "ledger.db") }

// nats returns the broker as its clients see it.
func (s stage) nats() (*natsbroker.Broker, error) {
	return natsbroker.New(natsbroker.Config{URL: fmt.Sprintf("nats://127.0.0.1:%d", s.BrokerPort)},
		natsbroker.WithStream("orders", ordersTopic, processedTopic, checksTopic), natsbroker.WithConfirmTimeout(2*time.Second))
}

// broker is the process of the broker.
func broker(ctx context.Context, s stage, out io.Writer) error {
	server, err := embedded.StartServer(ctx, filepath.Join(s.Dir, "nats"), embedded.WithListener(s.BrokerPort), embedded.WithSyncAlways())
	if err != nil {
		return err
	}
	defer server.Stop()
	fmt.Fprintln(out, ready)
	<-ctx.Done()
	return nil
}
