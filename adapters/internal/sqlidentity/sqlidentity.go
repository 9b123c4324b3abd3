// Package sqlidentity tells databases apart, however they were reached: by another address, through a proxy or a pool.
//
// What it promises: two connections with the same identity, if it is not empty, reach the same database of the same
// server, and look for tables in the same schemas. It does not promise the reverse: an empty one says that it cannot be
// told.
package sqlidentity

import (
	"context"
	"strings"
)

// Row reads the one row of text that a statement gives, with one destination for each column; no row leaves them as they
// are, and NULL is empty.
type Row func(ctx context.Context, statement string, columns ...*string) error

// MySQL returns the identity of a database of MySQL, where each server has a server_uuid, or MariaDB, where those of the
// newer releases have a server_uid.
func MySQL(ctx context.Context, row Row) (string, error) {
	var name, server, database string
	err := row(ctx, `SHOW GLOBAL VARIABLES WHERE Variable_name IN ('server_uuid', 'server_uid')`, &name, &server)
	if err != nil || server == "" {
		return "", err
	}
	if err := row(ctx, `SELECT DATABASE()`, &database); err != nil || database == "" {
		return "", err
	}
	return strings.Join([]string{"mysql", server, database}, "/"), nil
}

// Postgres returns the identity of a database of PostgreSQL: of the cluster, which is named when it is made, the
// database, and the schemas that names are looked up in.
func Postgres(ctx context.Context, row Row) (string, error) {
	var allowed, cluster, database, schemas string
	err := row(ctx, `SELECT has_function_privilege('pg_control_system()', 'EXECUTE')::text`, &allowed)
	if err != nil || allowed != "true" {
		return "", err
	}
	err = row(ctx, `SELECT system_identifier::text || CASE WHEN pg_is_in_recovery() THEN ' standby' ELSE '' END,
current_database()::text, array_to_string(current_schemas(false), ',') FROM pg_control_system()`, &cluster, &database, &schemas)
	if err != nil || cluster == "" || schemas == "" {
		return "", err
	}
	return strings.Join([]string{"postgres", cluster, database, schemas}, "/"), nil
}
