package sqlbroker

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	wsql "github.com/ThreeDotsLabs/watermill-sql/v3/pkg/sql"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/go-sql-driver/mysql"

	"github.com/waybillmq/waybill/adapters/internal/sqlidentity"
)

type mysqlDialect struct{}

func (mysqlDialect) tables(prefix string) tables { return tables{prefix: prefix, quote: "`"} }

func (mysqlDialect) adapters(t tables, batch int) (wsql.SchemaAdapter, wsql.OffsetsAdapter) {
	return mysqlSchema{
			DefaultMySQLSchema: wsql.DefaultMySQLSchema{
				GenerateMessagesTableName: t.messages,
				GeneratePayloadType:       func(string) string { return "LONGBLOB" },
				SubscribeBatchSize:        batch,
			},
		}, mysqlOffsets{
			wsql.DefaultMySQLOffsetsAdapter{GenerateMessagesOffsetsTableName: t.offsets},
		}
}

// mysqlSchema is watermill-sql's schema with columns that keep every byte of an ID and of a payload. What reads and
// writes watermill-sql's own schema reads and writes this one.
type mysqlSchema struct{ wsql.DefaultMySQLSchema }

// SchemaInitializingQueries implements watermill-sql's SchemaAdapter.
func (s mysqlSchema) SchemaInitializingQueries(topic string) []wsql.Query {
	return []wsql.Query{{Query: "CREATE TABLE IF NOT EXISTS " + s.MessagesTable(topic) + " (\n" +
		"  `offset` BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,\n" +
		"  `uuid` VARBINARY(255) NOT NULL,\n" +
		"  `created_at` TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,\n" +
		"  `payload` " + s.PayloadColumnType(topic) + " DEFAULT NULL,\n" +
		"  `metadata` JSON DEFAULT NULL\n" +
		") ENGINE = InnoDB"}}
}

// InsertQuery implements watermill-sql's SchemaAdapter. Metadata is passed as text: MySQL makes no JSON of bytes.
func (s mysqlSchema) InsertQuery(topic string, msgs message.Messages) (wsql.Query, error) {
	query, err := s.DefaultMySQLSchema.InsertQuery(topic, msgs)
	return asText(query), err
}

// asText turns the metadata among the arguments of watermill-sql's own INSERT into text.
func asText(query wsql.Query) wsql.Query {
	for i := 2; i < len(query.Args); i += 3 {
		if bytes, ok := query.Args[i].([]byte); ok {
			query.Args[i] = string(bytes)
		}
	}
	return query
}

// mysqlOffsets compares the names of consumer groups byte by byte.
type mysqlOffsets struct {
	wsql.DefaultMySQLOffsetsAdapter
}

// SchemaInitializingQueries implements watermill-sql's OffsetsAdapter.
func (a mysqlOffsets) SchemaInitializingQueries(topic string) []wsql.Query {
	return []wsql.Query{{Query: "CREATE TABLE IF NOT EXISTS " + a.MessagesOffsetsTable(topic) + " (\n" +
		"  consumer_group VARBINARY(255) NOT NULL PRIMARY KEY,\n" +
		"  offset_acked BIGINT,\n" +
		"  offset_consumed BIGINT NOT NULL\n" +
		") ENGINE = InnoDB"}}
}

// writers is the group, of no subscriber, whose row is locked by who writes to a topic: a space can begin no group.
const writers = " writers"

// insert has one transaction at a time write to a topic. Offsets are given out before rows are there to be locked, so that
// of two transactions the one with the lower offset can be the later to insert: a subscriber that has read the higher one
// would never come back for it.
func (mysqlDialect) insert(t tables, topic string, fs []*flight) []statement {
	return []statement{takeTopic(t, topic), insertMySQL(t.messages(topic), fs)}
}

// takeTopic waits for the turn to write to a topic, and keeps it until the transaction ends.
func takeTopic(t tables, topic string) statement {
	return statement{"INSERT INTO " + t.offsets(topic) + " (`consumer_group`, `offset_consumed`) VALUES (?, 0) " +
		"ON DUPLICATE KEY UPDATE `offset_consumed` = `offset_consumed`", []any{writers}}
}

func insertMySQL(table string, fs []*flight) statement {
	const row = "(?,?,?)"
	var text strings.Builder
	text.Grow(len(table) + 64 + len(fs)*(len(row)+1))
	text.WriteString("INSERT INTO " + table + " (`uuid`, `payload`, `metadata`) VALUES ")
	args := make([]any, 0, 3*len(fs))
	for i, f := range fs {
		if i > 0 {
			text.WriteByte(',')
		}
		text.WriteString(row)
		args = append(args, string(f.id), f.payload, f.metadata)
	}
	return statement{text.String(), args}
}

func (mysqlDialect) declare(ctx context.Context, db *sql.DB, statements []string, table string) error {
	for _, statement := range statements {
		if _, err := db.ExecContext(ctx, statement); err != nil {
			return err
		}
	}
	var kind string
	err := db.QueryRowContext(ctx, `SELECT DATA_TYPE FROM information_schema.COLUMNS
WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = ? AND COLUMN_NAME = 'payload'`, strings.Trim(table, "`")).Scan(&kind)
	if err != nil {
		return err
	}
	if !strings.HasSuffix(kind, "blob") && !strings.HasSuffix(kind, "binary") {
		return wrongColumn(table, kind, "LONGBLOB")
	}
	return nil
}

