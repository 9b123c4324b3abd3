# PostgreSQL.
# shellcheck shell=bash disable=SC2034,SC2086,SC2154  # names are shared between the files, and hold no blanks
service=postgres

service_port() { echo 15432; } # below 32768 for the reason given in mariadb.sh
service_address() { echo "127.0.0.1:$(service_port)"; }
service_variable() { echo WAYBILL_TEST_POSTGRES; }
service_env() { echo "WAYBILL_TEST_POSTGRES=postgres://$service_login:$service_login@$(service_address)/postgres?sslmode=disable"; }
service_packages() { echo postgresql; }
service_user() { echo postgres; }
service_stop_signal() { echo INT; } # "fast": TERM would wait for every client to leave

# Debian keeps the server's programs off the PATH, a directory for each major version; the newest is taken.
postgres_program() { # NAME
	local newest
	newest=$(printf '%s\n' /usr/lib/postgresql/*/bin/"$1" | sort -V | tail -n 1)
	if [ -x "$newest" ]; then echo "$newest"; else command -v "$1"; fi
}

service_installed() {
	postgres_program postgres >/dev/null && postgres_program initdb >/dev/null &&
		postgres_program psql >/dev/null && { ! is_root || id postgres >/dev/null 2>&1; }
}

service_prepare() {
	local dir
	dir=$(service_dir)
	echo $service_login >"$dir/password"
	as_service_user "$(postgres_program initdb)" --pgdata="$dir/data" --username=$service_login --pwfile="$dir/password" \
		--auth=scram-sha-256 --encoding=UTF8 --locale=C.UTF-8 &&
		# What decides about durability is written out although it is the default: a test that kills the server means it.
		cat >>"$dir/data/postgresql.conf" <<-CONF
			listen_addresses = '127.0.0.1'
			port = $(service_port)
			unix_socket_directories = '$dir'
			max_connections = 500
			shared_buffers = 256MB
			fsync = on
			full_page_writes = on
			synchronous_commit = on
		CONF
}

service_start() {
	local lock pid
	lock=$(service_dir)/data/postmaster.pid
	# A server that was killed leaves its lock, and refuses to start while any process has the number in it: another one by
	# now, or its own that nobody has collected yet.
	if [ -r "$lock" ] && read -r pid <"$lock" && ! tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline" | grep -qF "$(service_dir)"; then
		rm -f "$lock"
		sleep 2 # its backends hold its shared memory until they notice that it is gone
	fi
	start_daemon "$(postgres_program postgres)" -D "$(service_dir)/data"
}

service_answers() {
	PGPASSWORD=$service_login PGCONNECT_TIMEOUT=5 "$(postgres_program psql)" --no-psqlrc --no-password --quiet \
		--host=127.0.0.1 --port="$(service_port)" --username=$service_login --dbname=postgres --command='SELECT 1' >/dev/null 2>&1
}
