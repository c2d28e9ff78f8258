# shellcheck shell=bash
# Sourced by other scripts: programs of others, built from the modules in tools/ into
# the cache. A build that is interrupted goes on where it stopped: what is compiled
# stays in Go's own cache, and a program that is whole is not built again.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

kubernetes=v1.34.4 # as in tools/kubernetes/go.mod

# place MODULE is where the programs of a tools module are kept: a directory of
# its own for each state of its go.sum.
place() {
	local sum
	sum=$(cat "tools/$1/go.mod" "tools/$1/go.sum" | sha256sum)
	echo "$cache/$1/${sum:0:16}"
}

version_flags() {
	local p flags="-s -w"
	for p in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
		flags+=" -X $p.gitVersion=$kubernetes -X $p.gitMajor=1 -X $p.gitMinor=34"
		flags+=" -X $p.gitTreeState=clean -X $p.gitCommit=0000000000000000000000000000000000000000"
		flags+=" -X $p.buildDate=2026-01-01T00:00:00Z"
	done
	echo "$flags"
}

# program VARIABLE NAME MODULE PACKAGE TAGS LDFLAGS builds a program unless the
# variable, which may be empty, names one.
program() {
	local variable=$1 name=$2 module=$3 package=$4 tags=$5 ldflags=$6 to start=$SECONDS
	if [ -n "$variable" ] && [ -n "${!variable:-}" ]; then
		[ -x "${!variable}" ] || die "$variable=${!variable} is no program" 2
		found+=("$variable=${!variable}")
		return
	fi
	to=$(place "$module")/$name
	found+=("$variable=$to")
	[ -x "$to" ] && return
	mkdir -p "$(dirname "$to")"
	note "building $name from tools/$module; the first time this takes minutes"
	scripts/go.sh -C "tools/$module" build -trimpath -tags "$tags" -ldflags "$ldflags" -o "$to.part" "$package" ||
		die "$name could not be built from tools/$module"
	mv "$to.part" "$to"
	note "built $name in $((SECONDS - start)) s: $to"
}

# found collects VARIABLE=PATH of each program.
found=()
