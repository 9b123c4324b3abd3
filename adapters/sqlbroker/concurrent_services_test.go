//go:build services

package sqlbroker_test

import (
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/waybillmq/waybill/adapters/sqlbroker"
	"github.com/waybillmq/waybill/reliable"
)

// A subscriber remembers the highest offset that it has read. A message that gets a lower one and is committed later would
// be stored, acked, and read by nobody.
func TestPublish_fromManyProcessesAtOnceIsReadToTheLastMessage(t *testing.T) {
	const brokers, perBroker = 16, 50
	each(t, func(t *testing.T, d *database) {
		messages := subscribe(t, d.broker(t, d.db, []string{"orders"}), "orders",
			sqlbroker.WithFetch(100), sqlbroker.WithPollInterval(time.Millisecond))
		var publishing sync.WaitGroup
		for range brokers {
			b := d.broker(t, d.db, nil)
			publishing.Go(func() {
				for range perBroker {
					one := attempts("orders", 1)
					for acked := false; !acked; { // unknown, should a lock not be given in time
						publish(t, b, one)
						acked = receive(t, b, 1)[one[0].ID].Outcome == reliable.Acked
					}
				}
			})
		}
		read := make(map[string]bool)
		for len(read) < brokers*perBroker {
			select {
			case msg := <-messages:
				read[msg.UUID] = true
				msg.Ack()
				continue
			case <-time.After(patience): // since the last one
			}
			break
		}
		publishing.Wait()
		assert.Len(t, read, brokers*perBroker, "what is stored and acked must be read")
		assert.Len(t, d.stored(t, "orders"), brokers*perBroker)
	})
}
