package sqlstore

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"

	"github.com/waybillmq/waybill/reliable"
)

// Enqueue stores envelopes and commits them at once; see [reliable.Enqueuer].
func (s *Store) Enqueue(
	ctx context.Context, req reliable.EnqueueRequest, envs ...reliable.Envelope,
) ([]reliable.Stored, error) {
	b, err := s.newBatch(req, envs)
	if err != nil || len(envs) == 0 {
		return nil, s.fail("enqueue", err)
	}
	done := false
	if b.single() && !s.dialect.Explicit {
		done, err = s.insertAlone(ctx, b)
	}
	if !done && err == nil {
		err = s.write(ctx, func(tx Tx) error {
			b.reset()
			return b.insert(ctx, tx)
		})
	}
	if err != nil {
		return nil, s.notStored(err)
	}
	return b.stored, nil
}

// insertAlone stores the batch by one statement that commits by itself. It is not done, without an error, if some IDs
// exist: then nothing was stored.
func (s *Store) insertAlone(ctx context.Context, b *batch) (done bool, err error) {
	for t := s.begin(); ; {
		sent, err := b.send(ctx)
		switch {
		case err == nil:
			b.markNew(b.all)
			return true, nil
		case !sent:
			return false, err
		case s.dialect.Classify(err) == Duplicate:
			return false, nil
		case t.again(ctx, err):
		case s.dialect.Classify(err) == Lost && !stale(err):
			return false, fmt.Errorf("%w: the answer was cut off: %w", reliable.ErrUnknown, err)
		default:
			return false, err
		}
	}
}

// notStored says what an error of storing means to the caller.
func (s *Store) notStored(err error) error {
	switch {
	case errors.Is(err, reliable.ErrUnknown), errors.Is(err, reliable.ErrConflict), errors.Is(err, reliable.ErrInvalid):
		return s.fail("enqueue", err)
	}
	return s.fail("enqueue", fmt.Errorf("%w: %w", reliable.ErrNotStored, err))
}

// batch is one Enqueue.
type batch struct {
	store  *Store
	req    reliable.EnqueueRequest
	envs   []reliable.Envelope
	stored []reliable.Stored
	all    []int   // the indexes of envs
	chunks [][]int // the same, divided into statements
	keyed  bool
}

func (s *Store) newBatch(req reliable.EnqueueRequest, envs []reliable.Envelope) (*batch, error) {
	if req.Lease < 0 {
		return nil, reliable.Invalid("Lease", "is %v, must be 0 (none) or more", req.Lease)
	}
	if err := checkWorker(req.Worker); err != nil {
		return nil, err
	}
	b := &batch{store: s, req: req, envs: envs, stored: make([]reliable.Stored, len(envs)), all: make([]int, len(envs))}
	for i := range envs {
		if err := s.limits.Check(&envs[i]); err != nil {
			return nil, err
		}
		b.all[i] = i
		b.keyed = b.keyed || envs[i].Key != ""
	}
	b.chunks = b.split(b.all)
	return b, nil
}

// single reports whether one statement stores everything.
func (b *batch) single() bool { return len(b.chunks) == 1 && !b.keyed }

func (b *batch) reset() { clear(b.stored) }

// split divides the envelopes into what fits one statement each. A statement writes its rows in the order of their IDs, so
// that two of them with IDs in common wait for each other rather than deadlock; with one writer that is no matter, and rows
// stay as they come.
func (b *batch) split(indexes []int) [][]int {
	var chunks [][]int
	first, size := 0, 0
	for n, i := range indexes {
		bytes := b.envs[i].Size()
		if n > first && (n-first >= b.store.dialect.InsertRows || size+bytes > b.store.dialect.InsertBytes) {
			chunks = append(chunks, indexes[first:n])
			first, size = n, 0
		}
		size += bytes
	}
	chunks = append(chunks, indexes[first:])
	if b.store.dialect.Explicit {
		return b.pieces(chunks)
	}
	byID := func(i, j int) int { return cmp.Compare(b.envs[i].ID, b.envs[j].ID) }
	for _, chunk := range chunks {
		if !slices.IsSortedFunc(chunk, byID) {
			slices.SortStableFunc(chunk, byID)
		}
	}
	return chunks
}

