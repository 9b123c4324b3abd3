package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"reflect"
	"time"

	"github.com/waybillmq/waybill/reliable"
)

// Native is a business transaction on a user's own handle.
type Native interface {
	Conn
	// Native is what the user works with.
	Native() any
	// Commit waits for the answer no longer than ctx.
	Commit(ctx context.Context) error
	// Rollback returns nil if the transaction is over already.
	Rollback(ctx context.Context) error
}

// SQLNative is a [Native] on database/sql.
type SQLNative struct {
	SQLConn
	tx *sql.Tx
	on *sql.DB // nil if it was begun on a *sql.Conn
}

func (n *SQLNative) execPrepared(ctx context.Context, p *Prepared, query string, args []any) (int64, error) {
	if n.on != p.db {
		return n.Exec(ctx, query, args...)
	}
	return p.execIn(ctx, n.tx, query, args)
}

// Native implements [Native].
func (n *SQLNative) Native() any { return n.tx }

// Commit implements [Native].
func (n *SQLNative) Commit(ctx context.Context) error { return CommitSQL(ctx, n.tx) }

// Rollback implements [Native].
func (n *SQLNative) Rollback(context.Context) error {
	if err := n.tx.Rollback(); err != nil && !errors.Is(err, sql.ErrTxDone) {
		return err
	}
	return nil
}

// Beginner is what *sql.DB and *sql.Conn have in common.
type Beginner interface {
	BeginTx(ctx context.Context, opts *sql.TxOptions) (*sql.Tx, error)
}

// BeginSQL begins a business transaction on db, which is a *sql.DB or *sql.Conn.
func BeginSQL(ctx context.Context, db any) (Native, error) {
	var beginner Beginner
	var pool *sql.DB
	switch db := db.(type) {
	case *sql.DB:
		if db != nil {
			beginner, pool = db, db
		}
	case *sql.Conn:
		if db != nil {
			beginner = db
		}
	}
	if beginner == nil {
		return nil, reliable.Invalid("db", "is a %T, pass a *sql.DB or *sql.Conn, or nil for the store's own", db)
	}
	tx, err := beginner.BeginTx(ctx, nil)
	if err != nil {
		return nil, err
	}
	return &SQLNative{SQLConn{tx}, tx, pool}, nil
}

// Begin wraps a business transaction that native has begun.
func (s *Store) Begin(native Native, err error) (reliable.Tx, error) {
	if err != nil {
		return nil, s.fail("begin", err)
	}
	return &transaction{store: s, native: native}, nil
}

var _ reliable.CompensationSettler = (*transaction)(nil)

// transaction is a business transaction.
type transaction struct {
	store      *Store
	native     Native
	ended      bool
	broken     error // why the database has ended it on its own
	savepoints int
}

func (t *transaction) Native() any { return t.native.Native() }

func (t *transaction) Enqueue(
	ctx context.Context, req reliable.EnqueueRequest, envs ...reliable.Envelope,
) ([]reliable.Stored, error) {
	if t.ended {
		return nil, t.store.notStored(fmt.Errorf("the transaction is over: %w", reliable.ErrClosed))
	}
	stored, err := t.store.enqueueIn(ctx, t.native, req, envs)
	t.note(err)
	return stored, err
}

// SettleCompensation implements [reliable.CompensationSettler].
func (t *transaction) SettleCompensation(
	ctx context.Context, c reliable.Compensation,
) (reliable.SettleResult, error) {
	if t.ended {
		return 0, t.store.fail("settle compensation", fmt.Errorf("the transaction is over: %w", reliable.ErrClosed))
	}
	result, err := t.store.settleCompensationInside(ctx, t.native, &c)
	t.note(err)
	return result, t.store.fail("settle compensation", err)
}

// note remembers that the database has rolled the transaction back, where what is executed from now on would take
// effect outside of it, or that the connection is gone, where an answer to COMMIT would tell less than is known
// already.
func (t *transaction) note(err error) {
	if err == nil || errors.Is(err, reliable.ErrConflict) || errors.Is(err, reliable.ErrInvalid) {
		return
	}
	if t.broken == nil && (t.store.dialect.Ended(err) || t.store.dialect.Classify(err) == Lost) {
		t.broken = err
	}
}

func (t *transaction) Commit(ctx context.Context) error {
	if t.ended {
		return t.store.fail("commit", fmt.Errorf("the transaction is over: %w", reliable.ErrClosed))
	}
	t.ended = true
	if t.broken != nil {
		_ = t.native.Rollback(ctx)
		return t.store.fail("commit", fmt.Errorf("rolled the transaction back, because it was lost before: %w", t.broken))
	}
	return t.store.fail("commit", t.store.committed(t.native.Commit(ctx)))
}

func (t *transaction) Rollback(ctx context.Context) error {
	if t.ended {
		return nil
	}
	t.ended = true
	return t.store.fail("rollback", t.native.Rollback(ctx))
}

func (t *transaction) Savepoint(ctx context.Context) (reliable.Savepoint, error) {
	if t.ended {
		return nil, t.store.fail("savepoint", fmt.Errorf("the transaction is over: %w", reliable.ErrClosed))
	}
	t.savepoints++
	sp := &savepoint{tx: t, name: fmt.Sprintf("waybill_%d", t.savepoints)}
	if _, err := t.native.Exec(ctx, t.store.dialect.Savepoint+" "+sp.name); err != nil {
		t.note(err)
		return nil, t.store.fail("savepoint", err)
	}
	return sp, nil
}

