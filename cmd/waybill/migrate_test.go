package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestMigrate_saysAppliesAndSaysAgain(t *testing.T) {
	everywhere(t, func(t *testing.T, url string) {
		status := waybill(t, url, "migrate", "status", "-o", "json")
		assert.Equal(t, exitSchema, status.code, "%v", status)
		assert.False(t, parsed[schemaReport](t, status).Usable)
		assert.NotEmpty(t, parsed[schemaReport](t, status).Problem)

		printed := waybill(t, url, "migrate", "print")
		assert.Zero(t, printed.code, "%v", printed)
		assert.Contains(t, printed.stdout, "CREATE TABLE")
		assert.Equal(t, exitSchema, waybill(t, url, "migrate", "status").code, "print has changed something")

		applied := waybill(t, url, "migrate", "apply", "-o", "json")
		require.Zero(t, applied.code, "%v", applied)
		assert.True(t, parsed[schemaReport](t, applied).Changed)
		assert.False(t, parsed[schemaReport](t, waybill(t, url, "migrate", "apply", "-o", "json")).Changed)

		status = waybill(t, url, "migrate", "status")
		assert.Zero(t, status.code, "%v", status)
		assert.Contains(t, status.stdout, "the tables are up to date")
	})
}

func TestCommands_onMissingTablesSayWhatToRun(t *testing.T) {
	everywhere(t, func(t *testing.T, url string) {
		for _, args := range [][]string{
			{"status"}, {"list"}, {"explain", "order-1"}, {"requeue", "order-1", "--why", "test"},
			{"compensate", "order-1", "--why", "test"}, {"discard", "order-1", "--why", "test"},
			{"purge", "--status", "confirmed", "--older-than", "1h", "--yes"},
			{"relay", "--broker", "nats://127.0.0.1:1"}, {"sweep", "--broker", "nats://127.0.0.1:1"},
		} {
			result := waybill(t, url, args...)
			assert.Equal(t, exitSchema, result.code, "%v: %v", args, result)
			assert.Contains(t, result.stderr, "waybill migrate apply", "%v", args)
			assert.Empty(t, result.stdout, "%v", args)
		}
	})
}

func TestSQLite_aFileThatIsNotThereIsMadeByMigrateOnly(t *testing.T) {
	path := filepath.Join(t.TempDir(), "none.db")
	for _, args := range [][]string{{"status"}, {"migrate", "status"}, {"migrate", "print"}} {
		_ = waybill(t, "sqlite:"+path, args...)
		assert.NoFileExists(t, path, "%v", args)
	}
	result := waybill(t, "sqlite:"+path, "status")
	assert.Equal(t, exitFailure, result.code)
	assert.Contains(t, result.stderr, "waybill migrate apply")
	require.Zero(t, waybill(t, "sqlite:"+path, "migrate", "apply").code)
	assert.Zero(t, waybill(t, "sqlite:"+path, "status").code)
}

func TestSQLite_parametersThatCannotBeParsedAreRefused(t *testing.T) {
	file := filepath.Join(t.TempDir(), "orders.db")
	for _, parameters := range []string{"table_prefix=shop_;synchronous=normal", "table_prefix=%zz"} {
		for _, args := range [][]string{{"status"}, {"migrate", "apply"}} {
			result := waybill(t, "sqlite:"+file+"?"+parameters, args...)
			assert.Equal(t, exitUsage, result.code, "%v", result)
			assert.Contains(t, result.stderr, "parameters that cannot be parsed")
			assert.NoFileExists(t, file, "%v", result)
		}
	}
}

func TestSQLite_anotherProgramsFileIsLeftAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "letter.txt")
	letter := []byte("Dear operator, this is no database, whatever you take it for.\n")
	require.NoError(t, os.WriteFile(path, letter, 0o600))
	assert.Equal(t, exitFailure, waybill(t, "sqlite:"+path, "migrate", "apply").code)
	left, err := os.ReadFile(path)
	require.NoError(t, err)
	assert.Equal(t, letter, left)
}
