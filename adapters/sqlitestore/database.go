package sqlitestore

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/waybillmq/waybill/adapters/internal/sqlstore"
)

// dialect is what sets SQLite apart. A statement of 500 rows has 7,000 of the 32,766 parameters that SQLite allows.
func dialect(prefix string) sqlstore.Dialect {
	return sqlstore.Dialect{
		Package:     "sqlitestore",
		InsertRows:  500,
		InsertBytes: 4 << 20,
		ListRows:    1000,
		Classify:    classify,
		Ended:       ended,
		Explicit:    true,
		Pieces:      true,
		Savepoint:   "SAVEPOINT",
		Release:     "RELEASE",
		RollbackTo:  "ROLLBACK TO",
		Statements:  statements(prefix),
	}
}

// primaryCode is the part of an extended result code that is the code.
const primaryCode = 0xff

func classify(err error) sqlstore.Class {
	var e *sqlite.Error
	if !errors.As(err, &e) {
		// Nothing lies between this process and the database: what was not done, was not done.
		return sqlstore.Refused
	}
	switch e.Code() {
	case sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY, sqlite3.SQLITE_CONSTRAINT_UNIQUE, sqlite3.SQLITE_CONSTRAINT_ROWID:
		return sqlstore.Duplicate
	case sqlite3.SQLITE_BUSY_SNAPSHOT:
		return sqlstore.Conflict
	}
	switch e.Code() & primaryCode {
	case sqlite3.SQLITE_LOCKED:
		return sqlstore.Conflict
	case sqlite3.SQLITE_IOERR:
		return sqlstore.Lost // a failed sync: the frames may be on the disk
	case sqlite3.SQLITE_ERROR:
		text := e.Error()
		if strings.Contains(text, "no such table") || strings.Contains(text, "no such column") ||
			strings.Contains(text, "no such index") || strings.Contains(text, "has no column named") {
			return sqlstore.Missing
		}
	}
	return sqlstore.Refused
}

// ended reports the errors by which SQLite may roll a whole transaction back.
func ended(err error) bool {
	var e *sqlite.Error
	if !errors.As(err, &e) {
		return false
	}
	switch e.Code() & primaryCode {
	case sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_INTERRUPT:
		return true
	}
	return false
}

// database is where the store's transactions come from. Writers of this process queue up in Go, and poll for the lock of
// others themselves: SQLite's own waiting is a poll with growing pauses, in which the unlucky starve.
type database struct {
	sqlstore.SQLDatabase
	prefix string
	turn   chan struct{} // holds a token while nobody of this store is writing
	wait   time.Duration // of each connection for the lock; 0 if the caller opened them
}

func newDatabase(db *sql.DB, prefix string) *database {
	d := &database{SQLDatabase: sqlstore.SQLDatabase{DB: db}, prefix: prefix, turn: make(chan struct{}, 1)}
	d.turn <- struct{}{}
	return d
}

// maxTurn bounds how long a writer waits for its turn; after that it takes its chances with SQLite's lock, so that
// nothing is stuck for good behind a transaction that waits for it.
const maxTurn = 5 * time.Second

