package main

import (
	"context"
	"net/http/httptest"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/strategies/delayedcheck"
	"github.com/waybillmq/waybill/strategies/delayedcheck/httprpc"
)

const resendKey = "test:000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"

// shop is a producer that notes what it is asked for.
type shop struct {
	mu    sync.Mutex
	asked map[reliable.ID]int
}

func (s *shop) Resend(_ context.Context, check delayedcheck.Check) (delayedcheck.Answer, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked[check.Message.ID]++
	if check.Message.ID == "unknowable" {
		return delayedcheck.Unknowable, nil
	}
	return delayedcheck.Resent, nil
}

func (s *shop) times(id reliable.ID) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked[id]
}

func TestCallback_answersChecks(t *testing.T) {
	url, server := places[0].url(t), natsServer(t)
	store := migrated(t, url)
	key, err := httprpc.ParseKey(resendKey)
	require.NoError(t, err)
	asked := &shop{asked: make(map[reliable.ID]int)}
	handler, err := httprpc.NewHandler(asked, []httprpc.Key{key})
	require.NoError(t, err)
	producer := httptest.NewServer(handler)
	t.Cleanup(producer.Close)

	broker, err := brokers().Open(t.Context(), server.URL()+"?stream=SHOP")
	require.NoError(t, err)
	publisher := broker.Watermill()
	t.Cleanup(func() {
		assert.NoError(t, publisher.Close())
		assert.NoError(t, broker.Close())
	})
	env := []string{
		"WAYBILL_STORE=" + url, "WAYBILL_BROKER=" + server.URL() + "?stream=SHOP",
		"WAYBILL_RESEND_KEY=" + resendKey, "WAYBILL_RESENDERS=shop=" + producer.URL + "/resend",
	}
	callback := start(t, command(t, env, "callback", "--declare", "--delay", "1h"))
	callback.await(t, "answering checks")

	confirm, err := reliable.ProcessedMessage(reliable.Processed{ID: "confirmed", Group: "billing"})
	require.NoError(t, err)
	require.NoError(t, publisher.Publish("waybill.processed", confirm))
	confirmations, ok := reliable.Ability[reliable.Confirmations](store)
	require.True(t, ok)
	within(t, "the confirm is stored", func() bool {
		stored, err := confirmations.ProcessedBy(t.Context(), "confirmed")
		return err == nil && len(stored) == 1
	})
	for _, id := range []reliable.ID{"confirmed", "lost", "unknowable"} {
		check := delayedcheck.Check{
			Message: reliable.Envelope{ID: id, Topic: "orders.placed"}, Groups: []string{"billing"}, Producer: "shop", Round: 1,
		}
		due, err := check.Envelope(delayedcheck.DefaultCheckTopic)
		require.NoError(t, err)
		require.NoError(t, publisher.Publish(due.Topic, due.Message()))
	}
	require.NoError(t, publisher.Publish(delayedcheck.DefaultCheckTopic, message.NewMessage("stray", []byte("no check"))))
	within(t, "the lost message is asked for", func() bool { return asked.times("lost") == 1 && asked.times("unknowable") == 1 })
	within(t, "the failed request is seen", func() bool {
		result := waybill(t, url, "list", "--topic", "shop")
		return strings.Contains(result.stdout, "shop")
	})
	require.NoError(t, callback.Process.Signal(syscall.SIGTERM))
	callback.await(t, "msg=stopped")
	var said []string
	for line := range callback.lines {
		said = append(said, line)
	}
	require.NoError(t, callback.Wait(), "%v", said)
	assert.Zero(t, asked.times("confirmed"))

	poison, err := broker.Subscribe("test")
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, poison.Close()) })
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	messages, err := poison.Subscribe(ctx, "waybill.callback.poison")
	require.NoError(t, err)
	msg := <-messages
	require.NotNil(t, msg, "what is no check is in no poison topic")
	assert.Equal(t, "stray", msg.UUID)
	msg.Ack()
}

// within waits until something is so.
func within(t *testing.T, what string, so func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !so(); time.Sleep(50 * time.Millisecond) {
		require.True(t, time.Now().Before(deadline), "not within %v: %s", patience, what)
	}
}

func TestCallback_saysWhatIsMissing(t *testing.T) {
	for says, env := range map[string][]string{
		"no producer is named":                      nil,
		"WAYBILL_RESEND_KEY: invalid key":           {"WAYBILL_RESENDERS=shop=https://shop.internal/resend"},
		"--resender of shop: invalid address":       {"WAYBILL_RESENDERS=shop=http://shop.internal/resend", "WAYBILL_RESEND_KEY=" + resendKey},
		"two addresses without a name":              {"WAYBILL_RESENDERS=https://a/r,https://b/r", "WAYBILL_RESEND_KEY=" + resendKey},
		"no broker is named: set WAYBILL_BROKER or": {"WAYBILL_RESENDERS=https://a/r", "WAYBILL_RESEND_KEY=" + resendKey},
	} {
		result := finish(t, command(t, env, "callback"))
		assert.Equal(t, exitUsage, result.code, "%v", result)
		assert.Contains(t, result.stderr, says)
		assert.NotContains(t, result.stderr, "0001020304")
	}
}
