package brokertest_test

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/waybillmq/waybill/reliable"
)

var receiveLies = []lie{
	{
		name: "loses confirms when receive is canceled",
		connect: func(_ *lab, c *connection) {
			c.receive = func(ctx context.Context, limit int) ([]reliable.Confirm, error) {
				confirms, err := c.inner.Receive(ctx, limit)
				if ctx.Err() != nil {
					return nil, ctx.Err()
				}
				return confirms, err
			}
		},
		caughtBy: []string{receiveLoses},
	},
	{
		name: "ignores the limit",
		connect: func(_ *lab, c *connection) {
			c.receive = func(ctx context.Context, limit int) ([]reliable.Confirm, error) {
				return c.inner.Receive(ctx, limit+1)
			}
		},
		caughtBy: []string{limits},
	},
	{
		name: "returns nothing at all now and then",
		connect: func(_ *lab, c *connection) {
			calls := 0
			c.receive = func(ctx context.Context, limit int) ([]reliable.Confirm, error) {
				if calls++; calls%2 == 0 {
					return nil, nil
				}
				return c.inner.Receive(ctx, limit)
			}
		},
		caughtBy: []string{limits},
	},
	{
		name: "does not wait for a confirm",
		connect: func(_ *lab, c *connection) {
			c.receive = func(ctx context.Context, limit int) ([]reliable.Confirm, error) {
				short, cancel := context.WithTimeout(ctx, time.Microsecond)
				defer cancel()
				confirms, err := c.inner.Receive(short, limit)
				if errors.Is(err, context.DeadlineExceeded) {
					return nil, nil
				}
				return confirms, err
			}
		},
		caughtBy: []string{receiveWaits, limits},
	},
	{
		name: "ignores the context of receive",
		connect: func(_ *lab, c *connection) {
			c.receive = func(_ context.Context, limit int) ([]reliable.Confirm, error) {
				return c.inner.Receive(context.Background(), limit)
			}
		},
		caughtBy: []string{receiveWaits},
	},
}

var closeLies = []lie{
	{
		name: "says io.EOF before everything was received",
		connect: func(_ *lab, c *connection) {
			closed := make(chan struct{})
			var once sync.Once
			c.close = func() error {
				once.Do(func() { close(closed) })
				return c.inner.Close()
			}
			c.receive = func(ctx context.Context, limit int) ([]reliable.Confirm, error) {
				select {
				case <-closed:
					return nil, io.EOF
				default:
					return c.inner.Receive(ctx, limit)
				}
			}
		},
		caughtBy: []string{closeInFlight},
	},
	{
		name: "forgets what is in flight at close",
		connect: drop(func(confirm reliable.Confirm) bool {
			return errors.Is(confirm.Err, reliable.ErrClosed)
		}),
		caughtBy: []string{closeInFlight, closeRacing},
	},
	{
		name: "never says io.EOF",
		connect: func(_ *lab, c *connection) {
			c.receive = func(ctx context.Context, limit int) ([]reliable.Confirm, error) {
				confirms, err := c.inner.Receive(ctx, limit)
				if errors.Is(err, io.EOF) {
					<-ctx.Done()
					return nil, ctx.Err()
				}
				return confirms, err
			}
		},
		caughtBy: []string{oneConfirm, closeInFlight},
	},
	{
		name: "hangs in close",
		connect: func(l *lab, c *connection) {
			c.close = func() error {
				<-l.over
				return nil
			}
		},
		caughtBy: []string{oneConfirm, closeTwice},
	},
	{
		name: "fails when closed twice",
		connect: func(_ *lab, c *connection) {
			var mu sync.Mutex
			closed := false
			c.close = func() error {
				mu.Lock()
				defer mu.Unlock()
				if closed {
					return errOther
				}
				closed = true
				return c.inner.Close()
			}
		},
		caughtBy: []string{closeTwice},
	},
	{
		name: "takes attempts after close",
		connect: func(_ *lab, c *connection) {
			c.publish = func(ctx context.Context, batch []reliable.Attempt) (int, error) {
				n, err := c.inner.Publish(ctx, batch)
				if errors.Is(err, reliable.ErrClosed) {
					return len(batch), nil
				}
				return n, err
			}
		},
		caughtBy: []string{afterClose, closePublish},
	},
	{
		name: "does not say that it is closed",
		connect: func(_ *lab, c *connection) {
			c.publish = func(ctx context.Context, batch []reliable.Attempt) (int, error) {
				n, err := c.inner.Publish(ctx, batch)
				if err != nil {
					err = errOther
				}
				return n, err
			}
		},
		caughtBy: []string{afterClose, closePublish, closeRacing},
	},
	{
		name: "leaves a waiting receive waiting at close",
		connect: func(_ *lab, c *connection) {
			c.receive = func(ctx context.Context, limit int) ([]reliable.Confirm, error) {
				confirms, err := c.inner.Receive(ctx, limit)
				if errors.Is(err, io.EOF) {
					err = errOther
				}
				return confirms, err
			}
		},
		caughtBy: []string{closeReceive},
	},
	{
		name: "leaves a waiting publish waiting at close",
		connect: func(l *lab, c *connection) {
			c.publish = func(ctx context.Context, batch []reliable.Attempt) (int, error) {
				n, err := c.inner.Publish(ctx, batch)
				if errors.Is(err, reliable.ErrClosed) && n > 0 {
					<-l.over
				}
				return n, err
			}
		},
		caughtBy: []string{closePublish},
	},
	{
		name: "leaves a goroutine behind",
		connect: func(l *lab, _ *connection) {
			go func() { <-l.over }()
		},
		caughtBy: []string{goroutines},
	},
}
