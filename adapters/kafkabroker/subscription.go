package kafkabroker

import (
	"context"
	"fmt"
	"sync"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/twmb/franz-go/pkg/kgo"
)

// subscription is one call of Subscribe: a member of the group. One goroutine takes records from the cluster and gives them
// to the partitions, each of which hands its own over.
type subscription struct {
	s      *Subscriber
	topic  string
	client *kgo.Client
	out    chan *message.Message

	caller context.Context //nolint:containedctx // parent of the messages' own
	ctx    context.Context //nolint:containedctx // ends with the caller's, and with Close
	stop   context.CancelFunc

	mu         sync.Mutex
	partitions map[int32]*partition
}

func (s *Subscriber) newSubscription(caller context.Context, topic string) (*subscription, error) {
	sub := &subscription{s: s, topic: topic, out: make(chan *message.Message), caller: caller, partitions: make(map[int32]*partition)}
	client, err := kgo.NewClient(append(s.connecting(),
		kgo.ConsumerGroup(s.group),
		kgo.ConsumeTopics(topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.AutoCommitMarks(),
		kgo.AutoCommitInterval(commitEvery),
		kgo.BlockRebalanceOnPoll(), // what was polled is with its partition before that can go
		kgo.OnPartitionsRevoked(sub.revoked),
		kgo.OnPartitionsLost(sub.lost),
	)...)
	if err != nil {
		return nil, fmt.Errorf("make a client: %w", err)
	}
	sub.client = client
	ctx, cancel := context.WithCancel(caller)
	detach := context.AfterFunc(s.closing, cancel)
	sub.ctx, sub.stop = ctx, func() {
		detach()
		cancel()
	}
	return sub, nil
}

// run serves the subscription until it ends.
func (sub *subscription) run() {
	defer close(sub.out)
	defer sub.client.CloseAllowingRebalance()
	defer sub.stop()
	for sub.ctx.Err() == nil {
		fetches := sub.client.PollFetches(sub.ctx)
		fetches.EachError(func(_ string, number int32, err error) {
			if sub.ctx.Err() == nil {
				sub.s.logger.Warn("kafkabroker: cannot consume, will go on trying", "topic", sub.topic, "partition", number, "error", err)
			}
		})
		fetches.EachPartition(func(f kgo.FetchTopicPartition) {
			if len(f.Records) > 0 {
				sub.partition(f.Partition).add(f.Records)
			}
		})
		sub.client.AllowRebalance()
	}
	sub.mu.Lock()
	leaving := make([]int32, 0, len(sub.partitions))
	for number := range sub.partitions {
		leaving = append(leaving, number)
	}
	sub.mu.Unlock()
	sub.revoked(context.Background(), sub.client, map[string][]int32{sub.topic: leaving})
}

// partition returns the one with a number, which begins to hand over if it is new.
func (sub *subscription) partition(number int32) *partition {
	sub.mu.Lock()
	defer sub.mu.Unlock()
	p := sub.partitions[number]
	if p == nil {
		p = newPartition(sub, number)
		sub.partitions[number] = p
		p.handling.Go(p.run)
	}
	return p
}

// revoked waits for what is with the handler, and commits how far that came, before other members get these partitions.
func (sub *subscription) revoked(ctx context.Context, client *kgo.Client, gone map[string][]int32) {
	var waiting sync.WaitGroup
	for _, p := range sub.taken(gone) {
		waiting.Go(func() { p.drain(sub.s.drainTimeout) })
	}
	waiting.Wait()
	ctx, cancel := context.WithTimeout(ctx, sub.s.step())
	defer cancel()
	if err := client.CommitMarkedOffsets(ctx); err != nil {
		sub.s.logger.Warn("kafkabroker: cannot commit positions, so messages will come again", "topic", sub.topic, "error", err)
	}
}

// lost forgets partitions that other members have already.
func (sub *subscription) lost(_ context.Context, _ *kgo.Client, gone map[string][]int32) {
	for _, p := range sub.taken(gone) {
		p.drain(0)
	}
}

// taken takes partitions off the subscription.
func (sub *subscription) taken(gone map[string][]int32) []*partition {
	sub.mu.Lock()
	defer sub.mu.Unlock()
	var taken []*partition
	for _, number := range gone[sub.topic] {
		if p := sub.partitions[number]; p != nil {
			taken = append(taken, p)
			delete(sub.partitions, number)
		}
	}
	return taken
}
