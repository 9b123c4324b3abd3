package natsbroker_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/natsbroker"
	"github.com/waybillmq/waybill/adapters/natsbroker/embedded"
	"github.com/waybillmq/waybill/reliable"
)

func TestPublish_isReturnedWhileTheStreamIsMissingAndAckedOnceItExists(t *testing.T) {
	b := newBroker(t, startServer(t))
	batch := attempts("orders.created", 300)
	publish(t, b, batch)
	for _, confirm := range receive(t, b, len(batch)) {
		assert.Equal(t, reliable.Returned, confirm.Outcome)
		assert.ErrorContains(t, confirm.Err, "Declare")
	}
	declared(t, b)
	publish(t, b, batch)
	for _, confirm := range receive(t, b, len(batch)) {
		assert.Equal(t, reliable.Acked, confirm.Outcome, confirm.Err)
	}
}

func TestPublish_isUnknownWhileJetStreamItselfDoesNotAnswer(t *testing.T) {
	srv := startServer(t, embedded.WithOptions(func(o *server.Options) {
		plain := server.NewAccount("PLAIN") // an account without JetStream
		o.Accounts = []*server.Account{plain}
		o.Users = []*server.User{{Username: "plain", Password: "plain", Account: plain}}
	}))
	cfg := configOf(srv)
	cfg.Connection = append(cfg.Connection, nats.UserInfo("plain", "plain"))
	b, err := natsbroker.New(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, b.Close()) })

	confirm := outcome(t, b, reliable.Envelope{Topic: "orders.created"})
	assert.Equal(t, reliable.Unknown, confirm.Outcome, "no stream answers, and nobody says that there is none")
	require.ErrorIs(t, b.Ping(within(t)), jetstream.ErrJetStreamNotEnabledForAccount)
}

func TestPublish_isReturnedWhereTheUserMayNotPublish(t *testing.T) {
	srv := startServer(t, embedded.WithOptions(func(o *server.Options) {
		o.Users = []*server.User{
			{Username: "admin", Password: "admin"},
			{Username: "shop", Password: "shop", Permissions: &server.Permissions{
				Publish: &server.SubjectPermission{Allow: []string{"orders.created"}},
			}},
		}
	}))
	as := func(user string, opts ...natsbroker.Option) *natsbroker.Broker {
		cfg := configOf(srv)
		cfg.Connection = append(cfg.Connection, nats.UserInfo(user, user))
		b, err := natsbroker.New(cfg, append(opts, natsbroker.WithStream("orders", "orders.>"))...)
		require.NoError(t, err)
		t.Cleanup(func() { assert.NoError(t, b.Close()) })
		return b
	}
	shop := as("shop")
	confirm := outcome(t, shop, reliable.Envelope{Topic: "orders.created"})
	assert.Equal(t, reliable.Unknown, confirm.Outcome, "it may not ask whether there is a stream")

	declared(t, as("admin"))
	batch := attempts("orders.created", 30)
	for i := range batch {
		if i%3 == 0 {
			batch[i].Topic = "orders.deleted"
		}
	}
	publish(t, shop, batch)
	confirms := receive(t, shop, len(batch))
	for i := range batch {
		confirm := confirms[batch[i].ID]
		if i%3 == 0 {
			assert.Equal(t, reliable.Returned, confirm.Outcome)
			assert.ErrorIs(t, confirm.Err, nats.ErrPermissionViolation)
		} else {
			assert.Equal(t, reliable.Acked, confirm.Outcome, confirm.Err)
		}
	}
}

func TestPublish_rejectsWhatCanNeverBeStoredAndItsNeighboursAreFine(t *testing.T) {
	srv := startServer(t)
	b := newBroker(t, srv)
	require.NoError(t, b.EnsureStream(within(t),
		jetstream.StreamConfig{Name: "orders", Subjects: []string{"orders.>"}},
		jetstream.StreamConfig{Name: "small", Subjects: []string{"small.>"}, MaxMsgSize: 1000}))
	spread := make(map[string]string)
	for i := range 7 {
		spread[strings.Repeat("n", i+1)] = strings.Repeat("v", 10_000)
	}
	for name, bad := range map[string]reliable.Envelope{
		"larger than the server takes":       {Topic: "orders.created", Payload: make([]byte, 1<<20+1)},
		"larger with its headers":            {Topic: "orders.created", Payload: make([]byte, 1<<20-5000), Metadata: spread},
		"larger than the stream takes":       {Topic: "small.created", Payload: make([]byte, 2000)},
		"more headers than a stream takes":   {Topic: "orders.created", Metadata: spread},
		"a topic with a wildcard":            {Topic: "orders.*"},
		"a topic with a space":               {Topic: "orders created"},
		"a topic with an empty part":         {Topic: "orders..created"},
		"a topic of the server's own":        {Topic: "$JS.API.STREAM.DELETE.orders"},
		"a topic that breaks the protocol":   {Topic: "orders.created\r\nPUB x 0\r\n"},
		"a topic longer than a line holds":   {Topic: "orders." + strings.Repeat("x", 5000)},
		"a topic that is no text":            {Topic: "orders.\xff"},
		"a topic of somebody's reply":        {Topic: "_INBOX.abc"},
		"a topic with nothing after its dot": {Topic: "orders."},
	} {
		t.Run(name, func(t *testing.T) {
			batch := attempts("orders.created", 11)
			bad.ID = batch[5].ID
			batch[5].Envelope = bad
			publish(t, b, batch)
			for id, confirm := range receive(t, b, len(batch)) {
				want := reliable.Acked
				if id == bad.ID {
					want = reliable.Rejected
				}
				assert.Equal(t, want, confirm.Outcome, confirm.Err)
			}
		})
	}
}

