//go:build linux

package testservers

import (
	"context"
	"database/sql"
	"fmt"
	"os/exec"
	"strings"
	"syscall"

	"github.com/go-sql-driver/mysql"
)

// MariaDB is a MariaDB server of the test's own.
type MariaDB struct{ *Server }

// StartMariaDB starts a server; each setting is a line for the [mariadbd] section of its configuration.
func StartMariaDB(t T, settings ...string) *MariaDB {
	t.Helper()
	m := &MariaDB{newServer(t, "MariaDB", "mysql", 1)}
	install := program(t, "/usr/bin/mariadb-install-db")
	server := program(t, "/usr/sbin/mariadbd")
	// With a folder in common, a server that starts deletes the temporary tables of those that run.
	m.write("my.cnf", fmt.Sprintf(`[mariadbd]
datadir = %s
tmpdir = %s
socket = %s
init-file = %s
bind-address = 127.0.0.1
port = %d
skip-name-resolve
max_connections = 500
innodb_buffer_pool_size = 128M
innodb_log_file_size = 48M
innodb_flush_log_at_trx_commit = 1
innodb_doublewrite = ON
%s
`, m.mkdir("data"), m.mkdir("tmp"), m.file("socket"), m.file("init.sql"), m.place.ports[0], strings.Join(settings, "\n")))
	m.write("init.sql", `CREATE DATABASE IF NOT EXISTS waybill;
CREATE USER IF NOT EXISTS 'waybill'@'127.0.0.1' IDENTIFIED BY 'waybill';
GRANT ALL PRIVILEGES ON *.* TO 'waybill'@'127.0.0.1' WITH GRANT OPTION;
`)
	m.prepare(exec.Command(install, "--defaults-file="+m.file("my.cnf"), "--skip-test-db",
		"--auth-root-authentication-method=normal"))
	m.command = func() *exec.Cmd { return exec.Command(server, "--defaults-file="+m.file("my.cnf")) }
	m.stopSignal = syscall.SIGTERM
	m.answers = func(ctx context.Context) error {
		db, err := sql.Open("mysql", m.DSN())
		if err != nil {
			return err
		}
		defer db.Close()
		return db.PingContext(ctx)
	}
	m.launch()
	return m
}

// DSN is for go-sql-driver/mysql, and names an empty database. The account may do everything.
func (m *MariaDB) DSN() string { return m.DSNVia(m.Addr()) }

// DSNVia is the DSN of a client that connects through addr, a proxy's address.
func (m *MariaDB) DSNVia(addr string) string {
	config := mysql.NewConfig()
	config.User, config.Passwd = login, login
	config.Net, config.Addr = "tcp", addr
	config.DBName = "waybill"
	return config.FormatDSN()
}
