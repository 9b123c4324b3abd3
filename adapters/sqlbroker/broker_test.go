package sqlbroker_test

import (
	"database/sql"
	"net/url"
	"strings"
	"testing"
	"time"

	_ "github.com/go-sql-driver/mysql"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/sqlbroker"
	"github.com/waybillmq/waybill/reliable"
	"github.com/waybillmq/waybill/reliable/backend"
)

// noServer is a handle that connects to nothing until it is used, and then to nobody.
func noServer(t *testing.T) *sql.DB {
	t.Helper()
	db, err := sql.Open("mysql", "nobody@tcp(127.0.0.1:1)/nothing")
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, db.Close()) })
	return db
}

func TestNew_reportsAllThatIsWrongTogether(t *testing.T) {
	_, err := sqlbroker.New(sqlbroker.MySQL, noServer(t),
		sqlbroker.WithTablePrefix("a-b"), sqlbroker.WithWindow(0), sqlbroker.WithBatch(0), sqlbroker.WithWriters(0),
		sqlbroker.WithConfirmTimeout(time.Millisecond), sqlbroker.WithReconnectWait(2, 1), sqlbroker.WithMaxPayload(0),
		sqlbroker.WithLogger(nil))
	require.ErrorIs(t, err, reliable.ErrInvalid)
	for _, option := range []string{
		"WithTablePrefix", "WithWindow", "WithBatch", "WithWriters", "WithConfirmTimeout", "WithReconnectWait", "WithMaxPayload",
		"WithLogger",
	} {
		assert.ErrorContains(t, err, option)
	}
	_, err = sqlbroker.New(0, noServer(t))
	require.ErrorIs(t, err, reliable.ErrInvalid)
	_, err = sqlbroker.New(sqlbroker.Postgres, nil)
	require.ErrorIs(t, err, reliable.ErrInvalid)
}

func TestSubscriber_reportsAllThatIsWrongTogether(t *testing.T) {
	b, err := sqlbroker.New(sqlbroker.MySQL, noServer(t))
	require.NoError(t, err)
	defer func() { require.NoError(t, b.Close()) }()
	_, err = b.Subscriber("", sqlbroker.WithFetch(0), sqlbroker.WithAckDeadline(0), sqlbroker.WithPollInterval(0),
		sqlbroker.WithResendInterval(0), sqlbroker.WithRetryInterval(0))
	require.ErrorIs(t, err, reliable.ErrInvalid)
	for _, option := range []string{
		"group", "WithFetch", "WithAckDeadline", "WithPollInterval", "WithResendInterval", "WithRetryInterval",
	} {
		assert.ErrorContains(t, err, option)
	}
}

func TestSchema_isWhatDeclareMakes(t *testing.T) {
	script, err := sqlbroker.Schema(sqlbroker.Postgres, []string{"orders"}, sqlbroker.WithTablePrefix("shop_"))
	require.NoError(t, err)
	assert.Contains(t, script, `"shop_orders"`)
	assert.Contains(t, script, `"shop_offsets_orders"`)
	assert.Contains(t, script, "BYTEA")
	script, err = sqlbroker.Schema(sqlbroker.MySQL, []string{"orders"})
	require.NoError(t, err)
	assert.Contains(t, script, "`watermill_orders`")
	assert.Contains(t, script, "LONGBLOB")
	_, err = sqlbroker.Schema(sqlbroker.MySQL, []string{"a`b"})
	require.ErrorIs(t, err, reliable.ErrInvalid)
}

func TestBackend_refusesWhatIsWrongInAURL(t *testing.T) {
	brokers := backend.Brokers{sqlbroker.Backend()}
	for rawURL, says := range map[string]string{
		"mysql://shop:s3cret@host":                             "path: must be the name of the database",
		"postgres://shop:s3cret@/shop":                         "host: is missing",
		"mysql://shop:s3cret@host/shop?pool=0":                 `"pool": is "0"`,
		"mysql://shop:s3cret@host/shop?tls_ca=/etc/hosts":      "needs tls=true",
		"mysql://shop:s3cret@host/shop?sslmode=require":        `"sslmode": is unknown`,
		"postgres://shop:s3cret@host/shop?tls=true":            `"tls": is unknown`,
		"postgres://shop:s3cret@host/shop?sslmode=maybe":       "is refused by the driver",
		"mariadb://shop:s3cret@host/shop?table_prefix=a-b":     "WithTablePrefix",
		"postgresql://shop:s3cret@host/shop?confirm_timeout=1": "must be a duration",
	} {
		_, err := brokers.Open(t.Context(), rawURL)
		require.ErrorIs(t, err, reliable.ErrInvalid, rawURL)
		assert.ErrorContains(t, err, says)
		assert.NotContains(t, err.Error(), "s3cret")
	}
}

func TestBackend_opensWithoutAServerAndNamesEveryParameter(t *testing.T) {
	kind := sqlbroker.Backend()
	u, err := url.Parse(strings.Replace(kind.Example, "&tls=true&tls_ca=/etc/ssl/db.pem", "&tls=skip-verify", 1))
	require.NoError(t, err)
	b, err := kind.Open(t.Context(), u)
	require.NoError(t, err)
	sub, err := b.Subscribe("group")
	require.NoError(t, err)
	require.NoError(t, sub.Close())
	_, ok := reliable.Ability[reliable.Joiner](b)
	assert.True(t, ok, "its abilities are hidden")
	require.NoError(t, b.Close())
	require.NoError(t, b.Close())
}
