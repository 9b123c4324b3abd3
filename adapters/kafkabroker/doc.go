// Package kafkabroker publishes to Apache Kafka through franz-go, and consumes from it through watermill-kafka
// ([Broker.Subscribe]) or, where many messages of a partition are to be handled at once, through franz-go ([Broker.Subscriber]).
//
// What it promises. Every attempt that [Broker.Publish] hands over has exactly one confirm, whatever happens to the brokers
// and the connections. Acked means that all in-sync replicas of the partition have the record (acks=all, idempotent). That
// is as durable as the topic is configured: with replication factor 3 and min.insync.replicas 2 it survives the loss of any
// one broker, with one replica it does not. Returned means that the topic or partition does not exist, which was asked
// several times, that its name is no name of a topic, or that writing to it is not permitted. Rejected means that the record
// can never be published: too large, or refused by the topic's rules when it was in a batch of its own. Nacked means that
// the broker refused the batch for another reason. Everything else is Unknown: no verdict in time, a broker's own time-out
// after the append, the end of this client.
//
// Records with the same topic and key stay in the order in which they were handed over, across the end and the restart of a
// broker too: the key decides the partition, and franz-go keeps the order of a partition.
//
// How. Records go to a franz-go client, which batches them by partition, sends again by itself what a broker did not
// answer, and is kept by its sequence numbers from writing twice. What has no verdict after the confirm timeout is given up
// and Unknown, with whatever waits for the same partition. While no broker can be reached, Publish waits instead of
// filling the client's buffer. A repeated attempt of an Unknown one can duplicate; the client's own repeats cannot.
//
// Kafka answers for a batch, not for a record: one record that the topic's rules refuse takes its neighbours with it.
// Those are Unknown with [reliable.ErrConnectionLost], although nothing of them was written, so that the engine tries each
// with Alone set; an attempt with Alone set travels in a batch of its own, over connections of its own, and there the
// broker's refusal counts as Rejected.
//
// Messages become what a marshaler of watermill-kafka makes of them, so plain watermill-kafka publishers and subscribers
// interoperate with this package. The envelope's Key is the record's key. Keys are hashed as Kafka's own clients hash them
// (murmur2), which is not how watermill-kafka does: see [WithWatermillPartitioning].
//
// A subscriber commits no position above a message that was not acked, whatever comes back in which order; so whoever dies,
// closes, or gives a partition away loses nothing, and what was not acked comes again.
//
// Kafka has no delayed delivery.
package kafkabroker
