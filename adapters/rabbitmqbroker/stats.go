package rabbitmqbroker

import "github.com/waybillmq/waybill/reliable"

// Hooks are told what happens to the connection for publishing. Each may be nil; none may block or call the Broker.
type Hooks struct {
	// Connected is called when messages can be published, after the first connect and each reconnect.
	Connected func()
	// Disconnected is called when a connection that was made has ended, with the reason.
	Disconnected func(cause error)
	// Blocking is called when the broker stops to read from its publishers, with its reason, and when it goes on.
	Blocking func(blocked bool, reason string)
}

// Stats is a snapshot for metrics. The counts begin with the Broker and only grow.
type Stats struct {
	// Connected and Blocked tell of this moment.
	Connected, Blocked bool
	// InFlight is how many slots of the window are taken: handed over, or about to be, and the confirm not received.
	InFlight int
	// Sessions counts the connections for publishing that were made; one more than the reconnects.
	Sessions uint64
	// Failures counts the tries to connect that failed.
	Failures uint64
	// Blocks counts how often the broker said that it blocks publishing.
	Blocks uint64
	// Acked, Nacked, Returned, Rejected and Unknown count the confirms.
	Acked, Nacked, Returned, Rejected, Unknown uint64
}

// Stats returns a snapshot.
func (b *Broker) Stats() Stats {
	b.mu.Lock()
	defer b.mu.Unlock()
	snapshot := b.counts
	snapshot.InFlight = b.inUse
	snapshot.Failures = b.failures
	if b.session != nil {
		snapshot.Connected = true
		snapshot.Blocked = b.session.blockedNow()
	}
	return snapshot
}

func (s *Stats) count(confirms []reliable.Confirm) {
	for i := range confirms {
		switch confirms[i].Outcome {
		case reliable.Acked:
			s.Acked++
		case reliable.Nacked:
			s.Nacked++
		case reliable.Returned:
			s.Returned++
		case reliable.Rejected:
			s.Rejected++
		case reliable.Unknown:
			s.Unknown++
		}
	}
}
