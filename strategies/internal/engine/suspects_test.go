package engine

import (
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/waybillmq/waybill/reliable"
)

func TestSuspects_twoConnectionDeathsMakeASuspect(t *testing.T) {
	s, a := newSuspects(), attempt("a", 5)
	died := &reliable.Confirm{Err: fmt.Errorf("501 frame error: %w", reliable.ErrConnectionLost)}
	s.note(&a, died)
	assert.False(t, s.is("a"), "once may be anybody's fault")
	s.note(&a, died)
	assert.True(t, s.is("a"))
	s.note(&a, died)
	s.forget("a")
	assert.False(t, s.is("a"))
	assert.Empty(t, s.deaths)
}

func TestSuspects_onlyTheDeathOfAConnectionCounts(t *testing.T) {
	s, a := newSuspects(), attempt("a", 5)
	for _, c := range []reliable.Confirm{
		{Outcome: reliable.Acked}, {Outcome: reliable.Nacked, Err: reliable.ErrConnectionLost}, {Err: errors.New("no answer in time")}, {},
	} {
		s.note(&a, &c)
		s.note(&a, &c)
	}
	assert.Empty(t, s.deaths)
}

func TestSuspects_whatIsRememberedIsBounded(t *testing.T) {
	s, died := newSuspects(), &reliable.Confirm{Err: reliable.ErrConnectionLost}
	first := attempt("first", 10)
	s.note(&first, died)
	for i := range maxSuspects + 10 {
		a := reliable.Attempt{Envelope: reliable.Envelope{ID: reliable.ID(fmt.Sprint(i))}}
		s.note(&a, died)
	}
	assert.Len(t, s.deaths, maxSuspects)
	s.note(&first, died)
	assert.True(t, s.is("first"), "what is known already is still counted")
}

func TestSuspects_aTopicWhoseDestinationKillsConnectionsAcquitsTheOthers(t *testing.T) {
	s, died := newSuspects(), &reliable.Confirm{Err: reliable.ErrConnectionLost}
	for _, topic := range []string{"sick", "healthy"} {
		a := reliable.Attempt{Envelope: reliable.Envelope{ID: reliable.ID("of " + topic), Topic: topic}}
		s.note(&a, died)
		s.note(&a, died)
	}
	s.acquit("sick", true)
	assert.True(t, s.is("of sick"))
	assert.False(t, s.is("of healthy"))
}
