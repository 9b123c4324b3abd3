package natsbroker

import (
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A process that read a stream's configuration before another one added the subject writes what it read.
func TestAllowSchedules_whatWasReadBeforeTakesNoSubjectAway(t *testing.T) {
	ctx := t.Context()
	own, err := server.NewServer(&server.Options{JetStream: true, StoreDir: t.TempDir(), DontListen: true})
	require.NoError(t, err)
	own.Start()
	t.Cleanup(own.Shutdown)
	nc, err := nats.Connect("", nats.InProcessServer(own))
	require.NoError(t, err)
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	require.NoError(t, err)
	stream, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: "orders", Subjects: []string{"orders.>"}})
	require.NoError(t, err)
	before := stream.CachedInfo().Config

	require.NoError(t, allowSchedules(ctx, js, before))
	require.NoError(t, allowSchedules(ctx, js, before))

	info, err := stream.Info(ctx)
	require.NoError(t, err)
	assert.Equal(t, []string{"orders.>", "waybill.delay.orders.>"}, info.Config.Subjects)
	ready, err := takesDelayed(ctx, js, &info.Config)
	require.NoError(t, err)
	assert.True(t, ready)
}

func TestSubjectMatches(t *testing.T) {
	for _, c := range []struct {
		pattern, subject string
		matches          bool
	}{
		{"a.b", "a.b", true},
		{"a.*", "a.b", true},
		{"a.>", "a.b", true},
		{"a.>", "a.b.c", true},
		{">", "a", true},
		{"a.*", "a.b.c", false},
		{"a.b", "a.b.c", false},
		{"a.b.c", "a.b", false},
		{"a.>", "a", false},
		{"a.c", "a.b", false},
	} {
		assert.Equal(t, c.matches, subjectMatches(c.pattern, c.subject), "%s takes %s", c.pattern, c.subject)
	}
}
