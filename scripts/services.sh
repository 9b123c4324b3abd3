#!/usr/bin/env bash
# Starts, stops and describes the servers that Waybill's tests talk to.
#
#   scripts/services.sh up [SERVICE...]      install what is missing, start what is down, wait until it answers
#   scripts/services.sh down [SERVICE...]    stop what "up" started, and nothing else
#   scripts/services.sh status [SERVICE...]  say what is up; exit 1 when something is down
#   scripts/services.sh env                  the variables that tell the tests where the servers are
#
# Each file services/SERVICE.sh is one service; services/lib.sh says what one must define. All listen on loopback only, on
# ports of their own, so a server that you already run is left alone. Everything they keep is under
# WAYBILL_SERVICES_DIR (default /tmp/waybill-services), which may be deleted once they are down.
#
# Where a variable that "env" prints is set already, that server is yours: it is neither installed, started nor stopped.
set -euo pipefail

scripts_dir=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=services/lib.sh
. "$scripts_dir/services/lib.sh"

usage() {
	sed -n '2,/^set -/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" >&2
	exit 2
}

all_services() {
	local file
	for file in "$scripts_dir"/services/*.sh; do
		file=$(basename "$file" .sh)
		[ "$file" = lib ] || echo "$file"
	done
}

# each runs a function of a service in a subshell of its own, so that services can't see each other's names.
each() { # SERVICE FUNCTION
	(
		# shellcheck source=/dev/null
		. "$scripts_dir/services/$1.sh"
		"$2"
	)
}

up() {
	local service packages missing=() names=()
	for service in "$@"; do
		if each "$service" service_is_foreign; then
			say "$service: using yours ($(each "$service" service_variable) is set)"
			continue
		fi
		names+=("$service")
		if ! each "$service" service_installed; then
			read -r -a packages <<<"$(each "$service" service_packages)"
			missing+=("${packages[@]}")
		fi
	done
	[ ${#missing[@]} -eq 0 ] || install_packages "${missing[@]}"
	for_all service_up "${names[@]}"
}

down() {
	local service names=()
	for service in "$@"; do
		each "$service" service_is_foreign || names+=("$service")
	done
	for_all service_down "${names[@]}"
}

# for_all runs a function of several services at the same time, and fails if one of them failed.
for_all() { # FUNCTION SERVICE...
	local function=$1 service pid pids=() failed=0
	shift
	for service in "$@"; do
		each "$service" "$function" &
		pids+=($!)
	done
	for pid in "${pids[@]}"; do
		wait "$pid" || failed=1
	done
	return $failed
}

command=${1:-}
shift || true
for service in "$@"; do
	[ -f "$scripts_dir/services/$service.sh" ] || die "no service $service: there are $(all_services | xargs)"
done
if [ $# -eq 0 ]; then
	mapfile -t wanted < <(all_services)
else
	wanted=("$@")
fi

case $command in
up | down)
	prepare_state_dir
	# One at a time: two terminals, or a test run beside a terminal, may ask at once. The lock's descriptor must not
	# reach a server, which would hold it for as long as it runs: lib.sh closes it there.
	exec {lock_fd}>"$state_dir/lock"
	flock "$lock_fd"
	;;
esac

case $command in
up) up "${wanted[@]}" ;;
down) down "${wanted[@]}" ;;
status) for_all service_status "${wanted[@]}" ;;
env) for service in "${wanted[@]}"; do each "$service" service_env; done ;;
*) usage ;;
esac
