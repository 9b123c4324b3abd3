package sqlbroker

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/go-sql-driver/mysql"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/reliable/backend"
)

const (
	defaultMySQLPort    = "3306"
	defaultPool         = 20
	defaultPoolLifetime = 30 * time.Minute
	poolIdleTime        = 5 * time.Minute
	defaultDialTimeout  = 5 * time.Second
)

// Backend opens brokers by URL:
//
//	mysql://user:password@host:3306/database?table_prefix=watermill_
//	postgres://user:password@host:5432/database?table_prefix=watermill_
//
// The scheme is mysql, mariadb, postgres or postgresql. A URL that leads to the database of the store makes hand-overs of
// one transaction. Parameters:
//
//	table_prefix      see WithTablePrefix; default watermill_
//	max_payload       see WithMaxPayload; default 16777216
//	window            see WithWindow; default 1000
//	batch             see WithBatch; default 500
//	writers           see WithWriters; default 8
//	confirm_timeout   see WithConfirmTimeout; default 10s
//	pool              connections at most, open and idle; default 20. A subscription keeps one while a message is handled
//	pool_lifetime     how long a connection is kept; default 30m, below the server's wait_timeout and a proxy's own limit
//	timeout           for connecting; default 5s
//
// for subscribers:
//
//	fetch             see WithFetch; default 1 on MySQL, 10 on PostgreSQL
//	ack_deadline      see WithAckDeadline; default 30s
//	poll_interval     see WithPollInterval; default 100ms
//	resend_interval   see WithResendInterval; default 1s
//
// on MySQL:
//
//	tls               false (default), true, preferred (if the server has it) or skip-verify (encrypted, to whoever answers)
//	tls_ca            file of the PEM certificates to trust in place of the system's, with tls=true
//
// and on PostgreSQL, where they mean what they mean to libpq: sslmode, sslrootcert, sslcert, sslkey, application_name,
// search_path, target_session_attrs.
func Backend() backend.Kind[backend.Broker] {
	return backend.Kind[backend.Broker]{
		Schemes: []string{"mysql", "mariadb", "postgres", "postgresql"},
		Example: "mysql://user:password@host:3306/database?table_prefix=watermill_&max_payload=16777216&window=1000&batch=500&" +
			"writers=8&confirm_timeout=10s&pool=20&pool_lifetime=30m&timeout=5s&fetch=1&ack_deadline=30s&poll_interval=100ms&" +
			"resend_interval=1s&tls=true&tls_ca=/etc/ssl/db.pem",
		Open: func(_ context.Context, u *url.URL) (backend.Broker, error) {
			o, err := openURL(u)
			if err != nil {
				return nil, err
			}
			return o, nil
		},
	}
}

// opened is a Broker with a pool of its own, and the subscribers that a URL describes.
type opened struct {
	*Broker
	subscribing []SubscriberOption
}

var (
	_ backend.Broker   = (*opened)(nil)
	_ backend.Pinger   = (*opened)(nil)
	_ reliable.Wrapper = (*opened)(nil)
)

func (o *opened) Unwrap() any { return o.Broker }

// Subscribe implements [backend.Broker].
func (o *opened) Subscribe(group string) (message.Subscriber, error) {
	s, err := o.Subscriber(group, o.subscribing...)
	if err != nil {
		return nil, err
	}
	return s, nil
}

// Close implements [backend.Broker]: it closes the pool, too.
func (o *opened) Close() error { return errors.Join(o.Broker.Close(), o.db.Close()) }

func openURL(u *url.URL) (*opened, error) {
	p := backend.ParamsOf(u)
	opts := brokerParams(p)
	subscribing := subscriberParams(p)
	pool, lifetime, timeout := defaultPool, defaultPoolLifetime, defaultDialTimeout
	if n, ok := p.Int("pool", 1, 10_000); ok {
		pool = n
	}
	if d, ok := p.Duration("pool_lifetime", time.Second, 24*time.Hour); ok {
		lifetime = d
	}
	if d, ok := p.Duration("timeout", time.Millisecond, time.Hour); ok {
		timeout = d
	}
	if u.Hostname() == "" {
		p.Refuse("host", "is missing; give the server's")
	}
	if name := strings.TrimPrefix(u.Path, "/"); name == "" || strings.Contains(name, "/") {
		p.Refuse("path", "must be the name of the database, as in %s://user:password@host/database", u.Scheme)
	}
	kind, connect := MySQL, mysqlParams
	if strings.HasPrefix(u.Scheme, "postgres") {
		kind, connect = Postgres, postgresParams
	}
	dial := connect(p, u, timeout)
	_, problems := configure(opts)
	if err := errors.Join(p.Err(), problems); err != nil {
		return nil, fmt.Errorf("sqlbroker: %w", err)
	}
	db, err := dial()
	if err != nil {
		return nil, fmt.Errorf("sqlbroker: open: %w", err)
	}
	db.SetMaxOpenConns(pool)
	db.SetMaxIdleConns(pool)
	db.SetConnMaxLifetime(lifetime)
	db.SetConnMaxIdleTime(poolIdleTime)
	b, err := New(kind, db, opts...)
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return &opened{b, subscribing}, nil
}

