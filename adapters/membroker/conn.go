package membroker

import (
	"context"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/waybillmq/waybill/reliable"
)

// Conn is one publishing connection, which reconnects by itself. It is safe for concurrent use, with one reader.
type Conn struct {
	b              *Broker
	number         int
	window         int
	confirmTimeout time.Duration

	// Guarded by b.mu.
	taken    int                // window slots: handed over, or about to be, and the confirm not received
	ready    []reliable.Confirm // answered; ready[read:] is not received yet
	read     int
	flights  flightList // handed over, not answered
	readable gate
	writable gate
	closed   bool
}

var (
	_ reliable.Publisher     = (*Conn)(nil)
	_ reliable.ConfirmSource = (*Conn)(nil)
	_ reliable.Bounded       = (*Conn)(nil)
	_ reliable.Limited       = (*Conn)(nil)
)

// Number says which connection this is in [Attempt] and [Record].
func (c *Conn) Number() int { return c.number }

// MaxConfirmWait is the confirm timeout.
func (c *Conn) MaxConfirmWait() time.Duration { return c.confirmTimeout }

// Limits are those of [WithLimits].
func (c *Conn) Limits() reliable.Limits { return c.b.limits }

// Publish hands attempts over, see [reliable.Publisher]. A slot of the window is free again when its confirm has been
// received. During an outage it waits, or ends with [ErrDown] (see [WithFailFast]).
func (c *Conn) Publish(ctx context.Context, batch []reliable.Attempt) (int, error) {
	n := 0
	for n < len(batch) {
		room, err := c.reserve(ctx, len(batch)-n)
		if err != nil {
			return n, err
		}
		var sent int
		if c.b.script == nil {
			sent = c.handOver(batch[n : n+room])
		} else {
			sent, err = c.handOverScripted(batch[n : n+room])
		}
		n += sent
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// reserve waits for the broker and for room in the window, and takes up to want slots.
func (c *Conn) reserve(ctx context.Context, want int) (int, error) {
	for {
		if err := ctx.Err(); err != nil {
			return 0, fmt.Errorf("membroker: publish: %w", err)
		}
		c.b.mu.Lock()
		if c.closed {
			c.b.mu.Unlock()
			return 0, fmt.Errorf("membroker: publish: %w", reliable.ErrClosed)
		}
		down := c.b.down
		if down && c.b.failFast {
			c.b.mu.Unlock()
			return 0, fmt.Errorf("membroker: publish: %w", ErrDown)
		}
		if room := min(c.window-c.taken, want); room > 0 && !down {
			c.taken += room
			c.b.mu.Unlock()
			return room, nil
		}
		changed := c.writable.wait()
		c.b.mu.Unlock()

		select {
		case <-changed:
		case <-ctx.Done():
			if down {
				return 0, fmt.Errorf("membroker: publish: %w: %w", ErrDown, ctx.Err())
			}
			return 0, fmt.Errorf("membroker: publish: window of %d is full: %w", c.window, ctx.Err())
		}
	}
}

// handOver fills reserved slots; it stops early if the broker went away meanwhile.
func (c *Conn) handOver(batch []reliable.Attempt) int {
	c.b.mu.Lock()
	defer c.b.mu.Unlock()
	if c.closed || c.b.down {
		c.release(len(batch))
		return 0
	}
	now := c.b.advance()
	for i := range batch {
		c.accept(now, &batch[i], Verdict{})
	}
	return len(batch)
}

// handOverScripted is handOver for a broker with a script, which may change anything as it is asked.
func (c *Conn) handOverScripted(batch []reliable.Attempt) (int, error) {
	for i := range batch {
		sent, err := c.handOverOne(&batch[i])
		if !sent {
			c.b.mu.Lock()
			c.release(len(batch) - i)
			c.b.mu.Unlock()
			return i, err
		}
	}
	return len(batch), nil
}

func (c *Conn) handOverOne(a *reliable.Attempt) (bool, error) {
	b := c.b
	b.scriptTurn.Lock()
	defer b.scriptTurn.Unlock()

	b.mu.Lock()
	if c.closed || b.down {
		b.mu.Unlock()
		return false, nil
	}
	b.advance()
	b.asked++
	question := Attempt{Attempt: *a, Number: b.asked, Conn: c.number, OfID: 1}
	if !b.discard {
		b.askedFor[a.ID]++
		question.OfID = b.askedFor[a.ID]
	}
	b.mu.Unlock()

	verdict := b.script(question)

	b.mu.Lock()
	defer b.mu.Unlock()
	if c.closed || b.down {
		return false, nil
	}
	if verdict.Act == Refuse {
		cause := verdict.Err
		if cause == nil {
			cause = ErrRefused
		}
		return false, fmt.Errorf("membroker: publish: %w", cause)
	}
	c.accept(b.advance(), a, verdict)
	return true, nil
}

// accept is the hand-over: from here on the attempt has exactly one confirm.
func (c *Conn) accept(now time.Time, a *reliable.Attempt, v Verdict) {
	b := c.b
	record := b.recordHandover(now, c.number, a, v.Act)
	if err := b.refusal(a); err != nil {
		c.confirm(now, a.ID, a.Fence, reliable.Rejected, err, record)
		return
	}
	if v.Delay == 0 {
		v.Delay = b.latency
	}
	if v.Delay == 0 && !v.Act.cuts() && !b.blocked { // answered at once; nothing to keep
		f := b.fateOf(a, &v)
		b.store(now, a, f.copies, record)
		c.confirm(now, a.ID, a.Fence, f.outcome, f.err, record)
		return
	}
	f := &flight{conn: c, attempt: *a, verdict: v, handedOver: now, record: record}
	c.flights.push(f)
	if b.blocked {
		b.stalled = append(b.stalled, f)
		b.schedule.put(f, now.Add(c.confirmTimeout), noAnswer)
		c.readable.open() // whoever reads has a new time to look again
		return
	}
	b.process(now, f)
}

// Receive returns confirms, see [reliable.ConfirmSource].
func (c *Conn) Receive(ctx context.Context, limit int) ([]reliable.Confirm, error) {
	if limit < 1 {
		return nil, reliable.Invalid("limit", "is %d, must be at least 1", limit)
	}
	for {
		c.b.mu.Lock()
		c.b.advance()
		if confirms := c.take(limit); len(confirms) > 0 {
			c.b.mu.Unlock()
			return confirms, nil
		}
		if c.closed && c.taken == 0 {
			c.b.mu.Unlock()
			return nil, io.EOF
		}
		readable, next := c.readable.wait(), c.b.nextEvent()
		c.b.mu.Unlock()
		if err := await(ctx, readable, next); err != nil {
			return nil, fmt.Errorf("membroker: receive: %w", err)
		}
	}
}

// take removes up to limit confirms from what is ready.
func (c *Conn) take(limit int) []reliable.Confirm {
	n := min(limit, len(c.ready)-c.read)
	if n == 0 {
		return nil
	}
	taken := make([]reliable.Confirm, n)
	for i := range taken {
		if pick := c.b.reorder; pick != nil {
			chosen := c.read + pick(len(c.ready)-c.read)
			// What was before the chosen one moves up, so that the others keep their order.
			confirm := c.ready[chosen]
			copy(c.ready[c.read+1:chosen+1], c.ready[c.read:chosen])
			c.ready[c.read] = confirm
		}
		taken[i] = c.ready[c.read]
		c.ready[c.read] = reliable.Confirm{}
		c.read++
	}
	if c.read == len(c.ready) {
		c.ready, c.read = c.ready[:0], 0
	} else if c.read >= c.window {
		c.ready, c.read = append(c.ready[:0], c.ready[c.read:]...), 0
	}
	c.release(n)
	return taken
}

// Close closes the connection. What is in flight is Unknown; Receive returns it, then io.EOF.
func (c *Conn) Close() error {
	c.b.mu.Lock()
	defer c.b.mu.Unlock()
	c.b.advance()
	c.close()
	return nil
}

func (c *Conn) close() {
	if c.closed {
		return
	}
	c.closed = true
	c.lose(time.Now(), everything, errClosedInFlight)
	c.b.conns = slices.DeleteFunc(c.b.conns, func(open *Conn) bool { return open == c })
	c.readable.open()
	c.writable.open()
}

// Cut kills the connection once, from outside the script: what is in flight is Unknown with
// [reliable.ErrConnectionLost]. It goes on with a new one.
func (c *Conn) Cut() {
	c.b.mu.Lock()
	defer c.b.mu.Unlock()
	c.lose(c.b.advance(), everything, errLost)
}

func (c *Conn) release(slots int) {
	if slots > 0 {
		c.taken -= slots
		c.writable.open()
		if c.closed {
			c.readable.open() // the last slot is what io.EOF waits for
		}
	}
}
