package postgresstore

import (
	"database/sql"
	"errors"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/waybillmq/waybill/adapters/internal/sqlstore"
)

func dialect(prefix string) sqlstore.Dialect {
	return sqlstore.Dialect{
		Package:     "postgresstore",
		Arrays:      true,
		InsertRows:  1000,
		InsertBytes: 4 << 20,
		ListRows:    1000,
		Classify:    classify,
		// A failed transaction can only be rolled back, and PostgreSQL answers its COMMIT with a refusal.
		Ended:      func(error) bool { return false },
		Savepoint:  "SAVEPOINT",
		Release:    "RELEASE SAVEPOINT",
		RollbackTo: "ROLLBACK TO SAVEPOINT",
		Statements: statements(prefix),
	}
}

func classify(err error) sqlstore.Class {
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		switch e.Code {
		case "23505":
			return sqlstore.Duplicate
		case "40001", "40P01":
			return sqlstore.Conflict
		case "42P01", "42703", "3F000":
			return sqlstore.Missing
		case "57P01", "57P02", "57P03", "57P05":
			return sqlstore.Lost // the server ends the connection, perhaps in the middle of a COMMIT
		}
		if strings.HasPrefix(e.Code, "08") {
			return sqlstore.Lost
		}
		return sqlstore.Refused
	}
	// pgconn.SafeToRetry is of no use here: when the answer to a statement without arguments is lost, and COMMIT is one,
	// pgx 5.12 reports a closed connection, which it holds to be safe.
	if errors.Is(err, pgx.ErrTxClosed) || errors.Is(err, pgx.ErrTxCommitRollback) || errors.Is(err, sql.ErrTxDone) {
		return sqlstore.Refused
	}
	return sqlstore.Lost
}
