package kafkabroker

import (
	"context"
	"sync"
	"time"

	"github.com/IBM/sarama"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	// A partition that has more than fullAt bytes waiting fetches nothing until it has less than emptyAt: what the client
	// has fetched of it meanwhile is fetched again, which large steps make rare.
	fullAt  = 2 << 20
	emptyAt = 256 << 10

	unreadablePause = time.Second
)

// partition hands over the messages of one partition, the oldest first, as many as may be with the handler.
type partition struct {
	sub    *subscription
	number int32

	ctx      context.Context //nolint:containedctx // ends when it begins to drain
	stop     context.CancelFunc
	handling sync.WaitGroup // run, and what is with the handler
	over     chan struct{}  // closed once acks no longer count

	mu      sync.Mutex
	changed *sync.Cond
	waiting []*kgo.Record
	bytes   int         // of what is waiting
	paused  bool        // fetches nothing
	window  []*delivery // from the oldest that is not acked on
}

// delivery is a record that is with the handler, or was.
type delivery struct {
	record *kgo.Record
	acked  bool
}

func newPartition(sub *subscription, number int32) *partition {
	p := &partition{sub: sub, number: number, over: make(chan struct{})}
	p.changed = sync.NewCond(&p.mu)
	p.ctx, p.stop = context.WithCancel(sub.ctx)
	context.AfterFunc(p.ctx, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.changed.Broadcast()
	})
	return p
}

// add takes records that follow those it has.
func (p *partition) add(records []*kgo.Record) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.waiting = append(p.waiting, records...)
	for _, record := range records {
		p.bytes += sizeOf(record)
	}
	if p.bytes > fullAt && !p.paused {
		p.paused = true
		p.sub.client.PauseFetchPartitions(map[string][]int32{p.sub.topic: {p.number}})
	}
	p.changed.Signal()
}

// run hands over until the partition drains.
func (p *partition) run() {
	for {
		d := p.next()
		if d == nil {
			return
		}
		msg, cancel := p.read(d.record)
		if msg == nil {
			return
		}
		if !p.offer(msg) {
			cancel()
			return
		}
		p.handling.Go(func() { p.await(d, msg, cancel) })
	}
}

// next waits until a record may be handed over; nil once the partition drains.
func (p *partition) next() *delivery {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.ctx.Err() == nil && (len(p.waiting) == 0 || len(p.window) >= p.sub.s.concurrency) {
		p.changed.Wait()
	}
	if p.ctx.Err() != nil {
		return nil
	}
	d := &delivery{record: p.waiting[0]}
	p.waiting[0] = nil
	p.waiting = p.waiting[1:]
	p.bytes -= sizeOf(d.record)
	if p.paused && p.bytes < emptyAt {
		p.paused = false
		p.resume()
	}
	p.window = append(p.window, d)
	return d
}

func (p *partition) resume() {
	p.sub.client.ResumeFetchPartitions(map[string][]int32{p.sub.topic: {p.number}})
}

// read makes the message of a record, until it can; nil once the partition drains.
func (p *partition) read(record *kgo.Record) (*message.Message, context.CancelFunc) {
	for {
		msg, err := p.sub.s.marshaler.Unmarshal(consumed(record))
		if err == nil {
			ctx, cancel := context.WithCancel(p.sub.caller) // draining leaves a handler the time to finish
			msg.SetContext(ctx)
			return msg, cancel
		}
		p.sub.s.logger.Error("kafkabroker: cannot read a record, trying again",
			"topic", p.sub.topic, "partition", p.number, "offset", record.Offset, "error", err)
		if !p.pause(unreadablePause) {
			return nil, nil
		}
	}
}

// consumed is a record as watermill-kafka's marshalers take it.
func consumed(record *kgo.Record) *sarama.ConsumerMessage {
	msg := &sarama.ConsumerMessage{
		Topic: record.Topic, Partition: record.Partition, Offset: record.Offset, Timestamp: record.Timestamp,
		Key: record.Key, Value: record.Value, Headers: make([]*sarama.RecordHeader, len(record.Headers)),
	}
	headers := make([]sarama.RecordHeader, len(record.Headers))
	for i := range record.Headers {
		headers[i] = sarama.RecordHeader{Key: []byte(record.Headers[i].Key), Value: record.Headers[i].Value}
		msg.Headers[i] = &headers[i]
	}
	return msg
}

// offer hands a message over; false if the partition drains first.
func (p *partition) offer(msg *message.Message) bool {
	select {
	case p.sub.out <- msg:
		return true
	case <-p.ctx.Done():
		return false
	}
}

// pause waits; false if the partition drains first.
func (p *partition) pause(wait time.Duration) bool {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-p.ctx.Done():
		return false
	}
}

// await waits for the handler's ack of a message, which comes again after each nack.
func (p *partition) await(d *delivery, msg *message.Message, cancel context.CancelFunc) {
	for {
		select {
		case <-msg.Acked():
			cancel()
			p.ack(d)
			return
		case <-msg.Nacked():
		case <-p.over:
			cancel()
			return
		}
		cancel()
		if !p.pause(p.sub.s.nackDelay) {
			return
		}
		if msg, cancel = p.read(d.record); msg == nil {
			return
		}
		if !p.offer(msg) {
			cancel()
			return
		}
	}
}

// ack moves the position past all that is acked without a gap.
func (p *partition) ack(d *delivery) {
	p.mu.Lock()
	defer p.mu.Unlock()
	d.acked = true
	var last *kgo.Record
	done := 0
	for done < len(p.window) && p.window[done].acked {
		last = p.window[done].record
		p.window[done] = nil
		done++
	}
	if last == nil {
		return
	}
	p.window = p.window[done:]
	select {
	case <-p.over: // the position is another member's
		return
	default:
	}
	p.sub.client.MarkCommitRecords(last)
	p.changed.Signal()
}

// drain hands nothing more over, and waits for what is with the handler; acks that come later do not count.
func (p *partition) drain(timeout time.Duration) {
	p.stop()
	done := make(chan struct{})
	go func() {
		p.handling.Wait()
		close(done)
	}()
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
	}
	p.mu.Lock() // no ack is half way
	close(p.over)
	if p.paused { // the client remembers it, even if the partition comes back
		p.paused = false
		p.resume()
	}
	p.mu.Unlock()
	<-done
}
