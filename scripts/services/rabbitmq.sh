# RabbitMQ with its management API, by which the tests make their virtual hosts.
# shellcheck shell=bash disable=SC2034,SC2086,SC2154  # names are shared between the files, and hold no blanks
service=rabbitmq

# Below 32768 for the reason given in mariadb.sh.
service_port() { echo 15720; }
rabbitmq_api_port() { echo 15721; }
rabbitmq_dist_port() { echo 15722; }
rabbitmq_epmd_port() { echo 15723; } # a name server of our own, which goes when the broker goes
service_address() { echo "127.0.0.1:$(service_port)"; }
service_variable() { echo WAYBILL_TEST_RABBITMQ; }
service_packages() { echo rabbitmq-server; }
service_user() { echo rabbitmq; }

service_env() {
	echo "WAYBILL_TEST_RABBITMQ=amqp://$service_login:$service_login@$(service_address)/"
	echo "WAYBILL_TEST_RABBITMQ_API=http://$service_login:$service_login@127.0.0.1:$(rabbitmq_api_port)"
}

# The scripts behind Debian's wrappers in /usr/sbin, which insist on /var/lib/rabbitmq.
readonly rabbitmq_programs=/usr/lib/rabbitmq/bin

service_installed() {
	[ -x $rabbitmq_programs/rabbitmq-server ] && { ! is_root || id rabbitmq >/dev/null 2>&1; }
}

service_prepare() {
	local dir
	dir=$(service_dir)
	cat >"$dir/rabbitmq.conf" <<-CONF
		listeners.tcp.default = 127.0.0.1:$(service_port)
		management.tcp.ip = 127.0.0.1
		management.tcp.port = $(rabbitmq_api_port)
		default_user = $service_login
		default_pass = $service_login
		default_user_tags.administrator = true
		log.file = $dir/broker.log
		log.console = false
	CONF
	echo '[rabbitmq_management].' >"$dir/enabled_plugins"
	: >"$dir/rabbitmq-env.conf" # nothing of a broker that this machine has anyway
}

service_start() {
	local dir
	dir=$(service_dir)
	# What is dead-lettered and finds no queue is tried again after 10 s, not three minutes.
	# RUNNING_UNDER_SYSTEMD makes the script become the server, so that the process id is the server's and TERM stops it.
	start_daemon env HOME="$dir" \
		RUNNING_UNDER_SYSTEMD=1 \
		RABBITMQ_NODENAME=waybill-services@localhost \
		RABBITMQ_CONF_ENV_FILE="$dir/rabbitmq-env.conf" \
		RABBITMQ_CONFIG_FILE="$dir/rabbitmq.conf" \
		RABBITMQ_ADVANCED_CONFIG_FILE="$dir/advanced.config" \
		RABBITMQ_ENABLED_PLUGINS_FILE="$dir/enabled_plugins" \
		RABBITMQ_MNESIA_BASE="$dir/data" \
		RABBITMQ_LOG_BASE="$dir" \
		RABBITMQ_DIST_PORT="$(rabbitmq_dist_port)" \
		RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS='-kernel inet_dist_use_interface {127,0,0,1} -rabbit dead_letter_worker_publisher_confirm_timeout 10000' \
		ERL_EPMD_ADDRESS=127.0.0.1 \
		ERL_EPMD_PORT="$(rabbitmq_epmd_port)" \
		$rabbitmq_programs/rabbitmq-server
}

service_stopped() {
	ERL_EPMD_PORT=$(rabbitmq_epmd_port) epmd -kill >/dev/null 2>&1 || true # the broker left its name server behind
}

# A broker answers its API before it has opened its listener, and after it has closed it: ask for both.
service_answers() {
	local status
	port_is_open "$(service_port)" || return
	status=$(
		exec 3<>"/dev/tcp/127.0.0.1/$(rabbitmq_api_port)"
		printf 'GET /api/whoami HTTP/1.0\r\nAuthorization: Basic %s\r\n\r\n' \
			"$(printf %s $service_login:$service_login | base64)" >&3
		head -n 1 <&3
	) 2>/dev/null
	[[ $status == *' 200 '* ]]
}
