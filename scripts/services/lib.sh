# Shared by the services beside this file; sourced, never run. A service file defines:
#
#   service            its name, which is also the name of the file
#   service_port       prints the port that clients connect to
#   service_variable   prints the variable that says where the server is
#   service_env        prints NAME=value for each variable that the tests read
#   service_packages   prints the Debian packages that it needs
#   service_installed  succeeds when its programs are there
#   service_user       prints the account that the server runs as when we are root
#   service_fetch      fetches what no package brings, unless it is there; most need nothing
#   service_prepare    makes its data directory; called once, as root or as the only user there is
#   service_start      starts the server with start_daemon
#   service_answers    succeeds when a client would be served
#   service_address    prints where it listens, for people
#
# and gets from here: service_up, service_down, service_status and service_is_foreign.
# shellcheck shell=bash disable=SC2034,SC2154  # names are shared between the files

state_dir=${WAYBILL_SERVICES_DIR:-/tmp/waybill-services}

# The account and password on every service. They guard nothing: the servers listen on loopback and hold test data.
readonly service_login=waybill

say() { echo "services: $*" >&2; }

die() {
	say "$*"
	exit 1
}

prepare_state_dir() {
	mkdir -p "$state_dir"
	# The directory's name can be guessed, so one that somebody else made is not to be trusted.
	[ -O "$state_dir" ] || die "$state_dir belongs to another user: set WAYBILL_SERVICES_DIR to a directory of your own"
	chmod 755 "$state_dir"
}

is_root() { [ "$(id -u)" -eq 0 ]; }

install_packages() {
	is_root || die "missing: $*: install them, or run this as root, or start the servers of compose.yaml, or name your own" \
		"servers in the variables that 'scripts/services.sh env' prints"
	command -v apt-get >/dev/null || die "missing: $*, and there is no apt-get here: start the servers of compose.yaml, or" \
		"name your own servers in the variables that 'scripts/services.sh env' prints"
	say "installing $*"
	(
		# Debian starts a server as soon as it is installed, and again at each boot. Ours are started by us alone.
		policy=/usr/sbin/policy-rc.d
		if [ ! -e $policy ]; then
			trap 'rm -f $policy' EXIT
			printf '#!/bin/sh\nexit 101\n' >$policy
			chmod 755 $policy
		fi
		export DEBIAN_FRONTEND=noninteractive
		log=$state_dir/install.log
		if ! { apt-get update -q && apt-get install -q -y --no-install-recommends "$@"; } </dev/null >"$log" 2>&1; then
			tail -n 20 "$log" >&2
			die "installing $* failed: see $log"
		fi
		if [ -d /run/systemd/system ]; then
			systemctl disable -q "$@" >>"$log" 2>&1 || true # not every package has a unit of its own name
		fi
	)
}

service_dir() { echo "$state_dir/$service"; }

service_is_foreign() {
	local variable
	variable=$(service_variable)
	[ -n "${!variable:-}" ]
}

# as_service_user runs a command as the account of the service; servers refuse to run as root.
as_service_user() {
	if is_root; then
		local user
		user=$(service_user)
		setpriv --reuid="$user" --regid="$(id -g "$user")" --init-groups -- "$@"
	else
		"$@"
	fi
}

# start_daemon runs a server in a session of its own, free of our terminal, our input and our lock.
start_daemon() { # COMMAND...
	local dir
	dir=$(service_dir)
	(
		exec </dev/null >>"$dir/log" 2>&1 {lock_fd}>&-
		cd "$dir" || exit
		if is_root; then
			user=$(service_user)
			exec setsid setpriv --reuid="$user" --regid="$(id -g "$user")" --init-groups -- "$@"
		fi
		exec setsid "$@"
	) &
	echo $! >"$dir/pid"
}

# service_pid prints the server's process id, if that process is still the one that we started.
service_pid() {
	local dir pid
	dir=$(service_dir)
	[ -r "$dir/pid" ] || return 1
	pid=$(<"$dir/pid")
	# A process id is used again after a reboot: ours has its directory on the command line.
	tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline" | grep -qF "$dir" || return 1
	echo "$pid"
}

service_up() {
	local dir pid deadline
	dir=$(service_dir)
	if pid=$(service_pid) && service_answers; then
		say "$service: up at $(service_address)"
		return
	fi
	if [ -z "$pid" ]; then
		if service_answers || port_is_open "$(service_port)"; then
			say "$service: port $(service_port) is taken by another program: stop it, or set $(service_variable) to a server of yours"
			return 1
		fi
		if ! service_fetch >"$state_dir/$service-fetch.log"; then
			tail -n 20 "$state_dir/$service-fetch.log" >&2
			say "$service: cannot be fetched: see $state_dir/$service-fetch.log"
			return 1
		fi
		if [ ! -e "$dir/prepared" ]; then
			rm -rf "$dir"
			mkdir -p "$dir/data"
			if is_root; then chown -R "$(service_user):" "$dir"; fi
			if ! service_prepare >"$dir/prepare.log" 2>&1; then
				tail -n 20 "$dir/prepare.log" >&2
				say "$service: cannot be prepared: see $dir/prepare.log"
				return 1
			fi
			touch "$dir/prepared"
		fi
		service_start
		pid=$(<"$dir/pid")
	fi
	deadline=$((SECONDS + 120))
	until service_answers; do
		if ! kill -0 "$pid" 2>/dev/null || [ $SECONDS -ge $deadline ]; then
			tail -n 20 "$dir/log" >&2
			say "$service: does not answer: see $dir/log"
			return 1
		fi
		sleep 0.1
	done
	say "$service: started at $(service_address)"
}

service_down() {
	local pid deadline
	if ! pid=$(service_pid); then
		say "$service: not running"
		return
	fi
	kill -"$(service_stop_signal)" "$pid"
	deadline=$((SECONDS + 60))
	while kill -0 "$pid" 2>/dev/null; do
		if [ $SECONDS -ge $deadline ]; then
			say "$service: does not stop: killing process $pid"
			kill -KILL "$pid"
			break
		fi
		sleep 0.1
	done
	service_stopped
	rm -f "$(service_dir)/pid"
	say "$service: stopped"
}

service_status() {
	if service_answers; then
		say "$service: up at $(service_address)"
	else
		say "$service: down"
		return 1
	fi
}

# What most services do; a service file may say otherwise.
service_fetch() { :; }
service_stop_signal() { echo TERM; }
service_stopped() { :; }

port_is_open() { # PORT
	(exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null
}
