//go:build linux

package testservers

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"syscall"

	"github.com/jackc/pgx/v5"
)

// Postgres is a PostgreSQL server of the test's own.
type Postgres struct{ *Server }

// StartPostgres starts a server; each setting is a line for its postgresql.conf.
func StartPostgres(t T, settings ...string) *Postgres {
	t.Helper()
	p := &Postgres{newServer(t, "PostgreSQL", "postgres", 1)}
	// Debian keeps these off the PATH, a directory for each major version.
	initdb := program(t, "/usr/lib/postgresql/*/bin/initdb", "/usr/bin/initdb", "/usr/local/bin/initdb")
	server := program(t, "/usr/lib/postgresql/*/bin/postgres", "/usr/bin/postgres", "/usr/local/bin/postgres")
	p.write("password", login)
	data := p.mkdir("data")
	p.prepare(exec.Command(initdb, "--pgdata="+data, "--username="+login, "--pwfile="+p.file("password"),
		"--auth=scram-sha-256", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync"))
	p.append("data/postgresql.conf", fmt.Sprintf(`
listen_addresses = '127.0.0.1'
port = %d
unix_socket_directories = ''
max_connections = 500
shared_buffers = 64MB
fsync = on
full_page_writes = on
synchronous_commit = on
%s
`, p.place.ports[0], strings.Join(settings, "\n")))
	p.command = func() *exec.Cmd { return exec.Command(server, "-D", data) }
	p.stopSignal = syscall.SIGINT // "fast": TERM would wait for every client to leave
	p.answers = func(ctx context.Context) error {
		conn, err := pgx.Connect(ctx, p.URL())
		if err != nil {
			return err
		}
		return conn.Close(ctx)
	}
	p.launch()
	return p
}

// append adds to a file that initdb made.
func (p *Postgres) append(name, content string) {
	p.t.Helper()
	file, err := os.OpenFile(p.file(name), os.O_APPEND|os.O_WRONLY, 0)
	if err == nil {
		_, err = file.WriteString(content)
		file.Close()
	}
	if err != nil {
		p.t.Fatalf("testservers: prepare PostgreSQL: %v", err)
	}
}

// URL is for pgx and its database/sql driver, and names an empty database. The account may do everything.
func (p *Postgres) URL() string { return p.URLVia(p.Addr()) }

// URLVia is the URL of a client that connects through addr, a proxy's address.
func (p *Postgres) URLVia(addr string) string {
	server := url.URL{
		Scheme: "postgres", User: url.UserPassword(login, login), Host: addr, Path: "/postgres",
		RawQuery: "sslmode=disable",
	}
	return server.String()
}
