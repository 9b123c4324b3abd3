package postgresstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/reliable/backend"
)

const (
	defaultPool         = 20
	defaultPoolLifetime = 30 * time.Minute
	poolIdleTime        = 5 * time.Minute
	defaultDialTimeout  = 5 * time.Second
)

// Backend opens stores by URL:
//
//	postgres://user:password@host:5432/database?sslmode=require&table_prefix=waybill_&pool=20
//
// The scheme is postgres or postgresql. The handle of the opened store, which it lends to the business ([backend.SQL]),
// is a *sql.DB on pgx's driver, so business transactions are *sql.Tx, as those of every store that is opened by URL; a
// program that works with pgx.Tx passes a pool of its own to tagging.InTx, or makes the store with [NewPgx]. Parameters:
//
//	table_prefix    see WithTablePrefix
//	max_payload     the largest payload in bytes, see WithLimits
//	pool            connections at most, open and idle; default 20. A relay holds one of them to wait for wake-ups
//	pool_lifetime   how long a connection is kept; default 30m, below a proxy's own limit
//	timeout         for connecting to one address; default 5s
//
// and these, which mean what they mean to libpq: sslmode, sslrootcert, sslcert, sslkey, application_name, search_path,
// target_session_attrs. Without sslmode TLS is used if the server has it, unverified (prefer).
func Backend() backend.Kind[backend.Store] {
	return backend.Kind[backend.Store]{
		Schemes: []string{"postgres", "postgresql"},
		Example: "postgres://user:password@host:5432/database?table_prefix=waybill_&max_payload=16777216&pool=20&" +
			"pool_lifetime=30m&timeout=5s&sslmode=verify-full&sslrootcert=/etc/ssl/db.pem&sslcert=/etc/ssl/own.pem&" +
			"sslkey=/etc/ssl/own.key&application_name=shop&search_path=shop&target_session_attrs=read-write",
		Open: func(ctx context.Context, u *url.URL) (backend.Store, error) { return openURL(ctx, u) },
		Schema: func(u *url.URL) (string, error) {
			s, err := parseURL(u)
			if err != nil {
				return "", err
			}
			return Schema(s.options...)
		},
	}
}

// opened is a store with a database of its own.
type opened struct {
	*Store
	db *sql.DB
}

var (
	_ backend.Store    = (*opened)(nil)
	_ backend.SQL      = (*opened)(nil)
	_ backend.Migrator = (*opened)(nil)
	_ backend.Pinger   = (*opened)(nil)
	_ reliable.Wrapper = (*opened)(nil)
)

func (o *opened) Unwrap() any                    { return o.Store }
func (o *opened) DB() *sql.DB                    { return o.db }
func (o *opened) Ping(ctx context.Context) error { return o.db.PingContext(ctx) }
func (o *opened) Close() error                   { return o.db.Close() }

// urlSettings is what a URL says.
type urlSettings struct {
	config   *pgx.ConnConfig
	pool     int
	lifetime time.Duration
	options  []Option
}

func openURL(ctx context.Context, u *url.URL) (*opened, error) {
	s, err := parseURL(u)
	if err != nil {
		return nil, err
	}
	db := stdlib.OpenDB(*s.config)
	db.SetMaxOpenConns(s.pool)
	db.SetMaxIdleConns(s.pool)
	db.SetConnMaxLifetime(s.lifetime)
	db.SetConnMaxIdleTime(poolIdleTime)
	store, err := New(db, s.options...)
	if err == nil {
		if err = db.PingContext(ctx); err != nil {
			err = fmt.Errorf("postgresstore: open: %w", err)
		}
	}
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return &opened{store, db}, nil
}

// driverParams are passed on to pgx.
var driverParams = []string{
	"sslmode", "sslrootcert", "sslcert", "sslkey", "application_name", "search_path", "target_session_attrs",
}

func parseURL(u *url.URL) (urlSettings, error) {
	p := backend.ParamsOf(u)
	s := urlSettings{pool: defaultPool, lifetime: defaultPoolLifetime}
	if u.Hostname() == "" {
		p.Refuse("host", "is missing; give the server's")
	}
	if name := strings.TrimPrefix(u.Path, "/"); name == "" || strings.Contains(name, "/") {
		p.Refuse("path", "must be the name of the database, as in postgres://user:password@host/database")
	}
	passed := url.Values{}
	for _, name := range driverParams {
		if value, ok := p.Text(name); ok {
			passed.Set(name, value)
		}
	}
	timeout := defaultDialTimeout
	if d, ok := p.Duration("timeout", time.Millisecond, time.Hour); ok {
		timeout = d
	}
	if n, ok := p.Int("pool", 1, 10_000); ok {
		s.pool = n
	}
	if d, ok := p.Duration("pool_lifetime", time.Second, 24*time.Hour); ok {
		s.lifetime = d
	}
	if prefix, ok := p.Text("table_prefix"); ok {
		s.options = append(s.options, WithTablePrefix(prefix))
	}
	if most, ok := p.Int("max_payload", 1, 1<<30); ok {
		limits := reliable.DefaultLimits()
		limits.Payload = most
		s.options = append(s.options, WithLimits(limits))
	}
	_, problems := configure(s.options)
	if err := errors.Join(p.Err(), problems); err != nil {
		return s, fmt.Errorf("postgresstore: %w", err)
	}

	driver := *u
	driver.Scheme, driver.RawQuery = "postgres", passed.Encode()
	config, err := pgx.ParseConfig(driver.String())
	if err != nil {
		return s, fmt.Errorf("postgresstore: open: %w", reliable.Invalid("store URL", "is refused by the driver: %v", err))
	}
	config.ConnectTimeout = timeout
	s.config = config
	return s, nil
}
