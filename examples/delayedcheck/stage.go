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
	"strings"
	"time"

	"github.com/waybillmq/waybill/examples/internal/backends"
	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/reliable/backend"
)

// What the child processes are.
const (
	brokerRole   = "broker"
	shopRole     = "shop"
	shippingRole = "shipping"
	callbackRole = "callback"
)

// stageVariable holds the stage, as JSON. It has the key of the resend requests and passwords in it, which is why it is not
// an argument: those can be read by every user of the machine.
const stageVariable = "WAYBILL_EXAMPLE_STAGE"

// stage is what the processes know of each other.
type stage struct {
	// Run is in the name of whatever the run makes on a server.
	Run string `json:"run"`
	// Shop, Shipping and Callback are the URLs of the processes' databases, Broker is that of their broker.
	Shop     string `json:"shop"`
	Shipping string `json:"shipping"`
	Callback string `json:"callback"`
	Broker   string `json:"broker"`
	// Embedded is the URL by which the broker's process opens it; empty if the broker is a server.
	Embedded string `json:"embedded,omitempty"`

	// Delay is when checks come due.
	Delay time.Duration `json:"delay"`

	ShopPort int    `json:"shop_port"`
	Key      string `json:"key"`
	Orders   int    `json:"orders"`
	// HoldAt is the order whose message the shop does not send: it says so and waits for its end.
	HoldAt int `json:"hold_at,omitempty"`
}

// newStage chooses names, ports and a key for a run on a pair. It makes nothing.
func newStage(ctx context.Context, p pair, dir string, orders int) (stage, error) {
	secret := make([]byte, 32)
	rand.Read(secret)
	s := stage{
		Run: "waybill_" + strings.ToLower(string(reliable.NewID()[24:])),
		Key: "example:" + hex.EncodeToString(secret), Orders: orders, Broker: p.broker, Delay: p.delay,
	}
	var err error
	if s.ShopPort, err = freePort(ctx); err != nil {
		return s, err
	}
	if p.broker == "" {
		port, err := freePort(ctx)
		if err != nil {
			return s, err
		}
		s.Embedded = fmt.Sprintf("nats-embedded:%s?listen=%d&sync_always=true", filepath.Join(dir, "nats"), port)
		// What a process had in its hands when it was killed is delivered again after the ack wait.
		s.Broker = fmt.Sprintf("nats://127.0.0.1:%d?stream=%s&subjects=%s&ack_wait=2s&concurrency=16&confirm_timeout=2s",
			port, s.Run, strings.Join(s.topics(), ","))
	}
	for role, database := range map[string]*string{shopRole: &s.Shop, shippingRole: &s.Shipping, callbackRole: &s.Callback} {
		if p.database == "" {
			*database = "sqlite:" + filepath.Join(dir, role+".db")
		} else if *database, err = backends.DatabaseURL(p.database, s.Run+"_"+role); err != nil {
			return s, err
		}
	}
	if p.broker == p.database && p.broker != "" {
		s.Broker, err = backends.DatabaseURL(p.broker, s.Run+"_"+brokerRole)
	}
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

func (s stage) ordersTopic() string    { return s.Run + ".placed" }
func (s stage) processedTopic() string { return s.Run + ".processed" }
func (s stage) checksTopic() string    { return s.Run + ".checks" }
func (s stage) topics() []string {
	return []string{s.ordersTopic(), s.processedTopic(), s.checksTopic()}
}

// group is the consumer group of a process, as the broker knows it.
func (s stage) group(role string) string { return s.Run + "_" + role }

// openBroker connects a process to the broker, with the topics that all of them use.
func (s stage) openBroker(ctx context.Context) (backend.Broker, error) {
	broker, err := backends.Brokers.Open(ctx, s.Broker)
	if err != nil {
		return nil, err
	}
	if err := broker.Declare(ctx, s.topics()...); err != nil {
		_ = broker.Close()
		return nil, err
	}
	return broker, nil
}

// openStore opens a process's own database, brings Waybill's tables in it up to date, and makes those of the business.
func openStore(ctx context.Context, storeURL string, tables ...string) (store backend.Store, err error) {
	if store, err = backends.Stores.Open(ctx, storeURL); err != nil {
		return nil, err
	}
	if migrator, ok := reliable.Ability[backend.Migrator](store); ok {
		err = migrator.Migrate(ctx)
	}
	for i := 0; i < len(tables) && err == nil; i++ {
		_, err = backends.Exec(ctx, store, tables[i])
	}
	if err != nil {
		_ = store.Close()
		return nil, err
	}
	return store, nil
}

// embeddedBroker is the process of a broker that is not a server.
func embeddedBroker(ctx context.Context, s stage, out io.Writer) error {
	broker, err := backends.Brokers.Open(ctx, s.Embedded)
	if err != nil {
		return err
	}
	fmt.Fprintln(out, ready)
	<-ctx.Done()
	return broker.Close()
}
