package kafkabroker

import (
	"context"
	"fmt"
	"hash/fnv"
	"log/slog"
	"net"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	// backoffMin and backoffMax bound the pauses between two tries of one thing.
	backoffMin = 50 * time.Millisecond
	backoffMax = time.Second
	// confirmMargin is how much later than its time a verdict can be on a busy machine.
	confirmMargin = 2 * time.Second

	// unknownTopicTries is how often the cluster must say that it does not know a topic; they are metadataAge apart.
	unknownTopicTries = 2
	metadataAge       = 250 * time.Millisecond
)

// connecting is how clients reach the cluster. They connect when they are first used.
func (s *settings) connecting() []kgo.Opt {
	opts := []kgo.Opt{
		kgo.SeedBrokers(s.brokers...),
		kgo.ClientID(s.clientID),
		kgo.Dialer(s.connect),
		kgo.RequestTimeoutOverhead(s.step()),
		kgo.RetryBackoffFn(backoff),
		kgo.RetryTimeout(s.confirmTimeout),
		kgo.MetadataMinAge(metadataAge),
		kgo.WithLogger(clientLog{s.logger}),
		kgo.WithHooks(connectionLog{s}),
	}
	if s.login != nil {
		opts = append(opts, kgo.SASL(s.login.sasl()))
	}
	return opts
}

// newClient makes a franz-go client that gives up what has no verdict after the confirm timeout. Acks=all and idempotent
// writes are its defaults.
func (s *settings) newClient() (*kgo.Client, error) {
	client, err := kgo.NewClient(append(s.connecting(),
		kgo.RecordPartitioner(s.partitioner()),
		kgo.ProducerBatchMaxBytes(int32(s.maxMessage)), //nolint:gosec // at most 1 GiB
		kgo.ProducerLinger(s.linger),
		kgo.MaxBufferedRecords(2*s.window), // never reached: our own window is what waits
		kgo.ProduceRequestTimeout(s.step()),
		kgo.UnknownTopicRetries(unknownTopicTries),
		// Both together: an attempt is given up in time even if a request that may have been written got no answer. Its
		// repetition can then duplicate, which is what Unknown says.
		kgo.RecordDeliveryTimeout(s.confirmTimeout),
		kgo.AllowIdempotentProduceCancellation(),
	)...)
	if err != nil {
		return nil, fmt.Errorf("make a client: %w", err)
	}
	return client, nil
}

func (s *settings) partitioner() kgo.Partitioner {
	if !s.asWatermill {
		return kgo.UniformBytesPartitioner(64<<10, true, true, nil)
	}
	return kgo.StickyKeyPartitioner(kgo.SaramaCompatHasher(func(key []byte) uint32 {
		hash := fnv.New32a()
		_, _ = hash.Write(key) // never fails
		return hash.Sum32()
	}))
}

func backoff(failures int) time.Duration {
	return min(backoffMin<<min(failures, 5), backoffMax)
}

// clientLog passes on what franz-go warns of.
type clientLog struct{ logger *slog.Logger }

func (clientLog) Level() kgo.LogLevel { return kgo.LogLevelWarn }

func (l clientLog) Log(level kgo.LogLevel, msg string, keyvals ...any) {
	severity := slog.LevelInfo
	if level == kgo.LogLevelError {
		severity = slog.LevelWarn
	}
	l.logger.Log(context.Background(), severity, "kafkabroker: the client reports a problem",
		append([]any{"problem", msg}, keyvals...)...)
}

// connectionLog hears of connections. A broker's temporary failure to connect is no news: what comes of it is.
type connectionLog struct{ s *settings }

func (l connectionLog) OnBrokerConnect(meta kgo.BrokerMetadata, _ time.Duration, _ net.Conn, err error) {
	if err != nil {
		l.s.logger.Debug("kafkabroker: cannot connect", "broker", addressOf(meta), "error", err)
		return
	}
	l.s.logger.Debug("kafkabroker: connected", "broker", addressOf(meta))
	if l.s.hooks.Connected != nil {
		l.s.hooks.Connected(addressOf(meta))
	}
}

func (l connectionLog) OnBrokerDisconnect(meta kgo.BrokerMetadata, _ net.Conn) {
	l.s.logger.Debug("kafkabroker: disconnected", "broker", addressOf(meta))
	if l.s.hooks.Disconnected != nil {
		l.s.hooks.Disconnected(addressOf(meta))
	}
}

func addressOf(meta kgo.BrokerMetadata) string {
	return net.JoinHostPort(meta.Host, strconv.Itoa(int(meta.Port)))
}
