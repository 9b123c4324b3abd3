package main

import (
	"io"
	"log/slog"

	"github.com/spf13/cobra"
)

// logging is the flags of what runs long enough to log.
type logging struct{ logLevel, logFormat string }

func (l *logging) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&l.logLevel, "log-level", "info", "what is logged: debug, info, warn or error")
	flags.StringVar(&l.logFormat, "log-format", "text", "how it is logged: text or json")
	complete(cmd, "log-level", func(*cobra.Command) []string { return []string{"debug", "info", "warn", "error"} })
	complete(cmd, "log-format", func(*cobra.Command) []string { return []string{"text", "json"} })
}

// logger makes the logger that the flags ask for.
func (l *logging) logger(to io.Writer) (*slog.Logger, error) {
	options := &slog.HandlerOptions{}
	level, known := map[string]slog.Level{
		"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError,
	}[l.logLevel]
	if !known {
		return nil, usagef("--log-level is %q, must be debug, info, warn or error", l.logLevel)
	}
	options.Level = level
	switch l.logFormat {
	case "text":
		return slog.New(slog.NewTextHandler(to, options)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(to, options)), nil
	}
	return nil, usagef("--log-format is %q, must be text or json", l.logFormat)
}
