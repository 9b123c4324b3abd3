package postgresstore

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"reflect"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
)

// notifier has one NOTIFY under way at a time: NOTIFY serialises the commits of the whole database server.
type notifier struct {
	mu      sync.Mutex
	running bool
	again   bool
}

// Wake tells all relays on this store, in this process at once and elsewhere by NOTIFY; see [reliable.Waker]. While
// another call is about to notify, it leaves that to it.
func (s *Store) Wake(ctx context.Context) error {
	_ = s.core.Wake(ctx) // it cannot fail
	s.notifier.mu.Lock()
	if s.notifier.running {
		s.notifier.again = true
		s.notifier.mu.Unlock()
		return nil
	}
	s.notifier.running = true
	s.notifier.mu.Unlock()
	for {
		err := s.notify(ctx)
		s.notifier.mu.Lock()
		if err != nil || !s.notifier.again {
			s.notifier.running, s.notifier.again = false, false
			s.notifier.mu.Unlock()
			return err
		}
		s.notifier.again = false
		s.notifier.mu.Unlock()
	}
}

func (s *Store) notify(ctx context.Context) error {
	conn, release, err := s.db.Acquire(ctx)
	if err == nil {
		_, err = conn.Exec(ctx, "NOTIFY "+s.channel())
		release()
	}
	if err != nil {
		return fmt.Errorf("postgresstore: wake: %w", err)
	}
	return nil
}

func (s *Store) channel() string { return `"` + s.prefix + `wake"` }

// listener is the one call of AwaitWake that has a connection; the others wait for it.
type listener struct {
	turn chan struct{}
	// take runs fn with a connection that is not returned to the pool if fn says that it is not fit for it. It returns
	// errNoListening where the pool is too small.
	take func(ctx context.Context, fn func(*pgx.Conn) (fit bool, err error)) error
	// lastLook is when a look at the tables, and no notification, ended the waiting; guarded by turn.
	lastLook time.Time
	// rung is when a wake-up of this process last ended the waiting, in nanoseconds since 1970.
	rung atomic.Int64
}

func newListener() *listener {
	l := &listener{turn: make(chan struct{}, 1)}
	l.turn <- struct{}{}
	return l
}

const (
	// minPool is the smallest pool of which one connection is spent on listening.
	minPool = 3
	// listenPause is how long nobody listens after listening failed.
	listenPause = 5 * time.Second
	// lookPause bounds how often a look at the tables ends the waiting: what is due may be more than relays can take.
	lookPause = 100 * time.Millisecond
	// busyPause is how long a process listens to itself alone after each of its own wake-ups. While it wakes itself more often
	// than that its relays look at the tables anyway, and to listen in between is three statements for nothing.
	busyPause = 100 * time.Millisecond
	// unlistenTimeout is how long it may take to make a connection fit for the pool again.
	unlistenTimeout = 2 * time.Second
)

var errNoListening = errors.New("the pool has too few connections to spend one on listening")

// AwaitWake waits for a wake-up of this process or another one; see [reliable.Waker]. Of all calls on one store, one
// holds a connection of the pool while it waits. Where listening is not possible (the pool has fewer than three
// connections, the server cannot be reached) only wake-ups of this very Store arrive until it is; and so it is for a tenth of
// a second after each of those.
func (s *Store) AwaitWake(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	rung, leave := s.WaitLocal()
	defer leave()
	retry := time.NewTimer(max(0, busyPause-time.Since(time.Unix(0, s.listener.rung.Load()))))
	defer retry.Stop()
	turn := (<-chan struct{})(nil)
	for {
		select {
		case <-rung:
			s.listener.rung.Store(time.Now().UnixNano())
			return nil
		case <-ctx.Done():
			return ctx.Err()
		case <-retry.C:
			turn = s.listener.turn
			continue
		case <-turn:
		}
		err := s.listen(ctx, rung)
		s.listener.turn <- struct{}{}
		switch {
		case err == nil:
			_ = s.core.Wake(ctx) // it cannot fail
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, errRung):
			s.listener.rung.Store(time.Now().UnixNano())
			return nil
		case errors.Is(err, errNoListening):
			turn = nil
			continue
		}
		s.logger.WarnContext(ctx, "listening for wake-ups failed, relays look by themselves meanwhile", "error", err)
		turn = nil
		retry.Reset(listenPause)
	}
}

