package mysqlstore_test

import (
	"database/sql"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/waybillmq/waybill/adapters/mysqlstore"
	"github.com/waybillmq/waybill/reliable"
)

func TestNew_reportsAllThatIsWrongTogether(t *testing.T) {
	limits := reliable.DefaultLimits()
	limits.ID = 1000
	_, err := mysqlstore.New(&sql.DB{}, mysqlstore.WithTablePrefix(""), mysqlstore.WithLimits(limits))
	require.ErrorIs(t, err, reliable.ErrInvalid)
	require.ErrorContains(t, err, "WithTablePrefix")
	require.ErrorContains(t, err, "WithLimits")
	_, err = mysqlstore.New(nil)
	require.ErrorIs(t, err, reliable.ErrInvalid)
}

func TestWithTablePrefix_refusesWhatIsNoPlainName(t *testing.T) {
	for _, prefix := range []string{
		"", "1a", "a b", "a`; DROP TABLE orders; --", "a\"b", "Aa", "ä", "a.b", "a-b", "a\x00b", strings.Repeat("a", 41),
	} {
		_, err := mysqlstore.Schema(mysqlstore.WithTablePrefix(prefix))
		require.ErrorIs(t, err, reliable.ErrInvalid, "%q", prefix)
	}
	for _, prefix := range []string{"a", "_", "app1_", strings.Repeat("a", 40)} {
		script, err := mysqlstore.Schema(mysqlstore.WithTablePrefix(prefix))
		require.NoError(t, err, "%q", prefix)
		require.Contains(t, script, "`"+prefix+"outbox`")
	}
}
