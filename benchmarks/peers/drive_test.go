//go:build services

package peers

import (
	"context"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/internal/testenv"
)

// few is enough messages to see whether a contender is set up as it should be.
const few = 300

func TestDrive_waybillCarriesEverythingOnce(t *testing.T) {
	for _, c := range []struct {
		product string
		to      func(testing.TB) destination
	}{{mariaDB, onRabbitMQ}, {postgres, onKafka}} {
		o := drive(t, waybill, emptyDatabase(t, c.product), c.to(t), sends, few)
		assert.Zero(t, o.lost)
		assert.Positive(t, o.rate)
	}
}

// A comparison in which a loss is not seen would prove nothing.
func TestDrive_seesWhatIsLostAndWhatIsCopied(t *testing.T) {
	careless := contender{name: "a careless publish", open: func(t testing.TB, d database, to destination) carrier {
		return &careless{openBare(t, d, to).(*bareOutbox)}
	}}
	o := drive(t, careless, emptyDatabase(t, postgres), queueOn(t, testenv.RabbitMQ(t), orders), sends, few)
	assert.Equal(t, few/10, o.lost)
	assert.Equal(t, few/20, o.duplicated)
}

// careless loses each tenth message, and sends each twentieth twice.
type careless struct{ *bareOutbox }

func (c *careless) send(ctx context.Context, topic string, content []byte) error {
	i, err := number(content)
	if err != nil || i%10 == 0 {
		return err
	}
	if i%20 == 1 {
		if err := c.bareOutbox.send(ctx, topic, content); err != nil {
			return err
		}
	}
	return c.bareOutbox.send(ctx, topic, content)
}

func TestConfirmed_knowsWhatIsReturned(t *testing.T) {
	url := testenv.RabbitMQ(t)
	queueOn(t, url, orders)
	publisher := newConfirmed(t, url)
	const times = 500 // the ack follows on the heels of the return
	for range times {
		require.NoError(t, publisher.publish(t.Context(), orders, "here", payload(1)))
		require.ErrorIs(t, publisher.publish(t.Context(), "elsewhere", "nowhere", payload(2)), errReturned)
	}
	require.NoError(t, publisher.publish(t.Context(), orders, "nowhere", payload(2)), "the queue is there now")
}
