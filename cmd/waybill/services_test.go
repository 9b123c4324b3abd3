//go:build services

package main

import (
	"net/url"
	"testing"

	"github.com/go-sql-driver/mysql"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/internal/testenv"
)

var servers = []place{{"mariadb", mariadb}, {"postgres", func(t *testing.T) string { return testenv.Postgres(t) }}}

// mariadb makes a database and returns its URL.
func mariadb(t *testing.T) string {
	config, err := mysql.ParseDSN(testenv.MariaDB(t))
	require.NoError(t, err)
	return (&url.URL{Scheme: "mysql", User: url.UserPassword(config.User, config.Passwd), Host: config.Addr, Path: "/" + config.DBName}).String()
}

func TestWrongPassword_isSaidWithoutIt(t *testing.T) {
	for _, p := range servers {
		t.Run(p.name, func(t *testing.T) {
			u, err := url.Parse(p.url(t))
			require.NoError(t, err)
			u.User = url.UserPassword(u.User.Username(), "hush-hush")
			for _, args := range [][]string{{"status"}, {"migrate", "apply"}, {"list", "-o", "json"}, {"relay", "--broker", "nats://127.0.0.1:1"}} {
				result := waybill(t, u.String(), args...)
				assert.Equal(t, exitFailure, result.code, "%v", result)
				assert.Regexp(t, `(?i)password`, result.stderr)
				assert.NotContains(t, result.stdout+result.stderr, "hush", "%v", args)
			}
		})
	}
}

func TestDatabase_thatDoesNotExistIsSaid(t *testing.T) {
	for _, p := range servers {
		t.Run(p.name, func(t *testing.T) {
			u, err := url.Parse(p.url(t))
			require.NoError(t, err)
			u.Path += "_none"
			result := waybill(t, u.String(), "status")
			assert.Equal(t, exitFailure, result.code, "%v", result)
			assert.Regexp(t, `(?i)database`, result.stderr)
			assert.Contains(t, result.stderr, "_none")
		})
	}
}

func TestRelay_onServers(t *testing.T) {
	for _, p := range servers {
		t.Run(p.name, func(t *testing.T) {
			relaysAndStops(t, p.url(t), testenv.RabbitMQ(t)+"?topology=queue")
		})
	}
}
