package postgresstore

import (
	"context"
	"fmt"
	"strconv"
	"time"
)

// LimitIdle has the server end the session if tx, a *sql.Tx, pgx.Tx, or transaction of a library on top of one, does
// nothing for as long as limit, in whole milliseconds, which rolls it back. It holds until tx ends.
func LimitIdle(ctx context.Context, tx any, limit time.Duration) error {
	conn, err := connOf(tx)
	if err == nil {
		_, err = conn.Exec(ctx, `SET LOCAL idle_in_transaction_session_timeout = `+strconv.FormatInt(max(1, limit.Milliseconds()), 10))
	}
	if err != nil {
		return fmt.Errorf("postgresstore: limit idle: %w", err)
	}
	return nil
}