func brokerParams(p *backend.Params) []Option {
	var opts []Option
	if prefix, ok := p.Text("table_prefix"); ok {
		opts = append(opts, WithTablePrefix(prefix))
	}
	if most, ok := p.Int("max_payload", 1, largestPayload); ok {
		opts = append(opts, WithMaxPayload(most))
	}
	if n, ok := p.Int("window", 1, 1_000_000); ok {
		opts = append(opts, WithWindow(n))
	}
	if n, ok := p.Int("batch", 1, maxBatch); ok {
		opts = append(opts, WithBatch(n))
	}
	if n, ok := p.Int("writers", 1, 10_000); ok {
		opts = append(opts, WithWriters(n))
	}
	if d, ok := p.Duration("confirm_timeout", 100*time.Millisecond, time.Hour); ok {
		opts = append(opts, WithConfirmTimeout(d))
	}
	return opts
}

func subscriberParams(p *backend.Params) []SubscriberOption {
	var opts []SubscriberOption
	if n, ok := p.Int("fetch", 1, maxBatch); ok {
		opts = append(opts, WithFetch(n))
	}
	if d, ok := p.Duration("ack_deadline", time.Millisecond, 24*time.Hour); ok {
		opts = append(opts, WithAckDeadline(d))
	}
	if d, ok := p.Duration("poll_interval", time.Millisecond, time.Hour); ok {
		opts = append(opts, WithPollInterval(d))
	}
	if d, ok := p.Duration("resend_interval", time.Millisecond, time.Hour); ok {
		opts = append(opts, WithResendInterval(d))
	}
	return opts
}

// mysqlParams reads what only MySQL knows, and returns what opens the pool.
func mysqlParams(p *backend.Params, u *url.URL, timeout time.Duration) func() (*sql.DB, error) {
	c := mysql.NewConfig()
	c.InterpolateParams = true // one round trip for a statement, not two
	c.Timeout = timeout
	port := u.Port()
	if port == "" {
		port = defaultMySQLPort
	}
	c.Net, c.Addr = "tcp", net.JoinHostPort(u.Hostname(), port)
	c.DBName = strings.TrimPrefix(u.Path, "/")
	if u.User != nil {
		c.User = u.User.Username()
		c.Passwd, _ = u.User.Password()
	}
	mode, given := p.Choice("tls", "false", "true", "preferred", "skip-verify")
	if given {
		c.TLSConfig = mode
	}
	if file, ok := p.Text("tls_ca"); ok {
		pem, err := os.ReadFile(file) //nolint:gosec // whoever runs the program names it
		trusted := x509.NewCertPool()
		switch {
		case mode != "true":
			p.Refuse(`parameter "tls_ca"`, "needs tls=true: no other mode verifies the server")
		case err != nil || !trusted.AppendCertsFromPEM(pem):
			p.Refuse(`parameter "tls_ca"`, "must name a readable file with PEM certificates")
		default:
			c.TLS = &tls.Config{RootCAs: trusted, ServerName: u.Hostname(), MinVersion: tls.VersionTLS12}
		}
	}
	return func() (*sql.DB, error) {
		connector, err := mysql.NewConnector(c)
		if err != nil {
			return nil, err
		}
		return sql.OpenDB(connector), nil
	}
}

// postgresParams is mysqlParams for PostgreSQL.
func postgresParams(p *backend.Params, u *url.URL, timeout time.Duration) func() (*sql.DB, error) {
	passed := url.Values{}
	for _, name := range []string{
		"sslmode", "sslrootcert", "sslcert", "sslkey", "application_name", "search_path", "target_session_attrs",
	} {
		if value, ok := p.Text(name); ok {
			passed.Set(name, value)
		}
	}
	driver := *u
	driver.Scheme, driver.RawQuery = "postgres", passed.Encode()
	return func() (*sql.DB, error) {
		config, err := pgx.ParseConfig(driver.String())
		if err != nil {
			return nil, reliable.Invalid("broker URL", "is refused by the driver: %v", err)
		}
		config.ConnectTimeout = timeout
		return stdlib.OpenDB(*config), nil
	}
}
