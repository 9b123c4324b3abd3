// Package natsbroker publishes to NATS JetStream and consumes from it.
//
// What it promises. Every attempt that [Broker.Publish] hands over has exactly one confirm, whatever happens to the
// connection. Acked means that a stream stored the message, or held it already within its deduplication window.
// Returned means that no stream takes the subject, which was asked of the server, or that publishing to it is not
// permitted. Rejected means that the message itself can never be stored: larger than the server or the stream allows,
// or a topic that is no subject. Nacked means that the stream refused it: full, sealed, out of storage. Everything else
// is Unknown: the connection died with the attempt in flight, a stream without a leader, no answer in time. A late
// answer to an attempt that was given up changes nothing.
//
// What it does not promise. An ack of a server with the default settings means that the message is in the operating
// system's page cache: it survives the end of the server's process, not the loss of power of every replica's machine. A
// stream with interest retention acks what nobody has subscribed to, and stores nothing. A subject that ordinary NATS
// subscribers listen to but no stream takes is answered by nobody: Unknown, after the confirm timeout.
//
// Duplicates. Each message carries Nats-Msg-Id, so a repeated attempt within the stream's deduplication window (2
// minutes unless the stream says otherwise) is acked and not stored twice, across restarts of the server too. The
// window is counted per subject by default, see [WithDeduplication].
//
// On the wire a message is what watermill-nats/v2's NATSMarshaler writes: its subscribers read ours, and ours theirs.
// Of the metadata, what a NATS header cannot carry unchanged (line breaks, spaces at the ends, names that are no header
// names) and what JetStream would take for a command (names that begin with Nats-) travels together in one header; see
// [Unmarshal]. [Broker.Subscriber] is this package's own subscriber, with durable pull consumers.
//
// A user whose rights are limited needs: publishing to the subjects, to $JS.API.STREAM.NAMES (without it an absent
// stream is Unknown instead of Returned) and to $JS.API.INFO (for [Broker.Ping]); subscribing to _INBOX.>.
//
// The package embedded, below this one, runs a NATS server inside the process.
package natsbroker
