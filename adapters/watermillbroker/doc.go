// Package watermillbroker makes a broker of any Watermill publisher, for those that have no adapter of their own.
//
// What it promises: each attempt that was handed over has exactly one confirm. A nil error of the publisher is its ack, so
// the confirm is worth what that nil is worth. Attempts with the same topic and key, and with [WithConcurrency] of 1 all
// attempts, reach the publisher in the order in which one caller handed them over. Memory and goroutines are bounded, even
// if the publisher hangs for ever.
//
// What it cannot know, because message.Publisher does not say:
//
//   - Whether the broker has the message when Publish returns nil. Many publishers write to a socket and return: configure
//     yours to wait for the broker's confirm (watermill-amqp: Publish.ConfirmDelivery; watermill-kafka: a SyncProducer with
//     acks=all), or what is settled as confirmed may be lost.
//   - Whether it was routed. watermill-amqp returns nil for a message that no queue took. Such a message is confirmed
//     here, where an adapter of its own would say [reliable.Returned].
//   - What an error means. A definite refusal looks like a lost connection, so every error is [reliable.Unknown], is not
//     charged, and the envelope is tried for ever, unless [WithClassifier] can tell. An error that is a
//     [*reliable.PublishError] says its outcome itself.
//   - When a call that hangs will end. After the timeout the outcome is Unknown although the call still runs, and may still
//     succeed. Until it has returned it keeps its place among the concurrent calls, and further attempts with its ID, or its
//     topic and key, are Unknown without a call. When all places hang, Publish blocks until its context ends.
//   - How to send on a connection of its own. An attempt with Alone set is sent while no other call runs that has not
//     timed out.
package watermillbroker