var errRung = errors.New("woken by this process")

// listen returns nil once told by another process, errRung once told by this one.
func (s *Store) listen(ctx context.Context, rung <-chan struct{}) error {
	return s.listener.take(ctx, func(conn *pgx.Conn) (fit bool, err error) {
		if _, err := conn.Exec(ctx, "LISTEN "+s.channel()); err != nil {
			return false, err
		}
		// What was committed between the caller's last claim and LISTEN has notified nobody.
		waiting, err := s.waiting(ctx, conn)
		if err == nil && !waiting {
			err = notified(ctx, conn, rung)
		}
		return s.unlisten(ctx, conn), err
	})
}

// notified returns nil once a notification has come, errRung once this process has rung. Only this waiting ends when it
// rings: a statement that is broken off takes its connection with it.
func notified(ctx context.Context, conn *pgx.Conn, rung <-chan struct{}) error {
	ctx, cancel := context.WithCancelCause(ctx)
	var watching sync.WaitGroup
	defer watching.Wait()
	defer cancel(nil)
	watching.Go(func() {
		select {
		case <-rung:
			cancel(errRung)
		case <-ctx.Done():
		}
	})
	_, err := conn.WaitForNotification(ctx)
	if err != nil && errors.Is(context.Cause(ctx), errRung) {
		return errRung
	}
	return err
}

// waiting reports whether there is something to claim, unless it has said so a moment ago.
func (s *Store) waiting(ctx context.Context, conn *pgx.Conn) (bool, error) {
	if time.Since(s.listener.lastLook) < lookPause {
		return false, nil
	}
	var fresh, due bool
	if err := scanOne(ctx, pgxConn{conn}, []any{&fresh, &due}, s.look); err != nil {
		return false, err
	}
	if fresh || due {
		s.listener.lastLook = time.Now()
	}
	return fresh || due, nil
}

// unlisten makes a connection fit for the pool again, and reports whether it is.
func (s *Store) unlisten(ctx context.Context, conn *pgx.Conn) bool {
	if conn.IsClosed() {
		return false
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), unlistenTimeout)
	defer cancel()
	_, err := conn.Exec(ctx, "UNLISTEN "+s.channel())
	return err == nil
}

func (s *Store) takePgx(pool *pgxpool.Pool) func(context.Context, func(*pgx.Conn) (bool, error)) error {
	return func(ctx context.Context, fn func(*pgx.Conn) (bool, error)) error {
		if pool.Config().MaxConns < minPool {
			return errNoListening
		}
		conn, err := pool.Acquire(ctx)
		if err != nil {
			return err
		}
		defer conn.Release()
		fit, err := fn(conn.Conn())
		if !fit {
			closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), unlistenTimeout)
			defer cancel()
			_ = conn.Conn().Close(closing) // the pool replaces it
		}
		return err
	}
}

func (s *Store) takeSQL(db *sql.DB) func(context.Context, func(*pgx.Conn) (bool, error)) error {
	return func(ctx context.Context, fn func(*pgx.Conn) (bool, error)) error {
		if limit := db.Stats().MaxOpenConnections; limit > 0 && limit < minPool {
			return errNoListening
		}
		conn, err := db.Conn(ctx)
		if err != nil {
			return err
		}
		defer func() { _ = conn.Close() }()
		err = nil
		raw := conn.Raw(func(dc any) error {
			native, ok := dc.(*stdlib.Conn)
			if !ok {
				err = errNoListening // a wrapped driver
				return nil
			}
			var fit bool
			if fit, err = fn(native.Conn()); !fit {
				return driver.ErrBadConn // the pool throws it away
			}
			return nil
		})
		if err == nil && raw != nil && !errors.Is(raw, driver.ErrBadConn) {
			err = raw
		}
		return err
	}
}

// isNil reports whether an interface holds a nil pointer.
func isNil(v any) bool {
	value := reflect.ValueOf(v)
	return value.Kind() == reflect.Pointer && value.IsNil()
}