// pieces divides chunks further, where several statements that are kept prepared cost less than one that is not.
func (b *batch) pieces(chunks [][]int) [][]int {
	if b.store.prepared == nil || !b.store.dialect.Pieces {
		return chunks
	}
	var pieces [][]int
	for _, chunk := range chunks {
		_ = inPieces(b.store, chunk, func(piece []int) error {
			pieces = append(pieces, piece)
			return nil
		})
	}
	return pieces
}

// insert stores the batch inside a transaction. After an error the transaction holds part of it.
func (b *batch) insert(ctx context.Context, c Conn) error {
	for _, chunk := range b.chunks {
		insert := b.insertChunk
		if b.store.dialect.InsertSkipping.text != "" {
			insert = b.insertSkipping
		}
		if err := insert(ctx, c, chunk); err != nil {
			return err
		}
	}
	if b.keyed {
		return b.queue(ctx, c)
	}
	return nil
}

// maxRounds bounds how often IDs may appear and disappear while a batch is stored.
const maxRounds = 10

var errUnstable = errors.New("the ids are stored and deleted by others all the time: repeat the transaction")

// insertChunk stores envelopes where a failed INSERT leaves the transaction as it was.
func (b *batch) insertChunk(ctx context.Context, c Conn, indexes []int) error {
	err := b.insertRows(ctx, c, indexes)
	if err == nil {
		b.markNew(indexes)
		return nil
	}
	left := indexes
	for range maxRounds {
		if b.store.dialect.Classify(err) != Duplicate {
			return err
		}
		if left, err = b.skip(ctx, c, left); err != nil || len(left) == 0 {
			return err
		}
		first, twice, err2 := b.firsts(left)
		if err2 != nil {
			return err2
		}
		if err = b.insertRows(ctx, c, first); err == nil {
			b.markNew(first)
			_, err = b.skip(ctx, c, twice)
			return err
		}
	}
	return errUnstable
}

// insertSkipping stores envelopes where a failed INSERT would take the transaction with it.
func (b *batch) insertSkipping(ctx context.Context, c Conn, indexes []int) error {
	left := indexes
	for range maxRounds {
		st, args := b.store.dialect.InsertSkipping, b.columns(left, 0)
		if len(left) == 1 {
			st = b.store.dialect.InsertOneSkipping
			for c, column := range args {
				args[c] = element(column, 0)
			}
		}
		ids, err := b.store.strings(ctx, c, st, args...)
		if err != nil {
			return err
		}
		if len(ids) == len(left) {
			b.markNew(left)
			return nil
		}
		stored := make(map[string]bool, len(ids))
		for _, id := range ids {
			stored[id] = true
		}
		var fresh, skipped []int
		for _, i := range left {
			if id := string(b.envs[i].ID); stored[id] {
				fresh = append(fresh, i)
				delete(stored, id) // another envelope of the same ID was skipped
			} else {
				skipped = append(skipped, i)
			}
		}
		b.markNew(fresh)
		if left, err = b.skip(ctx, c, skipped); err != nil || len(left) == 0 {
			return err
		}
	}
	return errUnstable
}

