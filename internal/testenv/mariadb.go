package testenv

import (
	"context"
	"database/sql"
	"testing"

	"github.com/go-sql-driver/mysql"
)

const (
	mariadbVariable = "WAYBILL_TEST_MARIADB"
	mariadbDefault  = "waybill:waybill@tcp(127.0.0.1:13306)/"
)

// MariaDB makes an empty database on the test server and returns its DSN for go-sql-driver/mysql. The database is
// dropped when the test ends; a transaction that the test left open then fails it, for it would block the drop.
func MariaDB(t testing.TB) string {
	t.Helper()
	config, err := mysql.ParseDSN(setting(mariadbVariable, mariadbDefault))
	if err != nil {
		unreachable(t, "MariaDB", mariadbVariable, err)
	}
	// MariaDB alone knows SET STATEMENT; a variable of the session is set on MySQL too.
	admin := config.Clone()
	admin.Params = map[string]string{"lock_wait_timeout": "20"} // seconds
	name := uniqueName()
	if err := onMariaDB(admin, "CREATE DATABASE "+name); err != nil {
		unreachable(t, "MariaDB", mariadbVariable, err)
	}
	t.Cleanup(func() {
		if err := onMariaDB(admin, "DROP DATABASE "+name); err != nil {
			t.Errorf("testenv: drop database: %v: does the test hold a transaction open?", err)
		}
	})

	own := config.Clone()
	own.DBName = name
	return own.FormatDSN()
}

// onMariaDB runs one statement on a connection that it closes again, so that no goroutine outlives the call.
func onMariaDB(config *mysql.Config, statement string) error {
	connector, err := mysql.NewConnector(config)
	if err != nil {
		return err
	}
	db := sql.OpenDB(connector)
	defer db.Close()

	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_, err = db.ExecContext(ctx, statement)
	return err
}
