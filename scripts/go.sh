#!/usr/bin/env bash
# The go command of every target: go.sh ARGUMENTS… is `go ARGUMENTS…` with a Go
# that can build this module, without cgo.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

go=$(scripts/ensure-go.sh)
export CGO_ENABLED=${CGO_ENABLED:-0}
# What is compiled in one checkout is of use in every other. Flags that go env -w has
# set stay.
GOFLAGS=$(cd / && "$go" env GOFLAGS)
case " $GOFLAGS " in
*" -trimpath"[\ =]*) ;;
*) GOFLAGS="${GOFLAGS:+$GOFLAGS }-trimpath" ;;
esac
export GOFLAGS

# older A B succeeds when release A (as 1.24.3) comes before release B.
older() {
	[ "$1" != "$2" ] && [ "$(printf '%s\n%s\n' "$1" "$2" | sort -V | head -n 1)" = "$1" ]
}

installed=$(cd / && GOTOOLCHAIN=local "$go" env GOVERSION)
wanted=$(sed -n 's/^go \([0-9.]*\)$/\1/p' go.mod)
if older "${installed#go}" "$wanted"; then
	toolchain=$(cd / && "$go" env GOTOOLCHAIN)
	case $toolchain in
	local | path)
		note "$installed is older than go.mod asks (go $wanted) and GOTOOLCHAIN=$toolchain keeps it from switching: using GOTOOLCHAIN=go$GO_RELEASE here"
		;;
	esac
	export GOTOOLCHAIN=go$GO_RELEASE
fi
# A checkout that git will not read (another owner, or no git): build without
# the commit in the binary, instead of not at all.
if ! git rev-parse HEAD >/dev/null 2>&1; then
	GOFLAGS+=" -buildvcs=false"
fi
PATH=$(dirname "$go"):$PATH
export PATH
exec "$go" "$@"
