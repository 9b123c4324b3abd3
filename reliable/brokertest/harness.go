package brokertest

import (
	"context"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/reliable"
)

// T is what a check needs of a test; *testing.T has it.
type T interface {
	require.TestingT
	Helper()
	Context() context.Context
	Cleanup(func())
	Logf(format string, args ...any)
}

var _ T = (*testing.T)(nil)

// Connection is what an adapter opens.
type Connection interface {
	reliable.Publisher
	reliable.ConfirmSource
	Close() error
}

// Options is what a check asks of a connection; zero fields leave the adapter's default.
type Options struct {
	// Window is how many unconfirmed attempts at most. An adapter without a window ignores it.
	Window int
	// ConfirmTimeout is how long an attempt may wait for its confirm, the time during which the broker is blocked
	// included. An adapter that cannot go so low uses its lowest.
	ConfirmTimeout time.Duration
}

// Harness connects the suite to a broker. Open, Topic and Received are required; a nil hook leaves out the checks that
// need it. Hooks fail the test themselves (t.Errorf, t.FailNow) when they cannot do their work.
type Harness struct {
	Features Features

	// Open returns a fresh connection; the suite closes it.
	Open func(t T, o Options) Connection
	// Topic returns the name of a fresh, empty topic that messages are routed to.
	Topic func(t T) string
	// Received takes messages off topic until want of them have come, then whatever else is there at that moment, and
	// returns all in the order in which they came. It gives up at some time and returns what it has; the suite says what is
	// missing. Metadata that belongs to Waybill is left out, as [reliable.EnvelopeOf] does. See [ReceivedBy].
	Received func(t T, topic string, want int) []reliable.Envelope

	// UnroutableTopic returns a topic that the broker can route nowhere. Needed for Features.Returns.
	UnroutableTopic func(t T) string
	// RefusingTopic returns a topic whose every message the broker refuses. Needed for Features.Nacks.
	RefusingTopic func(t T) string
	// Oversize returns a payload that is too large for this broker. Needed for Features.Rejects.
	Oversize func(t T) []byte
	// Poison returns an envelope for topic that makes the broker close the channel or the connection that it comes on.
	// Needed for Features.FindsPoison.
	Poison func(t T, topic string) reliable.Envelope

	// Cut breaks the network connection under c while it is in use; c is to recover by itself.
	Cut func(t T, c Connection)
	// Down makes the broker unreachable for all connections, until up is called. Connections recover by themselves.
	Down func(t T) (up func())
	// Block makes the broker take no more messages, without closing connections, until unblock is called: an alarm.
	Block func(t T) (unblock func())

	// Watermill returns a Watermill publisher of the adapter; the suite closes it.
	Watermill func(t T) message.Publisher

	// Patience is how long the suite waits for something that must happen. Default 90 s.
	Patience time.Duration
	// Volume is how many attempts the largest check makes. Default 20,000; less for brokers that need more than some
	// seconds for that.
	Volume int
}

// Features says what a broker and its adapter can do. Claim what is true: a claim is checked, the rest is logged as not
// claimed.
type Features struct {
	// Returns: an attempt to an unroutable topic is Returned. Without it an adapter may take such messages for acked.
	Returns bool
	// Nacks: the adapter tells a refusal by the broker from everything else.
	Nacks bool
	// Rejects: what can never be published is Rejected, and its neighbours are not harmed.
	Rejects bool
	// Order: messages of one publisher that are handed over one after the other arrive in that order, whatever their keys.
	Order bool
	// KeyOrder: the same for messages with the same topic and key. Order implies it.
	KeyOrder bool
	// Keys: the key arrives with the message.
	Keys bool
	// MaxPayload is the largest payload in bytes that the broker takes; 0 means that 1 MiB is no problem.
	MaxPayload int
	// Window: Options.Window is honoured, and a slot is free again once its confirm has been received, so that Publish
	// blocks when nobody reads.
	Window bool
	// FindsPoison: a poison attempt with Alone set ends Rejected.
	FindsPoison bool
	// MarksLost: the error of an attempt whose connection died wraps ErrConnectionLost.
	MarksLost bool
	// OutOfProcess: the broker keeps what it stores outside this process, whose memory can then stay flat.
	OutOfProcess bool
}

// claims lists the boolean features, for the log and for validation.
func (f Features) claims() []claim {
	return []claim{
		{"Returns", f.Returns}, {"Nacks", f.Nacks}, {"Rejects", f.Rejects}, {"Order", f.Order},
		{"KeyOrder", f.KeyOrder || f.Order}, {"Keys", f.Keys}, {"Window", f.Window}, {"FindsPoison", f.FindsPoison},
		{"MarksLost", f.MarksLost}, {"OutOfProcess", f.OutOfProcess},
	}
}

type claim struct {
	name string
	made bool
}
