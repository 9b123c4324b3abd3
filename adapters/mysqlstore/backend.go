package mysqlstore

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

	"github.com/go-sql-driver/mysql"

	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/reliable/backend"
)

const (
	defaultPort         = "3306"
	defaultPool         = 20
	defaultPoolLifetime = 30 * time.Minute
	poolIdleTime        = 5 * time.Minute
	defaultDialTimeout  = 5 * time.Second
)

// Backend opens stores by URL:
//
//	mysql://user:password@host:3306/database?table_prefix=waybill_&pool=20
//
// The scheme is mysql or mariadb. The handle of the opened store, which it lends to the business ([backend.SQL]), is a
// *sql.DB, so business transactions are *sql.Tx; times are scanned into time.Time, in UTC. Parameters:
//
//	table_prefix    see WithTablePrefix
//	max_payload     the largest payload in bytes, see WithLimits
//	pool            connections at most, open and idle; default 20. Fewer than 4 hold senders up behind the relay
//	pool_lifetime   how long a connection is kept; default 30m, below the server's wait_timeout and a proxy's own limit
//	socket          path of a Unix socket, in place of host and port
//	timeout         for connecting; default 5s
//	read_timeout    for each read and write on the socket; default none. Above the longest business statement, or that
//	write_timeout   statement is broken off
//	tls             false (default), true, preferred (if the server has it) or skip-verify (encrypted, to whoever answers)
//	tls_ca          file of the PEM certificates to trust in place of the system's, with tls=true
func Backend() backend.Kind[backend.Store] {
	return backend.Kind[backend.Store]{
		Schemes: []string{"mysql", "mariadb"},
		Example: "mysql://user:password@host:3306/database?table_prefix=waybill_&max_payload=16777216&pool=20&" +
			"pool_lifetime=30m&timeout=5s&read_timeout=60s&write_timeout=60s&tls=true&tls_ca=/etc/ssl/db.pem",
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
	config   *mysql.Config
	pool     int
	lifetime time.Duration
	options  []Option
}

func openURL(ctx context.Context, u *url.URL) (*opened, error) {
	s, err := parseURL(u)
	if err != nil {
		return nil, err
	}
	connector, err := mysql.NewConnector(s.config)
	if err != nil {
		return nil, fmt.Errorf("mysqlstore: open: %w", err)
	}
	db := sql.OpenDB(connector)
	db.SetMaxOpenConns(s.pool)
	db.SetMaxIdleConns(s.pool)
	db.SetConnMaxLifetime(s.lifetime)
	db.SetConnMaxIdleTime(poolIdleTime)
	store, err := New(db, s.options...)
	if err == nil {
		// The driver's own time-out ends with the handshake's beginning.
		connecting, cancel := context.WithTimeout(ctx, s.config.Timeout)
		defer cancel()
		if err = db.PingContext(connecting); err != nil {
			err = fmt.Errorf("mysqlstore: open: connect to %s: %w", s.config.Addr, err)
		}
	}
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return &opened{store, db}, nil
}

func parseURL(u *url.URL) (urlSettings, error) {
	p := backend.ParamsOf(u)
	s := urlSettings{config: mysql.NewConfig(), pool: defaultPool, lifetime: defaultPoolLifetime}
	c := s.config
	c.InterpolateParams = true // one round trip for a statement, not two
	c.ParseTime = true
	c.Timeout = defaultDialTimeout
	c.Net, c.Addr = "tcp", net.JoinHostPort(u.Hostname(), portOr(u, defaultPort))
	if u.User != nil {
		c.User = u.User.Username()
		c.Passwd, _ = u.User.Password()
	}
	if c.DBName = strings.TrimPrefix(u.Path, "/"); c.DBName == "" || strings.Contains(c.DBName, "/") {
		p.Refuse("path", "must be the name of the database, as in mysql://user:password@host/database")
	}
	socket, bySocket := p.Text("socket")
	switch {
	case bySocket && u.Host != "":
		p.Refuse("host", "is given beside the parameter socket; leave one of them out")
	case bySocket:
		c.Net, c.Addr = "unix", socket
	case u.Hostname() == "":
		p.Refuse("host", "is missing; give the server's, or the parameter socket")
	}
	if d, ok := p.Duration("timeout", time.Millisecond, time.Hour); ok {
		c.Timeout = d
	}
	c.ReadTimeout, _ = p.Duration("read_timeout", time.Millisecond, 24*time.Hour)
	c.WriteTimeout, _ = p.Duration("write_timeout", time.Millisecond, 24*time.Hour)
	parseTLS(p, c, u.Hostname())
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
		return s, fmt.Errorf("mysqlstore: %w", err)
	}
	return s, nil
}

func parseTLS(p *backend.Params, c *mysql.Config, host string) {
	mode, given := p.Choice("tls", "false", "true", "preferred", "skip-verify")
	if given {
		c.TLSConfig = mode
	}
	file, ok := p.Text("tls_ca")
	switch {
	case !ok:
		return
	case mode != "true":
		p.Refuse(`parameter "tls_ca"`, "needs tls=true: no other mode verifies the server")
		return
	}
	pem, err := os.ReadFile(file) //nolint:gosec // who configures the program names its files
	pool := x509.NewCertPool()
	if err != nil || !pool.AppendCertsFromPEM(pem) {
		p.Refuse(`parameter "tls_ca"`, "must name a readable file with PEM certificates")
		return
	}
	c.TLS = &tls.Config{RootCAs: pool, ServerName: host, MinVersion: tls.VersionTLS12}
}

func portOr(u *url.URL, fallback string) string {
	if port := u.Port(); port != "" {
		return port
	}
	return fallback
}
