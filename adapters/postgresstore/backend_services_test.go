//go:build services

package postgresstore_test

import (
	"net/url"
	"testing"

	"github.com/waybillmq/waybill/adapters/internal/servertest"
	"github.com/waybillmq/waybill/adapters/postgresstore"
	"github.com/waybillmq/waybill/internal/testenv"
	"github.com/waybillmq/waybill/reliable/backend"
)

func TestBackend_onItsServer(t *testing.T) {
	servertest.RunBackend(t, servertest.Backend{
		Stores: backend.Stores{postgresstore.Backend()},
		URL:    func(t testing.TB) *url.URL { return parse(t, testenv.Postgres(t)) },
	})
}
