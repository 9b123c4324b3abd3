package backend_test

import (
	"context"
	"errors"
	"net/url"
	"strings"
	"testing"

	"github.com/waybillmq/waybill/adapters/kafkabroker"
	"github.com/waybillmq/waybill/adapters/mysqlstore"
	"github.com/waybillmq/waybill/adapters/natsbroker"
	"github.com/waybillmq/waybill/adapters/postgresstore"
	"github.com/waybillmq/waybill/adapters/rabbitmqbroker"
	"github.com/waybillmq/waybill/adapters/sqlbroker"
	"github.com/waybillmq/waybill/reliable/backend"
)

// FuzzOpen_neverTellsAPassword puts what it finds into the places of a URL in which passwords, and what people take for
// their place, are. Nothing is connected to: the context has ended.
func FuzzOpen_neverTellsAPassword(f *testing.F) {
	for _, before := range []string{"", "#", "/", "?", "@", ":", "%", "%2", "[", "\\", " ", "\n", "&window=", "1/", "1?x=", "1#"} {
		for _, host := range []string{"host", "host:port", "[::1", "", "h@h", "host:1:2"} {
			f.Add(before, "", host, "/shop", "window=1")
			f.Add("", before, host, "", "sslmode=")
		}
	}
	stores := backend.Stores{mysqlstore.Backend(), postgresstore.Backend()}
	brokers := backend.Brokers{rabbitmqbroker.Backend(), kafkabroker.Backend(), natsbroker.Backend(), sqlbroker.Backend()}
	ended, end := context.WithCancel(context.Background())
	end()
	const marker = "S3CR3T"
	f.Fuzz(func(t *testing.T, before, after, host, path, query string) {
		if strings.Contains(host+path+query, marker) {
			return // the secret is in a place that is not secret
		}
		for _, scheme := range []string{"mysql", "postgres", "amqp", "kafka", "nats", "other"} {
			for _, password := range []string{before + marker + after, url.PathEscape(before + marker + after)} {
				rawURL := scheme + "://shop:" + password + "@" + host + path + "?" + query
				store, storeErr := stores.Open(ended, rawURL)
				if storeErr == nil {
					t.Errorf("connected in a context that has ended: %v", store.Close())
				}
				_, schemaErr := stores.Schema(rawURL)
				broker, brokerErr := brokers.Open(ended, rawURL)
				if brokerErr == nil {
					brokerErr = broker.Declare(ended, "topic")
					brokerErr = errors.Join(brokerErr, broker.Close())
				}
				for _, err := range []error{storeErr, schemaErr, brokerErr} {
					if err != nil && strings.Contains(err.Error(), marker) {
						t.Errorf("%q: %v", rawURL, err)
					}
				}
				if logged := backend.Redact(rawURL); strings.Contains(logged, marker) {
					t.Errorf("%q is logged as %q", rawURL, logged)
				}
			}
		}
	})
}
