package rabbitmqbroker

import (
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/waybillmq/waybill/adapters/internal/wmpublisher"
)

// Watermill returns a Watermill publisher with this Broker's config and options, in place of watermill-amqp's. Its Publish
// returns nil only once the broker has confirmed every message and routed it, and never later than [Broker.MaxConfirmWait]
// after the call or the end of a message's context. All messages of a call are in flight together; those of one call keep
// their order. It has a connection of its own, so that the confirms here are the reader's of Receive alone; its Close ends
// that connection, and Close of the Broker does not.
func (b *Broker) Watermill() message.Publisher {
	own := start(b.settings)
	return wmpublisher.New(own, own, own.Close, wmpublisher.WithConfirmTimeout(own.MaxConfirmWait()))
}
