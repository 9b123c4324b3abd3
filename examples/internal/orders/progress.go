package orders

import (
	"context"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/waybillmq/waybill/reliable"
)

// progress tells a person what goes on: a line for each phase, and one each second.
type progress struct {
	shop     *shop
	consumer *consumer
	// stats says what is pending and failed. checked says how many orders are confirmed and had
	// their check answered; nil where there are no checks.
	stats   func(ctx context.Context) ([]reliable.TopicStats, error)
	checked func() int
	begun   time.Time
	end     chan struct{}
	ended   sync.WaitGroup

	mu    sync.Mutex
	out   io.Writer
	state string
}

func startProgress(ctx context.Context, p *progress) *progress {
	p.begun, p.end, p.state = time.Now(), make(chan struct{}), "broker up"
	p.ended.Go(func() {
		ticker := time.NewTicker(time.Second)
		defer ticker.Stop()
		for {
			select {
			case <-ticker.C:
				if now, err := p.look(ctx); err == nil {
					p.say("%s", now)
				}
			case <-p.end:
				return
			}
		}
	})
	return p
}

func (p *progress) stop() {
	close(p.end)
	p.ended.Wait()
}

func (p *progress) say(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	fmt.Fprintf(p.out, "%5.1fs  %-11s  %s\n", time.Since(p.begun).Seconds(), p.state, fmt.Sprintf(format, args...))
}

func (p *progress) broker(state string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.state = state
}

// snapshot is where everything stands at a moment.
type snapshot struct{ placed, unchecked, pending, failed, delivered int }

func (s snapshot) String() string {
	if s.unchecked > 0 {
		return fmt.Sprintf("placed %-6d delivered %-6d to be checked %-6d to be sent again %d", s.placed, s.delivered, s.unchecked, s.pending)
	}
	return fmt.Sprintf("placed %-6d pending %-6d failed %-3d delivered %d", s.placed, s.pending, s.failed, s.delivered)
}

func (s snapshot) quiet() bool {
	return s.unchecked == 0 && s.pending == 0 && s.delivered+s.failed >= s.placed
}

func (p *progress) look(ctx context.Context) (snapshot, error) {
	s := snapshot{placed: int(p.shop.placed.Load())}
	if p.checked != nil {
		s.unchecked = max(0, s.placed-p.checked())
	}
	topics, err := p.stats(ctx)
	if err != nil {
		return s, err
	}
	for _, topic := range topics {
		s.pending += topic.Pending
		s.failed += topic.Failed
	}
	s.delivered, err = p.consumer.delivered(ctx)
	return s, err
}

// awaitQuiet returns when nothing is pending and all is received, or when nothing has changed for that long.
func (p *progress) awaitQuiet(ctx context.Context, patience time.Duration) error {
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	last, changed := snapshot{}, time.Now()
	for {
		now, err := p.look(ctx)
		if err != nil {
			return fmt.Errorf("look how far it is: %w", err)
		}
		if now != last {
			last, changed = now, time.Now()
		}
		if now.quiet() {
			p.say("%s", now)
			return nil
		}
		if time.Since(changed) > patience {
			p.say("%s: nothing has changed for %v", now, patience)
			return nil
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