// skip compares envelopes with what is stored under their IDs, and returns those of which nothing is.
func (b *batch) skip(ctx context.Context, c Conn, indexes []int) ([]int, error) {
	if len(indexes) == 0 {
		return nil, nil
	}
	existing := make(map[string]*row, len(indexes))
	err := inChunks(indexes, b.store.dialect.ListRows, func(part []int) error {
		ids := make([]string, len(part))
		for n, i := range part {
			ids[n] = string(b.envs[i].ID)
		}
		rows, err := b.store.rows(ctx, c, b.store.dialect.Existing, ids)
		for _, r := range rows {
			existing[r.id] = r
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	var left []int
	for _, i := range indexes {
		r := existing[string(b.envs[i].ID)]
		if r == nil {
			left = append(left, i)
			continue
		}
		if r.topic != b.envs[i].Topic || !bytes.Equal(r.payload, b.envs[i].Payload) {
			return nil, b.conflict(i)
		}
		attempt, err := r.attempt()
		if err != nil {
			return nil, err
		}
		b.stored[i] = reliable.Stored{Attempt: attempt, Status: r.status}
	}
	return left, nil
}

// firsts separates the first envelope of each ID from those that repeat it.
func (b *batch) firsts(indexes []int) (first, twice []int, err error) {
	seen := make(map[reliable.ID]int, len(indexes))
	for _, i := range indexes {
		env := &b.envs[i]
		before, repeated := seen[env.ID]
		switch {
		case !repeated:
			seen[env.ID] = i
			first = append(first, i)
		case b.envs[before].Topic != env.Topic || !bytes.Equal(b.envs[before].Payload, env.Payload):
			return nil, nil, b.conflict(i)
		default:
			twice = append(twice, i)
		}
	}
	return first, twice, nil
}

func (b *batch) conflict(i int) error {
	return fmt.Errorf("envelope %d, id %q: %w", i, string(b.envs[i].ID), reliable.ErrConflict)
}

// queue puts the new keyed envelopes into their lanes, in the order given.
func (b *batch) queue(ctx context.Context, c Conn) error {
	var fresh []int
	for i := range b.envs {
		if b.stored[i].New && b.envs[i].Key != "" {
			fresh = append(fresh, i)
		}
	}
	return inChunks(fresh, b.store.dialect.ListRows, func(part []int) error {
		lanes, ids := make([][]byte, len(part)), make([]string, len(part))
		delayed, delays := make([]int64, len(part)), make([]int64, len(part))
		for n, i := range part {
			env := &b.envs[i]
			lanes[n], ids[n] = laneOf(env.Topic, env.Key), string(env.ID)
			if env.Delay > 0 {
				delayed[n], delays[n] = 1, micros(env.Delay)
			}
		}
		_, err := b.store.exec(ctx, c, b.store.dialect.InsertLanes, lanes, ids, delayed, delays)
		return err
	})
}

// laneOf names the envelopes of one topic and key.
func laneOf(topic, key string) []byte {
	sum := sha256.Sum256([]byte(topic + "\x00" + key))
	return sum[:16]
}

// leases reports whether an envelope is leased as it is stored.
func (b *batch) leases(env *reliable.Envelope) bool {
	return b.req.Lease > 0 && env.Key == "" && env.Delay == 0
}

func (b *batch) markNew(indexes []int) {
	for _, i := range indexes {
		b.stored[i] = reliable.Stored{Attempt: reliable.Attempt{Envelope: b.envs[i]}, New: true}
		if b.leases(&b.envs[i]) {
			b.stored[i].Leased, b.stored[i].Fence, b.stored[i].Attempts = true, 1, 1
		}
	}
}

// remove deletes what the batch has stored so far, where there is no savepoint to go back to.
func (b *batch) remove(ctx context.Context, c Conn) error {
	var ids []string
	for i := range b.stored {
		if b.stored[i].New {
			ids = append(ids, string(b.envs[i].ID))
		}
	}
	return inChunks(ids, b.store.dialect.ListRows, func(part []string) error {
		_, err := b.store.exec(ctx, c, b.store.dialect.Delete, part)
		return err
	})
}

// manyRows is above how many rows it pays to ask for the time first, where each mention of it costs.
const manyRows = 64

// send runs the INSERT of the whole batch on a connection of the store's own, and reports whether it may have been sent.
func (b *batch) send(ctx context.Context) (sent bool, err error) {
	s := b.store
	st, args := b.statement(b.all)
	if query := s.prepared.text(st, len(b.all)); query != "" {
		flat, _ := st.flatten(args)
		if done, sent, err := s.prepared.execAlone(ctx, query, flat); done || err != nil {
			return sent, err
		}
	}
	conn, release, err := s.db.Acquire(ctx)
	if err != nil {
		return false, err
	}
	defer release()
	return true, b.insertRows(ctx, conn, b.all)
}

// insertRows runs one INSERT.
func (b *batch) insertRows(ctx context.Context, c Conn, indexes []int) error {
	s := b.store
	if s.dialect.InsertAt.text != "" && len(indexes) > manyRows {
		var now int64
		err := s.query(ctx, c, func(rows Rows) error { return rows.Scan(&now) }, s.dialect.Clock)
		if err != nil {
			return err
		}
		_, err = s.exec(ctx, c, s.dialect.InsertAt, b.columns(indexes, now)...)
		return err
	}
	st, args := b.statement(indexes)
	_, err := s.execKept(ctx, c, st, len(indexes), args...)
	return err
}

// statement chooses the INSERT for some rows, and lays out its parameters.
func (b *batch) statement(indexes []int) (st Statement, args []any) {
	d := &b.store.dialect
	columns := b.columns(indexes, 0)
	if d.InsertAlike.text == "" {
		return d.Insert, columns
	}
	first := &b.envs[indexes[0]]
	same := len(first.Metadata) == 0
	for _, i := range indexes[1:] {
		env := &b.envs[i]
		if env.Key != first.Key || env.Delay != first.Delay || env.Deadline != first.Deadline {
			return d.Insert, columns
		}
		same = same && env.Topic == first.Topic && len(env.Metadata) == 0
	}
	alike, st := alikeColumns, d.InsertAlike
	if same {
		alike, st = sameColumns, d.InsertSame
		columns[sizeColumn] = []int64{int64(first.Size() - len(first.ID) - len(first.Payload))}
	}
	args = make([]any, 0, len(columns))
	for c, column := range columns {
		if slices.Contains(alike, c) {
			args = append(args, element(column, 0))
		}
	}
	for c, column := range columns {
		if !slices.Contains(alike, c) {
			args = append(args, column)
		}
	}
	return st, args
}

// alikeColumns are the parameters of Insert that are given once for all rows in InsertAlike: [okey], and all from [moves]
// on.
var alikeColumns = []int{2, 7, 8, 9, 10, 11, 12, 13}

// sameColumns are those in InsertSame: topic and metadata as well, and one number in place of the sizes.
var sameColumns = append([]int{1, 3, sizeColumn}, alikeColumns...)

const sizeColumn = 5

// columns are the parameters of Insert, or, with the time, of InsertAt.
func (b *batch) columns(indexes []int, now int64) []any {
	n := len(indexes)
	texts := make([]string, 4*n)
	ids, topics, keys, workers := texts[:n:n], texts[n:2*n:2*n], texts[2*n:3*n:3*n], texts[3*n:]
	numbers := make([]int64, 6*n)
	sizes, stored, moves := numbers[:n:n], numbers[n:2*n:2*n], numbers[2*n:3*n:3*n]
	dues, leases, deadlines := numbers[3*n:4*n:4*n], numbers[4*n:5*n:5*n], numbers[5*n:]
	blobs := make([][]byte, 2*n)
	metadata, payloads := blobs[:n:n], blobs[n:]
	lease := micros(b.req.Lease)
	earliest := slices.Min(indexes)
	for row, i := range indexes {
		env := &b.envs[i]
		ids[row], topics[row], keys[row] = string(env.ID), env.Topic, env.Key
		metadata[row] = encodeMetadata(env.Metadata)
		payloads[row] = env.Payload
		if env.Payload == nil {
			payloads[row] = []byte{}
		}
		sizes[row], deadlines[row] = int64(env.Size()), micros(env.Deadline)
		stored[row] = now + int64(i-earliest) // the order given, whatever that of the rows
		workers[row] = b.req.Worker           // whoever leases it has a name of about that length: a row that grows costs InnoDB twice
		switch {
		case env.Key != "":
			dues[row] = Parked
		case b.leases(env):
			moves[row], dues[row], leases[row] = 1, now+lease, 1
		default:
			moves[row], dues[row] = 1, now+micros(env.Delay)
		}
	}
	columns := append(make([]any, 0, 13), ids, topics, keys, metadata, payloads, sizes, stored)
	if now == 0 {
		columns = append(columns, moves)
	}
	columns = append(columns, dues, leases)
	if !b.store.dialect.Arrays {
		columns = append(columns, leases, leases)
	}
	return append(columns, deadlines, workers)
}

const maxWorkerBytes = 128

func checkWorker(worker string) error {
	if len(worker) > maxWorkerBytes {
		return reliable.Invalid("Worker", "has %d bytes, at most %d are allowed", len(worker), maxWorkerBytes)
	}
	return nil
}
