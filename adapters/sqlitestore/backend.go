package sqlitestore

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/reliable/backend"
)

// Backend opens stores by URL:
//
//	sqlite:orders.db                    a path relative to the working directory
//	sqlite:/var/lib/shop/orders.db      an absolute one; sqlite:///var/lib/shop/orders.db is the same
//
// It does as [Open] does: the file is made if it is not there, and its tables are brought up to date. The handle of the
// opened store, which it lends to the business ([backend.SQL]), is a *sql.DB, so business transactions are *sql.Tx. A
// database in memory is refused, as nothing of it outlives the process. Parameters:
//
//	table_prefix   see WithTablePrefix
//	max_payload    the largest payload in bytes, see WithLimits
//	synchronous    full (default) or normal, see WithSynchronousNormal
//	busy_timeout   see WithBusyTimeout; default 5s
//	create         true (default) or false, which refuses a file that is not there: right for tools
//	migrate        true (default) or false, which leaves the tables alone, see WithoutMigration: right for tools
func Backend() backend.Kind[backend.Store] {
	return backend.Kind[backend.Store]{
		Schemes: []string{"sqlite"},
		Example: "sqlite:/var/lib/shop/orders.db?table_prefix=waybill_&max_payload=16777216&synchronous=full&" +
			"busy_timeout=5s&create=true&migrate=true",
		Open: func(ctx context.Context, u *url.URL) (backend.Store, error) { return openURL(ctx, u) },
		Schema: func(u *url.URL) (string, error) {
			_, opts, _, err := parseURL(u)
			if err != nil {
				return "", err
			}
			return Schema(opts...)
		},
	}
}

// opened is a store that Open opened.
type opened struct{ *Store }

var (
	_ backend.Store    = (*opened)(nil)
	_ backend.SQL      = (*opened)(nil)
	_ backend.Migrator = (*opened)(nil)
	_ backend.Pinger   = (*opened)(nil)
	_ reliable.Wrapper = (*opened)(nil)
)

func (o *opened) Unwrap() any                    { return o.Store }
func (o *opened) Ping(ctx context.Context) error { return o.DB().PingContext(ctx) }

func openURL(ctx context.Context, u *url.URL) (*opened, error) {
	path, opts, create, err := parseURL(u)
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(path); !create && err != nil { //nolint:gosec // who configures the program names its files
		return nil, fmt.Errorf("sqlitestore: open: %w", err)
	}
	store, err := Open(ctx, path, opts...)
	if err != nil {
		return nil, err
	}
	return &opened{store}, nil
}

func parseURL(u *url.URL) (path string, opts []Option, create bool, err error) {
	p := backend.ParamsOf(u)
	path = u.Path
	if u.Opaque != "" {
		if path, err = url.PathUnescape(u.Opaque); err != nil {
			p.Refuse("path", "has a %% that is no percent-encoding; write it as %%25")
		}
	}
	switch {
	case u.Host != "" || u.User != nil:
		p.Refuse("host", "stands where SQLite has a path; write sqlite:relative.db, sqlite:/absolute.db or sqlite:///absolute.db")
	case path == "" || path == "/":
		p.Refuse("path", "is missing; write sqlite:relative.db or sqlite:/absolute.db")
	case strings.HasPrefix(path, ":") || strings.HasPrefix(path, "file:"):
		p.Refuse("path", "must be that of a file: what is in memory is lost with the process, as are the messages")
	case strings.ContainsRune(path, 0):
		p.Refuse("path", "holds a zero byte, which no file name can")
	}
	if prefix, ok := p.Text("table_prefix"); ok {
		opts = append(opts, WithTablePrefix(prefix))
	}
	if most, ok := p.Int("max_payload", 1, 1<<30); ok {
		limits := reliable.DefaultLimits()
		limits.Payload = most
		opts = append(opts, WithLimits(limits))
	}
	if mode, ok := p.Choice("synchronous", "full", "normal"); ok && mode == "normal" {
		opts = append(opts, WithSynchronousNormal())
	}
	if d, ok := p.Duration("busy_timeout", time.Millisecond, time.Hour); ok {
		opts = append(opts, WithBusyTimeout(d))
	}
	create = p.Bool("create", true)
	if !p.Bool("migrate", true) {
		opts = append(opts, WithoutMigration())
	}
	_, problems := configure(true, opts)
	if err := errors.Join(p.Err(), problems); err != nil {
		return "", nil, false, fmt.Errorf("sqlitestore: %w", err)
	}
	return path, opts, create, nil
}
