package embedded

import (
	"context"
	"fmt"
	"log/slog"
)

// complaints is the server's logger. A fatal error, at which a server of its own would end its process, makes the start
// fail.
type complaints struct {
	logger *slog.Logger
	fatal  chan<- error
}

func (c *complaints) log(level slog.Level, format string, args []any) {
	ctx := context.Background()
	if c.logger.Enabled(ctx, level) {
		c.logger.LogAttrs(ctx, level, "nats server", slog.String("text", fmt.Sprintf(format, args...)))
	}
}

// Fatalf implements server.Logger.
func (c *complaints) Fatalf(format string, args ...any) {
	c.log(slog.LevelError, format, args)
	select {
	case c.fatal <- fmt.Errorf(format, args...):
	default: // the first one is the cause
	}
}

// Errorf implements server.Logger.
func (c *complaints) Errorf(format string, args ...any) { c.log(slog.LevelError, format, args) }

// Warnf implements server.Logger.
func (c *complaints) Warnf(format string, args ...any) { c.log(slog.LevelWarn, format, args) }

// Noticef implements server.Logger.
func (c *complaints) Noticef(format string, args ...any) { c.log(slog.LevelInfo, format, args) }

// Debugf implements server.Logger. It is never called: debugging is off.
func (c *complaints) Debugf(string, ...any) {}

// Tracef implements server.Logger. It is never called: tracing is off.
func (c *complaints) Tracef(string, ...any) {}
