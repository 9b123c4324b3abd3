package mysqlstore

import (
	"database/sql"
	"errors"

	"github.com/go-sql-driver/mysql"

	"github.com/waybillmq/waybill/adapters/internal/sqlstore"
)

// dialect is what sets MySQL and MariaDB apart. A statement of 1,000 rows has 14,000 of the 65,535 parameters that can
// be prepared; 1 MiB of it stays below every max_allowed_packet, whatever escaping adds.
func dialect(prefix string) sqlstore.Dialect {
	return sqlstore.Dialect{
		Package:     "mysqlstore",
		InsertRows:  1000,
		InsertBytes: 1 << 20,
		ListRows:    500,
		Classify:    classify,
		Ended:       ended,
		Savepoint:   "SAVEPOINT",
		Release:     "RELEASE SAVEPOINT",
		RollbackTo:  "ROLLBACK TO SAVEPOINT",
		Statements:  statements(prefix),
	}
}

// The error numbers that mean something, of both servers.
const (
	errDuplicateKey        = 1062 // ER_DUP_ENTRY
	errRecordChanged       = 1020 // ER_CHECKREAD, MariaDB from 11.6 on
	errLockWaitTimeout     = 1205 // ER_LOCK_WAIT_TIMEOUT
	errDeadlock            = 1213 // ER_LOCK_DEADLOCK
	errNoSuchTable         = 1146 // ER_NO_SUCH_TABLE
	errNoSuchColumn        = 1054 // ER_BAD_FIELD_ERROR
	errNoSuchKey           = 1176 // ER_KEY_DOES_NOT_EXITS
	errServerShutdown      = 1053 // ER_SERVER_SHUTDOWN
	errNormalShutdown      = 1077 // ER_NORMAL_SHUTDOWN
	errAborting            = 1152 // ER_ABORTING_CONNECTION
	errNetRead             = 1158 // ER_NET_READ_ERROR
	errNetReadInterrupted  = 1159 // ER_NET_READ_INTERRUPTED
	errNetWrite            = 1160 // ER_NET_ERROR_ON_WRITE
	errNetWriteInterrupted = 1161 // ER_NET_WRITE_INTERRUPTED
	errDuringCommit        = 1180 // ER_ERROR_DURING_COMMIT
	errInterrupted         = 1317 // ER_QUERY_INTERRUPTED
	errConnectionKilled    = 1927 // ER_CONNECTION_KILLED, MariaDB
	errSessionKilled       = 3169 // ER_SESSION_WAS_KILLED, MySQL
)

func classify(err error) sqlstore.Class {
	var e *mysql.MySQLError
	if !errors.As(err, &e) {
		if errors.Is(err, mysql.ErrPktTooLarge) || errors.Is(err, sql.ErrTxDone) {
			return sqlstore.Refused // nothing was sent
		}
		return sqlstore.Lost
	}
	switch e.Number {
	case errDuplicateKey:
		return sqlstore.Duplicate
	case errRecordChanged, errLockWaitTimeout, errDeadlock:
		return sqlstore.Conflict
	case errNoSuchTable, errNoSuchColumn, errNoSuchKey:
		return sqlstore.Missing
	case errServerShutdown, errNormalShutdown, errAborting, errNetRead, errNetReadInterrupted, errNetWrite,
		errNetWriteInterrupted, errDuringCommit, errInterrupted, errConnectionKilled, errSessionKilled:
		return sqlstore.Lost // perhaps in the middle of a COMMIT
	}
	return sqlstore.Refused
}

// ended reports the errors by which InnoDB has rolled back the whole transaction. What is executed on the connection
// after that commits by itself.
func ended(err error) bool {
	var e *mysql.MySQLError
	return errors.As(err, &e) && (e.Number == errDeadlock || e.Number == errRecordChanged)
}
