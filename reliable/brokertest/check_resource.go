package brokertest

import (
	"runtime"
	"time"

	"go.uber.org/goleak"

	"github.com/waybillmq/waybill/reliable"
)

var resourceChecks = []entry{
	{name: "no goroutine is left after close", run: noGoroutineLeft},
	{
		name:    "memory stays flat however much is published",
		applies: func(h *Harness) bool { return h.Features.OutOfProcess },
		run:     memoryStaysFlat,
	},
}

func noGoroutineLeft(tr *trial) {
	topic := tr.Topic(tr.T)
	warm := tr.open(Options{}) // what the client library starts once and keeps
	warm.send(attempt(topic))
	warm.close()
	warm.drain()

	before := goleak.IgnoreCurrent()
	for range 3 {
		s := tr.open(Options{})
		s.send(attempts(topic, 50)...)
		s.publish(attempts(topic, 50)...)
		s.close()
		s.drain()
	}
	var leak error
	for deadline := time.Now().Add(tr.Patience); ; time.Sleep(pause) { // goroutines end without a signal
		if leak = goleak.Find(before); leak == nil {
			return
		}
		if time.Now().After(deadline) {
			fail(tr, "after Close and io.EOF: %v", leak)
		}
	}
}

func memoryStaysFlat(tr *trial) {
	const (
		rounds, batchSize, payload = 40, 25, 64 << 10
		allowed                    = rounds * batchSize * payload / 4
	)
	s := tr.openUnread(Options{Window: 50})
	topic := tr.Topic(tr.T)
	round := func() {
		batch := attempts(topic, batchSize)
		for i := range batch {
			batch[i].Payload = make([]byte, payload)
		}
		s.publish(batch...)
		for s.count() < batchSize {
			if _, err := s.receive(tr.Context(), receiveLimit); err != nil {
				fail(tr, "Receive: %v", err)
			}
		}
		s.expect(batch, reliable.Acked)
		s.settleBooks()
	}
	round()
	before := heap()
	for range rounds {
		round()
	}
	if after := heap(); after > before+allowed {
		fail(tr, "the heap grew from %d to %d KiB over %d messages of %d KiB", before>>10, after>>10,
			rounds*batchSize, payload>>10)
	}
}

// settleBooks forgets attempts with their confirms, once all is as it should be.
func (s *session) settleBooks() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for key := range s.confirms {
		if s.handed[key] {
			delete(s.handed, key)
			delete(s.confirms, key)
		}
	}
}

func heap() uint64 {
	runtime.GC()
	runtime.GC() // what finalizers released
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return stats.HeapAlloc
}
