#!/usr/bin/env bash
# Runs a command in every Go module of this repository, the root's first, and fails if it failed in any.
#
#   scripts/each-module.sh go vet ./...
set -uo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit
failed=()
while read -r module; do
	[ "$module" = . ] || echo "== $module: $*"
	(cd "$module" && "$@") </dev/null || failed+=("$module")
done < <(find . \( -name '.?*' -o -name testdata \) -prune -o -name go.mod -printf '%h\n' | sort)

if [ ${#failed[@]} -gt 0 ]; then
	echo "failed: $* in ${failed[*]}" >&2
	exit 1
fi
