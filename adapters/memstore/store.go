package memstore

import (
	"errors"
	"sync"
	"time"

	"github.com/waybillmq/waybill/reliable"
)

var (
	_ reliable.Store         = (*Store)(nil)
	_ reliable.Transactor    = (*Store)(nil)
	_ reliable.Holder        = (*Store)(nil)
	_ reliable.Inspector     = (*Store)(nil)
	_ reliable.Purger        = (*Store)(nil)
	_ reliable.Elector       = (*Store)(nil)
	_ reliable.Pacer         = (*Store)(nil)
	_ reliable.Waker         = (*Store)(nil)
	_ reliable.Checker       = (*Store)(nil)
	_ reliable.Compensator   = (*Store)(nil)
	_ reliable.Operator      = (*Store)(nil)
	_ reliable.Inbox         = (*Store)(nil)
	_ reliable.Confirmations = (*Store)(nil)
	_ reliable.Marker        = (*Store)(nil)
	_ reliable.Withholder    = (*Store)(nil)
	_ reliable.Limited       = (*Store)(nil)
	_ reliable.Tx            = (*Tx)(nil)

	_ reliable.CompensationSettler = (*Tx)(nil)
)

// Store keeps envelopes in memory. It is safe for concurrent use; every operation is atomic.
type Store struct {
	limits reliable.Limits
	inject func(Op, []reliable.ID) Fault

	mu       sync.Mutex
	seq      int64
	rows     map[reliable.ID]*row
	ready    *queue // pending, keyed ones only while they are their key's head
	lanes    map[laneKey]*lane
	holds    map[string]*hold
	failed   map[string]*queue          // by topic, by the time when compensation is due
	final    map[reliable.Status]*queue // by when they were settled, for retention
	reserved map[reliable.ID]*Tx        // stored by transactions that are still open
	business map[string]any
	terms    map[string]term
	paces    map[string]time.Time // until when turns are booked
	wake     wakeUp

	inbox     map[reliable.Processed]time.Time // by when it was received
	receiving map[reliable.Processed]*Tx       // received by transactions that are still open
	processed map[reliable.Processed]time.Time // by when it was stored
	marks     map[reliable.Token]mark

	withheld map[reliable.ID]*withheld // by ticket
}

// Option configures a [Store].
type Option func(*Store) error

// WithLimits sets the sizes above which envelopes are refused; the default is [reliable.DefaultLimits]. Too small
// refuses what SQL stores accept; too large accepts what they refuse.
func WithLimits(limits reliable.Limits) Option {
	return func(s *Store) error {
		if min(limits.Payload, limits.Metadata, limits.MetadataPairs, limits.Topic, limits.Key, limits.ID) < 0 {
			return reliable.Invalid("WithLimits", "has a negative limit; 0 means no limit")
		}
		s.limits = limits
		return nil
	}
}

// New returns an empty store. It panics if options are contradictory: they are written by the same hand as the test.
func New(opts ...Option) *Store {
	s := &Store{
		limits:   reliable.DefaultLimits(),
		rows:     make(map[reliable.ID]*row),
		ready:    newQueue(byDue),
		lanes:    make(map[laneKey]*lane),
		holds:    make(map[string]*hold),
		failed:   make(map[string]*queue),
		final:    make(map[reliable.Status]*queue),
		reserved: make(map[reliable.ID]*Tx),
		business: make(map[string]any),
		terms:    make(map[string]term),
		paces:    make(map[string]time.Time),

		inbox:     make(map[reliable.Processed]time.Time),
		receiving: make(map[reliable.Processed]*Tx),
		processed: make(map[reliable.Processed]time.Time),
		marks:     make(map[reliable.Token]mark),

		withheld: make(map[reliable.ID]*withheld),
	}
	var errs []error
	for _, opt := range opts {
		errs = append(errs, opt(s))
	}
	if err := errors.Join(errs...); err != nil {
		panic("memstore: " + err.Error())
	}
	return s
}

// Limits returns the sizes above which envelopes are refused.
func (s *Store) Limits() reliable.Limits { return s.limits }

// row is one envelope at rest. All fields are guarded by Store.mu once the row is in Store.rows.
type row struct {
	env    reliable.Envelope
	seq    int64 // order of storing
	turn   int64 // order within its key
	status reliable.Status

	in    *queue // where it stands
	index int    // its place in that queue
	due   time.Time

	fence           int64
	attempts        int
	failures        int
	leased          bool   // a claim has not been settled yet
	worker          string // who leased it last
	mayHaveBeenSent bool
	lateAck         bool
	compensating    bool // compensation has begun
	storedAt        time.Time
	failingSince    time.Time
	settledAt       time.Time // when the status became final
	ackedBy         int64     // the fence whose ack was recorded
	compensated     compensated
	last            verdict // the newest settlement that was applied
	past            map[int64]verdict
	history         []entry
	decisions       []entry
}

// verdict is a settlement as far as it takes to recognise it when it is repeated.
type verdict struct {
	fence   int64
	sent    bool
	outcome reliable.Outcome
	to      reliable.Status
	charge  bool
}

type entry struct {
	kind    reliable.HistoryKind
	fence   int64
	outcome reliable.Outcome
	charged bool
	action  reliable.Action
	by      string
	reason  string
	at      time.Time
}

// attempt is the row as the engine sees it.
func (r *row) attempt(now time.Time) reliable.Attempt {
	a := reliable.Attempt{
		Envelope:        r.env,
		Fence:           r.fence,
		Attempts:        r.attempts,
		Failures:        r.failures,
		MayHaveBeenSent: r.mayHaveBeenSent,
		Age:             now.Sub(r.storedAt),
	}
	if !r.failingSince.IsZero() {
		a.FailingFor = now.Sub(r.failingSince)
	}
	return a
}

// lease takes the row until now+lease. A lease that was still on it has run out without an answer.
func (r *row) lease(now time.Time, worker string, lease time.Duration) {
	if r.leased {
		r.mayHaveBeenSent = true
	}
	r.fence++
	r.attempts++
	r.leased = true
	r.worker = worker
	r.due = now.Add(lease)
}

// record appends to the history, of which the newest are kept.
func (r *row) record(e entry) {
	if len(r.history) >= reliable.MaxHistory {
		r.history = r.history[len(r.history)-reliable.MaxHistory+1:]
	}
	r.history = append(r.history, e)
}

// moveTo takes the row out of the queue it stands in and puts it into q; nil means none.
func (r *row) moveTo(q *queue) {
	if r.in != nil {
		r.in.remove(r)
	}
	if q != nil {
		q.push(r)
	}
}

// finish gives the row a final status.
func (s *Store) finish(r *row, status reliable.Status, now time.Time) {
	r.status = status
	r.leased = false
	r.settledAt = now
	settled := s.final[status]
	if settled == nil {
		settled = newQueue(bySettled)
		s.final[status] = settled
	}
	r.moveTo(settled)
	s.release(r, now)
}

const maxWorkerBytes = 128

func checkWorker(worker string) error {
	if len(worker) > maxWorkerBytes {
		return reliable.Invalid("Worker", "has %d bytes, at most %d are allowed", len(worker), maxWorkerBytes)
	}
	return nil
}
