package sqlstore

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"net"
	"runtime"
	"slices"
	"sync"
)

// A multi-row INSERT of 64 rows costs MariaDB twice as much to parse as to carry out. So those that a store repeats all
// day stay prepared, for the numbers of rows below; callers that can choose how many rows they bring ask for [Store.Portion].
// Where a statement costs no round trip, any number of rows is made up of these.

// preparedRows are the numbers of rows whose INSERT stays prepared: few, because a server keeps each of them for each
// connection, and near one another, because what exceeds one waits for the next statement.
var preparedRows = [...]int{1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128}

// portion is the largest of preparedRows that is at most n.
func portion(n int) int {
	largest := 0
	for _, rows := range preparedRows {
		if rows <= n {
			largest = rows
		}
	}
	return largest
}

// Portion returns how many of n envelopes are best stored by one Enqueue; see [reliable.Portioned].
func (s *Store) Portion(n int) int {
	if s.prepared == nil || s.dialect.Pieces || n >= 2*preparedRows[len(preparedRows)-1] {
		return n
	}
	return max(1, portion(n))
}

// inPieces calls fn for the parts of list that one statement is to take.
func inPieces[E any](s *Store, list []E, fn func([]E) error) error {
	if s.prepared == nil || !s.dialect.Pieces {
		return inChunks(list, s.dialect.ListRows, fn)
	}
	for len(list) > 0 {
		n := portion(len(list))
		if err := fn(list[:n]); err != nil {
			return err
		}
		list = list[n:]
	}
	return nil
}

// execPiece runs a statement for one part of what inPieces divides.
func (s *Store) execPiece(ctx context.Context, c Conn, st Statement, rows int, args ...any) (int64, error) {
	if s.dialect.Pieces {
		return s.execKept(ctx, c, st, rows, args...)
	}
	return s.exec(ctx, c, st, args...)
}

// execKept runs a statement for so many rows, as one that is kept prepared if there is one.
func (s *Store) execKept(ctx context.Context, c Conn, st Statement, rows int, args ...any) (int64, error) {
	if p, ok := c.(preparing); ok {
		if query := s.prepared.text(st, rows); query != "" {
			flat, _ := st.flatten(args)
			return p.execPrepared(ctx, s.prepared, query, flat)
		}
	}
	return s.exec(ctx, c, st, args...)
}

// Prepared keeps statements of a store prepared on the connections of a pool. database/sql prepares each on every
// connection that it is run on, and closes it with the connection.
type Prepared struct {
	db       *sql.DB
	classify func(error) Class

	mu     sync.Mutex
	texts  map[shape]string
	all    map[string]*sql.Stmt // nil for a text that the server does not prepare
	wanted []string             // by transactions, which cannot prepare themselves
}

// shape is a statement for so many rows.
type shape struct {
	statement string
	rows      int
}

// NewPrepared returns a Prepared on db.
func NewPrepared(db *sql.DB, classify func(error) Class) *Prepared {
	return &Prepared{db: db, classify: classify, texts: make(map[shape]string), all: make(map[string]*sql.Stmt)}
}

// closeWith closes the statements when nothing refers to the store any more: its pool may live on.
func (p *Prepared) closeWith(s *Store) {
	runtime.AddCleanup(s, func(p *Prepared) {
		p.mu.Lock()
		defer p.mu.Unlock()
		for _, stmt := range p.all {
			if stmt != nil {
				_ = stmt.Close()
			}
		}
	}, p)
}

// text returns st for n rows if that is one of those that stay prepared, "" if not.
func (p *Prepared) text(st Statement, n int) string {
	if p == nil || n > preparedRows[len(preparedRows)-1] || portion(n) != n {
		return ""
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	key := shape{st.text, n}
	if _, known := p.texts[key]; !known {
		p.texts[key] = st.repeated(n)
	}
	return p.texts[key]
}

// prepare prepares a text, on a connection that it takes from the pool: not for who holds one already. The statement is
// nil where the server does not prepare it, for want of memory or because something between does not know how.
func (p *Prepared) prepare(ctx context.Context, query string) (*sql.Stmt, error) {
	p.mu.Lock()
	stmt, known := p.all[query]
	p.mu.Unlock()
	if known {
		return stmt, nil
	}
	stmt, err := p.db.PrepareContext(ctx, query)
	if err != nil {
		return nil, p.refused(query, err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if twice, known := p.all[query]; known {
		_ = stmt.Close() //nolint:sqlclosecheck // only this one of the two
		return twice, nil
	}
	p.all[query] = stmt
	return stmt, nil
}

// refused gives a text up that the server does not prepare; any other error is returned.
func (p *Prepared) refused(query string, err error) error {
	if p.classify(err) != Refused || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.all[query] = nil // one that was prepared stays open: others may be running it
	return nil
}

// execAlone runs a statement on any connection, and reports whether it may have been sent. It is not done, without an
// error, where the server does not prepare it.
func (p *Prepared) execAlone(ctx context.Context, query string, args []any) (done, sent bool, err error) {
	stmt, err := p.prepare(ctx, query) //nolint:sqlclosecheck // stays open
	if err != nil || stmt == nil {
		return false, false, err
	}
	_, err = stmt.ExecContext(ctx, announced(args, &sent)...)
	if err == nil {
		return true, true, nil
	}
	if !sent {
		return false, false, p.refused(query, err)
	}
	// database/sql goes on to a new connection only if nothing was sent on the one before.
	var dialing *net.OpError
	return false, !errors.As(err, &dialing) || dialing.Op != "dial", err
}

// announced has the driver's asking for the first argument, which database/sql does last before it sends, noted in sent:
// an error before that came from waiting for a connection, from making one, or from preparing.
func announced(args []any, sent *bool) []any {
	args[0] = announcement{args[0], sent}
	return args
}

type announcement struct {
	value any
	sent  *bool
}

// Value implements [driver.Valuer].
func (a announcement) Value() (driver.Value, error) {
	*a.sent = true
	return a.value, nil
}

// execIn runs a statement in a transaction. One that is not prepared yet is run as it is, and prepared before the next
// transaction begins: this one holds a connection, and may hold the only one.
func (p *Prepared) execIn(ctx context.Context, tx *sql.Tx, query string, args []any) (int64, error) {
	p.mu.Lock()
	stmt, known := p.all[query]
	if !known && !slices.Contains(p.wanted, query) {
		p.wanted = append(p.wanted, query)
	}
	p.mu.Unlock()
	if stmt == nil {
		return SQLConn{tx}.Exec(ctx, query, args...)
	}
	result, err := tx.StmtContext(ctx, stmt).ExecContext(ctx, args...) //nolint:sqlclosecheck // ends with tx
	if err != nil {
		return 0, err
	}
	return result.RowsAffected()
}

// Ready prepares what earlier transactions wanted. That it cannot is for the transaction to find out.
func (p *Prepared) Ready(ctx context.Context) {
	if p == nil {
		return
	}
	p.mu.Lock()
	wanted := p.wanted
	p.wanted = nil
	p.mu.Unlock()
	for _, query := range wanted {
		_, _ = p.prepare(ctx, query) //nolint:sqlclosecheck // stays open
	}
}