func TestCheck_saysBeforehandWhatWouldBeRejected(t *testing.T) {
	b := newBroker(t, startServer(t))
	good := reliable.Envelope{ID: "1", Topic: "orders.created", Payload: []byte("x")}
	require.NoError(t, b.Check(&good))
	wild, large := good, good
	wild.Topic, large.Payload = "orders.*", make([]byte, 1<<20)
	require.ErrorIs(t, b.Check(&wild), reliable.ErrInvalid)
	require.ErrorIs(t, b.Check(&large), reliable.ErrInvalid)
}

func TestLimits_followTheServer(t *testing.T) {
	b := newBroker(t, startServer(t, embedded.WithMaxPayload(64<<10)))
	before := b.Limits().Payload
	require.NoError(t, b.Ping(within(t)))
	assert.Less(t, b.Limits().Payload, 64<<10)
	assert.Greater(t, before, b.Limits().Payload)
}

func TestPublish_returnsWithItsContextWhereThereIsNoServer(t *testing.T) {
	b, err := natsbroker.New(natsbroker.Config{URL: "nats://127.0.0.1:1"})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, b.Close()) })
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	n, err := b.Publish(ctx, attempts("orders.created", 1))
	assert.Zero(t, n)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.ErrorIs(t, b.Ping(ctx), context.DeadlineExceeded)
	require.NoError(t, b.Declare(ctx), "there is nothing to declare")
}

func TestClose_endsAConnectionAttemptThatHangs(t *testing.T) {
	silent := newSilentListener(t)
	b, err := natsbroker.New(natsbroker.Config{URL: "nats://" + silent.address, Connection: []nats.Option{nats.Timeout(time.Hour)}})
	require.NoError(t, err)
	pinged := make(chan error, 1)
	go func() { pinged <- b.Ping(context.Background()) }()
	<-silent.accepted
	require.NoError(t, b.Close())
	require.ErrorIs(t, <-pinged, reliable.ErrClosed)
}

func TestDeclare_addsSubjectsAndLeavesTheRestOfAStreamAlone(t *testing.T) {
	srv := startServer(t)
	_, js := client(t, srv)
	_, err := js.CreateStream(within(t), jetstream.StreamConfig{
		Name: "orders", Subjects: []string{"returns.old"}, MaxMsgs: 7, Description: "by hand",
	})
	require.NoError(t, err)
	b := newBroker(t, srv)
	for range 2 {
		declared(t, b)
	}
	stream, err := js.Stream(within(t), "orders")
	require.NoError(t, err)
	config := stream.CachedInfo().Config
	assert.ElementsMatch(t, []string{"returns.old", "orders.>"}, config.Subjects)
	assert.EqualValues(t, 7, config.MaxMsgs)
	assert.Equal(t, "by hand", config.Description)
}

func TestNew_reportsAllContradictionsTogether(t *testing.T) {
	_, err := natsbroker.New(natsbroker.Config{},
		natsbroker.WithWindow(0), natsbroker.WithConfirmTimeout(0), natsbroker.WithReconnectWait(2, 1),
		natsbroker.WithMaxPayload(1), natsbroker.WithDeduplication(9), natsbroker.WithSubject(nil), natsbroker.WithLogger(nil),
		natsbroker.WithDomain("a.b"), natsbroker.WithStream("a.b"), natsbroker.WithStream("x", "x..y"), natsbroker.WithStream("x"))
	require.ErrorIs(t, err, reliable.ErrInvalid)
	for _, field := range []string{
		"WithWindow", "WithConfirmTimeout", "WithReconnectWait", "WithMaxPayload", "WithDeduplication", "WithSubject",
		"WithLogger", "WithDomain", "name \"a.b\"", "subject \"x..y\"", "given twice",
	} {
		assert.ErrorContains(t, err, field)
	}

	b, err := natsbroker.New(natsbroker.Config{})
	require.NoError(t, err)
	_, err = b.Subscriber("", natsbroker.WithAckWait(0), natsbroker.WithPrefetch(0), natsbroker.WithConcurrency(0),
		natsbroker.WithMaxAckPending(0), natsbroker.WithCloseTimeout(-1), natsbroker.WithNackDelay(nil))
	require.ErrorIs(t, err, reliable.ErrInvalid)
	for _, field := range []string{
		"group", "WithAckWait", "WithPrefetch", "WithConcurrency", "WithMaxAckPending", "WithCloseTimeout", "WithNackDelay",
	} {
		assert.ErrorContains(t, err, field)
	}
	require.NoError(t, b.Close())
}
