package mysqlstore

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/waybillmq/waybill/adapters/internal/sqlstore"
)

// errUnknownVariable is ER_UNKNOWN_SYSTEM_VARIABLE.
const errUnknownVariable = 1193

// LimitIdle has MariaDB end the connection if a transaction does nothing on it for as long as limit, rounded up to seconds,
// which rolls it back. tx is a *sql.Tx or a transaction of a library on top of one. The limit stays with the connection, for
// its later transactions. MySQL has no such limit: there this is [errors.ErrUnsupported], and wait_timeout is what to set
// in the DSN of the business.
func LimitIdle(ctx context.Context, tx any, limit time.Duration) error {
	seconds := max(1, (limit+time.Second-1)/time.Second)
	conn, err := sqlstore.ConnOf(tx)
	if err == nil {
		_, err = conn.Exec(ctx, "SET SESSION idle_transaction_timeout = "+strconv.FormatInt(int64(seconds), 10))
	}
	if refused, ok := errors.AsType[*mysql.MySQLError](err); ok && refused.Number == errUnknownVariable {
		err = fmt.Errorf("only MariaDB has idle_transaction_timeout; set wait_timeout in the DSN: %w", errors.ErrUnsupported)
	}
	if err != nil {
		return fmt.Errorf("mysqlstore: limit idle: %w", err)
	}
	return nil
}