// introduce has subscribers that begin together lock a row. Where there is none each of them locks the gap, which keeps the
// others from making it: fifty can end in deadlocks, one after the other, for minutes. The row is looked for first, because
// to insert it again would wait for the handler of a member that has it locked.
func (mysqlDialect) introduce(ctx context.Context, db *sql.DB, t tables, topic, group string) error {
	var known bool
	err := db.QueryRowContext(ctx, "SELECT EXISTS (SELECT 1 FROM "+t.offsets(topic)+" WHERE `consumer_group` = ?)", group).Scan(&known)
	if err != nil || known {
		return err
	}
	_, err = db.ExecContext(ctx, "INSERT IGNORE INTO "+t.offsets(topic)+
		" (`consumer_group`, `offset_acked`, `offset_consumed`) VALUES (?, 0, 0)", group)
	return err
}

// wrongColumn is for a table that another program made for itself.
func wrongColumn(table, kind, want string) error {
	return fmt.Errorf("table %s is there already and its column payload is %s, which does not keep all bytes: make it %s, "+
		"or choose another WithTablePrefix", table, kind, want)
}

const (
	// packetHeadroom is what a payload leaves of a packet for the rest of its statement.
	packetHeadroom = 256 << 10
	// escaping is how many times larger than itself a payload may be in the text of a statement.
	escaping = 2
)

func (mysqlDialect) learn(ctx context.Context, conn *sql.Conn) (facts, error) {
	var packet, database string
	row := rowOn(conn)
	if err := row(ctx, `SELECT @@max_allowed_packet, DATABASE()`, &packet, &database); err != nil {
		return facts{}, err
	}
	if database == "" {
		return facts{}, errors.New("no database is selected: name it in the DSN")
	}
	bytes, err := strconv.Atoi(packet)
	if err != nil {
		return facts{}, err
	}
	identity, err := sqlidentity.MySQL(ctx, row)
	return facts{identity: identity, maxPayload: max(1, (bytes-packetHeadroom)/escaping)}, err
}

func (mysqlDialect) begin(time.Duration) string { return "START TRANSACTION" }

// A subscriber of watermill-sql locks what it reads, and the gap behind it, while its messages are handled: an INSERT may
// have to wait. A server goes on waiting for a client that has gone, and keeps what that one has locked.
const (
	mysqlBound = "SET @waybill_lock_wait = @@SESSION.innodb_lock_wait_timeout, SESSION innodb_lock_wait_timeout = "
	mysqlFree  = "SET SESSION innodb_lock_wait_timeout = @waybill_lock_wait"
)

func (mysqlDialect) bound(ctx context.Context, on execer, _ bool, lockWait time.Duration) error {
	if lockWait == 0 {
		return on(ctx, mysqlFree)
	}
	return on(ctx, mysqlBound+strconv.Itoa(max(1, int(lockWait/time.Second))))
}

// The error numbers that mean something, of both servers. Anything else that a server says is a refusal of the
// transaction which says nothing about the messages.
const (
	errNoSuchTable        = 1146
	errTableAccess        = 1142
	errColumnAccess       = 1143
	errDatabaseAccess     = 1044
	errUnknownColumn      = 1054
	errNoDefault          = 1364
	errInvalidJSON        = 3140 // MySQL
	errInvalidJSONCharset = 3144 // MySQL
	errCheck              = 3819 // MySQL
	errCheckMariaDB       = 4025
	errDataTooLong        = 1406
	errIncorrectValue     = 1366
	errPacketTooLarge     = 1153
	errParameterTooLong   = 1301
	errTableFull          = 1114
	errDiskFull           = 1021
	errDeadlock           = 1213
	errWriting            = 1026
	errDuringCommit       = 1180
	errServerShutdown     = 1053
	errNormalShutdown     = 1077
	errAborting           = 1152
	errNetReadFirst       = 1158
	errNetWriteLast       = 1161
	errInterrupted        = 1317
	errConnectionKilled   = 1927 // MariaDB
	errSessionKilled      = 3169 // MySQL
)

func (mysqlDialect) classify(err error) (class, string) {
	e, ok := errors.AsType[*mysql.MySQLError](err)
	if !ok {
		if errors.Is(err, mysql.ErrPktTooLarge) {
			return unfit, "larger than the driver's maxAllowedPacket"
		}
		return lost, ""
	}
	return mysqlClass(e.Number), fmt.Sprintf("MySQL error %d", e.Number)
}

func (mysqlDialect) deadlocked(err error) bool {
	e, ok := errors.AsType[*mysql.MySQLError](err)
	return ok && e.Number == errDeadlock
}

func mysqlClass(number uint16) class {
	switch number {
	case errNoSuchTable, errTableAccess, errColumnAccess, errDatabaseAccess, errUnknownColumn, errNoDefault, errInvalidJSON,
		errInvalidJSONCharset, errCheck, errCheckMariaDB:
		return nowhere
	case errDataTooLong, errIncorrectValue, errPacketTooLarge, errParameterTooLong:
		return unfit
	case errTableFull, errDiskFull, errWriting:
		return full
	case errServerShutdown, errNormalShutdown, errAborting, errDuringCommit, errInterrupted, errConnectionKilled,
		errSessionKilled:
		return lost
	}
	if number >= errNetReadFirst && number <= errNetWriteLast {
		return lost
	}
	return stopped
}