// savepoint is a scope inside a transaction.
type savepoint struct {
	tx    *transaction
	name  string
	ended bool
}

func (s *savepoint) Release(ctx context.Context) error {
	return s.end(ctx, "release savepoint", s.tx.store.dialect.Release)
}

func (s *savepoint) Rollback(ctx context.Context) error {
	return s.end(ctx, "rollback to savepoint", s.tx.store.dialect.RollbackTo, s.tx.store.dialect.Release)
}

// end ends the scope; it does nothing once it is over, or the transaction is.
func (s *savepoint) end(ctx context.Context, op string, verbs ...string) error {
	if s.ended || s.tx.ended {
		return nil
	}
	s.ended = true
	for _, verb := range verbs {
		if _, err := s.tx.native.Exec(ctx, verb+" "+s.name); err != nil {
			s.tx.note(err)
			return s.tx.store.fail(op, err)
		}
	}
	return nil
}

// Bound is an Enqueuer inside a transaction that its owner ends.
type Bound struct {
	store *Store
	conn  Conn
}

// BindConn returns an Enqueuer on a transaction.
func (s *Store) BindConn(conn Conn) *Bound { return &Bound{s, conn} }

// Enqueue implements [reliable.Enqueuer].
func (b *Bound) Enqueue(
	ctx context.Context, req reliable.EnqueueRequest, envs ...reliable.Envelope,
) ([]reliable.Stored, error) {
	return b.store.enqueueIn(ctx, b.conn, req, envs)
}

// Bind returns an Enqueuer on a transaction of database/sql, or of a library on top of it.
func (s *Store) Bind(tx any) (reliable.Enqueuer, error) {
	conn, err := ConnOf(tx)
	if err != nil {
		return nil, s.fail("bind", err)
	}
	return s.BindConn(conn), nil
}

// ConnOf runs statements in a transaction of database/sql, or of a library on top of it; what is none is
// [reliable.ErrInvalid].
func ConnOf(tx any) (Conn, error) {
	if executor := executorOf(tx); executor != nil {
		return SQLConn{executor}, nil
	}
	return nil, reliable.Invalid("tx", "is a %T, which is no transaction: pass a *sql.Tx, or a transaction "+
		"that has its methods ExecContext, QueryContext, Commit and Rollback", tx)
}

// transactional is by what a transaction is told from a pool of connections.
type transactional interface {
	Executor
	Commit() error
	Rollback() error
}

// executorOf finds what runs statements in a transaction of any library, nil if tx is none.
func executorOf(tx any) Executor {
	value := reflect.ValueOf(tx)
	if !value.IsValid() || value.Kind() == reflect.Pointer && value.IsNil() {
		return nil
	}
	if tx, ok := tx.(*sql.Tx); ok {
		return tx
	}
	// Libraries that embed *sql.Tx (sqlx, bun) may rewrite statements in methods of their own; ours are finished.
	if value.Kind() == reflect.Pointer {
		value = value.Elem()
	}
	if value.Kind() == reflect.Struct {
		field, ok := value.Type().FieldByName("Tx")
		if ok && field.Anonymous && field.Type == reflect.TypeFor[*sql.Tx]() {
			if tx, ok := reflect.TypeAssert[*sql.Tx](value.FieldByIndex(field.Index)); ok && tx != nil {
				return tx
			}
		}
	}
	if tx, ok := tx.(transactional); ok {
		return tx
	}
	return nil
}

// enqueueSavepoint begins what is taken back if a batch of several statements fails half way.
const enqueueSavepoint = "waybill_enqueue"

// undoTimeout is how long taking back may take when the caller's context is over already.
const undoTimeout = 5 * time.Second

// enqueueIn stores envelopes inside a transaction that its owner ends. Any error means that nothing is stored: what a
// failed batch has written is taken back, or the database has ended the transaction.
func (s *Store) enqueueIn(
	ctx context.Context, c Conn, req reliable.EnqueueRequest, envs []reliable.Envelope,
) ([]reliable.Stored, error) {
	b, err := s.newBatch(req, envs)
	if err != nil || len(envs) == 0 {
		return nil, s.fail("enqueue", err)
	}
	if b.single() {
		if err = b.insert(ctx, c); errors.Is(err, reliable.ErrConflict) {
			if removing := b.remove(ctx, c); removing != nil {
				err = fmt.Errorf("%w: %w: roll the transaction back", err, removing)
			}
		}
	} else {
		err = s.insertScoped(ctx, c, b)
	}
	if err != nil {
		return nil, s.notStored(err)
	}
	return b.stored, nil
}

// insertScoped stores a batch that takes several statements.
func (s *Store) insertScoped(ctx context.Context, c Conn, b *batch) error {
	if _, err := c.Exec(ctx, s.dialect.Savepoint+" "+enqueueSavepoint); err != nil {
		return err
	}
	if err := b.insert(ctx, c); err != nil {
		undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
		defer cancel()
		if _, undoing := c.Exec(undo, s.dialect.RollbackTo+" "+enqueueSavepoint); undoing == nil {
			_, _ = c.Exec(undo, s.dialect.Release+" "+enqueueSavepoint)
		}
		return err
	}
	_, err := c.Exec(ctx, s.dialect.Release+" "+enqueueSavepoint)
	return err
}
