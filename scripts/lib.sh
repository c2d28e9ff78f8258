# shellcheck shell=bash
# Sourced by the other scripts: where things are, and how a script speaks.
set -euo pipefail

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export HOME=${HOME:-$(getent passwd "$(id -u)" | cut -d: -f6)}
# The Go release that is fetched where there is none that can be used.
# shellcheck disable=SC2034 # read by the scripts that source this file
GO_RELEASE=1.26.8
# shellcheck disable=SC2034
cache=${XDG_CACHE_HOME:-$HOME/.cache}/duomesh

# note says on stderr what is being done on the reader's behalf.
note() {
	echo "duomesh: $*" >&2
}

# die MESSAGE [CODE] ends the script with one sentence.
die() {
	echo "duomesh: $1" >&2
	exit "${2:-1}"
}

have() {
	command -v "$1" >/dev/null 2>&1
}

# section NAME COMMAND… runs COMMAND under a heading, prints how long it took
# and returns its status.
section() {
	local name=$1 start=$SECONDS status=0
	shift
	echo "== $name"
	"$@" || status=$?
	echo "== $name: $([ "$status" -eq 0 ] && echo ok || echo "FAILED ($status)"), $((SECONDS - start)) s"
	return "$status"
}

# totals FILE… adds up the `total: N passed, N failed, N skipped` lines in the files.
totals() {
	awk '/^total: [0-9]+ passed, [0-9]+ failed, [0-9]+ skipped/ { p += $2; f += $4; s += $6 }
		END { printf "total: %d passed, %d failed, %d skipped\n", p, f, s }' "$@"
}

failed=()

# check NAME MEND COMMAND… runs one check of several as a section: when it fails
# it says how to mend it, and the checks after it run all the same.
check() {
	local name=$1 mend=$2
	shift 2
	if ! section "$name" "$@"; then
		note "$name failed: $mend"
		failed+=("$name")
	fi
}

# checked WHAT closes a list of checks: the script ends here when one failed.
checked() {
	[ "${#failed[@]}" -eq 0 ] || die "$1 failed: ${failed[*]}"
	echo "$1: ok"
}

cd "$repo"