// take waits for the turn to write; the returned function passes it on.
func (d *database) take(ctx context.Context) (func(), error) {
	pass := func() { d.turn <- struct{}{} }
	select {
	case <-d.turn:
		return sync.OnceFunc(pass), nil
	default:
	}
	patience := time.NewTimer(maxTurn)
	defer patience.Stop()
	select {
	case <-d.turn:
		return sync.OnceFunc(pass), nil
	case <-patience.C:
		return func() {}, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Begin starts a transaction that holds the write lock from the start, however db was opened: one that reads first and
// writes then would fail at once if anybody has written in between.
func (d *database) Begin(ctx context.Context) (sqlstore.Tx, error) {
	d.Prepared.Ready(ctx)
	pass, err := d.take(ctx)
	if err != nil {
		return nil, err
	}
	conn, err := d.DB.Conn(ctx)
	if err != nil {
		pass()
		return nil, err
	}
	end := func() {
		_ = conn.Close()
		pass()
	}
	if d.Prepared != nil { // db was opened so that its transactions begin IMMEDIATE
		return d.beginPrepared(ctx, conn, end)
	}
	if err := d.untilFree(ctx, conn, func() error {
		_, err := conn.ExecContext(ctx, "BEGIN IMMEDIATE")
		return err
	}); err != nil {
		end()
		return nil, err
	}
	return &ownTx{SQLConn: sqlstore.SQLConn{On: conn}, conn: conn, over: end}, nil
}

// untilFree repeats begin, which asks for the write lock, for as long as the connection would wait for it. SQLite itself looks
// every 100 ms after a while, and a process that writes all the time leaves the lock alone for microseconds: whoever waits
// for it so may never find it free.
func (d *database) untilFree(ctx context.Context, conn *sql.Conn, begin func() error) error {
	patience := d.wait
	if patience == 0 {
		asked, err := waitOf(ctx, conn)
		if err != nil {
			return err
		}
		patience = asked
	}
	restore, err := limitWait(ctx, conn, patience, 0)
	if err != nil {
		return err
	}
	defer restore()
	return whileBusy(ctx, patience, begin)
}

// busyPause is how long it is between two tries at a database that another process keeps busy.
const busyPause = 2 * time.Millisecond

// whileBusy repeats try until the database is not busy, for as long as patience lasts.
func whileBusy(ctx context.Context, patience time.Duration, try func() error) error {
	pause := time.NewTimer(0)
	defer pause.Stop()
	for began := time.Now(); ; {
		err := try()
		if err == nil || !busy(err) || time.Since(began) >= patience {
			return err
		}
		pause.Reset(busyPause)
		select {
		case <-pause.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func busy(err error) bool {
	var e *sqlite.Error
	return errors.As(err, &e) && e.Code()&primaryCode == sqlite3.SQLITE_BUSY
}

// waitOf returns how long the connection waits for the lock.
func waitOf(ctx context.Context, conn *sql.Conn) (time.Duration, error) {
	var milliseconds int64
	err := conn.QueryRowContext(ctx, "PRAGMA busy_timeout").Scan(&milliseconds)
	return time.Duration(milliseconds) * time.Millisecond, err
}

// limitWait shortens how long the connection waits for the lock, and returns what sets it back. Neither is worth a watch over
// ctx, for which the driver starts a goroutine.
func limitWait(ctx context.Context, conn *sql.Conn, before, limit time.Duration) (restore func(), err error) {
	ctx = context.WithoutCancel(ctx)
	set := func(wait time.Duration) error {
		_, err := conn.ExecContext(ctx, fmt.Sprintf("PRAGMA busy_timeout = %d", wait.Milliseconds()))
		return err
	}
	if err := set(min(before, limit)); err != nil {
		return nil, err
	}
	return func() { _ = set(before) }, nil
}

// ownTx is a transaction of the store's own.
type ownTx struct {
	sqlstore.SQLConn
	conn  *sql.Conn
	over  func()
	ended bool
}

// Commit is not interrupted half way: the disk is as near as this process.
func (t *ownTx) Commit(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		t.Rollback()
		return err
	}
	_, err := t.conn.ExecContext(context.WithoutCancel(ctx), "COMMIT")
	if err != nil {
		t.Rollback()
		return err
	}
	t.end()
	return nil
}

func (t *ownTx) Rollback() {
	if t.ended {
		return
	}
	_, _ = t.conn.ExecContext(context.Background(), "ROLLBACK") // an error means that SQLite has rolled back itself
	t.end()
}

func (t *ownTx) end() {
	t.ended = true
	t.over()
}

// beginPrepared starts a transaction of database/sql, which can run what is kept prepared. The context of a transaction
// is watched until it ends, and here only ctx until it has begun: each statement has its own, and COMMIT none.
func (d *database) beginPrepared(ctx context.Context, conn *sql.Conn, over func()) (sqlstore.Tx, error) {
	begun, end := context.WithCancel(context.WithoutCancel(ctx))
	unwatch := context.AfterFunc(ctx, end)
	var tx *sql.Tx
	err := d.untilFree(ctx, conn, func() (err error) {
		tx, err = conn.BeginTx(begun, nil)
		return err
	})
	if err == nil && !unwatch() { // ctx ended meanwhile, and the transaction with it
		err = errors.Join(ctx.Err(), tx.Rollback())
	}
	if err != nil {
		end()
		over()
		return nil, cmp.Or(ctx.Err(), err)
	}
	return &preparedTx{sqlstore.SQLTx{SQLConn: sqlstore.SQLConn{On: tx}, Tx: tx}, func() { end(); over() }}, nil
}

// preparedTx is a transaction of the store's own that can run what is kept prepared.
type preparedTx struct {
	sqlstore.SQLTx
	end func()
}

// Commit is not interrupted half way: the disk is as near as this process.
func (t *preparedTx) Commit(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		t.Rollback()
		return err
	}
	defer t.end()
	return t.Tx.Commit() // rolls back what it cannot commit
}

// Rollback does nothing after Commit.
func (t *preparedTx) Rollback() {
	if !errors.Is(t.Tx.Rollback(), sql.ErrTxDone) {
		t.end()
	}
}

// business begins a transaction on the user's handle, and takes the write lock at once: SQLite does that for BEGIN
// IMMEDIATE only, which is a matter of how db was opened, and otherwise for the first statement that may write.
func (d *database) business(ctx context.Context, db any) (sqlstore.Native, error) {
	if db == nil {
		db = d.DB
	}
	pass, err := d.take(ctx)
	if err != nil {
		return nil, err
	}
	defer pass()
	native, err := sqlstore.BeginSQL(ctx, db)
	if err != nil {
		return nil, err
	}
	const touch = `UPDATE {schema} SET version = version WHERE false`
	if _, err := native.Exec(ctx, writer(d.prefix).Text(touch)); err != nil {
		_ = native.Rollback(ctx)
		return nil, err
	}
	return native, nil
}
