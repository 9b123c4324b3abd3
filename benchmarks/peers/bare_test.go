//go:build services

package peers

import (
	"context"
	"database/sql"
	"testing"

	"github.com/stretchr/testify/require"
)

// bare commits, and then publishes and waits for the confirm: no carrier, so a crash between the two loses the message.
var bare = contender{name: "a bare publish", open: openBare}

type bareOutbox struct {
	database  database
	db        *sql.DB
	publisher *confirmed
}

func openBare(t testing.TB, d database, to destination) carrier {
	t.Helper()
	queue, ok := to.(*quorumQueue)
	require.True(t, ok, "for RabbitMQ only")
	return &bareOutbox{d, d.open(t, ""), newConfirmed(t, queue.url)}
}

func (b *bareOutbox) relay() (stop func()) { return func() {} }

func (b *bareOutbox) send(ctx context.Context, topic string, content []byte) error {
	return b.publisher.publish(ctx, topic, messageID(content), content)
}

func (b *bareOutbox) sell(ctx context.Context, sale int, topic string, content []byte) error {
	if _, err := b.db.ExecContext(ctx, b.database.sale(), sale); err != nil {
		return err
	}
	return b.send(ctx, topic, content)
}
