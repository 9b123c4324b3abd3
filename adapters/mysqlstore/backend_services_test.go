//go:build services

package mysqlstore_test

import (
	"net/url"
	"testing"

	"github.com/waybillmq/waybill/adapters/internal/servertest"
	"github.com/waybillmq/waybill/adapters/mysqlstore"
	"github.com/waybillmq/waybill/internal/testenv"
	"github.com/waybillmq/waybill/reliable/backend"
)

func TestBackend_onItsServer(t *testing.T) {
	servertest.RunBackend(t, servertest.Backend{
		Stores: backend.Stores{mysqlstore.Backend()},
		URL: func(t testing.TB) *url.URL {
			config := parse(t, testenv.MariaDB(t))
			return &url.URL{
				Scheme: "mariadb", User: url.UserPassword(config.User, config.Passwd), Host: config.Addr,
				Path: "/" + config.DBName, RawQuery: "max_payload=1000000",
			}
		},
	})
}
