# MariaDB, which stands for MySQL as well: no statement of ours needs more than both have.
# shellcheck shell=bash disable=SC2034,SC2086,SC2154  # names are shared between the files, and hold no blanks
service=mariadb

# Ports of test services lie below 32768, where Linux begins to give ports to outgoing connections: a busy test run would
# now and then hold the very port that a server wants.
service_port() { echo 13306; }
service_address() { echo "127.0.0.1:$(service_port)"; }
service_variable() { echo WAYBILL_TEST_MARIADB; }
service_env() { echo "WAYBILL_TEST_MARIADB=$service_login:$service_login@tcp($(service_address))/"; }
service_packages() { echo mariadb-server mariadb-client; }
service_user() { echo mysql; }

service_installed() {
	command -v mariadbd mariadb-install-db mariadb >/dev/null && { ! is_root || id mysql >/dev/null 2>&1; }
}

service_prepare() {
	local dir
	dir=$(service_dir)
	# With a folder in common, a server that starts deletes the temporary tables of those that run.
	as_service_user mkdir -p "$dir/tmp"
	# What decides about durability is written out although it is the default: a test that kills the server means it.
	cat >"$dir/my.cnf" <<-CONF
		[mariadbd]
		datadir = $dir/data
		tmpdir = $dir/tmp
		socket = $dir/socket
		bind-address = 127.0.0.1
		port = $(service_port)
		init-file = $dir/init.sql
		skip-name-resolve
		max_connections = 500
		innodb_buffer_pool_size = 512M
		innodb_log_file_size = 256M
		innodb_flush_log_at_trx_commit = 1
		innodb_doublewrite = ON
	CONF
	cat >"$dir/init.sql" <<-SQL
		CREATE USER IF NOT EXISTS '$service_login'@'127.0.0.1' IDENTIFIED BY '$service_login';
		GRANT ALL PRIVILEGES ON *.* TO '$service_login'@'127.0.0.1' WITH GRANT OPTION;
	SQL
	as_service_user mariadb-install-db --no-defaults --datadir="$dir/data" --tmpdir="$dir/tmp" --skip-test-db --auth-root-authentication-method=normal
}

service_start() {
	start_daemon "$(command -v mariadbd)" --defaults-file="$(service_dir)/my.cnf"
}

service_answers() {
	mariadb --no-defaults --protocol=TCP --host=127.0.0.1 --port="$(service_port)" --connect-timeout=5 \
		--user=$service_login --password=$service_login --execute='SELECT 1' >/dev/null 2>&1
}
