package sqlbroker

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

func (mysqlDialect) delayedSchema(t tables) []string {
	return []string{"CREATE TABLE IF NOT EXISTS " + t.delayed() + " (\n" +
		"  `id` BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,\n" +
		"  `due` DATETIME(6) NOT NULL,\n" +
		"  `topic` VARBINARY(255) NOT NULL,\n" +
		"  `size` INT NOT NULL,\n" +
		"  `uuid` VARBINARY(255) NOT NULL,\n" +
		"  `payload` LONGBLOB DEFAULT NULL,\n" +
		"  `metadata` JSON DEFAULT NULL,\n" +
		"  KEY `due` (`due`)\n" +
		") ENGINE = InnoDB"}
}

func (mysqlDialect) delay(t tables, after time.Duration, fs []*flight) statement {
	const row = "(UTC_TIMESTAMP(6) + INTERVAL ? MICROSECOND,?,?,?,?,?)"
	args := make([]any, 0, 6*len(fs))
	for _, f := range fs {
		args = append(args, micros(after), f.topic, f.size, string(f.id), f.payload, f.metadata)
	}
	return statement{"INSERT INTO " + t.delayed() + " (`due`, `topic`, `size`, `uuid`, `payload`, `metadata`) VALUES " +
		strings.TrimSuffix(strings.Repeat(row+",", len(fs)), ","), args}
}

// lockDue follows the index, so that rows that are not due are not looked at, nor locked.
func (mysqlDialect) lockDue(t tables, limit int) string {
	return "SELECT `id`, `topic`, `size` FROM " + t.delayed() + " FORCE INDEX (`due`)\n" +
		"WHERE `due` <= UTC_TIMESTAMP(6) ORDER BY `due` LIMIT " + strconv.Itoa(limit) + " FOR UPDATE SKIP LOCKED"
}

func (mysqlDialect) moveDue(t tables, topic string, ids []int64) []statement {
	return []statement{takeTopic(t, topic), {"INSERT INTO " + t.messages(topic) + " (`uuid`, `payload`, `metadata`)\n" +
		"SELECT `uuid`, `payload`, `metadata` FROM " + t.delayed() + " WHERE `id` IN (" + listed(ids) + ") ORDER BY `due`, `id`", nil}}
}

func (mysqlDialect) deleteDelayed(t tables, ids []int64) statement {
	return statement{"DELETE FROM " + t.delayed() + " WHERE `id` IN (" + listed(ids) + ")", nil}
}

func (mysqlDialect) postpone(t tables, ids []int64, by time.Duration) statement {
	return statement{fmt.Sprintf("UPDATE %s SET `due` = UTC_TIMESTAMP(6) + INTERVAL %d MICROSECOND WHERE `id` IN (%s)",
		t.delayed(), micros(by), listed(ids)), nil}
}

// listed writes ids into a statement: as arguments they would cost a round trip, to prepare it, each time.
func listed(ids []int64) string {
	var text strings.Builder
	for i, id := range ids {
		if i > 0 {
			text.WriteByte(',')
		}
		text.WriteString(strconv.FormatInt(id, 10))
	}
	return text.String()
}
