package engine

import (
	"errors"
	"sync"

	"github.com/waybillmq/waybill/reliable"
)

const (
	// suspectDeaths is after how many connection deaths in flight an attempt is published alone.
	suspectDeaths = 2
	// maxSuspects bounds what is remembered; beyond it a poison message is found a little later.
	maxSuspects = 100_000
)

// suspects remembers which envelopes were in flight when a connection died. A message that kills its connection (a header
// larger than a frame, say) would otherwise stay unknown for ever, with all its neighbours.
type suspects struct {
	mu     sync.Mutex
	deaths map[reliable.ID]suspicion
}

type suspicion struct {
	topic  string
	deaths uint8
}

func newSuspects() *suspects { return &suspects{deaths: make(map[reliable.ID]suspicion)} }

// note counts a connection death.
func (s *suspects) note(a *reliable.Attempt, c *reliable.Confirm) {
	if c.Outcome != reliable.Unknown || !errors.Is(c.Err, reliable.ErrConnectionLost) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	known := s.deaths[a.ID]
	if known.deaths > 0 && known.deaths < suspectDeaths || known.deaths == 0 && len(s.deaths) < maxSuspects {
		s.deaths[a.ID] = suspicion{topic: a.Topic, deaths: known.deaths + 1}
	}
}

// is reports whether the envelope is to be published alone.
func (s *suspects) is(id reliable.ID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.deaths[id].deaths >= suspectDeaths
}

// forget drops an envelope that is settled for good.
func (s *suspects) forget(id reliable.ID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.deaths, id)
}

// acquit drops the suspicion against all envelopes of a topic, or against all but those of it: it turned out that their
// destination is what connections died of, and it is mended, or kept apart. What is guilty in its own right is found again.
func (s *suspects) acquit(topic string, others bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, suspected := range s.deaths {
		if (suspected.topic == topic) != others {
			delete(s.deaths, id)
		}
	}
}
