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
	deaths map[reliable.ID]uint8
}

func newSuspects() *suspects { return &suspects{deaths: make(map[reliable.ID]uint8)} }

// note counts a connection death.
func (s *suspects) note(a *reliable.Attempt, c *reliable.Confirm) {
	if c.Outcome != reliable.Unknown || !errors.Is(c.Err, reliable.ErrConnectionLost) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	n, known := s.deaths[a.ID]
	if known && n < suspectDeaths || !known && len(s.deaths) < maxSuspects {
		s.deaths[a.ID] = n + 1
	}
}

// is reports whether the envelope is to be published alone.
func (s *suspects) is(id reliable.ID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.deaths[id] >= suspectDeaths
}

// forget drops an envelope that is settled for good.
func (s *suspects) forget(id reliable.ID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.deaths, id)
}
