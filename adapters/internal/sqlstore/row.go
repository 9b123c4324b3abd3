package sqlstore

import (
	"math"
	"time"

	"github.com/waybillmq/waybill/reliable"
)

const (
	// Parked is the due of an envelope that waits behind the head of its key.
	Parked = int64(math.MaxInt64)
	// HeldBase plus the slot of a hold is the due of the envelopes that wait behind it.
	HeldBase = int64(1) << 62
)

// The bits of the column flags.
const (
	flagLeased          = 1 << iota // a claim, or a compensation's, has not been settled yet
	flagMayHaveBeenSent             // an attempt ended unknown, or its lease ran out
	flagLateAck                     // acked after compensation had begun
	flagCompensating                // compensation has begun
	flagHistory                     // there are rows in the history
	flagDecided                     // there are decisions of people
)

// columns are those of the outbox that make up a row, in the order in which scan reads them.
const columns = `id, topic, okey, metadata, size, status, due, stored_at, fence, attempts, failures, failing_since, flags,
  deadline, acked_by, worker`

// row is a row of the outbox. Times are microseconds since 1970 on the database's clock.
type row struct {
	id, topic, key string
	metadata       []byte
	payload        []byte // nil if it was not asked for
	size           int
	status         reliable.Status
	due, storedAt  int64
	fence          int64
	attempts       int
	failures       int
	failingSince   int64 // 0 = never
	flags          int
	deadline       int64 // microseconds after storedAt, 0 = none
	ackedBy        int64
	worker         string
	now            int64 // when the row was read
}

// scan reads {columns}, payload, {now}.
func (r *row) scan(rows Rows) error {
	var status int
	err := rows.Scan(&r.id, &r.topic, &r.key, &r.metadata, &r.size, &status, &r.due, &r.storedAt, &r.fence, &r.attempts,
		&r.failures, &r.failingSince, &r.flags, &r.deadline, &r.ackedBy, &r.worker, &r.payload, &r.now)
	r.status = reliable.Status(status) //nolint:gosec // a smallint between 0 and 4
	return err
}

func (r *row) has(flag int) bool { return r.flags&flag != 0 }

func (r *row) leased() bool { return r.has(flagLeased) }

func (r *row) waiting() bool { return r.status == reliable.Pending && r.due == Parked }

func (r *row) held() bool { return r.status == reliable.Pending && r.due >= HeldBase && r.due < Parked }

// attempt is the row as the engine sees it.
func (r *row) attempt() (reliable.Attempt, error) {
	metadata, err := decodeMetadata(r.metadata)
	if err != nil {
		return reliable.Attempt{}, err
	}
	a := reliable.Attempt{
		Envelope: reliable.Envelope{
			ID:       reliable.ID(r.id),
			Topic:    r.topic,
			Key:      r.key,
			Metadata: metadata,
			Payload:  r.payload,
			Deadline: duration(r.deadline),
		},
		Fence:           r.fence,
		Attempts:        r.attempts,
		Failures:        r.failures,
		MayHaveBeenSent: r.has(flagMayHaveBeenSent),
		Age:             max(duration(r.now-r.storedAt), 0),
	}
	if r.failingSince > 0 {
		a.FailingFor = max(duration(r.now-r.failingSince), 0)
	}
	return a, nil
}

// record is the row as a person sees it, without its history.
func (r *row) record() (reliable.Record, error) {
	attempt, err := r.attempt()
	if err != nil {
		return reliable.Record{}, err
	}
	record := reliable.Record{
		Attempt: attempt,
		Status:  r.status,
		Waiting: r.waiting(),
		Held:    r.held(),
		LateAck: r.has(flagLateAck),
	}
	if !record.Waiting && !record.Held && !r.status.Final() {
		record.DueIn = duration(r.due - r.now)
		if r.leased() {
			record.LeasedBy = r.worker
		}
	}
	return record, nil
}

// micros is d in microseconds, rounded up: nothing is due early.
func micros(d time.Duration) int64 {
	return int64((d + time.Microsecond - 1) / time.Microsecond)
}

func duration(micros int64) time.Duration { return time.Duration(micros) * time.Microsecond }
