package testenv

import (
	"context"
	"errors"
	"net/url"
	"testing"

	"github.com/jackc/pgx/v5"
)

const (
	postgresVariable = "WAYBILL_TEST_POSTGRES"
	postgresDefault  = "postgres://waybill:waybill@127.0.0.1:15432/postgres?sslmode=disable"
)

// Postgres makes an empty database on the test server and returns its postgres:// URL, which pgx and its database/sql
// driver take. The database is dropped when the test ends, with whatever connections the test has left open.
func Postgres(t testing.TB) string {
	t.Helper()
	server := setting(postgresVariable, postgresDefault)
	own, err := url.Parse(server)
	if err != nil {
		unreachable(t, "PostgreSQL", postgresVariable, err)
	}
	name := uniqueName()
	// template0, because template1 may not be copied while another test is copying it or anybody is connected to it.
	if err := onPostgres(server, "CREATE DATABASE "+name+" TEMPLATE template0"); err != nil {
		unreachable(t, "PostgreSQL", postgresVariable, err)
	}
	t.Cleanup(func() {
		if err := onPostgres(server, "DROP DATABASE "+name+" WITH (FORCE)"); err != nil {
			t.Errorf("testenv: drop database: %v", err)
		}
	})

	own.Path = "/" + name
	return own.String()
}

// onPostgres runs one statement on a connection of its own.
func onPostgres(server, statement string) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conn, err := pgx.Connect(ctx, server)
	if err != nil {
		return err
	}
	_, err = conn.Exec(ctx, statement)
	return errors.Join(err, conn.Close(ctx))
}
