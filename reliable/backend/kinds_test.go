package backend_test

import (
	"context"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/kafkabroker"
	"github.com/waybillmq/waybill/adapters/mysqlstore"
	"github.com/waybillmq/waybill/adapters/natsbroker"
	"github.com/waybillmq/waybill/adapters/natsbroker/embedded"
	"github.com/waybillmq/waybill/adapters/postgresstore"
	"github.com/waybillmq/waybill/adapters/rabbitmqbroker"
	"github.com/waybillmq/waybill/adapters/sqlbroker"
	"github.com/waybillmq/waybill/adapters/sqlitestore"
	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/reliable/backend"
)

func linkedStores() backend.Stores {
	return backend.Stores{mysqlstore.Backend(), postgresstore.Backend(), sqlitestore.Backend()}
}

func linkedBrokers() backend.Brokers {
	return backend.Brokers{rabbitmqbroker.Backend(), kafkabroker.Backend(), natsbroker.Backend(), embedded.Backend(), sqlbroker.Backend()}
}

var possible = regexp.MustCompile(`possible are ([a-z0-9_, ]+)`)

// checkExample compares the parameters in a kind's example with those that it says are possible.
func checkExample[T any](t *testing.T, k backend.Kind[T]) {
	t.Helper()
	example, err := url.Parse(k.Example)
	require.NoError(t, err)
	assert.Contains(t, k.Schemes, example.Scheme)
	unknown := *example
	unknown.RawQuery = "no_such_parameter=1"
	_, err = k.Open(t.Context(), &unknown)
	require.ErrorIs(t, err, reliable.ErrInvalid)
	said := possible.FindStringSubmatch(err.Error())
	require.NotNil(t, said, err)
	names := strings.Split(said[1], ", ")
	var shown []string
	for name := range example.Query() {
		shown = append(shown, name)
	}
	slices.Sort(names)
	slices.Sort(shown)
	hidden := []string{"socket"} // excludes host and port
	names = slices.DeleteFunc(names, func(name string) bool { return slices.Contains(hidden, name) })
	assert.Equal(t, names, shown)
}

func TestExample_namesEveryParameter(t *testing.T) {
	for _, k := range linkedStores() {
		t.Run(k.Schemes[0], func(t *testing.T) { checkExample(t, k) })
	}
	for _, k := range linkedBrokers() {
		t.Run(k.Schemes[0], func(t *testing.T) { checkExample(t, k) })
	}
}

func TestSchema_isPrintedWithoutAServer(t *testing.T) {
	for _, c := range []struct{ url, says string }{
		{"mysql://nobody@nowhere.invalid/shop?table_prefix=app_", "`app_outbox`"},
		{"postgres://nobody@nowhere.invalid/shop?table_prefix=app_", `"app_outbox"`},
		{"sqlite:/nowhere/shop.db?table_prefix=app_", `"app_outbox"`},
	} {
		script, err := linkedStores().Schema(c.url)
		require.NoError(t, err, c.url)
		assert.Contains(t, script, c.says, c.url)
		_, err = linkedStores().Schema(c.url + "&pool_size=1")
		require.ErrorIs(t, err, reliable.ErrInvalid)
		assert.ErrorContains(t, err, `parameter "pool_size": is unknown; possible are`)
	}
}

