// Package rabbitmqbroker publishes to RabbitMQ, and consumes from it as a Watermill subscriber.
//
// What it promises: every attempt that was handed over has exactly one confirm, whatever happens to the broker and the
// connection. It is Acked only if the broker took responsibility for the message and routed it to a queue: messages are
// persistent and mandatory, and one that comes back is Returned, although RabbitMQ acknowledges it as well. A refusal is
// told from a lost connection: only a nack on a live channel is Nacked, everything without an answer is Unknown. No call
// outlives its context, not even while the broker reads nothing from its socket.
//
// How: one connection with one channel in confirm mode, a session. What is in flight belongs to the session that it was
// written on; a new connection is a new session, with delivery tags of its own, so that a tag can never match a message of
// an earlier one. A session whose oldest message stays unanswered past the confirm timeout is abandoned. The next one is
// opened by itself, with jittered exponential backoff. Consumers have connections of their own, see [Subscriber].
//
// An error that closes the channel (an exchange that does not exist, a message that is too large) takes the neighbours with
// it: they are Unknown, with [reliable.ErrConnectionLost]. An attempt with Alone set goes over a second connection, on which
// one is in flight at a time, and there the broker's close code decides: Returned for what is missing or forbidden, Rejected
// for what can never be sent.
//
// Topics become exchanges, routing keys and queues through the [amqp.Config] of watermill-amqp, and messages become what
// its marshaler makes of them, so plain watermill-amqp publishers and subscribers interoperate with this package. The
// MessageId property is always the envelope's ID. Of the config, Publish.Mandatory, ConfirmDelivery and ChannelPoolSize are
// not used: confirms and mandatory are always on.
//
// [amqp.Config]: https://pkg.go.dev/github.com/ThreeDotsLabs/watermill-amqp/v2/pkg/amqp#Config
package rabbitmqbroker
