//go:build services

package sqlbroker_test

import (
	"database/sql"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/sqlbroker"
	"github.com/waybillmq/waybill/internal/faultproxy"
	"github.com/waybillmq/waybill/reliable/brokertest"
)

// connection is a broker with a pool of its own, which ends with it.
type connection struct {
	*sqlbroker.Broker
	db *sql.DB
}

// Close says nothing of the pool's end: a connection that was cut says that it is bad.
func (c connection) Close() error {
	err := c.Broker.Close()
	_ = c.db.Close()
	return err
}

// The faults strike a proxy before the real server.
func TestConformance(t *testing.T) {
	each(t, func(t *testing.T, d *database) {
		const largest = 4 << 20
		admin := d.broker(t, d.db, nil)
		topic := func(t brokertest.T) string {
			name := topicName("topic")
			require.NoError(t, admin.Declare(t.Context(), name))
			return name
		}
		brokertest.Run(t, brokertest.Harness{
			Features: brokertest.Features{
				Returns: true, Rejects: true, Order: true, Keys: true, Window: true, MarksLost: true, OutOfProcess: true,
			},
			Open: func(t brokertest.T, o brokertest.Options) brokertest.Connection {
				opts := []sqlbroker.Option{
					sqlbroker.WithReconnectWait(5*time.Millisecond, 50*time.Millisecond), sqlbroker.WithMaxPayload(largest),
				}
				if o.Window > 0 {
					opts = append(opts, sqlbroker.WithWindow(o.Window))
				}
				if o.ConfirmTimeout > 0 {
					opts = append(opts, sqlbroker.WithConfirmTimeout(o.ConfirmTimeout))
				}
				db := d.another()
				b, err := sqlbroker.New(d.kind, db, opts...)
				require.NoError(t, err)
				return connection{b, db}
			},
			Topic:           topic,
			UnroutableTopic: func(brokertest.T) string { return topicName("missing") },
			Oversize:        func(brokertest.T) []byte { return make([]byte, largest+1) },
			Cut:             func(brokertest.T, brokertest.Connection) { d.proxy.CutAll() },
			Down: func(brokertest.T) func() {
				d.proxy.Refuse(true)
				d.proxy.CutAll()
				return func() { d.proxy.Refuse(false) }
			},
			Block: func(brokertest.T) func() {
				d.proxy.Stall(faultproxy.Both, true)
				return func() { d.proxy.Stall(faultproxy.Both, false) }
			},
			Received: brokertest.ReceivedBy(func(t brokertest.T) message.Subscriber {
				sub, err := admin.Subscriber("suite", sqlbroker.WithFetch(100), sqlbroker.WithPollInterval(20*time.Millisecond))
				require.NoError(t, err)
				return sub
			}, 300*time.Millisecond),
			Watermill: func(t brokertest.T) message.Publisher {
				b, err := sqlbroker.New(d.kind, d.via, sqlbroker.WithMaxPayload(largest))
				require.NoError(t, err)
				return b.Watermill()
			},
			Volume: 5000,
		})
	})
}
