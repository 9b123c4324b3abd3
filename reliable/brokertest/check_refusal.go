package brokertest

import (
	"github.com/waybillmq/waybill/reliable"
)

var refusalChecks = []entry{
	{
		name:    "an unroutable message is returned and never acked",
		applies: func(h *Harness) bool { return h.Features.Returns },
		run: func(tr *trial) {
			tr.refuses(tr.UnroutableTopic(tr.T), reliable.Returned)
		},
	},
	{
		name:    "a refused message is nacked",
		applies: func(h *Harness) bool { return h.Features.Nacks },
		run: func(tr *trial) {
			tr.refuses(tr.RefusingTopic(tr.T), reliable.Nacked)
		},
	},
	{
		name:    "an oversize message is rejected and its neighbours are not harmed",
		applies: func(h *Harness) bool { return h.Features.Rejects },
		run:     oversizeIsRejected,
	},
	{
		name:    "each of a mixed batch has its own outcome",
		applies: func(h *Harness) bool { return h.Features.Returns || h.Features.Nacks || h.Features.Rejects },
		run:     mixedBatch,
	},
	{
		name:    "the largest payload that the limits allow is not rejected",
		applies: func(h *Harness) bool { return h.Features.Rejects },
		run:     limitsAreHonest,
	},
}

// refuses publishes to bad among routable neighbours, several times.
func (tr *trial) refuses(bad string, want reliable.Outcome) {
	tr.Helper()
	s := tr.open(Options{})
	batch := attempts(tr.Topic(tr.T), 60)
	var good, refused []reliable.Attempt
	for i := range batch {
		if i%3 == 1 {
			batch[i].Topic = bad
			refused = append(refused, batch[i])
		} else {
			good = append(good, batch[i])
		}
	}
	s.publish(batch...)
	s.expect(refused, want)
	s.expect(good, reliable.Acked)
	tr.arrive(good)

	again := attempt(bad) // alone, and with nobody else around
	again.Alone = true
	s.publish(again)
	s.expect([]reliable.Attempt{again}, want)
}

func oversizeIsRejected(tr *trial) {
	s := tr.open(Options{})
	batch := attempts(tr.Topic(tr.T), 21)
	batch[10].Payload = tr.Oversize(tr.T)
	good := append(append([]reliable.Attempt{}, batch[:10]...), batch[11:]...)
	s.publish(batch...)
	s.expect(batch[10:11], reliable.Rejected)
	s.expect(good, reliable.Acked)
	tr.arrive(good)
}

func mixedBatch(tr *trial) {
	s := tr.open(Options{Window: 8})
	batch := attempts(tr.Topic(tr.T), 40)
	want := make([]reliable.Outcome, len(batch))
	var bad []func(i int)
	if tr.Features.Returns {
		topic := tr.UnroutableTopic(tr.T)
		bad = append(bad, func(i int) { batch[i].Topic, want[i] = topic, reliable.Returned })
	}
	if tr.Features.Nacks {
		topic := tr.RefusingTopic(tr.T)
		bad = append(bad, func(i int) { batch[i].Topic, want[i] = topic, reliable.Nacked })
	}
	if tr.Features.Rejects {
		payload := tr.Oversize(tr.T)
		bad = append(bad, func(i int) { batch[i].Payload, want[i] = payload, reliable.Rejected })
	}
	var good []reliable.Attempt
	for i := range batch {
		if i%3 == 0 {
			bad[i/3%len(bad)](i)
			continue
		}
		want[i] = reliable.Acked
		good = append(good, batch[i])
	}
	s.publish(batch...)
	for i, confirm := range s.confirmsOf(batch...) {
		if confirm.Outcome != want[i] {
			fail(tr, "attempt %d of a mixed batch: %v (%v), want %v", i, confirm.Outcome, confirm.Err, want[i])
		}
	}
	tr.arrive(good)
}

// limitsAreHonest tries the limit itself, where it is small enough to be tried.
func limitsAreHonest(tr *trial) {
	const largest = 8 << 20
	s := tr.open(Options{})
	limited, ok := reliable.Ability[reliable.Limited](s.conn)
	if !ok || limited.Limits().Payload == 0 || limited.Limits().Payload > largest {
		tr.Logf("not checked: no limit of the payload below %d bytes", largest)
		return
	}
	limit := limited.Limits().Payload
	topic := tr.Topic(tr.T)
	fits, exceeds := attempt(topic), attempt(topic)
	fits.Payload, exceeds.Payload = make([]byte, limit), make([]byte, limit+1)
	s.send(fits)
	s.publish(exceeds)
	s.expect([]reliable.Attempt{exceeds}, reliable.Rejected)
	tr.arrive([]reliable.Attempt{fits})
}
