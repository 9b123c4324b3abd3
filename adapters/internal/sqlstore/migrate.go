package sqlstore

import (
	"fmt"
	"slices"
	"strings"
)

// Migration brings the tables from one version to the next. Migrations are additive: programs that know UsableBy or
// newer go on working on the tables, so that a fleet is rolled over with old and new programs side by side.
type Migration struct {
	Version, UsableBy int
	// About says what it does, for the one who reads the printed schema.
	About string
	// Statements can be repeated: where the database commits each of them, an interrupted migration is.
	Statements []string
	// Record is the statement that records the migration, the last of all.
	Record string
}

// PrintSchema returns the migrations as a script for a DBA. The script can be run again.
func PrintSchema(migrations []Migration) string {
	var text strings.Builder
	for _, m := range migrations {
		fmt.Fprintf(&text, "-- Waybill schema version %d: %s\n\n", m.Version, m.About)
		for _, statement := range append(slices.Clip(m.Statements), m.Record) {
			text.WriteString(strings.TrimSpace(statement))
			text.WriteString(";\n\n")
		}
	}
	return text.String()
}

// Pending returns the migrations that tables of a version have not seen yet.
func Pending(migrations []Migration, version int64) []Migration {
	for i, m := range migrations {
		if int64(m.Version) > version {
			return migrations[i:]
		}
	}
	return nil
}