func TestOpen_refusesWhatIsWrongInAURL(t *testing.T) {
	for _, c := range []struct{ url, says string }{
		{"mysql://shop:s3cret@host", "path: must be the name of the database"},
		{"mysql://shop:s3cret@/shop", "host: is missing"},
		{"mysql://shop:s3cret@host/shop?socket=/run/db.sock", "beside the parameter socket"},
		{"mysql://shop:s3cret@host/shop/orders", "path: must be the name of the database"},
		{"mysql://shop:s3cret@host/shop?pool=0", `"pool": is "0", must be a number from 1`},
		{"mysql://shop:s3cret@host/shop?tls=maybe", `"tls": is "maybe", must be one of false, true, preferred, skip-verify`},
		{"mysql://shop:s3cret@host/shop?tls_ca=/etc/hosts", "needs tls=true"},
		{"mysql://shop:s3cret@host/shop?tls=true&tls_ca=/nowhere", "readable file with PEM"},
		{"mysql://shop:s3cret@host/shop?table_prefix=a-b", "WithTablePrefix"},
		{"mysql://shop:s3cret@host/shop?allowAllFiles=true", `parameter "allowAllFiles": is unknown`},
		{"postgres://shop:s3cret@host", "path: must be the name of the database"},
		{"postgres://shop:s3cret@/shop", "host: is missing"},
		{"postgres://shop:s3cret@host/shop?sslmode=maybe", "is refused by the driver"},
		{"postgres://shop:s3cret@host/shop?sslrootcert=/nowhere", "is refused by the driver"},
		{"postgres://shop:s3cret@host/shop?password=other", `parameter "password": is unknown`},
		{"postgres://shop:s3cret@host/shop?pool=1&pool=2", "is given 2 times"},
		{"sqlite:", "path: is missing"},
		{"sqlite://orders.db", "sqlite:relative.db"},
		{"sqlite::memory:", "in memory"},
		{"sqlite:file:orders.db", "must be that of a file"},
		{"sqlite:orders.db?mode=memory", `parameter "mode": is unknown`},
		{"sqlite:orders.db?synchronous=off", "must be one of full, normal"},
	} {
		t.Run(c.url, func(t *testing.T) {
			_, err := linkedStores().Open(t.Context(), c.url)
			require.ErrorIs(t, err, reliable.ErrInvalid)
			assert.ErrorContains(t, err, c.says)
			assert.NotContains(t, err.Error(), "s3cret")
		})
	}
	for _, c := range []struct{ url, says string }{
		{"amqp:///vhost", "host: is missing"},
		{"amqp://shop:s3cret@host/a/b", "percent-encode a / in it as %2F"},
		{"amqp://shop:s3cret@host/?window=0", `"window": is "0", must be a number from 1 to 20000`},
		{"amqp://shop:s3cret@host/?queue_type=lazy", "must be one of classic, quorum"},
		{"amqp://shop:s3cret@host/?declare=all", "topology=queue only"},
		{"amqp://shop:s3cret@host/?topology=queue&groups=a", "all groups share one queue"},
		{"amqp://shop:s3cret@host/?heartbeat=often", "check port, heartbeat"},
		{"amqp://shop:s3cret@host/?confirm_timeout=30s&blocked_timeout=10s", "at least the confirm timeout of 30s"},
		{"nats:///", "host: is missing"},
		{"nats://shop:s3cret@host/orders", "name the stream by the parameter stream"},
		{"nats://shop:s3cret@host?servers=nats://other", "without scheme and user"},
		{"nats://shop:s3cret@host?subjects=a,b", "needs the name of their stream"},
		{"nats://shop:s3cret@host?stream=a.b", "no name in JetStream may"},
		{"nats://shop:s3cret@host?stream=a&subjects=a..b", "empty part"},
		{"nats://shop:s3cret@host?creds=/nowhere", "can be read"},
		{"nats://shop:s3cret@host?tls_cert=/etc/hosts", "give both or none"},
		{"nats://shop:s3cret@host?prefetch=1&concurrency=2", "must lie between 1 and the prefetch"},
		{"kafka:///orders", "host: is missing"},
		{"kafka://host/orders", "path: has no meaning to Kafka"},
		{"kafka://host:9092,:9092", "host: must be host:port"},
		{"kafka://shop:s3cret@host", `"sasl": is missing`},
		{"kafka://shop:s3cret@host?sasl=gssapi", "must be one of plain, scram-sha-256, scram-sha-512"},
		{"kafka://shop@host?sasl=plain", "needs user and password"},
		{"kafka://host?acks=1", `parameter "acks": is unknown`},
		{"kafka://host?tls_ca=/etc/hosts", "needs tls=true"},
		{"kafka://host?tls=true&tls_ca=/nowhere", "readable file with PEM"},
		{"kafka://host?tls=true&tls_cert=/etc/hosts", "give both or none"},
		{"kafka://host?confirm_timeout=10ms", "must be a duration from 1s"},
		{"nats-embedded:", "path: is missing"},
		{"nats-embedded://host/data", "stands where the path of a folder is expected"},
		{"nats-embedded:data?listen=0", "must be a number from 1 to 65535"},
	} {
		t.Run(c.url, func(t *testing.T) {
			_, err := linkedBrokers().Open(t.Context(), c.url)
			require.ErrorIs(t, err, reliable.ErrInvalid)
			assert.ErrorContains(t, err, c.says)
			assert.NotContains(t, err.Error(), "s3cret")
		})
	}
}

func TestOpen_takesWhatIsRight(t *testing.T) {
	for _, rawURL := range []string{
		"amqp://shop:s%2Fcret@host",
		"amqps://host/%2F?groups=a,b&queue_type=quorum&mandatory=false&heartbeat=5&confirm_timeout=30s",
		"amqp://host:1/?topology=queue&declare=all&prefetch=1&max_message=1000",
		"nats://t0ken@host",
		"kafka://host", "kafka://shop:s%2Fcret@a,b:9093?sasl=scram-sha-512&tls=skip-verify&partitions=3&replicas=1&linger=5ms",
		"tls://shop:s3cret@host:4222?servers=b:4222,[::1]:4222&stream=S&subjects=a.>,b&dedup=none&replicas=3&ack_wait=1m",
	} {
		t.Run(rawURL, func(t *testing.T) {
			broker, err := linkedBrokers().Open(t.Context(), rawURL)
			require.NoError(t, err)
			bounded, ok := reliable.Ability[reliable.Bounded](broker)
			require.True(t, ok, "the adapter's abilities are hidden")
			assert.Positive(t, bounded.MaxConfirmWait())
			_, err = broker.Subscribe("")
			require.ErrorIs(t, err, reliable.ErrInvalid, "a group needs a name")
			require.NoError(t, broker.Close())
			require.NoError(t, broker.Close())
		})
	}
	ended, end := context.WithCancel(t.Context())
	end()
	for _, rawURL := range []string{
		"mysql://shop:s%2Fcret@host/shop", "mariadb://host:1/shop?pool=5&pool_lifetime=1m&timeout=1s&tls=preferred",
		"mysql://shop@/shop?socket=/nowhere.sock",
		"postgres://shop:s%2Fcret@host/shop?sslmode=disable&search_path=a,b", "postgresql://host:1/shop?pool=5",
	} {
		_, err := linkedStores().Open(ended, rawURL)
		require.ErrorIs(t, err, context.Canceled, "%s was not taken as far as to the network", rawURL)
	}
}
