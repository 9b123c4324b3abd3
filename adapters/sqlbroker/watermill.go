package sqlbroker

import (
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/waybillmq/waybill/adapters/internal/wmpublisher"
)

// Watermill returns a Watermill publisher with this Broker's configuration. Its Publish returns nil only once every
// message is committed, and never later than [Broker.MaxConfirmWait] after the call or the end of a message's context.
// The messages of a call keep their order, and may be in several transactions; calls that come together share one. It is
// a broker of its own, so that the confirms here are the reader's of Receive alone, and Close of the one does not close
// the other. It never takes part in a store's transactions.
func (b *Broker) Watermill() message.Publisher {
	own := prepare(b.kind, b.db, b.settings)
	return wmpublisher.New(own, own, own.Close, wmpublisher.WithConfirmTimeout(own.MaxConfirmWait()))
}
